//! The journal: suspend, answer, replay, and the same again.

use serde_json::json;
use tollgate_codemode::wire::{Answer, ErrorKind, GATEWAY, Limits, NOW, Outcome, PendingCall, RANDOM};

use crate::support::{calls, echo, entry, error, failure, last, result, run, step};

const SCRIPT: &str = r#"
print("start")
c = crm.find_customer(email="a@b.c")
for i in range(3):
    print(i, c.email)
    o = shop.order(id=i)
    print(o)
result = {"email": c["email"], "last": o.id}
"#;

#[test]
fn suspends_at_the_first_unanswered_call() {
    let reply = step(SCRIPT, Vec::new(), Limits::default());
    let [call] = calls(&reply) else { panic!() };
    assert_eq!(
        (call.sequence, call.tool_id.as_str(), call.server.as_str(), call.tool.as_str(), call.line),
        (1, "tool_find_customer", "crm", "find_customer", 3)
    );
    assert_eq!(json!(call.arguments), json!({"email": "a@b.c"}));
    assert_eq!(call.fingerprint.len(), 64);
    assert_eq!(reply.logs, ["start"]);
}

#[test]
fn answers_lead_to_the_end_and_every_replay_is_the_same() {
    let (replies, journal) = run(SCRIPT, echo);
    let end = replies.last().unwrap();
    assert_eq!(replies.len(), 5);
    assert!(matches!(&end.outcome, Outcome::Done { result } if *result == json!({"email": "a@b.c", "last": 2})));
    assert_eq!(end.logs.len(), 7);
    assert!(end.ticks > 0);
    // Each step's logs continue those of the step before.
    for pair in replies.windows(2) {
        assert!(pair[1].logs.starts_with(&pair[0].logs));
    }
    for _ in 0..3 {
        let again = step(SCRIPT, journal.clone(), Limits::default());
        assert_eq!(serde_json::to_value(&again).unwrap(), serde_json::to_value(end).unwrap());
    }
}

#[test]
fn an_alias_is_the_same_tool() {
    let source = "f = crm.find_customer\ng = {\"h\": [f]}\nresult = g.h[0](email=\"x\")";
    let reply = step(source, Vec::new(), Limits::default());
    assert_eq!(calls(&reply)[0].tool_id, "tool_find_customer");
    assert_eq!(calls(&reply)[0].line, 3);
    assert_eq!(result(source), json!({"tool": "find_customer", "email": "x"}));
}

#[test]
fn arguments_go_by_the_schemas_names_and_none_is_left_out() {
    let reply = step("crm.find_customer(\"a\", limit=None, class_=[1, {\"k\": 1.5}])", Vec::new(), Limits::default());
    assert_eq!(json!(calls(&reply)[0].arguments), json!({"email": "a", "class": [1, {"k": 1.5}]}));
    let open = step("crm.notes(anything=1)", Vec::new(), Limits::default());
    assert_eq!(json!(calls(&open)[0].arguments), json!({"anything": 1}));
}

