//! Virtual keys: what opens the model door, and what a model sees through each. A key's secret is shown once.

pub mod create;
pub mod explain;
pub mod get;
pub mod list;
pub mod revoke;
pub mod rotate;
pub mod scope;
pub mod update;

use chrono::{DateTime, Utc};
use serde::Serialize;
use tollgate_codemode::Languages;
use tollgate_domain::{KeyId, TeamId, ToolGroupId, llm::AgentMode};
use tollgate_store::keys;
use utoipa::ToSchema;

use crate::{
    check::{Checks, is_hidden},
    ctx::Resource,
};

const MAX_GROUPS: usize = 100;
const MAX_MODELS: usize = 100;
const MAX_MODEL_NAME: usize = 200;
const MAX_HOLDERS: usize = 10;
const MAX_PRINCIPAL: usize = 1000;

/// A virtual key, without its secret.
#[derive(Debug, Serialize, ToSchema)]
pub struct Key {
    #[schema(value_type = String, examples("vk_01j9zc5v8mf9r8k7x3w2q1n0pa"))]
    pub id: KeyId,
    pub name: String,
    #[schema(value_type = Option<String>)]
    pub team_id: Option<TeamId>,
    /// What the key's model may see; none is nothing.
    #[schema(value_type = Vec<String>)]
    pub tool_group_ids: Vec<ToolGroupId>,
    /// Models that may be asked for; null is all, empty is none.
    pub models: Option<Vec<String>>,
    /// Languages in which the key's model may write scripts, the first of which is meant by default; null is the tenant's.
    #[schema(value_type = Option<Vec<CodeLanguage>>)]
    pub code_languages: Option<Vec<String>>,
    /// Whether the gateway runs the tools that the key's model calls through the LLM endpoints: `off`, `on_request` (where the request says
    /// `x-tollgate-mode: agent`), or `always` (unless it says `manual`).
    #[schema(value_type = String)]
    pub agent_mode: AgentMode,
    /// How often the gateway asks the model in one request at most.
    pub agent_turns: i32,
    /// Principals that are whoever asks with this key, as approvals name them: they cannot confirm what it asks for.
    pub held_by: Vec<String>,
    pub state: KeyState,
    /// Null: never.
    pub expires_at: Option<DateTime<Utc>>,
    pub revoked_at: Option<DateTime<Utc>>,
    /// Until when the secret of before the last rotation works.
    pub previous_secret_expires_at: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// For the ETag.
    #[serde(skip)]
    version: i32,
}

/// Whether the key opens the door.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeyState {
    Active,
    Expired,
    Revoked,
}

impl Key {
    /// As of `now`.
    fn at(row: keys::VirtualKey, now: DateTime<Utc>) -> Self {
        let state = match (row.revoked_at, row.expires_at) {
            (Some(_), _) => KeyState::Revoked,
            (None, Some(end)) if end <= now => KeyState::Expired,
            _ => KeyState::Active,
        };
        Self {
            id: row.id,
            name: row.name,
            team_id: row.team,
            tool_group_ids: row.groups,
            models: row.models,
            code_languages: row.code_languages,
            agent_mode: row.agent.0,
            agent_turns: row.agent.1,
            held_by: row.held_by,
            state,
            expires_at: row.expires_at,
            revoked_at: row.revoked_at,
            previous_secret_expires_at: row.previous_expires_at.filter(|end| *end > now),
            created_at: row.created_at,
            updated_at: row.updated_at,
            version: row.version,
        }
    }
}

impl Resource for Key {
    fn tag(&self) -> Option<(String, i32)> {
        Some((self.id.to_string(), self.version))
    }
}

/// A virtual key with the one sight of its secret.
#[derive(Serialize, ToSchema)]
pub struct KeyWithSecret {
    #[serde(flatten)]
    pub key: Key,
    /// What the model's client sends. It cannot be read again.
    #[schema(examples("tg_live_..."))]
    pub secret: String,
}

impl Resource for KeyWithSecret {
    fn tag(&self) -> Option<(String, i32)> {
        self.key.tag()
    }
}

fn check_models(checks: &mut Checks, models: Option<&[String]>) {
    let models = models.unwrap_or_default();
    checks.require(models.len() <= MAX_MODELS, "/models", "name at most 100 models");
    for (i, model) in models.iter().enumerate() {
        let fits = (1..=MAX_MODEL_NAME).contains(&model.len()) && !model.chars().any(|c| c.is_control() || c.is_whitespace());
        if !fits {
            checks.refuse(format!("/models/{i}"), "use a model's name: 1 to 200 characters without spaces");
        }
    }
}

/// What a script is written in.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum CodeLanguage {
    Python,
    Typescript,
}

pub(crate) fn check_languages(checks: &mut Checks, languages: Option<&[String]>) {
    let fit = languages.is_none_or(|names| Languages::parse(names.iter().map(String::as_str)).is_some());
    checks.require(fit, "/code_languages", "name python, typescript, or both, each once");
}

fn check_holders(checks: &mut Checks, holders: &[String]) {
    checks.require(holders.len() <= MAX_HOLDERS, "/held_by", "name at most 10 principals");
    for (at, holder) in holders.iter().enumerate() {
        let fits = (1..=MAX_PRINCIPAL).contains(&holder.len()) && !holder.chars().any(is_hidden);
        if !fits {
            checks.refuse(format!("/held_by/{at}"), "use a principal as approvals name it: an id, or issuer#subject");
        }
    }
}

fn check_turns(checks: &mut Checks, turns: Option<i32>) {
    checks.require(turns.is_none_or(|turns| (1..=100).contains(&turns)), "/agent_turns", "use 1 to 100 turns");
}

/// A group that is named twice is granted once.
fn check_groups(checks: &mut Checks, groups: &[ToolGroupId]) -> Vec<ToolGroupId> {
    checks.require(groups.len() <= MAX_GROUPS, "/tool_group_ids", "name at most 100 tool groups");
    let mut distinct: Vec<ToolGroupId> = Vec::new();
    for group in groups {
        if !distinct.contains(group) {
            distinct.push(*group);
        }
    }
    distinct
}
