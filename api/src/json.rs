//! Bodies in: JSON that can be read in one way only, then a type that knows every field it may have.

use std::time::Duration;

use axum::{
    body::Body,
    extract::{FromRequest, Request},
    http::{HeaderMap, header},
};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use tollgate_domain::tool::sha256;

use crate::problem::{FieldError, Kind, Problem};

/// The largest body, in bytes.
pub const MAX_BODY: usize = 1 << 20;
/// How long a body may take to arrive.
const DEADLINE: Duration = Duration::from_secs(20);

/// A JSON body. Refused: another content type, more than [`MAX_BODY`], a key that comes twice in one object, nesting
/// beyond [`tollgate_domain::json::MAX_DEPTH`]; and, by `deny_unknown_fields` on `T`, whatever the API does not know.
#[derive(Debug)]
pub struct Json<T> {
    pub value: T,
    /// Of the bytes, for the Idempotency-Key.
    pub sha256: [u8; 32],
}

/// [`Json`] for actions whose body may be left out; then every field has its default.
#[derive(Debug)]
pub struct MaybeJson<T> {
    pub value: T,
    pub sha256: [u8; 32],
}

/// The body of an action that takes none: empty or `{}`.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NoFields {}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let bytes = collect(body).await?;
        check_content_type(&parts.headers)?;
        Ok(Self { value: parse(&bytes)?, sha256: sha256(&bytes) })
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for MaybeJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let bytes = collect(body).await?;
        if bytes.is_empty() {
            return Ok(Self { value: T::default(), sha256: sha256(b"") });
        }
        check_content_type(&parts.headers)?;
        Ok(Self { value: parse(&bytes)?, sha256: sha256(&bytes) })
    }
}

/// A body of CSV, as it came.
#[derive(Debug)]
pub struct Csv {
    pub bytes: bytes::Bytes,
    /// Of the bytes, for the Idempotency-Key.
    pub sha256: [u8; 32],
}

impl<S: Send + Sync> FromRequest<S> for Csv {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let bytes = collect(body).await?;
        if essence(&parts.headers).eq_ignore_ascii_case("text/csv") {
            return Ok(Self { sha256: sha256(&bytes), bytes });
        }
        Err(Problem::because(Kind::NotJson, "Send the body as text/csv."))
    }
}

async fn collect(body: Body) -> Result<bytes::Bytes, Problem> {
    let reading = tokio::time::timeout(DEADLINE, axum::body::to_bytes(body, MAX_BODY));
    reading.await.map_err(|_| Problem::new(Kind::Slow))?.map_err(|error| {
        // The two reasons are told apart by the source alone; a cut connection gets no answer anyway.
        let too_large = std::error::Error::source(&error).is_some_and(|s| s.to_string().contains("length limit"));
        if too_large {
            Problem::because(Kind::TooLarge, format!("A body is at most {MAX_BODY} bytes."))
        } else {
            Problem::new(Kind::Malformed)
        }
    })
}

fn essence(headers: &HeaderMap) -> &str {
    let given = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    given.split(';').next().unwrap_or_default().trim()
}

fn check_content_type(headers: &HeaderMap) -> Result<(), Problem> {
    match essence(headers).eq_ignore_ascii_case("application/json") {
        true => Ok(()),
        false => Err(Problem::because(Kind::NotJson, "Send the body as application/json.")),
    }
}

/// Read `bytes` as a `T`.
///
/// # Errors
/// 400 for what is not JSON or ambiguous, 422 with a pointer for what does not fit `T`.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let value = tollgate_domain::json::read(bytes)
        .map_err(|e| Problem::because(Kind::Malformed, format!("The body is not JSON that can be accepted: {e}.")))?;
    serde_path_to_error::deserialize(value).map_err(|error| Problem::fields(vec![describe(&error)]))
}

