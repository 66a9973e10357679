//! The only place that knows status codes. A refusal is a [`Problem`] (RFC 9457): a stable `code` for programs, sentences
//! for people, JSON pointers for forms. What the operator needs to know goes to the log, what the caller may read goes
//! into the body, and the two are never the same string by luck.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tollgate_domain::Unopened;
use tollgate_store::StoreError;
use utoipa::ToSchema;

/// What a handler gives back.
pub type Answer = Result<Response, Stop>;

/// Why a handler ends early: it refuses, or the same request was answered before.
#[derive(Debug)]
pub enum Stop {
    Problem(Box<Problem>),
    /// The remembered answer of an earlier request with the same Idempotency-Key.
    Replay(Box<Response>),
}

/// A refusal. The request's id is filled in when it leaves.
#[derive(Debug, Clone)]
pub struct Problem {
    kind: Kind,
    detail: Option<String>,
    errors: Vec<FieldError>,
}

/// One field that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// A JSON pointer into the body (`/members/0/upstream_id`), or `?name` for a query parameter.
    pub pointer: String,
    /// A sentence for whoever filled in the field.
    pub message: String,
}

/// The body of every refusal (`application/problem+json`, RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemBody {
    /// `urn:tollgate:problem:` and the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// What this code means, the same for every request.
    pub title: &'static str,
    /// The HTTP status, repeated.
    pub status: u16,
    /// Stable, for programs.
    pub code: &'static str,
    /// What was wrong with this request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The same as the header `x-request-id`; the server's log names it.
    pub request_id: String,
    /// The fields that were refused; empty where no field is to blame.
    pub errors: Vec<FieldError>,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $status:ident, $code:literal, $title:literal;)+) => {
        /// Every way in which the admin door refuses.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Kind { $($(#[$doc])* $name,)+ }
        impl Kind {
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];
            #[must_use]
            pub const fn status(self) -> StatusCode { match self { $(Self::$name => StatusCode::$status,)+ } }
            #[must_use]
            pub const fn code(self) -> &'static str { match self { $(Self::$name => $code,)+ } }
            #[must_use]
            pub const fn title(self) -> &'static str { match self { $(Self::$name => $title,)+ } }
        }
    };
}

kinds! {
    /// The body is not JSON, or JSON that two parsers could read differently.
    Malformed = BAD_REQUEST, "malformed", "The request cannot be read";
    BadPageToken = BAD_REQUEST, "bad_page_token", "The page token is not one of this list, or has expired";
    BadCursor = BAD_REQUEST, "bad_cursor", "The cursor is not one of this tenant";
    BadIdempotencyKey = BAD_REQUEST, "bad_idempotency_key", "The Idempotency-Key cannot be used";
    /// No identity. The same whatever the reason, so that nobody learns which secrets exist.
    Unauthenticated = UNAUTHORIZED, "unauthenticated", "Send a valid bearer token";
    Forbidden = FORBIDDEN, "forbidden", "Your role does not allow this";
    /// Also: it belongs to another tenant.
    NotFound = NOT_FOUND, "not_found", "There is no such resource";
    MethodNotAllowed = METHOD_NOT_ALLOWED, "method_not_allowed", "This path does not know that method";
    /// The body did not come in time.
    Slow = REQUEST_TIMEOUT, "request_timeout", "The body did not arrive in time";
    Conflict = CONFLICT, "conflict", "The request conflicts with what is there";
    /// The resource is of no further use (revoked), or waits for something.
    BadState = CONFLICT, "bad_state", "The resource is not in a state that allows this";
    /// What the cursor points at has been dropped: going on from there would leave rows out without a word.
    CursorExpired = GONE, "cursor_expired", "The rows that follow this cursor are no longer there";
    Stale = PRECONDITION_FAILED, "stale", "The resource has changed since it was read";
    TooLarge = PAYLOAD_TOO_LARGE, "payload_too_large", "The body is too large";
    /// JSON everywhere but where a file is imported.
    NotJson = UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", "The body is not of the media type that this route takes";
    Invalid = UNPROCESSABLE_ENTITY, "invalid", "Some fields cannot be accepted";
    IdempotencyKeyReused = UNPROCESSABLE_ENTITY, "idempotency_key_reused", "This Idempotency-Key was used for another request";
    UnsupportedTransport = UNPROCESSABLE_ENTITY, "unsupported_transport", "This release does not serve that transport";
    UnsupportedFormat = UNPROCESSABLE_ENTITY, "unsupported_format", "This release does not write that format";
    MissingIfMatch = PRECONDITION_REQUIRED, "if_match_required", "Send the ETag that you have read as If-Match";
    TooMany = TOO_MANY_REQUESTS, "too_many_requests", "Too many requests; try again later";
    Internal = INTERNAL_SERVER_ERROR, "internal", "The server failed; its log names this request's id";
    Upstream = BAD_GATEWAY, "upstream_error", "The upstream server failed";
    UpstreamUnreachable = BAD_GATEWAY, "upstream_unreachable", "The upstream server could not be reached";
    Unavailable = SERVICE_UNAVAILABLE, "unavailable", "The server cannot answer at the moment; try again";
    Timeout = GATEWAY_TIMEOUT, "timeout", "The answer did not come in time";
}

