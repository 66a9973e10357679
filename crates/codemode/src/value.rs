//! From a raw `CallToolResult` to the value a script sees.

use serde_json::{Map, Value};

use crate::text;
use crate::wire::Answer;

/// An error text longer than this is cut: it goes back to a model.
const MAX_ERROR: usize = 4096;

/// What a script gets for this answer of a tool.
///
/// An error becomes its text. Otherwise structured content wins (unwrapped where `FastMCP` wrapped a bare value into `result`); a
/// single text that is a JSON object or array is that value, and any other text stays a string: a bare `007` is an
/// identifier as often as a number. Several blocks become a list, texts as strings and the rest as the dicts they are.
#[must_use]
pub fn answer_of(result: &Value, definition: &Value) -> Answer {
    let content = result.get("content").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let structured = result.get("structuredContent").filter(|s| !s.is_null());
    if result.get("isError") == Some(&Value::Bool(true)) {
        return Answer::Error(error_text(content, structured));
    }
    Answer::Value(match (structured, content) {
        (Some(value), _) => unwrapped(value, definition).clone(),
        (None, []) => Value::Null,
        (None, [one]) => match text_of(one) {
            Some(text) => parsed(text),
            None => one.clone(),
        },
        (None, blocks) => blocks.iter().map(|b| text_of(b).map_or_else(|| b.clone(), Value::from)).collect(),
    })
}

/// The schema of the value inside `{"result": ..}` where the tool's server wraps bare values so.
pub(crate) fn wrapped_result(definition: &Value) -> Option<&Value> {
    let output = definition.get("outputSchema")?;
    let wraps = output.get("x-fastmcp-wrap-result") == Some(&Value::Bool(true));
    output.get("properties")?.get("result").filter(|_| wraps)
}

fn unwrapped<'a>(structured: &'a Value, definition: &Value) -> &'a Value {
    let only = |map: &'a Map<String, Value>| map.get("result").filter(|_| map.len() == 1);
    structured.as_object().and_then(only).filter(|_| wrapped_result(definition).is_some()).unwrap_or(structured)
}

fn text_of(block: &Value) -> Option<&str> {
    block.get("text").and_then(Value::as_str).filter(|_| block.get("type").is_none_or(|t| t == "text"))
}

fn parsed(text: &str) -> Value {
    let structured = text.trim_start().starts_with(['{', '[']);
    let value = structured.then(|| serde_json::from_str(text).ok()).flatten();
    value.unwrap_or_else(|| Value::from(text))
}

fn error_text(content: &[Value], structured: Option<&Value>) -> String {
    let texts: Vec<&str> = content.iter().filter_map(text_of).filter(|t| !t.trim().is_empty()).collect();
    let joined = match (texts.is_empty(), structured) {
        (false, _) => texts.join("\n"),
        (true, Some(value)) => value.to_string(),
        (true, None) => "the tool answered with an error and no text".to_owned(),
    };
    text::cap(&joined, MAX_ERROR)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn value(result: Value, definition: Value) -> Value {
        match answer_of(&result, &definition) {
            Answer::Value(value) => value,
            Answer::Error(error) => panic!("{error}"),
        }
    }

    fn text(t: &str) -> Value {
        json!({"type": "text", "text": t})
    }

    #[test]
    fn structured_content_wins_and_is_unwrapped_only_where_the_schema_says_so() {
        let result = json!({"content": [text("[1]")], "structuredContent": {"result": [1]}});
        let wraps = json!({"outputSchema": {"x-fastmcp-wrap-result": true, "properties": {"result": {}}}});
        assert_eq!(value(result.clone(), wraps.clone()), json!([1]));
        assert_eq!(value(result, json!({})), json!({"result": [1]}));
        let two = json!({"structuredContent": {"result": 1, "next": 2}});
        assert_eq!(value(two.clone(), wraps), two["structuredContent"]);
    }

    #[test]
    fn one_text_is_parsed_when_it_is_an_object_or_an_array() {
        for (given, expected) in [
            ("{\"a\": 1}", json!({"a": 1})),
            (" [1, 2]\n", json!([1, 2])),
            ("007", json!("007")),
            ("true", json!("true")),
            ("{not json", json!("{not json")),
            ("", json!("")),
        ] {
            assert_eq!(value(json!({"content": [text(given)]}), json!({})), expected);
        }
    }

    #[test]
    fn blocks_become_a_list() {
        let image = json!({"type": "image", "mimeType": "image/png", "data": "AA=="});
        assert_eq!(value(json!({"content": [image.clone()]}), json!({})), image);
        assert_eq!(value(json!({"content": [text("a"), image.clone()]}), json!({})), json!(["a", image]));
        assert_eq!(value(json!({"content": []}), json!({})), Value::Null);
    }

    #[test]
    fn errors_are_text_and_short() {
        let error = |result: Value| match answer_of(&result, &json!({})) {
            Answer::Error(e) => e,
            Answer::Value(v) => panic!("{v}"),
        };
        assert_eq!(error(json!({"isError": true, "content": [text("no"), text("such file")]})), "no\nsuch file");
        assert_eq!(error(json!({"isError": true, "structuredContent": {"code": 7}})), "{\"code\":7}");
        assert_eq!(error(json!({"isError": true, "content": []})), "the tool answered with an error and no text");
        assert!(error(json!({"isError": true, "content": [text(&"é".repeat(9000))]})).len() <= MAX_ERROR);
    }
}
