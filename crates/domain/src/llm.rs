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
        /// Google's generateContent.
        Gemini = "gemini",
        /// Amazon's Converse.
        Bedrock = "bedrock",
    }
}

/// Credentials of AWS in one secret, `ACCESS_KEY_ID:SECRET_ACCESS_KEY`, with `:SESSION_TOKEN` where they are temporary. A key of Bedrock's
/// own has no colon.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct AwsCredentials<'a> {
    pub id: &'a str,
    pub secret: &'a str,
    pub token: Option<&'a str>,
}

impl<'a> AwsCredentials<'a> {
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Self> {
        let (id, rest) = text.split_once(':')?;
        let (secret, token) = match rest.split_once(':') {
            Some((secret, token)) => (secret, Some(token)),
            None => (rest, None),
        };
        let is_id = (16..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        let whole = !secret.is_empty() && token.is_none_or(|token| !token.is_empty() && !token.contains(':'));
        (is_id && whole).then_some(Self { id, secret, token })
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
    fn credentials_of_aws_are_two_parts_or_three() {
        let parse = |text| AwsCredentials::parse(text).map(|found| (found.id, found.secret, found.token));
        assert_eq!(parse("AKIAIOSFODNN7EXAMPLE:a/b+c"), Some(("AKIAIOSFODNN7EXAMPLE", "a/b+c", None)));
        assert_eq!(parse("ASIAIOSFODNN7EXAMPLE:s:t=="), Some(("ASIAIOSFODNN7EXAMPLE", "s", Some("t=="))));
        for odd in
            ["bedrock-api-key", "AKIA:s", "AKIAIOSFODNN7EXAMPLE:", "AKIAIOSFODNN7EXAMPLE:s:", "AKIAIOSFODNN7EXAMPLE:s:t:u", ":s"]
        {
            assert_eq!(parse(odd), None, "{odd}");
        }
    }

    #[test]
    fn estimates_round_up() {
        assert_eq!([estimate(0), estimate(1), estimate(4), estimate(5)], [0, 1, 1, 2]);
    }
}
