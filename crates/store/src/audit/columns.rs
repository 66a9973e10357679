//! A batch as columns: one array a column, one statement a batch.

use chrono::{DateTime, Utc};
use tollgate_domain::{Origin, Outcome, tool::sha256};
use uuid::Uuid;

use super::{Completion, Entry, Intent, JournalRow, NewRequest, NewRun};
use crate::{error::StoreResult, payload, tx::Tx};

#[derive(Default)]
pub(super) struct Batch {
    requests: Requests,
    runs: Runs,
    events: Events,
    payloads: Payloads,
    journal: Journal,
}

#[derive(Default)]
struct Requests {
    tenant: Vec<Uuid>,
    id: Vec<Uuid>,
    key: Vec<Uuid>,
    team: Vec<Option<Uuid>>,
    origin: Vec<&'static str>,
    method: Vec<&'static str>,
    model: Vec<Option<String>>,
    client: Vec<Option<String>>,
    at: Vec<DateTime<Utc>>,
}

#[derive(Default)]
struct Runs {
    tenant: Vec<Uuid>,
    id: Vec<Uuid>,
    request: Vec<Uuid>,
    key: Vec<Uuid>,
    team: Vec<Option<Uuid>>,
    source: Vec<String>,
    catalog: Vec<Vec<u8>>,
    catalog_sha256: Vec<Vec<u8>>,
    engine: Vec<String>,
    worker: Vec<Uuid>,
    at: Vec<DateTime<Utc>>,
}

#[derive(Default)]
struct Events {
    tenant: Vec<Uuid>,
    call: Vec<Uuid>,
    kind: Vec<i16>,
    at: Vec<DateTime<Utc>>,
    request: Vec<Option<Uuid>>,
    origin: Vec<Option<&'static str>>,
    run: Vec<Option<Uuid>>,
    sequence: Vec<Option<i32>>,
    key: Vec<Option<Uuid>>,
    team: Vec<Option<Uuid>>,
    upstream: Vec<Option<Uuid>>,
    upstream_name: Vec<Option<String>>,
    tool: Vec<Option<Uuid>>,
    tool_name: Vec<Option<String>>,
    definition: Vec<Option<Vec<u8>>>,
    decision: Vec<Option<&'static str>>,
    reason: Vec<Option<&'static str>>,
    price: Vec<Option<Uuid>>,
    quoted: Vec<Option<i64>>,
    currency: Vec<Option<String>>,
    worker: Vec<Option<Uuid>>,
    arguments_sha256: Vec<Option<Vec<u8>>>,
    outcome: Vec<Option<&'static str>>,
    error: Vec<Option<String>>,
    latency_us: Vec<Option<i64>>,
    amount: Vec<Option<i64>>,
    result_sha256: Vec<Option<Vec<u8>>>,
}

#[derive(Default)]
struct Payloads {
    tenant: Vec<Uuid>,
    call: Vec<Uuid>,
    kind: Vec<i16>,
    size: Vec<i32>,
    body: Vec<Vec<u8>>,
}

#[derive(Default)]
struct Journal {
    tenant: Vec<Uuid>,
    run: Vec<Uuid>,
    sequence: Vec<i32>,
    call: Vec<Uuid>,
    entry: Vec<Vec<u8>>,
}

/// Postgres's text cannot hold NUL; one in a message would refuse the whole batch.
fn text(value: &str) -> String {
    value.replace('\0', "\u{fffd}")
}

impl Batch {
    pub(super) fn push(&mut self, entry: &Entry) {
        if let Some(request) = &entry.request {
            self.requests.push(request);
        }
        if let Some(run) = &entry.run {
            self.runs.push(run);
        }
        for completion in &entry.completions {
            self.events.push_completion(completion);
            if let Some(result) = &completion.result {
                self.payloads.push(completion.tenant.uuid(), completion.id.uuid(), 1, result);
            }
        }
        for row in &entry.journal {
            self.journal.push(row);
        }
        if let Some(intent) = &entry.intent {
            self.events.push_intent(intent);
            self.payloads.push(intent.tenant.uuid(), intent.id.uuid(), 0, &intent.arguments);
        }
    }

