use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tollgate_domain::{CallId, KeyId};
use tollgate_store::{
    erasures::{self, MAX_IDS, MAX_WINDOW},
    settings,
};
use utoipa::ToSchema;

use super::Erasure;
use crate::{
    check::Checks,
    ctx::{Ctx, Resource},
    json::Json,
    problem::{Answer, Problem},
};

/// The longest reason, in characters.
const MAX_REASON: usize = 500;

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewErasure {
    /// Why. It is kept: name nobody in it.
    #[schema(min_length = 1, max_length = 500)]
    pub reason: String,
    pub selection: Selection,
    /// Count what would be erased, and erase nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// Whose payloads go: exactly one of `call_ids`, `key_id` and `contains`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Selection {
    /// These calls.
    #[schema(value_type = Option<Vec<String>>, min_items = 1, max_items = 1000)]
    pub call_ids: Option<Vec<CallId>>,
    /// All calls and script runs of a key, from `from` to `to` where they are given.
    #[schema(value_type = Option<String>)]
    pub key_id: Option<KeyId>,
    /// All calls and script runs in whose payloads this text stands, upper or lower case, between `from` and `to`, at most 92
    /// days. The text itself is not kept.
    #[schema(min_length = 3, max_length = 256)]
    pub contains: Option<String>,
    pub from: Option<DateTime<Utc>>,
    /// Exclusive.
    pub to: Option<DateTime<Utc>>,
}

/// What an erasure would take away.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErasureCounts {
    pub calls: i64,
    pub runs: i64,
    pub requests: i64,
    /// How many of them are under a legal hold: all, while the tenant's audit settings have one. Nothing is erased then.
    pub under_legal_hold: i64,
}

impl Resource for ErasureCounts {}

/// Erase the payloads of calls.
///
/// Arguments and results of the calls go, and of the script runs in which they were made the source, the result, the logs, the
/// error and the journal; the rows stay, and with them the hashes, so that the log can still be proved. What stands in a row
/// itself (a tool's name, an upstream's error message) stays with it. Nothing is erased under a legal hold (409).
#[utoipa::path(post, path = "/v1/tenants/{tenant_id}/audit/erasures", request_body = NewErasure, responses(
    (status = 201, description = "Erased.", body = Erasure),
    (status = 200, description = "With `dry_run`: what would be erased.", body = ErasureCounts)))]
pub async fn handle(ctx: Ctx, body: Json<NewErasure>) -> Answer {
    let NewErasure { reason, selection, dry_run } = body.value;
    let selection = check(&reason, selection)?;
    if dry_run {
        let mut tx = ctx.app.store.tenant_snapshot(ctx.tenant).await?;
        let selected = erasures::select(&mut tx, ctx.tenant, &selection).await?;
        let erasures::Counts { calls, runs, requests } = erasures::count(&mut tx, ctx.tenant, &selected).await?;
        let held = settings::get(&mut tx, ctx.tenant).await?.legal_hold;
        return Ok(ctx.ok(&ErasureCounts {
            calls,
            runs,
            requests,
            under_legal_hold: if held { calls + runs + requests } else { 0 },
        }));
    }
    let mut write = ctx.post(&body.sha256).await?;
    let selected = erasures::select(&mut write.tx, ctx.tenant, &selection).await?;
    let erasure = erasures::erase(&mut write, &selection, &selected, reason).await?;
    write.created(&Erasure::from(erasure)).await
}

fn check(reason: &str, selection: Selection) -> Result<erasures::Selection, Problem> {
    let mut checks = Checks::default();
    let fits = !reason.trim().is_empty() && reason.chars().count() <= MAX_REASON && !reason.contains('\0');
    checks.require(fits, "/reason", "use 1 to 500 characters");
    let Selection { call_ids, key_id, contains, from, to } = selection;
    checks.require(from.zip(to).is_none_or(|(from, to)| from < to), "/selection/from", "use a time before `to`");
    let selected = match (call_ids, key_id, contains) {
        (Some(calls), None, None) => {
            let fits = (1..=MAX_IDS).contains(&calls.len());
            checks.require(fits, "/selection/call_ids", "name 1 to 1000 calls");
            let bare = from.is_none() && to.is_none();
            checks.require(bare, "/selection/from", "calls are named one by one; leave out `from` and `to`");
            Some(erasures::Selection::Calls(calls))
        }
        (None, Some(key), None) => Some(erasures::Selection::Key { key, from, to }),
        (None, None, Some(text)) => searched(&mut checks, &text, from, to),
        _ => {
            checks.refuse("/selection", "use exactly one of `call_ids`, `key_id` and `contains`");
            None
        }
    };
    checks.done()?;
    selected.ok_or_else(|| Problem::internal(&"a selection that was neither taken nor refused"))
}

fn searched(
    checks: &mut Checks,
    text: &str,
    from: Option<DateTime<Utc>>,
    to: Option<DateTime<Utc>>,
) -> Option<erasures::Selection> {
    let text = text.trim();
    // Shorter ones stand in everything.
    checks.require((3..=256).contains(&text.chars().count()), "/selection/contains", "use 3 to 256 characters");
    checks.require(from.is_some(), "/selection/from", "this field is required for a search");
    checks.require(to.is_some(), "/selection/to", "this field is required for a search");
    let (from, to) = from.zip(to)?;
    checks.require(to - from <= MAX_WINDOW, "/selection/to", "search at most 92 days at once");
    Some(erasures::Selection::Contains { text: text.to_owned(), from, to })
}
