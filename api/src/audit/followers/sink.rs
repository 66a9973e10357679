//! A sink: what of a log it is sent, and in what form.

use std::time::Duration;

use tollgate_boot::config::{self, SinkFormat, SinkRows};
use tollgate_domain::TenantId;
use tollgate_store::{
    StoreError,
    followers::{self as cursors, Wanted},
};

use super::{
    BATCH_BYTES, Failure, Follower, Step,
    row::{Message, message},
    syslog::Syslog,
    webhook::Webhook,
};
use crate::audit::formats::Format;

#[derive(Debug)]
pub struct Sink {
    wanted: Wanted,
    format: Format,
    way: Way,
}

#[derive(Debug)]
enum Way {
    Webhook(Webhook),
    Syslog(Syslog),
}

impl Sink {
    /// # Errors
    /// When it cannot work as configured.
    pub fn new(config: &config::Sink, client: &reqwest::Client, patience: Duration) -> anyhow::Result<Self> {
        let way = match (&config.webhook, &config.syslog) {
            (Some(webhook), _) => Way::Webhook(Webhook::new(webhook, client.clone())?),
            (None, Some(syslog)) => Way::Syslog(Syslog::new(syslog, patience)),
            (None, None) => anyhow::bail!("audit sink {:?} goes nowhere", config.name),
        };
        let wanted = Wanted { calls: config.rows != SinkRows::AdminEvents, admin_events: config.rows != SinkRows::Calls };
        let format = match config.format {
            SinkFormat::Json => Format::Ndjson,
            SinkFormat::Ocsf => Format::Ocsf,
        };
        Ok(Self { wanted, format, way })
    }

    /// Deliver what comes next; `None` at the end of the log.
    ///
    /// # Errors
    /// When the database does not answer. What the receiver did is in the step.
    pub async fn step(&self, follower: &Follower, tenant: TenantId, from: u64) -> Result<Option<Step>, StoreError> {
        let batch = {
            let _permit = follower.reads.acquire().await;
            cursors::batch(&follower.app.store, tenant, from, self.wanted, BATCH_BYTES).await?
        };
        let Some(batch) = batch else { return Ok(None) };
        if batch.gone > 0 {
            let (name, gone) = (&follower.name, batch.gone);
            tracing::error!(follower = name, %tenant, gone, "rows are no more, and were never sent: they passed their retention");
        }
        let written = batch.rows.into_iter().map(|row| message(tenant, row, self.format, self.largest())).collect();
        let mut messages: Vec<Message> = match written {
            Ok(messages) => messages,
            Err(error) => {
                let failure = Failure::new("a row could not be written in the sink's format", error);
                return Ok(Some(Step { position: from, failure: Some(failure) }));
            }
        };
        let mut end = batch.end;
        if let Some(cut) = beyond(&messages, BATCH_BYTES) {
            end = messages[cut].position;
            messages.truncate(cut);
        }
        if messages.is_empty() {
            return Ok(Some(Step { position: end, failure: None }));
        }
        let sent = match &self.way {
            Way::Webhook(webhook) => webhook.send(tenant, (from, end), &messages, follower.now()).await,
            Way::Syslog(syslog) => syslog.send(tenant, &messages).await,
        };
        Ok(Some(match sent {
            Ok(()) => Step { position: end, failure: None },
            Err(failure) => Step { position: from, failure: Some(failure) },
        }))
    }

    const fn largest(&self) -> Option<usize> {
        match &self.way {
            Way::Webhook(_) => None,
            Way::Syslog(syslog) => syslog.largest(),
        }
    }
}

/// The index of the first message that does not fit in `bytes` with those before it; never the first of all.
fn beyond(messages: &[Message], bytes: usize) -> Option<usize> {
    // What stands around the rows.
    let mut taken = 256;
    let over = messages.iter().position(|message| {
        taken += message.body.len() + 1;
        taken > bytes
    });
    over.map(|index| index.max(1)).filter(|index| *index < messages.len())
}