    /// One statement: the rows of a batch exist together or not at all, after one round trip.
    pub(super) async fn insert(self, tx: &mut Tx) -> StoreResult<()> {
        let Self { requests: q, runs: r, events: e, payloads: p, journal: j } = self;
        sqlx::query!(
            "WITH requests AS (
               INSERT INTO llm_requests (tenant_id, llm_request_id, key_id, team_id, origin, method, model, client, at)
               SELECT * FROM UNNEST($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::text[], $7::text[], $8::text[],
                                    $9::timestamptz[])
               ON CONFLICT DO NOTHING),
             runs AS (
               INSERT INTO script_runs (tenant_id, script_run_id, llm_request_id, key_id, team_id, state, source, catalog,
                                        catalog_sha256, engine, worker_id, opened_at)
               SELECT t, id, request, key, team, 'running', source, catalog, hash, engine, worker, at
               FROM UNNEST($10::uuid[], $11::uuid[], $12::uuid[], $13::uuid[], $14::uuid[], $15::text[], $16::bytea[], $17::bytea[],
                           $18::text[], $19::uuid[], $20::timestamptz[])
                    AS n(t, id, request, key, team, source, catalog, hash, engine, worker, at)
               ON CONFLICT DO NOTHING),
             events AS (
               INSERT INTO tool_call_events (tenant_id, call_id, kind, at, llm_request_id, origin, script_run_id, sequence, key_id,
                                             team_id, upstream_id, upstream_name, tool_id, tool_name, definition_sha256, decision,
                                             reason, price_id, quoted_picos, currency, worker_id, arguments_sha256, outcome, error,
                                             latency_us, amount_picos, result_sha256)
               SELECT * FROM UNNEST($21::uuid[], $22::uuid[], $23::smallint[], $24::timestamptz[], $25::uuid[], $26::text[],
                                    $27::uuid[], $28::int[], $29::uuid[], $30::uuid[], $31::uuid[], $32::text[], $33::uuid[],
                                    $34::text[], $35::bytea[], $36::text[], $37::text[], $38::uuid[], $39::bigint[], $40::text[],
                                    $41::uuid[], $42::bytea[], $43::text[], $44::text[], $45::bigint[], $46::bigint[], $47::bytea[])
               ON CONFLICT DO NOTHING),
             payloads AS (
               INSERT INTO tool_call_payloads (tenant_id, call_id, kind, size, body)
               SELECT * FROM UNNEST($48::uuid[], $49::uuid[], $50::smallint[], $51::int[], $52::bytea[])
               ON CONFLICT DO NOTHING)
             INSERT INTO script_journal (tenant_id, script_run_id, sequence, call_id, entry)
             SELECT * FROM UNNEST($53::uuid[], $54::uuid[], $55::int[], $56::uuid[], $57::bytea[])
             ON CONFLICT DO NOTHING",
            &q.tenant as _, &q.id as _, &q.key as _, &q.team as _, &q.origin as _, &q.method as _, &q.model as _, &q.client as _,
            &q.at as _,
            &r.tenant as _, &r.id as _, &r.request as _, &r.key as _, &r.team as _, &r.source as _, &r.catalog as _,
            &r.catalog_sha256 as _, &r.engine as _, &r.worker as _, &r.at as _,
            &e.tenant as _, &e.call as _, &e.kind as _, &e.at as _, &e.request as _, &e.origin as _, &e.run as _, &e.sequence as _,
            &e.key as _, &e.team as _, &e.upstream as _, &e.upstream_name as _, &e.tool as _, &e.tool_name as _, &e.definition as _,
            &e.decision as _, &e.reason as _, &e.price as _, &e.quoted as _, &e.currency as _, &e.worker as _,
            &e.arguments_sha256 as _, &e.outcome as _, &e.error as _, &e.latency_us as _, &e.amount as _, &e.result_sha256 as _,
            &p.tenant as _, &p.call as _, &p.kind as _, &p.size as _, &p.body as _,
            &j.tenant as _, &j.run as _, &j.sequence as _, &j.call as _, &j.entry as _,
        )
        .execute(&mut **tx)
        .await?;
        Ok(())
    }
}

impl Requests {
    fn push(&mut self, n: &NewRequest) {
        self.tenant.push(n.tenant.uuid());
        self.id.push(n.id.uuid());
        self.key.push(n.key.uuid());
        self.team.push(n.team.map(Into::into));
        self.origin.push(n.origin.as_str());
        self.method.push(n.method);
        self.model.push(n.model.as_deref().map(text));
        self.client.push(n.client.as_deref().map(text));
        self.at.push(n.at);
    }
}

