//! People who come in through an identity provider whose tokens name no tenant and role by themselves.

pub mod create;
pub mod delete;
pub mod get;
pub mod list;

use chrono::{DateTime, Utc};
use serde::Serialize;
use tollgate_domain::{AdminId, Role};
use tollgate_store::admins;
use utoipa::ToSchema;

use crate::{ctx::Resource, service_tokens::RoleName};

/// A person's place in the tenant.
#[derive(Debug, Serialize, ToSchema)]
pub struct Admin {
    #[schema(value_type = String, examples("adm_01j9zc5v8mf9r8k7x3w2q1n0pa"))]
    pub id: AdminId,
    pub name: String,
    /// `iss` of their tokens.
    pub issuer: String,
    /// `sub` of their tokens.
    pub subject: String,
    #[schema(value_type = RoleName)]
    pub role: Role,
    pub created_at: DateTime<Utc>,
    /// For the ETag.
    #[serde(skip)]
    version: i32,
}

impl From<admins::Admin> for Admin {
    fn from(row: admins::Admin) -> Self {
        let admins::Admin { id, name, issuer, subject, role, created_at, version } = row;
        Self { id, name, issuer, subject, role, created_at, version }
    }
}

impl Resource for Admin {
    fn tag(&self) -> Option<(String, i32)> {
        Some((self.id.to_string(), self.version))
    }
}
