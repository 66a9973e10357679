//! The benchmark of prompts, in small: a few tasks, all ways, twice. What it measures means something only if every answer is
//! right and the numbers are the same at each run.

use std::process::Command;

use serde_json::Value;

const TASKS: u64 = 3;
const WAYS: usize = 5;

/// One round of the program as it ships: its own gateway, database and sandbox.
fn measured() -> Value {
    let bench = env!("CARGO_BIN_EXE_tollgate-bench");
    let args = ["tokens", "--rounds", "1", "--tasks", &TASKS.to_string(), "--json"];
    let output = Command::new(bench).args(args).output().expect("the benchmark starts");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
}

#[test]
fn every_way_gives_the_right_answers_and_the_numbers_repeat() {
    let (first, second) = (measured(), measured());
    assert_eq!(first, second);
    let ways = first.as_array().expect("one entry for each way");
    assert_eq!(ways.len(), WAYS, "{first}");
    for way in ways {
        assert_eq!(way["tasks"], TASKS, "{way}");
        assert_eq!(way["correct"], TASKS, "{way}");
    }
    // The classic prompts carry 96 definitions each, and none of the others does.
    let (classic, others) = (ways[0]["input_tokens"].as_u64(), &ways[2..]);
    assert_eq!(ways[0]["way"], "classic");
    assert!(classic > Some(100_000), "{first}");
    assert!(others.iter().all(|way| way["input_tokens"].as_u64().map(|tokens| tokens * 2) < classic), "{first}");
}
