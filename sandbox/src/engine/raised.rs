//! Why a run stops, carried through Starlark's own error type so that it keeps the line it happened on.

use std::fmt;

use tollgate_codemode::wire::ErrorKind;

use super::limits::Limit;

#[derive(Debug)]
pub enum Raised {
    /// A call has no answer yet. Nothing in the language can catch it: `__try` and `parallel` pass it on.
    Suspend,
    /// A `return` outside functions: the script has ended, its value is in the module.
    Exit,
    Error {
        kind: ErrorKind,
        message: String,
        /// The exception's class, as `except` sees it.
        class: &'static str,
    },
    /// `raise`. The exception itself is in the module, since an error can hold no value of the heap.
    Thrown {
        kind: ErrorKind,
        message: String,
        /// Offset in the Starlark text where it was first raised, if that was somewhere else.
        at: Option<usize>,
    },
}

impl Raised {
    pub fn error(kind: ErrorKind, message: impl Into<String>) -> starlark::Error {
        let class = if kind == ErrorKind::ToolError { "ToolError" } else { "RuntimeError" };
        Self::Error { kind, message: message.into(), class }.into()
    }

    pub fn limit(limit: Limit) -> starlark::Error {
        Self::error(ErrorKind::Limit, limit.to_string())
    }

    pub fn runtime(message: impl Into<String>) -> starlark::Error {
        Self::error(ErrorKind::Runtime, message)
    }

    pub fn of_class(class: &'static str, message: impl Into<String>) -> starlark::Error {
        Self::Error { kind: ErrorKind::Runtime, message: message.into(), class }.into()
    }

    pub fn value(message: impl Into<String>) -> starlark::Error {
        Self::of_class("ValueError", message)
    }

    pub fn type_of(message: impl Into<String>) -> starlark::Error {
        Self::of_class("TypeError", message)
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
            Self::Exit => f.write_str("the script has ended"),
            Self::Error { message, .. } | Self::Thrown { message, .. } => f.write_str(message),
        }
    }
}

impl std::error::Error for Raised {}

impl From<Raised> for starlark::Error {
    fn from(raised: Raised) -> Self {
        starlark::Error::new_native(raised)
    }
}
