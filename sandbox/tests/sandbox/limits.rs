//! Each ceiling ends a script with kind Limit and says which it was.

use tollgate_codemode::wire::{ErrorKind, Limits, Outcome, StepReply};

use crate::support::{Process, failure, step, step_of};

#[track_caller]
fn hits(reply: &StepReply, limit: &str) {
    let error = failure(reply);
    assert_eq!(error.kind, ErrorKind::Limit, "{error:?}");
    assert!(error.message.starts_with(&format!("Limit reached: {limit} (")), "{}", error.message);
}

#[track_caller]
fn fits(source: &str, limits: Limits) {
    let reply = step(source, Vec::new(), limits);
    assert!(!matches!(reply.outcome, Outcome::Failed { .. }), "{:?}", reply.outcome);
}

fn limits(change: impl FnOnce(&mut Limits)) -> Limits {
    let mut limits = Limits::default();
    change(&mut limits);
    limits
}

#[test]
fn ticks() {
    let few = limits(|l| l.ticks = 10_000);
    hits(&step("for i in range(20000): pass", Vec::new(), few), "ticks");
    hits(&step("def f(): pass\nx = [f() for i in range(20000)]", Vec::new(), few), "ticks");
    fits("for i in range(5000): pass", few);
    let ticks = |_| step("for i in range(20000): pass", Vec::new(), few).ticks;
    assert_eq!(ticks(0), ticks(1));
}

#[test]
fn a_call_does_not_hide_an_exceeded_limit() {
    let few = limits(|l| l.ticks = 10_000);
    hits(&step("parallel([lambda: shop.order(id=1), lambda: [i for i in range(20000)]])", Vec::new(), few), "ticks");
}

#[test]
fn heap() {
    let small = limits(|l| l.heap_bytes = 4 << 20);
    hits(&step("x = []\nfor i in range(100000): x.append(\"a\" * 1000 + str(i))", Vec::new(), small), "heap");
    fits("x = \"a\" * 1000", small);
}

#[test]
fn call_stack() {
    let reply = step("def f(n): return f(n + 1)\n\nf(0)", Vec::new(), Limits::default());
    hits(&reply, "call stack");
    assert_eq!(failure(&reply).line, Some(1));
    fits("def f(n): return 0 if n == 0 else f(n - 1)\nf(150)", Limits::default());
}

#[test]
fn source() {
    hits(&step("x = 1 # long", Vec::new(), limits(|l| l.source_bytes = 11)), "source");
    fits("x = 1 # long", limits(|l| l.source_bytes = 12));
}

#[test]
fn calls() {
    let two = limits(|l| l.calls = 2);
    hits(&step("parallel(lambda i: shop.order(id=i), range(3))", Vec::new(), two), "calls");
    fits("parallel(lambda i: shop.order(id=i), range(2))", two);
}

#[test]
fn logs_are_cut_and_marked() {
    let reply = step("print(\"aaaa\")\nprint(\"bbéé\")\nprint(\"c\")\nresult = 1", Vec::new(), limits(|l| l.log_bytes = 8));
    assert_eq!(reply.logs, ["aaaa", "bb[logs cut: over 8 bytes]"]);
    assert!(matches!(reply.outcome, Outcome::Done { .. }));
}

#[test]
fn result() {
    let small = limits(|l| l.result_bytes = 20);
    hits(&step("result = \"a\" * 19", Vec::new(), small), "result");
    fits("result = \"a\" * 18", small);
    hits(&step("result = \"\\n\" * 10", Vec::new(), small), "result"); // as JSON text
    hits(&step("result = range(1000000000)", Vec::new(), small), "result");
}

