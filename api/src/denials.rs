//! Refused at the door: every 401 and 403 leaves an admin event.
//!
//! A 403 has a principal and stands among its tenant's events, one row each. A 401 has nobody behind it and is recorded
//! with the deployment's own events; since anyone can cause any number of those, at most [`PER_SECOND`] rows are written
//! in a second, and what is over is counted into the next row. The sum of `count` is the number of refusals.

use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, Utc};
use serde_json::json;
use tollgate_domain::TenantId;
use tollgate_store::{Actor, StoreResult, events};

use crate::ctx::{App, PLATFORM};

/// Rows about nobody, in one second.
const PER_SECOND: u32 = 50;

#[derive(Debug, Default)]
pub struct Denials {
    window: Mutex<Window>,
}

#[derive(Debug, Default)]
struct Window {
    second: i64,
    written: u32,
    /// Refusals not yet in a row.
    over: u64,
}

/// One refusal, as its event tells it.
#[derive(Debug)]
pub struct Denial<'a> {
    pub reason: &'a str,
    pub method: &'a str,
    /// The template of the path, not what the client wrote.
    pub route: &'a str,
    pub request_id: &'a str,
    pub peer: Option<String>,
}

impl Denials {
    /// How many refusals the row to be written now stands for; 0 is no row.
    fn take(&self, now: DateTime<Utc>) -> u64 {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let second = now.timestamp();
        if window.second != second {
            (window.second, window.written) = (second, 0);
        }
        if window.written >= PER_SECOND {
            window.over += 1;
            return 0;
        }
        window.written += 1;
        1 + std::mem::take(&mut window.over)
    }

    fn put_back(&self, count: u64) {
        self.window.lock().unwrap_or_else(PoisonError::into_inner).over += count;
    }

    fn left(&self) -> u64 {
        std::mem::take(&mut self.window.lock().unwrap_or_else(PoisonError::into_inner).over)
    }
}

impl App {
    /// Record a 401. A database that cannot take the row does not open the door; the count is kept for the next row.
    pub(crate) async fn record_unauthenticated(&self, denial: &Denial<'_>, now: DateTime<Utc>) {
        metrics::counter!("tollgate_admin_denied_total", "code" => "unauthenticated").increment(1);
        let count = self.denials.take(now);
        if count == 0 {
            return;
        }
        if let Err(error) = self.write_unauthenticated(denial, count, now).await {
            self.denials.put_back(count);
            tracing::warn!(%error, "a refused request was not recorded yet");
        }
    }

    /// Record a 403.
    ///
    /// # Errors
    /// When the database does not take the row.
    pub(crate) async fn record_forbidden(
        &self,
        tenant: TenantId,
        actor: Actor,
        denial: &Denial<'_>,
        now: DateTime<Utc>,
    ) -> StoreResult<()> {
        metrics::counter!("tollgate_admin_denied_total", "code" => "forbidden").increment(1);
        let detail = json!({"status": 403, "reason": denial.reason, "count": 1, "peer": denial.peer});
        let target = format!("{} {}", denial.method, denial.route);
        events::note(&self.store, tenant, &actor, now, "access.denied", &target, &detail).await
    }

    /// Write what is still uncounted; called now and then, and at the end.
    pub(crate) async fn flush_denials(&self, now: DateTime<Utc>) {
        let count = self.denials.left();
        let denial = Denial { reason: "many", method: "*", route: "*", request_id: "", peer: None };
        if count > 0
            && let Err(error) = self.write_unauthenticated(&denial, count, now).await
        {
            self.denials.put_back(count);
            tracing::warn!(%error, count, "refused requests were not recorded yet");
        }
    }

    async fn write_unauthenticated(&self, denial: &Denial<'_>, count: u64, now: DateTime<Utc>) -> StoreResult<()> {
        let request_id = Some(denial.request_id.to_owned()).filter(|id| !id.is_empty());
        let actor = Actor { kind: "anonymous", id: "anonymous".to_owned(), role: None, request_id };
        let detail = json!({"status": 401, "reason": denial.reason, "count": count, "peer": denial.peer});
        let target = format!("{} {}", denial.method, denial.route);
        events::note(&self.store, PLATFORM, &actor, now, "access.denied", &target, &detail).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t57_no_refusal_is_lost_to_the_ceiling() {
        let denials = Denials::default();
        let at = |second: i64| DateTime::from_timestamp(second, 0).unwrap();
        let first: u64 = (0..1000).map(|_| denials.take(at(1))).sum();
        assert_eq!(first, u64::from(PER_SECOND));
        assert_eq!(denials.take(at(2)), 1 + 1000 - first);
        assert_eq!(denials.left(), 0);
    }
}
