//! What can go wrong in the store, as its callers tell it apart.

pub type StoreResult<T> = Result<T, StoreError>;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No such row in this tenant. Another tenant's row reads the same.
    #[error("not found")]
    NotFound,
    /// The row's version is not the one that the caller has read.
    #[error("the resource has changed since it was read")]
    Stale,
    /// A unique name is taken, or the row is still in use. The text is for the caller.
    #[error("{0}")]
    Conflict(String),
    /// The write names something that does not exist or cannot be: the field's JSON pointer and a sentence for the caller.
    #[error("{pointer}: {message}")]
    Invalid { pointer: String, message: String },
    /// Rows that were asked for by their place were dropped with their month. The text is for the caller.
    #[error("{0}")]
    Gone(&'static str),
    /// Postgres is away, full or too slow.
    #[error("the database is not available: {0}")]
    Unavailable(sqlx::Error),
    /// The counters of rate limits are in a Redis that does not answer, or not as it should.
    #[error("Redis does not answer: {0}")]
    Redis(redis::RedisError),
    /// Everything else: a defect of ours.
    #[error("database error: {0}")]
    Internal(sqlx::Error),
    #[error("corrupt row: {0}")]
    Corrupt(String),
}

impl StoreError {
    pub fn invalid(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid { pointer: pointer.into(), message: message.into() }
    }

    /// Whether trying the same again may succeed.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Redis(_))
    }

    /// Replace the bare "already exists" of a unique index by a sentence for the caller.
    #[must_use]
    pub fn taken(self, sentence: &str) -> Self {
        match self {
            Self::Conflict(_) => Self::Conflict(sentence.to_owned()),
            other => other,
        }
    }
}

impl From<redis::RedisError> for StoreError {
    fn from(error: redis::RedisError) -> Self {
        Self::Redis(error)
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::RowNotFound => Self::NotFound,
            sqlx::Error::Io(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::Tls(_)
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::Protocol(_)
            | sqlx::Error::BeginFailed => Self::Unavailable(error),
            sqlx::Error::Database(db) => match db.code().as_deref() {
                Some("23505") => Self::Conflict("this already exists".to_owned()),
                Some("23503") => Self::Conflict("this is still in use, or names something that does not exist".to_owned()),
                // connection, resources (disk full, too many connections), operator intervention, the system's own errors (a disk
                // that cannot be read or written), deadlock, read-only
                Some(code) if ["08", "53", "57", "58", "40"].iter().any(|class| code.starts_with(class)) || code == "25006" => {
                    Self::Unavailable(error)
                }
                _ => Self::Internal(error),
            },
            _ => Self::Internal(error),
        }
    }
}

/// A word of a column as the type that it is of.
///
/// # Errors
/// [`StoreError::Corrupt`] for a word that the type does not know.
pub(crate) fn word<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> StoreResult<T> {
    text.parse().map_err(|e| StoreError::Corrupt(format!("{text:?}: {e}")))
}
