//! TypeScript as Code Mode's second language: what its model reads, and runs that wait, outlive their worker and replay.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    harness::{Key, Mcp, Options, Recorder, Tenant, Tollgate, all_sealed, text, until, verify},
    second_worker::Worker,
};

const LONG: Duration = Duration::from_secs(60);

async fn run(mcp: &Mcp, code: &str) -> Value {
    mcp.call("executeToolCode", json!({"code": code})).await.result()["structuredContent"].clone()
}

async fn ended(mcp: &Mcp, run: &str) -> Value {
    until("the run ends", LONG, async || {
        let answer = mcp.call("executeToolCode", json!({"resume": run})).await.result()["structuredContent"].clone();
        matches!(answer["state"].as_str(), Some("done" | "failed")).then_some(answer)
    })
    .await
}

async fn replays(up: &Tollgate, tenant: &Tenant) {
    let pool = PgPool::connect(&up.database_url()).await.expect("the database");
    all_sealed(&pool, LONG).await;
    let bundle = up.scratch().join(format!("{}.tar.zst", tenant.id));
    tenant.bundle(&bundle).await;
    verify(&bundle, &["--replay"]).sound();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_script_over_two_servers_at_the_same_time() {
    let up = Tollgate::start(Options::default()).await;
    let (tenant, one, two) = (Tenant::new(&up, "TypeScript").await, Recorder::start(), Recorder::start());
    let upstreams =
        [tenant.upstream("one", one.transport(), "code").await, tenant.upstream("two", two.transport(), "code").await];
    let group = tenant.group(&[&upstreams[0], &upstreams[1]]).await;
    let body = json!({"name": "ts", "tool_group_ids": [group.id], "code_languages": ["typescript"]});
    let mcp = tenant.mcp(&tenant.key_with(body).await);

    let tools = mcp.tools().await;
    let execute = tools.iter().find(|tool| tool["name"] == "executeToolCode").expect("the tool");
    assert!(text(execute, "description").contains("The language is TypeScript"), "{execute}");
    assert!(execute["inputSchema"]["properties"].get("language").is_none(), "there is nothing to choose");
    let read = async |name: &str, arguments: Value| mcp.call(name, arguments).await.result()["content"][0]["text"].clone();
    let listed = read("listToolFiles", json!({})).await;
    assert!(listed.as_str().is_some_and(|text| text.starts_with("servers/one.d.ts  ")), "{listed}");
    let stub = read("readToolFile", json!({"fileName": "servers/one.d.ts"})).await;
    assert!(stub.as_str().is_some_and(|text| text.contains("\ndeclare const one: {\n  ")), "{stub}");
    let docs = read("getToolDocs", json!({"server": "one", "tool": "echo"})).await;
    assert!(docs.as_str().is_some_and(|text| text.contains("Example: const r = await one.echo(")), "{docs}");

    let code = "interface Echo { echo: { tag: string } }
const started: number = Date.now();
const [a, b] = await Promise.all([one.echo({ tag: \"a\" }), two.echo({ tag: \"b\" })]) as Echo[];
let failed = \"\";
try { await one.fail({ tag: \"c\" }) } catch (e) { failed = (e as Error).name }
console.log(\"chance\", Math.random() < 1);
({ tags: [a.echo.tag, b.echo.tag], failed, later: Date.now() >= started })";
    let answer = run(&mcp, code).await;
    assert_eq!(answer["state"], "done", "{answer}");
    let ok = json!({"tags": ["a", "b"], "failed": answer["result"]["failed"], "later": true});
    assert_eq!((&answer["result"], &answer["logs"]), (&ok, &json!(["chance true"])), "{answer}");
    assert_eq!((one.tagged("a").len(), two.tagged("b").len()), (1, 1));
    let rows = tenant.calls(&format!("script_run_id={}", text(&answer, "script_run_id"))).await;
    let mut sequences: Vec<_> = rows.iter().filter_map(|row| row["sequence"].as_i64()).collect();
    sequences.sort_unstable();
    assert_eq!(sequences[..2], [2, 3], "the time was the first question: {rows:?}");
    let stored = tenant.get(&format!("script-runs/{}", text(&answer, "script_run_id"))).await.expect(200);
    assert!(text(&stored, "engine").starts_with("quickjs-ng-"), "{stored}");
    assert_eq!(stored["source"], code);

    // What is wrong is found before anything is called.
    let wrong = run(&mcp, "await one.ecko({ tag: \"never\" }); await two.echo({ tag: \"never\" })").await;
    assert_eq!(wrong["error"]["kind"], "unknown_tool", "{wrong}");
    assert!(text(&wrong["error"], "message").contains("Did you mean 'echo'?"), "{wrong}");
    assert_eq!(two.tagged("never").len(), 0);
    let attack = run(&mcp, "for (;;) {}").await;
    assert_eq!(attack["error"]["kind"], "limit", "{attack}");
    replays(&up, &tenant).await;
}

#[tokio::test]
async fn a_key_offers_what_it_says_or_what_its_tenant_says() {
    let tollgate = Tollgate::shared().await;
    let (tenant, recorder) = (Tenant::new(tollgate, "Languages").await, Recorder::start());
    let upstream = tenant.upstream("rec", recorder.transport(), "code").await;
    let (key, mcp) = tenant.open(&[&upstream]).await;
    let in_language = async |mcp: &Mcp, language: Value, code: &str| {
        mcp.call("executeToolCode", json!({"code": code, "language": language})).await.result()
    };
    let (python, typescript) = ("result = [1, True]", "return [1, true];");
    assert_eq!(tenant.get(&format!("keys/{}", key.id)).await.expect(200)["code_languages"], Value::Null);
    let refused = in_language(&mcp, json!("typescript"), typescript).await;
    assert_eq!(refused["isError"], true);
    assert!(text(&refused["content"][0], "text").contains("Offered: python"), "{refused}");
    assert_eq!(in_language(&mcp, json!("python"), python).await["structuredContent"]["result"], json!([1, true]));

    // The tenant's word is the key's, until the key has one of its own.
    let offered = json!({"code_languages": ["typescript", "python"]});
    assert_eq!(tenant.admin.patch(&tenant.path("").trim_end_matches('/').to_owned(), offered).await.status, 200);
    let both = until("both are offered", LONG, async || {
        let answer = in_language(&mcp, Value::Null, typescript).await;
        (answer["structuredContent"]["state"] == "done").then_some(answer)
    })
    .await;
    assert_eq!(both["structuredContent"]["result"], json!([1, true]), "the first is meant: {both}");
    assert_eq!(in_language(&mcp, json!("python"), python).await["structuredContent"]["result"], json!([1, true]));
    let tools = mcp.tools().await;
    let execute = tools.iter().find(|tool| tool["name"] == "executeToolCode").expect("the tool");
    assert_eq!(execute["inputSchema"]["properties"]["language"]["enum"], json!(["typescript", "python"]));
    for file in ["servers/rec.d.ts", "servers/rec.pyi"] {
        assert_ne!(mcp.call("readToolFile", json!({"fileName": file})).await.result()["isError"], true, "{file}");
    }
    let files = tenant.get(&format!("keys/{}/scope", key.id)).await.expect(200)["files"].clone();
    assert_eq!(files, json!(["servers/rec.d.ts", "servers/rec.pyi"]));

    let path = format!("keys/{}", key.id);
    let patched = tenant.patch(&path, json!({"code_languages": ["python"]})).await.expect(200);
    assert_eq!(patched["code_languages"], json!(["python"]));
    until("the key has its own", LONG, async || {
        let refused = in_language(&mcp, json!("typescript"), typescript).await;
        (refused["isError"] == true).then_some(())
    })
    .await;
    assert_eq!(tenant.patch(&path, json!({"code_languages": null})).await.expect(200)["code_languages"], Value::Null);
    for bad in [json!([]), json!(["perl"]), json!(["python", "python"])] {
        let answer = tenant.patch(&path, json!({"code_languages": bad})).await;
        assert_eq!(answer.status, 422, "{}", answer.text);
        assert_eq!(answer.json()["errors"][0]["pointer"], "/code_languages", "{}", answer.text);
    }
}

/// A key whose calls of `slow` people confirm first, and whose scripts are TypeScript.
async fn guarded(tenant: &Tenant, upstream: &str) -> Key {
    let body = json!({
        "name": "guarded",
        "slug": format!("g-{}", uuid::Uuid::new_v4().simple()),
        "members": [{"upstream_id": upstream, "tools": ["*"]}],
        "approval": [{"upstream_id": upstream, "tools": ["slow"], "confirmations": 1}],
    });
    let group = text(&tenant.post("tool-groups", body).await.expect(201), "id");
    tenant.key_with(json!({"name": "guarded", "tool_group_ids": [group], "code_languages": ["typescript"]})).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drill_a_run_waits_for_people_and_outlives_its_worker() {
    let up = Tollgate::start(Options::default()).await;
    let (tenant, recorder) = (Tenant::new(&up, "TypeScript waits").await, Recorder::start());
    recorder.change_tool("count", |tool| tool["annotations"] = json!({"readOnlyHint": true}));
    let upstream = tenant.upstream("rec", recorder.transport(), "code").await;
    let key = guarded(&tenant, &upstream.id).await;
    let worker = Worker::start(&up).await;
    let (there, here) = (Mcp::new(&worker.url, &key.secret), tenant.mcp(&key));
    until("the worker reaches the upstream", LONG, async || {
        (run(&there, "return rec.echo({ tag: \"warm\" });").await["state"] == "done").then_some(())
    })
    .await;

    let code = "const a = await rec.echo({ tag: \"first\" });
const at = Date.now(), chance = Math.random();
console.log(\"so far\");
try {
  const [held, beside] = await Promise.all([rec.slow({ tag: \"held\", ms: 1 }), rec.echo({ tag: \"beside\" })]);
  const open = await rec.count({ tag: \"open\" });
  const last = await rec.echo({ tag: \"last\" });
  return { tags: [a, beside, last].map((x: any) => x.echo.tag), same: at <= Date.now() && chance < 1 };
} finally {
  console.log(\"finally\");
}";
    let waiting = run(&there, code).await;
    assert_eq!((&waiting["state"], &waiting["logs"]), (&json!("waiting_approval"), &json!(["so far"])), "{waiting}");
    let id = text(&waiting, "script_run_id");
    assert_eq!(waiting["approvals"][0]["tool"], "rec.slow", "{waiting}");
    assert_eq!((recorder.tagged("held").len(), recorder.tagged("beside").len()), (0, 1), "what is free is made at once");

    // Whoever takes it up dies in the middle of a call; another goes on.
    recorder.hold_tools(&["count"]);
    let approval = text(&waiting["approvals"][0], "id");
    let decided = tenant.post(&format!("approvals/{approval}/approve"), json!({})).await;
    assert_eq!(decided.status, 200, "{}", decided.text);
    until("the call is under way", LONG, async || (!recorder.tagged("open").is_empty()).then_some(())).await;
    worker.process.kill();
    recorder.release();
    let done = ended(&here, &id).await;
    let expected = json!({"tags": ["first", "beside", "last"], "same": true});
    assert_eq!((&done["state"], &done["result"]), (&json!("done"), &expected), "{done}");
    assert_eq!(done["logs"], json!(["so far", "finally"]));
    for tag in ["first", "beside", "held", "last"] {
        assert_eq!(recorder.tagged(tag).len(), 1, "{tag}");
    }
    assert!((1..=2).contains(&recorder.tagged("open").len()), "repeated at most once, since it only reads");
    replays(&up, &tenant).await;
}
