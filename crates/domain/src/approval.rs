//! Calls that wait for people: the states of an approval, and what it is bound to.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::{call::words, ids::TenantId, key::Pepper};

words! {
    ApprovalState {
        Pending = "pending",
        /// Enough people have confirmed, and the call has not been made yet.
        Approved = "approved",
        Denied = "denied",
        /// Nobody decided in time, the call did not come in time, or what was confirmed is no longer what would be called.
        Expired = "expired",
        /// The call was begun. An approval lets one call through.
        Used = "used",
    }
}

/// Texts up to this size are compared by what they mean; larger ones byte by byte.
const CANONICAL: usize = 256 << 10;
/// And those that nest no deeper: each level is read once more.
const DEPTH: usize = 64;

/// The hash by which the arguments of a call are recognised: of their meaning, so that blanks and the order of keys do not
/// matter, and of every number as it is spelled, since two that a float cannot tell apart are two.
#[must_use]
pub fn arguments_hash(pepper: &Pepper, tenant: TenantId, arguments: &[u8]) -> [u8; 32] {
    let mut canonical = Vec::new();
    let text = std::str::from_utf8(arguments).ok().filter(|text| text.len() <= CANONICAL);
    let parts: [&[u8]; 2] = match text.and_then(|text| write_canonical(text.trim(), DEPTH, &mut canonical)) {
        Some(()) => [b"meaning", &canonical],
        None => [b"bytes", arguments],
    };
    pepper.mac("approval", &[tenant.uuid().as_bytes(), parts[0], parts[1]])
}

/// `None` for what is not JSON, or is JSON that two readers could take for two things.
fn write_canonical(json: &str, depth: usize, out: &mut Vec<u8>) -> Option<()> {
    let deeper = depth.checked_sub(1)?;
    match json.as_bytes().first()? {
        b'{' => {
            let Entries(entries) = serde_json::from_str(json).ok()?;
            for (at, (key, value)) in entries.iter().enumerate() {
                out.push(if at == 0 { b'{' } else { b',' });
                serde_json::to_writer(&mut *out, key).ok()?;
                out.push(b':');
                write_canonical(value.get().trim(), deeper, out)?;
            }
            out.extend_from_slice(if entries.is_empty() { b"{}" } else { b"}" });
        }
        b'[' => {
            let items: Vec<&RawValue> = serde_json::from_str(json).ok()?;
            for (at, item) in items.iter().enumerate() {
                out.push(if at == 0 { b'[' } else { b',' });
                write_canonical(item.get().trim(), deeper, out)?;
            }
            out.extend_from_slice(if items.is_empty() { b"[]" } else { b"]" });
        }
        b'"' => {
            let text: String = serde_json::from_str(json).ok()?;
            serde_json::to_writer(out, &text).ok()?;
        }
        _ => out.extend_from_slice(serde_json::from_str::<&RawValue>(json).ok()?.get().as_bytes()),
    }
    Some(())
}

/// An object whose keys differ.
struct Entries<'a>(BTreeMap<String, &'a RawValue>);

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Distinct;
        impl<'de> Visitor<'de> for Distinct {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries<'de>, A::Error> {
                let mut entries = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, &RawValue>()? {
                    if entries.insert(key, value).is_some() {
                        return Err(A::Error::custom("a key that comes twice"));
                    }
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Distinct)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn hash(arguments: &str) -> [u8; 32] {
        arguments_hash(&Pepper::new(b"p"), Uuid::from_u128(1).into(), arguments.as_bytes())
    }

    #[test]
    fn the_same_arguments_have_one_hash_and_others_another() {
        let one = hash(r#"{"a":1,"b":["x",{"c":null}]}"#);
        assert_eq!(one, hash(" {\n\"b\" : [\"\\u0078\", {\"c\":null} ], \"a\" : 1} "));
        for other in [
            r#"{"a":1.0,"b":["x",{"c":null}]}"#,
            r#"{"a":1,"b":[{"c":null},"x"]}"#,
            r#"{"a":1,"b":["x",{"c":false}]}"#,
            r#"{"a":"1","b":["x",{"c":null}]}"#,
            r#"{"a":1,"b":["x",{"c":null}],"d":0}"#,
            r#"{"a":1,"a":1,"b":["x",{"c":null}]}"#,
            "",
        ] {
            assert_ne!(one, hash(other), "{other}");
        }
        // Floats could not tell these apart.
        assert_ne!(hash(r#"{"n":9007199254740993}"#), hash(r#"{"n":9007199254740992}"#));
        assert_ne!(hash(r#"{"n":123456789012345678901}"#), hash(r#"{"n":123456789012345678902}"#));
        // A reader may take the first or the last.
        assert_ne!(hash(r#"{"a":1,"a":2}"#), hash(r#"{"a":2}"#));
        assert_ne!(hash("{}"), hash("[]"));
        assert_ne!(hash(&"[".repeat(200_000)), hash(&"[".repeat(200_001)), "what cannot be read is compared as it is");
    }

    #[test]
    fn a_hash_holds_in_one_tenant_under_one_pepper() {
        let of = |pepper: &[u8], tenant| arguments_hash(&Pepper::new(pepper), Uuid::from_u128(tenant).into(), b"{}");
        assert_ne!(of(b"p", 1), of(b"p", 2));
        assert_ne!(of(b"p", 1), of(b"q", 1));
    }
}
