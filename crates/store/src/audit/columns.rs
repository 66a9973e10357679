//! A batch as columns: one array a column, one statement a batch.

use std::{borrow::Cow, collections::BTreeSet, sync::Arc};

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use tollgate_domain::{Decision, Outcome, TenantId};
use tollgate_evidence::{
    Hash, batch,
    line::{self, Commitment, Kept, Line},
    sign::KeyRing,
};
use uuid::Uuid;

use super::{
    Completion, Entry, Intent, JournalRow, NewRequest, NewRun, Resolution, RunEnd, RunResolution,
    forwards::{Forwards, LlmEnds, PROMPT, forward_line},
};
use crate::{
    calls::SWEPT,
    ledger::SignedBatch,
    payload::{self, Payload},
};

/// Each row is made into its line first, and its columns are filled from the line: what is signed is what is stored.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) requests: Requests,
    runs: Runs,
    events: Events,
    payloads: Payloads,
    journal: Journal,
    ends: Ends,
    catalogs: Catalogs,
    pub(super) texts: Texts,
    pub(super) forwards: Forwards,
    pub(super) llm_ends: LlmEnds,
    lines: Vec<batch::Entry>,
    newest: DateTime<Utc>,
    /// What its calls draw from.
    pub(super) leases: BTreeSet<Uuid>,
}

/// What of a payload stands in its row.
#[derive(Default)]
pub(super) struct Committed {
    pub(super) sha256: Vec<Option<Vec<u8>>>,
    pub(super) form: Vec<Option<i16>>,
    pub(super) kept_sha256: Vec<Option<Vec<u8>>>,
}

impl Committed {
    pub(super) fn push(&mut self, commitment: Option<&Commitment>) {
        let kept = commitment.and_then(|c| c.kept);
        self.sha256.push(commitment.map(|c| c.sha256.0.to_vec()));
        self.form.push(kept.map(|kept| match kept {
            Kept::Redacted(_) => 1,
            Kept::Omitted => 2,
        }));
        self.kept_sha256.push(match kept {
            Some(Kept::Redacted(hash)) => Some(hash.0.to_vec()),
            Some(Kept::Omitted) | None => None,
        });
    }
}

#[derive(Default)]
pub(super) struct Requests {
    pub(super) tenant: Vec<Uuid>,
    pub(super) id: Vec<Uuid>,
    pub(super) key: Vec<Uuid>,
    pub(super) team: Vec<Option<Uuid>>,
    pub(super) origin: Vec<String>,
    pub(super) method: Vec<String>,
    pub(super) model: Vec<Option<String>>,
    pub(super) client: Vec<Option<String>>,
    pub(super) at: Vec<DateTime<Utc>>,
    pub(super) avoided: Vec<Option<i64>>,
}

#[derive(Default)]
struct Runs {
    tenant: Vec<Uuid>,
    id: Vec<Uuid>,
    request: Vec<Uuid>,
    key: Vec<Uuid>,
    team: Vec<Option<Uuid>>,
    catalog_sha256: Vec<Vec<u8>>,
    engine: Vec<String>,
    limits: Vec<String>,
    source: Committed,
    worker: Vec<Uuid>,
    at: Vec<DateTime<Utc>>,
    route: Vec<Option<String>>,
}

