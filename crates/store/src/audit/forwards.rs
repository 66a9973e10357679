//! What requests have that came through the LLM door, as columns: their beginnings, and their ends.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use tollgate_domain::Outcome;
use tollgate_evidence::line::{self, Commitment, Line};
use uuid::Uuid;

use super::{
    LlmEnd, LlmResolution,
    columns::{Batch, Committed, array, number, owned, text},
    rows::Forward,
};
use crate::{calls::SWEPT, ledger::SignedBatch};

#[derive(Default)]
pub(super) struct Forwards {
    tenant: Vec<Uuid>,
    id: Vec<Uuid>,
    root: Vec<Uuid>,
    turn: Vec<i32>,
    mode: Vec<String>,
    streaming: Vec<bool>,
    worker: Vec<Uuid>,
    decision: Vec<String>,
    reason: Vec<Option<String>>,
    tools_offered: Vec<i32>,
    tools_tokens: Vec<i64>,
    quoted: Vec<i64>,
    currency: Vec<String>,
    leases: Vec<Option<String>>,
    prompt: Committed,
}

#[derive(Default)]
pub(super) struct LlmEnds {
    tenant: Vec<Uuid>,
    id: Vec<Uuid>,
    kind: Vec<i16>,
    at: Vec<DateTime<Utc>>,
    outcome: Vec<String>,
    error: Vec<Option<String>>,
    provider: Vec<Option<Uuid>>,
    provider_name: Vec<Option<String>>,
    model: Vec<Option<String>>,
    attempts: Vec<String>,
    usage: Vec<String>,
    input: Vec<i64>,
    cached: Vec<i64>,
    cache_write: Vec<i64>,
    output: Vec<i64>,
    reasoning: Vec<i64>,
    price: Vec<Option<String>>,
    amount: Vec<i64>,
    latency: Vec<Option<i64>>,
    first_token: Vec<Option<i64>>,
    finish_reason: Vec<Option<String>>,
    answer: Committed,
}

/// The part of a line that says what was forwarded.
pub(super) fn forward_line(n: &Forward, prompt: Commitment) -> line::Forward<'_> {
    line::Forward {
        root_id: n.root,
        turn: number(n.turn),
        mode: n.mode.as_str().into(),
        streaming: n.streaming,
        worker_id: n.worker,
        decision: if n.refused.is_some() { "denied" } else { "permitted" }.into(),
        reason: n.refused.map(|reason| reason.as_str().into()),
        tools_offered: i32::try_from(n.tools.0).unwrap_or(i32::MAX),
        tools_tokens: signed(n.tools.1),
        quoted_picos: n.quoted.0,
        currency: n.currency.to_string().into(),
        prompt,
    }
}

impl Forwards {
    pub(super) fn push(&mut self, of: &line::LlmRequest<'_>, n: &line::Forward<'_>, leases: &[Uuid]) {
        self.tenant.push(of.tenant_id.uuid());
        self.id.push(of.id.uuid());
        self.root.push(n.root_id.uuid());
        self.turn.push(n.turn);
        self.mode.push(n.mode.to_string());
        self.streaming.push(n.streaming);
        self.worker.push(n.worker_id.uuid());
        self.decision.push(n.decision.to_string());
        self.reason.push(owned(n.reason.as_ref()));
        self.tools_offered.push(n.tools_offered);
        self.tools_tokens.push(n.tools_tokens);
        self.quoted.push(n.quoted_picos);
        self.currency.push(n.currency.to_string());
        self.leases.push(array(leases));
        self.prompt.push(Some(&n.prompt));
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.id.is_empty()
    }
}

impl LlmEnds {
    pub(super) const fn is_empty(&self) -> bool {
        self.id.is_empty()
    }

    fn push(&mut self, kind: i16, n: &line::LlmEnd<'_>) {
        self.tenant.push(n.tenant_id.uuid());
        self.id.push(n.id.uuid());
        self.kind.push(kind);
        self.at.push(n.at);
        self.outcome.push(n.outcome.to_string());
        self.error.push(owned(n.error.as_ref()));
        self.provider.push(n.provider_id.map(Into::into));
        self.provider_name.push(owned(n.provider_name.as_ref()));
        self.model.push(owned(n.model_served.as_ref()));
        self.attempts.push(n.attempts.to_string());
        self.usage.push(n.usage.to_string());
        self.input.push(n.input_tokens);
        self.cached.push(n.cached_tokens);
        self.cache_write.push(n.cache_write_tokens);
        self.output.push(n.output_tokens);
        self.reasoning.push(n.reasoning_tokens);
        self.price.push(owned(n.price.as_ref()));
        self.amount.push(n.amount_picos);
        self.latency.push(n.latency_us);
        self.first_token.push(n.first_token_us);
        self.finish_reason.push(owned(n.finish_reason.as_ref()));
        self.answer.push(n.answer.as_ref());
    }
}

