//! Secrets planted at any place of any document.

use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{super::*, all_detectors, kept, redactor, secrets};

/// Compiled once: that costs more than a case.
static EVERYTHING: LazyLock<Redactor> =
    LazyLock::new(|| redactor(&["$..f", "$..z[0]"], &all_detectors(), &[("employee id", "E-[0-9]{2}")]));

static SECRETS: LazyLock<Vec<(&'static str, String)>> = LazyLock::new(secrets);

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-1000..1000i64).prop_map(Value::from),
        "[ a-zé\\\\\"\n]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-e]", inner, 0..4).prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

/// Put `planted` in the place that `turns` lead to.
fn plant(value: &mut Value, turns: &[usize], planted: &Value, as_key: bool) {
    let (turn, rest) = turns.split_first().map_or((0, &[][..]), |(t, rest)| (*t, rest));
    match value {
        Value::Array(items) if !items.is_empty() && !turns.is_empty() => {
            let at = turn % items.len();
            plant(&mut items[at], rest, planted, as_key);
        }
        Value::Object(map) if !map.is_empty() && !turns.is_empty() => {
            let at = turn % map.len();
            if let Some((_, child)) = map.iter_mut().nth(at) {
                plant(child, rest, planted, as_key);
            }
        }
        place if as_key => *place = json!({planted.as_str().unwrap(): place.clone()}),
        place => *place = planted.clone(),
    }
}

/// The same JSON with characters of its strings escaped where `escape` says so.
fn spelt(value: &Value, escape: &[bool]) -> String {
    let (mut text, mut turn, mut quoted, mut escaped) = (String::new(), escape.iter().cycle(), false, false);
    for c in value.to_string().chars() {
        let plain = quoted && !escaped && c != '"' && c != '\\';
        if c == '"' && !escaped {
            quoted = !quoted;
        }
        escaped = quoted && c == '\\' && !escaped;
        if plain && turn.next() == Some(&true) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                text.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            text.push(c);
        }
    }
    text
}

/// Every text in a document, decoded, texts inside texts too.
fn texts(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|v| texts(v, found)),
        Value::Object(map) => map.iter().for_each(|(k, v)| {
            found.push(k.clone());
            texts(v, found);
        }),
        Value::String(text) => {
            found.push(text.clone());
            if let Ok(inner) = serde_json::from_str(text) {
                texts(&inner, found);
            }
        }
        other => found.push(other.to_string()),
    }
}

proptest! {
    #[test]
    fn nothing_planted_survives(
        host in any_json(), inner in any_json(), turns in prop::collection::vec(0..5usize, 0..5), which in 0..26usize,
        around in "[ (\n\"é]{0,3}", as_key in any::<bool>(), layers in 0..3usize, escape in prop::collection::vec(any::<bool>(), 1..7),
    ) {
        let (name, secret) = SECRETS[which].clone();
        let redactor = &*EVERYTHING;
        let planted = json!(format!("{around}{secret}{}", if around.is_empty() { "" } else { " " }));
        let mut document = inner;
        plant(&mut document, &turns, &planted, as_key);
        for layer in 0..layers {
            let text = json!(spelt(&document, &escape[..1 + layer % escape.len()]));
            document = host.clone();
            plant(&mut document, &turns, &text, false);
        }
        let text = spelt(&document, &escape);
        let kept = kept(redactor, &text);
        let read: Value = serde_json::from_str(&kept).expect("what is kept is JSON");
        let mut found = Vec::new();
        texts(&read, &mut found);
        prop_assert!(found.iter().all(|t| !t.contains(&secret)), "{name}: {kept}");
        prop_assert_eq!(redactor.redact_json(kept.as_bytes()), Redacted::Unchanged, "twice is once");
    }

    #[test]
    fn a_document_that_holds_nothing_is_unchanged_and_any_other_is_not(
        mut document in any_json(), turns in prop::collection::vec(0..5usize, 0..5), plants in any::<bool>(), spaced in any::<bool>(),
    ) {
        if plants {
            plant(&mut document, &turns, &json!({"z": [1]}), false);
        }
        let text = if spaced { serde_json::to_string_pretty(&document).unwrap() } else { document.to_string() };
        prop_assert_eq!(EVERYTHING.redact_json(text.as_bytes()) == Redacted::Unchanged, !plants);
    }

    #[test]
    fn a_selected_value_is_gone_with_all_that_it_holds(
        mut document in any_json(), turns in prop::collection::vec(0..5usize, 0..5), value in any_json(), embed in any::<bool>(),
    ) {
        let redactor = redactor(&["$..password"], &[], &[]);
        let held = json!({"password": ["needle-needle", value]});
        let held = if embed { json!(held.to_string()) } else { held };
        plant(&mut document, &turns, &held, false);
        let kept = kept(&redactor, &document.to_string());
        prop_assert!(!kept.contains("needle") && kept.contains(MARKER));
        prop_assert!(serde_json::from_str::<Value>(&kept).is_ok());
    }

    #[test]
    fn any_text_is_redacted_once(text in r#"[\[\]{}":, a-fyz0-9@.E\\-]{0,60}"#) {
        if let Some(once) = EVERYTHING.redact_text(&text) {
            prop_assert_eq!(EVERYTHING.redact_text(&once), None, "{}", once);
        }
    }
}
