//! Why a run stops, carried through Starlark's own error type so that it keeps the line it happened on.

use std::fmt;

use tollgate_codemode::wire::ErrorKind;

use super::limits::Limit;

#[derive(Debug)]
pub enum Raised {
    /// A call has no answer yet. Nothing in the language can catch it: `try_call` never sees Starlark errors, and
    /// `parallel` passes it on.
    Suspend,
    Error {
        kind: ErrorKind,
        message: String,
    },
}

impl Raised {
    pub fn error(kind: ErrorKind, message: impl Into<String>) -> starlark::Error {
        Self::Error { kind, message: message.into() }.into()
    }

    pub fn limit(limit: Limit) -> starlark::Error {
        Self::error(ErrorKind::Limit, limit.to_string())
    }

    pub fn runtime(message: impl Into<String>) -> starlark::Error {
        Self::error(ErrorKind::Runtime, message)
    }

    /// What `error` carries, if it is one of ours.
    pub fn of(error: &starlark::Error) -> Option<&Self> {
        use starlark::ErrorKind as K;
        match error.kind() {
            K::Native(e) | K::Other(e) | K::Value(e) | K::Function(e) | K::Internal(e) => e.downcast_ref(),
            _ => None,
        }
    }
}

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Suspend => f.write_str("waiting for a tool call"),
            Self::Error { message, .. } => f.write_str(message),
        }
    }
}

impl std::error::Error for Raised {}

impl From<Raised> for starlark::Error {
    fn from(raised: Raised) -> Self {
        starlark::Error::new_native(raised)
    }
}
