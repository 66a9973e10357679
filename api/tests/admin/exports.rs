//! Exports that go on from where the last one ended, and jobs that write them to a destination.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};
use sqlx::{PgPool, postgres::PgPoolOptions};
use tollgate_api::{
    App,
    audit::export_jobs::runner::{PartLimits, Runner},
};
use tollgate_boot::Config;
use tollgate_domain::tool::sha256;
use tollgate_store::Store;

use crate::world::{Reply, Trail, World};

fn ids(text: &str) -> Vec<String> {
    text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].as_str().unwrap().to_owned()).collect()
}

fn next(reply: &Reply) -> String {
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.headers["x-tollgate-next-cursor"].to_str().unwrap().to_owned()
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn an_export_by_cursor_goes_on_where_the_last_one_ended(pool: PgPool) {
    let world = World::new(pool).await;
    let (tenant, other) = (world.tenant("acme").await, world.tenant("other").await);
    let auditor = world.token(&tenant, "auditor").await;
    let (trail, colleague, foreign) = (Trail::new(&world, &tenant), Trail::new(&world, &tenant), Trail::new(&world, &other));
    let get = async |query: String| world.get(&auditor, &format!("{tenant}/audit/export?{query}")).await;
    let first = get("cursor=start".to_owned()).await;
    assert_eq!((first.text.as_str(), first.headers["content-type"].to_str().unwrap()), ("", "application/x-ndjson"));
    let made = trail.calls(5).await;
    let open = trail.open().await;
    foreign.calls(2).await;
    trail.seal().await;
    let unsealed = trail.calls(1).await;
    let second = get(format!("cursor={}", next(&first))).await;
    assert_eq!(ids(&second.text), made, "what is closed and sealed, in order, and of this tenant");
    trail.close(open).await;
    let theirs = colleague.calls(2).await;
    trail.seal().await;
    let third = get(format!("cursor={}", next(&second))).await;
    assert_eq!(ids(&third.text), [unsealed, vec![open.to_string()], theirs.clone()].concat());
    let again = get(format!("cursor={}&key_id={}", next(&second), colleague.key)).await;
    assert_eq!(ids(&again.text), theirs, "a filter narrows it");
    get(format!("cursor={}", next(&again))).await.is(400, "bad_cursor");
    let nothing = get(format!("cursor={}", next(&third))).await;
    assert_eq!((nothing.text.as_str(), ids(&get("cursor=start".to_owned()).await.text).len()), ("", 9));
    for (format, starts) in [("csv", "id,"), ("parquet", "PAR1"), ("ocsf", "{")] {
        let file = get(format!("cursor=start&format={format}")).await;
        assert!(file.text.starts_with(starts), "{format}");
        next(&file);
    }

    let cursor = next(&second);
    assert_eq!(get(format!("cursor={cursor}&from=2026-01-01T00:00:00Z")).await.is(422, "invalid").pointer(), "?cursor");
    assert_eq!(get(format!("cursor={cursor}&to=2026-01-01T00:00:00Z")).await.is(422, "invalid").pointer(), "?cursor");
    for bad in ["", "x", "START", &cursor[1..], &format!("{cursor}A")] {
        get(format!("cursor={bad}")).await.is(400, "bad_cursor");
    }
    world.get(&world.root, &format!("{other}/audit/export?cursor={cursor}")).await.is(400, "bad_cursor");
    world.pass(chrono::Duration::days(400));
    let auditor = world.token(&tenant, "auditor").await;
    let late = world.get(&auditor, &format!("{tenant}/audit/export?cursor={cursor}")).await;
    assert_eq!(ids(&late.text).len(), 4, "a cursor does not expire");

    sqlx::query("DELETE FROM audit_entries WHERE sequence = 1").execute(&world.pool).await.unwrap();
    let gone = world.get(&auditor, &format!("{tenant}/audit/export?cursor={}", next(&first))).await;
    assert!(gone.is(410, "cursor_expired").text.contains("cursor=start"), "{}", gone.text);
    assert_eq!(ids(&world.get(&auditor, &format!("{tenant}/audit/export?cursor=start")).await.text).len(), 4, "what is left");
}

/// A destination that is a folder of this test.
pub fn folder(name: &str) -> (Config, PathBuf) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("exports-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let text = format!("[[audit.destination]]\nname = 'lake'\nurl = 'file://{}'\n", folder.display());
    (Config::parse(&text, Path::new("tollgate.toml")).unwrap(), folder)
}

/// A process of its own, as far as the database can tell: its connections end with it.
pub async fn process(world: &World) -> (PgPool, App) {
    let options = (*world.pool.connect_options()).clone();
    let pool = PgPoolOptions::new().max_connections(4).connect_with(options).await.unwrap();
    let mut app = world.app.clone();
    app.store = Store::from_pool(pool.clone());
    (pool, app)
}

/// From now on each part takes a while: the test comes in between however busy the machine is.
async fn slow(world: &World) {
    for sql in [
        "CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.1); RETURN NEW; END $$",
        "CREATE TRIGGER slowly BEFORE INSERT ON export_parts FOR EACH ROW EXECUTE FUNCTION slowly()",
    ] {
        sqlx::query(sql).execute(&world.pool).await.unwrap();
    }
}

async fn quick(world: &World) {
    sqlx::query("DROP TRIGGER slowly ON export_parts").execute(&world.pool).await.unwrap();
}

/// Every part that the manifest lists, checked against it and read; their rows in order.
fn parts(folder: &Path) -> Vec<String> {
    let manifest: Value = serde_json::from_slice(&std::fs::read(folder.join("_manifest.json")).unwrap()).unwrap();
    let mut rows = Vec::new();
    for part in manifest["parts"].as_array().unwrap() {
        let bytes = std::fs::read(folder.join(part["name"].as_str().unwrap())).unwrap();
        let hash: String = sha256(&bytes).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!((part["sha256"].as_str(), part["bytes"].as_u64()), (Some(hash.as_str()), Some(bytes.len() as u64)));
        let here = ids(std::str::from_utf8(&bytes).unwrap());
        assert_eq!(part["rows"], here.len());
        rows.extend(here);
    }
    assert_eq!(manifest["rows"], rows.len());
    let files = std::fs::read_dir(folder).unwrap().count();
    assert_eq!(files, 2 + manifest["parts"].as_array().unwrap().len(), "nothing half-written is left");
    // T55: with another manifest beside these parts, the signature would not hold.
    let signed: Value = serde_json::from_slice(&std::fs::read(folder.join("_manifest.sig")).unwrap()).unwrap();
    let signature = tollgate_evidence::hash::from_hex(signed["signature"].as_str().unwrap()).unwrap();
    let key = tollgate_evidence::sign::Signer::from_seed(&[0; 32]).unwrap().public().clone();
    let message = |manifest: &[u8]| [b"tollgate-export-v1\n".as_slice(), manifest].concat();
    let text = std::fs::read(folder.join("_manifest.json")).unwrap();
    assert_eq!(signed["key_id"], key.key_id.as_str());
    assert!(key.verifies(&message(&text), &signature) && !key.verifies(&message(b"{}"), &signature));
    rows
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_job_that_was_killed_is_gone_on_with_and_writes_every_row_once(pool: PgPool) {
    let (config, root) = folder("killed");
    let world = World::with_config(pool, config).await;
    let tenant = world.tenant("acme").await;
    let auditor = world.token(&tenant, "auditor").await;
    let trail = Trail::new(&world, &tenant);
    let mut made = Vec::new();
    for _ in 0..8 {
        made.extend(trail.calls(50).await);
        trail.seal().await;
    }
    let jobs = format!("{tenant}/audit/export-jobs");
    let job = world.post(&auditor, &jobs, json!({"destination": "lake", "path": "trail/dt=1"})).await;
    assert_eq!(
        (job.status.as_u16(), &job.json["state"], &job.json["progress"]),
        (201, &json!("queued"), &json!(0.0)),
        "{}",
        job.text
    );
    // After its creation: not the job's.
    trail.calls(3).await;
    trail.seal().await;
    let path = format!("{jobs}/{}", job.id());
    let limits = PartLimits { rows: 10, bytes: 1 << 20 };
    let runner = Runner::new(world.app.clone()).with_limits(limits);

    slow(&world).await;
    // Killed in the middle, three times, each at another part.
    let mut whole = 0;
    for _ in 0..3 {
        let (own, app) = process(&world).await;
        let dying = Runner::new(app).with_limits(limits);
        let work = tokio::spawn(async move { dying.round().await });
        loop {
            let now = world.get(&auditor, &path).await.json;
            if now["part_count"].as_i64().unwrap() > whole + 2 {
                break;
            }
            assert_eq!((&now["error"], work.is_finished()), (&Value::Null, false));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        work.abort();
        assert!(work.await.unwrap_err().is_cancelled());
        own.close().await;
        let now = world.get(&auditor, &path).await.json;
        whole = now["part_count"].as_i64().unwrap();
        assert_eq!((&now["state"], now["rows"].as_i64()), (&json!("running"), Some(whole * 10)), "{now}");
        assert!(whole < 40 && now["progress"].as_f64().unwrap() > 0.0 && now["progress"].as_f64().unwrap() < 1.0, "{now}");
        assert!(!runner.round().await.unwrap(), "whose runner may still be alive is left alone");
        world.pass(chrono::Duration::seconds(31));
    }
    quick(&world).await;
    // What a dead runner left of its next part is written again.
    let files = root.join(job.json["folder"].as_str().unwrap());
    std::fs::write(files.join(format!("part-{:05}.ndjson", whole + 1)), "half a part").unwrap();
    assert!(runner.round().await.unwrap());
    let done = world.get(&auditor, &path).await.json;
    assert_eq!(
        (&done["state"], &done["rows"], &done["progress"], &done["error"]),
        (&json!("done"), &json!(400), &json!(1.0), &Value::Null)
    );
    assert_eq!(done["parts"].as_array().unwrap().len(), 40);
    for entry in std::fs::read_dir(&files).unwrap().map(Result::unwrap) {
        // An upload that its process did not live to finish has a name that no part has.
        if entry.file_name().to_string_lossy().contains('#') {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
    assert_eq!(parts(&files), made, "every row once, in order");
    let rest = world.get(&auditor, &format!("{tenant}/audit/export?cursor={}", done["next_cursor"].as_str().unwrap())).await;
    assert_eq!(ids(&rest.text).len(), 3, "what follows the job is the next export's");
    std::fs::remove_dir_all(root).unwrap();
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn jobs_write_what_was_asked_for_and_end_as_they_say(pool: PgPool) {
    let (config, root) = folder("asked");
    let world = World::with_config(pool, config).await;
    let tenant = world.tenant("acme").await;
    let auditor = world.token(&tenant, "auditor").await;
    let (trail, colleague) = (Trail::new(&world, &tenant), Trail::new(&world, &tenant));
    let first = trail.calls(3).await;
    trail.seal().await;
    let cursor = next(&world.get(&auditor, &format!("{tenant}/audit/export?cursor=start")).await);
    let own = colleague.calls(2).await;
    trail.calls(2).await;
    trail.seal().await;
    let jobs = format!("{tenant}/audit/export-jobs");
    let run = async |mut body: Value| {
        body["destination"] = json!("lake");
        let job = world.post(&auditor, &jobs, body).await;
        assert_eq!(job.status, 201, "{}", job.text);
        assert!(Runner::new(world.app.clone()).round().await.unwrap());
        let done = world.get(&auditor, &format!("{jobs}/{}", job.id())).await.json;
        assert_eq!((&done["state"], &done["error"]), (&json!("done"), &Value::Null));
        (root.join(done["folder"].as_str().unwrap()), done)
    };
    let (folder, done) = run(json!({"cursor": cursor, "key_id": colleague.key})).await;
    assert_eq!((parts(&folder), done["key_id"].as_str()), (own, Some(colleague.key.to_string().as_str())));
    let (folder, done) = run(json!({"to": "2026-01-01T00:00:00Z"})).await;
    assert_eq!((parts(&folder).len(), &done["next_cursor"], &done["part_count"]), (0, &Value::Null, &json!(0)));
    let (folder, _) = run(json!({"from": "2026-01-01T00:00:00Z"})).await;
    assert_eq!(parts(&folder)[..3], first);
    let (folder, done) = run(json!({"format": "parquet"})).await;
    let part = std::fs::read(folder.join("part-00001.parquet")).unwrap();
    assert!(part.starts_with(b"PAR1") && part.ends_with(b"PAR1") && done["rows"] == 7);

    let listed = world.get(&auditor, &format!("{jobs}?limit=3")).await;
    assert_eq!((listed.json["items"].as_array().unwrap().len(), &listed.json["items"][0]["format"]), (3, &json!("parquet")));
    let waits = world.post(&auditor, &jobs, json!({"destination": "lake"})).await.id();
    let cancelled = world.post(&auditor, &format!("{jobs}/{waits}/cancel"), json!({})).await;
    assert_eq!((cancelled.status.as_u16(), &cancelled.json["state"]), (200, &json!("cancelled")));
    world.post(&auditor, &format!("{jobs}/{waits}/cancel"), json!({})).await.is(409, "conflict");
    assert!(!Runner::new(world.app.clone()).round().await.unwrap(), "a cancelled job is nobody's");
    let told = world.count("SELECT count(*) FROM admin_events WHERE action IN ('export_job.create', 'export_job.cancel')").await;
    assert_eq!(told, 6);

    // The folder is gone: that is said, and where it was is not.
    std::fs::remove_dir_all(&root).unwrap();
    let lost = world.post(&auditor, &jobs, json!({"destination": "lake"})).await.id();
    assert!(Runner::new(world.app.clone()).round().await.unwrap());
    let failed = world.get(&auditor, &format!("{jobs}/{lost}")).await;
    assert_eq!(failed.json["state"], "failed");
    assert!(failed.text.contains("destination did not take") && !failed.text.contains(root.to_str().unwrap()), "{}", failed.text);
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_job_that_is_cancelled_or_outlived_by_its_process_stops_between_parts(pool: PgPool) {
    let (config, root) = folder("stopped");
    let world = World::with_config(pool, config).await;
    let tenant = world.tenant("acme").await;
    let trail = Trail::new(&world, &tenant);
    let made = trail.calls(200).await;
    trail.seal().await;
    let jobs = format!("{tenant}/audit/export-jobs");
    let runner = Runner::new(world.app.clone()).with_limits(PartLimits { rows: 1, bytes: 1 << 20 });
    let begin = async || {
        let job = world.post(&world.root, &jobs, json!({"destination": "lake"})).await.json;
        let path = format!("{jobs}/{}", job["id"].as_str().unwrap());
        let work = tokio::spawn({
            let runner = runner.clone();
            async move { runner.round().await }
        });
        while world.get(&world.root, &path).await.json["part_count"].as_i64().unwrap() < 3 {
            assert!(!work.is_finished());
        }
        (path, root.join(job["folder"].as_str().unwrap()), work)
    };
    slow(&world).await;
    let (path, files, work) = begin().await;
    assert_eq!(world.post(&world.root, &format!("{path}/cancel"), json!({})).await.status, 200);
    assert!(work.await.unwrap().unwrap());
    let job = world.get(&world.root, &path).await.json;
    assert!(job["state"] == "cancelled" && job["part_count"].as_i64().unwrap() < 200, "{job}");
    assert!(!files.join("_manifest.json").exists());

    let (path, files, work) = begin().await;
    world.app.shutdown.trigger("test");
    assert!(work.await.unwrap().unwrap());
    let job = world.get(&world.root, &path).await.json;
    assert!(job["state"] == "queued" && job["part_count"].as_i64().unwrap() < 200, "another may take it at once: {job}");
    quick(&world).await;
    let another = World::with_config(world.pool.clone(), (*world.app.config).clone()).await;
    assert!(Runner::new(another.app.clone()).round().await.unwrap());
    assert_eq!(parts(&files), made);
    std::fs::remove_dir_all(root).unwrap();
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn t56_a_job_goes_nowhere_but_where_the_operator_said(pool: PgPool) {
    let (config, root) = folder("nowhere");
    let world = World::with_config(pool, config).await;
    let tenant = world.tenant("acme").await;
    let jobs = format!("{tenant}/audit/export-jobs");
    for (body, pointer) in [
        (json!({"destination": "elsewhere"}), "/destination"),
        (json!({"destination": "file:///etc"}), "/destination"),
        (json!({"destination": "s3://bucket"}), "/destination"),
        (json!({"destination": "lake", "path": "../x"}), "/path"),
        (json!({"destination": "lake", "path": "/etc"}), "/path"),
        (json!({"destination": "lake", "path": "a/%2e%2e/b"}), "/path"),
        (json!({"destination": "lake", "url": "file:///etc"}), "/url"),
        (json!({"destination": "lake", "cursor": "start", "from": "2026-01-01T00:00:00Z"}), "/cursor"),
        (json!({"destination": "lake", "from": "2026-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z"}), "/from"),
    ] {
        assert_eq!(world.post(&world.root, &jobs, body.clone()).await.is(422, "invalid").pointer(), pointer, "{body}");
    }
    world.post(&world.root, &jobs, json!({"destination": "lake", "format": "xml"})).await.is(422, "unsupported_format");
    world.post(&world.root, &jobs, json!({"destination": "lake", "cursor": "x"})).await.is(400, "bad_cursor");
    for role in ["operator", "finance"] {
        let token = world.token(&tenant, role).await;
        world.post(&token, &jobs, json!({"destination": "lake"})).await.is(403, "forbidden");
    }
    assert_eq!(world.count("SELECT count(*) FROM export_jobs").await, 0);
    assert!(!Runner::new(world.app.clone()).round().await.unwrap());
    assert_eq!(std::fs::read_dir(&root).unwrap().count(), 0);
    std::fs::remove_dir_all(root).unwrap();
}