#[derive(Default)]
struct Events {
    tenant: Vec<Uuid>,
    call: Vec<Uuid>,
    kind: Vec<i16>,
    at: Vec<DateTime<Utc>>,
    request: Vec<Option<Uuid>>,
    origin: Vec<Option<String>>,
    run: Vec<Option<Uuid>>,
    sequence: Vec<Option<i32>>,
    key: Vec<Option<Uuid>>,
    team: Vec<Option<Uuid>>,
    upstream: Vec<Option<Uuid>>,
    upstream_name: Vec<Option<String>>,
    tool: Vec<Option<Uuid>>,
    tool_name: Vec<Option<String>>,
    definition: Vec<Option<Vec<u8>>>,
    decision: Vec<Option<String>>,
    reason: Vec<Option<String>>,
    price: Vec<Option<Uuid>>,
    quoted: Vec<Option<i64>>,
    currency: Vec<Option<String>>,
    worker: Vec<Option<Uuid>>,
    arguments: Committed,
    outcome: Vec<Option<String>>,
    error: Vec<Option<String>>,
    latency_us: Vec<Option<i64>>,
    amount: Vec<Option<i64>>,
    result: Committed,
    approval: Vec<Option<Uuid>>,
    unit: Vec<Option<String>>,
    unit_picos: Vec<Option<i64>>,
    tier: Vec<Option<i16>>,
    call_number: Vec<Option<i64>>,
    /// Arrays as text: Postgres has no arrays of arrays of different lengths.
    leases: Vec<Option<String>>,
}

#[derive(Default)]
struct Payloads {
    keys: Option<Arc<KeyRing>>,
    tenant: Vec<Uuid>,
    call: Vec<Uuid>,
    kind: Vec<i16>,
    size: Vec<i32>,
    salt: Vec<Vec<u8>>,
    body: Vec<Vec<u8>>,
}

#[derive(Default)]
struct Journal {
    tenant: Vec<Uuid>,
    run: Vec<Uuid>,
    sequence: Vec<i32>,
    call: Vec<Option<Uuid>>,
    entry: Committed,
}

#[derive(Default)]
struct Ends {
    tenant: Vec<Uuid>,
    run: Vec<Uuid>,
    kind: Vec<i16>,
    state: Vec<String>,
    ticks: Vec<Option<i64>>,
    at: Vec<DateTime<Utc>>,
    result: Committed,
    logs: Committed,
    error: Committed,
    may_call: Vec<Option<String>>,
}

#[derive(Default)]
struct Catalogs {
    tenant: Vec<Uuid>,
    sha256: Vec<Vec<u8>>,
    body: Vec<Vec<u8>>,
}

/// Texts of runs and of LLM requests.
#[derive(Default)]
pub(super) struct Texts {
    pub(super) keys: Option<Arc<KeyRing>>,
    pub(super) tenant: Vec<Uuid>,
    pub(super) run: Vec<Uuid>,
    pub(super) part: Vec<i16>,
    pub(super) sequence: Vec<i32>,
    pub(super) size: Vec<i32>,
    pub(super) salt: Vec<Vec<u8>>,
    pub(super) body: Vec<Vec<u8>>,
}

impl Batch {
    pub(super) fn new(keys: &Arc<KeyRing>) -> Self {
        let mut batch = Self::default();
        batch.payloads.keys = Some(Arc::clone(keys));
        batch.texts.keys = Some(Arc::clone(keys));
        batch
    }

    /// The rows, for the batch's signature.
    pub(super) fn lines(&self) -> &[batch::Entry] {
        &self.lines
    }

    /// The time of the newest row.
    pub(super) const fn newest(&self) -> DateTime<Utc> {
        self.newest
    }

    pub(super) fn push(&mut self, entry: &Entry) {
        // The turn before, in an agent loop.
        entry.llm_ends.iter().for_each(|end| self.llm_end(end));
        if let Some(request) = &entry.request {
            self.request(request);
        }
        if let Some(run) = &entry.run {
            self.run(run);
        }
        entry.completions.iter().for_each(|completion| self.completion(completion));
        entry.journal.iter().for_each(|row| self.journal(row));
        if let Some(intent) = &entry.intent {
            self.intent(intent);
        }
        if let Some(end) = &entry.end {
            self.end(end);
        }
        entry.resolutions.iter().for_each(|resolution| self.resolution(resolution));
        entry.run_resolutions.iter().for_each(|resolution| self.run_resolution(resolution));
        entry.llm_resolutions.iter().for_each(|resolution| self.llm_resolution(resolution));
    }

