use chrono::{DateTime, Utc};
use serde::Serialize;
use tollgate_domain::TenantId;
use tollgate_store::{followers as cursors, seals, tenants};
use utoipa::ToSchema;

use crate::{
    ctx::Ctx,
    page::{ListBody, NoFilter, Query},
    problem::Answer,
};

/// Somebody who is sent a tenant's audit log as it grows. Which there are, and where, is the operator's to say.
#[derive(Debug, Serialize, ToSchema)]
pub struct Follower {
    pub name: String,
    /// `webhook` or `syslog` are sent the rows, `anchor` every seal.
    pub kind: &'static str,
    /// Of the first entry of the log that has not been delivered; null before the first start.
    pub position: Option<u64>,
    /// Entries of the log that have not been delivered; null before the first start.
    pub lag: Option<u64>,
    /// Why the last try failed; null after one that went well.
    pub last_error: Option<String>,
    pub failing_since: Option<DateTime<Utc>>,
    /// Of the last try.
    pub updated_at: Option<DateTime<Utc>>,
}

/// List who follows the tenant's audit log: sinks, which are sent its rows, and anchors, which are given its seals.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/audit/followers",
    responses((status = 200, description = "All of them.", body = ListBody<Follower>)))]
pub async fn handle(ctx: Ctx, Query(NoFilter {}): Query<NoFilter>) -> Answer {
    let slug = tenants::get(&ctx.app.store, ctx.tenant).await?.slug;
    let mut tx = ctx.app.store.tenant_snapshot(ctx.tenant).await?;
    let head = seals::newest(&mut tx, ctx.tenant).await?.map_or(0, |newest| newest.seal.end());
    let mut standings = cursors::standings(&mut tx, ctx.tenant).await?;
    tx.commit().await.map_err(tollgate_store::StoreError::from)?;

    let audit = &ctx.app.config.audit;
    let sinks = audit.sinks.iter().filter(|sink| follows(sink.tenants.as_deref(), ctx.tenant, &slug));
    let sinks = sinks.map(|sink| (&sink.name, if sink.webhook.is_some() { "webhook" } else { "syslog" }));
    let anchors = audit.anchors.iter().map(|anchor| (&anchor.name, "anchor"));
    let show = |(name, kind): (&String, &'static str)| {
        let place = standings.iter().position(|standing| standing.follower == *name);
        let standing = place.map(|place| standings.swap_remove(place));
        let (last_error, failing_since, position, updated_at) = standing.map_or((None, None, None, None), |standing| {
            (standing.last_error, standing.failing_since, Some(standing.position), Some(standing.updated_at))
        });
        let lag = position.map(|position| head.saturating_sub(position));
        Follower { name: name.clone(), kind, position, lag, last_error, failing_since, updated_at }
    };
    let items = sinks.chain(anchors).map(show).collect();
    Ok(ctx.ok(&ListBody::<Follower> { items, next_page: None }))
}

/// Whether a sink that is restricted to `tenants` is sent this one's rows; what the store does by query for those who send them.
pub(crate) fn follows(tenants: Option<&[String]>, tenant: TenantId, slug: &str) -> bool {
    tenants.is_none_or(|names| names.iter().any(|name| name == slug || name.parse() == Ok(tenant)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sink_of_some_tenants_is_no_other_tenants() {
        let (one, other) = (TenantId::from_uuid(uuid::Uuid::from_u128(1)), TenantId::from_uuid(uuid::Uuid::from_u128(2)));
        let names = [one.to_string(), "acme".to_owned()];
        assert!(follows(None, other, "x"));
        assert!(follows(Some(&names), one, "x") && follows(Some(&names), other, "acme"));
        assert!(!follows(Some(&names), other, "acme2") && !follows(Some(&[]), one, "acme"));
    }
}
