//! The trail proves itself to whoever holds a bundle, a proof or an old seal, and names what somebody did to it who can do
//! everything in the database.

use std::{path::PathBuf, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Value, json};
use sqlx::PgPool;
use tollgate_domain::{AdminEventId, CallId, ids};
use tollgate_evidence::{
    batch,
    hash::from_hex,
    line::{Kind, Place},
    merkle,
    seal::{ConsistencyProof, InclusionProof, SignedSeal},
    sign::{PublicKey, Signer},
};
use uuid::Uuid;

use crate::harness::{Admin, Mcp, Options, Recorder, Tenant, Tollgate, Verdict, text, until, verify};

const SEALED_WITHIN: Duration = Duration::from_secs(30);

/// What is published, in a form that proofs are checked with.
async fn keys(tenant: &Tenant) -> Vec<PublicKey> {
    let published = tenant.get("audit/keys").await.expect(200);
    let published = published["keys"].as_array().expect("keys").iter();
    published
        .map(|key| {
            let public = PublicKey::new(&from_hex(&text(key, "public_key")).expect("hex"));
            assert_eq!(public.key_id, text(key, "key_id"));
            public
        })
        .collect()
}

/// The proofs of a call, as soon as its rows are sealed; each holds under a published key.
async fn proofs(tenant: &Tenant, call: &str, rows: usize) -> Vec<InclusionProof> {
    let keys = keys(tenant).await;
    until("the call is sealed", SEALED_WITHIN, async || {
        let mut answer = tenant.get(&format!("tool-calls/{call}/proof")).await.expect(200);
        let proofs: Vec<InclusionProof> = serde_json::from_value(answer["proofs"].take()).expect("proofs");
        proofs.iter().for_each(|proof| assert_eq!(proof.check(&keys), Ok(()), "{proof:?}"));
        (proofs.len() == rows).then_some(proofs)
    })
    .await
}

/// Make so many calls; their ids, oldest first.
async fn call(tenant: &Tenant, mcp: &Mcp, tool: &str, tag: &str, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for n in 0..count {
        let reply = mcp.call(tool, json!({"tag": format!("{tag}.{n}")})).await;
        ids.push(text(&tenant.call_of(&reply.request_id()).await, "id"));
    }
    ids
}

async fn newest_seal(tenant: &Tenant) -> SignedSeal {
    let page = tenant.get("audit/seals?limit=1").await.expect(200);
    serde_json::from_value(page["items"][0].clone()).expect("a seal")
}

/// Scripts that end well and badly, that print, and that call at once what they can.
const SCRIPTS: [(&str, &str); 6] = [
    ("done", "a = code.echo(tag=\"one\")\nprint(\"first\", a[\"echo\"][\"tag\"])\nresult = [a[\"echo\"][\"tag\"], 1.5, None]"),
    (
        "done",
        "a, b, c = parallel([lambda: code.echo(tag=\"p1\"), lambda: code.slow(tag=\"p2\", ms=5), lambda: code.count()])\nd = try_call(code.fail)\nprint(d[\"ok\"], b)\nresult = {\"error\": d[\"error\"], \"count\": c[\"count\"]}",
    ),
    ("done", "result = [n * n for n in range(100)]"),
    ("failed", "print(\"before it\")\na = code.echo(tag=\"two\")\ncode.fail(tag=\"three\")\nresult = 1"),
    ("failed", "x = code.echo(tag=\"four\"\nresult = 1"),
    (
        "done",
        "import datetime, random\ncode.echo(tag=\"five\")\nwhen = datetime.datetime.now()\ntry:\n    code.fail()\nexcept Exception as error:\n    print(\"caught\", error)\nresult = {\"year\": when.year, \"die\": [random.randint(1, 6), random.random()], \"when\": when}",
    ),
];

async fn scripts(mcp: &Mcp) {
    for (state, code) in SCRIPTS {
        let answer = mcp.call("executeToolCode", json!({"code": code})).await.result();
        assert_eq!(answer["structuredContent"]["state"], state, "{answer}");
    }
}

/// A tenant with classic and scripted calls in its log, all of them sealed.
struct Scene {
    pool: PgPool,
    tenant: Tenant,
    other: Tenant,
    /// Two classic calls of the tenant, one of the other.
    calls: Vec<String>,
    theirs: String,
    bundle: PathBuf,
}

