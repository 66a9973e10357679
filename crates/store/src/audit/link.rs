//! A writer task's own connection. It stays in its role and is given to nobody else, so that a batch needs neither a turn in the
//! pool nor a message to begin and one to commit: the statement of a batch without scripts is its transaction.

use std::time::Duration;

use sqlx::{
    Connection, Executor, PgConnection,
    postgres::{PgConnectOptions, PgDatabaseError, PgSeverity},
};

use super::columns::Batch;
use crate::{
    error::{StoreError, StoreResult},
    ledger::SignedBatch,
    tx::Store,
};

/// Longer than the server's own limit on a statement.
const WRITE_WITHIN: Duration = Duration::from_secs(35);
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Its few statements are planned once a connection: planning them anew for each batch costs more than the rows do.
const SETUP: &str = "SET ROLE tollgate_writer; SET plan_cache_mode = force_generic_plan";

#[derive(Debug)]
pub(super) enum Failure {
    /// It was not written.
    Refused(StoreError),
    /// It may have been.
    InDoubt(StoreError),
}

impl From<sqlx::Error> for Failure {
    /// Postgres reports an ERROR only of a transaction that it has rolled back; behind anything else, a session that was ended
    /// or an answer that did not come, a commit may stand.
    fn from(error: sqlx::Error) -> Self {
        let rolled_back = error
            .as_database_error()
            .and_then(|error| error.try_downcast_ref::<PgDatabaseError>())
            .is_some_and(|error| error.severity() == PgSeverity::Error);
        if rolled_back { Self::Refused(error.into()) } else { Self::InDoubt(error.into()) }
    }
}

pub(super) struct Link {
    options: PgConnectOptions,
    /// Taken out while a batch is under way: what was left in the middle of something is closed and never used again.
    idle: Option<PgConnection>,
}

impl Link {
    pub(super) fn to(store: &Store) -> Self {
        Self { options: store.pool().connect_options().as_ref().clone(), idle: None }
    }

    /// Write a batch and commit it.
    pub(super) async fn write(&mut self, rows: &Batch, signed: &SignedBatch) -> Result<(), Failure> {
        // A connection into nothing must not hold a writer; the entries are written again, under the same ids.
        let mut connection = match self.idle.take() {
            Some(connection) => connection,
            None => tokio::time::timeout(CONNECT_WITHIN, self.connect())
                .await
                .map_err(|_| Failure::Refused(late()))?
                .map_err(Failure::Refused)?,
        };
        let written = tokio::time::timeout(WRITE_WITHIN, insert(&mut connection, rows, signed)).await;
        match written.map_err(|_| Failure::InDoubt(late()))? {
            Ok(()) => {
                self.idle = Some(connection);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn connect(&self) -> StoreResult<PgConnection> {
        let mut connection = PgConnection::connect_with(&self.options).await?;
        connection.execute(SETUP).await?;
        Ok(connection)
    }
}

async fn insert(connection: &mut PgConnection, rows: &Batch, signed: &SignedBatch) -> sqlx::Result<()> {
    if rows.has_scripts() {
        let mut tx = connection.begin().await?;
        rows.insert_scripts(&mut tx).await?;
        rows.insert_calls(&mut tx, signed).await?;
        return tx.commit().await;
    }
    rows.insert_calls(connection, signed).await
}

fn late() -> StoreError {
    StoreError::Unavailable(sqlx::Error::PoolTimedOut)
}
