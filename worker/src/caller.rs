//! A virtual key becomes a [`Caller`], once; nobody behind this looks at a header for authority again.

use std::sync::Arc;

use axum::http::{HeaderMap, header::AUTHORIZATION};
use chrono::{DateTime, Utc};
use tollgate_codemode::Languages;
use tollgate_domain::{KeyId, Pepper, Secret, SecretKind, TeamId, TenantId, scope::Scope};
use tollgate_store::snapshot::{KeyConfig, TenantConfig};

use crate::scope::{Directory, KeyScope, Stale, TenantView};

/// Who calls, and all that they may see.
#[derive(Debug, Clone)]
pub struct Caller {
    pub key: KeyId,
    pub team: Option<TeamId>,
    /// What its model may write scripts in.
    pub languages: Languages,
    tenant: Arc<TenantView>,
    visible: Arc<KeyScope>,
    /// The tool group to which the path narrows the key.
    group: Option<String>,
    /// The stored hash that the shown secret fits; none was shown for a run that the gateway takes up by itself.
    proof: Option<Vec<u8>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// No key, not a key, an unknown, revoked or expired one: the caller reads the same.
    Unauthorized,
    /// The path names a tool group that the key does not have.
    UnknownGroup,
    Unavailable,
}

impl From<Stale> for Refused {
    fn from(_: Stale) -> Self {
        Self::Unavailable
    }
}

impl Caller {
    /// Read the key from the headers and find what it may see; `group` narrows it to one of its tool groups.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn identify(
        directory: &Directory,
        pepper: &Pepper,
        headers: &HeaderMap,
        group: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<Self, Refused> {
        let secret = bearer(headers).ok_or(Refused::Unauthorized)?;
        let id: KeyId = secret.id().into();
        let tenant = directory.of_key(id).await?.ok_or(Refused::Unauthorized)?;
        match Self::proved(&tenant, id, &secret, pepper, group, now) {
            // A secret that does not fit may be a rotation's, made a moment ago elsewhere.
            Err(Refused::Unauthorized) => {
                let tenant = directory.of_key_now(id).await?.ok_or(Refused::Unauthorized)?;
                Self::proved(&tenant, id, &secret, pepper, group, now)
            }
            other => other,
        }
    }

    fn proved(
        tenant: &Arc<TenantView>,
        id: KeyId,
        secret: &Secret,
        pepper: &Pepper,
        group: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<Self, Refused> {
        let key = tenant.config.keys.get(&id).ok_or(Refused::Unauthorized)?;
        let proof = good_hashes(key, now).find(|hash| secret.matches(hash, pepper)).ok_or(Refused::Unauthorized)?.to_vec();
        Self::of(tenant, key, group.map(str::to_owned), Some(proof))
    }

    /// The same caller as things stand now: what takes its time asks again before each thing that it does.
    ///
    /// # Errors
    /// [`Refused`], once the key or the secret that was shown is no longer good.
    pub async fn renewed(&self, directory: &Directory, now: DateTime<Utc>) -> Result<Self, Refused> {
        Self::with_proof(directory, self.key, self.group.clone(), self.proof.clone(), now).await
    }

    /// The caller of a run that is taken up again: the key must be good, and sees no more than it sees now.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn resumed(directory: &Directory, key: KeyId, group: Option<String>, now: DateTime<Utc>) -> Result<Self, Refused> {
        Self::with_proof(directory, key, group, None, now).await
    }

    /// A caller who sees nothing, in whose name a run of a key that is no longer good is closed. `None` for a tenant that is gone.
    ///
    /// # Errors
    /// [`Refused::Unavailable`].
    pub async fn ended(directory: &Directory, key: KeyId) -> Result<Option<Self>, Refused> {
        let Some(tenant) = directory.of_key(key).await? else { return Ok(None) };
        let team = tenant.config.keys.get(&key).and_then(|key| key.team);
        let visible = tenant.scope(&[], None, Languages::default());
        Ok(Some(Self { key, team, languages: Languages::default(), visible, tenant, group: None, proof: None }))
    }