    pub(super) fn sign(&mut self, line: &Line<'_>, at: DateTime<Utc>) {
        self.lines.push(batch::Entry::of(line));
        self.newest = self.newest.max(at);
    }

    fn request(&mut self, n: &NewRequest) {
        let forward = n.forward.as_ref().map(|forward| {
            let prompt = self.texts.push((n.tenant, n.id.uuid()), (PROMPT, 0), &forward.prompt);
            self.leases.extend(&forward.leases);
            forward_line(forward, prompt)
        });
        let line = line::LlmRequest {
            tenant_id: n.tenant,
            id: n.id,
            at: n.at,
            key_id: n.key,
            team_id: n.team,
            origin: n.origin.as_str().into(),
            method: n.method.into(),
            model: n.model.as_deref().map(text),
            client: n.client.as_deref().map(text),
            prompt_tokens_avoided: n.prompt_tokens_avoided,
            forward,
        };
        self.requests.push(&line);
        if let (Some(forward), Some(row)) = (&line.forward, &n.forward) {
            self.forwards.push(&line, forward, &row.leases);
        }
        self.sign(&Line::LlmRequest(line), n.at);
    }

    fn run(&mut self, n: &NewRun) {
        let source = self.texts.push((n.tenant, n.id.uuid()), (0, 0), &n.source);
        let line = line::ScriptStart {
            tenant_id: n.tenant,
            id: n.id,
            at: n.at,
            llm_request_id: n.request,
            key_id: n.key,
            team_id: n.team,
            worker_id: n.worker,
            engine: n.engine.as_str().into(),
            limits: n.limits.as_str().into(),
            catalog_sha256: Hash(n.catalog_sha256),
            source,
            route: n.route.as_deref().map(text),
        };
        self.runs.push(&line);
        self.catalogs.push(n.tenant.uuid(), &n.catalog_sha256, &n.catalog);
        self.sign(&Line::ScriptStart(line), n.at);
    }

    fn intent(&mut self, n: &Intent) {
        let outcome = match n.decision {
            Decision::Permitted => None,
            Decision::Denied => Some(Outcome::Denied.as_str()),
            Decision::Held => Some(Outcome::Held.as_str()),
        };
        let applied = n.quote.applied;
        let volume = applied.and_then(|applied| applied.volume);
        let line = line::CallIntent {
            tenant_id: n.tenant,
            id: n.id,
            at: n.at,
            llm_request_id: n.request,
            origin: n.origin.as_str().into(),
            script_run_id: n.place.map(|p| p.run),
            sequence: n.place.map(|p| number(p.sequence)),
            key_id: n.key,
            team_id: n.team,
            upstream_id: n.upstream.as_ref().map(|(id, _)| *id),
            upstream_name: n.upstream.as_ref().map(|(_, name)| name.as_str().into()),
            tool_id: n.tool,
            tool_name: text(&n.tool_name),
            definition_sha256: n.definition.map(|d| Hash(d.0)),
            decision: n.decision.as_str().into(),
            reason: n.reason.map(|r| r.as_str().into()),
            price_id: n.quote.price_id,
            quoted_picos: n.quote.amount.0,
            currency: n.currency.to_string().into(),
            worker_id: n.worker,
            arguments: self.payloads.push(n.tenant, n.id.uuid(), 0, &n.arguments),
            outcome: outcome.map(Into::into),
            error: n.reason.map(|r| r.told().into()),
            latency_us: outcome.map(|_| 0),
            amount_picos: outcome.map(|_| 0),
            approval_id: n.approval,
            unit: applied.map(|applied| applied.unit.as_str().into()),
            unit_picos: applied.map(|applied| applied.amount.0),
            tier: volume.map(|volume| i16::try_from(volume.tier).unwrap_or(i16::MAX)),
            call_number: volume.map(|volume| i64::try_from(volume.call).unwrap_or(i64::MAX)),
        };
        self.leases.extend(&n.leases);
        self.events.push_intent(&line, &n.leases);
        self.sign(&Line::CallIntent(line), n.at);
    }

