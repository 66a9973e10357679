//! Lists: `?limit&page_token`, keyset order, and tokens that nobody can make, change or carry elsewhere.
//!
//! A token is the last position, sealed for one route, tenant and set of filters, with an expiry inside. Opened for
//! anything else, or with one bit changed, it is no token.

use axum::{
    extract::{FromRequestParts, Query as AxumQuery},
    http::{Uri, request::Parts},
    response::Response,
};
use chrono::{DateTime, Duration, Utc};
use reqwest::Url;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tollgate_domain::tool::sha256;
use tollgate_store::{Page, PageRequest, page::MAX_PAGE};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::{
    ctx::{Ctx, Resource},
    json::timely,
    problem::{FieldError, Kind, Problem},
};

const DEFAULT_LIMIT: u32 = 50;

fn lifetime() -> Duration {
    Duration::hours(1)
}

/// The parameters of every list.
#[derive(Debug, Default, Clone, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// At most this many items, 1 to 1000.
    #[param(minimum = 1, maximum = 1000, default = 50)]
    pub limit: Option<u32>,
    /// `next_page` of the page before; it holds for an hour and for the same filters.
    pub page_token: Option<String>,
}

/// One page.
#[derive(Debug, Serialize, ToSchema)]
pub struct ListBody<T> {
    pub items: Vec<T>,
    /// Send it as `page_token` for what follows; null on the last page.
    pub next_page: Option<String>,
}

impl<T: Serialize> Resource for ListBody<T> {}

/// Query parameters without paging. What `T` does not know is refused (`deny_unknown_fields`).
#[derive(Debug)]
pub struct Query<T>(pub T);

/// For lists and reads without filters of their own.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoFilter {}

/// The query of a list: its filters, and the page asked for.
#[derive(Debug)]
pub struct List<F = NoFilter> {
    pub filter: F,
    pub page: PageRequest,
    ctx: Ctx,
    purpose: String,
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        read(&pairs(&parts.uri)?).map(Self)
    }
}

impl<S: Send + Sync, F: DeserializeOwned> FromRequestParts<S> for List<F> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let ctx = Ctx::from_request_parts(parts, state).await?;
        let (paging, mut filters): (Vec<_>, Vec<_>) =
            pairs(&parts.uri)?.into_iter().partition(|(name, _)| name == "limit" || name == "page_token");
        let paging: PageQuery = read(&paging)?;
        let filter = read(&filters)?;
        let limit = paging.limit.unwrap_or(DEFAULT_LIMIT);
        if !(1..=MAX_PAGE).contains(&limit) {
            return Err(Problem::field("?limit", format!("use a number from 1 to {MAX_PAGE}")));
        }
        // The same filters in another order are the same list.
        filters.sort();
        let purpose = purpose(ctx.route, &ctx.tenant.to_string(), &filters);
        let after = match &paging.page_token {
            None => None,
            Some(token) => Some(open(&ctx, &purpose, token).ok_or_else(|| Problem::new(Kind::BadPageToken))?),
        };
        Ok(Self { filter, page: PageRequest { limit, after }, ctx, purpose })
    }
}

impl<F> List<F> {
    /// 200 with the page.
    pub fn answer<R, T: Serialize>(&self, page: Page<R>, show: impl FnMut(R) -> T) -> Response {
        let next_page = page.next.map(|last| seal(&self.ctx, &self.purpose, last));
        self.ctx.ok(&ListBody { items: page.items.into_iter().map(show).collect(), next_page })
    }
}

fn seal(ctx: &Ctx, purpose: &str, last: Uuid) -> String {
    let mut plain = (ctx.now + lifetime()).timestamp().to_be_bytes().to_vec();
    plain.extend_from_slice(last.as_bytes());
    ctx.app.secrets.sealer.seal_text(purpose, &plain)
}

fn open(ctx: &Ctx, purpose: &str, token: &str) -> Option<Uuid> {
    let plain = ctx.app.secrets.sealer.open_text(purpose, token).ok()?;
    let (expiry, last) = plain.split_first_chunk::<8>()?;
    let expiry = DateTime::<Utc>::from_timestamp(i64::from_be_bytes(*expiry), 0)?;
    if expiry < ctx.now { None } else { Uuid::from_slice(last).ok() }
}

