//! The words of the LLM door: providers, modes, and what is counted.

use crate::{
    call::words,
    ids::{ModelRouteId, ProviderId},
};

words! {
    /// What a provider speaks.
    ProviderKind {
        /// Chat completions, responses and embeddings, as OpenAI wrote them and most others serve them.
        OpenAi = "openai",
        /// Messages.
        Anthropic = "anthropic",
    }
}

words! {
    /// Who makes the tool calls that a model asks for.
    Mode {
        /// Whoever asked the model: each by a request of its own.
        Manual = "manual",
        /// The gateway, which asks the model again with what they came to.
        Agent = "agent",
    }
}

words! {
    /// Whether the requests of a key may be made in [`Mode::Agent`].
    AgentMode {
        Off = "off",
        /// Where the request asks for it.
        OnRequest = "on_request",
        /// Unless the request asks for [`Mode::Manual`].
        Always = "always",
    }
}

words! {
    /// Where a request's numbers of tokens come from.
    Counted {
        /// The provider has told them.
        Reported = "reported",
        /// It did not come to tell them: from the bytes that went and came.
        Estimated = "estimated",
        /// Nothing went to a provider that it would count.
        None = "none",
    }
}

/// Bytes of a text for one token, where nobody counts them: between English prose (4 and more) and JSON or code (3).
pub const BYTES_A_TOKEN: usize = 4;

/// About how many tokens a text of so many bytes is, rounded up.
#[must_use]
pub fn estimate(bytes: usize) -> u64 {
    u64::try_from(bytes.div_ceil(BYTES_A_TOKEN)).unwrap_or(u64::MAX)
}

/// What a model's name that a tenant has chosen stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelRoute {
    pub id: ModelRouteId,
    pub name: String,
    pub targets: Vec<Target>,
}

/// A model at a provider.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    pub provider_id: ProviderId,
    /// As the provider names it.
    pub model: String,
    /// Its share of the first tries; 0: tried after those that have one, in the order in which they stand.
    pub weight: u32,
}

/// Whether a list of patterns names a model: each is a name, or a beginning with `*` behind it.
#[must_use]
pub fn names(patterns: &[String], model: &str) -> bool {
    patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(beginning) => model.starts_with(beginning),
        None => pattern == model,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_a_name_or_a_beginning() {
        let patterns = ["gpt-5".to_owned(), "claude-*".to_owned()];
        assert!(names(&patterns, "gpt-5") && names(&patterns, "claude-sonnet"));
        assert!(!names(&patterns, "gpt-5-mini") && !names(&patterns, "claud") && !names(&[], "x"));
        assert!(names(&["*".to_owned()], "anything"));
    }

    #[test]
    fn estimates_round_up() {
        assert_eq!([estimate(0), estimate(1), estimate(4), estimate(5)], [0, 1, 1, 2]);
    }
}
