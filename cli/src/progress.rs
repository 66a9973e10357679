//! What `tollgate up` tells the person who started it, on standard output. A closed pipe is nobody's emergency: writing
//! never fails and never panics.

use std::{
    fmt::Display,
    future::Future,
    io::Write,
    time::{Duration, Instant},
};

const PATIENCE: Duration = Duration::from_secs(3);

pub fn say(line: impl Display) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

/// A step with a name and a duration.
#[derive(Debug)]
pub struct Step {
    name: String,
    started: Instant,
    spoke: Instant,
}

impl Step {
    pub fn begin(name: impl Into<String>) -> Self {
        let now = Instant::now();
        Self { name: name.into(), started: now, spoke: now }
    }

    /// To be called again and again while waiting: speaks up every few seconds, and not at all in a short step.
    pub fn still(&mut self, detail: impl Display) {
        if self.spoke.elapsed() >= PATIENCE {
            self.spoke = Instant::now();
            say(format_args!("  … {} ({:.0} s) {detail}", self.name, self.started.elapsed().as_secs_f32()));
        }
    }

    pub fn done(self, result: impl Display) {
        say(format_args!("  ✓ {}: {result} ({:.2} s)", self.name, self.started.elapsed().as_secs_f32()));
    }

    /// Runs a future, speaking up while it takes long.
    pub async fn watch<F: Future>(&mut self, work: F) -> F::Output {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                output = &mut work => return output,
                () = tokio::time::sleep(PATIENCE) => self.still(""),
            }
        }
    }
}
