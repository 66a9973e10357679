//! Requests and their calls as rows of the three tables.

use chrono::{DateTime, TimeDelta, Utc};
use tollgate_domain::{Decision, Origin, Outcome, policy::Reason, tool::sha256};
use tollgate_store::payload;
use uuid::Uuid;

use super::{
    copy::Rows,
    world::{Key, Tenant, Tool, calls_of},
};
use crate::{
    dice::{Dice, to_i64},
    words::{Vocabulary, order_of},
};

/// How calls end, and how many of them.
const ENDS: [(Outcome, f64); 8] = [
    (Outcome::ToolError, 0.015),
    (Outcome::Denied, 0.010),
    (Outcome::Timeout, 0.004),
    (Outcome::UpstreamError, 0.003),
    (Outcome::Held, 0.003),
    (Outcome::Cancelled, 0.002),
    (Outcome::Unknown, 0.0005),
    (Outcome::Ok, 1.0),
];
/// The rare one, by which a search has to look far.
pub const RAREST: Outcome = Outcome::Unknown;
const REFUSALS: [Reason; 3] = [Reason::NotInScope, Reason::UnknownTool, Reason::Quarantined];
const MODELS: [&str; 5] = ["large-4", "medium-4", "small-4", "large-3", "vision-2"];
const TIMEOUT_US: i64 = 30_000_000;
/// Calls this young may be open.
const MAY_BE_OPEN: TimeDelta = TimeDelta::minutes(10);

pub const EVENT_COLUMNS: &str =
    "COPY tool_call_events (tenant_id, call_id, kind, at, llm_request_id, origin, script_run_id, sequence,
    key_id, team_id, upstream_id, upstream_name, tool_id, tool_name, definition_sha256, decision, reason, price_id, quoted_picos,
    currency, worker_id, arguments_sha256, outcome, error, latency_us, amount_picos, result_sha256) FROM STDIN (FORMAT binary)";
pub const PAYLOAD_COLUMNS: &str = "COPY tool_call_payloads (tenant_id, call_id, kind, size, body) FROM STDIN (FORMAT binary)";
pub const REQUEST_COLUMNS: &str =
    "COPY llm_requests (tenant_id, llm_request_id, key_id, team_id, origin, method, model, client, at)
    FROM STDIN (FORMAT binary)";

/// Rows that wait to be sent.
#[derive(Debug)]
pub struct Writer {
    pub events: Rows,
    pub payloads: Rows,
    pub requests: Rows,
    pub calls: usize,
    /// An order number that one call has, see [`Vocabulary::arguments`].
    pub needle: Option<String>,
    dice: Dice,
    vocabulary: Vocabulary,
    worker: Uuid,
    /// The last moment that there is.
    now: DateTime<Utc>,
    body: Vec<u8>,
}

/// One call in the making.
struct Call<'a> {
    tenant: &'a Tenant,
    key: &'a Key,
    tool: &'a Tool,
    id: Uuid,
    at: DateTime<Utc>,
    request: Uuid,
    origin: Origin,
    place: Option<(Uuid, i32)>,
    /// None: it is open.
    outcome: Option<Outcome>,
}

impl Writer {
    pub fn new(now: DateTime<Utc>) -> Self {
        let mut dice = Dice::new(42);
        Self {
            events: Rows::default(),
            payloads: Rows::default(),
            requests: Rows::default(),
            calls: 0,
            needle: None,
            worker: id_at(now, &mut dice),
            vocabulary: Vocabulary::new(),
            body: Vec::new(),
            dice,
            now,
        }
    }

    pub fn dice(&mut self) -> &mut Dice {
        &mut self.dice
    }

    pub const fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// A request of somebody in this tenant at this time, with its calls.
    pub fn request(&mut self, tenant: &Tenant, at: DateTime<Utc>) {
        let dice = &mut self.dice;
        let key = &tenant.keys[dice.zipf(tenant.keys.len())];
        let origin = if dice.chance(0.8) { Origin::Llm } else { Origin::Minted };
        let is_script = dice.chance(0.15);
        let run = is_script.then(|| id_at(at, dice));
        // Without a model above it, a request is one call or one script.
        let calls = if origin == Origin::Minted && !is_script { 1 } else { calls_of(dice, is_script) };
        let request = id_at(at, dice);
        let model = (origin == Origin::Llm).then(|| MODELS[dice.zipf(MODELS.len())]);
        let rows = &mut self.requests;
        rows.row(9);
        rows.uuid(tenant.id);
        rows.uuid(request);
        rows.uuid(key.id);
        rows.uuid(key.team);
        rows.text(origin.as_str());
        rows.text(if model.is_some() { "chat/completions" } else { "tools/call" });
        rows.text(model);
        rows.text(key.client.as_str());
        rows.time(at);

        let mut at = at;
        for sequence in (1..).take(calls) {
            let tool = &tenant.tools[self.dice.zipf(tenant.tools.len())];
            let outcome = self.outcome(at);
            let place = run.map(|run| (run, sequence));
            let call = Call { tenant, key, tool, id: id_at(at, &mut self.dice), at, request, origin, place, outcome };
            let ended = self.call(&call);
            at = (ended + TimeDelta::microseconds(to_i64(self.dice.log_normal(200_000.0, 1.0)))).min(self.now);
        }
    }

    fn outcome(&mut self, at: DateTime<Utc>) -> Option<Outcome> {
        if self.now - at < MAY_BE_OPEN && self.dice.chance(0.05) {
            return None;
        }
        let mut chance = self.dice.unit();
        let found = ENDS.into_iter().find(|(_, share)| {
            chance -= share;
            chance < 0.0
        });
        Some(found.map_or(Outcome::Ok, |(outcome, _)| outcome))
    }

