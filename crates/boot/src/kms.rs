//! Keys of [`crate::config::Secrets`], from where they stand to the bytes: the environment, a file, or behind a key management service.

use std::{path::Path, process::Stdio, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::Command,
};

use crate::config::{KeySource, SealingKey, Secrets};

/// What a service answers is a key, or a key in a wrapper.
const MAX_ANSWER: u64 = 64 << 10;
/// Of what a program says that failed.
const MAX_TOLD: usize = 500;

/// A service that keeps a key which never leaves it, and with that wraps others.
pub trait Kms: Sync {
    /// # Errors
    /// A sentence for an operator, without the key.
    fn wrap(&self, name: &str, key: &[u8]) -> impl Future<Output = Result<Vec<u8>, String>> + Send;

    /// # Errors
    /// A sentence for an operator, without the key.
    fn unwrap(&self, name: &str, wrapped: &[u8]) -> impl Future<Output = Result<Vec<u8>, String>> + Send;
}

/// The operator's program in front of whichever service there is.
#[derive(Debug)]
pub struct KmsCommand<'a> {
    command: &'a [String],
    patience: Duration,
    /// Variables that are not handed on: those that hold keys.
    hidden: Vec<&'a str>,
}

impl<'a> KmsCommand<'a> {
    #[must_use]
    pub fn new(secrets: &'a Secrets) -> Self {
        let hidden = secrets.keys.iter().filter_map(|key| key.env.as_deref()).collect();
        Self { command: &secrets.kms_command, patience: secrets.kms_patience(), hidden }
    }

    async fn ask(&self, verb: &str, name: &str, input: &[u8]) -> Result<Vec<u8>, String> {
        let (program, args) = self.command.split_first().ok_or("secrets.kms_command is not set")?;
        let input = BASE64.encode(input);
        let mut command = Command::new(program);
        command
            .args(args)
            .args([verb, name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        for (variable, _) in std::env::vars_os() {
            let text = variable.to_string_lossy();
            let ours = text.starts_with("TOLLGATE_") || matches!(&*text, "DATABASE_URL" | "REDIS_URL");
            if ours || self.hidden.contains(&&*text) {
                command.env_remove(&variable);
            }
        }
        let failed = |why: String| format!("secrets.kms_command {program:?} cannot {verb} the key {name:?}: {why}");
        let told = tokio::time::timeout(self.patience, run(command, &input)).await;
        let (status, out, said) = match told {
            Ok(told) => told.map_err(|error| failed(error.to_string()))?,
            Err(_) => return Err(failed(format!("no answer within {} s", self.patience.as_secs()))),
        };
        if !status.success() {
            return Err(failed(format!("{status}: {}", quoted(&said, &[&input, &out]))));
        }
        BASE64.decode(out.trim()).map_err(|_| failed("its answer is not base64".to_owned()))
    }
}

impl Kms for KmsCommand<'_> {
    async fn wrap(&self, name: &str, key: &[u8]) -> Result<Vec<u8>, String> {
        self.ask("wrap", name, key).await
    }

    async fn unwrap(&self, name: &str, wrapped: &[u8]) -> Result<Vec<u8>, String> {
        self.ask("unwrap", name, wrapped).await
    }
}

async fn run(mut command: Command, input: &str) -> std::io::Result<(std::process::ExitStatus, String, String)> {
    let mut child = command.spawn()?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async {
        if let Some(mut stdin) = stdin {
            // A program that has seen enough may have closed it.
            let _ = stdin.write_all(format!("{input}\n").as_bytes()).await;
        }
    };
    let ((), out, said, status) = tokio::join!(write, read(stdout), read(stderr), child.wait());
    Ok((status?, out?, said?))
}

async fn read(from: Option<impl tokio::io::AsyncRead + Unpin>) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        from.take(MAX_ANSWER).read_to_end(&mut bytes).await?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What a program said last, should it have said why, without what it was given and gave.
fn quoted(said: &str, hide: &[&str]) -> String {
    let mut said = said.to_owned();
    for text in hide.iter().map(|text| text.trim()).filter(|text| !text.is_empty()) {
        said = said.replace(text, "[key]");
    }
    let line = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it does not say why");
    line.chars().filter(|c| !c.is_control()).take(MAX_TOLD).collect()
}

/// A key with its name.
pub type Loaded = (String, [u8; 32]);

/// All keys of the configuration, in its order.
///
/// # Errors
/// A sentence that names the key and what to do, without the key.
pub async fn load(secrets: &Secrets, kms: &impl Kms) -> Result<Vec<Loaded>, String> {
    let mut keys = Vec::with_capacity(secrets.keys.len());
    for key in &secrets.keys {
        let bytes = load_one(key, kms).await.map_err(|why| format!("secrets key {:?}: {why}", key.name))?;
        if let Some((other, _)) = keys.iter().find(|(_, kept)| *kept == bytes) {
            return Err(format!("the secrets keys {other:?} and {:?} are the same key", key.name));
        }
        keys.push((key.name.clone(), bytes));
    }
    Ok(keys)
}

async fn load_one(key: &SealingKey, kms: &impl Kms) -> Result<[u8; 32], String> {
    let read = |path: &Path| std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()));
    let plain = match key.source().ok_or("needs exactly one of env, file, wrapped and wrapped_file")? {
        KeySource::Env(name) => decode(&variable(name)?)?,
        KeySource::File(path) => decode(&read(path)?)?,
        KeySource::Wrapped(text) => kms.unwrap(&key.name, &decode(text)?).await?,
        KeySource::WrappedFile(path) => kms.unwrap(&key.name, &decode(&read(path)?)?).await?,
    };
    let length = plain.len();
    plain.try_into().map_err(|_| format!("it must be 32 bytes, this one is {length}; `tollgate secrets make-key` makes one"))
}

