//! The keys of what rests sealed: from one to the next while everything runs, and what is said where one is missing.

use std::{
    collections::BTreeMap,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Output},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Value, json};

use crate::{
    harness::{Admin, Key, Models, Options, Recorder, Tenant, Tollgate, binary, clean_command},
    llm::{CANARY, ask, provider},
};

const HEADER: &str = "canary-header-0123456789";
/// Stands in front of a key management service: what is wrapped has a word in front.
const KMS: &str = r#"#!/bin/sh
read text
[ -z "$SEAL_OLD$TOLLGATE_SECRET" ] || exit 9
case "$1 $2" in
  "wrap new") { printf wrapped; printf %s "$text" | base64 -d; } | base64 -w0 ;;
  "unwrap new") printf %s "$text" | base64 -d | tail -c +8 | base64 -w0 ;;
  *) echo "no key $2 here" >&2; exit 1 ;;
esac
"#;

struct World {
    tollgate: Tollgate,
    tenant: Tenant,
    key: Key,
    config: String,
    /// What the command is given.
    settings: PathBuf,
    /// Everything that was said so far.
    said: String,
}

impl World {
    async fn chat(&mut self) -> (u16, String) {
        let url = format!("{}/v1/chat/completions", self.tollgate.gateway_url);
        let body = json!({"model": "echo", "messages": [{"role": "user", "content": "still here"}]});
        let got = ask(&url, &self.key.secret, &[], body).await;
        self.said += &got.text;
        (got.status, got.text)
    }

    /// Stop, and start with another configuration.
    async fn restart(&mut self, config: &str) {
        self.tollgate.stop();
        self.said += &self.tollgate.process.output();
        self.tollgate =
            self.tollgate.restart_with(|options| (options.config, options.env) = (config.to_owned(), environment(config))).await;
        self.config = config.to_owned();
        // Workers serve by a configuration of at most a second ago, and upstreams are connected to.
        tokio::time::sleep(Duration::from_millis(1_100)).await;
    }

    async fn secrets(&mut self, verb: &str) -> (bool, String) {
        let kept = std::fs::read_to_string(self.tollgate.data_dir.join("secrets.json")).expect("secrets.json");
        let kept: Value = serde_json::from_str(&kept).expect("JSON");
        let mut command = clean_command(&binary("tollgate"));
        command.args(["secrets", verb, "--database-url", &self.tollgate.database_url()]);
        std::fs::write(&self.settings, &self.config).expect("written");
        command.arg("--config").arg(&self.settings);
        command.env("TOLLGATE_SECRET", kept["secret"].as_str().expect("the secret")).envs(environment(&self.config));
        let (good, text) = run(command).await;
        self.said += &text;
        (good, text)
    }
}

fn old_key() -> String {
    BASE64.encode([0xA7; 32])
}

/// Where a configuration has it read the old key from.
fn environment(config: &str) -> BTreeMap<String, String> {
    config.contains("SEAL_OLD").then(|| ("SEAL_OLD".to_owned(), old_key())).into_iter().collect()
}

async fn run(mut command: Command) -> (bool, String) {
    let Output { status, stdout, stderr } =
        tokio::task::spawn_blocking(move || command.output()).await.expect("it ends").expect("it runs");
    (status.success(), format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr)))
}

async fn header_comes(recorder: &Recorder) -> bool {
    recorder.headers().last().is_some_and(|headers| headers.get("x-canary").is_some_and(|value| value == HEADER))
}