impl Runs {
    fn push(&mut self, n: &NewRun) {
        self.tenant.push(n.tenant.uuid());
        self.id.push(n.id.uuid());
        self.request.push(n.request.uuid());
        self.key.push(n.key.uuid());
        self.team.push(n.team.map(Into::into));
        self.source.push(text(&n.source));
        self.catalog.push(n.catalog.clone());
        self.catalog_sha256.push(n.catalog_sha256.to_vec());
        self.engine.push(n.engine.clone());
        self.worker.push(n.worker.uuid());
        self.at.push(n.at);
    }
}

impl Events {
    fn push_intent(&mut self, n: &Intent) {
        let outcome = match n.decision {
            tollgate_domain::Decision::Permitted => None,
            tollgate_domain::Decision::Denied => Some(Outcome::Denied),
            tollgate_domain::Decision::Held => Some(Outcome::Held),
        };
        self.tenant.push(n.tenant.uuid());
        self.call.push(n.id.uuid());
        self.kind.push(0);
        self.at.push(n.at);
        self.request.push(Some(n.request.uuid()));
        self.origin.push(Some(Origin::as_str(n.origin)));
        self.run.push(n.place.map(|p| p.run.uuid()));
        self.sequence.push(n.place.map(|p| i32::try_from(p.sequence).unwrap_or(i32::MAX)));
        self.key.push(Some(n.key.uuid()));
        self.team.push(n.team.map(Into::into));
        self.upstream.push(n.upstream.as_ref().map(|(id, _)| id.uuid()));
        self.upstream_name.push(n.upstream.as_ref().map(|(_, name)| name.clone()));
        self.tool.push(n.tool.map(Into::into));
        self.tool_name.push(Some(text(&n.tool_name)));
        self.definition.push(n.definition.map(|d| d.0.to_vec()));
        self.decision.push(Some(n.decision.as_str()));
        self.reason.push(n.reason.map(tollgate_domain::policy::Reason::as_str));
        self.price.push(n.quote.price_id.map(Into::into));
        self.quoted.push(Some(n.quote.amount.0));
        self.currency.push(Some(n.currency.to_string()));
        self.worker.push(Some(n.worker.uuid()));
        self.arguments_sha256.push(Some(sha256(&n.arguments).to_vec()));
        self.outcome.push(outcome.map(Outcome::as_str));
        self.error.push(n.reason.map(|r| r.told().to_owned()));
        self.latency_us.push(outcome.map(|_| 0));
        self.amount.push(outcome.map(|_| 0));
        self.result_sha256.push(None);
    }

    fn push_completion(&mut self, n: &Completion) {
        self.tenant.push(n.tenant.uuid());
        self.call.push(n.id.uuid());
        self.kind.push(1);
        self.at.push(n.at);
        self.request.push(None);
        self.origin.push(None);
        self.run.push(None);
        self.sequence.push(None);
        self.key.push(None);
        self.team.push(None);
        self.upstream.push(None);
        self.upstream_name.push(None);
        self.tool.push(None);
        self.tool_name.push(None);
        self.definition.push(None);
        self.decision.push(None);
        self.reason.push(None);
        self.price.push(None);
        self.quoted.push(None);
        self.currency.push(None);
        self.worker.push(None);
        self.arguments_sha256.push(None);
        self.outcome.push(Some(n.outcome.as_str()));
        self.error.push(n.error.as_deref().map(text));
        self.latency_us.push(Some(i64::try_from(n.latency.as_micros()).unwrap_or(i64::MAX)));
        self.amount.push(Some(n.amount.0));
        self.result_sha256.push(n.result.as_deref().map(|r| sha256(r).to_vec()));
    }
}

impl Payloads {
    fn push(&mut self, tenant: Uuid, call: Uuid, kind: i16, plain: &[u8]) {
        self.tenant.push(tenant);
        self.call.push(call);
        self.kind.push(kind);
        self.size.push(i32::try_from(plain.len()).unwrap_or(i32::MAX));
        self.body.push(payload::pack(plain));
    }
}

impl Journal {
    fn push(&mut self, n: &JournalRow) {
        self.tenant.push(n.tenant.uuid());
        self.run.push(n.place.run.uuid());
        self.sequence.push(i32::try_from(n.place.sequence).unwrap_or(i32::MAX));
        self.call.push(n.call.uuid());
        self.entry.push(n.entry.clone());
    }
}
