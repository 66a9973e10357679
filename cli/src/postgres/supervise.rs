//! The thread that starts Postgres, watches it, starts it again if it dies, and stops it. It is a thread of its own and
//! lives as long as the server: `PR_SET_PDEATHSIG` fires when the *thread* that forked ends, so a pooled thread would
//! take the database down with it.

use std::{
    io,
    os::unix::process::CommandExt,
    process::{Child, ExitStatus},
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};

use super::{Program, postmaster::PidFile};
use crate::progress::Step;

const START_LIMIT: Duration = Duration::from_secs(300);
const FAST_LIMIT: Duration = Duration::from_secs(30);
const IMMEDIATE_LIMIT: Duration = Duration::from_secs(10);
/// Deaths in a row, none of them after a healthy minute, that end our patience.
const RESTARTS: u32 = 8;
const HEALTHY: Duration = Duration::from_secs(60);

/// In effect on every start, whatever stands in the cluster's own file. No network; durable commits; no JIT, which costs
/// more than it saves on short statements; UTC, so that logs agree with ours.
const SETTINGS: [&str; 10] = [
    "listen_addresses=",
    "port=5432",
    "fsync=on",
    "synchronous_commit=on",
    "max_connections=200",
    "shared_buffers=128MB",
    "jit=off",
    "timezone=UTC",
    "log_timezone=UTC",
    "log_min_messages=warning",
];

/// What happened to the server after its first start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Died(String),
    Back,
    /// It does not stay up; nobody tries any more.
    GaveUp(String),
}

#[derive(Debug)]
pub struct Supervisor {
    stop: Sender<()>,
    thread: Option<JoinHandle<()>>,
}

impl Supervisor {
    /// Returns when the server takes connections, or with the reason why it does not.
    pub(super) fn start(program: Program, step: &mut Step, on_event: impl Fn(Event) + Send + 'static) -> Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let (started_tx, started) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("postgres".to_owned())
            .spawn(move || Watch { program, stopped, on_event }.run(&started_tx))
            .context("cannot start a thread")?;
        let supervisor = Self { stop, thread: Some(thread) };
        loop {
            match started.recv_timeout(Duration::from_millis(200)) {
                Ok(outcome) => return outcome.map(|()| supervisor),
                Err(RecvTimeoutError::Timeout) => step.still("is starting; after a crash it first replays its log"),
                Err(RecvTimeoutError::Disconnected) => return Err(anyhow!("the Postgres supervisor ended early")),
            }
        }
    }

    pub(super) fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let _ = self.stop.send(());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the Postgres supervisor panicked");
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.end();
    }
}

struct Watch<F> {
    program: Program,
    stopped: Receiver<()>,
    on_event: F,
}

/// Why waiting came to an end.
enum Ended {
    Ready,
    Exited(ExitStatus),
    StopAsked,
    TooLong,
}

impl<F: Fn(Event)> Watch<F> {
    fn run(&self, started: &Sender<Result<()>>) {
        let Some(mut child) = self.first_start(started) else { return };
        let mut deaths = 0;
        loop {
            let since = Instant::now();
            let Ended::Exited(status) = self.wait(&mut child, false) else {
                stop(&mut child);
                return;
            };
            if since.elapsed() > HEALTHY {
                deaths = 0;
            }
            (self.on_event)(Event::Died(format!("it ended unexpectedly ({status})")));
            match self.revive(&mut deaths) {
                Some(revived) => child = revived,
                None => return,
            }
        }
    }

    /// No second attempt here: a server that does not come up at first has a reason that a person must see.
    fn first_start(&self, started: &Sender<Result<()>>) -> Option<Child> {
        let outcome = self.launch();
        let (child, answer) = match outcome {
            Ok(child) => (Some(child), Ok(())),
            Err(error) => (None, Err(error)),
        };
        let _ = started.send(answer);
        child
    }

