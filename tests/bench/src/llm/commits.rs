//! What a commit costs by itself: one row of a request through the writer that the worker has, to the same Postgres.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use futures::future::try_join_all;
use tollgate_boot::Config;
use tollgate_domain::{Clock, KeyId, LlmRequestId, Origin, Secrets, SystemClock, TenantId};
use tollgate_evidence::sign::{KeyRing, Signer};
use tollgate_store::audit::{AuditWriter, Entry, NewRequest, QueueLimits};

use crate::{
    dice::to_f64,
    installation::Installation,
    load::{Round, WARM_UP, quantile},
};

/// As many as the writer has tasks.
const CONNECTIONS: u32 = 2;

pub struct Commits {
    writer: AuditWriter,
    tenant: TenantId,
    key: KeyId,
}

impl Commits {
    pub async fn new(installation: &Installation, tenant: &str) -> Result<Self> {
        let secret = BASE64.decode(installation.secret.trim()).ok().and_then(|bytes| bytes.try_into().ok());
        let secrets = Secrets::from_bytes(secret.context("the secret is not 32 bytes in base64")?);
        let keys = Arc::new(KeyRing::new(Signer::from_seed(&secrets.signing_seed)?, []));
        let store = tollgate_store::connect(&installation.database_url, CONNECTIONS, keys).await?;
        let limits = Config::default().limits;
        let limits = QueueLimits { entries: limits.audit_queue, bytes: limits.audit_queue_bytes };
        Ok(Self { writer: AuditWriter::start(&store, limits), tenant: tenant.parse()?, key: KeyId::mint(SystemClock.now()) })
    }

    /// Let `callers` write a row each, again and again.
    pub async fn round(&self, callers: usize, length: Duration) -> Result<Round> {
        let begin = Instant::now() + WARM_UP;
        let end = begin + length;
        let tasks = (0..callers).map(|_| {
            let (writer, tenant, key) = (self.writer.clone(), self.tenant, self.key);
            tokio::spawn(async move {
                let mut micros = Vec::new();
                loop {
                    let asked = Instant::now();
                    if asked >= end {
                        return anyhow::Ok(micros);
                    }
                    let entry = Entry { request: Some(request(tenant, key)), ..Entry::default() };
                    writer.before(entry).await?;
                    if asked >= begin {
                        micros.push(u64::try_from(asked.elapsed().as_micros())?);
                    }
                }
            })
        });
        let mut micros = Vec::new();
        for caller in try_join_all(tasks).await? {
            micros.extend(caller?);
        }
        micros.sort_unstable();
        Ok(Round {
            per_second: to_f64(micros.len()) / length.as_secs_f64(),
            p50_us: quantile(&micros, 0.5),
            p99_us: quantile(&micros, 0.99),
            answered: micros.len(),
            ..Round::default()
        })
    }
}

/// The parent of a call that names none: the smallest row there is.
fn request(tenant: TenantId, key: KeyId) -> NewRequest {
    let at = SystemClock.now();
    NewRequest {
        tenant,
        id: LlmRequestId::mint(at),
        key,
        team: None,
        origin: Origin::Minted,
        method: "/v1/mcp/tool/execute",
        model: None,
        client: None,
        at,
        prompt_tokens_avoided: None,
        forward: None,
    }
}
