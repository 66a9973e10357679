//! A running `tollgate up`.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use rustix::process::Signal;
use serde_json::Value;
use tokio::sync::OnceCell;

use super::{
    Admin, Mcp,
    process::{Process, binary, until},
};

/// A first start makes a database; beside other tests on a small machine that takes its time.
const START: Duration = Duration::from_secs(90);
const STOP: Duration = Duration::from_secs(40);

#[derive(Debug, Clone)]
pub struct Tollgate {
    pub api_url: String,
    pub gateway_url: String,
    pub admin_token: String,
    /// As it stands in the file.
    pub ready: Value,
    pub data_dir: PathBuf,
    pub process: Arc<Process>,
    /// Removed when the last handle is dropped.
    scratch: Arc<Scratch>,
    options: Options,
}

/// How to start one.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Instead of a new one that is removed afterwards.
    pub data_dir: Option<PathBuf>,
    /// `demo` or `none`; none when left out.
    pub seed: Option<String>,
    /// Appended to the settings file, which lists the test peers as programs already.
    pub config: String,
    pub env: BTreeMap<String, String>,
    /// Further flags of `tollgate up`.
    pub args: Vec<String>,
    /// Ports; free ones when left out. A test that restarts a process behind clients needs the same again.
    pub api: Option<String>,
    pub gateway: Option<String>,
}

static SHARED: OnceCell<Tollgate> = OnceCell::const_new();

impl Tollgate {
    /// The one that most tests share. It ends with the test binary.
    pub async fn shared() -> &'static Self {
        SHARED
            .get_or_init(|| async {
                let tollgate = Self::start(Options::default()).await;
                remove_afterwards(tollgate.scratch.path(), tollgate.process.pid());
                tollgate
            })
            .await
    }

    /// One of the test's own. It is stopped when the last handle is dropped.
    pub async fn start(options: Options) -> Self {
        match Self::try_start(options).await {
            Ok(tollgate) => tollgate,
            Err(process) => panic!("tollgate up failed:\n{}", process.output()),
        }
    }

    /// Or the process that ended before it served.
    pub async fn try_start(options: Options) -> Result<Self, Arc<Process>> {
        let scratch = Arc::new(Scratch::new("up"));
        let (process, data_dir) = Self::launch(&options, scratch.path());
        let ready_file = data_dir.join("ready.json");
        let ready = until("tollgate up is ready", START, || async {
            if process.exited().is_some() {
                return Some(None);
            }
            let text = fs::read_to_string(&ready_file).ok()?;
            let ready: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("ready.json: {error} in {text}"));
            // The file of the process before, until this one removes it.
            (ready["pid"] == process.pid()).then_some(Some(ready))
        });
        let Some(ready) = ready.await else {
            process.wait(Duration::from_secs(1));
            return Err(process);
        };
        let text = |field: &str| ready[field].as_str().unwrap_or_else(|| panic!("no {field} in {ready}")).to_owned();
        Ok(Self {
            api_url: text("api_url"),
            gateway_url: text("gateway_url"),
            admin_token: text("admin_token"),
            data_dir,
            process,
            scratch,
            options,
            ready: ready.clone(),
        })
    }

    /// Start the process without waiting for anything.
    pub fn launch(options: &Options, scratch: &Path) -> (Arc<Process>, PathBuf) {
        let data_dir = options.data_dir.clone().unwrap_or_else(|| scratch.join("data"));
        let config = write_config(scratch, &options.config);
        let free = || "127.0.0.1:0".to_owned();
        let mut command = clean_command(&binary("tollgate"));
        command.arg("up").arg("--data-dir").arg(&data_dir);
        command.args(["--api", &options.api.clone().unwrap_or_else(free)]);
        command.args(["--gateway", &options.gateway.clone().unwrap_or_else(free)]);
        command.args(["--seed", options.seed.as_deref().unwrap_or("none")]);
        command.arg("--config").arg(config).args(&options.args).envs(&options.env);
        (Process::start("tollgate up", &command), data_dir)
    }

    pub fn admin(&self) -> Admin {
        Admin::new(&self.api_url, &self.admin_token)
    }

    pub fn mcp(&self, secret: &str) -> Mcp {
        Mcp::new(&self.gateway_url, secret)
    }

    /// Ask it to end, and wait until it has.
    pub fn stop(&self) -> std::process::ExitStatus {
        self.process.signal(Signal::TERM);
        self.process.wait(STOP)
    }

    /// The same data directory and the same ports, in a new process. The old one must have ended.
    pub async fn restart(&self) -> Self {
        self.restart_with(|_| ()).await
    }

    /// [`Self::restart`] with other options.
    pub async fn restart_with(&self, change: impl FnOnce(&mut Options)) -> Self {
        let authority = |url: &str| Some(url.trim_start_matches("http://").to_owned());
        let mut options = Options {
            data_dir: Some(self.data_dir.clone()),
            api: authority(&self.api_url),
            gateway: authority(&self.gateway_url),
            ..self.options.clone()
        };
        change(&mut options);
        let mut next = Self::start(options).await;
        // The data lie in the first one's directory.
        let own = std::mem::replace(&mut next.scratch, Arc::clone(&self.scratch));
        next.scratch.adopt(own);
        next
    }

    /// Where its own Postgres listens, as a URL.
    pub fn database_url(&self) -> String {
        let socket = self.data_dir.join("run");
        format!("postgres:///tollgate?host={}&user=tollgate", socket.display())
    }

    /// The process id of its own Postgres.
    pub fn postgres_pid(&self) -> i32 {
        let file = self.data_dir.join("postgres/postmaster.pid");
        let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        text.lines().next().and_then(|line| line.trim().parse().ok()).expect("a process id")
    }

    /// The folder of the settings file; the file server serves `files` in it.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }
}

