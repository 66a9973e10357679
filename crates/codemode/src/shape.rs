//! Finding one's way in a JSON Schema document: local references, and the properties that an object schema ends up with.

use std::collections::HashMap;

use serde_json::{Map, Value};

/// Schemas and properties looked at for one tool's shapes together: `allOf` and `$ref` can be built to explode.
pub(crate) const EFFORT: u32 = 5_000;

/// The properties of an object schema after its references, `allOf` and alternatives are merged.
#[derive(Default)]
pub(crate) struct Shape<'a> {
    pub(crate) props: Vec<Prop<'a>>,
    pub(crate) extra: Option<&'a Value>,
    index: HashMap<&'a str, usize>,
}

#[derive(Clone)]
pub(crate) struct Prop<'a> {
    pub(crate) key: &'a str,
    pub(crate) schema: &'a Value,
    pub(crate) required: bool,
}

impl<'a> Shape<'a> {
    /// `effort` is what may be spent, see [`EFFORT`]; once it is used up, shapes come out incomplete.
    pub(crate) fn of(root: &'a Value, schema: &'a Value, effort: &mut u32) -> Self {
        Walk { root, effort, seen: Vec::new() }.shape(schema)
    }

    fn add(&mut self, prop: Prop<'a>) {
        match self.index.get(prop.key).and_then(|at| self.props.get_mut(*at)) {
            Some(known) => known.required |= prop.required,
            None => {
                self.index.insert(prop.key, self.props.len());
                self.props.push(prop);
            }
        }
    }

    fn require(&mut self, map: &Map<String, Value>) {
        for key in list(map, "required").iter().filter_map(Value::as_str) {
            if let Some(prop) = self.index.get(key).and_then(|at| self.props.get_mut(*at)) {
                prop.required = true;
            }
        }
    }

    fn demands(&self, key: &str) -> bool {
        self.index.get(key).and_then(|at| self.props.get(*at)).is_some_and(|p| p.required)
    }

    /// Keywords that the schema does not name are welcome: it says so, or it names nothing and does not forbid them.
    pub(crate) fn is_open(&self) -> bool {
        match self.extra {
            Some(Value::Bool(allowed)) => *allowed,
            Some(_) => true,
            None => self.props.is_empty(),
        }
    }

    /// The schema says that more keywords are welcome.
    pub(crate) fn asks_for_more(&self) -> bool {
        self.extra.is_some_and(|e| *e != Value::Bool(false))
    }

    /// Required properties first, each part in the order of the schema: the order of a Python signature.
    pub(crate) fn in_signature_order(&self) -> impl Iterator<Item = &Prop<'a>> {
        self.props.iter().filter(|p| p.required).chain(self.props.iter().filter(|p| !p.required))
    }
}

struct Walk<'a, 'e> {
    root: &'a Value,
    effort: &'e mut u32,
    /// References on the way down, so that a circle ends.
    seen: Vec<&'a str>,
}