#[test]
fn key_order_of_answers_is_kept() {
    let answer = |_: &_| Answer::Value(json!({"z": 1, "a": [true, null, 1.5, "é"], "m": {"y": 1, "b": 2}}));
    let (replies, _) = run("r = crm.notes()\nprint(list(r.keys()))\nresult = r", answer);
    let end = replies.last().unwrap();
    assert_eq!(end.logs, ["['z', 'a', 'm']"]);
    let Outcome::Done { result } = &end.outcome else { panic!() };
    assert_eq!(result.to_string(), r#"{"z":1,"a":[true,null,1.5,"é"],"m":{"y":1,"b":2}}"#);
}

#[test]
fn another_tool_or_other_arguments_than_journalled_fail() {
    let first = step("shop.order(id=1)", Vec::new(), Limits::default());
    let journal = vec![entry(&calls(&first)[0], Answer::Value(json!(1)))];
    assert!(matches!(step("shop.order(id=1)", journal.clone(), Limits::default()).outcome, Outcome::Done { .. }));
    for other in ["shop.order(id=2)", "crm.notes(id=1)"] {
        let reply = step(other, journal.clone(), Limits::default());
        assert_eq!(failure(&reply).kind, ErrorKind::Nondeterminism, "{other}");
        assert_eq!(failure(&reply).line, Some(1));
    }
}

#[test]
fn a_failed_call_ends_the_script_unless_it_is_tried() {
    let refuse = |_: &_| Answer::Error("not allowed".into());
    let (replies, _) = run("x = 1\nshop.order(id=1)\nprint(\"never\")", refuse);
    let end = replies.last().unwrap();
    assert_eq!((failure(end).kind, failure(end).line), (ErrorKind::ToolError, Some(2)));
    assert_eq!(failure(end).message, "shop.order failed: not allowed");
    assert!(end.logs.is_empty());

    let (replies, _) = run("result = try_call(shop.order, id=1)", refuse);
    let Outcome::Done { result } = &replies.last().unwrap().outcome else { panic!() };
    assert_eq!(*result, json!({"ok": false, "value": null, "error": "not allowed"}));
}

#[test]
fn try_call_cannot_catch_the_suspension() {
    let reply = step("r = try_call(shop.order, id=1)\nprint(\"after\", r)\ncrm.notes()", Vec::new(), Limits::default());
    assert_eq!(calls(&reply).len(), 1);
    assert!(reply.logs.is_empty());
    assert_eq!(
        result("result = try_call(shop.order, 7)"),
        json!({"ok": true, "value": {"tool": "order", "id": 7}, "error": null})
    );
    assert!(error("try_call(shop.order(id=1))").message.contains("uncalled"));
}

#[test]
fn parallel_asks_for_all_calls_at_once() {
    let source =
        "a, b = parallel([lambda: shop.order(id=1).id, lambda: crm.notes(x=2)])\nc = shop.order(id=a)\nresult = [a, b.x, c.id]";
    let (replies, _) = run(source, echo);
    let sequences: Vec<Vec<u32>> = replies[..2].iter().map(|r| calls(r).iter().map(|c| c.sequence).collect()).collect();
    assert_eq!(sequences, [vec![1, 2], vec![3]]);
    let Outcome::Done { result } = &replies[2].outcome else { panic!() };
    assert_eq!(*result, json!([1, 2, 1]));
}

#[test]
fn parallel_numbers_do_not_depend_on_which_answer_came_first() {
    let source = "result = parallel(lambda i: shop.order(id=i).id, [10, 20, 30])";
    let first = step(source, Vec::new(), Limits::default());
    let mut journal = vec![entry(&calls(&first)[1], Answer::Value(json!({"id": 21})))];
    let second = step(source, journal.clone(), Limits::default());
    assert_eq!(calls(&second).iter().map(|c| c.sequence).collect::<Vec<_>>(), [1, 3]);
    journal.extend(calls(&second).iter().map(|c| entry(c, Answer::Value(json!({"id": c.sequence})))));
    let Outcome::Done { result } = step(source, journal, Limits::default()).outcome else { panic!() };
    assert_eq!(result, json!([1, 21, 3]));
}

/// The calls of functions that run at the same time are numbered in rounds, whichever answer comes first.
#[test]
fn functions_in_parallel_may_make_several_calls() {
    let source = "def f(i):\n  a = shop.order(id=i)\n  return crm.notes(n=a.id).n if i < 3 else a.id\nresult = parallel(f, [1, 2, 3])\nlast = shop.order(id=9)";
    let (replies, journal) = run(source, echo);
    let rounds: Vec<Vec<u32>> = replies[..3].iter().map(|r| calls(r).iter().map(|c| c.sequence).collect()).collect();
    assert_eq!(rounds, [vec![1, 2, 3], vec![4, 5], vec![7]]);
    assert!(matches!(&replies[3].outcome, Outcome::Done { result } if *result == json!([1, 2, 3])));
    // Half of the first round is answered: the other half keeps its numbers, and who is ahead takes the next round's.
    let early = step(source, journal[..2].to_vec(), Limits::default());
    assert_eq!(calls(&early).iter().map(|c| c.sequence).collect::<Vec<_>>(), [4, 5, 3]);
}

#[test]
fn parallel_within_parallel_goes_one_after_the_other() {
    let source = "result = parallel([lambda: parallel([lambda: shop.order(id=1).id, lambda: shop.order(id=2).id]), lambda: shop.order(id=3).id])";
    let (replies, _) = run(source, echo);
    let rounds: Vec<usize> = replies[..2].iter().map(|r| calls(r).len()).collect();
    assert_eq!(rounds, [2, 1]);
    assert!(matches!(&replies[2].outcome, Outcome::Done { result } if *result == json!([[1, 2], 3])));
    assert!(error("parallel([shop.order(id=1)])").message.contains("takes functions, not results"));
}

#[test]
fn time_and_chance_are_asked_of_the_gateway_and_journalled() {
    let source =
        "import time, random\na = now()\nb = time.time()\nx = [random.random() for i in range(3)]\nresult = [a.year, b, x]";
    let answer = |call: &PendingCall| match call.tool_id.as_str() {
        NOW => Answer::Value(json!(1_700_000_000_500_000_i64)),
        RANDOM => Answer::Value(json!(7)),
        other => panic!("{other}"),
    };
    let (replies, journal) = run(source, answer);
    assert_eq!(journal.iter().map(|e| e.tool_id.as_str()).collect::<Vec<_>>(), [NOW, NOW, RANDOM]);
    assert_eq!(calls(&replies[0])[0].server, GATEWAY);
    let Outcome::Done { result } = &replies.last().unwrap().outcome else { panic!("{replies:?}") };
    assert_eq!((&result[0], &result[1]), (&json!(2023), &json!(1_700_000_000.5)));
    let again = step(source, journal, Limits::default());
    assert!(matches!(again.outcome, Outcome::Done { result: r } if r == *result));
    let refused = run("now()", |_| Answer::Error("not here".into())).0;
    assert_eq!(failure(refused.last().unwrap()).message, "The time is not given to scripts: not here");
}

#[test]
fn nothing_set_is_null() {
    assert_eq!(result("x = 1"), json!(null));
    assert_eq!(result(""), json!(null));
    assert_eq!(last("print(1)").logs, ["1"]);
}
