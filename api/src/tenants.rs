//! Tenants: made and listed by the platform's operator, read and renamed by their own admins.

pub mod create;
pub mod delete;
pub mod get;
pub mod list;
pub mod update;

use chrono::{DateTime, Utc};
use serde::Serialize;
use tollgate_domain::{TenantId, TimeZone};
use tollgate_store::tenants;
use utoipa::ToSchema;

use crate::{ctx::Resource, keys::CodeLanguage};

/// A customer of the platform: keys, upstreams, tools, calls and money belong to exactly one.
#[derive(Debug, Serialize, ToSchema)]
pub struct Tenant {
    #[schema(value_type = String, examples("ten_01j9zc5v8mf9r8k7x3w2q1n0pa"))]
    pub id: TenantId,
    pub name: String,
    /// Unique on the platform.
    pub slug: String,
    /// ISO 4217. All of the tenant's money is in it.
    pub currency: String,
    /// An IANA name: where its days, weeks and months begin.
    #[schema(value_type = String, examples("UTC"))]
    pub time_zone: TimeZone,
    /// Languages in which models may write scripts, where their key says nothing of its own; the first is meant by default.
    #[schema(value_type = Vec<CodeLanguage>)]
    pub code_languages: Vec<String>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// For the ETag.
    #[serde(skip)]
    version: i32,
}

impl From<tenants::Tenant> for Tenant {
    fn from(row: tenants::Tenant) -> Self {
        let tenants::Tenant { id, name, slug, currency, zone, code_languages, created_at, updated_at, version } = row;
        let (currency, time_zone) = (currency.to_string(), zone);
        Self { id, name, slug, currency, time_zone, code_languages, created_at, updated_at, version }
    }
}

impl Resource for Tenant {
    fn tag(&self) -> Option<(String, i32)> {
        Some((self.id.to_string(), self.version))
    }
}
