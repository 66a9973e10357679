//! A whole rate card at once: what there is to price, by the names that people know it by, and many prices in one change.

use std::collections::HashMap;

use serde_json::Value;
use tollgate_domain::{
    TenantId, ToolId, UpstreamId,
    price::{Price, Target},
};
use uuid::Uuid;

use super::insert;
use crate::{
    change::Change,
    error::{StoreError, StoreResult},
    tx::Tx,
};

/// What of a tenant a price can be for at present.
#[derive(Debug, Clone, Default)]
pub struct Priced {
    /// By name, then by name of the tool: in the order in which a rate card lists them.
    pub upstreams: Vec<(UpstreamId, String, Vec<(ToolId, String)>)>,
}

/// Tools that a rate card as one file has at most.
const MOST_TOOLS: usize = 50_000;

impl Priced {
    /// # Errors
    /// [`StoreError::Invalid`] for a tenant with more tools than one file holds.
    pub async fn load(tx: &mut Tx, tenant: TenantId) -> StoreResult<Self> {
        let upstreams = sqlx::query_as::<_, (Uuid, String)>(
            "SELECT upstream_id, name FROM upstreams WHERE tenant_id = $1 AND deleted_at IS NULL ORDER BY name, upstream_id",
        );
        let upstreams = upstreams.bind(tenant.uuid()).fetch_all(&mut **tx).await?;
        let tools = sqlx::query_as::<_, (Uuid, Uuid, String)>(
            "SELECT upstream_id, tool_id, name FROM tools WHERE tenant_id = $1 AND removed_at IS NULL ORDER BY name, tool_id LIMIT $2",
        );
        let most = i64::try_from(MOST_TOOLS + 1).unwrap_or(i64::MAX);
        let tools = tools.bind(tenant.uuid()).bind(most).fetch_all(&mut **tx).await?;
        if tools.len() > MOST_TOOLS {
            return Err(StoreError::invalid(
                "?format",
                format!("one file holds at most {MOST_TOOLS} tools; read the card in pages"),
            ));
        }
        let mut of_upstream: HashMap<Uuid, Vec<(ToolId, String)>> = HashMap::new();
        for (upstream, tool, name) in tools {
            of_upstream.entry(upstream).or_default().push((tool.into(), name));
        }
        let all = upstreams.into_iter().map(|(id, name)| (id.into(), name, of_upstream.remove(&id).unwrap_or_default()));
        Ok(Self { upstreams: all.collect() })
    }

    /// By the names in a file; `*` is all.
    #[must_use]
    pub fn by_name(&self) -> HashMap<(&str, &str), Target> {
        let mut targets = HashMap::from([(("*", "*"), Target::Tenant)]);
        for (id, upstream, tools) in &self.upstreams {
            targets.insert((upstream, "*"), Target::Upstream(*id));
            targets.extend(tools.iter().map(|(tool, name)| ((upstream.as_str(), name.as_str()), Target::Tool(*tool))));
        }
        targets
    }
}

/// Keep other imports of the tenant waiting until this change ends, so that what was compared is what is added to.
///
/// # Errors
/// When the database does not answer.
pub async fn lock(change: &mut Change) -> StoreResult<()> {
    let lock = sqlx::query("SELECT FROM tenants WHERE tenant_id = $1 FOR NO KEY UPDATE");
    lock.bind(change.tenant.uuid()).execute(&mut *change.tx).await?;
    Ok(())
}

/// Add these prices, whose targets are known to exist, as one act.
///
/// # Errors
/// [`StoreError::Conflict`] where a target has a price from the same moment on.
pub async fn create_all(change: &mut Change, prices: &[Price], detail: Value) -> StoreResult<()> {
    insert(change, prices).await?;
    let tenant = change.tenant;
    change.event("rate_card.import", &tenant, detail).await
}
