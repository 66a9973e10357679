//! Tools, the servers they come from, and the pin on their definitions.

use std::{sync::Arc, time::Duration};

use aws_lc_rs::digest;
use serde::Serialize;
use serde_json::Value;

use crate::{
    call::words,
    ids::{ToolId, UpstreamId},
};

words! {
    /// How an upstream's tools reach a model.
    Exposure {
        /// Each tool is listed by `tools/list`.
        Classic = "classic",
        /// The tools are stubs behind the meta-tools.
        Code = "code",
    }
}

words! {
    /// How stubs are cut into files.
    Binding { Server = "server", Tool = "tool", }
}

words! {
    ToolStatus {
        Approved = "approved",
        /// Its definition is new or changed and nobody has approved it: no key sees it.
        Quarantined = "quarantined",
    }
}

words! {
    UpstreamState { Connected = "connected", Connecting = "connecting", Disconnected = "disconnected", Error = "error", }
}

/// SHA-256 over the canonical JSON (RFC 8785) of a tool's whole definition: every field counts, key order does not.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct DefinitionHash(pub [u8; 32]);

impl DefinitionHash {
    /// # Errors
    /// When the definition cannot be canonicalised (numbers outside IEEE 754).
    pub fn of(definition: &Value) -> Result<Self, serde_json::Error> {
        let canonical = serde_json_canonicalizer::to_vec(definition)?;
        Ok(Self(sha256(&canonical)))
    }

    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl std::fmt::Display for DefinitionHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl std::fmt::Debug for DefinitionHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for DefinitionHash {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    hash
}

/// An upstream as the call path knows it.
#[derive(Debug, Clone)]
pub struct Upstream {
    pub id: UpstreamId,
    /// See [`check_upstream_name`].
    pub name: String,
    pub description: Option<String>,
    pub exposure: Exposure,
    pub binding: Binding,
    /// For one call.
    pub timeout: Duration,
}

/// A tool whose approved definition is pinned.
#[derive(Debug, Clone)]
pub struct Tool {
    pub id: ToolId,
    pub upstream: Arc<Upstream>,
    /// As the upstream calls it.
    pub name: String,
    pub status: ToolStatus,
    /// The approved definition as the upstream sent it, unknown fields and key order included.
    pub definition: Arc<Value>,
    pub definition_sha256: DefinitionHash,
}

impl Tool {
    /// The name under which `tools/list` shows a classic tool. Injective, because an upstream's name neither holds a
    /// double underscore nor ends in one; still, nothing ever splits it: it is looked up.
    #[must_use]
    pub fn classic_name(&self) -> String {
        format!("{}__{}", self.upstream.name, self.name)
    }
}

pub const MAX_UPSTREAM_NAME: usize = 48;
pub const MAX_TOOL_NAME: usize = 128;

/// Names that a script's globals or the meta-tools already use, and Python's own words.
const RESERVED: &[&str] = &[
    "and",
    "as",
    "assert",
    "async",
    "await",
    "break",
    "class",
    "continue",
    "def",
    "del",
    "elif",
    "else",
    "except",
    "finally",
    "for",
    "from",
    "global",
    "if",
    "import",
    "in",
    "is",
    "lambda",
    "load",
    "nonlocal",
    "not",
    "or",
    "pass",
    "raise",
    "return",
    "try",
    "while",
    "with",
    "yield",
    "match",
    "case",
    "type",
    "print",
    "result",
    "json",
    "re",
    "math",
    "str",
    "int",
    "float",
    "bool",
    "list",
    "dict",
    "tuple",
    "set",
    "range",
    "len",
    "sorted",
    "reversed",
    "enumerate",
    "zip",
    "map",
    "filter",
    "any",
    "all",
    "sum",
    "min",
    "max",
    "abs",
    "round",
    "hash",
    "repr",
    "dir",
    "getattr",
    "hasattr",
    "fail",
    "struct",
    "partial",
    "try_call",
    "gather",
    "parallel",
    "now",
    "random",
    "isinstance",
    "tollgate",
    "servers",
    "self",
];

/// An upstream's name is the global by which scripts reach it: a lower-case Python identifier, words joined by single
/// underscores, at most 48 characters.
///
/// # Errors
/// A sentence for the person who chose the name.
pub fn check_upstream_name(name: &str) -> Result<(), String> {
    let word = |w: &str| !w.is_empty() && w.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.split('_').all(word) || name.len() > MAX_UPSTREAM_NAME {
        return Err(format!(
            "use a lower-case Python identifier of at most {MAX_UPSTREAM_NAME} characters, without leading, trailing or double underscores, such as \"crm\" or \"ticket_desk\""
        ));
    }
    if RESERVED.contains(&name) {
        return Err(format!("\"{name}\" is reserved in scripts; choose another name, such as \"{name}_server\""));
    }
    Ok(())
}

/// Whether a tool's name is one that can be shown to a model without confusing it: ASCII letters, digits and `_ - . /`.
#[must_use]
pub fn is_tool_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= MAX_TOOL_NAME && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-./".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn t02_every_leaf_of_a_definition_counts_and_key_order_does_not() {
        let a = json!({"name": "x", "description": "d", "inputSchema": {"type": "object", "properties": {"a": {"type": "string", "description": "p"}}}});
        let reordered: Value = serde_json::from_str(r#"{"inputSchema":{"properties":{"a":{"description":"p","type":"string"}},"type":"object"},"description":"d","name":"x"}"#).unwrap();
        assert_eq!(DefinitionHash::of(&a).unwrap(), DefinitionHash::of(&reordered).unwrap());
        for pointer in [
            "/name",
            "/description",
            "/inputSchema/type",
            "/inputSchema/properties/a/type",
            "/inputSchema/properties/a/description",
        ] {
            let mut changed = a.clone();
            *changed.pointer_mut(pointer).unwrap() = json!("changed");
            assert_ne!(DefinitionHash::of(&a).unwrap(), DefinitionHash::of(&changed).unwrap(), "{pointer}");
        }
    }

    #[test]
    fn t05_upstream_names_that_could_shadow_or_collide_are_refused() {
        for good in ["crm", "a", "ticket_desk", "s3", "x1_y2"] {
            assert_eq!(check_upstream_name(good), Ok(()), "{good}");
        }
        for bad in ["", "Crm", "1a", "_a", "a_", "a__b", "a-b", "ä", "result", "print", "class", "a b", &"a".repeat(49)] {
            assert!(check_upstream_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn t07_tool_names_with_confusable_or_invisible_characters_are_refused() {
        assert!(is_tool_name("get-sum") && is_tool_name("repos/list.v2"));
        for c in (0..=u32::from(char::MAX)).filter_map(char::from_u32).filter(|c| !c.is_ascii()) {
            assert!(!is_tool_name(&format!("get{c}")), "{c:?}");
        }
        assert!(!is_tool_name("a b") && !is_tool_name("") && !is_tool_name("a\n"));
    }
}
