//! Everything that rests sealed in the database, by the key that it is sealed under: to count it, and to seal it anew under another.
//! Rows are locked while they are sealed anew, and written only as they were read: a change that comes in between is not lost, and
//! neither version nor time of a row changes, since what it says does not.

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::{Row, postgres::PgRow};
use tollgate_domain::{DataKeyId, ProviderId, TenantId, Unopened, UpstreamId, Vault, vault};
use uuid::Uuid;

use crate::{change::Actor, error::StoreResult, idempotency, providers, tx::Store, upstreams};

/// Rows of one transaction.
const ROWS: i64 = 100;

/// Rows of one table that hold something sealed.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// What people call them.
    pub name: &'static str,
    /// $1 tenant, $2 what envelopes begin with, $3 how long their head is.
    count: &'static str,
    /// $1 tenant, $2 the head of what is sealed well, $3 its length, $4 and $5 the place after which, $6 how many.
    next: &'static str,
    /// $1 tenant, $2 and $3 the place, $4 as it was, $5 as it is to be.
    write: &'static str,
    purpose: fn(TenantId, &Place) -> Option<String>,
}

/// A row's key within its tenant, as text.
pub type Place = (String, String);

/// All of them. A table with something sealed that is missing here is not rotated.
pub const KINDS: [Kind; 3] = [
    Kind {
        name: "providers",
        count: "SELECT CASE WHEN substring(sealed_secrets FROM 1 FOR length($2)) = $2 THEN substring(sealed_secrets FROM 1 FOR $3) ELSE '' END AS head,
                  count(*) AS rows FROM providers WHERE tenant_id = $1 AND sealed_secrets <> '' GROUP BY 1",
        next: "SELECT provider_id::text AS a, '' AS b, sealed_secrets AS sealed FROM providers
               WHERE tenant_id = $1 AND sealed_secrets <> '' AND substring(sealed_secrets FROM 1 FOR $3) <> $2 AND (provider_id::text, '') > ($4, $5)
               ORDER BY 1, 2 LIMIT $6 FOR UPDATE",
        write: "UPDATE providers SET sealed_secrets = $5 WHERE tenant_id = $1 AND provider_id = $2::uuid AND $3 = '' AND sealed_secrets = $4",
        purpose: |_, (id, _)| Some(providers::secrets_purpose(ProviderId::from(id.parse::<Uuid>().ok()?))),
    },
    Kind {
        name: "upstreams",
        count: "SELECT CASE WHEN substring(sealed_headers FROM 1 FOR length($2)) = $2 THEN substring(sealed_headers FROM 1 FOR $3) ELSE '' END AS head,
                  count(*) AS rows FROM upstreams WHERE tenant_id = $1 AND sealed_headers IS NOT NULL GROUP BY 1",
        next: "SELECT upstream_id::text AS a, '' AS b, sealed_headers AS sealed FROM upstreams
               WHERE tenant_id = $1 AND sealed_headers IS NOT NULL AND substring(sealed_headers FROM 1 FOR $3) <> $2 AND (upstream_id::text, '') > ($4, $5)
               ORDER BY 1, 2 LIMIT $6 FOR UPDATE",
        write: "UPDATE upstreams SET sealed_headers = $5 WHERE tenant_id = $1 AND upstream_id = $2::uuid AND $3 = '' AND sealed_headers = $4",
        purpose: |_, (id, _)| Some(upstreams::headers_purpose(UpstreamId::from(id.parse::<Uuid>().ok()?))),
    },
    Kind {
        name: "remembered answers",
        count: "SELECT CASE WHEN substring(sealed_answer FROM 1 FOR length($2)) = $2 THEN substring(sealed_answer FROM 1 FOR $3) ELSE '' END AS head,
                  count(*) AS rows FROM idempotency_keys WHERE tenant_id = $1 GROUP BY 1",
        next: "SELECT principal AS a, key AS b, sealed_answer AS sealed FROM idempotency_keys
               WHERE tenant_id = $1 AND substring(sealed_answer FROM 1 FOR $3) <> $2 AND (principal, key) > ($4, $5)
               ORDER BY 1, 2 LIMIT $6 FOR UPDATE",
        write: "UPDATE idempotency_keys SET sealed_answer = $5 WHERE tenant_id = $1 AND principal = $2 AND key = $3 AND sealed_answer = $4",
        purpose: |tenant, (principal, key)| Some(idempotency::purpose(tenant, principal, key)),
    },
];

