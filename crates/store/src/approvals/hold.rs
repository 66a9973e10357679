//! How a call asks for an approval, waits for it, and uses it up.

use chrono::{DateTime, Utc};
use sqlx::{Row, postgres::PgRow};
use tollgate_domain::{
    ApprovalId, ApprovalState, CallId, KeyId, LlmRequestId, TeamId, TenantId, ToolId, UpstreamId, policy::Spent,
};
use uuid::Uuid;

use crate::{
    audit::ScriptPlace,
    error::{StoreError, StoreResult, word},
    tx::{Store, Tx},
};

/// Someone else can be faster so often that this is no longer chance.
const TRIES: usize = 8;

/// A call that is held, as it asks.
#[derive(Debug, Clone)]
pub struct Ask {
    pub tenant: TenantId,
    pub key: KeyId,
    pub team: Option<TeamId>,
    pub tool: ToolId,
    pub upstream: (UpstreamId, String),
    pub tool_name: String,
    pub call: CallId,
    pub request: LlmRequestId,
    /// Of a run that can wait. Without it, the same call of the same key is the same call, whoever makes it and from where.
    pub place: Option<ScriptPlace>,
    /// For the approvers: the tools that the script's text shows, as JSON text.
    pub may_call: Option<String>,
    pub arguments: [u8; 32],
    pub policy: [u8; 32],
    pub confirmations: u8,
    pub now: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    /// Approvals that one key may have pending.
    pub at_most: i64,
}

/// How things stand with a held call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// People have not decided yet, or have only now been asked.
    Waiting(Waiting),
    /// They have confirmed, and this call has used it up.
    Spent(Spent),
    /// With the reason that was given.
    Denied(ApprovalId, Option<String>),
    Expired(ApprovalId),
    /// The key has too many pending; none was asked for.
    TooMany,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    pub approval: ApprovalId,
    pub expires_at: DateTime<Utc>,
}

struct Found {
    id: ApprovalId,
    state: ApprovalState,
    expires_at: DateTime<Utc>,
    /// Key, tool, arguments and policy are those of the call.
    binds: bool,
    reason: Option<String>,
}

/// Where a held call stands: what was decided, or a new approval that waits. An approved one is used up by this, once, however
/// many ask at the same time.
///
/// # Errors
/// When the database does not answer.
pub async fn stand(store: &Store, ask: &Ask) -> StoreResult<Standing> {
    for _ in 0..TRIES {
        let mut tx = store.tenant(ask.tenant).await?;
        let standing = once(&mut tx, ask).await?;
        tx.commit().await?;
        if let Some(standing) = standing {
            return Ok(standing);
        }
    }
    Err(StoreError::Unavailable(sqlx::Error::PoolTimedOut))
}

/// `None` when somebody else was faster, and things have to be looked at again.
async fn once(tx: &mut Tx, ask: &Ask) -> StoreResult<Option<Standing>> {
    use ApprovalState as S;
    let in_script = ask.place.is_some();
    let Some(found) = find(tx, ask).await? else { return create(tx, ask).await };
    let over = found.expires_at <= ask.now;
    match found.state {
        S::Approved if found.binds && !over => Ok(spend(tx, ask, found.id).await?.map(Standing::Spent)),
        S::Pending if found.binds && !over => {
            keep_readable(tx, ask, found.id).await?;
            Ok(Some(Standing::Waiting(Waiting { approval: found.id, expires_at: found.expires_at })))
        }
        S::Pending | S::Approved if over && in_script => {
            end(tx, ask, found.id).await?;
            Ok(Some(Standing::Expired(found.id)))
        }
        S::Pending | S::Approved => {
            end(tx, ask, found.id).await?;
            create(tx, ask).await
        }
        // In a script the answer goes to the place that asked. Outside, a denial holds for as long as the question would have.
        S::Denied if in_script || (found.binds && !over) => Ok(Some(Standing::Denied(found.id, found.reason))),
        S::Expired if in_script => Ok(Some(Standing::Expired(found.id))),
        S::Denied | S::Expired | S::Used => create(tx, ask).await,
    }
}

/// The newest approval of this place, or of this call.
async fn find(tx: &mut Tx, ask: &Ask) -> StoreResult<Option<Found>> {
    const COLUMNS: &str = "SELECT approval_id, state, expires_at,
        key_id = $2 AND tool_id = $3 AND arguments_hmac = $4 AND policy = $5 AS binds,
        (SELECT reason FROM approval_confirmations c WHERE c.tenant_id = a.tenant_id AND c.approval_id = a.approval_id
           AND c.decision = 'deny' LIMIT 1) AS reason
        FROM approvals a WHERE tenant_id = $1 AND ";
    let mut query = sqlx::QueryBuilder::new(COLUMNS);
    match ask.place {
        Some(_) => query.push("script_run_id = $6 AND sequence = $7"),
        None => query.push("script_run_id IS NULL AND key_id = $2 AND tool_id = $3 AND arguments_hmac = $4"),
    };
    query.push(" ORDER BY approval_id DESC LIMIT 1");
    let mut query = query.build();
    query = query.bind(ask.tenant.uuid()).bind(ask.key.uuid()).bind(ask.tool.uuid()).bind(ask.arguments).bind(ask.policy);
    if let Some(place) = ask.place {
        query = query.bind(place.run.uuid()).bind(i32::try_from(place.sequence).unwrap_or(i32::MAX));
    }
    let row = query.fetch_optional(&mut **tx).await?;
    row.as_ref().map(found).transpose()
}