impl Scene {
    async fn new(up: &Tollgate, recorder: &Recorder) -> Self {
        let (tenant, other) = (Tenant::new(up, "Proof").await, Tenant::new(up, "Other").await);
        let classic = tenant.upstream("rec", recorder.transport(), "classic").await;
        let code = tenant.upstream("code", recorder.transport(), "code").await;
        tenant.price_upstream(&classic.id, "0.001").await;
        let (_, mcp) = tenant.open(&[&classic, &code]).await;
        let (_, their_mcp) = other.open(&[&other.upstream("rec", recorder.transport(), "classic").await]).await;
        let calls = call(&tenant, &mcp, "rec__echo", "ours", 2).await;
        let theirs = call(&other, &their_mcp, "rec__echo", "theirs", 2).await;
        scripts(&mcp).await;
        let last = call(&tenant, &mcp, "rec__echo", "last", 1).await;
        proofs(&tenant, &last[0], 2).await;
        proofs(&other, &theirs[1], 2).await;
        let pool = PgPool::connect(&up.database_url()).await.expect("the database");
        let theirs = theirs[0].clone();
        Self { pool, tenant, other, calls, theirs, bundle: up.scratch().join("bundle.tar.zst") }
    }

    async fn verify(&self, flags: &[&str]) -> Verdict {
        self.tenant.bundle(&self.bundle).await;
        verify(&self.bundle, flags)
    }

    /// What a superuser can do who wants to: past the triggers, whatever the grants.
    async fn tamper(&self, sql: &str) -> u64 {
        let mut tx = self.pool.begin().await.expect("a transaction");
        sqlx::query("SET LOCAL session_replication_role = replica").execute(&mut *tx).await.expect("a superuser");
        let done = sqlx::query(sqlx::AssertSqlSafe(sql.to_owned())).execute(&mut *tx).await;
        let done = done.unwrap_or_else(|error| panic!("{error}: {sql}"));
        tx.commit().await.expect("a commit");
        done.rows_affected()
    }

    /// Do it, look at the findings of a new bundle, and undo it: the bundle is sound again.
    async fn tampered(&self, what: &str, does: &str, undoes: &str) -> Vec<Value> {
        assert!(self.tamper(does).await > 0, "{what}");
        let verdict = self.verify(&["--json"]).await;
        assert_eq!(verdict.code, Some(1), "{what}: {}", verdict.text);
        let spoken = verify(&self.bundle, &[]);
        assert!(spoken.code == Some(1) && spoken.text.contains("NOT SOUND. The first thing that is wrong:"), "{spoken:?}");
        assert!(self.tamper(undoes).await > 0, "{what}");
        self.verify(&[]).await.sound();
        verdict.report()["findings"].as_array().expect("findings").clone()
    }
}

/// What stands in the tables for an id of any kind.
fn raw(id: &str) -> Uuid {
    id.split_once('_').and_then(|(_, rest)| ids::decode(rest)).expect("an id")
}

#[track_caller]
fn names(findings: &[Value], problem: &str, row: &str) {
    let named =
        |finding: &Value| finding["problem"] == problem && finding["row"].as_str().is_some_and(|name| name.starts_with(row));
    assert!(findings.iter().any(named), "{problem} {row}: {findings:#?}");
}

#[track_caller]
fn lacks(findings: &[Value], position: u64) {
    let named = |finding: &Value| finding["problem"] == "removed" && finding["position"] == position;
    assert!(findings.iter().any(named), "position {position}: {findings:#?}");
}

#[tokio::test]
async fn audit_proof_a_bundle_is_sound_and_names_whatever_a_superuser_did_to_it() {
    let (up, recorder) = (Tollgate::start(Options::default()).await, Recorder::start());
    let scene = Scene::new(&up, &recorder).await;

    // Nobody did anything: sound, in words and in JSON, under the published key and under no other.
    scene.verify(&[]).await.sound();
    let published = keys(&scene.tenant).await;
    assert_eq!(published.len(), 1);
    verify(&scene.bundle, &["--key", &published[0].public_key]).sound();
    verify(&scene.bundle, &["--key", &published[0].key_id]).sound();
    let replayed = verify(&scene.bundle, &["--replay", "--json"]);
    let report = replayed.report();
    assert_eq!((replayed.code, &report["findings"]), (Some(0), &json!([])), "{report:#}");
    assert_eq!(
        (&report["scripts"], &report["replayed"], &report["not_replayable"]),
        (&json!(6), &json!(6), &json!(0)),
        "{report}"
    );
    assert_eq!(report["tenant_id"], scene.tenant.id);
    let stranger = verify(&scene.bundle, &["--json", "--key", &"7".repeat(64)]);
    let findings = stranger.report()["findings"].clone();
    assert_eq!((stranger.code, &findings[0]["problem"]), (Some(1), &json!("signature")), "{findings:#}");

    rows_that_were_changed(&scene).await;
    rows_that_are_gone(&scene).await;
    rows_that_were_planted(&scene).await;
}

