//! What the results of a tool have looked like, for tools that do not say: types and names of fields, never a value.
//!
//! Two results make one shape by [`Seen::merge`], in either order, and again without a difference. A dict whose keys look like data
//! (ids, addresses, dates, or simply many) has no fields: it is `dict[str, T]`, and its keys are forgotten with its values.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Levels of nesting; what lies deeper may be anything.
const DEPTH: usize = 6;
/// Places in one shape.
const NODES: usize = 250;
/// Fields of one dict; with more it is one by key.
const FIELDS: usize = 48;
/// Items of a list that are looked at.
const ITEMS: usize = 100;
/// The longest name of a field.
const NAME: usize = 40;
/// Characters of a shape as text.
const TEXT: usize = 1_500;

/// All that one place has been. The default is one that nothing has been seen of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Seen {
    #[serde(skip_serializing_if = "is_false")]
    null: bool,
    #[serde(skip_serializing_if = "is_false")]
    bool: bool,
    #[serde(skip_serializing_if = "is_false")]
    int: bool,
    #[serde(skip_serializing_if = "is_false")]
    float: bool,
    #[serde(skip_serializing_if = "is_false")]
    str: bool,
    /// Too much to be told.
    #[serde(skip_serializing_if = "is_false")]
    any: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    list: Option<Box<Seen>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dict: Option<Dict>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Dict {
    Fields(BTreeMap<String, Field>),
    /// By keys that are data.
    Keyed(Box<Seen>),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Field {
    #[serde(default, skip_serializing_if = "is_false")]
    optional: bool,
    seen: Seen,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_false(flag: &bool) -> bool {
    !flag
}

impl Seen {
    /// The shape of one value, as a script sees it.
    #[must_use]
    pub fn of(value: &Value) -> Self {
        Self::at(value, DEPTH).bounded()
    }

    fn at(value: &Value, depth: usize) -> Self {
        let nothing = Self::default();
        match value {
            Value::Null => Self { null: true, ..nothing },
            Value::Bool(_) => Self { bool: true, ..nothing },
            Value::Number(n) if n.is_f64() => Self { float: true, ..nothing },
            Value::Number(_) => Self { int: true, ..nothing },
            Value::String(_) => Self { str: true, ..nothing },
            Value::Array(_) | Value::Object(_) if depth == 0 => Self::any(),
            Value::Array(items) => {
                let items = items.iter().take(ITEMS).map(|item| Self::at(item, depth - 1));
                Self { list: Some(Box::new(items.fold(Self::default(), Self::joined))), ..nothing }
            }
            Value::Object(map) => {
                let seen = map.iter().map(|(key, value)| (key, Self::at(value, depth - 1)));
                let dict = if map.len() > FIELDS || !map.keys().all(|key| is_name(key)) {
                    Dict::Keyed(Box::new(seen.map(|(_, seen)| seen).fold(Self::default(), Self::joined)))
                } else {
                    Dict::Fields(seen.map(|(key, seen)| (key.clone(), Field { optional: false, seen })).collect()).settled()
                };
                Self { dict: Some(dict), ..nothing }
            }
        }
    }

    fn any() -> Self {
        Self { any: true, ..Self::default() }
    }

    /// What both together have looked like.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        self.joined(other).bounded()
    }

    fn joined(self, other: Self) -> Self {
        if self.any || other.any {
            return Self::any();
        }
        let list = match (self.list, other.list) {
            (Some(a), Some(b)) => Some(Box::new(a.joined(*b))),
            (a, b) => a.or(b),
        };
        let dict = match (self.dict, other.dict) {
            (Some(a), Some(b)) => Some(a.joined(b)),
            (a, b) => a.or(b),
        };
        Self {
            null: self.null || other.null,
            bool: self.bool || other.bool,
            int: self.int || other.int,
            float: self.float || other.float,
            str: self.str || other.str,
            any: false,
            list,
            dict,
        }
    }

    fn nodes(&self) -> usize {
        let below = |seen: &Self| seen.nodes();
        1 + self.list.as_deref().map_or(0, below)
            + match &self.dict {
                Some(Dict::Fields(fields)) => fields.values().map(|field| field.seen.nodes()).sum(),
                Some(Dict::Keyed(seen)) => seen.nodes(),
                None => 0,
            }
    }

    /// Where there are too many places, the deepest are given up first.
    fn bounded(mut self) -> Self {
        let mut depth = DEPTH;
        while self.nodes() > NODES && depth > 0 {
            depth -= 1;
            self = self.pruned(depth);
        }
        self
    }

    fn pruned(self, depth: usize) -> Self {
        if depth == 0 && (self.list.is_some() || self.dict.is_some()) {
            return Self::any();
        }
        let Self { list, dict, .. } = self;
        let deeper = depth.saturating_sub(1);
        let dict = dict.map(|dict| match dict {
            Dict::Keyed(seen) => Dict::Keyed(Box::new(seen.pruned(deeper))),
            Dict::Fields(fields) => {
                let pruned = |(key, Field { optional, seen })| (key, Field { optional, seen: seen.pruned(deeper) });
                // Places that are equal now may look like a dict by key.
                Dict::Fields(fields.into_iter().map(pruned).collect()).settled()
            }
        });
        Self { list: list.map(|seen| Box::new(seen.pruned(deeper))), dict, ..self }
    }

    /// As a stub would say it, and no longer than a few lines: what lies too deep for that is `...`.
    #[must_use]
    pub fn text(&self) -> String {
        let fits = (1..=DEPTH).rev().map(|depth| self.shown(depth)).find(|text| text.chars().count() <= TEXT);
        fits.unwrap_or_else(|| self.shown(0))
    }

    fn shown(&self, depth: usize) -> String {
        if self.any {
            return "...".to_owned();
        }
        let mut kinds = Vec::new();
        match &self.dict {
            Some(_) if depth == 0 => kinds.push("dict".to_owned()),
            Some(Dict::Keyed(seen)) => kinds.push(format!("dict[str, {}]", seen.shown(depth - 1))),
            Some(Dict::Fields(fields)) => {
                let field = |(key, field): (&String, &Field)| {
                    let mark = if field.optional { "?" } else { "" };
                    format!("\"{key}{mark}\": {}", field.seen.shown(depth - 1))
                };
                kinds.push(format!("{{{}}}", fields.iter().map(field).collect::<Vec<_>>().join(", ")));
            }
            None => {}
        }
        match &self.list {
            Some(items) if depth == 0 || **items == Self::default() => kinds.push("list".to_owned()),
            Some(items) => kinds.push(format!("list[{}]", items.shown(depth - 1))),
            None => {}
        }
        // As in JSON Schema, an integer is a float as well.
        let scalars = [
            (self.str, "str"),
            (self.float, "float"),
            (self.int && !self.float, "int"),
            (self.bool, "bool"),
            (self.null, "None"),
        ];
        kinds.extend(scalars.into_iter().filter(|(seen, _)| *seen).map(|(_, name)| name.to_owned()));
        if kinds.is_empty() { "...".to_owned() } else { kinds.join(" | ") }
    }
}

impl Dict {
    fn joined(self, other: Self) -> Self {
        match (self, other) {
            (Self::Fields(a), Self::Fields(b)) => {
                let mut all = BTreeMap::new();
                let mut rest = b;
                for (key, Field { optional, seen }) in a {
                    let field = match rest.remove(&key) {
                        Some(b) => Field { optional: optional || b.optional, seen: seen.joined(b.seen) },
                        None => Field { optional: true, seen },
                    };
                    all.insert(key, field);
                }
                all.extend(rest.into_iter().map(|(key, field)| (key, Field { optional: true, ..field })));
                Self::Fields(all).settled()
            }
            (a, b) => Self::Keyed(Box::new(a.values().joined(b.values()))),
        }
    }

    /// All values as one.
    fn values(self) -> Seen {
        match self {
            Self::Keyed(seen) => *seen,
            Self::Fields(fields) => fields.into_values().map(|field| field.seen).fold(Seen::default(), Seen::joined),
        }
    }

    /// By key, where the fields look like keys.
    fn settled(self) -> Self {
        match &self {
            Self::Fields(fields) if are_keys(fields) => Self::Keyed(Box::new(self.values())),
            _ => self,
        }
    }
}

/// Whether what was taken for the fields of a dict is data after all: too many, numbered, or most of them not there most of the time
/// and all of one kind; or three that are dicts of the same fields.
fn are_keys(fields: &BTreeMap<String, Field>) -> bool {
    if fields.len() > FIELDS {
        return true;
    }
    let mut numbered: HashMap<String, usize> = HashMap::new();
    for key in fields.keys().filter(|key| key.contains(|c: char| c.is_ascii_digit())) {
        *numbered.entry(key.replace(|c: char| c.is_ascii_digit(), "0")).or_default() += 1;
    }
    if numbered.values().any(|count| *count >= 3) {
        return true;
    }
    let mut values = fields.values();
    let first = values.next();
    let alike = first.is_some_and(|first| values.all(|field| field.seen == first.seen));
    let is_dict = first.is_some_and(|first| first.seen.dict.is_some());
    let optional = fields.values().filter(|field| field.optional).count();
    alike && ((is_dict && fields.len() >= 3) || (fields.len() >= 4 && 2 * optional > fields.len()))
}

/// Whether a key reads like the name of a field: a word of a program, without ids, dates, addresses, files or people in it.
fn is_name(key: &str) -> bool {
    let mut chars = key.chars();
    let begins = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || matches!(c, '_' | '$' | '@'));
    let word = chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | ':'));
    if !begins || !word || key.len() > NAME {
        return false;
    }
    let digits = key.bytes().filter(u8::is_ascii_digit).count();
    // `user_42` is somebody; `line_2`, `sha256` and `utf8` are not.
    let numbered = key.split(['_', '-', ':']).any(|part| part.len() > 1 && part.bytes().all(|b| b.is_ascii_digit()));
    let hex = key.len() >= 8 && digits > 0 && key.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    digits <= 3 && !numbered && !hex
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn text(value: Value) -> String {
        Seen::of(&value).text()
    }

    #[test]
    fn a_shape_is_types_and_names() {
        let row = json!({"id": 7, "name": "Ada", "tags": ["a"], "score": 1.5, "owner": null, "open": true, "more": {}});
        assert_eq!(
            text(json!({"rows": [row], "next": "x"})),
            r#"{"next": str, "rows": list[{"id": int, "more": {}, "name": str, "open": bool, "owner": None, "score": float, "tags": list[str]}]}"#
        );
        assert_eq!(text(json!([{"a": 1}, {"a": 2.5, "b": "x"}, {"a": null}])), r#"list[{"a": float | None, "b?": str}]"#);
        assert_eq!(text(json!("text")), "str");
        assert_eq!(text(json!([])), "list");
    }

    #[test]
    fn keys_that_are_data_are_forgotten() {
        for data in [
            json!({"ada@example.com": 1}),
            json!({"2026-01-31": 1, "2026-02-01": 2}),
            json!({"3f2a9c01": 1}),
            json!({"018f3a5e-7c1e-7d3a-9b1e-2f6c4d5e6f70": 1}),
            json!({"user_42": 1}),
            json!({"cus1234": 1}),
            json!({"Ada Lovelace": 1}),
            json!({"report.pdf": 1}),
            json!({"r1": 1, "r2": 2, "r3": 3}),
            json!({"[redacted:email]": 1}),
            Value::Object((0..60).map(|i| (format!("k{}", "x".repeat(i % 30 + 1)) + &"y".repeat(i / 30), json!(1))).collect()),
        ] {
            assert_eq!(text(data.clone()), "dict[str, int]", "{data}");
        }
        // Dicts of the same fields are rows by name, and so is what differs from result to result.
        let people = json!({"ada": {"age": 1}, "bob": {"age": 2}, "eve": {"age": 3}});
        assert_eq!(text(people), r#"dict[str, {"age": int}]"#);
        let days = ["ada", "bob", "eve", "max"].map(|name| Seen::of(&json!({name: 1})));
        assert_eq!(days.into_iter().reduce(Seen::merge).map(|seen| seen.text()).as_deref(), Some("dict[str, int]"));
        for name in ["id", "created_at", "sha256", "line_2", "@type", "$ref", "x-own", "dc:title", "_links"] {
            assert!(is_name(name), "{name}");
        }
    }

    #[test]
    fn a_shape_has_an_end() {
        let mut deep = json!(1);
        for _ in 0..50 {
            deep = json!({"in": deep});
        }
        assert_eq!(text(deep).matches("in").count(), DEPTH);
        let letters = |i: usize| format!("{}{}", char::from(b'a' + u8::try_from(i % 26).unwrap_or(0)), "z".repeat(i / 26 + 1));
        let wide = |inner: &Value| Value::Object((0..40).map(|i| (letters(i), json!([inner, i % 2 == 0]))).collect());
        let seen = Seen::of(&wide(&wide(&wide(&json!({"x": 1})))));
        assert!(seen.nodes() <= NODES && seen.text().chars().count() <= TEXT, "{}", seen.text());
    }
}
