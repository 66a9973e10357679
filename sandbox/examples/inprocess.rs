//! The engine without its sandbox: what `make bench-script` compares with. No process, no pipe, no locks: it steps scripts on threads
//! of this program, and prints what that costs as one JSON document. For measuring alone; nothing that is shipped runs scripts so.

use std::collections::BinaryHeap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use tollgate_codemode::wire::{
    Answer, Catalog, CatalogServer, CatalogTool, JournalEntry, Language, Limits, Outcome, PendingCall, Step,
};
use tollgate_sandbox::{engine, lockdown::STACK_BYTES};

const EMPTY_RUNS: u32 = 300;
/// As `make bench-script` runs them through the gateway.
const CALLS: u32 = 20;
const CALL_RUNS: u32 = 20;
const AT_ONCE: usize = 1_000;
const TOOL: Duration = Duration::from_millis(50);

const EMPTY: &str = "result = 1";
const NESTED: &str = "for i in range(20): bench.echo(n=i)\nresult = 1";
const WAITING: &str = "a = bench.wait()\nresult = 1";

fn main() {
    let measured = thread::Builder::new().stack_size(STACK_BYTES).spawn(|| {
        run(EMPTY); // the first builds what all share
        let empty = each(EMPTY_RUNS, || run(EMPTY));
        let nested = (each(CALL_RUNS, || run(NESTED)) - empty) / f64::from(CALLS);
        (empty, nested)
    });
    let Some((empty, nested)) = measured.ok().and_then(|thread| thread.join().ok()) else { return };
    println!("{}", json!({"empty_us": empty, "nested_us": nested, "runs_per_second": at_once()}));
}

/// Microseconds of one, on average.
fn each(times: u32, mut work: impl FnMut()) -> f64 {
    let started = Instant::now();
    (0..times).for_each(|_| work());
    started.elapsed().as_secs_f64() * 1e6 / f64::from(times)
}

fn first_step(source: &str) -> Step {
    let tool = |name: &str| CatalogTool { name: name.into(), tool_id: format!("tool_{name}"), params: Vec::new(), open: true };
    let server = CatalogServer { name: "bench".into(), tools: vec![tool("echo"), tool("wait")] };
    Step {
        language: Language::Python,
        source: source.into(),
        catalog: Catalog { servers: vec![server] },
        journal: Vec::new(),
        limits: Limits::default(),
    }
}

/// One step; whether the run goes on.
fn advance(step: &mut Step) -> bool {
    let Outcome::Need { calls } = engine::step(step.clone()).outcome else { return false };
    step.journal.extend(calls.into_iter().map(answer));
    true
}

fn answer(call: PendingCall) -> JournalEntry {
    let PendingCall { sequence, tool_id, fingerprint, .. } = call;
    JournalEntry { sequence, tool_id, fingerprint, answer: Answer::Value(json!({"ok": true})) }
}

fn run(source: &str) {
    let mut step = first_step(source);
    while advance(&mut step) {}
}

/// Runs that go on when their tool has answered, the one that is due first on top.
struct Due(Instant, Step);

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.0.cmp(&self.0)
    }
}

/// Runs a second, with so many under way at once, on as many threads as there are cores.
fn at_once() -> f64 {
    let started = Instant::now();
    let all = (0..AT_ONCE).map(|_| Due(started, first_step(WAITING))).collect::<BinaryHeap<_>>();
    let shared = Arc::new((Mutex::new((all, AT_ONCE)), Condvar::new()));
    let cores = thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let workers: Vec<_> = (0..cores)
        .filter_map(|_| {
            let shared = Arc::clone(&shared);
            thread::Builder::new().stack_size(STACK_BYTES).spawn(move || work(&shared)).ok()
        })
        .collect();
    workers.into_iter().for_each(|worker| drop(worker.join()));
    f64::from(u32::try_from(AT_ONCE).unwrap_or(u32::MAX)) / started.elapsed().as_secs_f64()
}

fn work(shared: &(Mutex<(BinaryHeap<Due>, usize)>, Condvar)) {
    let (runs, changed) = shared;
    let mut held = runs.lock().unwrap_or_else(PoisonError::into_inner);
    while held.1 > 0 {
        let now = Instant::now();
        let wait = held.0.peek().map_or(TOOL, |next| next.0.saturating_duration_since(now));
        if !wait.is_zero() {
            held = changed.wait_timeout(held, wait).unwrap_or_else(PoisonError::into_inner).0;
            continue;
        }
        let Some(Due(_, mut step)) = held.0.pop() else { continue };
        drop(held);
        let goes_on = advance(&mut step);
        held = runs.lock().unwrap_or_else(PoisonError::into_inner);
        if goes_on {
            held.0.push(Due(Instant::now() + TOOL, step));
        } else {
            held.1 -= 1;
        }
        changed.notify_all();
    }
}
