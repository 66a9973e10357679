//! Reading, filtering and matching agree with one another and with an independent reading of JSON.

use proptest::prelude::*;
use serde_json::Value;
use tollgate_domain::search::{
    Piece, Words,
    filter::{self, Builder},
    read,
};

fn words(payload: &str) -> Vec<String> {
    let mut words = Vec::new();
    read(payload, &mut |piece| {
        if let Piece::Word(word) = piece {
            words.push(word.to_owned());
        }
    });
    words
}

/// The strings of a value in order, by serde's reading of escapes.
fn strings(value: &Value, out: &mut Vec<String>) {
    match value {
        Value::String(text) => out.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| strings(item, out)),
        Value::Object(fields) => fields.iter().for_each(|(key, value)| {
            out.push(key.clone());
            strings(value, out);
        }),
        _ => {}
    }
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-cA-C0-1äßΣ東\u{1F600} .,@\"\\\\/\n\t_-]{0,24}",
        "\\PC{0,16}",
        // Not what would be read as JSON in a string.
        any::<String>(),
    ]
    .prop_map(|text| text.replace(['{', '['], "("))
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        text().prop_map(Value::from)
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::vec((text(), inner), 0..5).prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// Every character as an escape.
fn escaped(text: &str) -> String {
    text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_string_of_a_json_text_is_found_and_suspected(value in value()) {
        let mut payloads = vec![value.to_string(), serde_json::to_string_pretty(&value).unwrap()];
        // JSON in a string is read as JSON where it is an object or an array, as tools send it.
        if value.is_object() || value.is_array() {
            payloads.push(Value::from(value.to_string()).to_string());
        }
        for payload in payloads {
            let mut builder = Builder::default();
            builder.payload(&payload);
            let filter = builder.build();
            let mut all = Vec::new();
            strings(&value, &mut all);
            for part in all.iter().flat_map(|text| text.split_whitespace()) {
                let query: String = part.chars().take(200).collect();
                // A query that was cut may end within a word.
                let Ok(asked) = Words::parse(&query) else { continue };
                if query.len() == part.len() {
                    prop_assert!(asked.occur_in([payload.as_str()]), "{query:?} in {payload}");
                    prop_assert!(asked.tokens().into_iter().all(|t| filter::may_hold(&filter, filter::token(t))), "{query:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_found_is_suspected(payload in "\\PC{0,40}", query in "[a-z0-9]{1,2}") {
        let mut builder = Builder::default();
        builder.payload(&payload);
        let filter = builder.build();
        let asked = Words::parse(&query).unwrap();
        if asked.occur_in([payload.as_str()]) {
            prop_assert!(filter::may_hold(&filter, filter::token(&query)));
        }
    }

    #[test]
    fn spelling_does_not_matter(text in text()) {
        let plain = Value::from(text.as_str()).to_string();
        prop_assert_eq!(words(&plain), words(&format!("\"{}\"", escaped(&text))));
        prop_assert_eq!(words(&plain), words(&serde_json::json!({"": text}).to_string()));
    }

    #[test]
    fn any_text_can_be_read(text in any::<String>(), json in "[\\[\\]{}\",:\\\\ua0-9d.e+-]{0,40}") {
        for payload in [text, json] {
            prop_assert!(words(&payload).iter().all(|word| !word.is_empty() && word.chars().any(char::is_alphanumeric)));
        }
    }
}