impl Batch {
    pub(super) fn llm_end(&mut self, n: &LlmEnd) {
        let micros = |time: std::time::Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
        let answer = n.answer.as_ref().map(|answer| self.texts.push((n.tenant, n.id.uuid()), (ANSWER, 0), answer));
        let line = line::LlmEnd {
            tenant_id: n.tenant,
            id: n.id,
            at: n.at,
            outcome: n.outcome.as_str().into(),
            error: n.error.as_deref().map(text),
            provider_id: n.provider.as_ref().map(|(id, _)| *id),
            provider_name: n.provider.as_ref().map(|(_, name)| text(name)),
            model_served: n.model.as_deref().map(text),
            attempts: text(&n.attempts),
            usage: n.counted.as_str().into(),
            input_tokens: signed(n.usage.input),
            cached_tokens: signed(n.usage.cached_input),
            cache_write_tokens: signed(n.usage.cache_write),
            output_tokens: signed(n.usage.output),
            reasoning_tokens: signed(n.usage.reasoning),
            price: n.price.as_deref().map(text),
            amount_picos: n.amount.0,
            latency_us: Some(micros(n.latency)),
            first_token_us: n.first_token.map(micros),
            finish_reason: n.finish_reason.as_deref().map(text),
            answer,
        };
        self.llm_ends.push(1, &line);
        self.sign(&Line::LlmEnd(line), n.at);
    }

    pub(super) fn llm_resolution(&mut self, n: &LlmResolution) {
        let line = line::LlmEnd {
            tenant_id: n.tenant,
            id: n.id,
            at: n.at,
            outcome: Outcome::Unknown.as_str().into(),
            error: Some(SWEPT.into()),
            provider_id: None,
            provider_name: None,
            model_served: None,
            attempts: "[]".into(),
            usage: "none".into(),
            input_tokens: 0,
            cached_tokens: 0,
            cache_write_tokens: 0,
            output_tokens: 0,
            reasoning_tokens: 0,
            price: None,
            amount_picos: n.amount.0,
            latency_us: None,
            first_token_us: None,
            finish_reason: None,
            answer: None,
        };
        self.llm_ends.push(2, &line);
        self.sign(&Line::LlmResolution(line), n.at);
    }

    pub(super) const fn has_llm(&self) -> bool {
        !(self.forwards.is_empty() && self.llm_ends.is_empty())
    }