/// Rows of one kind that are sealed under one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub kind: &'static str,
    /// `None`: the server's secret, from before keys had names.
    pub key: Option<DataKeyId>,
    pub rows: u64,
}

/// What one transaction has done.
#[derive(Debug, Default)]
pub struct Round {
    pub resealed: u64,
    /// Rows that stay as they are, and why.
    pub unopened: Vec<(Place, Unopened)>,
    /// Where to go on; `None`: there is nothing more.
    pub next: Option<Place>,
}

/// All tenants, those that were deleted and the place of what belongs to none included.
///
/// # Errors
/// When the database does not answer.
pub async fn tenants(store: &Store) -> StoreResult<Vec<TenantId>> {
    let mut tx = store.control().await?;
    let ids: Vec<Uuid> = sqlx::query_scalar("SELECT tenant_id FROM tenants ORDER BY tenant_id").fetch_all(&mut *tx).await?;
    tx.commit().await?;
    Ok(std::iter::once(Uuid::nil()).chain(ids).map(TenantId::from).collect())
}

/// What a tenant has sealed, by kind and key.
///
/// # Errors
/// When the database does not answer.
pub async fn held(store: &Store, tenant: TenantId) -> StoreResult<Vec<Held>> {
    let mut tx = store.tenant_snapshot(tenant).await?;
    let mut all = Vec::new();
    for kind in &KINDS {
        let count = sqlx::query(kind.count).bind(tenant.uuid()).bind(vault::MAGIC.as_slice()).bind(head_length());
        for row in count.fetch_all(&mut *tx).await? {
            let (head, rows): (Vec<u8>, i64) = (row.try_get("head")?, row.try_get("rows")?);
            all.push(Held { kind: kind.name, key: DataKeyId::of(&head), rows: u64::try_from(rows).unwrap_or_default() });
        }
    }
    tx.commit().await?;
    Ok(all)
}

/// Seal some rows of a tenant anew under the vault's current key, in one transaction, with the admin event that says so.
///
/// # Errors
/// When the database does not answer; nothing was changed then.
pub async fn rotate(
    store: &Store,
    vault: &Vault,
    (tenant, kind): (TenantId, &Kind),
    after: Option<Place>,
    now: DateTime<Utc>,
) -> StoreResult<Round> {
    let mut change = store.change(tenant, Actor::system("secrets"), now).await?;
    let key = vault.current();
    let after = after.unwrap_or_default();
    let next = sqlx::query(kind.next).bind(tenant.uuid()).bind(key.id().head()).bind(head_length());
    let rows = next.bind(&after.0).bind(&after.1).bind(ROWS).fetch_all(&mut *change.tx).await?;
    let mut round = Round::default();
    for row in &rows {
        let (place, sealed) = read(row)?;
        let purpose = (kind.purpose)(tenant, &place).unwrap_or_default();
        match vault.reseal(&purpose, &sealed) {
            Ok(Some(fresh)) => {
                let write = sqlx::query(kind.write).bind(tenant.uuid()).bind(&place.0).bind(&place.1).bind(&sealed).bind(fresh);
                round.resealed += write.execute(&mut *change.tx).await?.rows_affected();
            }
            Ok(None) => {}
            Err(why) => round.unopened.push((place, why)),
        }
    }
    if i64::try_from(rows.len()).is_ok_and(|rows| rows == ROWS) {
        round.next = rows.last().map(read).transpose()?.map(|(place, _)| place);
    }
    if round.resealed > 0 && !tenant.uuid().is_nil() {
        let detail = json!({"what": kind.name, "rows": round.resealed, "key": key.id().to_string(), "key_name": key.name()});
        change.event("secrets.rotate", &key.id(), detail).await?;
    }
    // What a worker has read opens as before: it need not read it again.
    change.commit_quietly().await?;
    Ok(round)
}

fn read(row: &PgRow) -> StoreResult<(Place, Vec<u8>)> {
    Ok(((row.try_get("a")?, row.try_get("b")?), row.try_get("sealed")?))
}

fn head_length() -> i32 {
    i32::try_from(vault::HEAD).unwrap_or(i32::MAX)
}
