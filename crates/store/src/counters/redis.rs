//! Counters in Redis: one script a statement, by Redis's own clock.

use std::{sync::Arc, time::Duration};

use redis::{
    Client, ErrorKind, RedisError, Script, ScriptInvocation,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use tollgate_domain::rate::{Claim, Granted, Pace, SLOT_LIFE_US};

use super::Counted;
use crate::error::StoreResult;

/// How long is waited for an answer. A call waits as well.
const PATIENCE: Duration = Duration::from_secs(2);
/// Of a connection and of one command: less than that, so that a lost one is known as such.
const ANSWER: Duration = Duration::from_millis(1_500);
/// While it is away it is tried again so often; whoever needs it meanwhile is refused after [`PATIENCE`].
const RETRY: Duration = Duration::from_millis(500);

#[derive(Debug, Clone)]
pub struct Redis(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    url: Client,
    /// Made within the runtime, hence not before it is needed.
    connection: tokio::sync::OnceCell<ConnectionManager>,
    count: Script,
    claim: Script,
}

impl Redis {
    pub(super) fn open(url: &str) -> StoreResult<Self> {
        let count = Script::new(include_str!("count.lua"));
        let claim = Script::new(include_str!("claim.lua"));
        Ok(Self(Arc::new(Inner { url: Client::open(url)?, connection: tokio::sync::OnceCell::new(), count, claim })))
    }

    pub(super) async fn count(
        &self,
        what: Counted<'_>,
        pace: &Pace,
        difference: i64,
        weights: &[u32],
    ) -> StoreResult<Vec<(bool, i64)>> {
        let Counted { tenant, limit, .. } = what;
        // An edited limit begins anew.
        let mut call = self.0.count.key(format!("tollgate:rate:{{{}}}:{}:{}", tenant.uuid(), limit.id.uuid(), limit.version));
        call.arg(now(what)).arg(pace.spacing).arg(pace.burst).arg(pace.ceiling).arg(pace.cap(difference));
        for weight in weights {
            call.arg(pace.cap(i64::from(*weight)));
        }
        let served = self.invoke(&call).await?;
        Ok(served.chunks_exact(2).map(|pair| (pair[0] == 1, pair[1])).collect())
    }

    pub(super) async fn claim(&self, what: Counted<'_>, claim: &Claim) -> StoreResult<Granted> {
        let call = self.slots(what, &claim.worker.to_string(), claim.sequence, claim.held, claim.wanted);
        match self.invoke(&call).await?[..] {
            [own, others] => Ok(Granted { own: to_u32(own), others: to_u32(others) }),
            _ => Err(RedisError::from((ErrorKind::UnexpectedReturnType, "two numbers were expected")).into()),
        }
    }

    pub(super) async fn under_way(&self, what: Counted<'_>) -> StoreResult<u32> {
        let call = self.slots(what, "", 0, 0, 0);
        Ok(self.invoke(&call).await?.first().map_or(0, |held| to_u32(*held)))
    }

    fn slots(&self, what: Counted<'_>, worker: &str, sequence: i64, held: u32, wanted: u32) -> ScriptInvocation<'_> {
        let Counted { tenant, limit, .. } = what;
        let mut call = self.0.claim.key(format!("tollgate:slots:{{{}}}:{}", tenant.uuid(), limit.id.uuid()));
        call.arg(now(what)).arg(SLOT_LIFE_US).arg(limit.max).arg(worker).arg(sequence).arg(held).arg(wanted);
        call
    }

    /// By its hash; a Redis that does not know the script, because it was started anew, is told it.
    async fn invoke(&self, call: &ScriptInvocation<'_>) -> StoreResult<Vec<i64>> {
        let asked = async { call.invoke_async(&mut self.connection().await?).await };
        let timeout = || Err(RedisError::from((ErrorKind::Io, "no answer in time")));
        Ok(tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| timeout())?)
    }

    async fn connection(&self) -> Result<ConnectionManager, RedisError> {
        let made = self.0.connection.get_or_try_init(|| async {
            let config = ConnectionManagerConfig::new()
                .set_connection_timeout(Some(ANSWER))
                .set_response_timeout(Some(ANSWER))
                .set_max_delay(RETRY);
            ConnectionManager::new_lazy_with_config(self.0.url.clone(), config)
        });
        made.await.cloned()
    }
}

/// Nothing: Redis looks at its own clock.
fn now(what: Counted<'_>) -> String {
    what.now_us.map(|now| now.to_string()).unwrap_or_default()
}

fn to_u32(n: i64) -> u32 {
    u32::try_from(n.max(0)).unwrap_or(u32::MAX)
}
