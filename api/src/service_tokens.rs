//! Service tokens: how programs come through this door. The secret is shown once, when the token is made.

pub mod create;
pub mod get;
pub mod list;
pub mod revoke;

use chrono::{DateTime, Utc};
use serde::Serialize;
use tollgate_domain::{Role, ServiceTokenId};
use tollgate_store::tokens;
use utoipa::ToSchema;

use crate::ctx::Resource;

/// A service token, without its secret.
#[derive(Debug, Serialize, ToSchema)]
pub struct ServiceToken {
    #[schema(value_type = String, examples("svc_01j9zc5v8mf9r8k7x3w2q1n0pa"))]
    pub id: ServiceTokenId,
    pub name: String,
    #[schema(value_type = RoleName)]
    pub role: Role,
    pub created_at: DateTime<Utc>,
    /// Null: never.
    pub expires_at: Option<DateTime<Utc>>,
    pub revoked_at: Option<DateTime<Utc>>,
}

/// What may be done with it, within the tenant.
#[derive(Debug, ToSchema)]
#[schema(as = Role, rename_all = "lowercase")]
pub enum RoleName {
    /// Everything.
    Owner,
    /// Everything but owners and the tenant's deletion.
    Admin,
    /// Reads, revokes keys, edits upstreams.
    Operator,
    /// Prices and reports.
    Finance,
    /// Reports, tool calls and exports.
    Auditor,
}

impl From<tokens::ServiceToken> for ServiceToken {
    fn from(row: tokens::ServiceToken) -> Self {
        let tokens::ServiceToken { id, name, role, created_at, expires_at, revoked_at } = row;
        Self { id, name, role, created_at, expires_at, revoked_at }
    }
}

impl Resource for ServiceToken {
    /// A token changes once: when it is revoked.
    fn tag(&self) -> Option<(String, i32)> {
        Some((self.id.to_string(), 1 + i32::from(self.revoked_at.is_some())))
    }
}
