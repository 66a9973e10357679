//! Every tool of the fixtures: names, stubs that Python can read, time. `TOLLGATE_CORPUS=<folder>` walks another folder too and
//! prints what the stubs save.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::collections::HashSet;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tollgate_codemode::{Binding, Library, ServerDef, ToolDef};

struct Server {
    name: String,
    bytes: usize,
    tools: Vec<ToolDef>,
}

impl Server {
    fn library(&self, binding: Binding) -> Library {
        Library::new(vec![ServerDef { name: self.name.clone(), description: None, binding, tools: self.tools.clone() }])
    }
}

fn folders() -> Vec<PathBuf> {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    std::iter::once(own).chain(std::env::var_os("TOLLGATE_CORPUS").map(PathBuf::from)).collect()
}

fn servers() -> Vec<Server> {
    let mut out = Vec::new();
    for folder in folders() {
        let mut paths: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
        paths.retain(|p| p.extension().is_some_and(|e| e == "json"));
        paths.sort();
        for path in paths {
            let answer: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
            let tools = answer["tools"].as_array().unwrap().iter().enumerate();
            out.push(Server {
                name: path.file_stem().unwrap().to_str().unwrap().replace('-', "_"),
                bytes: answer.to_string().len(),
                tools: tools
                    .map(|(at, t)| {
                        let name = t["name"].as_str().unwrap().to_owned();
                        ToolDef { tool_id: format!("tool_{at}"), name, definition: Arc::new(t.clone()) }
                    })
                    .collect(),
            });
        }
    }
    out
}

fn whole(library: &Library, path: &str) -> String {
    let mut out = String::new();
    let mut start = 1;
    loop {
        let part = library.read_file(path, Some(start), None).unwrap();
        match part.rsplit_once("# cut here; continue with startLine=") {
            Some((lines, next)) => {
                out.push_str(lines);
                start = next.trim().parse().unwrap();
            }
            None => return out + &part,
        }
    }
}

/// A function's name, and its parameters with whether they are required.
type Signature = (String, Vec<(String, bool)>);

/// The functions of each source, as Python itself reads them.
fn signatures(sources: &[String]) -> Vec<Vec<Signature>> {
    const READER: &str = "
import ast, json, sys
out = []
for source in json.load(sys.stdin):
    found = []
    for node in ast.parse(source).body:
        assert isinstance(node, (ast.FunctionDef, ast.Assign)), ast.dump(node)
        if isinstance(node, ast.FunctionDef):
            assert len(node.body) == 1 and isinstance(node.body[0], ast.Expr) and node.body[0].value.value is ..., node.name
            a = node.args
            needed = len(a.args) - len(a.defaults)
            found.append([node.name, [[arg.arg, at < needed] for at, arg in enumerate(a.args)]])
    compile(source, 'stub', 'exec', flags=__import__('__future__').annotations.compiler_flag, dont_inherit=True)
    out.append(found)
print(json.dumps(out))
";
    let mut python = Command::new("python3")
        .args(["-c", READER])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 is needed");
    python.stdin.take().unwrap().write_all(serde_json::to_string(sources).unwrap().as_bytes()).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success(), "python does not read a stub");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn python_reads_every_stub_as_the_catalog_means_it() {
    for binding in [Binding::Server, Binding::Tool] {
        for server in servers() {
            let library = server.library(binding);
            let sources: Vec<String> = library.files().iter().map(|path| whole(&library, path)).collect();
            let read: Vec<_> = signatures(&sources).into_iter().flatten().collect();
            let meant: Vec<_> = library.catalog().servers[0]
                .tools
                .iter()
                .map(|t| (t.name.clone(), t.params.iter().map(|p| (p.name.clone(), p.required)).collect::<Vec<_>>()))
                .collect();
            assert_eq!(read, meant, "{}", server.name);
        }
    }
}

#[test]
fn names_are_identifiers_and_never_collide() {
    for server in servers() {
        let library = server.library(Binding::Server);
        let tools = &library.catalog().servers[0].tools;
        assert_eq!(tools.len(), server.tools.len());
        assert_eq!(tools.iter().map(|t| &t.name).collect::<HashSet<_>>().len(), tools.len(), "{}", server.name);
        for name in tools.iter().flat_map(|t| t.params.iter().map(|p| &p.name).chain([&t.name])) {
            assert!(
                name.chars().all(|c| c == '_' || c.is_ascii_alphanumeric()) && !name.starts_with(|c: char| c.is_ascii_digit()),
                "{name}"
            );
        }
    }
}

#[test]
fn every_tool_is_documented_in_time() {
    for server in servers() {
        let library = server.library(Binding::Tool);
        for (tool, path) in library.catalog().servers[0].tools.iter().zip(library.files()) {
            let start = Instant::now();
            library.read_file(&path, None, None).unwrap();
            let page = library.docs(&server.name, &tool.name).unwrap();
            // 50 ms is the promise; a shared machine gets some slack.
            assert!(start.elapsed() < Duration::from_millis(100), "{} {} took {:?}", server.name, tool.name, start.elapsed());
            assert!(page.contains(&format!("Example: r = {}.{}(", server.name, tool.name)));
        }
    }
}

/// Python's comment and the docs must hold no character that cannot be seen.
#[test]
fn nothing_hidden_comes_through() {
    for server in servers() {
        let library = server.library(Binding::Server);
        let mut all = whole(&library, &library.files()[0]);
        for tool in &library.catalog().servers[0].tools {
            all.push_str(&library.docs(&server.name, &tool.name).unwrap());
        }
        let bad = all.chars().find(|c| {
            (c.is_control() && *c != '\n') || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{feff}')
        });
        assert_eq!(bad, None, "{}", server.name);
    }
}

#[test]
fn stubs_are_far_smaller_than_schemas() {
    let (mut before, mut after, mut count) = (0, 0, 0);
    for server in servers() {
        let start = Instant::now();
        let library = server.library(Binding::Server);
        let made = start.elapsed();
        let stubs = whole(&library, &library.files()[0]);
        let docs: usize =
            library.catalog().servers[0].tools.iter().map(|t| library.docs(&server.name, &t.name).unwrap().len()).sum();
        let first = library.read_file(&library.files()[0], None, None).unwrap().len();
        println!(
            "{:22} {:4} tools  schema {:8}  stubs {:7} ({:4.1} %)  first read {first:6}  docs {docs:8}  new {made:?}, all {:?}",
            server.name,
            server.tools.len(),
            server.bytes,
            stubs.len(),
            100.0 * stubs.len() as f64 / server.bytes as f64,
            start.elapsed(),
        );
        (before, after, count) = (before + server.bytes, after + stubs.len(), count + server.tools.len());
    }
    println!("{count} tools: schema {before}, stubs {after}, {:.1} %", 100.0 * after as f64 / before as f64);
    assert!(after * 3 < before, "{after} of {before}");
}
