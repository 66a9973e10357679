//! What the stubs tell a model to write passes the check: the example of every tool of the fixtures becomes a call.
//! `TOLLGATE_CORPUS=<folder>` walks another folder too.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use serde_json::Value as Json;
use tollgate_codemode::wire::{Catalog, Language, Limits, Outcome, Step};
use tollgate_codemode::{Binding, Languages, Library, ServerDef, ToolDef};
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

fn walk(language: Language) -> (usize, usize, Vec<String>) {
    let (mut examples, mut typed, mut wrong) = (0, 0, Vec::new());
    for server in servers() {
        let offered = Languages::parse([language.name()]).unwrap();
        let library = Library::offering(offered, vec![server]);
        let listed = &library.catalog().servers[0];
        if language == Language::Typescript {
            for path in library.files() {
                let stub = (1..).step_by(50).map_while(|from| library.read_file(&path, Some(from), Some(from + 49)).ok());
                let source = stub.collect::<String>();
                let limits = Limits { source_bytes: usize::MAX, ..Limits::default() };
                let step = Step { language, source, catalog: Catalog::default(), journal: Vec::new(), limits };
                let reply = engine::step(step);
                if !matches!(&reply.outcome, Outcome::Done { result } if result.is_null()) {
                    wrong.push(format!("{path} is no TypeScript: {:?}", reply.outcome));
                }
            }
        }
        for tool in &listed.tools {
            let docs = library.docs(&listed.name, &tool.name).unwrap();
            let example = docs.lines().find_map(|line| line.strip_prefix("Example: ")).unwrap();
            examples += 1;
            typed += usize::from(tool.params.iter().any(|p| !p.types.is_empty()));
            let reply = engine::step(Step {
                language,
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
    for language in [Language::Python, Language::Typescript] {
        let work = thread::Builder::new().stack_size(STACK_BYTES).spawn(move || walk(language));
        let (examples, typed, wrong) = work.unwrap().join().unwrap();
        println!("{examples} examples, {typed} of tools with types that are known");
        assert!(wrong.is_empty(), "{} of {examples}:\n{}", wrong.len(), wrong.join("\n"));
        assert!(examples > 100 && typed > 100, "{examples} examples, {typed} of them typed, are too few");
    }
}
