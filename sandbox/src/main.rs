//! `tollgate-sandbox`: reads one `Step` at a time from stdin, writes its `StepReply` to stdout, ends at the end of stdin.

use std::any::Any;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;

use tollgate_codemode::wire::{ErrorKind, ScriptError, Step, StepReply, read_frame, write_frame};
use tollgate_sandbox::lockdown::{self, STACK_BYTES, Settings, selftest};
use tollgate_sandbox::{ENGINES, engine};

#[global_allocator]
static ALLOCATOR: lockdown::Metered = lockdown::Metered;

const USAGE: &str =
    "usage: tollgate-sandbox [--memory-mb N] [--step-seconds N] [--allow-unconfined] [--self-test | --walls | --version]";
/// sysexits.h: wrong usage, bad data, an internal error, and a machine that cannot do what is configured.
const EX_USAGE: u8 = 64;
const EX_DATAERR: u8 = 65;
const EX_SOFTWARE: u8 = 70;
const EX_CONFIG: u8 = 78;

/// What the operator may do where a wall is missing.
const OPERATOR: &str = "Scripts are not run without it. Use a kernel that has it (landlock: Linux 5.13, enabled in the list of \
                        security modules; seccomp: not taken away by the container), or give --allow-unconfined (in tollgate.toml: [limits.script] allow_unconfined = true) to run them all \
                        the same";

/// Which of the kernel's two walls stand.
#[derive(Clone, Copy)]
struct Walls {
    landlock: bool,
    seccomp: bool,
}

enum Mode {
    Serve,
    Version,
    SelfTest,
    /// Lock down, and say which walls stand.
    Walls,
    /// One forbidden act of the self-test; `confined` is false to see that the act would succeed otherwise.
    Probe {
        name: String,
        confined: bool,
    },
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (settings, mode) = match parse(&arguments) {
        Ok(parsed) => parsed,
        Err(problem) => {
            complain(&format!("{problem}\n{USAGE}"));
            return ExitCode::from(EX_USAGE);
        }
    };
    match mode {
        Mode::Version => {
            println!("{}", ENGINES.join("\n"));
            ExitCode::SUCCESS
        }
        Mode::SelfTest => {
            let flags: Vec<String> = arguments.into_iter().filter(|a| a != "--self-test").collect();
            ExitCode::from(u8::from(!selftest::run(&flags).unwrap_or(false)))
        }
        Mode::Probe { name, confined: false } => selftest::attempt(&name),
        Mode::Probe { name, confined: true } => locked_down(settings, move |_, _| selftest::attempt(&name)),
        Mode::Walls => locked_down(Settings { allow_unconfined: true, ..settings }, |_, walls| walls.report()),
        Mode::Serve => locked_down(settings, |settings, _| serve(settings)),
    }
}

impl Walls {
    /// `landlock: yes` and `seccomp: yes`; the status says whether a script would be run here without further words.
    fn report(self) -> ExitCode {
        for (wall, stands) in [("landlock", self.landlock), ("seccomp", self.seccomp)] {
            // To stdout by hand: `println!` panics where nobody listens.
            let _ = writeln!(io::stdout(), "{wall}: {}", if stands { "yes" } else { "missing" });
        }
        ExitCode::from(if self.landlock && self.seccomp { 0 } else { EX_CONFIG })
    }
}

fn parse(arguments: &[String]) -> Result<(Settings, Mode), String> {
    let mut settings = Settings::default();
    let mut mode = Mode::Serve;
    let mut rest = arguments.iter();
    while let Some(flag) = rest.next() {
        let mut value = || rest.next().ok_or(format!("{flag} needs a value"));
        match flag.as_str() {
            "--memory-mb" => settings.memory_mb = value()?.parse().map_err(|_| "--memory-mb takes a number")?,
            "--step-seconds" => settings.step_seconds = value()?.parse().map_err(|_| "--step-seconds takes a number")?,
            "--allow-unconfined" => settings.allow_unconfined = true,
            "--version" => mode = Mode::Version,
            "--self-test" => mode = Mode::SelfTest,
            "--walls" => mode = Mode::Walls,
            "--probe" => mode = Mode::Probe { name: value()?.clone(), confined: true },
            "--probe-unconfined" => mode = Mode::Probe { name: value()?.clone(), confined: false },
            other => return Err(format!("unknown flag {other}")),
        }
    }
    if settings.memory_mb < Settings::MIN_MEMORY_MB {
        return Err(format!("--memory-mb must be at least {}", Settings::MIN_MEMORY_MB));
    }
    if settings.step_seconds == 0 {
        return Err("--step-seconds must be at least 1".into());
    }
    Ok((settings, mode))
}

