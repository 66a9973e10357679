//! Tells webhooks what has become of approvals: at least once, in the order of each approval's changes. Every process of the admin API has
//! one runner; they share the work through the database. A process that dies in the middle is noticed when its time is over, and what it
//! had is sent again, under the same `Idempotency-Key`.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::{
    Client,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use serde::Serialize;
use tokio::{task::JoinSet, time::Instant};
use tollgate_domain::{KeyId, TenantId, ids};
use tollgate_store::{
    StoreError, StoreResult,
    approvals::notices::{self, News, Taken, Tried},
};

use super::ApprovalDetail;
use crate::{
    audit::followers::{Failure, follows, webhook},
    ctx::App,
};

/// Notices that one process sends at a time.
const JOBS: usize = 8;
const POLL: Duration = Duration::from_secs(1);
/// How long a receiver may take, and after what time its runner is believed to have died: well after that.
const PATIENCE: Duration = Duration::from_secs(10);
const HELD: TimeDelta = TimeDelta::minutes(1);
/// Between two looks for what is old.
const FORGET: Duration = Duration::from_secs(600);

const SERVER: &str = "the server failed; its log names this approval";

#[derive(Debug, Clone)]
pub struct Runner {
    app: App,
    client: Client,
}

/// What a webhook is sent.
#[derive(Serialize)]
struct Body<'a> {
    /// The same again where it is sent again.
    id: String,
    event: String,
    at: DateTime<Utc>,
    tenant_id: TenantId,
    /// As it stands at this moment, which may be after the event.
    approval: &'a ApprovalDetail,
    key: Asking<'a>,
    links: Links,
}

#[derive(Serialize)]
struct Asking<'a> {
    id: KeyId,
    name: Option<&'a str>,
    held_by: &'a [String],
}

#[derive(Serialize)]
struct Links {
    #[serde(rename = "self")]
    itself: String,
    approve: String,
    deny: String,
}

impl Runner {
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(app: App) -> anyhow::Result<Self> {
        Ok(Self { app, client: webhook::client(PATIENCE)? })
    }

    /// Work until the process ends.
    pub async fn run(self) {
        let mut at_work = JoinSet::new();
        let mut forgot: Option<Instant> = None;
        while !self.app.shutdown.is_requested() {
            while at_work.try_join_next().is_some() {}
            if let Err(error) = self.fill(&mut at_work).await {
                tracing::debug!(%error, "no notice of an approval was looked for");
            }
            if forgot.is_none_or(|at| at.elapsed() >= FORGET) {
                forgot = Some(Instant::now());
                if let Err(error) = notices::forget(&self.app.store, self.app.clock.now()).await {
                    tracing::debug!(%error, "old notices were not forgotten");
                }
            }
            tokio::select! {
                () = self.app.shutdown.requested() => {}
                Some(_) = at_work.join_next() => {}
                () = tokio::time::sleep(POLL) => {}
            }
        }
        while at_work.join_next().await.is_some() {}
    }

    async fn fill(&self, at_work: &mut JoinSet<()>) -> StoreResult<()> {
        if self.app.config.approvals.webhooks.is_empty() {
            return Ok(());
        }
        self.distribute().await?;
        while at_work.len() < JOBS {
            let Some(taken) = self.take().await? else { break };
            at_work.spawn(self.clone().work(taken));
        }
        Ok(())
    }

    /// Try each notice that waits for a try; how many there were.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn round(&self) -> StoreResult<usize> {
        while self.distribute().await? > 0 {}
        let mut tried = 0;
        while let Some(taken) = self.take().await? {
            self.clone().work(taken).await;
            tried += 1;
        }
        Ok(tried)
    }

    async fn distribute(&self) -> StoreResult<usize> {
        let webhooks = &self.app.config.approvals.webhooks;
        let to = |tenant, slug: &str| {
            let told = webhooks.iter().filter(|webhook| follows(webhook.tenants.as_deref(), tenant, slug));
            told.map(|webhook| webhook.name.clone()).collect()
        };
        notices::distribute(&self.app.store, to, self.app.clock.now()).await
    }

    /// Each turn has a name of its own: also this process can lose a notice and take it again.
    async fn take(&self) -> StoreResult<Option<Taken>> {
        let now = self.app.clock.now();
        notices::take(&self.app.store, ids::mint(now), now, now + HELD).await
    }

    async fn work(self, taken: Taken) {
        let tried = match self.deliver(&taken).await {
            Ok(true) => Tried::Delivered,
            Ok(false) => Tried::Early,
            Err(failure) => {
                let (approval, webhook, error) = (taken.approval, &taken.webhook, failure.detail);
                tracing::warn!(%approval, tenant = %taken.tenant, webhook, attempts = taken.attempts, error, "a notice was not delivered");
                Tried::Not(failure.shown)
            }
        };
        match notices::leave(&self.app.store, &taken, &tried, self.app.clock.now()).await {
            Ok(true) => {}
            Ok(false) => tracing::debug!(approval = %taken.approval, "another runner has the notice"),
            Err(error) => {
                tracing::warn!(approval = %taken.approval, %error, "the notice will be taken again when its time is over")
            }
        }
    }

    /// `false`: what it tells of cannot be read yet.
    async fn deliver(&self, taken: &Taken) -> Result<bool, Failure> {
        let config = self.app.config.approvals.webhooks.iter().find(|webhook| webhook.name == taken.webhook);
        let gone = || Failure::new("the operator's file no longer names this webhook", &taken.webhook);
        let config = config.ok_or_else(gone)?;
        let news = notices::news(&self.app.store, taken, self.app.clock.now()).await.map_err(|error| match error {
            StoreError::NotFound => Failure::new("the approval is gone", error),
            error => Failure::new(SERVER, error),
        })?;
        if !news.recorded {
            return Ok(false);
        }
        let body = self.body(taken, news)?;
        let hook = webhook::Webhook::new(&config.webhook(), self.client.clone());
        let hook = hook.map_err(|error| Failure::new("the webhook's configuration cannot be used", error))?;
        hook.send_file(headers(taken)?, &[], body, self.app.clock.now()).await?;
        Ok(true)
    }

    fn body(&self, taken: &Taken, news: News) -> Result<Vec<u8>, Failure> {
        let News { approval, said, key_name, held_by, .. } = news;
        let key = Asking { id: approval.key_id, name: key_name.as_deref(), held_by: &held_by };
        let api = self.app.config.approvals.api_url.as_deref().unwrap_or_default().trim_end_matches('/');
        let itself = format!("{api}/v1/tenants/{}/approvals/{}", taken.tenant, taken.approval);
        let body = Body {
            id: id(taken),
            event: event(taken),
            at: taken.at,
            tenant_id: taken.tenant,
            key,
            approval: &ApprovalDetail::of((approval, said), Vec::new()),
            links: Links { approve: format!("{itself}/approve"), deny: format!("{itself}/deny"), itself },
        };
        serde_json::to_vec(&body).map_err(|error| Failure::new(SERVER, error))
    }
}

fn id(taken: &Taken) -> String {
    format!("{}/{}", taken.approval, taken.version)
}

fn event(taken: &Taken) -> String {
    format!("approval.{}", taken.event)
}

fn headers(taken: &Taken) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    for (name, value) in
        [("idempotency-key", id(taken)), ("x-tollgate-tenant", taken.tenant.to_string()), ("x-tollgate-event", event(taken))]
    {
        let value = HeaderValue::try_from(value).map_err(|error| Failure::new(SERVER, error))?;
        headers.insert(HeaderName::from_static(name), value);
    }
    Ok(headers)
}