    fn completion(&mut self, n: &Completion) {
        let line = line::CallEnd {
            tenant_id: n.tenant,
            id: n.id,
            at: n.at,
            outcome: n.outcome.as_str().into(),
            error: n.error.as_deref().map(text),
            latency_us: Some(i64::try_from(n.latency.as_micros()).unwrap_or(i64::MAX)),
            amount_picos: n.amount.0,
            result: n.result.as_ref().map(|result| self.payloads.push(n.tenant, n.id.uuid(), 1, result)),
        };
        self.events.push_end(1, &line);
        self.sign(&Line::CallCompletion(line), n.at);
    }

    fn resolution(&mut self, n: &Resolution) {
        let line = line::CallEnd {
            tenant_id: n.tenant,
            id: n.id,
            at: n.at,
            outcome: Outcome::Unknown.as_str().into(),
            error: Some(SWEPT.into()),
            latency_us: None,
            amount_picos: n.amount.0,
            result: None,
        };
        self.events.push_end(2, &line);
        self.sign(&Line::CallResolution(line), n.at);
    }

    fn journal(&mut self, n: &JournalRow) {
        let run = n.place.run;
        let sequence = number(n.place.sequence);
        let entry = self.texts.push((n.tenant, run.uuid()), (4, sequence), &n.entry);
        let line = line::ScriptJournal { tenant_id: n.tenant, id: run, sequence, call_id: n.call, entry };
        self.journal.push(&line);
        // It stands beside the call whose time it has.
        self.sign(&Line::ScriptJournal(line), DateTime::UNIX_EPOCH);
    }

    fn end(&mut self, n: &RunEnd) {
        let of = (n.tenant, n.id.uuid());
        let line = line::ScriptEnd {
            tenant_id: n.tenant,
            id: n.id,
            at: n.at,
            state: n.state.into(),
            ticks: Some(i64::try_from(n.ticks).unwrap_or(i64::MAX)),
            result: n.result.as_ref().map(|text| self.texts.push(of, (1, 0), text)),
            logs: Some(self.texts.push(of, (2, 0), &n.logs)),
            error: n.error.as_ref().map(|text| self.texts.push(of, (3, 0), text)),
            may_call: n.may_call.as_deref().map(text),
        };
        self.ends.push(1, &line);
        self.sign(&Line::ScriptEnd(line), n.at);
    }

    fn run_resolution(&mut self, n: &RunResolution) {
        let RunResolution { tenant, id, at } = *n;
        let line = line::ScriptEnd {
            tenant_id: tenant,
            id,
            at,
            state: "failed".into(),
            ticks: None,
            result: None,
            logs: None,
            error: None,
            may_call: None,
        };
        self.ends.push(2, &line);
        self.sign(&Line::ScriptResolution(line), at);
    }

    /// Each table that a statement names costs it something even when nothing goes in: what scripts add has its own.
    pub(super) const fn has_scripts(&self) -> bool {
        !(self.runs.id.is_empty() && self.journal.run.is_empty() && self.ends.run.is_empty() && self.texts.run.is_empty())
    }

    /// Whether there is nothing but requests of the LLM door, with what they say.
    pub(super) const fn is_llm_alone(&self) -> bool {
        let no_runs = self.runs.id.is_empty() && self.journal.run.is_empty() && self.ends.run.is_empty();
        self.has_llm() && no_runs && self.events.call.is_empty() && self.payloads.call.is_empty()
    }

