//! A Redis of a test's own.

use std::{os::unix::net::UnixStream, path::PathBuf, process::Command, sync::Arc, time::Duration};

use super::{Process, Scratch, until};

#[derive(Debug)]
pub struct Redis {
    scratch: Scratch,
    process: Arc<Process>,
}

impl Redis {
    pub async fn start() -> Self {
        let scratch = Scratch::new("redis");
        let process = Self::launch(&scratch);
        let redis = Self { scratch, process };
        redis.listens().await;
        redis
    }

    fn launch(scratch: &Scratch) -> Arc<Process> {
        let socket = scratch.path().join("s");
        drop(std::fs::remove_file(&socket));
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--appendonly", "no", "--daemonize", "no"]);
        command.arg("--unixsocket").arg(socket).arg("--dir").arg(scratch.path());
        Process::start("redis-server", &command)
    }

    fn socket(&self) -> PathBuf {
        self.scratch.path().join("s")
    }

    async fn listens(&self) {
        until("Redis listens", Duration::from_secs(20), async || UnixStream::connect(self.socket()).is_ok().then_some(())).await;
    }

    pub fn url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    /// SIGKILL. What it knew is gone.
    pub fn kill(&self) {
        self.process.kill();
    }

    /// In the same place, knowing nothing.
    pub async fn again(&mut self) {
        self.process = Self::launch(&self.scratch);
        self.listens().await;
    }
}
