//! The trail as an outsider reads it: bundles and what `tollgate verify` says of them, and the log beside the rows.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use sqlx::{PgPool, Row};
use tollgate_evidence::{
    batch,
    line::{Kind, Place},
};
use uuid::Uuid;

use super::{Tenant, binary, clean_command, http_client, until};

/// What `tollgate verify` said.
#[derive(Debug, Clone)]
pub struct Verdict {
    pub code: Option<i32>,
    pub text: String,
}

impl Verdict {
    /// With `--json`.
    #[track_caller]
    pub fn report(&self) -> serde_json::Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    #[track_caller]
    pub fn sound(&self) -> &str {
        assert!(self.code == Some(0) && self.text.contains("SOUND: nothing was edited"), "{self:?}");
        &self.text
    }
}

pub fn verify(bundle: &Path, flags: &[&str]) -> Verdict {
    let mut command = clean_command(&binary("tollgate"));
    let output = command.arg("verify").arg(bundle).args(flags).output().expect("tollgate verify");
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    Verdict { code: output.status.code(), text }
}

impl Tenant {
    /// Export all of the tenant's log into a file.
    pub async fn bundle(&self, path: &Path) {
        self.export("bundle", path).await;
    }

    /// Export all that the tenant has into a file.
    pub async fn export(&self, format: &str, path: &Path) {
        let url = format!("{}{}", self.admin.url, self.path(&format!("audit/export?format={format}")));
        let token = self.admin.token.as_deref().expect("a token");
        let answer = http_client().get(url).bearer_auth(token).send().await.expect("an answer");
        assert_eq!(answer.status().as_u16(), 200);
        fs::write(path, answer.bytes().await.expect("a whole file")).expect("a file");
    }
}

/// Wait until everything has its place in the log.
pub async fn all_sealed(pool: &PgPool, limit: Duration) {
    until("all rows are sealed", limit, async || {
        let waiting: i64 = sqlx::query_scalar("SELECT count(*) FROM audit_batches").fetch_one(pool).await.ok()?;
        (waiting == 0).then_some(())
    })
    .await;
}

/// How often each row stands in its tenant's log.
pub async fn log(pool: &PgPool) -> BTreeMap<(Uuid, Place), usize> {
    let mut found = BTreeMap::new();
    let rows = sqlx::query("SELECT tenant_id, entries FROM audit_entries").fetch_all(pool).await.expect("the log");
    for row in rows {
        let entries = batch::unpack_sealed(row.get("entries")).expect("entries");
        for (place, _) in entries {
            *found.entry((row.get("tenant_id"), place)).or_default() += 1;
        }
    }
    found
}

/// Every row of the trail, under the number of its kind of line.
const ROWS: [(Kind, &str); 11] = [
    (Kind::LlmRequest, "SELECT tenant_id, llm_request_id, 0 FROM llm_requests"),
    (Kind::LlmEnd, "SELECT tenant_id, llm_request_id, 0 FROM llm_request_ends WHERE kind = 1"),
    (Kind::LlmResolution, "SELECT tenant_id, llm_request_id, 0 FROM llm_request_ends WHERE kind = 2"),
    (Kind::ScriptStart, "SELECT tenant_id, script_run_id, 0 FROM script_run_starts"),
    (Kind::CallIntent, "SELECT tenant_id, call_id, 0 FROM tool_call_events WHERE kind = 0"),
    (Kind::CallCompletion, "SELECT tenant_id, call_id, 0 FROM tool_call_events WHERE kind = 1"),
    (Kind::CallResolution, "SELECT tenant_id, call_id, 0 FROM tool_call_events WHERE kind = 2"),
    (Kind::ScriptJournal, "SELECT tenant_id, script_run_id, sequence FROM script_journal"),
    (Kind::ScriptEnd, "SELECT tenant_id, script_run_id, 0 FROM script_run_ends WHERE kind = 1"),
    (Kind::ScriptResolution, "SELECT tenant_id, script_run_id, 0 FROM script_run_ends WHERE kind = 2"),
    (Kind::AdminEvent, "SELECT tenant_id, event_id, 0 FROM admin_events"),
];

/// Every row of the trail stands in its tenant's log once, the log holds nothing else, and the sealer found nothing wrong.
/// Answers how many there are.
pub async fn every_row_is_sealed_once(pool: &PgPool) -> usize {
    let mut log = log(pool).await;
    let rows = log.len();
    for (kind, sql) in ROWS {
        let found: Vec<(Uuid, Uuid, i32)> = sqlx::query_as(sql).fetch_all(pool).await.expect("the rows");
        for (tenant, id, sequence) in found {
            let place = Place { kind, id, sequence: u32::try_from(sequence).expect("a sequence") };
            assert_eq!(log.remove(&(tenant, place)), Some(1), "how often {place:?} of {tenant} stands in the log");
        }
    }
    assert!(log.is_empty(), "in the log and not in the tables: {log:?}");
    let anomalies: Vec<serde_json::Value> = sqlx::query_scalar("SELECT detail FROM admin_events WHERE action = 'audit.anomaly'")
        .fetch_all(pool)
        .await
        .expect("events");
    assert!(anomalies.is_empty(), "{anomalies:?}");
    rows
}