    /// What every call writes, and the signature of the batch; false where the batch was there, or another of its number. The leases
    /// that calls draw from stay open until the transaction ends; it fails where one has ended.
    pub(super) async fn insert_calls(&self, connection: &mut PgConnection, signed: &SignedBatch) -> sqlx::Result<bool> {
        let Self { requests: q, events: e, payloads: p, .. } = self;
        let b = &signed.batch;
        let leases: Vec<Uuid> = self.leases.iter().copied().collect();
        let done = sqlx::query!(
            "WITH requests AS (
               INSERT INTO llm_requests (tenant_id, llm_request_id, key_id, team_id, origin, method, model, client, at,
                                         prompt_tokens_avoided)
               SELECT * FROM UNNEST($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::text[], $7::text[], $8::text[],
                                    $9::timestamptz[], $62::bigint[])
               ON CONFLICT DO NOTHING),
             events AS (
               INSERT INTO tool_call_events (tenant_id, call_id, kind, at, llm_request_id, origin, script_run_id, sequence, key_id,
                                             team_id, upstream_id, upstream_name, tool_id, tool_name, definition_sha256, decision,
                                             reason, price_id, quoted_picos, currency, worker_id, arguments_sha256, arguments_form,
                                             arguments_kept_sha256, outcome, error, latency_us, amount_picos, result_sha256,
                                             result_form, result_kept_sha256, approval_id, unit, unit_picos, tier, call_number,
                                             leases)
               SELECT a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11, a12, a13, a14, a15, a16, a17, a18, a19, a20, a21, a22, a23, a24,
                      a25, a26, a27, a28, a29, a30, a31, a32, a33, a34, a35, a36, a37::uuid[]
               FROM UNNEST($10::uuid[], $11::uuid[], $12::smallint[], $13::timestamptz[], $14::uuid[], $15::text[],
                                    $16::uuid[], $17::int[], $18::uuid[], $19::uuid[], $20::uuid[], $21::text[], $22::uuid[],
                                    $23::text[], $24::bytea[], $25::text[], $26::text[], $27::uuid[], $28::bigint[], $29::text[],
                                    $30::uuid[], $31::bytea[], $32::smallint[], $33::bytea[], $34::text[], $35::text[],
                                    $36::bigint[], $37::bigint[], $38::bytea[], $39::smallint[], $40::bytea[], $55::uuid[],
                                    $58::text[], $59::bigint[], $60::smallint[], $61::bigint[], $56::text[])
                 AS n(a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11, a12, a13, a14, a15, a16, a17, a18, a19, a20, a21, a22, a23,
                      a24, a25, a26, a27, a28, a29, a30, a31, a32, a33, a34, a35, a36, a37)
               ON CONFLICT DO NOTHING),
             payloads AS (
               INSERT INTO tool_call_payloads (tenant_id, call_id, kind, size, salt, body)
               SELECT * FROM UNNEST($41::uuid[], $42::uuid[], $43::smallint[], $44::int[], $45::bytea[], $46::bytea[])
               ON CONFLICT DO NOTHING)
             INSERT INTO audit_batches (writer_id, sequence, at, previous, root, key_id, signature, entries)
             SELECT $47::uuid, $48::bigint, $49::timestamptz, $50::bytea, $51::bytea, $52::text, $53::bytea, $54::bytea
             FROM tollgate_hold_leases($57::uuid[])
             ON CONFLICT DO NOTHING",
            &q.tenant as _, &q.id as _, &q.key as _, &q.team as _, &q.origin as _, &q.method as _, &q.model as _, &q.client as _,
            &q.at as _,
            &e.tenant as _, &e.call as _, &e.kind as _, &e.at as _, &e.request as _, &e.origin as _, &e.run as _, &e.sequence as _,
            &e.key as _, &e.team as _, &e.upstream as _, &e.upstream_name as _, &e.tool as _, &e.tool_name as _, &e.definition as _,
            &e.decision as _, &e.reason as _, &e.price as _, &e.quoted as _, &e.currency as _, &e.worker as _,
            &e.arguments.sha256 as _, &e.arguments.form as _, &e.arguments.kept_sha256 as _, &e.outcome as _, &e.error as _,
            &e.latency_us as _, &e.amount as _, &e.result.sha256 as _, &e.result.form as _, &e.result.kept_sha256 as _,
            &p.tenant as _, &p.call as _, &p.kind as _, &p.size as _, &p.salt as _, &p.body as _,
            b.writer_id, b.sequence, b.at, b.previous.0.as_slice(), b.root.0.as_slice(), b.key_id, signed.signature, signed.entries,
            &e.approval as _, &e.leases as _, &leases,
            &e.unit as _, &e.unit_picos as _, &e.tier as _, &e.call_number as _, &q.avoided as _,
        )
        .execute(connection)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    pub(super) async fn insert_scripts(&self, connection: &mut PgConnection) -> sqlx::Result<()> {
        let Self { runs: r, journal: j, ends: d, catalogs: c, texts: t, .. } = self;
        sqlx::query!(
            "WITH runs AS (
               INSERT INTO script_run_starts (tenant_id, script_run_id, llm_request_id, key_id, team_id, catalog_sha256, engine,
                                              limits, source_sha256, source_form, source_kept_sha256, worker_id, opened_at, route)
               SELECT * FROM UNNEST($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::uuid[], $6::bytea[], $7::text[],
                                    $8::text[], $9::bytea[], $10::smallint[], $11::bytea[], $12::uuid[], $13::timestamptz[], $46::text[])
               ON CONFLICT DO NOTHING),
             journal AS (
               INSERT INTO script_journal (tenant_id, script_run_id, sequence, call_id, entry_sha256, entry_form, entry_kept_sha256)
               SELECT * FROM UNNEST($14::uuid[], $15::uuid[], $16::int[], $17::uuid[], $18::bytea[], $19::smallint[], $20::bytea[])
               ON CONFLICT DO NOTHING),
             ends AS (
               INSERT INTO script_run_ends (tenant_id, script_run_id, kind, state, ticks, at, result_sha256, result_form,
                                            result_kept_sha256, logs_sha256, logs_form, logs_kept_sha256, error_sha256, error_form,
                                            error_kept_sha256, may_call)
               SELECT * FROM UNNEST($21::uuid[], $22::uuid[], $23::smallint[], $24::text[], $25::bigint[], $26::timestamptz[],
                                    $27::bytea[], $28::smallint[], $29::bytea[], $30::bytea[], $31::smallint[], $32::bytea[],
                                    $33::bytea[], $34::smallint[], $35::bytea[], $47::text[])
               ON CONFLICT DO NOTHING),
             catalogs AS (
               INSERT INTO script_catalogs (tenant_id, catalog_sha256, body)
               SELECT * FROM UNNEST($36::uuid[], $37::bytea[], $38::bytea[]) ORDER BY 1, 2
               ON CONFLICT DO NOTHING)
             INSERT INTO script_payloads (tenant_id, script_run_id, part, sequence, size, salt, body)
             SELECT * FROM UNNEST($39::uuid[], $40::uuid[], $41::smallint[], $42::int[], $43::int[], $44::bytea[], $45::bytea[])
             ON CONFLICT DO NOTHING",
            &r.tenant as _, &r.id as _, &r.request as _, &r.key as _, &r.team as _, &r.catalog_sha256 as _, &r.engine as _,
            &r.limits as _, &r.source.sha256 as _, &r.source.form as _, &r.source.kept_sha256 as _, &r.worker as _, &r.at as _,
            &j.tenant as _, &j.run as _, &j.sequence as _, &j.call as _, &j.entry.sha256 as _, &j.entry.form as _,
            &j.entry.kept_sha256 as _,
            &d.tenant as _, &d.run as _, &d.kind as _, &d.state as _, &d.ticks as _, &d.at as _, &d.result.sha256 as _,
            &d.result.form as _, &d.result.kept_sha256 as _, &d.logs.sha256 as _, &d.logs.form as _, &d.logs.kept_sha256 as _,
            &d.error.sha256 as _, &d.error.form as _, &d.error.kept_sha256 as _,
            &c.tenant as _, &c.sha256 as _, &c.body as _,
            &t.tenant as _, &t.run as _, &t.part as _, &t.sequence as _, &t.size as _, &t.salt as _, &t.body as _,
            &r.route as _, &d.may_call as _,
        )
        .execute(connection)
        .await?;
        Ok(())
    }
}

