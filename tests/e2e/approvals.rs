//! Calls that wait for people, and runs that outlive the worker that drove them.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    harness::{Key, Mcp, Options, Recorder, Reply, Tenant, Tollgate, Upstream, all_sealed, text, until, verify},
    second_worker::Worker,
};

const LONG: Duration = Duration::from_secs(60);

/// A key whose calls of `tools` people confirm first.
async fn guarded(tenant: &Tenant, upstream: &Upstream, tools: &[&str], confirmations: u8) -> Key {
    let body = json!({
        "name": "guarded",
        "slug": format!("g-{}", uuid::Uuid::new_v4().simple()),
        "members": [{"upstream_id": upstream.id, "tools": ["*"]}],
        "approval": [{"upstream_id": upstream.id, "tools": tools, "confirmations": confirmations}],
    });
    let group = tenant.post("tool-groups", body).await.expect(201);
    tenant.key_with(json!({"name": "guarded", "tool_group_ids": [text(&group, "id")]})).await
}

async fn run(mcp: &Mcp, code: &str) -> Value {
    mcp.call("executeToolCode", json!({"code": code})).await.result()["structuredContent"].clone()
}

async fn resume(mcp: &Mcp, run: &str) -> Value {
    mcp.call("executeToolCode", json!({"resume": run})).await.result()
}

/// What has become of a run, once it has ended.
async fn ended(mcp: &Mcp, run: &str) -> Value {
    until("the run ends", LONG, async || {
        let answer = resume(mcp, run).await["structuredContent"].clone();
        matches!(answer["state"].as_str(), Some("done" | "failed")).then_some(answer)
    })
    .await
}

fn error_code(reply: &Reply) -> Option<i64> {
    reply.message()["error"]["code"].as_i64()
}

