//! Real MCP servers, as programs of the settings file and as processes of their own.

use std::{
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader, Write as _},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    http_client,
    process::{Process, binary, peer_file, python, root, until},
};

/// A server over standard input and output.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Of the program in the settings file.
    pub program: &'static str,
    pub command: PathBuf,
    pub args: Vec<String>,
}

/// The programs that every Tollgate of the harness lists. `files` is the folder that the file server serves, and the memory
/// of the memory server lies in it.
pub fn peers(dir: &Path) -> Vec<Peer> {
    let node = |package: &str| {
        peer_file(&format!("node/node_modules/@modelcontextprotocol/{package}/dist/index.js")).display().to_string()
    };
    let files = dir.join("files");
    fs::create_dir_all(&files).expect("a folder");
    // The file server answers resolved paths.
    let files = fs::canonicalize(files).expect("a folder").display().to_string();
    let peer = |program, command: PathBuf, args: &[String]| Peer { program, command, args: args.to_vec() };
    vec![
        peer("everything", "node".into(), &[node("server-everything"), "stdio".to_owned()]),
        peer("filesystem", "node".into(), &[node("server-filesystem"), files]),
        peer("memory", "node".into(), &[node("server-memory")]),
        peer("shop", binary("tollgate-demo-shop"), &["shop".to_owned()]),
        peer("clock", binary("tollgate-demo-shop"), &["clock".to_owned()]),
    ]
}

pub(super) fn programs(dir: &Path) -> String {
    let mut text = String::new();
    for peer in peers(dir) {
        let memory = dir.join("files/memory.jsonl");
        writeln!(
            text,
            "[[program]]\nname = {:?}\ncommand = {:?}\nargs = {:?}\nenv = {{ MEMORY_FILE_PATH = {:?} }}",
            peer.program, peer.command, peer.args, memory,
        )
        .expect("a string");
    }
    text
}

impl Peer {
    /// Speak to a server of one's own, without a gateway: the answers to these requests, in their order.
    pub fn ask(&self, requests: &[(&str, Value)]) -> Vec<Value> {
        let mut child = Command::new(&self.command)
            .args(&self.args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{} cannot be started: {error}", self.program));
        let mut to = child.stdin.take().expect("a pipe");
        let mut from = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let hello = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "tollgate-tests", "version": "1"}});
        let mut ask = |method: &str, params: &Value| {
            writeln!(to, "{}", json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})).expect("written");
            loop {
                let line = from.next().expect("an answer").expect("readable");
                let mut message: Value = serde_json::from_str(&line).expect("JSON");
                if message["id"] == 1 && message.get("method").is_none() {
                    assert!(message.get("result").is_some(), "{method}: {message}");
                    if method == "initialize" {
                        writeln!(to, "{}", json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).expect("written");
                    }
                    break message["result"].take();
                }
            }
        };
        ask("initialize", &hello);
        let answers = requests.iter().map(|(method, params)| ask(method, params)).collect();
        drop(child.kill());
        drop(child.wait());
        answers
    }
}

/// `tests/peers/fast.py`: a server over Streamable HTTP that is not ours, in both eras.
#[derive(Debug)]
pub struct FastMcp {
    pub url: String,
    pub process: Arc<Process>,
}

impl FastMcp {
    pub async fn start() -> Self {
        let port = free_port();
        let mut command = Command::new(python());
        command.arg(root().join("tests/peers/fast.py")).arg(port.to_string());
        let process = Process::start("fast.py", &command);
        let url = format!("http://127.0.0.1:{port}/mcp");
        until("fast.py serves", Duration::from_secs(60), || async {
            assert!(process.exited().is_none(), "fast.py ended:\n{}", process.output());
            http_client().get(&url).send().await.ok()
        })
        .await;
        Self { url, process }
    }
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port()
}
