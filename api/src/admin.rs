//! Who is at the admin door: the bearer is read once, here, and becomes an [`Admin`].

use axum::http::{HeaderMap, header};
use chrono::{DateTime, Utc};
use tollgate_domain::{AdminId, PlatformTokenId, Role, Secret, SecretKind, ServiceTokenId, TenantId};
use tollgate_store::{StoreError, auth};

use crate::{ctx::App, oidc::Identity};

/// Nobody sends a bearer longer than this; ID tokens with many groups reach 8 KiB.
const MAX_BEARER: usize = 16 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminKind {
    /// The platform's operator: an owner of every tenant, and the only one who makes tenants.
    Platform,
    ServiceToken,
    /// A person, by OIDC.
    Admin,
}

impl AdminKind {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Platform => "platform",
            Self::ServiceToken => "service_token",
            Self::Admin => "admin",
        }
    }
}

#[derive(Debug, Clone)]
pub struct Admin {
    pub kind: AdminKind,
    /// Stable and unique: a typed id, or issuer and subject. Two approvals by one principal are one approval.
    pub principal: String,
    pub role: Role,
    /// `None`: all of them.
    pub tenant: Option<TenantId>,
    /// For people.
    pub label: String,
}

/// Why a bearer is nobody's. For the log and the admin event; the client never learns it.
#[derive(Debug)]
pub enum Refusal {
    Unknown(&'static str),
    Store(StoreError),
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl App {
    /// `wanted` is the tenant of the path: a person may be an admin of several.
    pub(crate) async fn authenticate(
        &self,
        headers: &HeaderMap,
        wanted: Option<TenantId>,
        now: DateTime<Utc>,
    ) -> Result<Admin, Refusal> {
        let bearer = bearer(headers).map_err(Refusal::Unknown)?;
        match Secret::parse(bearer) {
            Some(secret) if secret.kind() == SecretKind::Service => self.service_token(&secret, now).await,
            Some(secret) if secret.kind() == SecretKind::Platform => self.platform_token(&secret).await,
            // A virtual key opens the other door.
            Some(_) => Err(Refusal::Unknown("virtual_key")),
            None => {
                let identity = self.oidc.verify(bearer, now).await.map_err(Refusal::Unknown)?;
                self.person(identity, wanted).await
            }
        }
    }

    async fn service_token(&self, secret: &Secret, now: DateTime<Utc>) -> Result<Admin, Refusal> {
        let id = ServiceTokenId::from_uuid(secret.id());
        let row = auth::service_token(&self.store, id).await?;
        // An unknown id costs the same hash as a wrong secret.
        let proved = secret.matches(row.as_ref().map_or(&[], |row| &row.hash), &self.secrets.pepper);
        let row = row.filter(|_| proved).ok_or(Refusal::Unknown("unknown_token"))?;
        if row.revoked_at.is_some() {
            return Err(Refusal::Unknown("revoked"));
        }
        if row.expires_at.is_some_and(|t| t <= now) {
            return Err(Refusal::Unknown("expired"));
        }
        if row.tenant_deleted {
            return Err(Refusal::Unknown("tenant_deleted"));
        }
        Ok(Admin {
            kind: AdminKind::ServiceToken,
            principal: id.to_string(),
            role: row.role,
            tenant: Some(row.tenant),
            label: row.name,
        })
    }

    async fn platform_token(&self, secret: &Secret) -> Result<Admin, Refusal> {
        let id = PlatformTokenId::from_uuid(secret.id());
        let row = auth::platform_token(&self.store, id).await?;
        let proved = secret.matches(row.as_ref().map_or(&[], |row| &row.hash), &self.secrets.pepper);
        let row = row.filter(|_| proved).ok_or(Refusal::Unknown("unknown_token"))?;
        if row.revoked_at.is_some() {
            return Err(Refusal::Unknown("revoked"));
        }
        Ok(Admin {
            kind: AdminKind::Platform,
            principal: id.to_string(),
            role: Role::Owner,
            tenant: None,
            label: "platform".to_owned(),
        })
    }

    /// A person's tenant and role: from the token's claims where they name both, else from the tenant's list of admins.
    async fn person(&self, identity: Identity, wanted: Option<TenantId>) -> Result<Admin, Refusal> {
        let named = match &identity.tenant {
            Some(text) => Some(auth::live_tenant(&self.store, text).await?.ok_or(Refusal::Unknown("unknown_tenant"))?),
            None => None,
        };
        if let (Some(tenant), Some(role)) = (named, identity.role) {
            return Ok(Admin {
                kind: AdminKind::Admin,
                principal: format!("{}#{}", identity.issuer, identity.subject),
                role,
                tenant: Some(tenant),
                label: identity.label,
            });
        }
        let mut bindings = auth::bindings(&self.store, &identity.issuer, &identity.subject).await?;
        bindings.retain(|b| named.is_none_or(|tenant| tenant == b.tenant));
        let place = bindings.iter().position(|b| Some(b.tenant) == wanted).unwrap_or(0);
        let binding = bindings.into_iter().nth(place).ok_or(Refusal::Unknown("no_binding"))?;
        Ok(Admin {
            kind: AdminKind::Admin,
            principal: AdminId::to_string(&binding.admin),
            role: binding.role,
            tenant: Some(binding.tenant),
            label: binding.name,
        })
    }
}

/// The one bearer of a request. Two `Authorization` headers are none: a proxy may have looked at the other one.
fn bearer(headers: &HeaderMap) -> Result<&str, &'static str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next().ok_or("no_bearer")?;
    if values.next().is_some() {
        return Err("several_bearers");
    }
    let text = value.to_str().map_err(|_| "malformed")?;
    let (scheme, token) = text.split_once(' ').ok_or("malformed")?;
    let fits = scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && token.len() <= MAX_BEARER && !token.contains(' ');
    if fits { Ok(token) } else { Err("malformed") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bearer_or_none() {
        let read = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, value.parse().unwrap());
            }
            bearer(&headers).map(str::to_owned)
        };
        assert_eq!(read(&["Bearer abc"]).unwrap(), "abc");
        assert_eq!(read(&["bearer abc"]).unwrap(), "abc");
        for bad in [&[][..], &["Bearer a", "Bearer b"], &["Basic abc"], &["Bearer"], &["Bearer "], &["Bearer a b"], &["abc"]] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }
}
