//! Credits: corrections of what calls cost, as rows of their own. The call's row stays as it is.

pub mod create;
pub mod get;
pub mod list;

use chrono::{DateTime, Utc};
use serde::Serialize;
use tollgate_domain::{CallId, CreditId, KeyId, Picos, TeamId, ToolId, UpstreamId};
use tollgate_store::credits;
use utoipa::ToSchema;

use crate::ctx::Resource;

/// What was given back.
#[derive(Debug, Serialize, ToSchema)]
pub struct Credit {
    #[schema(value_type = String, examples("crd_01j9zc5v8mf9r8k7x3w2q1n0pa"))]
    pub id: CreditId,
    /// The call that it corrects; the ids that follow are then the call's.
    #[schema(value_type = Option<String>)]
    pub tool_call_id: Option<CallId>,
    #[schema(value_type = Option<String>)]
    pub key_id: Option<KeyId>,
    #[schema(value_type = Option<String>)]
    pub team_id: Option<TeamId>,
    #[schema(value_type = Option<String>)]
    pub upstream_id: Option<UpstreamId>,
    #[schema(value_type = Option<String>)]
    pub tool_id: Option<ToolId>,
    /// An exact decimal, in the tenant's currency.
    #[schema(value_type = String, examples("0.002"))]
    pub amount: Picos,
    pub reason: String,
    pub created_at: DateTime<Utc>,
    pub created_by: String,
}

impl From<credits::Credit> for Credit {
    fn from(credit: credits::Credit) -> Self {
        Self {
            id: credit.id,
            tool_call_id: credit.call,
            key_id: credit.scope.key,
            team_id: credit.scope.team,
            upstream_id: credit.scope.upstream,
            tool_id: credit.scope.tool,
            amount: credit.amount,
            reason: credit.reason,
            created_at: credit.created_at,
            created_by: credit.created_by,
        }
    }
}

impl Resource for Credit {
    fn tag(&self) -> Option<(String, i32)> {
        Some((self.id.to_string(), 1))
    }
}
