//! What the stubs tell a model to write passes the check: the example of every tool of the fixtures becomes a call.
//! `TOLLGATE_CORPUS=<folder>` walks another folder too.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use serde_json::Value as Json;
use tollgate_codemode::wire::{Language, Limits, Outcome, Step};
use tollgate_codemode::{Binding, Library, ServerDef, ToolDef};
use tollgate_sandbox::{engine, lockdown::STACK_BYTES};

fn servers() -> Vec<ServerDef> {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../crates/codemode/tests/fixtures");
    let folders = std::iter::once(own).chain(std::env::var_os("TOLLGATE_CORPUS").map(PathBuf::from));
    let mut files: Vec<PathBuf> = folders.flat_map(|f| fs::read_dir(f).unwrap().map(|e| e.unwrap().path())).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "json"));
    files.sort();
    let server = |file: &PathBuf| {
        let answer: Json = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
        let tools = answer["tools"].as_array().unwrap().iter().enumerate().map(|(at, tool)| ToolDef {
            tool_id: format!("tool_{at}"),
            name: tool["name"].as_str().unwrap().to_owned(),
            definition: Arc::new(tool.clone()),
        });
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        ServerDef { name, description: None, binding: Binding::Server, tools: tools.collect() }
    };
    files.iter().map(server).collect()
}

fn walk() -> (usize, usize, Vec<String>) {
    let (mut examples, mut typed, mut wrong) = (0, 0, Vec::new());
    for server in servers() {
        let library = Library::new(vec![server]);
        let listed = &library.catalog().servers[0];
        for tool in &listed.tools {
            let docs = library.docs(&listed.name, &tool.name).unwrap();
            let example = docs.lines().find_map(|line| line.strip_prefix("Example: ")).unwrap();
            examples += 1;
            typed += usize::from(tool.params.iter().any(|p| !p.types.is_empty()));
            let reply = engine::step(Step {
        language: Language::Python,
                source: example.to_owned(),
                catalog: library.catalog().clone(),
                journal: Vec::new(),
                limits: Limits::default(),
            });
            let is_called = matches!(&reply.outcome, Outcome::Need { calls } if calls.len() == 1 && calls[0].tool == tool.name);
            if !is_called || reply.may_call != [format!("{}.{}", listed.name, tool.name)] {
                wrong.push(format!("{example}\n  {:?} {:?}", reply.outcome, reply.may_call));
            }
        }
    }
    (examples, typed, wrong)
}

#[test]
fn every_tools_example_passes_the_check() {
    let (examples, typed, wrong) = thread::Builder::new().stack_size(STACK_BYTES).spawn(walk).unwrap().join().unwrap();
    println!("{examples} examples, {typed} of tools with types that are known");
    assert!(wrong.is_empty(), "{} of {examples}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(examples > 100 && typed > 100, "{examples} examples, {typed} of them typed, are too few");
}
