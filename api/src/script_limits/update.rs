use serde::Deserialize;
use serde_json::Value;
use tollgate_store::script_limits;
use utoipa::ToSchema;

use super::{Ceilings, ScriptLimits, changed, named};
use crate::{
    check::Checks,
    ctx::Ctx,
    json::{Json, nullable},
    problem::Answer,
};

/// Less memory than this holds no script.
const LEAST_HEAP: i64 = 1 << 20;
/// Less text than this says nothing.
const LEAST_CHARS: i64 = 200;

/// What can be changed; what is left out stays, null lets the ceiling hold.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ScriptLimitsPatch {
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<i64>, minimum = 1)]
    pub wall_seconds: Option<Option<i64>>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<i64>, minimum = 1)]
    pub step_milliseconds: Option<Option<i64>>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<i64>, minimum = 1048576)]
    pub heap_bytes: Option<Option<i64>>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<i64>, minimum = 1)]
    pub ticks: Option<Option<i64>>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<i64>, minimum = 1)]
    pub calls: Option<Option<i64>>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<i64>, minimum = 1)]
    pub log_bytes: Option<Option<i64>>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<i64>, minimum = 1)]
    pub result_bytes: Option<Option<i64>>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<i64>, minimum = 200)]
    pub answer_chars: Option<Option<i64>>,
}

/// Change the limits of the tenant's scripts.
///
/// They hold for runs that begin from then on, within a second. None may be above the installation's ceiling.
#[utoipa::path(patch, path = "/v1/tenants/{tenant_id}/script-limits", request_body = ScriptLimitsPatch,
    responses((status = 200, description = "Changed.", body = ScriptLimits)))]
pub async fn handle(ctx: Ctx, body: Json<ScriptLimitsPatch>) -> Answer {
    let ceilings = Ceilings::from(&ctx.app.config.limits.script);
    let patch = body.value;
    let mut write = ctx.change().await?;
    let before = script_limits::lock(&mut write).await?;
    write.matches(&ScriptLimits::of(ctx.tenant, &before, ceilings))?;
    let after = script_limits::ScriptLimits {
        wall_seconds: patch.wall_seconds.unwrap_or(before.wall_seconds),
        step_milliseconds: patch.step_milliseconds.unwrap_or(before.step_milliseconds),
        heap_bytes: patch.heap_bytes.unwrap_or(before.heap_bytes),
        ticks: patch.ticks.unwrap_or(before.ticks),
        calls: patch.calls.unwrap_or(before.calls),
        log_bytes: patch.log_bytes.unwrap_or(before.log_bytes),
        result_bytes: patch.result_bytes.unwrap_or(before.result_bytes),
        answer_chars: patch.answer_chars.unwrap_or(before.answer_chars),
        ..before.clone()
    };
    // Only what is new: a ceiling that the operator has lowered since holds anyway, and must not stand in the way of other changes.
    let mut checks = Checks::default();
    let all = named(&before).into_iter().zip(named(&after)).zip(bounds(ceilings));
    for (((name, was), (_, is)), (least, most)) in all {
        if let Some(is) = is.filter(|_| was != is)
            && !(least..=most).contains(&is)
        {
            checks.refuse(
                format!("/{name}"),
                format!("use {least} to {most}, this installation's ceiling, or null for the ceiling itself"),
            );
        }
    }
    checks.done()?;
    let detail = Value::Object(changed(&before, &after));
    write.event("script_limits.update", &ctx.tenant, detail).await?;
    let after = script_limits::put(&mut write, after).await?;
    write.ok(&ScriptLimits::of(ctx.tenant, &after, ceilings)).await
}

/// In the order of [`named`].
const fn bounds(most: Ceilings) -> [(i64, i64); 8] {
    [
        (1, most.wall_seconds),
        (1, most.step_milliseconds),
        (LEAST_HEAP, most.heap_bytes),
        (1, most.ticks),
        (1, most.calls),
        (1, most.log_bytes),
        (1, most.result_bytes),
        (LEAST_CHARS, most.answer_chars),
    ]
}