    /// Starts it again, with growing pauses. `None`: given up, or asked to stop meanwhile.
    fn revive(&self, deaths: &mut u32) -> Option<Child> {
        loop {
            *deaths += 1;
            let pause = Duration::from_millis(100 << (*deaths).min(RESTARTS));
            match self.stopped.recv_timeout(pause) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return None,
            }
            match self.program.clear_leftovers().and_then(|()| self.launch()) {
                Ok(child) => {
                    (self.on_event)(Event::Back);
                    return Some(child);
                }
                Err(error) if *deaths >= RESTARTS => {
                    (self.on_event)(Event::GaveUp(format!("{error:#}")));
                    return None;
                }
                Err(_) => {}
            }
        }
    }

    /// Starts the server and waits until it takes connections.
    fn launch(&self) -> Result<Child> {
        let mut child = self.program.spawn_server()?;
        let reason = match self.wait(&mut child, true) {
            Ended::Ready => return Ok(child),
            Ended::Exited(status) => format!("Postgres ended during its start ({status})"),
            Ended::StopAsked => "stopped during the start of Postgres".to_owned(),
            Ended::TooLong => format!("Postgres was not ready after {} s", START_LIMIT.as_secs()),
        };
        stop(&mut child);
        let place = &self.program.place;
        Err(anyhow!("{reason}. The end of {}:\n{}", place.log.display(), place.log_tail(8)))
    }

    /// Waits for the server to be ready (`starting`), to end, or for somebody to want its end.
    fn wait(&self, child: &mut Child, starting: bool) -> Ended {
        let began = Instant::now();
        let interval = Duration::from_millis(if starting { 10 } else { 250 });
        loop {
            if let Ok(Some(status)) = child.try_wait() {
                return Ended::Exited(status);
            }
            if starting {
                let note = PidFile::read(&self.program.place.cluster);
                if note.is_some_and(|note| note.ready && i64::from(note.pid) == i64::from(child.id())) {
                    return Ended::Ready;
                }
                if began.elapsed() > START_LIMIT {
                    return Ended::TooLong;
                }
            }
            match self.stopped.recv_timeout(interval) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return Ended::StopAsked,
            }
        }
    }
}

impl Program {
    fn spawn_server(&self) -> Result<Child> {
        let log = self.place.open_log().with_context(|| format!("cannot write {}", self.place.log.display()))?;
        let mut command = self.command("postgres");
        command.arg("-D").arg(&self.place.cluster).arg("-k").arg(&self.place.sockets);
        for setting in SETTINGS {
            command.args(["-c", setting]);
        }
        command.stdin(std::process::Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // Ctrl-C reaches every process of the terminal's group at once. The database has to outlive our draining, so it
        // gets a group of its own (its backends leave ours anyway) and is stopped by us, last.
        command.process_group(0);
        stop_with_parent(&mut command);
        command.spawn().with_context(|| format!("cannot run {}", self.binaries.program("postgres").display()))
    }
}

/// Has the kernel send SIGINT, a fast and clean shutdown, when we are gone, even by SIGKILL.
fn stop_with_parent(command: &mut std::process::Command) {
    let parent = Pid::from_raw(std::process::id().cast_signed());
    let hook = move || {
        set_parent_process_death_signal(Some(Signal::INT))?;
        // We may have died between the fork and the line above; then no signal would ever come.
        if getppid() == parent { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    };
    #[expect(unsafe_code, reason = "runs between fork and exec: two system calls, no allocation, no locks")]
    // SAFETY: `hook` is async-signal-safe. It runs after the change of user, which would clear the signal again.
    unsafe {
        command.pre_exec(hook);
    }
}

/// Fast first: clients are cut, committed work is written. Immediate if that hangs: the next start replays the log.
fn stop(child: &mut Child) {
    let pid = Pid::from_raw(child.id().cast_signed());
    for (signal, patience) in [(Signal::INT, FAST_LIMIT), (Signal::QUIT, IMMEDIATE_LIMIT)] {
        if matches!(child.try_wait(), Ok(Some(_))) {
            return;
        }
        if let Some(pid) = pid {
            let _ = kill_process(pid, signal);
        }
        let began = Instant::now();
        while began.elapsed() < patience {
            if matches!(child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        tracing::warn!(?signal, "Postgres has not stopped in time");
    }
    let _ = child.kill();
    let _ = child.wait();
}
