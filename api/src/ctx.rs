//! What a handler gets from the gate in front of it, and the two ways in which it changes something.

use std::{
    ops::{Deref, DerefMut},
    str::FromStr,
    sync::Arc,
};

use axum::{
    extract::{FromRequestParts, RawPathParams},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio::sync::Semaphore;
use tollgate_boot::{Config, Shutdown};
use tollgate_domain::{Action, Role, Secrets, TenantId, clock::SharedClock};
use tollgate_store::{Actor, Change, Store, StoreError, auth, counters::Counters};
use uuid::Uuid;

use crate::{
    admin::{Admin, Refusal},
    audit::stream::Streams,
    denials::{Denial, Denials},
    idempotency::Remember,
    oidc::Oidc,
    precondition::{self, IfMatch},
    problem::{Answer, Kind, Problem, Stop},
};

/// Where rows live that belong to the deployment and not to a tenant: no tenant ever has this id.
pub const PLATFORM: TenantId = TenantId::from_uuid(Uuid::nil());

/// What all requests share. Cheap to clone.
#[derive(Debug, Clone)]
pub struct App {
    pub store: Store,
    pub config: Arc<Config>,
    pub secrets: Secrets,
    pub clock: SharedClock,
    /// Where workers count what rate limits limit.
    pub counters: Counters,
    /// What lasts longer than an answer ends with this.
    pub shutdown: Shutdown,
    pub streams: Arc<Streams>,
    /// Exports and bundles at once: each holds a connection, and together they leave most of them alone.
    pub downloads: Arc<Semaphore>,
    pub(crate) oidc: Arc<Oidc>,
    pub(crate) denials: Arc<Denials>,
}

impl App {
    #[must_use]
    pub fn new(store: Store, config: Arc<Config>, secrets: Secrets, clock: SharedClock) -> Self {
        let oidc = Arc::new(Oidc::new(&config.oidc));
        let (shutdown, streams) = (Shutdown::new(), Arc::default());
        let downloads = Arc::new(Semaphore::new((config.limits.database_connections as usize / 4).max(1)));
        let counters = Counters::postgres(store.clone());
        Self { store, config, secrets, clock, counters, shutdown, streams, downloads, oidc, denials: Arc::default() }
    }
}

/// One admitted request. Only the gate makes it, so whoever holds one has passed authentication, tenant and role.
#[derive(Debug, Clone)]
pub struct Ctx {
    pub app: App,
    pub admin: Admin,
    /// The tenant of the path; [`PLATFORM`] where the path names none.
    pub tenant: TenantId,
    pub request_id: String,
    /// When the request was admitted: one time for everything that it does.
    pub now: DateTime<Utc>,
    /// The template, such as `/v1/tenants/{tenant_id}/teams`.
    pub route: &'static str,
    pub method: Method,
    /// As the client wrote it.
    pub path: String,
    pub headers: HeaderMap,
    pub(crate) admission: Admission,
}

/// By what a request was admitted, for answers that go on for as long as it holds.
#[derive(Clone)]
pub(crate) struct Admission {
    /// The bearer, and nothing else.
    pub bearer: HeaderMap,
    pub action: Action,
}

impl std::fmt::Debug for Admission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admission").field("action", &self.action).finish_non_exhaustive()
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Ctx {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| Problem::internal(&"a handler without the gate in front of it"))
    }
}

impl Ctx {
    /// Who acts, for the admin event.
    #[must_use]
    pub fn actor(&self) -> Actor {
        Actor {
            kind: self.admin.kind.as_str(),
            id: self.admin.principal.clone(),
            role: Some(self.admin.role),
            request_id: Some(self.request_id.clone()),
        }
    }

    /// Whether the same request would be admitted now: the bearer still holds, and the role still allows it.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn still_admitted(&self, now: DateTime<Utc>) -> Result<bool, StoreError> {
        let admin = match self.app.authenticate(&self.admission.bearer, Some(self.tenant), now).await {
            Ok(admin) => admin,
            Err(Refusal::Unknown(_)) => return Ok(false),
            Err(Refusal::Store(error)) => return Err(error),
        };
        let own = match admin.tenant {
            Some(own) => own == self.tenant,
            None => auth::is_live(&self.app.store, self.tenant).await?,
        };
        Ok(own && admin.role.may(self.admission.action))
    }

    /// Open the write of a POST. With an Idempotency-Key that has been seen, this ends the handler with the answer of then.
    ///
    /// # Errors
    /// A remembered answer, a key that was used for something else, or the database.
    pub async fn post(&self, body_sha256: &[u8; 32]) -> Result<Write, Stop> {
        let mut change = self.app.store.change(self.tenant, self.actor(), self.now).await?;
        let remember = Remember::look_up(self, &mut change, body_sha256).await?;
        Ok(Write { ctx: self.clone(), change, remember, if_match: None, quiet: false })
    }

    /// Open the write of a PATCH or DELETE. It must be shown what it changes ([`Write::matches`]) before it commits.
    ///
    /// # Errors
    /// Without If-Match, or when the database does not answer.
    pub async fn change(&self) -> Result<Write, Stop> {
        let if_match = IfMatch::required(&self.headers)?;
        let change = self.app.store.change(self.tenant, self.actor(), self.now).await?;
        Ok(Write { ctx: self.clone(), change, remember: None, if_match: Some(if_match), quiet: false })
    }

    /// Nobody hands out, or takes away, more than they have.
    ///
    /// # Errors
    /// 403, recorded like every other.
    pub async fn may_grant(&self, role: Role) -> Result<(), Stop> {
        if self.admin.role.may_grant(role) {
            return Ok(());
        }
        let denial =
            Denial { reason: "grant", method: self.method.as_str(), route: self.route, request_id: &self.request_id, peer: None };
        self.app.record_forbidden(self.tenant, self.actor(), &denial, self.now).await?;
        let sentence = format!("A role of {:?} is not yours to give or take.", role.as_str());
        Err(Problem::because(Kind::Forbidden, sentence).into())
    }

    /// 200 with an ETag where the resource has one.
    #[must_use]
    pub fn ok<R: Resource>(&self, body: &R) -> Response {
        Reply::new(StatusCode::OK, body, None).into_response()
    }
}