fn found(row: &PgRow) -> StoreResult<Found> {
    Ok(Found {
        id: row.try_get::<Uuid, _>("approval_id")?.into(),
        state: word(row.try_get("state")?)?,
        expires_at: row.try_get("expires_at")?,
        binds: row.try_get("binds")?,
        reason: row.try_get("reason")?,
    })
}

/// The whole of the binding stands in the update itself: whatever was true a moment ago, this is when it counts.
async fn spend(tx: &mut Tx, ask: &Ask, id: ApprovalId) -> StoreResult<Option<Spent>> {
    let row = sqlx::query(
        "UPDATE approvals SET state = 'used', used_at = $7, version = version + 1
         WHERE tenant_id = $1 AND approval_id = $2 AND state = 'approved' AND key_id = $3 AND tool_id = $4 AND arguments_hmac = $5
           AND policy = $6 AND expires_at > $7 RETURNING tool_id, policy, arguments_hmac",
    );
    let row = row.bind(ask.tenant.uuid()).bind(id.uuid()).bind(ask.key.uuid()).bind(ask.tool.uuid());
    let row = row.bind(ask.arguments).bind(ask.policy).bind(ask.now).fetch_optional(&mut **tx).await?;
    let Some(row) = row else { return Ok(None) };
    let hash = |column: &str| {
        let bytes: &[u8] = row.try_get(column)?;
        bytes.try_into().map_err(|_| StoreError::Corrupt("a hash of another length".to_owned()))
    };
    let tool = row.try_get::<Uuid, _>("tool_id")?.into();
    Ok(Some(Spent { approval: id, tool, policy: hash("policy")?, arguments: hash("arguments_hmac")? }))
}

/// Where the row of the call that asked first was never written, approvers read this one's.
async fn keep_readable(tx: &mut Tx, ask: &Ask, id: ApprovalId) -> StoreResult<()> {
    sqlx::query(
        "UPDATE approvals a SET call_id = $3 WHERE tenant_id = $1 AND approval_id = $2 AND state = 'pending'
           AND NOT EXISTS (SELECT FROM tool_call_events e WHERE e.tenant_id = a.tenant_id AND e.call_id = a.call_id AND e.kind = 0)",
    )
    .bind(ask.tenant.uuid())
    .bind(id.uuid())
    .bind(ask.call.uuid())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

async fn end(tx: &mut Tx, ask: &Ask, id: ApprovalId) -> StoreResult<()> {
    sqlx::query(
        "UPDATE approvals SET state = 'expired', version = version + 1
         WHERE tenant_id = $1 AND approval_id = $2 AND state IN ('pending', 'approved')",
    )
    .bind(ask.tenant.uuid())
    .bind(id.uuid())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

async fn create(tx: &mut Tx, ask: &Ask) -> StoreResult<Option<Standing>> {
    let pending =
        sqlx::query_scalar::<_, i64>("SELECT count(*) FROM approvals WHERE tenant_id = $1 AND key_id = $2 AND state = 'pending'");
    let pending = pending.bind(ask.tenant.uuid()).bind(ask.key.uuid()).fetch_one(&mut **tx).await?;
    if pending >= ask.at_most {
        return Ok(Some(Standing::TooMany));
    }
    let id = ApprovalId::mint(ask.now);
    let made = sqlx::query(
        "INSERT INTO approvals (tenant_id, approval_id, state, key_id, team_id, tool_id, upstream_id, upstream_name, tool_name,
                                call_id, llm_request_id, script_run_id, sequence, arguments_hmac, policy, confirmations, requested_at, expires_at,
                                may_call)
         VALUES ($1, $2, 'pending', $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)
         ON CONFLICT DO NOTHING",
    )
    .bind(ask.tenant.uuid())
    .bind(id.uuid())
    .bind(ask.key.uuid())
    .bind(ask.team.map(TeamId::uuid))
    .bind(ask.tool.uuid())
    .bind(ask.upstream.0.uuid())
    .bind(&ask.upstream.1)
    .bind(&ask.tool_name)
    .bind(ask.call.uuid())
    .bind(ask.request.uuid())
    .bind(ask.place.map(|place| place.run.uuid()))
    .bind(ask.place.map(|place| i32::try_from(place.sequence).unwrap_or(i32::MAX)))
    .bind(ask.arguments)
    .bind(ask.policy)
    .bind(i16::from(ask.confirmations))
    .bind(ask.now)
    .bind(ask.expires_at)
    .bind(&ask.may_call)
    .execute(&mut **tx)
    .await?;
    let waiting = Waiting { approval: id, expires_at: ask.expires_at };
    Ok((made.rows_affected() == 1).then_some(Standing::Waiting(waiting)))
}
