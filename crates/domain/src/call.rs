//! The words in which a tool call is recorded.

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $name { $($(#[$vdoc])* #[serde(rename = $text)] $variant,)+ }
        impl $name {
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];
            #[must_use]
            pub const fn as_str(self) -> &'static str { match self { $(Self::$variant => $text,)+ } }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str(self.as_str()) }
        }
        impl std::str::FromStr for $name {
            type Err = $crate::call::UnknownWord;
            fn from_str(text: &str) -> Result<Self, $crate::call::UnknownWord> {
                match text { $($text => Ok(Self::$variant),)+ _ => Err($crate::call::UnknownWord { expected: &[$($text,)+] }) }
            }
        }
    };
}
pub(crate) use words;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected one of {}", expected.join(", "))]
pub struct UnknownWord {
    pub expected: &'static [&'static str],
}

words! {
    /// What the policy said before the call.
    Decision { Permitted = "permitted", Denied = "denied", Held = "held", }
}

words! {
    /// How a call ended. A row without one is still open.
    Outcome {
        Ok = "ok",
        /// The tool answered, with `isError`.
        ToolError = "tool_error",
        /// The upstream could not be reached or answered outside the protocol.
        UpstreamError = "upstream_error",
        Timeout = "timeout",
        Cancelled = "cancelled",
        Denied = "denied",
        Held = "held",
        /// The worker ended before it could say: the upstream may or may not have acted.
        Unknown = "unknown",
    }
}

impl Outcome {
    /// Whether cost reports count the call as an error.
    #[must_use]
    pub const fn is_error(self) -> bool {
        !matches!(self, Self::Ok | Self::Held)
    }
}

words! {
    /// Where a parent request came from.
    Origin {
        /// Forwarded by Tollgate's own LLM endpoint.
        Llm = "llm",
        /// Made for an MCP request that named no parent.
        Minted = "minted",
    }
}

words! {
    /// How a call was made.
    Via {
        /// `tools/call` on a classic tool.
        Classic = "classic",
        /// From a Code Mode script.
        Script = "script",
    }
}

words! {
    /// When an answer is released. The row that a call opens is durable before its upstream hears of it either way.
    Durability {
        /// When its completion is durable.
        Strict = "strict",
        /// At once; the completion follows within half a second, or the next answers wait.
        Relaxed = "relaxed",
    }
}
