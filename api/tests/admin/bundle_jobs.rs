//! Bundles that jobs write: one file, which is there when it is whole and not before.

use std::{path::Path, time::Duration};

use serde_json::{Value, json};
use sqlx::PgPool;
use tollgate_api::audit::export_jobs::runner::Runner;
use tollgate_evidence::{
    Hash,
    bundle::{Report, Trust, verify},
};
use tollgate_store::sealer;

use crate::{
    exports::{folder, process},
    world::{Trail, World},
};

/// The bundle of a job that says that it is done, checked against its manifest.
fn bundle(folder: &Path) -> (Report, Value) {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["_manifest.json", "_manifest.sig", "bundle.tar.zst"], "nothing half-written is left");
    let bytes = std::fs::read(folder.join("bundle.tar.zst")).unwrap();
    let manifest: Value = serde_json::from_slice(&std::fs::read(folder.join("_manifest.json")).unwrap()).unwrap();
    let part = json!({"name": "bundle.tar.zst", "rows": manifest["rows"], "bytes": bytes.len(), "sha256": Hash::of(&[&bytes])});
    assert_eq!(
        (&manifest["parts"], &manifest["next_cursor"], &manifest["format"]),
        (&json!([part]), &Value::Null, &json!("bundle"))
    );
    (verify(&bytes[..], Trust::InBundle, None).unwrap(), manifest)
}

/// A chunk takes a while from now on, and the test comes in between.
async fn slow(world: &World) {
    for sql in [
        "CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(2); RETURN NEW; END $$",
        "CREATE TRIGGER slowly AFTER UPDATE OF position ON export_jobs FOR EACH ROW EXECUTE FUNCTION slowly()",
    ] {
        sqlx::query(sql).execute(&world.pool).await.unwrap();
    }
}

