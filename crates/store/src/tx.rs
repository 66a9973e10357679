//! Connections, migrations, and the transactions in which everything runs.

use std::{str::FromStr, sync::Arc, time::Duration};

use sqlx::{
    AssertSqlSafe, Connection, PgConnection, PgPool, Postgres, Row,
    migrate::Migrator,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tollgate_domain::TenantId;
use tollgate_evidence::sign::{KeyRing, Signer};

use crate::error::{StoreError, StoreResult};

pub static MIGRATOR: Migrator = sqlx::migrate!("../../migrations");

pub type Tx = sqlx::Transaction<'static, Postgres>;

/// The pool, and the keys with which rows of the trail are signed as they are written. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    pool: PgPool,
    keys: Arc<KeyRing>,
}

/// Connect, with at most `max_connections` to this database, and two more for an audit writer.
///
/// # Errors
/// When the URL is malformed or the database cannot be reached within 10 s.
pub async fn connect(url: &str, max_connections: u32, keys: Arc<KeyRing>) -> StoreResult<Store> {
    let options = PgConnectOptions::from_str(url)?
        .application_name("tollgate")
        // A statement that waits longer than this waits for something that will not come.
        .options([("statement_timeout", "30s"), ("idle_in_transaction_session_timeout", "60s"), ("timezone", "UTC")]);
    let pool = PgPoolOptions::new()
        .max_connections(max_connections)
        .acquire_timeout(Duration::from_secs(10))
        .connect_with(options)
        .await?;
    Ok(Store { pool, keys })
}

impl Store {
    /// For tests: signs with a key that everyone knows.
    ///
    /// # Panics
    /// Never: any 32 bytes are a seed.
    #[must_use]
    #[expect(clippy::expect_used, reason = "a constant of the right length")]
    pub fn from_pool(pool: PgPool) -> Self {
        let signer = Signer::from_seed(&[0; 32]).expect("a seed");
        Self { pool, keys: Arc::new(KeyRing::new(signer, [])) }
    }

    #[must_use]
    pub const fn keys(&self) -> &Arc<KeyRing> {
        &self.keys
    }

    #[must_use]
    pub const fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// A transaction that sees and writes one tenant.
    ///
    /// # Errors
    /// When no connection is to be had.
    pub async fn tenant(&self, tenant: TenantId) -> StoreResult<Tx> {
        // One message: BEGIN, role and tenant. The simple protocol takes no parameters; a UUID prints hex and dashes alone.
        self.begin(format!("BEGIN; SET LOCAL ROLE tollgate_app; SET LOCAL app.tenant_id = '{}'", tenant.uuid())).await
    }

    /// [`Self::tenant`], read-only and from one snapshot: for answers that take several queries.
    ///
    /// # Errors
    /// When no connection is to be had.
    pub async fn tenant_snapshot(&self, tenant: TenantId) -> StoreResult<Tx> {
        let begin = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL ROLE tollgate_app; SET LOCAL app.tenant_id = '{}'",
            tenant.uuid()
        );
        self.begin(begin).await
    }

    /// A transaction for the few reads across tenants.
    ///
    /// # Errors
    /// When no connection is to be had.
    pub async fn control(&self) -> StoreResult<Tx> {
        self.begin("BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL ROLE tollgate_control".to_owned()).await
    }

    /// A transaction that gives rows their place in the log.
    ///
    /// # Errors
    /// When no connection is to be had.
    pub async fn sealer(&self) -> StoreResult<Tx> {
        self.begin("BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL ROLE tollgate_sealer".to_owned()).await
    }

    /// On a task of its own, so that it ends whatever becomes of who asked: sqlx gives a connection back *inside* the open
    /// transaction when its begin is dropped half way, and whoever got it next would write into that.
    async fn begin(&self, sql: String) -> StoreResult<Tx> {
        let pool = self.pool.clone();
        let begun = tokio::spawn(async move { pool.begin_with(AssertSqlSafe(sql)).await });
        Ok(begun.await.map_err(|_| StoreError::Unavailable(sqlx::Error::WorkerCrashed))??)
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ping(&self) -> StoreResult<()> {
        let mut tx = self.control().await?;
        sqlx::query!("SELECT revision FROM config_revision").fetch_one(&mut *tx).await?;
        Ok(tx.commit().await?)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrateReport {
    /// Versions applied now, oldest first.
    pub applied: Vec<i64>,
}

/// Bring the database to this binary's schema. Concurrent starts wait for one another.
///
/// # Errors
/// When the database holds migrations that this binary does not know (it is newer), when a landed migration was edited, or
/// when one fails.
pub async fn migrate(url: &str) -> Result<MigrateReport, MigrateError> {
    let mut connection = PgConnection::connect(url).await.map_err(MigrateError::Connect)?;
    let before = applied(&mut connection).await?;
    let known: Vec<i64> = MIGRATOR.iter().map(|m| m.version).collect();
    if let Some(&newer) = before.iter().find(|version| !known.contains(version)) {
        return Err(MigrateError::Newer { database: newer, binary: known.last().copied().unwrap_or_default() });
    }
    MIGRATOR.run(&mut connection).await.map_err(MigrateError::Failed)?;
    Ok(MigrateReport { applied: known.into_iter().filter(|v| !before.contains(v)).collect() })
}

#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    #[error("cannot connect to the database: {0}")]
    Connect(sqlx::Error),
    #[error(
        "the database is newer than this binary: it holds migration {database}, this binary knows up to {binary}. Run the newer tollgate, or restore the database from before its upgrade"
    )]
    Newer { database: i64, binary: i64 },
    #[error("migration failed: {0}")]
    Failed(sqlx::migrate::MigrateError),
}

async fn applied(connection: &mut PgConnection) -> Result<Vec<i64>, MigrateError> {
    let table = sqlx::query("SELECT to_regclass('_sqlx_migrations') IS NOT NULL AS there");
    let there: bool = table.fetch_one(&mut *connection).await.map_err(MigrateError::Connect)?.get("there");
    if !there {
        return Ok(Vec::new());
    }
    let rows = sqlx::query_scalar("SELECT version FROM _sqlx_migrations ORDER BY version");
    rows.fetch_all(connection).await.map_err(MigrateError::Connect)
}

impl From<sqlx::migrate::MigrateError> for StoreError {
    fn from(error: sqlx::migrate::MigrateError) -> Self {
        Self::Internal(sqlx::Error::Migrate(Box::new(error)))
    }
}