#[test]
fn arguments_and_depth() {
    hits(&step("crm.find_customer(email=\"a\" * 2000000)", Vec::new(), Limits::default()), "arguments");
    hits(&step("x = []\nfor i in range(100): x = [x]\nresult = x", Vec::new(), Limits::default()), "depth");
    hits(&step("x = []\nx.append(x)\nresult = x", Vec::new(), Limits::default()), "depth");
    hits(&step("x = []\nx.append(x)\njson.encode(x)", Vec::new(), Limits::default()), "depth");
}

#[test]
fn nesting_of_the_source() {
    for (source, limit) in [
        ("x=".to_owned() + &"(".repeat(2000), "expression"),
        ("x=".to_owned() + &"not ".repeat(2000) + "1", "expression"),
        ("x=1".to_owned() + &"+1".repeat(1000), "expression"),
        ("if 0:\n pass\n".to_owned() + &"elif (1 if 1 else 0):\n pass\n".repeat(300), "elif"),
        ((0..100).map(|i| " ".repeat(i) + "if 1:\n").collect::<String>() + &" ".repeat(100) + "pass", "blocks"),
    ] {
        hits(&step(&source, Vec::new(), Limits::default()), limit);
    }
}

/// The deepest scripts the guard lets through must fit the stack: parser, compiler, interpreter and drop.
#[test]
fn what_the_guard_allows_fits_the_stack() {
    for source in [
        "x=".to_owned() + &"(".repeat(1400) + "1" + &")".repeat(1400),
        "x=".to_owned() + &"[".repeat(1400) + "1" + &"]".repeat(1400) + "\nprint(x)",
        "x=".to_owned() + &"not ".repeat(1480) + "1",
        "x=1".to_owned() + &"+1".repeat(740),
        "x=".to_owned() + &"lambda:".repeat(740) + "1",
        "x=1".to_owned() + &" if 1 else 1".repeat(370),
        "x={'a':1}\nx.a=x\nx=x".to_owned() + &".a".repeat(740),
        "if 0:\n pass\n".to_owned() + &"elif 0:\n pass\n".repeat(200),
        "x = [".to_owned() + &"-1, ".repeat(10_000) + "0]",
    ] {
        fits(&source, Limits::default());
    }
}

/// What a step is allowed comes with the step: a process that one tenant's small limits have served serves larger ones next.
#[test]
fn time_and_memory_are_those_of_the_step() {
    let small = limits(|l| (l.step_milliseconds, l.heap_bytes) = (300, 8 << 20));
    for (source, limit) in [("x = 7\nfor i in range(60): x = x * x", "time (0.3 s"), ("x = [0] * 5000000", "memory (24 MB")] {
        let mut process = Process::start();
        let empty = process.step(&step_of("x = 1", Vec::new(), small)).unwrap();
        assert!(matches!(empty.outcome, Outcome::Done { .. }), "{empty:?}");
        let reply = process.step(&step_of(source, Vec::new(), small)).unwrap();
        let error = failure(&reply);
        assert_eq!(error.kind, ErrorKind::Limit, "{error:?}");
        assert!(error.message.starts_with(&format!("Limit reached: {limit}")), "{}", error.message);
        process.kill();
    }
    let mut process = Process::start();
    for (limits, fits) in [(Limits::default(), true), (small, true), (Limits::default(), true), (small, false)] {
        let items = if limits.heap_bytes == small.heap_bytes && fits { 50_000 } else { 5_000_000 };
        let reply = process.step(&step_of(&format!("x = [0] * {items}\nresult = len(x)"), Vec::new(), limits)).unwrap();
        assert_eq!(matches!(reply.outcome, Outcome::Done { .. }), fits, "{reply:?}");
    }
    process.kill();
    // No step gets more than its process was started with.
    let mut process = Process::with(&["--step-seconds", "1"]);
    let long = limits(|l| l.step_milliseconds = 60_000);
    let reply = process.step(&step_of("x = 7\nfor i in range(60): x = x * x", Vec::new(), long)).unwrap();
    assert!(failure(&reply).message.starts_with("Limit reached: time (1 s"), "{reply:?}");
    process.kill();
}
