//! What changed between two definitions, for the person who decides.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

/// More than a person reads; the definitions themselves stand beside it.
const MAX_CHANGES: usize = 200;

/// One difference between the approved definition and the present one.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Change {
    /// A JSON pointer into the definition.
    pub pointer: String,
    /// In the approved definition; left out where it is new.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    /// In the present definition; left out where it is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
}

/// Objects are compared field by field, everything else as a whole.
pub fn changes(before: &Value, after: &Value) -> Vec<Change> {
    let mut found = Vec::new();
    compare("", before, after, &mut found);
    found
}

fn compare(pointer: &str, before: &Value, after: &Value, found: &mut Vec<Change>) {
    if before == after || found.len() >= MAX_CHANGES {
        return;
    }
    let (Value::Object(old), Value::Object(new)) = (before, after) else {
        return found.push(Change { pointer: pointer.to_owned(), before: Some(before.clone()), after: Some(after.clone()) });
    };
    let step = |key: &str| format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1"));
    for (key, value) in old {
        match new.get(key) {
            Some(now) => compare(&step(key), value, now, found),
            None => found.push(Change { pointer: step(key), before: Some(value.clone()), after: None }),
        }
    }
    for (key, value) in new.iter().filter(|(key, _)| !old.contains_key(*key)) {
        found.push(Change { pointer: step(key), before: None, after: Some(value.clone()) });
    }
    found.truncate(MAX_CHANGES);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_change_is_named_by_its_pointer() {
        let before =
            json!({"name": "x", "description": "a", "inputSchema": {"properties": {"a/b": {"type": "string"}, "c": {}}}});
        let after = json!({"name": "x", "description": "b", "inputSchema": {"properties": {"a/b": {"type": "number"}, "d": {}}}});
        let pointers: Vec<_> = changes(&before, &after).into_iter().map(|c| c.pointer).collect();
        assert_eq!(
            pointers,
            ["/description", "/inputSchema/properties/a~1b/type", "/inputSchema/properties/c", "/inputSchema/properties/d"]
        );
        assert!(changes(&before, &before).is_empty());
        assert_eq!(changes(&json!([1]), &json!([2]))[0].pointer, "");
    }
}
