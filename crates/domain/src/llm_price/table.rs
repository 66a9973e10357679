//! The table that ships with the program: list prices of the providers on one day, which it names with its sources.

use std::sync::LazyLock;

use chrono::NaiveDate;
use serde::Deserialize;

use super::{LlmEntry, LlmRates, PriceSource};

const TEXT: &str = include_str!("../../data/llm_prices.json");

/// Prices and the day on which they were.
#[derive(Debug, Clone, Default)]
pub struct Shipped {
    pub date: NaiveDate,
    /// What the prices leave out.
    pub note: String,
    pub sources: Vec<String>,
    pub entries: Vec<LlmEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    date: NaiveDate,
    #[serde(rename = "currency")]
    _currency: String,
    note: String,
    sources: Vec<String>,
    prices: Vec<Line>,
}

#[derive(Deserialize)]
struct Line {
    provider: String,
    models: Vec<String>,
    #[serde(flatten)]
    rates: LlmRates,
}

/// The table. A test holds that the file can be read; were it not so, nothing would have a price.
#[must_use]
pub fn shipped() -> &'static Shipped {
    static TABLE: LazyLock<Shipped> = LazyLock::new(|| read(TEXT).unwrap_or_default());
    &TABLE
}

/// Hosts of those whose prices the table has.
const VENDORS: [(&str, &str); 7] = [
    ("openai.com", "openai"),
    ("anthropic.com", "anthropic"),
    ("googleapis.com", "google"),
    ("amazonaws.com", "bedrock"),
    ("api.aws", "bedrock"),
    ("mistral.ai", "mistral"),
    ("deepseek.com", "deepseek"),
];

/// Who serves this address, as the table names them: tenants name their providers as they like.
#[must_use]
pub fn vendor(base_url: &str) -> Option<&'static str> {
    let (_, rest) = base_url.split_once("://")?;
    let host = rest.split(['/', ':', '?', '#']).next()?.to_ascii_lowercase();
    let is_at = |domain: &str| host.strip_suffix(domain).is_some_and(|sub| sub.is_empty() || sub.ends_with('.'));
    VENDORS.iter().find(|(domain, _)| is_at(domain)).map(|(_, vendor)| *vendor)
}

fn read(text: &str) -> Result<Shipped, String> {
    let file: File = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let mut entries = Vec::new();
    for line in file.prices {
        for model in line.models {
            let pattern = model.parse().map_err(|e| format!("{model}: {e}"))?;
            entries.push(LlmEntry {
                source: PriceSource::Shipped,
                provider: Some(line.provider.clone()),
                model: pattern,
                rates: line.rates,
                effective_from: None,
            });
        }
    }
    Ok(Shipped { date: file.date, note: file.note, sources: file.sources, entries })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vendor_is_known_by_its_host_and_by_nothing_else_of_an_address() {
        assert_eq!(vendor("https://api.openai.com/v1"), Some("openai"));
        assert_eq!(vendor("https://API.Anthropic.com:443"), Some("anthropic"));
        assert_eq!(vendor("https://bedrock-runtime.us-east-1.amazonaws.com/openai/v1"), Some("bedrock"));
        for other in ["https://notopenai.com", "https://llm.example/openai.com", "http://openai.com.example/v1", "openai.com", ""]
        {
            assert_eq!(vendor(other), None, "{other}");
        }
        for (_, vendor) in VENDORS {
            assert!(shipped().entries.iter().any(|entry| entry.provider.as_deref() == Some(vendor)), "{vendor}");
        }
    }

    #[test]
    fn the_table_can_be_read_and_names_each_model_once() {
        let table = read(TEXT).unwrap();
        assert!(table.date > NaiveDate::from_ymd_opt(2026, 11, 1).unwrap() && !table.sources.is_empty());
        assert!(table.entries.len() > 100, "{}", table.entries.len());
        for provider in ["openai", "anthropic", "google", "mistral", "deepseek", "bedrock"] {
            assert!(table.entries.iter().any(|entry| entry.provider.as_deref() == Some(provider)), "{provider}");
        }
        let names: std::collections::HashSet<_> = table.entries.iter().map(|e| (&e.provider, e.model.to_string())).collect();
        assert_eq!(names.len(), table.entries.len());
        for entry in &table.entries {
            let rates = &entry.rates;
            assert!(rates.input.0 > 0 && rates.output.0 >= rates.input.0, "{}", entry.model);
            assert!(rates.cached_input.is_none_or(|cached| cached < rates.input), "{}", entry.model);
            assert!(rates.long_context.is_none_or(|long| long.above > 0 && long.input >= rates.input), "{}", entry.model);
        }
    }
}