fn purpose(route: &str, tenant: &str, filters: &[(String, String)]) -> String {
    let text = serde_json::to_string(filters).unwrap_or_default();
    let hash: String = sha256(text.as_bytes()).iter().map(|b| format!("{b:02x}")).collect();
    format!("page/{route}/{tenant}/{hash}")
}

fn pairs(uri: &Uri) -> Result<Vec<(String, String)>, Problem> {
    let mut url = base()?;
    url.set_query(uri.query());
    Ok(url.query_pairs().map(|(name, value)| (name.into_owned(), value.into_owned())).collect())
}

/// Parameters as a `T`. A parameter that comes twice is refused: two readers could take different ones.
fn read<T: DeserializeOwned>(pairs: &[(String, String)]) -> Result<T, Problem> {
    for (i, (name, _)) in pairs.iter().enumerate() {
        if pairs[..i].iter().any(|(other, _)| other == name) {
            return Err(Problem::field(format!("?{name}"), "this parameter comes twice"));
        }
    }
    let mut url = base()?;
    if !pairs.is_empty() {
        url.query_pairs_mut().extend_pairs(pairs);
    }
    let uri: Uri = url.as_str().parse().map_err(|_| Problem::new(Kind::Malformed))?;
    AxumQuery::<T>::try_from_uri(&uri).map(|AxumQuery(value)| value).map_err(|e| {
        Problem::fields(vec![describe(&std::error::Error::source(&e).map_or_else(|| e.to_string(), ToString::to_string))])
    })
}

/// `name: sentence`, or a sentence that names an unknown or missing parameter.
fn describe(message: &str) -> FieldError {
    for (start, told) in [("missing field `", "this parameter is required"), ("unknown field `", "there is no such parameter")] {
        if let Some(name) = message.split_once(start).and_then(|(_, rest)| rest.split('`').next()) {
            return FieldError { pointer: format!("?{name}"), message: told.to_owned() };
        }
    }
    match message.split_once(": ") {
        Some((name, sentence)) if !name.contains(' ') => {
            FieldError { pointer: format!("?{name}"), message: timely(sentence.to_owned()) }
        }
        _ => FieldError { pointer: "?".to_owned(), message: timely(message.to_owned()) },
    }
}

fn base() -> Result<Url, Problem> {
    Url::parse("http://tollgate.invalid/").map_err(|e| Problem::internal(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read by serde")]
    struct Filter {
        key_id: Option<tollgate_domain::KeyId>,
        from: Option<DateTime<Utc>>,
    }

    fn refusal(query: &str) -> String {
        let uri: Uri = format!("/x?{query}").parse().unwrap();
        read::<Filter>(&pairs(&uri).unwrap()).unwrap_err().errors()[0].pointer.clone()
    }

    #[test]
    fn parameters_are_read_strictly_and_named_when_refused() {
        let uri: Uri = "/x?from=2026-01-01T00:00:00Z&key_id=vk_00000000000000000000000000".parse().unwrap();
        assert!(read::<Filter>(&pairs(&uri).unwrap()).is_ok());
        assert_eq!(refusal("key_id=ten_00000000000000000000000000"), "?key_id");
        assert_eq!(refusal("from=yesterday"), "?from");
        for time in ["yesterday", "2026-01-01", "2026-01-01T00:00", "2026-13-01T00:00:00Z", "2026-01-01T00:00:00Zulu", ""] {
            let uri: Uri = format!("/x?from={time}").parse().unwrap();
            let refused = read::<Filter>(&pairs(&uri).unwrap()).unwrap_err();
            assert!(refused.errors()[0].message.contains("such as 2026-11-27T09:30:00Z"), "{time}: {refused:?}");
        }
        assert_eq!(refusal("form=x"), "?form");
        assert_eq!(refusal("from=2026-01-01T00:00:00Z&from=2026-01-01T00:00:00Z"), "?from");
    }
}