/// Postgres's text cannot hold NUL; one in a message would refuse the whole batch.
pub(super) fn text(value: &str) -> Cow<'_, str> {
    if value.contains('\0') { value.replace('\0', "\u{fffd}").into() } else { value.into() }
}

pub(super) fn number(sequence: u32) -> i32 {
    i32::try_from(sequence).unwrap_or(i32::MAX)
}

pub(super) fn owned(text: Option<&Cow<'_, str>>) -> Option<String> {
    text.map(|text| text.clone().into_owned())
}

/// Ids as the text of an array; none where there are none.
pub(super) fn array(ids: &[Uuid]) -> Option<String> {
    let ids: Vec<String> = ids.iter().map(Uuid::to_string).collect();
    (!ids.is_empty()).then(|| format!("{{{}}}", ids.join(",")))
}

impl Requests {
    fn push(&mut self, n: &line::LlmRequest<'_>) {
        self.tenant.push(n.tenant_id.uuid());
        self.id.push(n.id.uuid());
        self.key.push(n.key_id.uuid());
        self.team.push(n.team_id.map(Into::into));
        self.origin.push(n.origin.to_string());
        self.method.push(n.method.to_string());
        self.model.push(owned(n.model.as_ref()));
        self.client.push(owned(n.client.as_ref()));
        self.at.push(n.at);
        self.avoided.push(n.prompt_tokens_avoided);
    }
}

