//! ETag and If-Match: nobody overwrites what they have not read.

use axum::http::{HeaderMap, header};

use crate::problem::{Kind, Problem};

/// The tag of one version of one resource. Strong: another version is another tag.
#[must_use]
pub fn etag(id: &str, version: i32) -> String {
    format!("\"{id}.{version}\"")
}

/// What the client says that it has read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IfMatch {
    /// `*`: whatever is there.
    Any,
    /// Strong tags, as they stand in the header. Weak ones never match (RFC 9110, 13.1.1).
    OneOf(Vec<String>),
}

impl IfMatch {
    /// # Errors
    /// 428 when the header is missing.
    pub fn required(headers: &HeaderMap) -> Result<Self, Problem> {
        let mut tags = Vec::new();
        let mut seen = false;
        for value in headers.get_all(header::IF_MATCH) {
            seen = true;
            let text = value.to_str().unwrap_or_default();
            if text.trim() == "*" {
                return Ok(Self::Any);
            }
            tags.extend(text.split(',').map(|tag| tag.trim().to_owned()));
        }
        if seen { Ok(Self::OneOf(tags)) } else { Err(Problem::new(Kind::MissingIfMatch)) }
    }

    /// # Errors
    /// 412 when the resource is at another version.
    pub fn check(&self, id: &str, version: i32) -> Result<(), Problem> {
        let current = etag(id, version);
        match self {
            Self::Any => Ok(()),
            Self::OneOf(tags) if tags.contains(&current) => Ok(()),
            Self::OneOf(_) => Err(Problem::new(Kind::Stale)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str) -> IfMatch {
        let mut headers = HeaderMap::new();
        headers.insert(header::IF_MATCH, value.parse().unwrap());
        IfMatch::required(&headers).unwrap()
    }

    #[test]
    fn only_the_current_strong_tag_matches() {
        assert_eq!(IfMatch::required(&HeaderMap::new()).unwrap_err().kind(), Kind::MissingIfMatch);
        assert!(read("*").check("vk_1", 3).is_ok());
        assert!(read("\"vk_1.3\"").check("vk_1", 3).is_ok());
        assert!(read("\"vk_1.2\", \"vk_1.3\"").check("vk_1", 3).is_ok());
        for other in ["\"vk_1.2\"", "\"vk_2.3\"", "W/\"vk_1.3\"", "vk_1.3", ""] {
            assert_eq!(read(other).check("vk_1", 3).unwrap_err().kind(), Kind::Stale, "{other}");
        }
    }
}
