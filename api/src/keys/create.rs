use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::json;
use tollgate_domain::{KeyId, Secret, SecretKind, TeamId, ToolGroupId, llm::AgentMode};
use tollgate_store::keys;
use utoipa::ToSchema;

use super::{CodeLanguage, Key, KeyWithSecret, check_groups, check_holders, check_languages, check_models, check_turns};
use crate::{check::Checks, ctx::Ctx, json::Json, problem::Answer};

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewKey {
    #[schema(min_length = 1, max_length = 200)]
    pub name: String,
    #[schema(value_type = Option<String>)]
    pub team_id: Option<TeamId>,
    /// What the key's model may see. Empty is nothing, and it has to be said.
    #[schema(value_type = Vec<String>, max_items = 100)]
    pub tool_group_ids: Vec<ToolGroupId>,
    /// Null or left out: never.
    pub expires_at: Option<DateTime<Utc>>,
    /// Models that may be asked for. Null or left out is all, empty is none.
    #[schema(max_items = 100)]
    pub models: Option<Vec<String>>,
    /// Languages in which the key's model may write scripts, the first of which is meant by default. Null or left out is the
    /// tenant's.
    #[schema(value_type = Option<Vec<CodeLanguage>>, min_items = 1, max_items = 2)]
    pub code_languages: Option<Vec<String>>,
    /// Whether the gateway runs the tools that the key's model calls through the LLM endpoints: `off`, `on_request` (when left out), or `always`.
    #[schema(value_type = Option<String>)]
    pub agent_mode: Option<AgentMode>,
    /// How often the gateway asks the model in one request at most; 10 when left out.
    #[schema(minimum = 1, maximum = 100)]
    pub agent_turns: Option<i32>,
    /// Principals that are whoever asks with this key: they cannot confirm what it asks for. Nobody when left out: a
    /// virtual key itself confirms nothing.
    #[schema(max_items = 10)]
    pub held_by: Option<Vec<String>>,
}

/// Make a virtual key.
#[utoipa::path(post, path = "/v1/tenants/{tenant_id}/keys", request_body = NewKey,
    responses((status = 201, description = "Made; the secret is shown this once.", body = KeyWithSecret)))]
pub async fn handle(ctx: Ctx, body: Json<NewKey>) -> Answer {
    let NewKey { name, team_id, tool_group_ids, expires_at, models, code_languages, agent_mode, agent_turns, held_by } =
        body.value;
    let mut checks = Checks::default();
    checks.name("/name", &name);
    checks.future("/expires_at", expires_at, ctx.now);
    check_models(&mut checks, models.as_deref());
    check_languages(&mut checks, code_languages.as_deref());
    check_turns(&mut checks, agent_turns);
    check_holders(&mut checks, held_by.as_deref().unwrap_or_default());
    let groups = check_groups(&mut checks, &tool_group_ids);
    checks.done()?;

    let held_by = held_by.unwrap_or_default();
    let mut write = ctx.post(&body.sha256).await?;
    let id = KeyId::mint(ctx.now);
    let secret = Secret::generate(SecretKind::Key, id.uuid());
    let key = keys::VirtualKey {
        id,
        name,
        team: team_id,
        groups,
        models,
        code_languages,
        agent: (agent_mode.unwrap_or(AgentMode::OnRequest), agent_turns.unwrap_or(10)),
        held_by,
        expires_at,
        revoked_at: None,
        previous_expires_at: None,
        created_at: ctx.now,
        updated_at: ctx.now,
        version: 1,
    };
    keys::create(&mut write, &key, &secret.hash(&ctx.app.secrets.pepper)).await?;
    let key = Key::at(key, ctx.now);
    let detail = json!({"name": key.name, "team_id": key.team_id, "tool_group_ids": key.tool_group_ids, "models": key.models,
        "code_languages": key.code_languages, "agent_mode": key.agent_mode, "agent_turns": key.agent_turns, "held_by": key.held_by, "expires_at": key.expires_at});
    write.event("key.create", &id, detail).await?;
    write.created(&KeyWithSecret { key, secret: secret.reveal().to_owned() }).await
}
