//! A Redis of a test's own, on a socket in a temporary directory.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Ends with the test, however that ends: the shell between them hears of it.
pub struct Redis {
    dir: PathBuf,
    shell: Option<Child>,
}

const SCRIPT: &str =
    "redis-server --port 0 --unixsocket \"$1/s\" --dir \"$1\" --daemonize no --save '' --appendonly no >/dev/null &
    pid=$!; echo $pid > \"$1/pid\"; cat; kill -9 $pid; rm -rf \"$1\"";

impl Redis {
    pub fn start() -> Self {
        let dir = std::env::temp_dir().join(format!("tollgate-redis.{}", uuid::Uuid::new_v4().simple()));
        let mut redis = Self { dir, shell: None };
        redis.run();
        redis
    }

    /// Start it, empty, where it is not running.
    pub fn run(&mut self) {
        std::fs::create_dir_all(&self.dir).unwrap();
        let mut shell = Command::new("sh");
        shell.args(["-c", SCRIPT, "sh"]).arg(&self.dir).stdin(Stdio::piped()).stdout(Stdio::null());
        self.shell = Some(shell.spawn().unwrap());
        let began = Instant::now();
        while std::os::unix::net::UnixStream::connect(self.dir.join("s")).is_err() {
            assert!(began.elapsed() < Duration::from_secs(20), "no Redis: `deploy/deps.sh redis` installs one");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn url(&self) -> String {
        format!("redis+unix://{}/s", self.dir.display())
    }

    pub fn pid(&self) -> u32 {
        std::fs::read_to_string(self.dir.join("pid")).unwrap().trim().parse().unwrap()
    }

    /// SIGKILL. What it knew is gone.
    pub fn kill(&mut self) {
        if let Some(mut shell) = self.shell.take() {
            drop(shell.stdin.take());
            shell.wait().unwrap();
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}