async fn decide(tenant: &Tenant, approval: &str, word: &str, reason: Value) {
    let decided = tenant.post(&format!("approvals/{approval}/{word}"), json!({"reason": reason})).await;
    assert_eq!(decided.status, 200, "{}", decided.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_waits_for_two_people_outlives_its_worker_and_repeats_nothing() {
    let up = Tollgate::start(Options::default()).await;
    let (tenant, recorder) = (Tenant::new(&up, "Waiting").await, Recorder::start());
    let upstream = tenant.upstream("rec", recorder.transport(), "code").await;
    let key = guarded(&tenant, &upstream, &["slow"], 2).await;
    let worker = Worker::start(&up).await;
    let (there, here) = (Mcp::new(&worker.url, &key.secret), tenant.mcp(&key));
    until("the worker reaches the upstream", LONG, async || {
        (run(&there, "result = rec.echo(tag=\"warm\")").await["state"] == "done").then_some(())
    })
    .await;

    let code = "a = rec.echo(tag=\"first\")\nprint(\"so far\")\nb, c = parallel([lambda: rec.slow(tag=\"held\", ms=1), lambda: rec.echo(tag=\"beside\")])\nd = rec.echo(tag=\"last\")\nresult = [a[\"echo\"][\"tag\"], c[\"echo\"][\"tag\"], d[\"echo\"][\"tag\"]]";
    let waiting = run(&there, code).await;
    assert_eq!((&waiting["state"], &waiting["logs"]), (&json!("waiting_approval"), &json!(["so far"])), "{waiting}");
    let id = text(&waiting, "script_run_id");
    assert!(text(&waiting, "message").contains(&id), "{waiting}");
    assert_eq!(waiting["approvals"].as_array().map(Vec::len), Some(1), "{waiting}");
    assert_eq!((&waiting["approvals"][0]["tool"], &waiting["approvals"][0]["sequence"]), (&json!("rec.slow"), &json!(2)));
    let approval = text(&waiting["approvals"][0], "id");
    worker.process.kill();

    // Before anyone has decided: whoever asks is told the same, and nobody else is told anything.
    let again = resume(&here, &id).await["structuredContent"].clone();
    assert_eq!((&again["state"], &again["approvals"][0]["id"]), (&json!("waiting_approval"), &json!(approval)), "{again}");
    let other = tenant.mcp(&guarded(&tenant, &upstream, &["slow"], 1).await);
    let (stranger, nobody) = (resume(&other, &id).await, resume(&other, "run_00000000000000000000000000").await);
    assert_eq!((&stranger["isError"], &stranger), (&json!(true), &nobody));
    let stored = tenant.get(&format!("script-runs/{id}")).await.expect(200);
    assert_eq!((&stored["state"], &stored["approvals"][0]["id"]), (&json!("waiting_approval"), &json!(approval)), "{stored}");
    let shown = tenant.get(&format!("approvals/{approval}")).await.expect(200);
    assert_eq!((&shown["arguments"], &shown["script_run_id"]), (&json!({"tag": "held", "ms": 1}), &json!(id)), "{shown}");
    // Approvers see what else the script may do; so does whoever reads the run, also after its end.
    let may_call = json!(["rec.echo", "rec.slow"]);
    let listed = tenant.list("approvals?state=pending").await;
    assert_eq!((&listed[0]["may_call"], &shown["may_call"], &stored["may_call"]), (&may_call, &may_call, &may_call), "{stored}");

    let (ann, bob) = (tenant.role("operator").await, tenant.role("admin").await);
    let approve = tenant.path(&format!("approvals/{approval}/approve"));
    for _ in 0..2 {
        assert_eq!(ann.post(&approve, json!({})).await.expect(200)["state"], "pending", "one person counts once");
    }
    assert_eq!(bob.post(&approve, json!({})).await.expect(200)["state"], "approved");
    let done = ended(&here, &id).await;
    assert_eq!((&done["state"], &done["result"]), (&json!("done"), &json!(["first", "beside", "last"])), "{done}");
    assert_eq!(done["logs"], json!(["so far"]));
    let outcomes: Vec<_> =
        done["calls"].as_array().expect("calls").iter().map(|call| (text(call, "tool"), text(call, "outcome"))).collect();
    assert_eq!(outcomes, ["echo", "slow", "echo", "echo"].map(|tool| (format!("rec.{tool}"), "ok".to_owned())));
    for tag in ["first", "beside", "held", "last"] {
        assert_eq!(recorder.tagged(tag).len(), 1, "{tag}");
    }
    let rows = tenant.calls(&format!("script_run_id={id}")).await;
    let slow: Vec<_> = rows.iter().filter(|row| row["tool_name"] == "slow").collect();
    assert_eq!(slow.iter().map(|row| row["decision"].clone()).collect::<Vec<_>>(), ["held", "permitted"]);
    assert!(slow.iter().all(|row| row["approval_id"] == json!(approval) && row["sequence"] == 2), "{slow:?}");
    assert_eq!(tenant.get(&format!("approvals/{approval}")).await.expect(200)["state"], "used");
    let stored = tenant.get(&format!("script-runs/{id}")).await.expect(200);
    let tree = tenant.get(&format!("llm-requests/{}", text(&stored, "llm_request_id"))).await.expect(200);
    assert_eq!((&stored["may_call"], &tree["script_runs"][0]["may_call"]), (&may_call, &may_call), "{tree}");

    let pool = PgPool::connect(&up.database_url()).await.expect("the database");
    all_sealed(&pool, LONG).await;
    let bundle = up.scratch().join("waiting.tar.zst");
    tenant.bundle(&bundle).await;
    verify(&bundle, &["--replay"]).sound();
}

#[tokio::test]
async fn a_script_reads_why_a_call_was_not_made() {
    let up = Tollgate::shared().await;
    let (tenant, recorder) = (Tenant::new(up, "Denied").await, Recorder::start());
    let upstream = tenant.upstream("rec", recorder.transport(), "code").await;
    let key = guarded(&tenant, &upstream, &["slow"], 1).await;
    let mcp = tenant.mcp(&key);
    let code = "a = try_call(rec.slow, tag=\"no\")\nrec.echo(tag=\"on\")\nb = try_call(rec.slow, tag=\"late\")\nresult = [a[\"error\"], b[\"error\"]]";
    let waiting = run(&mcp, code).await;
    let id = text(&waiting, "script_run_id");
    decide(&tenant, &text(&waiting["approvals"][0], "id"), "deny", json!("not on a Friday")).await;
    let second = until("it waits for the second", LONG, async || {
        let answer = resume(&mcp, &id).await["structuredContent"].clone();
        (answer["approvals"][0]["sequence"] == 3).then_some(answer)
    })
    .await;
    let pool = PgPool::connect(&up.database_url()).await.expect("the database");
    let expired = sqlx::query(
        "UPDATE approvals SET expires_at = now() WHERE state = 'pending' AND script_run_id IS NOT NULL AND tenant_id IN (SELECT tenant_id FROM tenants WHERE name = 'Denied')",
    );
    assert_eq!(expired.execute(&pool).await.expect("one").rows_affected(), 1, "{second}");
    let done = ended(&mcp, &id).await;
    assert_eq!(
        done["result"],
        json!([
            "The call was not approved: a person has denied it: not on a Friday",
            "The call was not approved: nobody decided in time"
        ]),
        "{done}"
    );
    assert_eq!((recorder.tagged("no").len(), recorder.tagged("late").len(), recorder.tagged("on").len()), (0, 0, 1));
    let reasons: Vec<_> =
        tenant.calls(&format!("script_run_id={id}&decision=denied")).await.iter().map(|row| row["reason"].clone()).collect();
    assert_eq!(reasons, ["approval_denied", "approval_expired"]);
}

#[tokio::test]
async fn a_key_that_has_ended_does_not_go_on() {
    let (tenant, recorder) = (Tenant::new(Tollgate::shared().await, "Ended").await, Recorder::start());
    let upstream = tenant.upstream("rec", recorder.transport(), "code").await;
    let key = guarded(&tenant, &upstream, &["slow"], 1).await;
    let waiting = run(&tenant.mcp(&key), "rec.slow(tag=\"never\")\nresult = 1").await;
    let id = text(&waiting, "script_run_id");
    tenant.post(&format!("keys/{}/revoke", key.id), json!({})).await.expect(200);
    decide(&tenant, &text(&waiting["approvals"][0], "id"), "approve", Value::Null).await;
    let stored = until("the run ends", LONG, async || {
        let stored = tenant.get(&format!("script-runs/{id}")).await.expect(200);
        (stored["state"] == "failed").then_some(stored)
    })
    .await;
    assert!(text(&stored["error"], "message").starts_with("The key of this run has ended"), "{stored}");
    assert_eq!(recorder.tagged("never").len(), 0);
}

#[tokio::test]
async fn a_classic_call_goes_through_once_and_only_as_it_was_approved() {
    let (tenant, recorder) = (Tenant::new(Tollgate::shared().await, "Classic approvals").await, Recorder::start());
    let upstream = tenant.upstream("rec", recorder.transport(), "classic").await;
    let mcp = tenant.mcp(&guarded(&tenant, &upstream, &["echo"], 1).await);
    let ask = async |text: &str| mcp.call("rec__echo", json!({"tag": "wipe", "text": text})).await;
    let pending = async || {
        let pending = tenant.list("approvals?state=pending").await;
        assert_eq!(pending.len(), 1, "{pending:?}");
        text(&pending[0], "id")
    };

    let held = ask("all").await;
    let first = pending().await;
    assert_eq!(held.result()["isError"], true);
    assert!(held.text.contains(&first) && held.text.contains("make exactly the same call again"), "{}", held.text);
    let row = tenant.call_of(&held.request_id()).await;
    assert_eq!((&row["decision"], &row["outcome"], &row["approval_id"]), (&json!("held"), &json!("held"), &json!(first)));
    assert!(ask("all").await.text.contains(&first), "asked once");
    decide(&tenant, &first, "approve", Value::Null).await;

    // Other arguments are another call.
    assert!(!ask("everything").await.text.contains(&first));
    let other = pending().await;
    decide(&tenant, &other, "deny", json!("too much")).await;
    assert!(ask("everything").await.text.contains("too much"));
    assert_eq!(recorder.tagged("wipe").len(), 0);

    let answers = join_all((0..50).map(|_| mcp.call("rec__echo", json!({"text": "all", "tag": "wipe"})))).await;
    let made: Vec<_> = answers.iter().filter(|answer| answer.result()["isError"] != true).collect();
    assert_eq!((made.len(), recorder.tagged("wipe").len()), (1, 1), "fifty at once, and one of them went through");
    let row = tenant.call_of(&made[0].request_id()).await;
    assert_eq!((&row["decision"], &row["outcome"], &row["approval_id"]), (&json!("permitted"), &json!("ok"), &json!(first)));
    let second = pending().await;
    assert!(answers.iter().filter(|answer| answer.result()["isError"] == true).all(|answer| answer.text.contains(&second)));

    // The tool turns into another one between the approval and the call.
    decide(&tenant, &second, "approve", Value::Null).await;
    recorder.change_tool("echo", |tool| tool["description"] = "Deletes everything.".into());
    tenant.post(&format!("upstreams/{}/sync", upstream.id), json!({})).await.expect(200);
    let tool = tenant.get(&format!("tools/{}", upstream.tool_id("echo"))).await.expect(200);
    assert_eq!(tool["status"], "quarantined", "{tool}");
    until("the tool is out of sight", LONG, async || (!mcp.tool_names().await.contains(&"rec__echo".to_owned())).then_some(()))
        .await;
    assert_eq!(error_code(&ask("all").await), Some(-32602));
    let hash = text(&tool, "definition_sha256");
    tenant.post(&format!("tools/{}/approve", upstream.tool_id("echo")), json!({"definition_sha256": hash})).await.expect(200);
    let third = until("the call is held anew", LONG, async || {
        let asked = ask("all").await;
        let pending = tenant.list("approvals?state=pending").await;
        let id = text(pending.first()?, "id");
        (id != second && asked.text.contains(&id)).then_some(id)
    })
    .await;
    assert_eq!(tenant.get(&format!("approvals/{second}")).await.expect(200)["state"], "expired", "void");
    assert_eq!(recorder.tagged("wipe").len(), 1);
    decide(&tenant, &third, "approve", Value::Null).await;
    assert_ne!(ask("all").await.result()["isError"], true);
    // What is no JSON object is no question for people.
    let before = tenant.list("approvals").await.len();
    assert_eq!(error_code(&mcp.call("rec__echo", json!([1])).await), Some(-32602));
    assert_eq!(tenant.list("approvals").await.len(), before);
}

#[tokio::test]
async fn a_run_of_which_too_little_is_kept_does_not_wait_and_says_so() {
    let (tenant, recorder) = (Tenant::new(Tollgate::shared().await, "Redacted").await, Recorder::start());
    let upstream = tenant.upstream("rec", recorder.transport(), "code").await;
    let mcp = tenant.mcp(&guarded(&tenant, &upstream, &["slow"], 1).await);
    let rules = json!({"redaction": {"detectors": ["email"]}});
    let set = tenant.patch("audit/settings", rules).await;
    assert_eq!(set.status, 200, "{}", set.text);
    let code = "a = rec.echo(text=\"ann@\" + \"example.com\")\nb = try_call(rec.slow, tag=\"quiet\", ms=1)\nresult = [b[\"ok\"], b[\"error\"]]";
    let refused = until("the rules are in force", LONG, async || {
        let answer = run(&mcp, code).await;
        (answer["state"] == "done").then_some(answer)
    })
    .await;
    let pending = tenant.list("approvals?state=pending").await;
    let classic = pending.iter().find(|approval| approval["script_run_id"].is_null()).expect("one outside a run");
    let told = refused["result"][1].as_str().expect("an error");
    assert!(told.contains(&text(classic, "id")) && told.contains("send the script again"), "{refused}");
    decide(&tenant, &text(classic, "id"), "approve", Value::Null).await;
    let made = run(&mcp, code).await;
    assert_eq!((&made["state"], &made["result"][0]), (&json!("done"), &json!(true)), "{made}");
    assert_eq!(recorder.tagged("quiet").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drill_a_run_goes_on_when_its_worker_is_killed() {
    let up = Tollgate::start(Options::default()).await;
    let (tenant, recorder) = (Tenant::new(&up, "Killed").await, Recorder::start());
    recorder.change_tool("count", |tool| tool["annotations"] = json!({"readOnlyHint": false, "destructiveHint": true}));
    let upstream = tenant.upstream("rec", recorder.transport(), "code").await;
    let (key, here) = tenant.open(&[&upstream]).await;
    let worker = Worker::start(&up).await;
    let there = Mcp::new(&worker.url, &key.secret);
    until("the worker reaches the upstream", LONG, async || {
        (run(&there, "result = rec.echo(tag=\"warm\")").await["state"] == "done").then_some(())
    })
    .await;
    let script = |name: &str, call: &str| {
        format!(
            "a = rec.echo(tag=\"{name}.before\")\nb = try_call({call}, tag=\"{name}.open\")\nc = rec.echo(tag=\"{name}.after\")\nresult = [a[\"echo\"][\"tag\"], b[\"ok\"], b[\"error\"], c[\"echo\"][\"tag\"]]"
        )
    };
    let (reads, acts) = (script("reads", "rec.slow"), script("acts", "rec.count"));
    recorder.hold_tools(&["slow", "count"]);
    let callers: Vec<_> = [reads, acts]
        .map(|code| {
            let there = there.clone();
            tokio::spawn(async move { there.try_call("executeToolCode", json!({"code": code})).await.is_err() })
        })
        .into();
    until("both calls are under way", LONG, async || {
        (recorder.tagged("reads.open").len() == 1 && recorder.tagged("acts.open").len() == 1).then_some(())
    })
    .await;
    worker.process.kill();
    recorder.release();
    for caller in callers {
        assert!(caller.await.expect("a caller"), "the connection broke");
    }
    let runs = until("both runs have ended", LONG, async || {
        let runs = tenant.list("script-runs").await;
        let of = |runs: &[Value]| runs.iter().filter(|run| run["state"] == "done").map(|run| text(run, "id")).collect::<Vec<_>>();
        let all = runs.iter().all(|run| run["state"] != "running");
        (all && runs.len() >= 3).then(|| of(&runs))
    })
    .await;
    let mut results = Vec::new();
    for id in &runs {
        results.push(ended(&here, id).await["result"].clone());
    }
    let find = |tag: &str| results.iter().find(|result| result[0] == tag).unwrap_or_else(|| panic!("{tag}: {results:?}"));
    assert_eq!(find("reads.before"), &json!(["reads.before", true, null, "reads.after"]));
    let acts = find("acts.before");
    assert_eq!((&acts[1], &acts[3]), (&json!(false), &json!("acts.after")));
    assert!(acts[2].as_str().is_some_and(|why| why.starts_with("unknown whether this call took effect")), "{acts}");
    for (tag, times) in
        [("reads.before", 1), ("reads.open", 2), ("reads.after", 1), ("acts.before", 1), ("acts.open", 1), ("acts.after", 1)]
    {
        assert_eq!(recorder.tagged(tag).len(), times, "{tag}");
    }
    let unknown = tenant.calls("outcome=unknown").await;
    assert_eq!(unknown.len(), 2, "what was open at the crash says so: {unknown:?}");

    let pool = PgPool::connect(&up.database_url()).await.expect("the database");
    all_sealed(&pool, LONG).await;
    let bundle = up.scratch().join("killed.tar.zst");
    tenant.bundle(&bundle).await;
    verify(&bundle, &["--replay"]).sound();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drill_a_run_that_kills_worker_after_worker_is_given_up() {
    let up = Tollgate::start(Options::default()).await;
    let (tenant, recorder) = (Tenant::new(&up, "Deadly").await, Recorder::start());
    let upstream = tenant.upstream("rec", recorder.transport(), "code").await;
    let (key, here) = tenant.open(&[&upstream]).await;
    let worker = Worker::start(&up).await;
    let there = Mcp::new(&worker.url, &key.secret);
    until("the worker reaches the upstream", LONG, async || {
        (run(&there, "result = rec.echo(tag=\"warm\")").await["state"] == "done").then_some(())
    })
    .await;
    recorder.hold_tools(&["slow"]);
    let code = "rec.echo(tag=\"once\")\nrec.slow(tag=\"deadly\")\nresult = 1";
    let caller = {
        let there = there.clone();
        tokio::spawn(async move { there.try_call("executeToolCode", json!({"code": code})).await.is_err() })
    };
    until("the call is under way", LONG, async || (recorder.tagged("deadly").len() == 1).then_some(())).await;
    let id = until("the run is there", LONG, async || {
        let runs = tenant.list("script-runs").await;
        runs.iter().find(|run| run["state"] == "running").map(|run| text(run, "id"))
    })
    .await;
    // Two workers have died of it before: what the third one left is the turn that is one too many.
    let pool = PgPool::connect(&up.database_url()).await.expect("the database");
    let turns = "INSERT INTO script_run_turns (tenant_id, script_run_id, turn, worker_id, why, journal, at)
                 SELECT s.tenant_id, s.script_run_id, n, s.worker_id, 'crashed', 1, now() FROM script_run_starts s, generate_series(1, 2) n
                 WHERE s.tenant_id = (SELECT tenant_id FROM tenants WHERE name = 'Deadly')
                   AND NOT EXISTS (SELECT FROM script_run_ends e WHERE e.script_run_id = s.script_run_id)";
    assert_eq!(sqlx::query(turns).execute(&pool).await.expect("turns").rows_affected(), 2);
    worker.process.kill();
    assert!(caller.await.expect("a caller"), "the connection broke");
    let given_up = ended(&here, &id).await;
    assert_eq!(given_up["state"], "failed", "{given_up}");
    let why = text(&given_up["error"], "message");
    assert!(why.starts_with("Workers that drove this run have died again and again"), "{given_up}");
    assert_eq!((recorder.tagged("once").len(), recorder.tagged("deadly").len()), (1, 1), "and nothing was repeated");
    recorder.release();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_knows_tasks_is_given_one_and_polls_it() {
    let up = Tollgate::start(Options::default()).await;
    let (tenant, recorder) = (Tenant::new(&up, "Tasks").await, Recorder::start());
    let upstream = tenant.upstream("rec", recorder.transport(), "code").await;
    let key = guarded(&tenant, &upstream, &["slow"], 1).await;
    let (mcp, plain) = (tenant.mcp(&key).with_tasks(), tenant.mcp(&key).modern());
    let found = mcp.request("server/discover", json!({})).await.result();
    assert!(found["capabilities"]["extensions"]["io.modelcontextprotocol/tasks"].is_object(), "{found}");
    // A script that comes to its end is answered as ever, also to such a client.
    let done = mcp.call("executeToolCode", json!({"code": "1 + 1"})).await.result();
    assert_eq!((&done["resultType"], &done["structuredContent"]["result"]), (&json!("complete"), &json!(2)));

    let code = json!({"code": "rec.slow(tag=\"t\", ms=1)\n\"done\""});
    let task = mcp.call("executeToolCode", code.clone()).await.result();
    assert_eq!((&task["resultType"], &task["status"], &task["ttlMs"]), (&json!("task"), &json!("working"), &Value::Null));
    assert!(task["statusMessage"].as_str().is_some_and(|text| text.contains("approv")), "{task}");
    let id = text(&task, "taskId");
    let poll = async || mcp.request("tasks/get", json!({"taskId": id})).await.result();
    let waits = poll().await;
    assert_eq!(
        (&waits["resultType"], &waits["status"], &waits["createdAt"]),
        (&json!("complete"), &json!("working"), &task["createdAt"])
    );
    for method in ["tasks/update", "tasks/cancel"] {
        assert_eq!(
            mcp.request(method, json!({"taskId": id, "inputResponses": {}})).await.result(),
            json!({"resultType": "complete"})
        );
    }
    // Who does not know tasks is told the old way, and may not ask for them.
    let told = plain.call("executeToolCode", code).await.result();
    assert_eq!((&told["resultType"], &told["structuredContent"]["state"]), (&json!("complete"), &json!("waiting_approval")));
    let refused = plain.request("tasks/get", json!({"taskId": id})).await;
    assert_eq!(error_code(&refused), Some(-32021), "{}", refused.text);
    // Another key's task, and none at all, look alike.
    let other = tenant.mcp(&guarded(&tenant, &upstream, &["slow"], 1).await).with_tasks();
    for asked in [json!({"taskId": id}), json!({"taskId": "run_01m8fwkmwner9atmmbxxv8tvy8"}), json!({"taskId": "x"})] {
        let unknown = other.request("tasks/get", asked).await;
        assert_eq!(error_code(&unknown), Some(-32602), "{}", unknown.text);
    }

    let waiting = tenant.list("approvals?state=pending").await;
    let own = waiting.iter().find(|approval| approval["script_run_id"] == id.as_str()).expect("its approval");
    decide(&tenant, &text(own, "id"), "approve", Value::Null).await;
    let done = until("the task completes", LONG, async || {
        let task = poll().await;
        (task["status"] == "completed").then_some(task)
    })
    .await;
    assert_eq!(done["result"]["structuredContent"]["result"], "done", "{done}");
    assert!(done["lastUpdatedAt"].as_str() > done["createdAt"].as_str(), "{done}");
    assert_eq!(recorder.tagged("t").len(), 1);
}

/// Whoever is told of approvals is told in order, also of what happened while it was away and while the gateway was started anew; and
/// reads no more than the trail keeps.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_is_told_what_becomes_of_an_approval() {
    let (away, heard) = (Arc::new(AtomicBool::new(true)), Arc::new(Mutex::new(Vec::<Value>::new())));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    let take = {
        let (away, heard) = (Arc::clone(&away), Arc::clone(&heard));
        move |body: axum::Json<Value>| async move {
            if away.load(Ordering::Relaxed) {
                return axum::http::StatusCode::SERVICE_UNAVAILABLE;
            }
            heard.lock().expect("lock").push(body.0);
            axum::http::StatusCode::NO_CONTENT
        }
    };
    let router = axum::Router::new().route("/", axum::routing::post(take));
    tokio::spawn(async move { axum::serve(listener, router).await.expect("it serves") });
    let config = format!("[[approvals.webhook]]\nname = 'chat'\nurl = '{url}'\nsecret = 'sixteen characters'\n");
    let up = Tollgate::start(Options { config, ..Options::default() }).await;
    let (tenant, recorder) = (Tenant::new(&up, "Told").await, Recorder::start());
    tenant.patch("audit/settings", json!({"redaction": {"detectors": ["email"]}})).await.ok();
    let upstream = tenant.upstream("rec", recorder.transport(), "classic").await;
    let key = guarded(&tenant, &upstream, &["echo"], 1).await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let arguments = json!({"tag": "to ada@example.com"});
    let held = tenant.mcp(&key).call("rec__echo", arguments.clone()).await;
    let id = text(&tenant.list("approvals?state=pending").await[0], "id");
    assert!(held.text.contains(&id), "{}", held.text);
    until("it was tried", LONG, async || {
        let notice = tenant.get(&format!("approvals/{id}")).await.expect(200)["notices"][0].clone();
        (notice["error"] == "the receiver answered 503").then_some(())
    })
    .await;
    up.stop();
    let up = up.restart().await;
    away.store(false, Ordering::Relaxed);

    let events = || heard.lock().expect("lock").iter().map(|told| text(told, "event")).collect::<Vec<_>>();
    until("it is told of the request", LONG, async || (events() == ["approval.requested"]).then_some(())).await;
    decide(&tenant, &id, "approve", json!("fine")).await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let mcp = Mcp::new(&up.gateway_url, &key.secret);
    until("the call is made", LONG, async || {
        mcp.call("rec__echo", arguments.clone()).await;
        (!recorder.tagged("to ada@example.com").is_empty()).then_some(())
    })
    .await;
    until("it is told of the rest", LONG, async || (events().len() >= 3).then_some(())).await;
    assert_eq!(events()[..3], ["approval.requested", "approval.approved", "approval.used"]);
    let told = heard.lock().expect("lock").clone();
    let first = &told[0];
    assert_eq!(
        (&first["approval"]["id"], &first["key"]["id"], &first["key"]["name"]),
        (&json!(id), &json!(key.id), &json!("guarded"))
    );
    assert_eq!(first["approval"]["arguments_form"], "redacted", "{first}");
    assert_eq!(first["links"]["approve"], tenant.path(&format!("approvals/{id}/approve")));
    assert!(first["approval"]["expires_at"].is_string() && !format!("{told:?}").contains("ada@example.com"), "{told:?}");
    assert_eq!(told[1]["approval"]["decisions"][0]["reason"], "fine");
}
