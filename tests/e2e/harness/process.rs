//! Programs that the tests start. None outlives the test binary, however that ends.

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, LazyLock, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// The repository.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository").to_owned()
}

/// A program of ours, from the profile that this test was built with.
pub fn binary(name: &str) -> PathBuf {
    let chosen = std::env::var_os("TOLLGATE_BIN").map(PathBuf::from);
    let path = match (name, chosen) {
        ("tollgate", Some(path)) => path,
        // target/<profile>/deps/e2e-<hash>
        _ => std::env::current_exe()
            .ok()
            .and_then(|me| Some(me.parent()?.parent()?.join(name)))
            .expect("the test binary lies in target/<profile>/deps"),
    };
    assert!(path.exists(), "{} is missing: run `make build` first (or set TOLLGATE_BIN)", path.display());
    path
}

/// The interpreter with `mcp` and `fastmcp`.
pub fn python() -> PathBuf {
    peer_file("venv/bin/python")
}

/// A file that `tests/peers/install.sh` installs.
pub fn peer_file(name: &str) -> PathBuf {
    let path = root().join(".peers").join(name);
    assert!(path.exists(), "{} is missing: run `tests/peers/install.sh` first", path.display());
    path
}

/// A running program with its output kept. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    pub name: String,
    child: Mutex<Child>,
    output: Arc<Mutex<Vec<String>>>,
    readers: Mutex<Vec<thread::JoinHandle<()>>>,
}

impl Process {
    /// Start `command`. The kernel sends it SIGTERM when this test binary ends.
    pub fn start(name: &str, command: &Command) -> Arc<Self> {
        let mut guarded = Command::new("setpriv");
        guarded.args(["--pdeathsig", "TERM", "--"]).arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => guarded.env(key, value),
                None => guarded.env_remove(key),
            };
        }
        if let Some(dir) = command.get_current_dir() {
            guarded.current_dir(dir);
        }
        guarded.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = spawn(guarded).unwrap_or_else(|error| panic!("{name} cannot be started: {error}"));
        let output = Arc::new(Mutex::new(Vec::new()));
        let out = child.stdout.take().map(|s| keep(s, Arc::clone(&output)));
        let err = child.stderr.take().map(|s| keep(s, Arc::clone(&output)));
        let readers = Mutex::new(out.into_iter().chain(err).collect());
        Arc::new(Self { name: name.to_owned(), child: Mutex::new(child), output, readers })
    }

    pub fn pid(&self) -> u32 {
        self.child.lock().expect("lock").id()
    }

    pub fn signal(&self, signal: Signal) {
        let mut child = self.child.lock().expect("lock");
        if child.try_wait().expect("wait").is_none() {
            kill_process(Pid::from_child(&child), signal).expect("a signal");
        }
    }

    /// SIGKILL, and wait until it is gone.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
        self.wait(Duration::from_secs(10));
    }

    pub fn exited(&self) -> Option<ExitStatus> {
        self.child.lock().expect("lock").try_wait().expect("wait")
    }

    /// Wait for the end; panics with the output when it does not come.
    pub fn wait(&self, limit: Duration) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.exited() {
                for reader in self.readers.lock().expect("lock").drain(..) {
                    // A grandchild may hold the pipe open; what it says is not waited for.
                    let end = Instant::now() + Duration::from_millis(500);
                    while !reader.is_finished() && Instant::now() < end {
                        thread::sleep(Duration::from_millis(5));
                    }
                }
                return status;
            }
            assert!(start.elapsed() < limit, "{} did not end within {limit:?}:\n{}", self.name, self.output());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Everything that it wrote so far, standard output and error together.
    pub fn output(&self) -> String {
        self.output.lock().expect("lock").join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let mut child = self.child.lock().expect("lock");
        drop(child.kill());
        drop(child.wait());
    }
}

fn keep(from: impl std::io::Read + Send + 'static, to: Arc<Mutex<Vec<String>>>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            to.lock().expect("lock").push(line);
        }
    })
}

type Wish = (Command, mpsc::Sender<std::io::Result<Child>>);

/// The parent-death signal follows the *thread* that spawned, and a test's thread ends with the test: all children are
/// started by this one, which ends with the process.
static SPAWNER: LazyLock<Mutex<mpsc::Sender<Wish>>> = LazyLock::new(|| {
    let (to, wishes) = mpsc::channel::<Wish>();
    thread::Builder::new()
        .name("spawner".to_owned())
        .spawn(move || {
            for (mut command, answer) in wishes {
                drop(answer.send(command.spawn()));
            }
        })
        .expect("a thread");
    Mutex::new(to)
});

fn spawn(command: Command) -> std::io::Result<Child> {
    let (to, answer) = mpsc::channel();
    SPAWNER.lock().expect("lock").send((command, to)).expect("the spawner");
    answer.recv().expect("the spawner answers")
}

/// Ask again until there is an answer; panics with `what` after `limit`.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, limit: Duration, mut ask: impl FnMut() -> F) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(start.elapsed() < limit, "still waiting after {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}