/// A runner is in the middle of the chunk.
async fn in_the_middle(world: &World) {
    const ASLEEP: &str =
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'UPDATE export_jobs%' AND wait_event = 'PgSleep'";
    let asleep = async {
        while world.count(ASLEEP).await == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), asleep).await.expect("a runner writes the bundle");
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_bundle_is_written_whole_or_not_at_all(pool: PgPool) {
    let (config, root) = folder("bundle");
    let world = World::with_config(pool, config).await;
    let tenant = world.tenant("acme").await;
    let auditor = world.token(&tenant, "auditor").await;
    let jobs = format!("{tenant}/audit/export-jobs");
    let ask = json!({"destination": "lake", "format": "bundle", "path": "proof"});
    sealer::publish_keys(&world.app.store, world.app.clock.now()).await.unwrap();
    let trail = Trail::new(&world, &tenant);
    trail.calls(20).await;
    trail.seal().await;
    let job = world.post(&auditor, &jobs, ask.clone()).await;
    assert_eq!((job.status.as_u16(), &job.json["state"]), (201, &json!("queued")), "{}", job.text);
    let (path, files) = (format!("{jobs}/{}", job.id()), root.join(job.json["folder"].as_str().unwrap()));
    // After its creation: not the job's.
    trail.calls(3).await;
    trail.seal().await;

    slow(&world).await;
    let (own, app) = process(&world).await;
    let work = tokio::spawn(async move { Runner::new(app).round().await });
    in_the_middle(&world).await;
    work.abort();
    assert!(work.await.unwrap_err().is_cancelled());
    own.close().await;
    let now = world.get(&auditor, &path).await.json;
    assert_eq!((&now["state"], &now["part_count"], &now["rows"]), (&json!("running"), &json!(0), &json!(0)), "{now}");
    assert!(!files.join("bundle.tar.zst").exists() && !files.join("_manifest.json").exists());

    // A process that ends gives it back; one that it is taken away from leaves nothing.
    world.pass(chrono::Duration::seconds(31));
    let (own, app) = process(&world).await;
    let shutdown = app.shutdown.clone();
    let work = tokio::spawn(async move { Runner::new(app).round().await });
    in_the_middle(&world).await;
    shutdown.trigger("test");
    assert!(work.await.unwrap().unwrap());
    own.close().await;
    assert_eq!(world.get(&auditor, &path).await.json["state"], "queued");
    assert!(!files.join("bundle.tar.zst").exists());
    let world = World::with_config(world.pool.clone(), (*world.app.config).clone()).await;
    let work = tokio::spawn({
        let runner = Runner::new(world.app.clone());
        async move { runner.round().await }
    });
    in_the_middle(&world).await;
    sqlx::query("DROP TRIGGER slowly ON export_jobs").execute(&world.pool).await.unwrap();
    assert!(work.await.unwrap().unwrap());
    let done = world.get(&world.root, &path).await.json;
    assert_eq!((&done["state"], &done["progress"], &done["error"]), (&json!("done"), &json!(1.0), &Value::Null), "{done}");
    assert_eq!((&done["part_count"], &done["next_cursor"]), (&json!(1), &Value::Null));
    for entry in std::fs::read_dir(&files).unwrap().map(Result::unwrap) {
        // An upload that its process did not live to finish has a name that no part has.
        if entry.file_name().to_string_lossy().contains('#') {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
    let (report, manifest) = bundle(&files);
    assert_eq!((&report.findings, report.payloads), (&vec![], 40), "20 calls: arguments and results");
    assert_eq!((json!(report.entries), report.last_seal), (manifest["rows"].clone(), 1), "and the tenant's admin events");
    assert!(report.entries > 40 && done["rows"] == manifest["rows"]);
    std::fs::remove_dir_all(root).unwrap();
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_bundle_covers_the_seals_of_its_window(pool: PgPool) {
    let (config, root) = folder("window");
    let world = World::with_config(pool, config).await;
    let tenant = world.tenant("acme").await;
    let jobs = format!("{tenant}/audit/export-jobs");
    let refused = async |mut body: Value| {
        body["destination"] = json!("lake");
        body["format"] = json!("bundle");
        let refused = world.post(&world.root, &jobs, body).await;
        (refused.is(422, "invalid").pointer().to_owned(), refused.text.clone())
    };
    let (pointer, text) = refused(json!({})).await;
    assert!(pointer == "/from" && text.contains("nothing is sealed yet"), "{text}");
    sealer::publish_keys(&world.app.store, world.app.clock.now()).await.unwrap();
    for _ in 0..3 {
        let trail = Trail::new(&world, &tenant);
        trail.calls(2).await;
        trail.seal().await;
        world.pass(chrono::Duration::hours(1));
    }
    assert_eq!(refused(json!({"outcome": "ok"})).await.0, "/format");
    assert_eq!(refused(json!({"cursor": "start"})).await.0, "/cursor");
    let (pointer, text) = refused(json!({"from": "2035-01-01T00:00:00Z"})).await;
    assert!(pointer == "/from" && text.contains("nothing was sealed in that time"), "{text}");
    assert_eq!(world.count("SELECT count(*) FROM export_jobs").await, 0);

    let seals = world.get(&world.root, &format!("{tenant}/audit/seals")).await.json;
    let middle = seals["items"][1]["seal"]["sealed_at"].clone();
    let job = world.post(&world.root, &jobs, json!({"destination": "lake", "format": "bundle", "from": middle})).await;
    assert_eq!(job.status, 201, "{}", job.text);
    assert!(Runner::new(world.app.clone()).round().await.unwrap());
    let (report, _) = bundle(&root.join(job.json["folder"].as_str().unwrap()));
    assert_eq!((&report.findings, report.first_seal, report.last_seal), (&vec![], 2, 3));
    // Its rows went with their month before it was its turn.
    let job = world.post(&world.root, &jobs, json!({"destination": "lake", "format": "bundle"})).await.id();
    sqlx::query("DELETE FROM audit_entries WHERE sequence = 1").execute(&world.pool).await.unwrap();
    assert!(Runner::new(world.app.clone()).round().await.unwrap());
    let failed = world.get(&world.root, &format!("{jobs}/{job}")).await.json;
    assert_eq!(failed["state"], "failed");
    assert!(failed["error"].as_str().unwrap().contains("went with their retention"), "{failed}");
    std::fs::remove_dir_all(root).unwrap();
}