#[tokio::test]
async fn credentials_go_from_one_key_to_the_next_and_a_missing_key_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let kms = folder.path().join("kms");
    std::fs::write(&kms, KMS).expect("written");
    std::fs::set_permissions(&kms, std::fs::Permissions::from_mode(0o755)).expect("its mode");
    let service = format!("[secrets]\nkms_command = ['{}']\n", kms.display());
    let settings = folder.path().join("kms.toml");
    std::fs::write(&settings, &service).expect("written");
    let mut make = clean_command(&binary("tollgate"));
    make.args(["secrets", "make-key", "--wrap", "new", "--config"]).arg(&settings);
    let (made, wrapped) = run(make).await;
    assert!(made, "{wrapped}");
    let wrapped = wrapped.trim().to_owned();
    let new_key = BASE64.encode(&BASE64.decode(&wrapped).expect("base64")[7..]);

    let old = "[[secrets.key]]\nname = 'old'\nenv = 'SEAL_OLD'\n";
    let new = format!("[[secrets.key]]\nname = 'new'\nwrapped = '{wrapped}'\n");
    let tollgate = Tollgate::start(Options { config: old.to_owned(), env: environment(old), ..Options::default() }).await;
    let tenant = Tenant::new(&tollgate, "Keys").await;
    let (models, recorder) = (Models::start(), Recorder::start());
    let id = provider(&tenant, "openai", "openai", &models.base(), json!({})).await;
    let transport = json!({"type": "http", "url": recorder.url(), "headers": {"x-canary": HEADER}});
    let upstream = tenant.upstream("rec", transport, "classic").await;
    let (key, _) = tenant.open(&[&upstream]).await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let mut world = World { tollgate, tenant, key, config: old.to_owned(), settings, said: String::new() };
    assert_eq!(world.chat().await.0, 200);
    assert!(header_comes(&recorder).await);

    // Both keys are there, and everything goes on while all of it is sealed anew.
    world.restart(&format!("{service}{new}{old}")).await;
    let (good, status) = world.secrets("status").await;
    assert!(
        good && status.contains("\"old\": 1 providers, 1 upstreams") && status.contains("`tollgate secrets rotate`"),
        "{status}"
    );
    let (rotated, chats) = {
        let url = format!("{}/v1/chat/completions", world.tollgate.gateway_url);
        let secret = world.key.secret.clone();
        let asking = tokio::spawn(async move {
            let mut all = Vec::new();
            for _ in 0..20 {
                let body = json!({"model": "echo", "messages": [{"role": "user", "content": "go on"}]});
                all.push(ask(&url, &secret, &[], body).await.status);
            }
            all
        });
        (world.secrets("rotate").await, asking.await.expect("they are answered"))
    };
    assert!(rotated.0 && rotated.1.contains("every row is under the key that seals"), "{}", rotated.1);
    assert!(rotated.1.contains("needed no more, once every process has \"new\" first: \"old\""), "{}", rotated.1);
    assert!(chats.iter().all(|status| *status == 200), "{chats:?}");
    assert_eq!(world.chat().await.0, 200);
    let events = world.tenant.list("admin-events").await;
    assert!(events.iter().any(|event| event["action"] == "secrets.rotate" && event["detail"]["key_name"] == "new"), "{events:?}");
    world.said += &json!(events).to_string();

    // The old key is gone.
    world.restart(&format!("{service}{new}")).await;
    assert_eq!(world.chat().await.0, 200);
    assert!(header_comes(&recorder).await);
    let (good, status) = world.secrets("status").await;
    assert!(good && status.contains("which seals: 1 providers, 1 upstreams"), "{status}");

    // And the new one by mistake.
    world.restart(old).await;
    let (status, told) = world.chat().await;
    assert!(status == 502 && told.contains("tollgate secrets status"), "{status} {told}");
    let patch = json!({"keys": [{"name": "main", "weight": 3}]});
    let refused = world.tenant.patch(&format!("providers/{id}"), patch.clone()).await;
    assert_eq!(refused.status, 500, "{}", refused.text);
    assert!(refused.text.contains("[[secrets.key]]") && refused.text.contains("is sealed under the key"), "{}", refused.text);
    world.said += &refused.text;
    let (good, status) = world.secrets("status").await;
    assert!(!good && status.contains("WHICH IS NOT HERE: 1 providers, 1 upstreams"), "{status}");
    let (good, rotated) = world.secrets("rotate").await;
    assert!(!good && rotated.contains("could not be opened"), "{rotated}");

    // What was left as it was opens again.
    world.restart(&format!("{service}{old}{new}")).await;
    assert_eq!(world.chat().await.0, 200);
    assert_eq!(world.tenant.patch(&format!("providers/{id}"), patch).await.status, 200);
    assert_eq!(world.chat().await.0, 200);

    let admin: Admin = world.tollgate.admin();
    for path in [world.tenant.path("providers"), world.tenant.path("upstreams"), world.tenant.path("llm-requests")] {
        world.said += &admin.get(&path).await.text;
    }
    world.tollgate.stop();
    world.said += &world.tollgate.process.output();
    for hidden in [CANARY, HEADER, &new_key, &old_key(), &hex(&[0xA7; 32]), "167, 167"] {
        assert!(!world.said.contains(hidden), "{hidden} stands in an answer or in a log");
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_process_whose_keys_are_not_there_does_not_start_and_says_why() {
    for (config, told) in [
        (
            "[[secrets.key]]\nname = 'a'\nenv = 'NOT_SET_ANYWHERE'\n",
            "secrets key \"a\": the environment has no variable NOT_SET_ANYWHERE",
        ),
        (
            "[secrets]\nkms_command = ['/bin/false']\n[[secrets.key]]\nname = 'a'\nwrapped = 'AAAA'\n",
            "cannot unwrap the key \"a\"",
        ),
    ] {
        let process = Tollgate::try_start(Options { config: config.to_owned(), ..Options::default() })
            .await
            .expect_err("it must not start");
        assert!(process.output().contains(told), "{}", process.output());
    }
}