/// Run `body` on a thread with a large stack, in a process that has nothing else left. The thread is started before
/// system calls are filtered, since none can be started after; it waits until they are.
fn locked_down(settings: Settings, body: impl FnOnce(Settings, Walls) -> ExitCode + Send + 'static) -> ExitCode {
    let refuse = |e: io::Error| {
        complain(&format!("cannot lock down: {e}"));
        ExitCode::from(EX_CONFIG)
    };
    lockdown::prepare(settings.memory_mb, settings.step_milliseconds());
    quiet_panics();
    let landlock = match lockdown::confine_process(&settings) {
        Ok(landlock) => landlock,
        Err(e) => return refuse(e),
    };
    if !landlock {
        if !settings.allow_unconfined {
            return refuse(io::Error::other(format!("landlock is not available. {OPERATOR}")));
        }
        complain("running without landlock, as --allow-unconfined asks");
    }
    let (ready, started) = mpsc::channel();
    let (confined, wait) = mpsc::channel::<Walls>();
    let worker = thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
        let _ = ready.send(lockdown::watch_stack());
        match wait.recv() {
            Ok(walls) => body(settings, walls),
            Err(_) => ExitCode::from(EX_CONFIG),
        }
    });
    // Starting a thread takes system calls of its own: wait for it, or the filter kills it.
    let worker = match worker.and_then(|worker| started.recv().map_err(io::Error::other)?.map(|()| worker)) {
        Ok(worker) => worker,
        Err(e) => return refuse(e),
    };
    let seccomp = match lockdown::confine_system_calls() {
        Ok(()) => true,
        Err(e) if settings.allow_unconfined => {
            complain(&format!("running without seccomp, as --allow-unconfined asks: {e}"));
            false
        }
        Err(e) => return refuse(io::Error::other(format!("seccomp is not available: {e}. {OPERATOR}"))),
    };
    lockdown::limit_memory(&settings);
    let _ = confined.send(Walls { landlock, seccomp });
    worker.join().unwrap_or(ExitCode::from(EX_SOFTWARE))
}

fn serve(settings: Settings) -> ExitCode {
    let mut requests = io::stdin().lock();
    let mut replies = io::stdout().lock();
    loop {
        lockdown::arm();
        let (reply, end) = match read_frame::<Step>(&mut requests) {
            Ok(Some(step)) => run(step, &settings),
            Ok(None) => return ExitCode::SUCCESS,
            // The stream may be out of step: answer this one, and end.
            Err(e) => (failed(&format!("the request cannot be read: {e}")), Some(EX_DATAERR)),
        };
        let frame = encode(&reply);
        lockdown::stop_clock();
        lockdown::disarm();
        if replies.write_all(&frame).and_then(|()| replies.flush()).is_err() {
            return ExitCode::SUCCESS; // nobody listens any more
        }
        if let Some(status) = end {
            return ExitCode::from(status);
        }
    }
}

/// The reply, and the status to end with where the interpreter can no longer be trusted.
fn run(step: Step, settings: &Settings) -> (StepReply, Option<u8>) {
    // What the gateway says of this step, never more than the process was started with.
    let milliseconds = step.limits.step_milliseconds.clamp(1, settings.step_milliseconds());
    let memory_mb = lockdown::limit_step(settings, step.limits.heap_bytes);
    lockdown::prepare(memory_mb, milliseconds);
    lockdown::start_clock(milliseconds);
    let ended = catch_unwind(AssertUnwindSafe(|| engine::step(step)));
    lockdown::limit_memory(settings);
    match ended {
        Ok(reply) => (reply, None),
        Err(panic) => (panicked(panic.as_ref(), memory_mb), Some(EX_SOFTWARE)),
    }
}

/// Most panics are requests for more memory than a collection can have (`list(range(2_000_000_000))`).
fn panicked(panic: &(dyn Any + Send), memory_mb: usize) -> StepReply {
    let message = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    if message.is_some_and(|m| m.contains("capacity overflow") || m.contains("AlignedSize must not exceed")) {
        return StepReply::failed(engine::Limit::Memory(memory_mb).error(None));
    }
    failed("The script ran into a defect of its interpreter. Write the last operation another way.")
}

fn encode(reply: &StepReply) -> Vec<u8> {
    let mut frame = Vec::new();
    if let Err(e) = write_frame(&mut frame, reply) {
        frame.clear();
        // Small, so that it fits: the calls of one step may each be within bounds and too large together.
        let _ = write_frame(&mut frame, &failed(&format!("the reply cannot be sent: {e}")));
    }
    frame
}

fn failed(message: &str) -> StepReply {
    StepReply::failed(ScriptError { kind: ErrorKind::Sandbox, message: message.to_owned(), line: None, column: None })
}

/// A panic's message may quote the script; the place is enough.
fn quiet_panics() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(|l| format!("{}:{}", l.file(), l.line())).unwrap_or_default();
        complain(&format!("panic at {place}"));
    }));
}

/// `eprintln!` panics where stderr is full or closed.
fn complain(message: &str) {
    let _ = writeln!(io::stderr(), "tollgate-sandbox: {message}");
}