#[expect(clippy::disallowed_methods, reason = "the configuration names the variable")]
fn variable(name: &str) -> Result<String, String> {
    std::env::var(name).map_err(|_| format!("the environment has no variable {name}"))
}

/// The text itself never appears in an error.
fn decode(text: &str) -> Result<Vec<u8>, String> {
    BASE64.decode(text.trim()).map_err(|_| "it is not base64".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Turns bytes around.
    struct Mirror;

    impl Kms for Mirror {
        async fn wrap(&self, _: &str, key: &[u8]) -> Result<Vec<u8>, String> {
            Ok(key.iter().rev().copied().collect())
        }

        async fn unwrap(&self, name: &str, wrapped: &[u8]) -> Result<Vec<u8>, String> {
            if name == "gone" { Err("it is gone".to_owned()) } else { self.wrap(name, wrapped).await }
        }
    }

    fn key(name: &str) -> SealingKey {
        SealingKey { name: name.to_owned(), ..SealingKey::default() }
    }

    fn script(folder: &Path, text: &str) -> Secrets {
        let path = folder.join("kms");
        std::fs::write(&path, text).expect("written");
        let command = ["/bin/sh".to_owned(), path.to_string_lossy().into_owned()];
        Secrets { kms_command: command.into(), kms_seconds: 1, ..Secrets::default() }
    }

    #[tokio::test]
    async fn keys_come_from_files_and_from_behind_a_service() {
        let folder = tempfile::tempdir().expect("a folder");
        let (bytes, mut mirrored) = ([[1; 31].as_slice(), &[2]].concat(), [[1; 31].as_slice(), &[2]].concat());
        mirrored.reverse();
        std::fs::write(folder.path().join("a"), BASE64.encode([9; 32]) + "\n").expect("written");
        std::fs::write(folder.path().join("c"), BASE64.encode([[3; 31].as_slice(), &[4]].concat())).expect("written");
        let keys = vec![
            SealingKey { file: Some(folder.path().join("a")), ..key("a") },
            SealingKey { wrapped: Some(BASE64.encode(&mirrored)), ..key("b") },
            SealingKey { wrapped_file: Some(folder.path().join("c")), ..key("c") },
        ];
        let loaded = load(&Secrets { keys, ..Secrets::default() }, &Mirror).await.expect("all are there");
        assert_eq!(loaded.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!((loaded[0].1, loaded[1].1.as_slice(), loaded[2].1[0]), ([9; 32], bytes.as_slice(), 4));
    }

    #[tokio::test]
    async fn what_is_no_key_is_refused_without_repeating_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let short = BASE64.encode([7; 16]);
        std::fs::write(folder.path().join("short"), &short).expect("written");
        std::fs::write(folder.path().join("text"), "hush hush").expect("written");
        std::fs::write(folder.path().join("good"), BASE64.encode([9; 32])).expect("written");
        let file = |name: &str| SealingKey { file: Some(folder.path().join(name)), ..key(name) };
        let twin = SealingKey { name: "twin".to_owned(), ..file("good") };
        for (keys, told) in [
            (vec![file("short")], "must be 32 bytes, this one is 16"),
            (vec![file("text")], "not base64"),
            (vec![file("missing")], "cannot read"),
            (vec![file("good"), twin], "are the same key"),
            (vec![SealingKey { env: Some("NO_SUCH_VARIABLE_HERE".to_owned()), ..key("e") }], "no variable NO_SUCH_VARIABLE_HERE"),
            (vec![SealingKey { wrapped: Some(BASE64.encode([1])), ..key("gone") }], "secrets key \"gone\": it is gone"),
        ] {
            let error = load(&Secrets { keys, ..Secrets::default() }, &Mirror).await.expect_err("must be refused");
            assert!(error.contains(told) && !error.contains(&short) && !error.contains("hush"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_program_wraps_and_unwraps_and_is_told_which_key() {
        let folder = tempfile::tempdir().expect("a folder");
        let secrets = script(folder.path(), "read text; echo \"$2\" > \"$(dirname \"$0\")/$1.asked\"; echo \"$text\"");
        let kms = KmsCommand::new(&secrets);
        assert_eq!(kms.wrap("2026", b"key").await, Ok(b"key".to_vec()));
        assert_eq!(kms.unwrap("2027", b"wrapped").await, Ok(b"wrapped".to_vec()));
        for (verb, name) in [("wrap", "2026\n"), ("unwrap", "2027\n")] {
            assert_eq!(std::fs::read_to_string(folder.path().join(format!("{verb}.asked"))).expect("it was asked"), name);
        }
    }

    #[tokio::test]
    async fn a_program_that_fails_is_quoted_without_the_key() {
        let folder = tempfile::tempdir().expect("a folder");
        let key = BASE64.encode(b"the very key");
        for (text, told) in [
            ("read text; echo noise >&2; echo \"denied $text\" >&2; exit 3", "denied [key]"),
            ("exit 4", "it does not say why"),
            ("echo '?!'", "not base64"),
            ("sleep 30", "no answer within 1 s"),
        ] {
            let secrets = script(folder.path(), text);
            let error = KmsCommand::new(&secrets).wrap("k", b"the very key").await.expect_err("it fails");
            assert!(error.contains(told) && !error.contains(&key), "{error}");
        }
        let missing = Secrets { kms_command: vec!["/no/such/program".to_owned()], ..Secrets::default() };
        let error = KmsCommand::new(&missing).unwrap("k", b"x").await.expect_err("it is not there");
        assert!(error.contains("/no/such/program"), "{error}");
    }
}
