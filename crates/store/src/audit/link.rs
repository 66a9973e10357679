//! A writer task's own connection. It stays in its role and is given to nobody else, so that a batch needs neither a turn in the
//! pool nor a message to begin and one to commit: the statement of a batch of calls alone, or of requests of models alone, is its transaction.

use std::time::{Duration, Instant};

use sqlx::{
    Connection, Executor, PgConnection,
    postgres::{PgConnectOptions, PgDatabaseError, PgSeverity},
};

use super::columns::Batch;
use crate::{error::StoreError, ledger::SignedBatch, tx::Store};

/// Longer than the server's own limit on a statement.
const WRITE_WITHIN: Duration = Duration::from_secs(35);
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Its few statements are planned once a connection: planning them anew for each batch costs more than the rows do.
const SETUP: &str = "SET ROLE tollgate_writer; SET plan_cache_mode = force_generic_plan";

/// A connection that nobody has heard of for this long may be gone without a word; a new one costs less than finding that out.
const IDLE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) enum Failure {
    /// It was not written.
    Refused(StoreError),
    /// It may have been.
    InDoubt(StoreError),
    /// It was not: a call draws from a lease that has ended.
    LeaseEnded,
    /// Its rows were, and its number is another batch's: under a new one they have to be signed again.
    Taken,
}

impl From<sqlx::Error> for Failure {
    /// Postgres reports an ERROR only of a transaction that it has rolled back; behind anything else, a session that was ended
    /// or an answer that did not come, a commit may stand. Of the errors, only these say something of a row: broken data, a
    /// constraint, a size. Any other (rights, locks, memory, the disk) is the database's, and passes.
    fn from(error: sqlx::Error) -> Self {
        let told = error.as_database_error().and_then(|error| error.try_downcast_ref::<PgDatabaseError>());
        let Some(code) = told.filter(|told| told.severity() == PgSeverity::Error).map(|told| told.code().to_owned()) else {
            return Self::InDoubt(StoreError::Unavailable(error));
        };
        if code == "TG001" {
            return Self::LeaseEnded;
        }
        let is = |classes: &[&str]| classes.iter().any(|class| code.starts_with(class));
        if is(&["08", "57P"]) {
            Self::InDoubt(StoreError::Unavailable(error))
        } else if is(&["21", "22", "23", "54"]) {
            Self::Refused(error.into())
        } else {
            Self::Refused(StoreError::Unavailable(error))
        }
    }
}

pub(super) struct Link {
    options: PgConnectOptions,
    /// Taken out while a batch is under way: what was left in the middle of something is closed and never used again.
    idle: Option<(PgConnection, Instant)>,
}

impl Link {
    pub(super) fn to(store: &Store) -> Self {
        Self { options: store.pool().connect_options().as_ref().clone(), idle: None }
    }

    /// Write a batch and commit it. One that is `doubted` is looked for first: what was taken away since it was written, an erased
    /// payload, must not come back with its repetition.
    pub(super) async fn write(&mut self, rows: &Batch, signed: &SignedBatch, doubted: bool) -> Result<(), Failure> {
        // A connection into nothing must not hold a writer; the entries are written again, under the same ids.
        let late = || StoreError::Unavailable(sqlx::Error::PoolTimedOut);
        let mut connection = match self.idle.take().filter(|(_, since)| since.elapsed() < IDLE) {
            Some((connection, _)) => connection,
            // Whatever keeps a connection from being made says nothing of the rows.
            None => match tokio::time::timeout(CONNECT_WITHIN, self.connect()).await {
                Ok(connected) => connected.map_err(|error| Failure::Refused(StoreError::Unavailable(error)))?,
                Err(_) => return Err(Failure::Refused(late())),
            },
        };
        let written = async {
            if doubted && is_known(&mut connection, signed).await? {
                return Ok(true);
            }
            Ok::<_, sqlx::Error>(insert(&mut connection, rows, signed).await? || doubted)
        };
        let written = tokio::time::timeout(WRITE_WITHIN, written).await.map_err(|_| Failure::InDoubt(late()))??;
        self.idle = Some((connection, Instant::now()));
        if written { Ok(()) } else { Err(Failure::Taken) }
    }

    async fn connect(&self) -> sqlx::Result<PgConnection> {
        let mut connection = PgConnection::connect_with(&self.options).await?;
        connection.execute(SETUP).await?;
        Ok(connection)
    }
}

async fn is_known(connection: &mut PgConnection, signed: &SignedBatch) -> sqlx::Result<bool> {
    let batch = &signed.batch;
    sqlx::query_scalar("SELECT tollgate_batch_known($1, $2, $3)")
        .bind(batch.writer_id)
        .bind(batch.sequence)
        .bind(batch.root.0.as_slice())
        .fetch_one(connection)
        .await
}

/// False where the batch's number was taken.
async fn insert(connection: &mut PgConnection, rows: &Batch, signed: &SignedBatch) -> sqlx::Result<bool> {
    if rows.is_llm_alone() {
        return rows.insert_llm(connection, Some(signed)).await;
    }
    if rows.has_scripts() || rows.has_llm() {
        let mut tx = connection.begin().await?;
        if rows.has_scripts() {
            rows.insert_scripts(&mut tx).await?;
        }
        if rows.has_llm() {
            rows.insert_llm(&mut tx, None).await?;
        }
        let written = rows.insert_calls(&mut tx, signed).await?;
        tx.commit().await?;
        return Ok(written);
    }
    rows.insert_calls(connection, signed).await
}