    /// What requests of the LLM door add. Where they are all of a batch, it is this one statement, a transaction by itself, with all that they
    /// have and with the signature: each way to the database and back is one that a caller waits for. False where the batch was there, or
    /// another of its number.
    pub(super) async fn insert_llm(&self, connection: &mut PgConnection, alone: Option<&SignedBatch>) -> sqlx::Result<bool> {
        let Self { forwards: f, llm_ends: e, .. } = self;
        // What stands beside other rows goes in with these.
        let (no_requests, no_texts) = Default::default();
        let (q, t) = if alone.is_some() { (&self.requests, &self.texts) } else { (&no_requests, &no_texts) };
        let leases: Vec<Uuid> = self.leases.iter().copied().filter(|_| alone.is_some()).collect();
        let b = alone.map(|signed| &signed.batch);
        let done = sqlx::query(
            "WITH forwards AS (
               INSERT INTO llm_forwards (tenant_id, llm_request_id, root_id, turn, mode, streaming, worker_id, decision, reason,
                                         tools_offered, tools_tokens, quoted_picos, currency, leases, prompt_sha256, prompt_form,
                                         prompt_kept_sha256)
               SELECT a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11, a12, a13, a14::uuid[], a15, a16, a17
               FROM UNNEST($1::uuid[], $2::uuid[], $3::uuid[], $4::int[], $5::text[], $6::bool[], $7::uuid[], $8::text[], $9::text[],
                           $10::int[], $11::bigint[], $12::bigint[], $13::text[], $14::text[], $15::bytea[], $16::smallint[], $17::bytea[])
                 AS n(a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11, a12, a13, a14, a15, a16, a17)
               ON CONFLICT DO NOTHING),
             ends AS (
               INSERT INTO llm_request_ends (tenant_id, llm_request_id, kind, at, outcome, error, provider_id, provider_name, model_served,
                                             attempts, usage, input_tokens, cached_tokens, cache_write_tokens, output_tokens,
                                             reasoning_tokens, price, amount_picos, latency_us, first_token_us, finish_reason,
                                             answer_sha256, answer_form, answer_kept_sha256)
               SELECT * FROM UNNEST($18::uuid[], $19::uuid[], $20::smallint[], $21::timestamptz[], $22::text[], $23::text[], $24::uuid[],
                                    $25::text[], $26::text[], $27::text[], $28::text[], $29::bigint[], $30::bigint[], $31::bigint[],
                                    $32::bigint[], $33::bigint[], $34::text[], $35::bigint[], $36::bigint[], $37::bigint[], $38::text[],
                                    $39::bytea[], $40::smallint[], $41::bytea[])
               ON CONFLICT DO NOTHING),
             requests AS (
               INSERT INTO llm_requests (tenant_id, llm_request_id, key_id, team_id, origin, method, model, client, at,
                                         prompt_tokens_avoided)
               SELECT * FROM UNNEST($42::uuid[], $43::uuid[], $44::uuid[], $45::uuid[], $46::text[], $47::text[], $48::text[], $49::text[],
                                    $50::timestamptz[], $51::bigint[])
               ON CONFLICT DO NOTHING),
             texts AS (
               INSERT INTO script_payloads (tenant_id, script_run_id, part, sequence, size, salt, body)
               SELECT * FROM UNNEST($52::uuid[], $53::uuid[], $54::smallint[], $55::int[], $56::int[], $57::bytea[], $58::bytea[])
               ON CONFLICT DO NOTHING)
             INSERT INTO audit_batches (writer_id, sequence, at, previous, root, key_id, signature, entries)
             SELECT $59::uuid, $60::bigint, $61::timestamptz, $62::bytea, $63::bytea, $64::text, $65::bytea, $66::bytea
             FROM tollgate_hold_leases($67::uuid[]) WHERE $59::uuid IS NOT NULL
             ON CONFLICT DO NOTHING",
        )
        .bind(&f.tenant)
        .bind(&f.id)
        .bind(&f.root)
        .bind(&f.turn)
        .bind(&f.mode)
        .bind(&f.streaming)
        .bind(&f.worker)
        .bind(&f.decision)
        .bind(&f.reason)
        .bind(&f.tools_offered)
        .bind(&f.tools_tokens)
        .bind(&f.quoted)
        .bind(&f.currency)
        .bind(&f.leases)
        .bind(&f.prompt.sha256)
        .bind(&f.prompt.form)
        .bind(&f.prompt.kept_sha256)
        .bind(&e.tenant)
        .bind(&e.id)
        .bind(&e.kind)
        .bind(&e.at)
        .bind(&e.outcome)
        .bind(&e.error)
        .bind(&e.provider)
        .bind(&e.provider_name)
        .bind(&e.model)
        .bind(&e.attempts)
        .bind(&e.usage)
        .bind(&e.input)
        .bind(&e.cached)
        .bind(&e.cache_write)
        .bind(&e.output)
        .bind(&e.reasoning)
        .bind(&e.price)
        .bind(&e.amount)
        .bind(&e.latency)
        .bind(&e.first_token)
        .bind(&e.finish_reason)
        .bind(&e.answer.sha256)
        .bind(&e.answer.form)
        .bind(&e.answer.kept_sha256)
        .bind(&q.tenant)
        .bind(&q.id)
        .bind(&q.key)
        .bind(&q.team)
        .bind(&q.origin)
        .bind(&q.method)
        .bind(&q.model)
        .bind(&q.client)
        .bind(&q.at)
        .bind(&q.avoided)
        .bind(&t.tenant)
        .bind(&t.run)
        .bind(&t.part)
        .bind(&t.sequence)
        .bind(&t.size)
        .bind(&t.salt)
        .bind(&t.body)
        .bind(b.map(|b| b.writer_id))
        .bind(b.map(|b| b.sequence))
        .bind(b.map(|b| b.at))
        .bind(b.map(|b| b.previous.0.as_slice()))
        .bind(b.map(|b| b.root.0.as_slice()))
        .bind(b.map(|b| b.key_id.as_str()))
        .bind(alone.map(|signed| signed.signature.as_slice()))
        .bind(alone.map(|signed| signed.entries.as_slice()))
        .bind(&leases)
        .execute(connection)
        .await?;
        Ok(done.rows_affected() == 1)
    }
}

/// The parts of `script_payloads` under which prompts and answers rest.
pub(super) const PROMPT: i16 = 5;
const ANSWER: i16 = 6;

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
