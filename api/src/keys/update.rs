use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::json;
use tollgate_domain::{KeyId, TeamId, ToolGroupId, llm::AgentMode};
use tollgate_store::keys;
use utoipa::ToSchema;

use super::{CodeLanguage, Key, check_groups, check_holders, check_languages, check_models, check_turns};
use crate::{
    check::Checks,
    ctx::{Ctx, Id},
    json::{Json, nullable},
    problem::{Answer, Kind, Problem},
};

/// What is left out stays; null unsets.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyPatch {
    #[schema(min_length = 1, max_length = 200)]
    pub name: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<String>)]
    pub team_id: Option<Option<TeamId>>,
    /// Replaces all of them.
    #[schema(value_type = Option<Vec<String>>, max_items = 100)]
    pub tool_group_ids: Option<Vec<ToolGroupId>>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<DateTime<Utc>>)]
    pub expires_at: Option<Option<DateTime<Utc>>>,
    /// Null is all, empty is none.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<Vec<String>>, max_items = 100)]
    pub models: Option<Option<Vec<String>>>,
    /// Null is the tenant's.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<Vec<CodeLanguage>>, min_items = 1, max_items = 2)]
    pub code_languages: Option<Option<Vec<String>>>,
    /// Whether the gateway runs the tools that the key's model calls through the LLM endpoints: `off`, `on_request`, or `always`.
    #[schema(value_type = Option<String>)]
    pub agent_mode: Option<AgentMode>,
    /// How often the gateway asks the model in one request at most.
    #[schema(minimum = 1, maximum = 100)]
    pub agent_turns: Option<i32>,
    /// Replaces all of them.
    #[schema(max_items = 10)]
    pub held_by: Option<Vec<String>>,
}

/// Change a virtual key. Workers see it within a second.
#[utoipa::path(patch, path = "/v1/tenants/{tenant_id}/keys/{key_id}", request_body = KeyPatch,
    responses((status = 200, description = "Changed.", body = Key)))]
pub async fn handle(ctx: Ctx, Id(id): Id<KeyId>, body: Json<KeyPatch>) -> Answer {
    let patch = body.value;
    let mut checks = Checks::default();
    if let Some(name) = &patch.name {
        checks.name("/name", name);
    }
    checks.future("/expires_at", patch.expires_at.flatten(), ctx.now);
    check_models(&mut checks, patch.models.as_ref().and_then(Option::as_deref));
    check_languages(&mut checks, patch.code_languages.as_ref().and_then(Option::as_deref));
    check_turns(&mut checks, patch.agent_turns);
    check_holders(&mut checks, patch.held_by.as_deref().unwrap_or_default());
    let groups = patch.tool_group_ids.map(|groups| check_groups(&mut checks, &groups));
    checks.done()?;

    let mut write = ctx.change().await?;
    let mut key = keys::lock(&mut write, id).await?;
    write.matches(&Key::at(key.clone(), ctx.now))?;
    if key.revoked_at.is_some() {
        return Err(Problem::because(Kind::BadState, "The key is revoked; make a new one.").into());
    }
    key.name = patch.name.unwrap_or(key.name);
    key.team = patch.team_id.unwrap_or(key.team);
    key.groups = groups.unwrap_or(key.groups);
    key.expires_at = patch.expires_at.unwrap_or(key.expires_at);
    key.models = patch.models.unwrap_or(key.models);
    key.code_languages = patch.code_languages.unwrap_or(key.code_languages);
    key.agent = (patch.agent_mode.unwrap_or(key.agent.0), patch.agent_turns.unwrap_or(key.agent.1));
    key.held_by = patch.held_by.unwrap_or(key.held_by);
    let key = Key::at(keys::update(&mut write, key).await?, ctx.now);
    let detail = json!({"name": key.name, "team_id": key.team_id, "tool_group_ids": key.tool_group_ids, "models": key.models,
        "code_languages": key.code_languages, "agent_mode": key.agent_mode, "agent_turns": key.agent_turns, "held_by": key.held_by, "expires_at": key.expires_at});
    write.event("key.update", &id, detail).await?;
    write.ok(&key).await
}
