//! A tenant's configuration as the call path needs it, read in one snapshot, and the news of what has changed.

use std::{collections::HashMap, sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
pub use sqlx::postgres::PgListener;
use tollgate_domain::{
    Budget, Currency, KeyId, TeamId, TenantId, TimeZone, ToolGroupId, ToolId, UpstreamId,
    llm::{AgentMode, ModelRoute},
    llm_price::LlmRateCard,
    price::RateCard,
    rate::RateLimit,
    scope::{Grant, ToolGroup, ToolNames},
    tool::{DefinitionHash, Tool, ToolStatus, Upstream},
};
use uuid::Uuid;

use crate::{
    budgets,
    error::{StoreError, StoreResult, word},
    llm_prices, prices,
    providers::{self, Provider},
    rates as rate_limits,
    script_limits::{self, ScriptLimits},
    settings::{self, TrailPolicy},
    tx::{Store, Tx},
};

/// For how long a price that was superseded is still known.
const PRICES_KEPT: TimeDelta = TimeDelta::days(1);

#[derive(Debug)]
pub struct TenantConfig {
    pub tenant: TenantId,
    pub currency: Currency,
    pub zone: TimeZone,
    pub budgets: Vec<Budget>,
    pub limits: Vec<RateLimit>,
    /// Languages of the scripts of keys that say nothing of their own, the first by default.
    pub code_languages: Vec<String>,
    /// The revision at which the tenant last changed when this was read.
    pub revision: i64,
    pub upstreams: HashMap<UpstreamId, UpstreamConfig>,
    /// All that upstreams list at present, quarantined ones included.
    pub tools: Vec<Arc<Tool>>,
    pub groups: HashMap<ToolGroupId, ToolGroup>,
    pub keys: HashMap<KeyId, KeyConfig>,
    pub rates: RateCard,
    pub llm_rates: LlmRateCard,
    pub trail: TrailPolicy,
    pub scripts: ScriptLimits,
    /// Shared with the requests that are on their way to them.
    pub providers: Vec<Arc<Provider>>,
    pub routes: Vec<ModelRoute>,
}

/// An upstream with what it takes to reach it.
#[derive(Debug, Clone)]
pub struct UpstreamConfig {
    pub upstream: Arc<Upstream>,
    pub transport: Value,
    pub sealed_headers: Option<Vec<u8>>,
    pub sync_interval: Duration,
    /// Grows with every edit: another version is another connection.
    pub version: i32,
}

#[derive(Debug, Clone)]
pub struct KeyConfig {
    pub id: KeyId,
    pub team: Option<TeamId>,
    pub hash: Vec<u8>,
    pub previous: Option<(Vec<u8>, DateTime<Utc>)>,
    pub groups: Vec<ToolGroupId>,
    /// `None`: all.
    pub models: Option<Vec<String>>,
    /// Languages of its scripts; `None`: the tenant's.
    pub code_languages: Option<Vec<String>>,
    /// Whether the gateway runs its model's tools, and for how many turns.
    pub agent: (AgentMode, u32),
    pub expires_at: Option<DateTime<Utc>>,
    pub revoked: bool,
}

/// Read a tenant's configuration.
///
/// # Errors
/// [`StoreError::NotFound`] for a tenant that does not exist or is deleted.
pub async fn load_tenant(store: &Store, tenant: TenantId) -> StoreResult<TenantConfig> {
    reload_tenant(store, tenant, None).await
}

/// [`load_tenant`], taking from `before` the definitions and redaction rules that have not changed.
///
/// # Errors
/// As [`load_tenant`].
pub async fn reload_tenant(store: &Store, tenant: TenantId, before: Option<&TenantConfig>) -> StoreResult<TenantConfig> {
    let mut tx = store.tenant_snapshot(tenant).await?;
    let row = sqlx::query!(
        r#"SELECT currency, time_zone, code_languages, revision, clock_timestamp() AS "now!" FROM tenants
           WHERE tenant_id = $1 AND deleted_at IS NULL"#,
        tenant.uuid()
    )
    .fetch_optional(&mut *tx)
    .await?
    .ok_or(StoreError::NotFound)?;
    let upstreams = upstreams(&mut tx, tenant).await?;
    let tools = tools(&mut tx, tenant, &upstreams, before).await?;
    let currency = row.currency.parse().map_err(|e| StoreError::Corrupt(format!("currency: {e}")))?;
    let config = TenantConfig {
        tenant,
        code_languages: row.code_languages,
        currency,
        zone: word(&row.time_zone)?,
        budgets: budgets::all(&mut tx, tenant).await?,
        limits: rate_limits::all(&mut tx, tenant).await?,
        revision: row.revision,
        tools,
        groups: groups(&mut tx, tenant).await?,
        keys: keys(&mut tx, tenant).await?,
        // A worker's clock may be behind, and calls were opened some time ago.
        rates: prices::card(&mut tx, tenant, row.now - PRICES_KEPT).await?,
        llm_rates: llm_prices::card(&mut tx, tenant, currency).await?,
        trail: TrailPolicy::new(&settings::get(&mut tx, tenant).await?, before.map(|config| &config.trail)),
        scripts: script_limits::get(&mut tx, tenant).await?,
        providers: providers::all(&mut tx, tenant).await?.into_iter().map(Arc::new).collect(),
        routes: providers::routes(&mut tx, tenant).await?.into_iter().map(|row| row.route).collect(),
        upstreams,
    };
    tx.commit().await?;
    Ok(config)
}

async fn upstreams(tx: &mut Tx, tenant: TenantId) -> StoreResult<HashMap<UpstreamId, UpstreamConfig>> {
    let rows = sqlx::query!(
        "SELECT upstream_id, name, description, transport, sealed_headers, exposure, binding, timeout_ms, sync_interval_s, version
         FROM upstreams WHERE tenant_id = $1 AND deleted_at IS NULL",
        tenant.uuid()
    );
    let rows = rows.fetch_all(&mut **tx).await?;
    rows.into_iter()
        .map(|row| {
            let id = UpstreamId::from(row.upstream_id);
            let upstream = Upstream {
                id,
                name: row.name,
                description: row.description,
                exposure: word(&row.exposure)?,
                binding: word(&row.binding)?,
                timeout: Duration::from_millis(u64::try_from(row.timeout_ms).unwrap_or(30_000)),
            };
            let sync_interval = Duration::from_secs(u64::try_from(row.sync_interval_s).unwrap_or(300));
            let config = UpstreamConfig {
                upstream: Arc::new(upstream),
                transport: row.transport,
                sealed_headers: row.sealed_headers,
                sync_interval,
                version: row.version,
            };
            Ok((id, config))
        })
        .collect()
}

async fn tools(
    tx: &mut Tx,
    tenant: TenantId,
    upstreams: &HashMap<UpstreamId, UpstreamConfig>,
    before: Option<&TenantConfig>,
) -> StoreResult<Vec<Arc<Tool>>> {
    let known: HashMap<(ToolId, DefinitionHash), &Arc<Value>> = before
        .into_iter()
        .flat_map(|config| &config.tools)
        .map(|tool| ((tool.id, tool.definition_sha256), &tool.definition))
        .collect();
    let rows = sqlx::query!(
        "SELECT tool_id, upstream_id, name, status, definition_sha256 FROM tools
         WHERE tenant_id = $1 AND removed_at IS NULL ORDER BY upstream_id, name",
        tenant.uuid()
    )
    .fetch_all(&mut **tx)
    .await?;

    let mut found = Vec::with_capacity(rows.len());
    for row in rows {
        // A deleted upstream's tools stay as evidence and are nobody's tools.
        let Some(upstream) = upstreams.get(&row.upstream_id.into()) else { continue };
        let hash = DefinitionHash::from_slice(&row.definition_sha256)
            .ok_or_else(|| StoreError::Corrupt("definition_sha256 is not 32 bytes".to_owned()))?;
        found.push((ToolId::from(row.tool_id), &upstream.upstream, row.name, word::<ToolStatus>(&row.status)?, hash));
    }
    let missing: Vec<Uuid> = found.iter().filter(|t| !known.contains_key(&(t.0, t.4))).map(|t| t.0.uuid()).collect();
    let fresh = definitions(tx, tenant, &missing).await?;

    found
        .into_iter()
        .map(|(id, upstream, name, status, hash)| {
            let definition = known.get(&(id, hash)).copied().or_else(|| fresh.get(&id));
            let definition = definition.ok_or_else(|| StoreError::Corrupt(format!("{id} has no version {hash}")))?;
            Ok(Arc::new(Tool {
                id,
                upstream: Arc::clone(upstream),
                name,
                status,
                definition: Arc::clone(definition),
                definition_sha256: hash,
            }))
        })
        .collect()
}

async fn definitions(tx: &mut Tx, tenant: TenantId, tools: &[Uuid]) -> StoreResult<HashMap<ToolId, Arc<Value>>> {
    if tools.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = sqlx::query!(
        "SELECT v.tool_id, v.definition FROM tool_versions v
         JOIN tools t ON t.tenant_id = v.tenant_id AND t.tool_id = v.tool_id AND t.definition_sha256 = v.definition_sha256
         WHERE v.tenant_id = $1 AND v.tool_id = ANY($2)",
        tenant.uuid(),
        tools,
    );
    let rows = rows.fetch_all(&mut **tx).await?;
    rows.into_iter()
        .map(|row| {
            let definition =
                serde_json::from_str(&row.definition).map_err(|e| StoreError::Corrupt(format!("definition: {e}")))?;
            Ok((row.tool_id.into(), Arc::new(definition)))
        })
        .collect()
}

async fn groups(tx: &mut Tx, tenant: TenantId) -> StoreResult<HashMap<ToolGroupId, ToolGroup>> {
    let rows = sqlx::query!("SELECT tool_group_id, slug FROM tool_groups WHERE tenant_id = $1", tenant.uuid());
    let rows = rows.fetch_all(&mut **tx).await?;
    let mut groups: HashMap<ToolGroupId, ToolGroup> = rows
        .into_iter()
        .map(|row| {
            let id = row.tool_group_id.into();
            (id, ToolGroup { id, slug: row.slug, members: Vec::new(), approval: Vec::new() })
        })
        .collect();
    let rows = sqlx::query!(
        r#"SELECT tool_group_id, upstream_id, kind, confirmations, array_agg(tool_name) AS "names!"
           FROM tool_group_tools WHERE tenant_id = $1 GROUP BY tool_group_id, upstream_id, kind, confirmations"#,
        tenant.uuid()
    );
    for row in rows.fetch_all(&mut **tx).await? {
        let Some(group) = groups.get_mut(&row.tool_group_id.into()) else { continue };
        let all = row.names.iter().any(|name| name == "*");
        let tools = if all { ToolNames::All } else { ToolNames::Named(row.names) };
        let grant = Grant { upstream_id: row.upstream_id.into(), tools };
        match row.kind.as_str() {
            "member" => group.members.push(grant),
            // A rule that cannot be read as a small number still holds the call.
            _ => group.approval.push((grant, row.confirmations.and_then(|n| u8::try_from(n).ok()).unwrap_or(u8::MAX))),
        }
    }
    Ok(groups)
}

async fn keys(tx: &mut Tx, tenant: TenantId) -> StoreResult<HashMap<KeyId, KeyConfig>> {
    let rows = sqlx::query!(
        r#"SELECT k.key_id, k.team_id, k.hash, k.previous_hash, k.previous_expires_at, k.models, k.code_languages, k.agent_mode, k.agent_turns, k.expires_at,
                  k.revoked_at IS NOT NULL AS "revoked!",
                  ARRAY(SELECT g.tool_group_id FROM virtual_key_tool_groups g
                        WHERE g.tenant_id = k.tenant_id AND g.key_id = k.key_id) AS "groups!"
           FROM virtual_keys k WHERE k.tenant_id = $1"#,
        tenant.uuid()
    );
    let rows = rows.fetch_all(&mut **tx).await?;
    let key = rows.into_iter().map(|row| KeyConfig {
        id: row.key_id.into(),
        team: row.team_id.map(Into::into),
        hash: row.hash,
        previous: row.previous_hash.zip(row.previous_expires_at),
        groups: row.groups.into_iter().map(Into::into).collect(),
        models: row.models,
        code_languages: row.code_languages,
        // A word of a later version is the closed one here.
        agent: (row.agent_mode.parse().unwrap_or(AgentMode::Off), u32::try_from(row.agent_turns).unwrap_or(1)),
        expires_at: row.expires_at,
        revoked: row.revoked,
    });
    Ok(key.map(|config| (config.id, config)).collect())
}

/// The tenants that changed after `since`, and the revision up to which that is complete.
#[derive(Debug)]
pub struct Changes {
    pub revision: i64,
    /// With whether the tenant still serves.
    pub tenants: Vec<(TenantId, bool)>,
}

/// What has changed after `since`; 0 asks for everything.
///
/// # Errors
/// When the database does not answer.
pub async fn changes(store: &Store, since: i64) -> StoreResult<Changes> {
    let mut tx = store.control().await?;
    // One statement, one snapshot. Revisions commit in order (see tollgate_touch): nothing below `revision` is still to come.
    let rows = sqlx::query!(
        r#"SELECT r.revision, t.tenant_id AS "tenant_id?", t.deleted_at IS NULL AS "serves!"
           FROM config_revision r LEFT JOIN tenants t ON t.revision > $1"#,
        since
    )
    .fetch_all(&mut *tx)
    .await?;
    tx.commit().await?;
    let revision = rows.first().map_or(since, |row| row.revision);
    let tenants = rows.into_iter().filter_map(|row| Some((row.tenant_id?.into(), row.serves))).collect();
    Ok(Changes { revision, tenants })
}

/// A connection of its own that hears of changes. A lost connection is a reason to look at everything, hence no `recv`.
///
/// # Errors
/// When no connection is to be had.
pub async fn listen(store: &Store) -> StoreResult<PgListener> {
    let mut listener = PgListener::connect_with(store.pool()).await?;
    listener.listen_all(["tollgate_config", "tollgate_sync"]).await?;
    Ok(listener)
}