/// What the API shows of a row.
pub trait Resource: Serialize {
    /// Its id and version, where it has one: the ETag.
    fn tag(&self) -> Option<(String, i32)> {
        None
    }
}

/// An open change: the row, its admin event, the remembered answer and the notice to the workers are one transaction.
/// Dropped without an answer, it leaves no trace.
#[derive(Debug)]
pub struct Write {
    ctx: Ctx,
    change: Change,
    remember: Option<Remember>,
    /// Taken by [`Self::matches`].
    if_match: Option<IfMatch>,
    quiet: bool,
}

impl Deref for Write {
    type Target = Change;
    fn deref(&self) -> &Change {
        &self.change
    }
}

impl DerefMut for Write {
    fn deref_mut(&mut self) -> &mut Change {
        &mut self.change
    }
}

impl Write {
    /// Compare If-Match with the row as it stands under this transaction's lock.
    ///
    /// # Errors
    /// 412 when the client has read another version.
    pub fn matches(&mut self, current: &impl Resource) -> Result<(), Problem> {
        match (self.if_match.take(), current.tag()) {
            (Some(if_match), Some((id, version))) => if_match.check(&id, version),
            _ => Err(Problem::internal(&"compared without an If-Match, twice, or with a resource that has no version")),
        }
    }

    /// Commit and answer 201.
    ///
    /// # Errors
    /// When the commit fails; nothing was changed then.
    pub async fn created<R: Resource>(self, body: &R) -> Answer {
        let location = body.tag().map(|(id, _)| format!("{}/{id}", self.ctx.path));
        self.finish(Reply::new(StatusCode::CREATED, body, location)).await
    }

    /// [`Self::created`], of what is no change of configuration: the workers are not told.
    ///
    /// # Errors
    /// When the commit fails; nothing was changed then.
    pub async fn created_quietly<R: Resource>(mut self, body: &R) -> Answer {
        self.quiet = true;
        self.created(body).await
    }

    /// Commit and answer 200.
    ///
    /// # Errors
    /// When the commit fails; nothing was changed then.
    pub async fn ok<R: Resource>(self, body: &R) -> Answer {
        self.finish(Reply::new(StatusCode::OK, body, None)).await
    }

    /// [`Self::ok`], of what is no change of configuration: the workers are not told.
    ///
    /// # Errors
    /// When the commit fails; nothing was changed then.
    pub async fn ok_quietly<R: Resource>(mut self, body: &R) -> Answer {
        self.quiet = true;
        self.ok(body).await
    }

    /// Commit and answer 204.
    ///
    /// # Errors
    /// When the commit fails; nothing was changed then.
    pub async fn no_content(self) -> Answer {
        self.finish(Reply { status: StatusCode::NO_CONTENT, etag: None, location: None, body: String::new() }).await
    }

    async fn finish(mut self, reply: Reply) -> Answer {
        if self.if_match.is_some() {
            return Err(Problem::internal(&"a change that was never compared with its If-Match").into());
        }
        if let Some(remember) = self.remember.take() {
            remember.keep(&self.ctx, &mut self.change, &reply).await?;
        }
        match self.quiet {
            true => self.change.commit_quietly().await?,
            false => self.change.commit().await?,
        }
        Ok(reply.into_response())
    }
}

/// An answer in the form in which it can be remembered. It may hold a secret: no `Debug`.
#[derive(serde::Serialize, serde::Deserialize)]
pub(crate) struct Reply {
    #[serde(skip)]
    pub status: StatusCode,
    pub etag: Option<String>,
    pub location: Option<String>,
    /// JSON text, or nothing.
    pub body: String,
}

impl Reply {
    fn new<R: Resource>(status: StatusCode, body: &R, location: Option<String>) -> Self {
        let etag = body.tag().map(|(id, version)| precondition::etag(&id, version));
        // Our own types always serialise: string keys, finite numbers.
        Self { status, etag, location, body: serde_json::to_string(body).unwrap_or_default() }
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let empty = self.body.is_empty();
        let mut answer = (self.status, self.body).into_response();
        let headers = answer.headers_mut();
        headers.remove(header::CONTENT_TYPE);
        let mut put = |name, value: Option<String>| {
            if let Some(value) = value.and_then(|v| HeaderValue::try_from(v).ok()) {
                headers.insert(name, value);
            }
        };
        put(header::ETAG, self.etag);
        put(header::LOCATION, self.location);
        put(header::CONTENT_TYPE, (!empty).then(|| "application/json".to_owned()));
        answer
    }
}

/// The id of the resource itself: the last parameter of the path. What is not such an id names nothing: 404.
#[derive(Debug, Clone, Copy)]
pub struct Id<T>(pub T);

impl<S: Send + Sync, T: FromStr> FromRequestParts<S> for Id<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let not_found = || Problem::new(Kind::NotFound);
        let params = RawPathParams::from_request_parts(parts, state).await.map_err(|_| not_found())?;
        let last = params.iter().filter(|(name, _)| *name != "tenant_id").last();
        last.and_then(|(_, text)| text.parse().ok()).map(Self).ok_or_else(not_found)
    }
}