/// A command that sees none of the caller's settings for Tollgate or for its database.
pub fn clean_command(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("TOLLGATE_") || text.starts_with("PG") || text == "DATABASE_URL" || text == "REDIS_URL" {
            command.env_remove(&name);
        }
    }
    command
}

/// The settings file: the real MCP servers as programs, then what the test adds.
fn write_config(dir: &Path, more: &str) -> PathBuf {
    let path = dir.join("tollgate.toml");
    let programs = super::peers::programs(dir);
    let exports = dir.join("exports");
    fs::create_dir_all(&exports).expect("a folder for exports");
    let destination = format!("[[audit.destination]]\nname = 'lake'\nurl = 'file://{}'\n", exports.display());
    fs::write(&path, format!("{more}\n{programs}\n{destination}")).expect("the settings file");
    path
}

/// A directory that others may pass through, because Postgres runs as another user when root tests. Removed on drop.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    also: std::sync::Mutex<Vec<Arc<Scratch>>>,
}

static COUNT: AtomicU32 = AtomicU32::new(0);

impl Scratch {
    pub fn new(name: &str) -> Self {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        if count == 0 {
            sweep();
        }
        // Short: a socket's path has at most 108 bytes.
        let path = std::env::temp_dir().join(format!("tollgate-e2e.{}.{count}.{name}", std::process::id()));
        fs::create_dir(&path).expect("a directory");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o711)).expect("its mode");
        Self { path, also: std::sync::Mutex::default() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn adopt(&self, other: Arc<Scratch>) {
        self.also.lock().expect("lock").push(other);
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.path));
    }
}

/// What is shared is never dropped. A shell that sees the end of this process removes its directory once `pid` has ended.
fn remove_afterwards(path: &Path, pid: u32) {
    let script = "cat; while kill -0 $1 2>/dev/null; do sleep 0.2; done; rm -rf \"$2\"";
    let mut shell = Command::new("sh");
    shell.args(["-c", script, "sh"]).arg(pid.to_string()).arg(path);
    shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    // Its input stays open as long as we live.
    std::mem::forget(shell.spawn().expect("sh").stdin.take());
}

/// Directories of runs that were killed.
fn sweep() {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix("tollgate-e2e.").and_then(|rest| rest.split('.').next()?.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            drop(fs::remove_dir_all(entry.path()));
        }
    }
}
