//! `secrets.json`: what a second `tollgate up` on the same directory must find again. Mode 0600, never in the database.

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize};

use crate::{args::decode_secret, data_dir::DataDir, parts};

const FILE: &str = "secrets.json";

#[derive(Clone, Serialize, Deserialize)]
pub struct InstallationSecrets {
    /// 32 random bytes in base64; what `tollgate api` and `worker` take as TOLLGATE_SECRET.
    secret: String,
    pub admin_token: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub demo_keys: Vec<DemoKey>,
}

/// The API shows a key's secret once; the demo wants to show it on every start.
#[derive(Clone, Serialize, Deserialize)]
pub struct DemoKey {
    pub id: String,
    pub secret: String,
}

impl InstallationSecrets {
    pub fn load_or_create(dir: &DataDir) -> Result<Self> {
        if let Some(text) = dir.read(FILE)? {
            return serde_json::from_str(&text).with_context(|| {
                format!("{} is damaged; without it no key of this installation works", dir.file(FILE).display())
            });
        }
        let mut random = [0; 32];
        aws_lc_rs::rand::fill(&mut random).ok().context("the system gives no randomness")?;
        let made = Self { secret: BASE64.encode(random), admin_token: parts::new_admin_token(), demo_keys: Vec::new() };
        made.save(dir)?;
        Ok(made)
    }

    pub fn save(&self, dir: &DataDir) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        dir.write_private(FILE, &format!("{text}\n"))
    }

    pub fn bytes(&self) -> Result<[u8; 32]> {
        decode_secret(&self.secret)
    }

    /// The kept secret of a demo key, where it is that very key.
    pub fn demo_key(&self, id: &str) -> Option<&str> {
        self.demo_keys.iter().find(|key| key.id == id).map(|key| key.secret.as_str())
    }

    pub fn keep_demo_key(&mut self, id: &str, secret: &str) {
        self.demo_keys.retain(|key| key.id != id);
        self.demo_keys.push(DemoKey { id: id.to_owned(), secret: secret.to_owned() });
    }
}