async fn rows_that_were_changed(scene: &Scene) {
    let (call, tenant) = (raw(&scene.calls[0]), raw(&scene.tenant.id));
    let amount =
        |by: &str| format!("UPDATE tool_call_events SET amount_picos = amount_picos {by} WHERE call_id = '{call}' AND kind = 1");
    let findings = scene.tampered("an amount", &amount("- 1"), &amount("+ 1")).await;
    names(&findings, "edited", &format!("{} (completion)", scene.calls[0]));

    // These undo themselves.
    let flip = |column: &str| {
        format!("{column} = set_byte({column}, length({column}) - 1, get_byte({column}, length({column}) - 1) # 1)")
    };
    let arguments = format!("UPDATE tool_call_payloads SET {} WHERE call_id = '{call}' AND kind = 0", flip("body"));
    let findings = scene.tampered("arguments", &arguments, &arguments).await;
    names(&findings, "edited", &format!("{} (intent)", scene.calls[0]));
    let salt = format!("UPDATE tool_call_payloads SET {} WHERE call_id = '{call}' AND kind = 1", flip("salt"));
    let findings = scene.tampered("a salt", &salt, &salt).await;
    names(&findings, "edited", &format!("{} (completion)", scene.calls[0]));

    let runs = scene.tenant.list("script-runs").await;
    let run = text(&runs[0], "id");
    let text_of_run = format!(
        "UPDATE script_payloads SET {} WHERE tenant_id = '{tenant}' AND script_run_id = '{}' AND part = 0",
        flip("body"),
        raw(&run)
    );
    let findings = scene.tampered("a script", &text_of_run, &text_of_run).await;
    names(&findings, "edited", &format!("{run} (start)"));

    let event: (Uuid, String) =
        sqlx::query_as("SELECT event_id, action FROM admin_events WHERE tenant_id = $1 ORDER BY event_id LIMIT 1")
            .bind(tenant)
            .fetch_one(&scene.pool)
            .await
            .expect("an event");
    let action = |action: &str| format!("UPDATE admin_events SET action = '{action}' WHERE event_id = '{}'", event.0);
    let findings = scene.tampered("an admin event", &action("tenant.nothing"), &action(&event.1)).await;
    names(&findings, "edited", &AdminEventId::from_uuid(event.0).to_string());
}

async fn rows_that_are_gone(scene: &Scene) {
    let call = raw(&scene.calls[0]);
    let positions: Vec<u64> = proofs(&scene.tenant, &scene.calls[0], 2).await.iter().map(|proof| proof.position).collect();
    scene.tamper("CREATE TABLE taken AS TABLE tool_call_events WITH NO DATA").await;
    for (kind, position) in positions.iter().enumerate() {
        let taken = format!(
            "WITH gone AS (DELETE FROM tool_call_events WHERE call_id = '{call}' AND kind = {kind} RETURNING *) INSERT INTO taken SELECT * FROM gone"
        );
        let back = "WITH back AS (DELETE FROM taken RETURNING *) INSERT INTO tool_call_events SELECT * FROM back";
        lacks(&scene.tampered("a row", &taken, back).await, *position);
    }

    // Two tenants' rows change places: each is missing where it was, and none is taken for the other.
    let (ours, others, theirs) = (raw(&scene.tenant.id), raw(&scene.other.id), raw(&scene.theirs));
    let swap = format!(
        "UPDATE tool_call_events SET tenant_id = CASE tenant_id WHEN '{ours}' THEN '{others}'::uuid ELSE '{ours}'::uuid END
         WHERE call_id IN ('{call}', '{theirs}') AND kind = 1"
    );
    let position = proofs(&scene.other, &scene.theirs, 2).await[1].position;
    assert_eq!(scene.tamper(&swap).await, 2);
    let bundle = scene.bundle.with_extension("other");
    scene.other.bundle(&bundle).await;
    let verdict = verify(&bundle, &["--json"]);
    assert_eq!(verdict.code, Some(1), "{}", verdict.text);
    lacks(verdict.report()["findings"].as_array().expect("findings"), position);
    assert_eq!(scene.tamper(&swap).await, 2);
    lacks(&scene.tampered("swapped rows", &swap, &swap).await, positions[1]);
}