impl<'a> Walk<'a, '_> {
    fn shape(&mut self, schema: &'a Value) -> Shape<'a> {
        let mut shape = Shape::default();
        let Some(map) = schema.as_object() else { return shape };
        if self.seen.len() > 32 || !self.spend() {
            return shape;
        }
        if let Some(reference) = map.get("$ref").and_then(Value::as_str)
            && !self.seen.contains(&reference)
            && let Some(target) = resolve(self.root, reference)
        {
            self.seen.push(reference);
            shape = self.shape(target);
            self.seen.pop();
        }
        self.own(map, &mut shape);
        for part in list(map, "allOf") {
            let other = self.nested(part);
            shape.extra = shape.extra.or(other.extra);
            for prop in other.props {
                if self.spend() {
                    shape.add(prop);
                }
            }
            shape.require(map);
        }
        for word in ["anyOf", "oneOf"] {
            self.alternatives(list(map, word), &mut shape);
        }
        shape
    }

    fn spend(&mut self) -> bool {
        *self.effort = self.effort.saturating_sub(1);
        *self.effort > 0
    }

    fn nested(&mut self, schema: &'a Value) -> Shape<'a> {
        self.seen.push(""); // Counts the depth; no reference is empty.
        let shape = self.shape(schema);
        self.seen.pop();
        shape
    }

    fn own(&mut self, map: &'a Map<String, Value>, shape: &mut Shape<'a>) {
        if let Some(props) = map.get("properties").and_then(Value::as_object) {
            for (key, schema) in props {
                if self.spend() {
                    shape.add(Prop { key, schema, required: false });
                }
            }
        }
        shape.require(map);
        if let Some(extra) = map.get("additionalProperties") {
            shape.extra = Some(extra);
        }
    }

    /// What one of several alternatives names may be given; it is required only where all of them require it.
    fn alternatives(&mut self, parts: &'a [Value], shape: &mut Shape<'a>) {
        let shapes: Vec<Shape<'a>> = parts.iter().map(|p| self.nested(p)).collect();
        for alternative in &shapes {
            shape.extra = shape.extra.or(alternative.extra);
            for prop in &alternative.props {
                if self.spend() {
                    let required = prop.required && shapes.iter().all(|s| s.demands(prop.key));
                    shape.add(Prop { required, ..prop.clone() });
                }
            }
        }
    }
}

pub(crate) fn list<'a>(map: &'a Map<String, Value>, word: &str) -> &'a [Value] {
    map.get(word).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The schema a local reference points at; `None` for remote ones, anchors and what does not exist.
pub(crate) fn resolve<'a>(root: &'a Value, reference: &str) -> Option<&'a Value> {
    let pointer = reference.strip_prefix('#')?;
    root.pointer(pointer).or_else(|| root.pointer(&percent_decoded(pointer)?))
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        if b == b'%' {
            let (high, low) = (char::from(bytes.next()?).to_digit(16)?, char::from(bytes.next()?).to_digit(16)?);
            out.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            out.push(b);
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn keys(schema: &Value) -> Vec<(String, bool)> {
        Shape::of(schema, schema, &mut EFFORT.clone()).in_signature_order().map(|p| (p.key.to_owned(), p.required)).collect()
    }

    fn pairs(expected: &[(&str, bool)]) -> Vec<(String, bool)> {
        expected.iter().map(|(k, r)| ((*k).to_owned(), *r)).collect()
    }

    #[test]
    fn references_and_all_of_are_merged() {
        let schema = json!({"$ref": "#/$defs/a%62", "required": ["y"], "$defs": {
            "ab": {"allOf": [{"properties": {"x": {}, "y": {}}}, {"$ref": "#/$defs/c"}], "required": ["z"]},
            "c": {"properties": {"z": {}, "self": {"$ref": "#/$defs/c"}}}}});
        assert_eq!(keys(&schema), pairs(&[("y", true), ("z", true), ("x", false), ("self", false)]));
    }

    #[test]
    fn alternatives_require_only_what_all_of_them_do() {
        let schema = json!({"properties": {"id": {}}, "anyOf": [
            {"properties": {"kind": {}, "a": {}}, "required": ["kind", "a"]}, {"properties": {"kind": {}}, "required": ["kind"]}]});
        assert_eq!(keys(&schema), pairs(&[("kind", true), ("id", false), ("a", false)]));
    }

    #[test]
    fn circles_and_explosions_end() {
        let circle = json!({"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}, {"$ref": "#"}]}}});
        assert!(keys(&circle).is_empty());
        let mut defs = Map::new();
        for i in 0..60 {
            let next = json!({"$ref": format!("#/$defs/d{}", i + 1)});
            defs.insert(format!("d{i}"), json!({"allOf": [next.clone(), next.clone(), next]}));
        }
        assert!(keys(&json!({"$ref": "#/$defs/d0", "$defs": defs})).is_empty());
    }

    #[test]
    fn openness() {
        for (schema, open) in [
            (json!({}), true),
            (json!({"additionalProperties": false}), false),
            (json!({"properties": {"a": {}}}), false),
            (json!({"properties": {"a": {}}, "additionalProperties": {"type": "string"}}), true),
        ] {
            assert_eq!(Shape::of(&schema, &schema, &mut EFFORT.clone()).is_open(), open, "{schema}");
        }
    }
}
