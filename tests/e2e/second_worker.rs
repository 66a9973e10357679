//! `tollgate worker` as a process of its own, beside the one inside `tollgate up`.

use std::{sync::Arc, time::Duration};

use serde_json::Value;

use crate::harness::{Process, Tollgate, binary, clean_command, free_port, http_client, until};

pub struct Worker {
    pub process: Arc<Process>,
    pub url: String,
}

/// Unlike `up`, a worker of its own refuses private addresses, where the tests' upstreams are.
const SETTINGS: &str = "[upstream]\nallow_private_networks = true\n";

impl Worker {
    /// Start one against the database of `up`, and wait until it serves.
    pub async fn start(up: &Tollgate) -> Self {
        let secrets = std::fs::read_to_string(up.data_dir.join("secrets.json")).expect("secrets.json");
        let secrets: Value = serde_json::from_str(&secrets).expect("JSON");
        let settings = up.data_dir.join("second-worker.toml");
        std::fs::write(&settings, SETTINGS).expect("the settings");
        let port = free_port();
        let mut command = clean_command(&binary("tollgate"));
        command.arg("worker").args(["--listen", &format!("127.0.0.1:{port}")]).args(["--database-url", &up.database_url()]);
        command.arg("--config").arg(settings).env("TOLLGATE_SECRET", secrets["secret"].as_str().expect("the secret"));
        let process = Process::start("tollgate worker", &command);
        let (url, http) = (format!("http://127.0.0.1:{port}"), http_client());
        until("the worker serves", Duration::from_secs(60), async || {
            assert!(process.exited().is_none(), "the worker ended:\n{}", process.output());
            let ready = http.get(format!("{url}/readyz")).send().await.ok()?;
            ready.status().is_success().then_some(())
        })
        .await;
        Self { process, url }
    }
}