async fn rows_that_were_planted(scene: &Scene) {
    let (tenant, model) = (raw(&scene.tenant.id), raw(&scene.calls[0]));
    // A copy of a call, under an id of about its time.
    let planted = Uuid::from_u128(model.as_u128() ^ 0xff);
    let name = CallId::from_uuid(planted).to_string();
    sqlx::query("CREATE TABLE planted AS SELECT * FROM tool_call_events WHERE call_id = $1")
        .bind(model)
        .execute(&scene.pool)
        .await
        .expect("a copy");
    sqlx::query("UPDATE planted SET call_id = $1").bind(planted).execute(&scene.pool).await.expect("another id");
    assert_eq!(scene.tamper("INSERT INTO tool_call_events SELECT * FROM planted").await, 2);
    // It is a row like any other to a query, and no proof can be had of it; it is not in the log, nor in what proves the log.
    assert_eq!(scene.tenant.get(&format!("tool-calls/{name}")).await.status, 200);
    assert_eq!(scene.tenant.get(&format!("tool-calls/{name}/proof")).await.expect(200)["proofs"], json!([]));
    scene.verify(&[]).await.sound();

    // With an entry that names it, correctly hashed, its seal is broken: a root holds no leaf more.
    let proof = proofs(&scene.tenant, &scene.calls[0], 2).await.remove(0);
    let sequence = i64::try_from(proof.seal.seal.sequence).expect("small");
    let entries: Vec<u8> = sqlx::query_scalar("SELECT entries FROM audit_entries WHERE tenant_id = $1 AND sequence = $2")
        .bind(tenant)
        .bind(sequence)
        .fetch_one(&scene.pool)
        .await
        .expect("entries");
    let mut forged = batch::unpack_sealed(&entries).expect("entries");
    let line = proof.line.replace(&scene.calls[0], &name);
    forged.insert(0, (Place { kind: Kind::CallIntent, id: planted, sequence: 0 }, merkle::leaf(line.as_bytes())));
    let set = |entries: &[u8]| {
        let hex: String = entries.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("UPDATE audit_entries SET entries = '\\x{hex}' WHERE tenant_id = '{tenant}' AND sequence = {sequence}")
    };
    let findings = scene.tampered("an entry", &set(&batch::pack_sealed(&forged)), &set(&entries)).await;
    let text = format!("seal {sequence} does not seal the entries that stand under it");
    assert!(findings.iter().any(|finding| finding["problem"] == "edited" && finding["text"] == text), "{findings:#?}");
}