impl Runs {
    fn push(&mut self, n: &line::ScriptStart<'_>) {
        self.tenant.push(n.tenant_id.uuid());
        self.id.push(n.id.uuid());
        self.request.push(n.llm_request_id.uuid());
        self.key.push(n.key_id.uuid());
        self.team.push(n.team_id.map(Into::into));
        self.catalog_sha256.push(n.catalog_sha256.0.to_vec());
        self.engine.push(n.engine.to_string());
        self.limits.push(n.limits.to_string());
        self.source.push(Some(&n.source));
        self.worker.push(n.worker_id.uuid());
        self.at.push(n.at);
        self.route.push(owned(n.route.as_ref()));
    }
}

impl Events {
    fn push_intent(&mut self, n: &line::CallIntent<'_>, leases: &[Uuid]) {
        self.tenant.push(n.tenant_id.uuid());
        self.call.push(n.id.uuid());
        self.kind.push(0);
        self.at.push(n.at);
        self.request.push(Some(n.llm_request_id.uuid()));
        self.origin.push(Some(n.origin.to_string()));
        self.run.push(n.script_run_id.map(Into::into));
        self.sequence.push(n.sequence);
        self.key.push(Some(n.key_id.uuid()));
        self.team.push(n.team_id.map(Into::into));
        self.upstream.push(n.upstream_id.map(Into::into));
        self.upstream_name.push(owned(n.upstream_name.as_ref()));
        self.tool.push(n.tool_id.map(Into::into));
        self.tool_name.push(Some(n.tool_name.to_string()));
        self.definition.push(n.definition_sha256.map(|d| d.0.to_vec()));
        self.decision.push(Some(n.decision.to_string()));
        self.reason.push(owned(n.reason.as_ref()));
        self.price.push(n.price_id.map(Into::into));
        self.quoted.push(Some(n.quoted_picos));
        self.currency.push(Some(n.currency.to_string()));
        self.worker.push(Some(n.worker_id.uuid()));
        self.arguments.push(Some(&n.arguments));
        self.outcome.push(owned(n.outcome.as_ref()));
        self.error.push(owned(n.error.as_ref()));
        self.latency_us.push(n.latency_us);
        self.amount.push(n.amount_picos);
        self.result.push(None);
        self.approval.push(n.approval_id.map(Into::into));
        self.unit.push(owned(n.unit.as_ref()));
        self.unit_picos.push(n.unit_picos);
        self.tier.push(n.tier);
        self.call_number.push(n.call_number);
        self.leases.push(array(leases));
    }

