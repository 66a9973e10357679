//! What becomes of each field of a request at a provider that speaks otherwise than its caller.

use serde_json::{Map, Value};
use tollgate_domain::llm::ProviderKind::{self, Anthropic, Gemini};

use super::super::dialect::Dialect;

enum Fate {
    /// It is said in the provider's words.
    Said,
    /// So it is to these, and refused for others.
    To(&'static [ProviderKind]),
    /// The answer is as good without it: what only tells the provider who asks, how to serve it sooner or cheaper, or how hard to think.
    LeftOut,
}

use Fate::{LeftOut, Said, To};

/// Of a chat completion. What does not stand here is refused.
const CHAT: [(&str, Fate); 31] = [
    ("model", Said),
    ("messages", Said),
    ("stream", Said),
    ("stream_options", Said),
    ("max_tokens", Said),
    ("max_completion_tokens", Said),
    ("temperature", Said),
    ("top_p", Said),
    ("stop", Said),
    ("tools", Said),
    // Bedrock has no word for "none".
    ("tool_choice", Said),
    ("parallel_tool_calls", To(&[Anthropic])),
    // Only as far as the provider knows it: see `format`.
    ("response_format", Said),
    ("top_k", To(&[Anthropic, Gemini])),
    ("seed", To(&[Gemini])),
    ("presence_penalty", To(&[Gemini])),
    ("frequency_penalty", To(&[Gemini])),
    ("reasoning_effort", LeftOut),
    ("verbosity", LeftOut),
    ("user", LeftOut),
    ("safety_identifier", LeftOut),
    ("metadata", LeftOut),
    ("store", LeftOut),
    ("prediction", LeftOut),
    ("prompt_cache_key", LeftOut),
    ("prompt_cache_retention", LeftOut),
    // Nothing but the usual: see `asks_nothing`.
    ("service_tier", To(&[])),
    ("n", To(&[])),
    ("modalities", To(&[])),
    ("logprobs", To(&[])),
    ("logit_bias", To(&[])),
];

/// Of a message.
const MESSAGES: [(&str, Fate); 17] = [
    ("model", Said),
    ("messages", Said),
    ("system", Said),
    ("stream", Said),
    ("max_tokens", Said),
    ("temperature", Said),
    ("top_p", Said),
    ("top_k", To(&[Gemini])),
    ("stop_sequences", Said),
    ("tools", Said),
    ("tool_choice", Said),
    // Only its format; how hard to think is left out.
    ("output_config", Said),
    // A budget, to those who know one; others think as they are used to.
    ("thinking", Said),
    ("metadata", LeftOut),
    // Nobody else keeps what is marked; what a provider keeps by itself is counted all the same.
    ("cache_control", LeftOut),
    // What was said stays as it was sent.
    ("context_management", LeftOut),
    ("service_tier", To(&[])),
];

/// Refuse what a provider of this kind cannot be told.
///
/// # Errors
/// A sentence that names the field.
pub fn check(dialect: Dialect, kind: ProviderKind, body: &Map<String, Value>) -> Result<(), String> {
    let table: &[(&str, Fate)] = if dialect == Dialect::Messages { &MESSAGES } else { &CHAT };
    for (name, value) in body {
        let fate = table.iter().find(|(known, _)| known == name).map(|(_, fate)| fate);
        let fine = match fate {
            Some(Said | LeftOut) => true,
            Some(To(kinds)) => kinds.contains(&kind) || asks_nothing(name, value),
            None => asks_nothing(name, value),
        };
        if !fine {
            return Err(cannot(name, dialect, kind));
        }
    }
    Ok(())
}

/// That something cannot be said.
#[must_use]
pub fn cannot(what: &str, dialect: Dialect, kind: ProviderKind) -> String {
    format!(
        "\"{what}\" cannot be told to a provider of kind \"{kind}\": leave it out, or ask for a model that a provider of kind \"{}\" serves",
        dialect.kind()
    )
}

/// Whether a field says no more than if it were not there.
fn asks_nothing(name: &str, value: &Value) -> bool {
    match (name, value) {
        // Left to itself, a model may make several calls at a time.
        ("parallel_tool_calls", value) => value.as_bool() != Some(false),
        ("n", value) => value.is_null() || value.as_u64() == Some(1),
        ("service_tier", Value::String(tier)) => ["auto", "default", "standard_only"].contains(&tier.as_str()),
        ("modalities", Value::Array(all)) => all.iter().all(|one| one == "text"),
        // Its answer is the same; that it is to be the same another time is more than most promise.
        ("seed", _) => true,
        (_, Value::Null | Value::Bool(false)) => true,
        (_, Value::Array(all)) => all.is_empty(),
        (_, Value::Object(all)) => all.is_empty(),
        (_, Value::Number(number)) => number.as_f64().is_some_and(|number| number.abs() < f64::EPSILON),
        (_, Value::String(text)) => text.is_empty(),
        (_, Value::Bool(true)) => false,
    }
}

/// That a part of the body is of no known shape.
#[must_use]
pub fn odd(at: &str, expected: &str) -> String {
    format!("\"{at}\" is {expected}")
}
