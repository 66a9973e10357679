//! The processes that are measured: started, waited for, weighed, and ended with this one.

use std::{
    ffi::OsStr,
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStdout, Command},
};

/// A first start makes a database.
const START: Duration = Duration::from_secs(90);
const STOP: Duration = Duration::from_secs(40);

#[derive(Debug)]
pub struct Process {
    name: &'static str,
    child: Child,
    /// Kept open: a process that prints into a closed pipe dies of it.
    output: BufReader<ChildStdout>,
}

/// A program of the same build: it lies beside this one.
pub fn beside(name: &str) -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    if !path.is_file() {
        bail!("{} is missing: `make build` makes it", path.display());
    }
    Ok(path)
}

/// The sandbox of the same build, or the one that TOLLGATE_SANDBOX names.
pub fn sandbox() -> Result<PathBuf> {
    match std::env::var_os("TOLLGATE_SANDBOX") {
        Some(named) => Ok(PathBuf::from(named)),
        None => beside("tollgate-sandbox"),
    }
}

/// Start everything with a database of its own in `data`; what the product says when it is ready.
pub async fn tollgate_up(data: &Path) -> Result<(Process, serde_json::Value)> {
    let data_dir = data.to_str().context("a path in UTF-8")?;
    let sandbox = sandbox()?;
    let sandbox = sandbox.to_str().context("a path in UTF-8")?;
    let any = "127.0.0.1:0";
    let args = ["up", "--data-dir", data_dir, "--seed", "none", "--api", any, "--gateway", any, "--sandbox", sandbox];
    let env = [("TOLLGATE_LOG", "warn")];
    let mut up = Process::start("tollgate up", &beside("tollgate")?, &args, &env)?;
    let file = data.join("ready.json");
    let ready = up.until(async || serde_json::from_str(&std::fs::read_to_string(&file).ok()?).ok()).await?;
    Ok((up, ready))
}

/// Say where this process listens, to the one that started it.
pub fn announce(address: SocketAddr) -> Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{address}")?;
    Ok(out.flush()?)
}

impl Process {
    /// Start a program that sees none of the caller's settings. It is killed when the handle is dropped.
    pub fn start<S: AsRef<OsStr>>(name: &'static str, program: &Path, args: &[S], env: &[(&str, &str)]) -> Result<Self> {
        let mut command = Command::new(program);
        for (variable, _) in std::env::vars_os() {
            let text = variable.to_string_lossy();
            if text.starts_with("TOLLGATE_") || text.starts_with("PG") || text == "DATABASE_URL" {
                command.env_remove(&variable);
            }
        }
        command.args(args).envs(env.iter().copied()).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        let output = BufReader::new(child.stdout.take().context("a pipe")?);
        Ok(Self { name, child, output })
    }

    /// What [`announce`] said.
    pub async fn address(&mut self) -> Result<SocketAddr> {
        let mut line = String::new();
        let read = tokio::time::timeout(START, self.output.read_line(&mut line)).await;
        read.with_context(|| format!("{} did not start in time", self.name))??;
        line.trim().parse().with_context(|| format!("{} ended before it listened; see above", self.name))
    }

    /// Ask until there is an answer, for as long as the process lives.
    pub async fn until<T>(&mut self, ask: impl AsyncFn() -> Option<T>) -> Result<T> {
        let end = Instant::now() + START;
        loop {
            if let Some(answer) = ask().await {
                return Ok(answer);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended early ({status}); see above", self.name);
            }
            if Instant::now() > end {
                bail!("{} is not ready after {} s", self.name, START.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// Ask it to end, and wait until it has.
    pub async fn stop(mut self) -> Result<()> {
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            kill_process(pid, Signal::TERM)?;
        }
        tokio::time::timeout(STOP, self.child.wait()).await.with_context(|| format!("{} does not stop", self.name))??;
        Ok(())
    }

    /// Forget the peak of its memory so far; what it holds now is the new one.
    pub fn reset_peak(&self) -> Result<()> {
        let path = format!("/proc/{}/clear_refs", self.pid());
        std::fs::write(&path, "5").with_context(|| format!("cannot reset the peak through {path}"))
    }

    /// The most memory it held since [`Self::reset_peak`], in MiB.
    pub fn peak_mib(&self) -> Result<u64> {
        self.memory("VmHWM:")
    }

    /// The memory it holds now, in MiB.
    pub fn resident_mib(&self) -> Result<u64> {
        self.memory("VmRSS:")
    }

    /// As [`Self::peak_mib`], in KiB.
    pub fn peak_kib(&self) -> Result<u64> {
        self.memory_kib("VmHWM:")
    }

    /// As [`Self::resident_mib`], in KiB.
    pub fn resident_kib(&self) -> Result<u64> {
        self.memory_kib("VmRSS:")
    }

    fn memory(&self, field: &str) -> Result<u64> {
        Ok(self.memory_kib(field)?.div_ceil(1024))
    }

    fn memory_kib(&self, field: &str) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(field)).context("a line of memory")?;
        Ok(line.trim().trim_end_matches("kB").trim().parse()?)
    }
}

/// A port that nobody uses at this moment.
pub fn free_address() -> Result<SocketAddr> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?)
}

/// CPU time that a process has used so far; with `family`, its children's too, those included that have ended.
pub fn cpu(pid: u32, family: bool) -> Duration {
    let own = ticks(pid).map_or(0, |t| t.own + if family { t.ended_children } else { 0 });
    let children = || std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let of_children: u64 = if family {
        let pids = children().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter_map(ticks).filter(|t| t.parent == pid).map(|t| t.own).sum()
    } else {
        0
    };
    // USER_HZ is 100 on every Linux that this runs on.
    Duration::from_millis((own + of_children) * 10)
}

struct Ticks {
    parent: u32,
    own: u64,
    ended_children: u64,
}

fn ticks(pid: u32) -> Option<Ticks> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program, in brackets, may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(Ticks {
        parent: fields.get(1)?.parse().ok()?,
        own: number(11)? + number(12)?,
        ended_children: number(13)? + number(14)?,
    })
}