/// serde names a missing or unknown field only in its sentence; the pointer should name it too.
fn describe(error: &serde_path_to_error::Error<serde_json::Error>) -> FieldError {
    use serde_path_to_error::Segment;
    let mut pointer = String::new();
    for segment in error.path() {
        match segment {
            Segment::Seq { index } => pointer.push_str(&format!("/{index}")),
            Segment::Map { key } => pointer.push_str(&format!("/{}", escape(key))),
            // The tag of an enum is not a step of the document; an unknown one adds nothing.
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    let message = error.inner().to_string();
    for (start, told) in [("missing field `", "this field is required"), ("unknown field `", "there is no such field")] {
        if let Some(name) = message.strip_prefix(start).and_then(|rest| rest.split('`').next()) {
            let step = format!("/{}", escape(name));
            if !pointer.ends_with(&step) {
                pointer.push_str(&step);
            }
            let expected = message.split_once(", expected ").map(|(_, e)| format!("; expected {e}")).unwrap_or_default();
            return FieldError { pointer, message: format!("{told}{expected}") };
        }
    }
    FieldError { pointer, message: timely(message) }
}

/// What a parser of times says helps nobody who does not know which times it reads: a sentence that shows one goes behind it.
#[must_use]
pub fn timely(message: String) -> String {
    const SAID_OF_TIMES: [&str; 6] = [
        "input contains invalid characters",
        "premature end of input",
        "input is out of range",
        "trailing input",
        "input is not enough for unique date and time",
        "no possible date and time matching input",
    ];
    if SAID_OF_TIMES.iter().any(|said| message.contains(said)) {
        return format!("{message}; write a time as RFC 3339 has it, such as 2026-11-27T09:30:00Z");
    }
    message
}

fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// For PATCH: tells `"field": null` (`Some(None)`) from a field that is left out (`None`). Goes with `#[serde(default)]`.
///
/// # Errors
/// When the value is not a `T`.
pub fn nullable<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::<T>::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read by serde")]
    struct Body {
        name: String,
        #[serde(default)]
        inner: Vec<Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read by serde")]
    struct Inner {
        n: u8,
    }

    fn refusal(text: &str) -> (String, Vec<(String, String)>) {
        let problem = parse::<Body>(text.as_bytes()).unwrap_err();
        (problem.kind().code().to_owned(), problem.errors().iter().map(|e| (e.pointer.clone(), e.message.clone())).collect())
    }

    #[test]
    fn pointers_name_the_field() {
        assert_eq!(refusal(r#"{"nam":"x"}"#).1[0].0, "/nam");
        assert_eq!(refusal(r#"{}"#).1[0].0, "/name");
        assert_eq!(refusal(r#"{"name":7}"#).1[0].0, "/name");
        assert_eq!(refusal(r#"{"name":"x","inner":[{"n":1},{"n":300}]}"#).1[0].0, "/inner/1/n");
        assert_eq!(refusal(r#"{"name":"x","inner":[{"n":1,"m":2}]}"#).1[0].0, "/inner/0/m");
        assert_eq!(refusal(r#"{"name":"x","inner":[{}]}"#).1[0].0, "/inner/0/n");
    }

    #[test]
    fn t20_a_key_that_comes_twice_is_refused_at_any_depth() {
        for text in [r#"{"name":"a","name":"b"}"#, r#"{"name":"a","inner":[{"n":1,"n":2}]}"#, r#"{"name":"a","n\u0061me":"b"}"#] {
            assert_eq!(refusal(text).0, "malformed", "{text}");
        }
    }

    #[test]
    fn t24_depth_ends_at_the_limit_and_not_at_the_stack() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(parse::<Value>(nested(tollgate_domain::json::MAX_DEPTH).as_bytes()).is_ok());
        for depth in [tollgate_domain::json::MAX_DEPTH + 1, 127, 128, 1_000_000] {
            let problem = parse::<Value>(nested(depth).as_bytes()).unwrap_err();
            assert_eq!(problem.kind(), Kind::Malformed, "{depth}");
        }
        assert_eq!(parse::<Value>(b"{} {}").unwrap_err().kind(), Kind::Malformed, "trailing");
    }
}
