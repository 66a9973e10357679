//! Bundles of a log whose payloads were erased: what an erasure says is excused, and what somebody says who owns the database is not.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

mod support;

use std::sync::Arc;

use serde_json::json;
use sqlx::{ConnectOptions, PgPool};
use tollgate_domain::{CallId, ErasureId, TenantId};
use tollgate_evidence::{
    bundle::{Problem, Report, Trust, verify},
    sign::{KeyRing, Signer},
};
use tollgate_store::{
    Store, StoreError,
    audit::AuditWriter,
    bundle::{self, Cover},
    erasures::Selection,
    sealer, seals,
};

use support::{
    QUEUE, Who, count,
    runs::{erase, record, rules},
    seal_all, tamper, tenant,
};

const UNNAMED: &str = "payload missing, and no sealed erasure names it";

async fn archive(store: &Store, tenant: TenantId, cover: Cover) -> Result<Vec<u8>, StoreError> {
    let mut bundle = bundle::open(store, tenant, cover, support::now()).await?;
    let (out, mut pieces) = tokio::sync::mpsc::channel(2);
    let read = tokio::spawn(async move {
        let mut bytes = Vec::new();
        while let Some(piece) = pieces.recv().await {
            bytes.extend::<Vec<u8>>(piece);
        }
        bytes
    });
    while bundle.next(&out).await? {}
    assert_eq!(bundle.reached(), bundle.positions().1);
    bundle.finish(store.keys(), &out).await?;
    drop(out);
    Ok(read.await.unwrap())
}

async fn checked(store: &Store, tenant: TenantId) -> Report {
    let archive = archive(store, tenant, Cover::default()).await.unwrap();
    verify(&archive[..], Trust::InBundle, None).unwrap()
}

struct Scene {
    store: Store,
    who: Who,
    /// Whose payloads were erased, with those of the run in which it was made; and one that was left alone.
    erased: CallId,
    bystander: CallId,
    erasure: ErasureId,
}

async fn scene(pool: &PgPool) -> Scene {
    let store = Store::from_pool(pool.clone());
    sealer::publish_keys(&store, support::now()).await.unwrap();
    let (audit, trail) = (AuditWriter::start(&store, QUEUE), rules(json!({})));
    let who = Who::new(tenant(pool).await);
    let (erased, _) = record(&who, &audit, &trail, "{\"to\":1}", "ada@example.com").await;
    let (bystander, _) = record(&who, &audit, &trail, "{\"to\":2}", "somebody@else.example").await;
    seal_all(&store).await;
    let report = checked(&store, who.tenant).await;
    assert_eq!((report.findings, report.payloads, report.erased), (vec![], 14, 0));
    let erasure = erase(&store, who.tenant, &Selection::Calls(vec![erased])).await.unwrap().id;
    Scene { store, who, erased, bystander, erasure }
}