#[tokio::test]
async fn audit_proof_of_every_call_holds_and_an_old_seal_stands_in_the_newest() {
    let (up, recorder) = (Tollgate::shared().await, Recorder::start());
    let (tenant, stranger) = (Tenant::new(up, "Proofs").await, Tenant::new(up, "Stranger").await);
    let classic = tenant.upstream("rec", recorder.transport(), "classic").await;
    let code = tenant.upstream("code", recorder.transport(), "code").await;
    let (_, mcp) = tenant.open(&[&classic, &code]).await;
    let first = call(&tenant, &mcp, "rec__echo", "first", 3).await;
    proofs(&tenant, &first[2], 2).await;
    let kept = newest_seal(&tenant).await;

    call(&tenant, &mcp, "rec__fail", "failed", 2).await;
    call(&tenant, &mcp, "rec__nothing", "denied", 1).await;
    scripts(&mcp).await;
    let calls = tenant.calls("").await;
    assert_eq!(calls.len(), 3 + 2 + 1 + 9, "{calls:#?}");
    let mut positions = Vec::new();
    for row in &calls {
        // A call that is refused is one row.
        let rows = if row["outcome"] == "denied" { 1 } else { 2 };
        for proof in proofs(&tenant, &text(row, "id"), rows).await {
            assert!(proof.line.contains(&text(row, "id")), "{}", proof.line);
            positions.push(proof.position);
        }
    }
    let all = positions.len();
    positions.sort_unstable();
    positions.dedup();
    assert_eq!(positions.len(), all, "each row has a place of its own");

    let asked = format!("audit/consistency?from={}", kept.seal.sequence);
    let proof: ConsistencyProof = serde_json::from_value(tenant.get(&asked).await.expect(200)).expect("a proof");
    assert!(proof.holds() && proof.from == kept && proof.to.seal.sequence > kept.seal.sequence, "{proof:?}");
    assert!(keys(&tenant).await.iter().any(|key| proof.to.is_signed_by(key)));

    // Another tenant's auditor reads nothing of it.
    let auditor: Admin = stranger.role("auditor").await;
    for path in
        ["audit/seals".to_owned(), format!("audit/seals/{}", kept.seal.sequence), asked, format!("tool-calls/{}/proof", first[0])]
    {
        assert_eq!(auditor.get(&tenant.path(&path)).await.status, 404, "{path}");
    }
    assert_eq!(auditor.get(&stranger.path(&format!("tool-calls/{}/proof", first[0]))).await.status, 404);
    for seal in auditor.list(&stranger.path("audit/seals")).await {
        assert_eq!(seal["seal"]["tenant_id"], stranger.id.as_str(), "{seal}");
    }
}

#[tokio::test]
async fn audit_proof_outlives_the_key_that_signed_it() {
    let (folder, recorder) = (tempfile::tempdir().expect("a directory"), Recorder::start());
    let key = |name: &str, seed: u8| {
        let path = folder.path().join(name);
        std::fs::write(&path, BASE64.encode([seed; 32])).expect("a file");
        (path.display().to_string(), Signer::from_seed(&[seed; 32]).expect("a key").public().clone())
    };
    let ((old_file, old), (new_file, new)) = (key("old.key", 1), key("new.key", 2));
    let config = |files: &[&String]| format!("[audit]\nsigning_keys = {files:?}\n");

    let up = Tollgate::start(Options { config: config(&[&old_file]), ..Options::default() }).await;
    let tenant = Tenant::new(&up, "Rotated").await;
    let classic = tenant.upstream("rec", recorder.transport(), "classic").await;
    let (key, mcp) = tenant.open(&[&classic]).await;
    let before = call(&tenant, &mcp, "rec__echo", "before", 2).await;
    proofs(&tenant, &before[1], 2).await;
    let kept = newest_seal(&tenant).await;
    assert!(up.stop().success(), "{}", up.process.output());

    let options = Options { config: config(&[&new_file, &old_file]), data_dir: Some(up.data_dir.clone()), ..Options::default() };
    let next = Tollgate::start(options).await;
    let tenant = tenant.through(next.admin(), &next.gateway_url);
    let after = call(&tenant, &tenant.mcp(&key), "rec__echo", "after", 2).await;
    for (calls, signer) in [(&after, &new), (&before, &old)] {
        for proof in proofs(&tenant, &calls[1], 2).await {
            assert_eq!((&proof.seal.seal.key_id, &proof.head.seal.key_id), (&signer.key_id, &new.key_id));
        }
    }
    let published = keys(&tenant).await;
    assert!(published.contains(&old) && published.contains(&new), "{published:?}");
    let asked = format!("audit/consistency?from={}", kept.seal.sequence);
    let proof: ConsistencyProof = serde_json::from_value(tenant.get(&asked).await.expect(200)).expect("a proof");
    assert!(proof.holds() && proof.from == kept && kept.is_signed_by(&old) && proof.to.is_signed_by(&new), "{proof:?}");

    let bundle = next.scratch().join("rotated.tar.zst");
    tenant.bundle(&bundle).await;
    verify(&bundle, &[]).sound();
    let told = verify(&bundle, &["--key", &old.public_key, "--key", &new.public_key]);
    let told = told.sound();
    assert!(told.contains(&format!("signed by {old:?}")) && told.contains(&format!("signed by {new:?}")), "{told}");
    for one in [&old, &new] {
        let verdict = verify(&bundle, &["--key", &one.public_key, "--json"]);
        assert_eq!((verdict.code, &verdict.report()["findings"][0]["problem"]), (Some(1), &json!("signature")), "{one:?}");
    }
}