    fn push_end(&mut self, kind: i16, n: &line::CallEnd<'_>) {
        self.tenant.push(n.tenant_id.uuid());
        self.call.push(n.id.uuid());
        self.kind.push(kind);
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
        self.arguments.push(None);
        self.outcome.push(Some(n.outcome.to_string()));
        self.error.push(owned(n.error.as_ref()));
        self.latency_us.push(n.latency_us);
        self.amount.push(Some(n.amount_picos));
        self.result.push(n.result.as_ref());
        self.approval.push(None);
        self.unit.push(None);
        self.unit_picos.push(None);
        self.tier.push(None);
        self.call_number.push(None);
        self.leases.push(None);
    }
}

impl Ends {
    fn push(&mut self, kind: i16, n: &line::ScriptEnd<'_>) {
        self.tenant.push(n.tenant_id.uuid());
        self.run.push(n.id.uuid());
        self.kind.push(kind);
        self.state.push(n.state.to_string());
        self.ticks.push(n.ticks);
        self.at.push(n.at);
        self.result.push(n.result.as_ref());
        self.logs.push(n.logs.as_ref());
        self.error.push(n.error.as_ref());
        self.may_call.push(owned(n.may_call.as_ref()));
    }
}

impl Payloads {
    fn push(&mut self, tenant: TenantId, call: Uuid, kind: i16, payload: &Payload) -> Commitment {
        let salt = payload::salt();
        if let Some(plain) = payload.stored() {
            self.tenant.push(tenant.uuid());
            self.call.push(call);
            self.kind.push(kind);
            self.size.push(i32::try_from(plain.len()).unwrap_or(i32::MAX));
            self.salt.push(salt.to_vec());
            self.body.push(payload::pack(plain));
        }
        payload.commitment(&salt, || blind(self.keys.as_deref(), call, kind, 0))
    }
}

/// A part of a row as one number: the kinds of calls, then the parts of scripts with their sequence.
fn blind(keys: Option<&KeyRing>, row: Uuid, part: i16, sequence: i32) -> Hash {
    let part = u16::try_from(i32::from(part) + 16 * sequence).unwrap_or(u16::MAX);
    keys.map_or(Hash::ZERO, |keys| keys.blind(row, part))
}

impl Texts {
    pub(super) fn push(
        &mut self,
        (tenant, run): (TenantId, Uuid),
        (part, sequence): (i16, i32),
        payload: &Payload,
    ) -> Commitment {
        let salt = payload::salt();
        if let Some(plain) = payload.stored() {
            self.tenant.push(tenant.uuid());
            self.run.push(run);
            self.part.push(part);
            self.sequence.push(sequence);
            self.size.push(i32::try_from(plain.len()).unwrap_or(i32::MAX));
            self.salt.push(salt.to_vec());
            self.body.push(payload::pack(plain));
        }
        payload.commitment(&salt, || blind(self.keys.as_deref(), run, part, sequence))
    }
}

impl Journal {
    fn push(&mut self, n: &line::ScriptJournal) {
        self.tenant.push(n.tenant_id.uuid());
        self.run.push(n.id.uuid());
        self.sequence.push(n.sequence);
        self.call.push(n.call_id.map(Into::into));
        self.entry.push(Some(&n.entry));
    }
}

impl Catalogs {
    /// Runs of one batch mostly share their catalogue.
    fn push(&mut self, tenant: Uuid, sha256: &[u8; 32], body: &[u8]) {
        let known = self.tenant.iter().zip(&self.sha256).any(|(t, hash)| *t == tenant && hash == sha256);
        if !known {
            self.tenant.push(tenant);
            self.sha256.push(sha256.to_vec());
            self.body.push(body.to_vec());
        }
    }
}
