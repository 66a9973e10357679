//! What a parameter may be, for the check of a script before it runs: only where the schema says it so plainly that a literal
//! of another type is wrong for certain. Everything else comes out as unknown, and is left to the upstream.

use serde_json::{Map, Value};

use crate::shape::{list, resolve};
use crate::wire::Scalar;

/// References and alternatives within one another.
const MAX_DEPTH: u32 = 8;
const MAX_BRANCHES: usize = 16;
/// An enum of more strings than this is not carried to the sandbox: it would travel with every step.
const MAX_CHOICES: usize = 60;
const MAX_CHOICE_BYTES: usize = 80;
/// Keywords under which a type of its own beside them says less than the whole.
const COMPOSED: [&str; 8] = ["anyOf", "oneOf", "allOf", "not", "if", "$ref", "$dynamicRef", "dependentSchemas"];

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plain {
    pub(crate) types: Vec<Scalar>,
    pub(crate) choices: Vec<String>,
}

impl Plain {
    /// `None` where the schema is not plain.
    pub(crate) fn of(root: &Value, schema: &Value) -> Option<Self> {
        read(root, schema, 0)
    }

    fn one(scalar: Scalar) -> Self {
        Self { types: vec![scalar], choices: Vec::new() }
    }

    /// What is allowed by either. Any string is, where one of them allows any.
    fn or(mut self, other: Self) -> Self {
        let any_string = |p: &Self| p.types.contains(&Scalar::Str) && p.choices.is_empty();
        if any_string(&self) || any_string(&other) {
            self.choices.clear();
        } else {
            self.choices.extend(other.choices);
        }
        for scalar in other.types {
            if !self.types.contains(&scalar) {
                self.types.push(scalar);
            }
        }
        self
    }
}

fn read(root: &Value, schema: &Value, depth: u32) -> Option<Plain> {
    let map = schema.as_object().filter(|_| depth < MAX_DEPTH)?;
    let plain = keywords(root, map, depth)?;
    let nullable = map.get("nullable") == Some(&Value::Bool(true)) && !plain.types.contains(&Scalar::None);
    Some(if nullable { plain.or(Plain::one(Scalar::None)) } else { plain })
}

fn keywords(root: &Value, map: &Map<String, Value>, depth: u32) -> Option<Plain> {
    if let Some(value) = map.get("const") {
        return literals(std::slice::from_ref(value));
    }
    if map.contains_key("enum") {
        return literals(list(map, "enum"));
    }
    let composed: Vec<&str> = COMPOSED.into_iter().filter(|word| map.contains_key(*word)).collect();
    match composed.as_slice() {
        [] => named(map.get("type")?),
        ["$ref"] => read(root, resolve(root, map.get("$ref")?.as_str()?)?, depth + 1),
        ["allOf"] => match list(map, "allOf") {
            [one] => read(root, one, depth + 1),
            _ => None,
        },
        [word @ ("anyOf" | "oneOf")] if !map.contains_key("type") => {
            let branches = list(map, word);
            if branches.len() > MAX_BRANCHES {
                return None;
            }
            let mut plain = branches.iter().map(|branch| read(root, branch, depth + 1));
            let first = plain.next()??;
            let all = plain.try_fold(first, |all, next| Some(all.or(next?)))?;
            Some(if all.choices.len() > MAX_CHOICES { Plain { choices: Vec::new(), ..all } } else { all })
        }
        _ => None,
    }
}

fn named(value: &Value) -> Option<Plain> {
    match value {
        Value::String(name) => Some(Plain::one(match name.as_str() {
            "string" => Scalar::Str,
            "integer" => Scalar::Int,
            "number" => Scalar::Float,
            "boolean" => Scalar::Bool,
            "null" => Scalar::None,
            "array" => Scalar::List,
            "object" => Scalar::Dict,
            _ => return None,
        })),
        Value::Array(names) => {
            let mut plain = names.iter().filter(|name| name.is_string()).map(named);
            let first = plain.next()??;
            plain.try_fold(first, |all, next| Some(all.or(next?)))
        }
        _ => None,
    }
}

fn literals(values: &[Value]) -> Option<Plain> {
    let mut plain = values.iter().take(MAX_CHOICES * 8).map(|value| match value {
        Value::Null => Plain::one(Scalar::None),
        Value::Bool(_) => Plain::one(Scalar::Bool),
        Value::Number(n) => Plain::one(if n.is_f64() { Scalar::Float } else { Scalar::Int }),
        Value::String(text) => Plain { types: vec![Scalar::Str], choices: vec![text.clone()] },
        Value::Array(_) => Plain::one(Scalar::List),
        Value::Object(_) => Plain::one(Scalar::Dict),
    });
    let first = plain.next()?;
    let mut all = plain.fold(first, Plain::or);
    let short = all.choices.len() <= MAX_CHOICES && all.choices.iter().all(|choice| choice.len() <= MAX_CHOICE_BYTES);
    if !short || values.len() > MAX_CHOICES * 8 {
        all.choices.clear();
    }
    (values.len() <= MAX_CHOICES * 8).then_some(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn plain(schema: &Value) -> Option<(Vec<&'static str>, Vec<String>)> {
        Plain::of(&json!({"$defs": {"id": {"type": "integer"}, "loop": {"$ref": "#/$defs/loop"}}}), schema)
            .map(|p| (p.types.into_iter().map(Scalar::name).collect(), p.choices))
    }

    #[test]
    fn what_is_said_plainly_is_known() {
        for (schema, types, choices) in [
            (json!({"type": "string", "minLength": 1}), vec!["str"], vec![]),
            (json!({"type": ["integer", "null"]}), vec!["int", "None"], vec![]),
            (json!({"type": "number", "nullable": true}), vec!["float", "None"], vec![]),
            (json!({"enum": ["a", "b", null]}), vec!["str", "None"], vec!["a", "b"]),
            (json!({"const": 1}), vec!["int"], vec![]),
            (json!({"anyOf": [{"type": "string"}, {"type": "array", "items": {}}]}), vec!["str", "list"], vec![]),
            (json!({"anyOf": [{"enum": ["a"]}, {"type": "string"}]}), vec!["str"], vec![]),
            (json!({"anyOf": [{"enum": ["a"]}, {"const": "b"}]}), vec!["str"], vec!["a", "b"]),
            (json!({"$ref": "#/$defs/id"}), vec!["int"], vec![]),
            (json!({"allOf": [{"$ref": "#/$defs/id"}], "default": 1}), vec!["int"], vec![]),
        ] {
            let expected = (types, choices.into_iter().map(str::to_owned).collect());
            assert_eq!(plain(&schema), Some(expected), "{schema}");
        }
    }

    #[test]
    fn what_is_not_is_left_alone() {
        for schema in [
            json!({}),
            json!(true),
            json!({"type": "date"}),
            json!({"type": "string", "anyOf": [{"type": "integer"}]}),
            json!({"anyOf": [{"type": "string"}, {}]}),
            json!({"anyOf": [{"type": "string"}, {"$ref": "https://example.com/x"}]}),
            json!({"allOf": [{"type": "string"}, {"minLength": 1}]}),
            json!({"$ref": "#/$defs/loop"}),
            json!({"not": {"type": "string"}}),
            json!({"properties": {"a": {}}}),
        ] {
            assert_eq!(plain(&schema), None, "{schema}");
        }
    }

    #[test]
    fn a_long_enum_keeps_its_type_alone() {
        let long: Vec<String> = (0..200).map(|i| format!("v{i}")).collect();
        assert_eq!(plain(&json!({"enum": long})), Some((vec!["str"], vec![])));
    }
}