    async fn with_proof(
        directory: &Directory,
        id: KeyId,
        group: Option<String>,
        proof: Option<Vec<u8>>,
        now: DateTime<Utc>,
    ) -> Result<Self, Refused> {
        let tenant = directory.of_key(id).await?.ok_or(Refused::Unauthorized)?;
        let key = tenant.config.keys.get(&id).ok_or(Refused::Unauthorized)?;
        if !good_hashes(key, now).any(|hash| proof.as_ref().is_none_or(|proof| hash == proof)) {
            return Err(Refused::Unauthorized);
        }
        Self::of(&tenant, key, group, proof)
    }

    fn of(tenant: &Arc<TenantView>, key: &KeyConfig, group: Option<String>, proof: Option<Vec<u8>>) -> Result<Self, Refused> {
        let names = key.code_languages.as_ref().unwrap_or(&tenant.config.code_languages);
        // What the database holds has been checked; a name of a later version is not offered by this one.
        let languages = Languages::parse(names.iter().map(String::as_str)).unwrap_or_default();
        let visible = match &group {
            None => tenant.scope(&key.groups, None, languages),
            Some(slug) => {
                let named = |id: &&_| tenant.config.groups.get(*id).is_some_and(|g| g.slug == *slug);
                tenant.scope(&key.groups, Some(*key.groups.iter().find(named).ok_or(Refused::UnknownGroup)?), languages)
            }
        };
        Ok(Self { key: key.id, team: key.team, languages, visible, tenant: Arc::clone(tenant), group, proof })
    }

    /// The tool group to which the path narrows the key.
    #[must_use]
    pub fn route(&self) -> Option<&str> {
        self.group.as_deref()
    }

    #[must_use]
    pub fn tenant(&self) -> TenantId {
        self.tenant.config.tenant
    }

    #[must_use]
    pub fn config(&self) -> &TenantConfig {
        &self.tenant.config
    }

    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.visible.scope
    }

    #[must_use]
    pub fn visible(&self) -> &KeyScope {
        &self.visible
    }
}

/// Hashes of the secrets that open this key at `now`: none when it has ended, two during a rotation.
fn good_hashes(key: &KeyConfig, now: DateTime<Utc>) -> impl Iterator<Item = &[u8]> {
    let good = !key.revoked && key.expires_at.is_none_or(|until| now < until);
    let previous = key.previous.as_ref().filter(|(_, until)| now < *until).map(|(hash, _)| hash.as_slice());
    std::iter::once(key.hash.as_slice()).chain(previous).filter(move |_| good)
}

/// The one virtual key in the headers. Two different ones are no key: which of them would be audited?
fn bearer(headers: &HeaderMap) -> Option<Secret> {
    let authorization = headers.get_all(AUTHORIZATION).iter().map(|value| {
        let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    });
    let plain = ["x-api-key", "x-tollgate-key"].iter().flat_map(|name| headers.get_all(*name)).map(|value| value.to_str().ok());
    let mut found: Vec<&str> = authorization.chain(plain).collect::<Option<_>>()?;
    found.dedup();
    match found[..] {
        [only] => Secret::parse(only).filter(|secret| secret.kind() == SecretKind::Key),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;
    use uuid::Uuid;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn a_key_is_read_from_any_of_its_headers_and_never_from_two_that_differ() {
        let one = Secret::generate(SecretKind::Key, Uuid::from_u128(1));
        let two = Secret::generate(SecretKind::Key, Uuid::from_u128(2));
        let admin = Secret::generate(SecretKind::Service, Uuid::from_u128(3));
        let bearer_of = |s: &Secret| format!("Bearer {}", s.reveal());
        for good in [
            headers(&[("authorization", &bearer_of(&one))]),
            headers(&[("authorization", &bearer_of(&one).replace("Bearer", "bearer"))]),
            headers(&[("x-api-key", one.reveal())]),
            headers(&[("x-tollgate-key", one.reveal())]),
            headers(&[("x-tollgate-key", one.reveal()), ("x-api-key", one.reveal())]),
        ] {
            assert_eq!(bearer(&good).map(|s| s.id()), Some(one.id()), "{good:?}");
        }
        for bad in [
            headers(&[]),
            headers(&[("authorization", "Basic abc")]),
            headers(&[("authorization", &bearer_of(&admin))]),
            headers(&[("x-api-key", one.reveal()), ("x-tollgate-key", two.reveal())]),
            headers(&[("authorization", "Bearer "), ("x-tollgate-key", two.reveal())]),
        ] {
            assert!(bearer(&bad).is_none(), "{bad:?}");
        }
    }
}
