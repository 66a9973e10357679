//! What admins did, and what was refused at the door.

pub mod list;
pub mod platform;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tollgate_domain::AdminEventId;
use tollgate_store::events;
use utoipa::{IntoParams, ToSchema};

use crate::{check::Checks, problem::Problem};

/// One thing that was done or refused.
#[derive(Debug, Serialize, ToSchema)]
pub struct AdminEvent {
    #[schema(value_type = String)]
    pub id: AdminEventId,
    pub at: DateTime<Utc>,
    /// `platform`, `service_token`, `admin`, `system` or `anonymous`.
    pub actor_kind: String,
    pub actor_id: String,
    pub role: Option<String>,
    /// `<noun>.<verb>`, such as `key.revoke`; `access.denied` for a 401 or 403.
    pub action: String,
    pub target_id: String,
    #[schema(value_type = Object)]
    pub detail: Value,
    /// `x-request-id` of the answer.
    pub request_id: Option<String>,
}

#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EventFilter {
    /// Such as `key.revoke`.
    pub action: Option<String>,
    pub actor_id: Option<String>,
    pub target_id: Option<String>,
    /// From this time on (RFC 3339).
    pub from: Option<DateTime<Utc>>,
    /// Before this time.
    pub to: Option<DateTime<Utc>>,
}

impl EventFilter {
    fn check(&self) -> Result<(), Problem> {
        let mut checks = Checks::default();
        for (pointer, text) in [("?action", &self.action), ("?actor_id", &self.actor_id), ("?target_id", &self.target_id)] {
            let fits = text.as_ref().is_none_or(|t| t.len() <= 1024 && !t.contains('\0'));
            checks.require(fits, pointer, "use at most 1024 characters");
        }
        for (pointer, time) in [("?from", self.from), ("?to", self.to)] {
            let fits = time.is_none_or(|t| (0..=253_402_300_799).contains(&t.timestamp()));
            checks.require(fits, pointer, "use a time between the years 1970 and 9999");
        }
        checks.done()
    }

    fn into_store(self) -> events::Filter {
        let Self { action, actor_id, target_id, from, to } = self;
        events::Filter { action, actor_id, target_id, from, to }
    }
}

impl From<events::AdminEvent> for AdminEvent {
    fn from(row: events::AdminEvent) -> Self {
        let events::AdminEvent { event_id, at, actor_kind, actor_id, role, action, target_id, detail, request_id } = row;
        Self { id: event_id.into(), at, actor_kind, actor_id, role, action, target_id, detail, request_id }
    }
}
