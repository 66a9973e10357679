//! JSON objects edited as text: a member that nobody touches stays as it was written, numbers in their spelling included.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// The members of one object, in their order, each value as its exact text.
#[derive(Debug)]
pub struct Members<'a>(Vec<(String, Cow<'a, str>)>);

impl<'a> Members<'a> {
    /// # Errors
    /// When `text` is not an object.
    pub fn read(text: &'a str) -> serde_json::Result<Self> {
        serde_json::from_str(text)
    }

    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(member, _)| member == name).map(|(_, text)| &**text)
    }

    /// Give a member another value; where there is none of this name, nothing happens.
    pub fn replace(&mut self, name: &str, text: String) {
        if let Some((_, value)) = self.0.iter_mut().find(|(member, _)| member == name) {
            *value = Cow::Owned(text);
        }
    }

    pub fn remove(&mut self, name: &str) -> Option<Cow<'a, str>> {
        let at = self.0.iter().position(|(member, _)| member == name)?;
        Some(self.0.remove(at).1)
    }
}

impl fmt::Display for Members<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (n, (name, text)) in self.0.iter().enumerate() {
            let name = serde_json::to_string(name).map_err(|_| fmt::Error)?;
            write!(f, "{}{name}:{text}", if n == 0 { "" } else { "," })?;
        }
        f.write_str("}")
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Vec<(String, Cow<'de, str>)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, &'de RawValue>()? {
                    members.push((name, Cow::Borrowed(value.get())));
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Read).map(Members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_touched_stays_as_it_was_written() {
        let text = r#"{ "z":1.10, "mark":"x", "a":{ "big":12345678901234567890123,"e":1E+2 },"t":"caf\u00e9" }"#;
        let mut members = Members::read(text).unwrap();
        assert_eq!(members.remove("mark").as_deref(), Some("\"x\""));
        assert_eq!(members.remove("mark"), None);
        assert_eq!(members.get("z"), Some("1.10"));
        members.replace("z", "[2]".to_owned());
        members.replace("nothing", "[2]".to_owned());
        assert_eq!(members.to_string(), r#"{"z":[2],"a":{ "big":12345678901234567890123,"e":1E+2 },"t":"caf\u00e9"}"#);
        assert_eq!(Members::read("{}").unwrap().to_string(), "{}");
        assert!(Members::read("[1]").is_err() && Members::read("{").is_err());
    }
}