fn missing(report: &Report) -> Vec<(Problem, String)> {
    assert!(report.findings.iter().all(|finding| finding.text == UNNAMED), "{:?}", report.findings);
    report.findings.iter().map(|finding| (finding.problem, finding.row.clone().unwrap())).collect()
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn an_erasure_excuses_what_it_took_and_that_alone(pool: PgPool) {
    let Scene { store, who, erased, bystander, erasure } = scene(&pool).await;
    // The arguments and the result; source, result, logs, error and one line of the journal of the run.
    assert_eq!(count(&pool, "SELECT count(*) FROM audit_erased").await, 7);
    let told = archive(&store, who.tenant, Cover::default()).await.unwrap_err().to_string();
    assert!(told.contains("not sealed yet") && told.contains("ask again"), "{told}");
    seal_all(&store).await;
    let report = checked(&store, who.tenant).await;
    assert_eq!((&report.findings, report.payloads, report.erased, report.erasures), (&vec![], 7, 7, 1));

    // A bundle that ends before the erasure was sealed proves it all the same; one of rows that it did not touch says nothing of it.
    let archive_of = async |cover| verify(&archive(&store, who.tenant, cover).await.unwrap()[..], Trust::InBundle, None).unwrap();
    let mut tx = store.tenant(who.tenant).await.unwrap();
    let all = seals::from(&mut tx, who.tenant, 1, 100).await.unwrap();
    drop(tx);
    let last = all.last().unwrap().seal.first;
    let report = archive_of(Cover { until: Some(last), ..Cover::default() }).await;
    assert_eq!((report.findings, report.erased, report.erasures), (vec![], 7, 1));
    let report = archive_of(Cover { first: Some(last), ..Cover::default() }).await;
    assert_eq!((report.findings, report.erased, report.erasures, report.entries), (vec![], 0, 0, 1));

    // Whoever owns the database deletes a payload, and plants an erasure for it.
    let (tenant, call) = (who.tenant.uuid(), bystander.uuid());
    tamper(&pool, &format!("DELETE FROM tool_call_payloads WHERE call_id = '{call}' AND kind = 1")).await;
    let lost = checked(&store, who.tenant).await;
    assert!(lost.findings[0].text.contains("neither stored nor was it erased"), "{:?}", lost.findings);
    let planted = ErasureId::mint(support::now()).uuid();
    let row = |erasure: uuid::Uuid, part: i16| {
        format!(
            "INSERT INTO audit_erased (tenant_id, row_id, part, erasure_id) VALUES ('{tenant}', '{call}', {part}, '{erasure}')"
        )
    };
    let completion = (Problem::Removed, format!("{bystander} (completion)"));
    tamper(&pool, &row(planted, 1)).await;
    assert_eq!(missing(&checked(&store, who.tenant).await), [completion.clone()]);
    // With the record of an erasure, and with an event that is in no batch.
    let record = format!(
        "INSERT INTO audit_erasures (tenant_id, erasure_id, at, by, reason, selection, calls, runs)
         VALUES ('{tenant}', '{planted}', now() - interval '1 day', 'x', 'x', '{{}}', 1, 0)"
    );
    tamper(&pool, &record).await;
    let event = format!(
        "INSERT INTO admin_events (tenant_id, event_id, at, actor_kind, actor_id, role, action, target_id, detail, request_id)
         SELECT tenant_id, '{}', at, actor_kind, actor_id, role, action, '{}', detail, request_id FROM admin_events WHERE action = 'audit.erase'",
        tollgate_domain::AdminEventId::mint(support::now()).uuid(),
        ErasureId::from_uuid(planted)
    );
    assert_eq!(tamper(&pool, &event).await, 1);
    assert_eq!(missing(&checked(&store, who.tenant).await), [completion]);

    // Or adds it to the erasure that there was: then the list is not the one that was sealed.
    tamper(&pool, &row(erasure.uuid(), 1)).await;
    let report = checked(&store, who.tenant).await;
    assert_eq!((report.findings.len(), report.findings[0].problem), (1, Problem::Added), "{:?}", report.findings);
    assert!(report.findings[0].text.contains(&erasure.to_string()) && report.findings[0].text.contains("8 lines, sealed were 7"));
    tamper(&pool, &format!("DELETE FROM audit_erased WHERE row_id = '{call}'")).await;
    tamper(&pool, &format!("UPDATE audit_erased SET row_id = '{call}' WHERE row_id = '{}'", erased.uuid())).await;
    let report = checked(&store, who.tenant).await;
    assert_eq!(report.findings[0].problem, Problem::Edited, "{:?}", report.findings);
    assert!(report.findings[0].file.starts_with("erasures/000001/"), "{:?}", report.findings);
}

/// The sealer leaves nothing out for being suspicious, so also a forged event gets its place in the log. It excuses nothing.
#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn an_erasure_under_another_key_is_sealed_and_excuses_nothing(pool: PgPool) {
    let Scene { store, who, bystander, .. } = scene(&pool).await;
    seal_all(&store).await;
    let forger = Arc::new(KeyRing::new(Signer::from_seed(&[66; 32]).unwrap(), []));
    let url = pool.connect_options().to_url_lossy();
    let forging = tollgate_store::connect(url.as_str(), 2, forger).await.unwrap();
    erase(&forging, who.tenant, &Selection::Calls(vec![bystander])).await.unwrap();
    let round = seal_all(&store).await;
    assert!(round.anomalies.iter().any(|text| text.contains("is not signed by a key of this installation")), "{round:?}");
    let report = checked(&store, who.tenant).await;
    let first = &report.findings[0];
    assert_eq!((first.problem, first.file.as_str()), (Problem::Signature, "erasures/000002/proof.json"), "{first}");
    assert!(first.text.contains("what the event says was erased is not signed by a trusted key"), "{first}");
    assert_eq!((report.erased, report.findings.len()), (7, 2 + 7), "{:?}", report.findings);
    // The sealer's own word for it stands in the tenant's log as well.
    let (noted, unnamed): (Vec<_>, Vec<_>) = report.findings[1..].iter().partition(|finding| finding.problem == Problem::Anomaly);
    assert_eq!(noted.len(), 1, "{:?}", report.findings);
    assert!(unnamed.iter().all(|finding| finding.text == UNNAMED));
}
