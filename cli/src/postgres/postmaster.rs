//! Reading `postmaster.pid`, Postgres' own note about itself, and clearing up after a run that ended badly.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::Program;
use crate::progress::Step;

/// A crashed parent has told the server to stop; it needs a moment for its last checkpoint.
const LEFTOVER_FAST: Duration = Duration::from_secs(20);
const LEFTOVER_IMMEDIATE: Duration = Duration::from_secs(10);

/// Line 1 is the pid, line 8 (absent in the first moments) the status; `pg_ctl` reads the same two.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PidFile {
    pub pid: i32,
    pub ready: bool,
}

impl PidFile {
    pub(super) fn read(cluster: &Path) -> Option<Self> {
        Self::parse(&fs::read_to_string(cluster.join("postmaster.pid")).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let pid = lines.next()?.trim().parse().ok()?;
        Some(Self { pid, ready: lines.nth(6).is_some_and(|status| status.trim() == "ready") })
    }
}

impl Program {
    /// We hold the directory's lock, so a server that still runs on it has lost its supervisor. It is told to stop and
    /// waited for; a note whose process is gone (or is somebody else by now) is removed.
    pub(super) fn clear_leftovers(&self) -> Result<()> {
        let cluster = &self.place.cluster;
        let Some(note) = PidFile::read(cluster) else { return Ok(()) };
        let mut step = Step::begin("Postgres of an earlier run");
        for (signal, patience) in [(Signal::INT, LEFTOVER_FAST), (Signal::QUIT, LEFTOVER_IMMEDIATE)] {
            let started = Instant::now();
            let mut asked = false;
            while started.elapsed() < patience {
                if !is_postmaster(note.pid, cluster) {
                    fs::remove_file(cluster.join("postmaster.pid")).or_else(gone_is_fine)?;
                    if asked {
                        step.done("stopped");
                    }
                    return Ok(());
                }
                if !asked && let Some(pid) = Pid::from_raw(note.pid) {
                    let _ = kill_process(pid, signal);
                    asked = true;
                }
                step.still("is stopping");
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        bail!("a Postgres (pid {}) still runs on {} and does not stop", note.pid, cluster.display())
    }
}

/// A postmaster's working directory is its cluster; a process that merely got the same pid has another.
fn is_postmaster(pid: i32, cluster: &Path) -> bool {
    fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == cluster)
}

fn gone_is_fine(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTE: &str = "4711\n/data/postgres\n1763700000\n5432\n/data/run\n\n  5432001  0\n";

    #[test]
    fn a_note_is_ready_only_when_it_says_so() {
        let starting = PidFile { pid: 4711, ready: false };
        assert_eq!(PidFile::parse(NOTE), Some(starting));
        assert!(!PidFile::parse(&format!("{NOTE}starting\n")).expect("read").ready);
        assert!(PidFile::parse(&format!("{NOTE}ready   \n")).expect("read").ready);
        assert_eq!(PidFile::parse(""), None);
    }
}
