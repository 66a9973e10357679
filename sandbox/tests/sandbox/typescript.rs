//! TypeScript's journal: rounds, the clock, and what a script does not get to see of them.

use std::thread;
use std::time::Instant;

use serde_json::{Value as Json, json};
use tollgate_codemode::wire::{Answer, ErrorKind, JournalEntry, Language, Limits, NOW, Outcome, RANDOM, Step, StepReply};
use tollgate_sandbox::{engine, lockdown::STACK_BYTES};

use crate::support::{Process, calls, entry, failure, step_of};

fn with_limits(source: &str, journal: Vec<JournalEntry>, limits: Limits) -> StepReply {
    let step = Step { language: Language::Typescript, ..step_of(source, journal, limits) };
    thread::Builder::new().stack_size(STACK_BYTES).spawn(move || engine::step(step)).unwrap().join().unwrap()
}

fn step(source: &str, journal: &[JournalEntry]) -> StepReply {
    with_limits(source, journal.to_vec(), Limits::default())
}

#[track_caller]
fn done(reply: &StepReply) -> &Json {
    match &reply.outcome {
        Outcome::Done { result } => result,
        other => panic!("{other:?}"),
    }
}

fn value(value: Json) -> Answer {
    Answer::Value(value)
}

#[test]
fn a_call_carries_its_arguments_and_its_line() {
    let reply = step("const x: number = 1;\nawait crm.find_customer({\n  limit: x, email: \"a\" });", &[]);
    let [call] = calls(&reply) else { panic!("{reply:?}") };
    assert_eq!((call.sequence, call.tool_id.as_str(), call.line), (1, "tool_find_customer", 2));
    // In the order of the schema, however the script wrote them.
    assert_eq!(json!(call.arguments).to_string(), r#"{"email":"a","limit":1}"#);
    assert_eq!((call.fingerprint.len(), &reply.may_call), (64, &vec!["crm.find_customer".to_owned()]));
}

#[test]
fn the_answers_of_a_round_are_given_together() {
    let source = "const chain = async (id: number) => { const a: any = await shop.order({ id }); console.log(`got ${id}`); return shop.order({ id: a.next }); };
return Promise.all([chain(1), chain(2)]);";
    let first = step(source, &[]);
    let [one, two] = calls(&first) else { panic!("{first:?}") };
    // The second is answered, the first still waits for people: the script sees neither.
    let some = vec![entry(two, value(json!({"next": 20})))];
    let waiting = step(source, &some);
    assert_eq!(calls(&waiting).iter().map(|call| call.sequence).collect::<Vec<_>>(), [1]);
    assert_eq!(waiting.logs, [""; 0]);
    let mut journal = some;
    journal.push(entry(one, value(json!({"next": 10}))));
    let second = step(source, &journal);
    assert_eq!(second.logs, ["got 1", "got 2"], "in the order of the calls, not of the answers");
    let asked: Vec<_> = calls(&second).iter().map(|call| (call.sequence, call.arguments["id"].clone())).collect();
    assert_eq!(asked, [(3, json!(10)), (4, json!(20))]);
    journal.extend(calls(&second).iter().map(|call| entry(call, value(call.arguments["id"].clone()))));
    let end = step(source, &journal);
    assert_eq!(done(&end), &json!([10, 20]));
    for _ in 0..3 {
        assert_eq!(json!(step(source, &journal)), json!(end), "a replay is the same to the tick");
    }
}

#[test]
fn the_clock_is_asked_for_alone_and_at_once() {
    let source = "const p = crm.notes({ a: 1 });
let t = 0;
try { t = Date.now(); console.log(\"never in the first step\"); } catch { console.log(\"caught\"); } finally { console.log(\"finally\"); }
await p; return [t, Date.now(), Math.random() < 1];";
    let first = step(source, &[]);
    let [now] = calls(&first) else { panic!("{first:?}") };
    assert_eq!((now.sequence, now.tool_id.as_str(), now.server.as_str()), (2, NOW, "tollgate"));
    assert_eq!(first.logs, [""; 0], "nothing runs after it, no finally either");
    let mut journal = vec![entry(now, value(json!(5_000_000)))];
    let second = step(source, &journal);
    let [notes] = calls(&second) else { panic!("{second:?}") };
    assert_eq!((notes.sequence, notes.tool_id.as_str()), (1, "tool_notes"));
    assert_eq!(second.logs, ["never in the first step", "finally"]);
    journal.push(entry(notes, value(json!(null))));
    let third = step(source, &journal);
    let [now] = calls(&third) else { panic!("{third:?}") };
    assert_eq!((now.sequence, now.tool_id.as_str()), (3, NOW), "after an answer time has passed");
    journal.push(entry(now, value(json!(7_000_999))));
    let fourth = step(source, &journal);
    let [random] = calls(&fourth) else { panic!("{fourth:?}") };
    assert_eq!((random.sequence, random.tool_id.as_str()), (4, RANDOM));
    journal.push(entry(random, value(json!(i64::MAX))));
    assert_eq!(done(&step(source, &journal)), &json!([5000, 7000, true]));
}

#[test]
fn another_call_than_before_ends_the_run() {
    let first = step("await crm.notes({ a: 1 })", &[]);
    let journal = vec![entry(&calls(&first)[0], value(json!(1)))];
    for source in ["try { await crm.notes({ a: 2 }) } catch {} 1", "await shop.order({ id: 1 })"] {
        let reply = step(source, &journal);
        assert_eq!(failure(&reply).kind, ErrorKind::Nondeterminism, "{reply:?}");
    }
}

#[test]
fn limits_are_those_of_the_step() {
    let of = |source: &str, edit: fn(&mut Limits)| {
        let mut limits = Limits::default();
        edit(&mut limits);
        let reply = with_limits(source, Vec::new(), limits);
        let error = failure(&reply).clone();
        assert_eq!(error.kind, ErrorKind::Limit, "{source}: {error:?}");
        error.message
    };
    let said = |message: &str, what: &str| assert!(message.starts_with(&format!("Limit reached: {what}")), "{message}");
    said(&of("for (let i = 0; i < 50_000; i++) {}", |l| l.ticks = 30_000), "ticks (30000");
    said(&of("return \"x\".repeat(2000);", |l| l.result_bytes = 1000), "result (1000");
    said(&of("1 + 1", |l| l.source_bytes = 3), "source (3");
    said(&of("for (let i = 0; i < 3; i++) crm.notes({ i });", |l| l.calls = 2), "calls (2");
    said(&of("return new Array(100_000).fill(0).map((_, i) => ({ i })).length;", |l| l.heap_bytes = 4 << 20), "heap (4194304");
}

#[test]
fn a_process_runs_many_steps_and_keeps_nothing_of_them() {
    let mut process = Process::start();
    let source = "globalThis.kept = (globalThis.kept ?? 0) + 1; const big = new Array(200_000).fill({}); const o: any = { big }; o.self = o;
Object.prototype.leak = 1; (Math as any).max = () => 7; [globalThis.kept, big.length]";
    for _ in 0..100 {
        let step = Step { language: Language::Typescript, ..step_of(source, Vec::new(), Limits::default()) };
        let reply = process.step(&step).expect("it lives");
        assert_eq!(done(&reply), &json!([1, 200_000]));
    }
    let clean = "[({} as any).leak ?? null, Math.max(1, 2)]";
    let step = Step { language: Language::Typescript, ..step_of(clean, Vec::new(), Limits::default()) };
    assert_eq!(done(&process.step(&step).expect("it lives")), &json!([null, 2]));
    assert_eq!(process.end(), Some(0));
}

/// Printed, not judged. `cargo test -- --ignored --nocapture what_a_step_costs`
#[test]
#[ignore = "a measurement, for a machine that does nothing else"]
fn what_a_step_costs() {
    for (language, source) in [
        (Language::Python, "result = 1 + 1"),
        (Language::Typescript, "1 + 1"),
        (Language::Python, "result = [shop.order(id=i) for i in range(3)]"),
        (Language::Typescript, "await Promise.all([0, 1, 2].map((id) => shop.order({ id })))"),
    ] {
        let mut process = Process::start();
        let step = Step { language, ..step_of(source, Vec::new(), Limits::default()) };
        process.step(&step).unwrap();
        let begun = Instant::now();
        for _ in 0..500 {
            process.step(&step).unwrap();
        }
        println!("{language:?} {source}: {:?} a step", begun.elapsed() / 500);
        process.kill();
    }
}
