use std::io::Write;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use tollgate_codemode::wire::{
    Answer, Catalog, CatalogParam, CatalogServer, CatalogTool, ErrorKind, JournalEntry, Language, Limits, Outcome, PendingCall,
    ScriptError, Step, StepReply, read_frame, write_frame,
};
use tollgate_sandbox::{engine, lockdown::STACK_BYTES};

pub fn catalog() -> Catalog {
    let tool = |name: &str, params: &[(&str, &str, bool)], open| CatalogTool {
        name: name.into(),
        tool_id: format!("tool_{name}"),
        params: params
            .iter()
            .map(|(name, key, required)| CatalogParam {
                name: (*name).into(),
                key: (*key).into(),
                required: *required,
                types: Vec::new(),
                choices: Vec::new(),
            })
            .collect(),
        open,
    };
    let find = [("email", "email", true), ("limit", "limit", false), ("class_", "class", false)];
    let server = |name: &str, tools| CatalogServer { name: name.into(), tools };
    Catalog {
        servers: vec![
            server("crm", vec![tool("find_customer", &find, false), tool("notes", &[], true)]),
            server("shop", vec![tool("order", &[("id", "id", true)], false)]),
        ],
    }
}

pub fn step_of(source: &str, journal: Vec<JournalEntry>, limits: Limits) -> Step {
    Step { language: Language::Python, source: source.into(), catalog: catalog(), journal, limits }
}

/// One step in this process, on a stack as large as the real one.
pub fn step(source: &str, journal: Vec<JournalEntry>, limits: Limits) -> StepReply {
    let step = step_of(source, journal, limits);
    thread::Builder::new().stack_size(STACK_BYTES).spawn(move || engine::step(step)).unwrap().join().unwrap()
}

pub fn entry(call: &PendingCall, answer: Answer) -> JournalEntry {
    JournalEntry { sequence: call.sequence, tool_id: call.tool_id.clone(), fingerprint: call.fingerprint.clone(), answer }
}

/// Step until the end, each call answered by `answer`; every reply of the run.
pub fn run(source: &str, answer: impl Fn(&PendingCall) -> Answer) -> (Vec<StepReply>, Vec<JournalEntry>) {
    let (mut replies, mut journal) = (Vec::new(), Vec::new());
    for _ in 0..300 {
        let reply = step(source, journal.clone(), Limits::default());
        let calls = match &reply.outcome {
            Outcome::Need { calls } => calls.clone(),
            _ => Vec::new(),
        };
        journal.extend(calls.iter().map(|call| entry(call, answer(call))));
        replies.push(reply);
        if calls.is_empty() {
            return (replies, journal);
        }
    }
    panic!("the run does not end");
}

/// The arguments come back, with the tool's name.
pub fn echo(call: &PendingCall) -> Answer {
    let mut value = json!({ "tool": call.tool });
    value.as_object_mut().unwrap().extend(call.arguments.clone());
    Answer::Value(value)
}

pub fn last(source: &str) -> StepReply {
    run(source, echo).0.pop().unwrap()
}

#[track_caller]
pub fn result(source: &str) -> Json {
    match last(source).outcome {
        Outcome::Done { result } => result,
        other => panic!("{source}\n{other:?}"),
    }
}

#[track_caller]
pub fn error(source: &str) -> ScriptError {
    failure(&last(source)).clone()
}

#[track_caller]
pub fn failure(reply: &StepReply) -> &ScriptError {
    match &reply.outcome {
        Outcome::Failed { error } => error,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
pub fn calls(reply: &StepReply) -> &[PendingCall] {
    match &reply.outcome {
        Outcome::Need { calls } => calls,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
pub fn assert_error(source: &str, kind: ErrorKind, line: u32, message: &str) {
    let error = error(source);
    assert_eq!((error.kind, error.line), (kind, Some(line)), "{source}\n{error:?}");
    assert!(error.message.contains(message), "{source}\n{}", error.message);
}

pub const BINARY: &str = env!("CARGO_BIN_EXE_tollgate-sandbox");

/// The real thing: a locked-down process and its two pipes.
pub struct Process {
    pub child: Child,
    requests: ChildStdin,
    replies: ChildStdout,
}

impl Process {
    pub fn start() -> Self {
        Self::with(&[])
    }

    pub fn with(flags: &[&str]) -> Self {
        Self::of(Command::new(BINARY).args(flags).env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()))
    }

    pub fn of(command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap();
        Self { requests: child.stdin.take().unwrap(), replies: child.stdout.take().unwrap(), child }
    }

    /// None when the process died without a word.
    pub fn step(&mut self, step: &Step) -> Option<StepReply> {
        write_frame(&mut self.requests, step).ok()?;
        read_frame(&mut self.replies).ok().flatten()
    }

    pub fn send(&mut self, bytes: &[u8]) -> Option<StepReply> {
        self.requests.write_all(bytes).unwrap();
        read_frame(&mut self.replies).ok().flatten()
    }

    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Close stdin and wait.
    pub fn end(mut self) -> Option<i32> {
        drop(self.requests);
        self.child.wait().unwrap().code()
    }
}

/// What a script may take until it ends by itself. The process counts its own time; a busy machine multiplies it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Run one script in a fresh process; it must end by itself.
#[track_caller]
pub fn in_process(source: &str) -> Option<StepReply> {
    let mut process = Process::start();
    let pid = libc::pid_t::try_from(process.child.id()).unwrap();
    let started = Instant::now();
    let step = step_of(source, Vec::new(), Limits::default());
    let watchdog = thread::spawn(move || {
        thread::park_timeout(PATIENCE);
        started.elapsed() >= PATIENCE && kill(pid)
    });
    let reply = process.step(&step);
    watchdog.thread().unpark();
    assert!(!watchdog.join().unwrap(), "still running after {PATIENCE:?}: {}", &source[..source.len().min(80)]);
    let _ = process.child.kill();
    let _ = process.child.wait();
    reply
}

#[allow(unsafe_code)] // SAFETY: signals a child of ours that has not been waited for
pub fn kill(pid: libc::pid_t) -> bool {
    unsafe { libc::kill(pid, libc::SIGKILL) == 0 }
}
