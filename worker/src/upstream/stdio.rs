//! A program of the operator's, spoken to over its standard input and output: one JSON-RPC message a line.

use std::{process::Stdio, sync::Arc};

use rmcp::{
    RoleClient,
    service::{RxJsonRpcMessage, TxJsonRpcMessage},
    transport::Transport,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::{Mutex, mpsc},
};
use tollgate_boot::config::Program;

use super::raw::{self, RawIds};

/// A longer line of a program's log is cut into several.
const MAX_STDERR_LINE: u64 = 4096;
/// Messages that wait to be handled; a program that talks faster is not read until they are.
const QUEUE: usize = 256;
/// What a program inherits of our environment: enough to find its interpreter, no secret of ours.
const INHERITED: [&str; 6] = ["PATH", "HOME", "LANG", "TMPDIR", "USER", "SHELL"];

pub struct ProgramTransport {
    stdin: Option<Arc<Mutex<ChildStdin>>>,
    messages: mpsc::Receiver<RxJsonRpcMessage<RoleClient>>,
    raw: RawIds,
    child: Child,
    group: Option<rustix::process::Pid>,
}

impl ProgramTransport {
    /// Start the program; a message of it longer than `max_message` bytes ends the connection.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(program: &Program, max_message: usize) -> std::io::Result<Self> {
        let mut command = Command::new(&program.command);
        command.args(&program.args).env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        #[expect(clippy::disallowed_methods, reason = "a child's environment is ours to hand down, name by name")]
        command.envs(INHERITED.iter().filter_map(|name| Some((*name, std::env::var(name).ok()?))));
        command.envs(&program.env).kill_on_drop(true).process_group(0);
        if let Some(cwd) = &program.cwd {
            command.current_dir(cwd);
        }
        let mut child = command.spawn()?;
        let closed = || std::io::Error::other("the program has no standard streams");
        let stdin = child.stdin.take().ok_or_else(closed)?;
        let stdout = child.stdout.take().ok_or_else(closed)?;
        let stderr = child.stderr.take().ok_or_else(closed)?;
        let raw = RawIds::default();
        let (to, messages) = mpsc::channel(QUEUE);
        tokio::spawn(read_messages(stdout, raw.clone(), to, program.name.clone(), max_message as u64));
        let name = program.name.clone();
        tokio::spawn(async move {
            // Read to the end whatever it holds: a program whose stderr is closed may die of it.
            let (mut reader, mut line) = (BufReader::new(stderr), Vec::new());
            while (&mut reader).take(MAX_STDERR_LINE).read_until(b'\n', &mut line).await.is_ok_and(|read| read > 0) {
                tracing::debug!(program = name, line = %String::from_utf8_lossy(&line).trim_end(), "stderr");
                line.clear();
            }
        });
        let group = child.id().and_then(|id| rustix::process::Pid::from_raw(i32::try_from(id).ok()?));
        Ok(Self { stdin: Some(Arc::new(Mutex::new(stdin))), messages, raw, child, group })
    }
}

async fn read_messages(
    stdout: ChildStdout,
    raw: RawIds,
    to: mpsc::Sender<RxJsonRpcMessage<RoleClient>>,
    program: String,
    max_message: u64,
) {
    let mut reader = BufReader::new(stdout);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut reader).take(max_message).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        if line.len() as u64 >= max_message {
            tracing::warn!(program, limit = max_message, "the program sent a message over the limit; its connection is closed");
            return;
        }
        let Ok(text) = std::str::from_utf8(&line) else { continue };
        let text = text.trim();
        if text.is_empty() {
            continue;
        }
        match raw.read(text) {
            Ok(message) => {
                if to.send(message).await.is_err() {
                    return;
                }
            }
            // Many programs print a banner on the wrong stream.
            Err(error) => tracing::debug!(program, %error, "not a JSON-RPC message"),
        }
    }
}

impl Transport<RoleClient> for ProgramTransport {
    type Error = std::io::Error;

    fn send(&mut self, item: TxJsonRpcMessage<RoleClient>) -> impl Future<Output = std::io::Result<()>> + Send + 'static {
        self.raw.sent(&item);
        let stdin = self.stdin.clone();
        async move {
            let stdin = stdin.ok_or(std::io::ErrorKind::BrokenPipe)?;
            // A line break outside a string means nothing, and inside one it cannot stand.
            let mut line = raw::write(&item)?.replace(['\n', '\r'], " ");
            line.push('\n');
            let mut stdin = stdin.lock().await;
            stdin.write_all(line.as_bytes()).await?;
            stdin.flush().await
        }
    }

    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleClient>> {
        self.messages.recv().await
    }

    async fn close(&mut self) -> std::io::Result<()> {
        // Closing its input asks a program to end; it gets a moment before it is killed.
        self.stdin = None;
        if tokio::time::timeout(std::time::Duration::from_secs(2), self.child.wait()).await.is_err() {
            self.child.kill().await?;
        }
        Ok(())
    }
}

impl Drop for ProgramTransport {
    /// Launchers such as `npx` run the server as a child of their own: the whole group goes.
    fn drop(&mut self) {
        if let Some(group) = self.group {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}