impl Problem {
    #[must_use]
    pub const fn new(kind: Kind) -> Self {
        Self { kind, detail: None, errors: Vec::new() }
    }

    /// A refusal with a sentence about this request.
    #[must_use]
    pub fn because(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: Some(detail.into()), errors: Vec::new() }
    }

    /// One field cannot be accepted.
    #[must_use]
    pub fn field(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self::fields(vec![FieldError { pointer: pointer.into(), message: message.into() }])
    }

    #[must_use]
    pub fn fields(errors: Vec<FieldError>) -> Self {
        Self { kind: Kind::Invalid, detail: None, errors }
    }

    /// A defect of ours: logged here, never shown.
    #[must_use]
    pub fn internal(error: &dyn std::fmt::Display) -> Self {
        tracing::error!(%error, "admin request failed");
        Self::new(Kind::Internal)
    }

    /// Something stored cannot be opened. An operator can help, and the sentence that says how holds no secret.
    #[must_use]
    pub fn unopened(error: &Unopened) -> Self {
        tracing::error!(%error, "what is stored cannot be opened");
        Self::because(Kind::Internal, format!("A stored secret cannot be opened: {error}"))
    }

    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    #[must_use]
    pub fn errors(&self) -> &[FieldError] {
        &self.errors
    }

    /// The whole answer.
    #[must_use]
    pub fn render(self, request_id: &str) -> Response {
        let kind = self.kind;
        let body = ProblemBody {
            kind: format!("urn:tollgate:problem:{}", kind.code()),
            title: kind.title(),
            status: kind.status().as_u16(),
            code: kind.code(),
            detail: self.detail,
            request_id: request_id.to_owned(),
            errors: self.errors,
        };
        let mut answer = (kind.status(), axum::Json(body)).into_response();
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        match kind {
            Kind::Unauthenticated => drop(headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
            Kind::Unavailable | Kind::TooMany => drop(headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"))),
            _ => {}
        }
        answer
    }
}

/// The body is rendered by the outermost layer, which knows the request's id (`lib.rs`, `finish`).
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut answer = self.kind.status().into_response();
        answer.extensions_mut().insert(self);
        answer
    }
}

impl IntoResponse for Stop {
    fn into_response(self) -> Response {
        match self {
            Self::Problem(problem) => problem.into_response(),
            Self::Replay(answer) => *answer,
        }
    }
}

impl From<Problem> for Stop {
    fn from(problem: Problem) -> Self {
        Self::Problem(Box::new(problem))
    }
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Problem::from(error).into()
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound => Self::new(Kind::NotFound),
            StoreError::Stale => Self::new(Kind::Stale),
            StoreError::Conflict(sentence) => Self::because(Kind::Conflict, sentence),
            StoreError::Gone(sentence) => Self::because(Kind::CursorExpired, sentence),
            StoreError::Invalid { pointer, message } => Self::field(pointer, message),
            StoreError::Unavailable(error) => {
                tracing::warn!(%error, "the database does not answer");
                Self::new(Kind::Unavailable)
            }
            StoreError::Redis(error) => {
                tracing::warn!(%error, "Redis does not answer");
                Self::because(Kind::Unavailable, "The counters of rate limits are in Redis, which does not answer at present")
            }
            error @ (StoreError::Internal(_) | StoreError::Corrupt(_)) => Self::internal(&error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_titles_are_sentences() {
        for (i, kind) in Kind::ALL.iter().enumerate() {
            assert!(Kind::ALL[..i].iter().all(|other| other.code() != kind.code()), "{}", kind.code());
            assert!(kind.status().is_client_error() || kind.status().is_server_error());
        }
    }

    #[tokio::test]
    async fn what_the_database_says_is_not_shown() {
        let secret = "password authentication failed for user tollgate";
        for error in [StoreError::Corrupt(secret.into()), StoreError::Unavailable(sqlx::Error::Protocol(secret.into()))] {
            let answer = Problem::from(error).render("http_1");
            let status = answer.status();
            let body = axum::body::to_bytes(answer.into_body(), 1 << 16).await.unwrap();
            assert!(status.is_server_error() && !String::from_utf8_lossy(&body).contains("password"));
        }
    }
}
