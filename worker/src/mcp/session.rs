//! Sessions of the older era, without memory: the id is sealed and says whose it is, so any worker can tell a stolen one. It
//! exists so that a cancellation, which comes as a message of its own, finds the call that it means.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio_util::sync::CancellationToken;
use tollgate_domain::{KeyId, Sealer, TenantId};
use uuid::Uuid;

const PURPOSE: &str = "mcp/session";

/// A session's own id, once its sealed form has been opened for the key it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId(Uuid);

/// A new session of this key on this route, as its header value.
#[must_use]
pub fn mint(sealer: &Sealer, id: Uuid, tenant: TenantId, key: KeyId, route: &str) -> String {
    sealer.seal_text(&purpose(tenant, key, route), id.as_bytes())
}

/// `None` unless the session is of this key and route.
#[must_use]
pub fn open(sealer: &Sealer, sealed: &str, tenant: TenantId, key: KeyId, route: &str) -> Option<SessionId> {
    let plain = sealer.open_text(&purpose(tenant, key, route), sealed).ok()?;
    Uuid::from_slice(&plain).ok().map(SessionId)
}

fn purpose(tenant: TenantId, key: KeyId, route: &str) -> String {
    format!("{PURPOSE}/{tenant}/{key}/{route}")
}

/// Requests under way, by session and request id.
#[derive(Debug, Clone, Default)]
pub struct Cancellable(Arc<Mutex<HashMap<(SessionId, String), CancellationToken>>>);

/// Takes the request out of the register when it ends.
#[derive(Debug)]
pub struct Registered {
    register: Cancellable,
    key: (SessionId, String),
}

impl Cancellable {
    #[must_use]
    pub fn enter(&self, session: SessionId, request: &str, token: CancellationToken) -> Registered {
        let key = (session, request.to_owned());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), token);
        Registered { register: self.clone(), key }
    }

    pub fn cancel(&self, session: SessionId, request: &str) {
        let found = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&(session, request.to_owned())).cloned();
        if let Some(token) = found {
            token.cancel();
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.register.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tollgate_domain::Secrets;

    #[test]
    fn t16_a_session_opens_for_its_own_key_and_route_alone() {
        let sealer = Secrets::from_bytes([1; 32]).sealer;
        let (tenant, key) = (TenantId::from_uuid(Uuid::from_u128(1)), KeyId::from_uuid(Uuid::from_u128(2)));
        let sealed = mint(&sealer, Uuid::from_u128(3), tenant, key, "/mcp");
        assert!(open(&sealer, &sealed, tenant, key, "/mcp").is_some());
        assert!(open(&sealer, &sealed, tenant, KeyId::from_uuid(Uuid::from_u128(9)), "/mcp").is_none(), "another key");
        assert!(open(&sealer, &sealed, TenantId::from_uuid(Uuid::from_u128(9)), key, "/mcp").is_none(), "another tenant");
        assert!(open(&sealer, &sealed, tenant, key, "/mcp/readonly").is_none(), "another route");
        assert!(open(&sealer, "made-up", tenant, key, "/mcp").is_none());
    }
}