    /// Returns when it ended.
    fn call(&mut self, call: &Call<'_>) -> DateTime<Utc> {
        self.calls += 1;
        self.vocabulary.arguments(&mut self.dice, &mut self.body);
        let arguments = sha256(&self.body);
        if self.needle.is_none() || self.dice.chance(0.000_1) {
            self.needle = order_of(&self.body);
        }
        payload(&mut self.payloads, call, 0, &self.body);
        self.intent(call, arguments);
        let Some(outcome) = call.outcome.filter(|outcome| !matches!(outcome, Outcome::Denied | Outcome::Held)) else {
            return call.at;
        };
        let latency_us = match outcome {
            Outcome::Timeout => TIMEOUT_US,
            _ => to_i64(self.dice.log_normal(call.tool.median_us, 0.6)).clamp(300, TIMEOUT_US),
        };
        match outcome {
            Outcome::Ok => self.vocabulary.result(&mut self.dice, &mut self.body),
            Outcome::ToolError => self.vocabulary.failure(&mut self.dice, &mut self.body),
            _ => self.body.clear(),
        }
        let result = (!self.body.is_empty()).then(|| {
            payload(&mut self.payloads, call, 1, &self.body);
            sha256(&self.body)
        });
        let ended = call.at + TimeDelta::microseconds(latency_us);
        let error = match outcome {
            Outcome::Timeout => Some("the upstream did not answer within 30 s"),
            Outcome::UpstreamError => Some("the upstream closed the connection"),
            Outcome::Cancelled => Some("the client cancelled"),
            Outcome::Unknown => Some("the worker ended before it could say how the call did"),
            _ => None,
        };
        let is_known = outcome != Outcome::Unknown;
        let rows = &mut self.events;
        rows.row(27);
        rows.uuid(call.tenant.id);
        rows.uuid(call.id);
        rows.small(if is_known { 1 } else { 2 });
        rows.time(ended);
        rows.nulls(18);
        rows.text(outcome.as_str());
        rows.text(error);
        rows.big(is_known.then_some(latency_us));
        rows.big(if outcome == Outcome::UpstreamError { 0 } else { call.tool.picos });
        rows.hash(result);
        ended
    }

    fn intent(&mut self, call: &Call<'_>, arguments: [u8; 32]) {
        let (decision, reason) = match call.outcome {
            Some(Outcome::Denied) => (Decision::Denied, Some(REFUSALS[self.dice.zipf(REFUSALS.len())])),
            Some(Outcome::Held) => (Decision::Held, Some(Reason::ApprovalRequired)),
            _ => (Decision::Permitted, None),
        };
        let Call { tenant, key, tool, .. } = call;
        let known = reason != Some(Reason::UnknownTool);
        let refused = reason.is_some();
        let rows = &mut self.events;
        rows.row(27);
        rows.uuid(tenant.id);
        rows.uuid(call.id);
        rows.small(0);
        rows.time(call.at);
        rows.uuid(call.request);
        rows.text(call.origin.as_str());
        rows.uuid(call.place.map(|(run, _)| run));
        rows.int(call.place.map(|(_, sequence)| sequence));
        rows.uuid(key.id);
        rows.uuid(key.team);
        rows.uuid(known.then_some(tool.upstream));
        rows.text(known.then_some(tool.upstream_name));
        rows.uuid(known.then_some(tool.id));
        rows.text(tool.name.as_str());
        rows.hash(known.then_some(tool.definition));
        rows.text(decision.as_str());
        rows.text(reason.map(Reason::as_str));
        rows.uuid(tool.price.filter(|_| known));
        rows.big(if known { tool.picos } else { 0 });
        rows.text(tenant.currency.as_str());
        rows.uuid(self.worker);
        rows.hash(arguments);
        rows.text(call.outcome.filter(|_| refused).map(Outcome::as_str));
        rows.text(reason.map(Reason::told));
        rows.big(refused.then_some(0));
        rows.big(refused.then_some(0));
        rows.hash(None);
    }
}

fn payload(rows: &mut Rows, call: &Call<'_>, kind: i16, body: &[u8]) {
    rows.row(5);
    rows.uuid(call.tenant.id);
    rows.uuid(call.id);
    rows.small(kind);
    rows.int(i32::try_from(body.len()).unwrap_or(i32::MAX));
    rows.bytes(&payload::pack(body));
}

/// A UUIDv7 of this time. (Not the domain's: that one counts within a millisecond of the present.)
fn id_at(at: DateTime<Utc>, dice: &mut Dice) -> Uuid {
    let random = (u128::from(dice.roll()) << 64 | u128::from(dice.roll())).to_be_bytes();
    let mut tail = [0; 10];
    tail.copy_from_slice(&random[..10]);
    let millis = u64::try_from(at.timestamp_millis()).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(millis, &tail).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_of_their_time_and_of_version_7() {
        let mut dice = Dice::new(9);
        let at = DateTime::from_timestamp_millis(1_790_000_000_123).unwrap();
        let id = id_at(at, &mut dice);
        assert_eq!(id.get_version_num(), 7);
        assert!(id >= tollgate_domain::ids::floor(at));
        assert!(id < tollgate_domain::ids::floor(at + TimeDelta::milliseconds(1)));
        assert_ne!(id, id_at(at, &mut dice));
    }
}
