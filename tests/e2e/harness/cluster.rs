//! A Postgres of a test's own on a disk of its own: small, so that it can be filled.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use sqlx::{Connection, PgConnection};

use super::{Process, Scratch, until};

const SETTINGS: [&str; 9] = [
    "listen_addresses=",
    "fsync=on",
    "max_connections=100",
    "shared_buffers=32MB",
    "min_wal_size=4MB",
    "max_wal_size=32MB",
    "checkpoint_timeout=30s",
    "timezone=UTC",
    "log_min_messages=warning",
];

#[derive(Debug)]
pub struct Cluster {
    scratch: Scratch,
    disk: PathBuf,
    bin: PathBuf,
    server: Option<Arc<Process>>,
}

impl Cluster {
    /// A new cluster on a tmpfs of so many MiB, started.
    pub async fn start(mib: u64) -> Self {
        let scratch = Scratch::new("pg");
        let disk = scratch.path().join("disk");
        fs::create_dir(&disk).expect("a directory");
        let options = format!("size={mib}m,mode=0755");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tollgate-tests"]).arg(&disk).output();
        let mounted = mounted.expect("mount");
        assert!(
            mounted.status.success(),
            "this test fills a disk and mounts a small tmpfs for it, which takes root with CAP_SYS_ADMIN (in a container: \
             --cap-add SYS_ADMIN): {}",
            String::from_utf8_lossy(&mounted.stderr)
        );
        let mut cluster = Self { disk, bin: binaries(), scratch, server: None };
        let sockets = cluster.sockets();
        fs::create_dir(&sockets).expect("a directory");
        let owner = account();
        for place in [&cluster.disk, &sockets] {
            assert!(Command::new("chown").arg(owner).arg(place).status().expect("chown").success());
        }
        let mut initdb = cluster.command("initdb");
        initdb.arg("-D").arg(cluster.data()).args(["-U", "tollgate", "-A", "trust", "--no-sync", "--wal-segsize=1"]);
        let made = initdb.output().expect("initdb");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        cluster.run().await;
        let mut connection = PgConnection::connect(&cluster.url_of("postgres")).await.expect("the server");
        sqlx::query("CREATE DATABASE tollgate").execute(&mut connection).await.expect("a database");
        cluster
    }

    fn data(&self) -> PathBuf {
        self.disk.join("data")
    }

    /// Not on the small disk: a full one must not keep a server from listening.
    fn sockets(&self) -> PathBuf {
        self.scratch.path().join("run")
    }

    pub fn url(&self) -> String {
        self.url_of("tollgate")
    }

    fn url_of(&self, database: &str) -> String {
        format!("postgres:///{database}?host={}&user=tollgate&sslmode=disable", self.sockets().display())
    }

    /// As the unprivileged user. Whatever ends this test binary ends the program in order.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", account(), "--regid", account(), "--clear-groups", "--pdeathsig", "INT", "--"]);
        command.arg(self.bin.join(program)).env("LC_ALL", "C").current_dir(self.scratch.path());
        command
    }

    /// Start the server, and return when it takes connections. One that cannot start yet is started again.
    pub async fn run(&mut self) {
        self.try_run(Duration::from_secs(60)).await;
    }

    async fn try_run(&mut self, limit: Duration) {
        let url = self.url_of("postgres");
        let begin = std::time::Instant::now();
        loop {
            if self.server.as_ref().is_none_or(|server| server.exited().is_some()) {
                // Of one that was killed.
                drop(fs::remove_file(self.data().join("postmaster.pid")));
                let mut command = self.command("postgres");
                command.arg("-D").arg(self.data()).arg("-k").arg(self.sockets());
                for setting in SETTINGS {
                    command.args(["-c", setting]);
                }
                self.server = Some(Process::start("postgres", &command));
            }
            if let Ok(connection) = PgConnection::connect(&url).await {
                return drop(connection.close().await);
            }
            let output = || self.server.as_ref().map(|server| server.output()).unwrap_or_default();
            assert!(begin.elapsed() < limit, "Postgres does not start:\n{}", output());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// SIGKILL for the postmaster and all its children.
    pub async fn kill(&mut self) {
        let Some(server) = self.server.take() else { return };
        let postmaster = i32::try_from(server.pid()).expect("a process id");
        let children = fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children")).unwrap_or_default();
        let children: Vec<i32> = children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
        server.kill();
        let alive = |pid: i32| Path::new("/proc").join(pid.to_string()).join("cwd").read_link().is_ok();
        for pid in &children {
            // One of them may have ended meanwhile.
            let _ = kill_process(Pid::from_raw(*pid).expect("a process id"), Signal::KILL);
        }
        until("its children are gone", Duration::from_secs(10), async || (!children.iter().any(|pid| alive(*pid))).then_some(()))
            .await;
    }

    /// A fast and clean shutdown.
    pub fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.signal(Signal::INT);
            server.wait(Duration::from_secs(60));
        }
    }

    /// Whether the server has ended by itself.
    pub fn has_ended(&self) -> bool {
        self.server.as_ref().is_none_or(|server| server.exited().is_some())
    }

    /// Take all that is left of the disk. Called again it takes what was freed meanwhile.
    pub fn fill(&self) {
        let mut file = fs::OpenOptions::new().append(true).create(true).open(self.ballast()).expect("a file");
        let block = vec![0; 64 << 10];
        // Blocks, then single pages, until there is no room.
        for size in [block.len(), 4096] {
            while file.write_all(&block[..size]).is_ok() {}
        }
    }

    pub fn free(&self) {
        drop(fs::remove_file(self.ballast()));
    }

    fn ballast(&self) -> PathBuf {
        self.disk.join("ballast")
    }

    /// What the servers said that ran last.
    pub fn output(&self) -> String {
        self.server.as_ref().map(|server| server.output()).unwrap_or_default()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.signal(Signal::QUIT);
            server.wait(Duration::from_secs(20));
        }
        // Lazily: whoever still holds a file of it keeps it to itself.
        drop(Command::new("umount").arg("-l").arg(&self.disk).status());
    }
}

/// The account that Postgres runs as: it refuses to run as root.
fn account() -> &'static str {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    if passwd.lines().any(|line| line.starts_with("postgres:")) { "postgres" } else { "nobody" }
}

/// Where the newest server's programs lie.
fn binaries() -> PathBuf {
    let installed = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<(u32, PathBuf)> = installed
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(_, bin)| bin.join("initdb").exists())
        .collect();
    versions.sort();
    let elsewhere = || std::env::split_paths(&std::env::var_os("PATH")?).find(|folder| folder.join("initdb").exists());
    versions.pop().map(|(_, bin)| bin).or_else(elsewhere).expect("Postgres: run `make deps` first")
}
