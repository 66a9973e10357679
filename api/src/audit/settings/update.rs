use serde::Deserialize;
use serde_json::{Map, Value, json};
use tollgate_domain::{Durability, RedactionRules};
use tollgate_store::settings;
use utoipa::ToSchema;

use super::{AuditSettings, Redaction};
use crate::{
    check::Checks,
    ctx::{Ctx, Write},
    json::{Json, nullable},
    problem::{Answer, Problem, Stop},
};

/// A hundred years.
const MAX_RETENTION: i32 = 36_500;

/// What can be changed; what is left out stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AuditSettingsPatch {
    /// `strict` or `relaxed`.
    #[schema(value_type = Option<String>)]
    pub durability: Option<Durability>,
    /// Null: whatever the gateway lets through.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<i32>, minimum = 0)]
    pub payload_limit_bytes: Option<Option<i32>>,
    /// Takes the place of all rules that there were.
    pub redaction: Option<Redaction>,
    /// Null: for ever.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<i32>, minimum = 1, maximum = 36500)]
    pub retention_days: Option<Option<i32>>,
    pub legal_hold: Option<bool>,
}

/// Change the settings of the audit trail.
///
/// They hold for calls from then on, within a second; retention holds for what is there as well, and drops what it no longer
/// covers within the hour, for good. Lifting a legal hold and shortening the retention leave admin events of their own.
#[utoipa::path(patch, path = "/v1/tenants/{tenant_id}/audit/settings", request_body = AuditSettingsPatch,
    responses((status = 200, description = "Changed.", body = AuditSettings)))]
pub async fn handle(ctx: Ctx, body: Json<AuditSettingsPatch>) -> Answer {
    let AuditSettingsPatch { durability, payload_limit_bytes, redaction, retention_days, legal_hold } = body.value;
    let mut checks = Checks::default();
    checks.require(payload_limit_bytes.flatten().is_none_or(|n| n >= 0), "/payload_limit_bytes", "use 0 or more");
    let retained = retention_days.flatten().is_none_or(|n| (1..=MAX_RETENTION).contains(&n));
    checks.require(retained, "/retention_days", "use 1 to 36500 days, or null to keep the rows for ever");
    let redaction = redaction.map(RedactionRules::from);
    if let Some(Err(errors)) = redaction.as_ref().map(RedactionRules::check) {
        errors.into_iter().for_each(|error| checks.refuse(format!("/redaction{}", error.pointer), error.message));
    }
    checks.done()?;

    let mut write = ctx.change().await?;
    let before = settings::lock(&mut write).await?;
    write.matches(&AuditSettings::of(ctx.tenant, before.clone())?)?;
    let redaction = redaction.map(|rules| serde_json::to_value(rules).map_err(|error| Problem::internal(&error))).transpose()?;
    let after = settings::AuditSettings {
        durability: durability.unwrap_or(before.durability),
        payload_limit_bytes: payload_limit_bytes.unwrap_or(before.payload_limit_bytes),
        redaction: redaction.unwrap_or_else(|| before.redaction.clone()),
        retention_days: retention_days.unwrap_or(before.retention_days),
        legal_hold: legal_hold.unwrap_or(before.legal_hold),
        ..before.clone()
    };
    record(&ctx, &mut write, &before, &after).await?;
    let after = settings::put(&mut write, after).await?;
    write.ok(&AuditSettings::of(ctx.tenant, after)?).await
}

/// One event for the change, and one more for each that somebody may have to answer for.
async fn record(
    ctx: &Ctx,
    write: &mut Write,
    before: &settings::AuditSettings,
    after: &settings::AuditSettings,
) -> Result<(), Stop> {
    let fields = [
        ("durability", json!(before.durability), json!(after.durability)),
        ("payload_limit_bytes", json!(before.payload_limit_bytes), json!(after.payload_limit_bytes)),
        ("redaction", before.redaction.clone(), after.redaction.clone()),
        ("retention_days", json!(before.retention_days), json!(after.retention_days)),
        ("legal_hold", json!(before.legal_hold), json!(after.legal_hold)),
    ];
    let changed = fields.into_iter().filter(|(_, was, is)| was != is);
    let changed: Map<String, Value> = changed.map(|(name, was, is)| (name.to_owned(), json!({"from": was, "to": is}))).collect();
    write.event("audit.settings.update", &ctx.tenant, Value::Object(changed)).await?;
    if before.legal_hold != after.legal_hold {
        let action = if after.legal_hold { "audit.legal_hold.set" } else { "audit.legal_hold.lift" };
        write.event(action, &ctx.tenant, json!({})).await?;
    }
    let for_ever = i32::MAX;
    if after.retention_days.unwrap_or(for_ever) < before.retention_days.unwrap_or(for_ever) {
        let detail = json!({"from": before.retention_days, "to": after.retention_days});
        write.event("audit.retention.shorten", &ctx.tenant, detail).await?;
    }
    Ok(())
}
