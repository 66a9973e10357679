//! Scripts that attack the process they run in, that run into their limits, or that reach for what their key does not have.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::join_all;
use serde_json::{Value, json};

use crate::harness::{Mcp, Options, Recorder, Tenant, Tollgate, text};

/// Structured content, whether the run went well or not.
async fn run(mcp: &Mcp, code: &str) -> Value {
    mcp.call("executeToolCode", json!({"code": code})).await.result()["structuredContent"].clone()
}

/// The same, once there is a turn for it: a gateway that is busy says so, and that is not what is asked here.
async fn run_in_turn(mcp: &Mcp, code: &str) -> (Value, usize) {
    for tries in 0.. {
        let answer = run(mcp, code).await;
        if !answer["error"]["message"].as_str().is_some_and(|why| why.starts_with("Too many scripts are running")) {
            return (answer, tries);
        }
    }
    unreachable!()
}

fn error(answer: &Value) -> (&str, &str) {
    let error = &answer["error"];
    (error["kind"].as_str().unwrap_or("none"), error["message"].as_str().unwrap_or_default())
}

/// The stored run says what the answer said.
async fn check_stored(tenant: &Tenant, answer: &Value, source: &str) {
    let stored = tenant.get(&format!("script-runs/{}", text(answer, "script_run_id"))).await.expect(200);
    assert_eq!(stored["state"], answer["state"], "{stored}");
    assert_eq!(
        (&stored["error"]["kind"], &stored["error"]["message"]),
        (&answer["error"]["kind"], &answer["error"]["message"]),
        "{stored}"
    );
    assert_eq!(stored["source"], source);
    assert!(
        stored["closed_at"].is_string() && stored["logs"] == answer["logs"] && stored["result"] == answer["result"],
        "{stored}"
    );
}

/// What each of the nastiest does, and with which words it ends.
fn nasty() -> Vec<(&'static str, String, &'static str)> {
    const MEMORY: &str = "Limit reached: memory (512 MB)";
    const TIME: &str = "Limit reached: time (2 s";
    const TEXT: &str = "Limit reached: text (1048576 bytes";
    const EXPRESSION: &str = "Limit reached: expression (1500 tokens)";
    let same = |text: &str| text.to_owned();
    vec![
        ("memory: list", same("x = [0] * 1000000000"), MEMORY),
        ("memory: join", same("s = \"a\" * 10000000\nx = \"\".join([s for i in range(1000)])"), TEXT),
        ("memory: tuple", same("x = (0,) * 1000000000"), MEMORY),
        ("memory: doubling", same("x = \"a\"\nfor i in range(40): x = x + x"), MEMORY),
        ("cpu: one native operation", same("x = max(range(2147483647))"), "Limit reached: ticks"),
        ("cpu: squares", same("x = 7\nfor i in range(60): x = x * x"), TIME),
        ("cpu: repr of a graph", same("x = [1]\nfor i in range(60): x = [x, x]\nprint(x)"), TEXT),
        ("parser: brackets", format!("x={}", "(".repeat(30_000)), EXPRESSION),
        ("parser: not", format!("x={}1", "not ".repeat(15_000)), EXPRESSION),
        ("parser: sums", format!("x=1{}", "+1".repeat(30_000)), EXPRESSION),
        (
            "gc: a chain of a million",
            same("x = 1\nfor i in range(1000000): x = struct(a=x)\nprint(x)"),
            "Limit reached: native stack",
        ),
        (
            "output: a graph as JSON",
            same("x = [1]\nfor i in range(60): x = [x, x]\nresult = x"),
            "Limit reached: result (1048576 bytes",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_nastiest_scripts_end_alone_and_say_why() {
    let up = Tollgate::start(Options::default()).await;
    let (attacker, neighbour) = (Tenant::new(&up, "Attacker").await, Tenant::new(&up, "Neighbour").await);
    let (theirs, ours) = (Recorder::start(), Recorder::start());
    let (_, attack) = attacker.open(&[&attacker.upstream("rec", theirs.transport(), "code").await]).await;
    let (_, calm) = neighbour.open(&[&neighbour.upstream("rec", ours.transport(), "classic").await]).await;

    let stop = Arc::new(AtomicBool::new(false));
    let neighbours: Vec<_> = (0..4)
        .map(|me| {
            let (calm, stop) = (calm.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let (mut done, mut slowest) = (0, Duration::ZERO);
                while !stop.load(Ordering::Relaxed) {
                    let started = Instant::now();
                    let reply = calm.call("rec__echo", json!({"tag": format!("{me}.{done}")})).await;
                    assert_eq!(reply.structured()["echo"]["tag"], format!("{me}.{done}"));
                    (done, slowest) = (done + 1, slowest.max(started.elapsed()));
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                (done, slowest)
            })
        })
        .collect();
    let started = Instant::now();
    let scripts = nasty();
    let answers = join_all(scripts.iter().map(async |(_, code, _)| (run_in_turn(&attack, code).await, started.elapsed()))).await;
    stop.store(true, Ordering::Relaxed);

    let mut retries = 0;
    for ((what, code, reason), ((answer, tries), _)) in scripts.iter().zip(answers) {
        let (mut answer, mut tries) = (answer, tries);
        // With all of them at once on a small machine the gateway's own clock may be first; alone it is not.
        while error(&answer).1.starts_with("The script ran longer than 20 s") && tries < 1000 {
            check_stored(&attacker, &answer, code).await;
            let again = run_in_turn(&attack, code).await;
            (answer, tries) = (again.0, tries + again.1 + 1);
        }
        let (kind, message) = error(&answer);
        assert_eq!((answer["state"].as_str(), kind), (Some("failed"), "limit"), "{what}: {answer}");
        assert!(message.starts_with(reason), "{what}: {message}");
        assert_eq!(answer["calls"], json!([]));
        check_stored(&attacker, &answer, code).await;
        retries += tries;
    }
    let runs = attacker.list("script-runs").await;
    assert_eq!(runs.len(), scripts.len() + retries, "a row for each run, also for those that found no turn");
    assert!(runs.iter().all(|run| run["state"] == "failed"));
    let mut served = 0;
    for neighbour in neighbours {
        let (done, slowest) = neighbour.await.expect("every call of a neighbour succeeds");
        assert!(slowest < Duration::from_secs(5), "a neighbour waited {slowest:?}");
        served += done;
    }
    assert!(served >= 100, "{served} calls beside");
    eprintln!("12 attacks in {:?} ({retries} waited for a turn), {served} calls of a neighbour", started.elapsed());
    assert!(up.process.exited().is_none(), "{}", up.process.output());
    // A process that has seen an attack is not used again, and scripts go on.
    let good = run(&attack, "r = rec.echo(text=\"alive\")\nresult = r[\"echo\"][\"text\"]").await;
    assert_eq!((&good["state"], &good["result"]), (&json!("done"), &json!("alive")), "{good}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_has_an_end_in_time_calls_and_size() {
    let limits = "[limits.script]\nwall_seconds = 2\ncalls = 20\nresult_bytes = 65536\nanswer_chars = 100000\n";
    let up = Tollgate::start(Options { config: limits.to_owned(), ..Options::default() }).await;
    let tenant = Tenant::new(&up, "Limits").await;
    let recorder = Recorder::start();
    let (_, mcp) = tenant.open(&[&tenant.upstream("rec", recorder.transport(), "code").await]).await;

    let slow = "for i in range(15): rec.slow(tag=\"wall\", ms=300)\nresult = 1";
    let counted = "for i in range(25): rec.echo(tag=\"count\")\nresult = 1";
    let large = "rec.echo(tag=\"large\")\nresult = \"x\" * 70000";
    let fits = "for i in range(20): rec.echo(tag=\"fits\")\nresult = \"x\" * 60000";
    let (wall, count, size, fine) = tokio::join!(run(&mcp, slow), run(&mcp, counted), run(&mcp, large), run(&mcp, fits));

    assert_eq!(error(&wall), ("limit", "The run took longer than 2 s in all. Split it into several runs."), "{wall}");
    let made = recorder.tagged("wall").len();
    assert!((2..15).contains(&made), "{made}");
    assert_eq!(wall["calls"].as_array().map(Vec::len), Some(made), "every call that was made is told");
    let (kind, message) = error(&count);
    assert!(kind == "limit" && message.starts_with("Limit reached: calls (20 tool calls in one run)"), "{count}");
    assert_eq!(recorder.tagged("count").len(), 20);
    let (kind, message) = error(&size);
    assert!(kind == "limit" && message.starts_with("Limit reached: result (65536 bytes of JSON)"), "{size}");
    assert_eq!(size["result"], Value::Null);
    assert_eq!((&fine["state"], fine["result"].as_str().map(str::len)), (&json!("done"), Some(60_000)), "{fine}");
    for (answer, code, calls) in [(&wall, slow, made), (&count, counted, 20), (&size, large, 1), (&fine, fits, 20)] {
        check_stored(&tenant, answer, code).await;
        let rows = tenant.calls(&format!("script_run_id={}", text(answer, "script_run_id"))).await;
        assert_eq!(rows.len(), calls);
        assert!(rows.iter().all(|row| row["outcome"] == "ok" && row["closed_at"].is_string()), "{rows:?}");
    }
}

#[tokio::test]
async fn what_a_key_does_not_have_no_script_can_name() {
    let tenant = Tenant::new(Tollgate::shared().await, "Scope of scripts").await;
    let (recorder, secret) = (Recorder::start(), Recorder::start());
    let upstream = tenant.upstream("rec", recorder.transport(), "code").await;
    let hidden = tenant.upstream("vault", secret.transport(), "code").await;
    let classic = tenant.upstream("plain", secret.transport(), "classic").await;
    let group = tenant
        .group_with(json!([{"upstream_id": upstream.id, "tools": ["echo"]}, {"upstream_id": classic.id, "tools": ["*"]}]))
        .await;
    let mcp = tenant.mcp(&tenant.key(&[&group]).await);
    // Another key of the same tenant has it all.
    let (_, rich) = tenant.open(&[&upstream, &hidden, &classic]).await;
    assert_eq!(run(&rich, "result = vault.echo(text=\"rich\")[\"echo\"][\"text\"]").await["result"], "rich");

    // Hidden and unknown read alike: a server, a tool of a server, a tool in Classic mode.
    for (there, nowhere) in [
        ("vault.echo(tag=\"x\")", "wault.echo(tag=\"x\")"),
        ("rec.slow(tag=\"x\")", "rec.slaw(tag=\"x\")"),
        ("plain.echo(tag=\"x\")", "plein.echo(tag=\"x\")"),
    ] {
        let (one, other) = (run(&mcp, &format!("result = {there}")).await, run(&mcp, &format!("result = {nowhere}")).await);
        assert_eq!(one["error"]["kind"], "unknown_tool", "{there}: {one}");
        let name = |code: &str| code.split(['.', '(']).take(2).map(str::to_owned).collect::<Vec<_>>();
        let (mut told, like) = (
            one["error"]["message"].as_str().expect("a message").to_owned(),
            other["error"]["message"].as_str().expect("a message").to_owned(),
        );
        for (a, b) in name(there).iter().zip(name(nowhere)) {
            told = told.replace(a.as_str(), &b);
        }
        assert_eq!(told, like, "{there}");
        check_stored(&tenant, &one, &format!("result = {there}")).await;
    }
    // No way around a name: nothing in a script looks one up by text, and an alias is the thing itself.
    for code in [
        "result = getattr(rec, \"slow\")(tag=\"x\")",
        "result = try_call(rec.slow, tag=\"x\")",
        "tools = {\"a\": rec.echo}\nresult = tools[\"slow\"](tag=\"x\")",
        "rec.slow = rec.echo\nresult = rec.slow(tag=\"x\")",
        &format!("result = {}(tag=\"x\")", hidden.tool_id("echo")),
        "result = dir(rec)\nfail(str(result))",
    ] {
        let answer = run(&mcp, code).await;
        assert_eq!(answer["state"], "failed", "{code}: {answer}");
        assert!(!answer.to_string().contains("vault"), "{code}: {answer}");
    }
    assert!(secret.calls().len() == 1 && recorder.calls().iter().all(|call| call.tool == "echo"));
    assert!(tenant.list("tool-calls").await.iter().all(|row| row["tool_name"] == "echo"));

    let code = "f = rec.echo\ng = [f]\ndef h(t): return g[0](tag=t)\nresult = h(\"alias\")[\"echo\"][\"tag\"]";
    let alias = run(&mcp, code).await;
    assert_eq!(alias["state"], "done", "{alias}");
    assert_eq!(alias["result"], "alias");
    let row = &tenant.calls(&format!("script_run_id={}", text(&alias, "script_run_id"))).await[0];
    assert_eq!(
        (&row["tool_id"], &row["tool_name"], &row["sequence"]),
        (&json!(upstream.tool_id("echo")), &json!("echo"), &json!(1)),
        "{row}"
    );
}

#[tokio::test]
async fn the_journal_holds_what_the_script_saw() {
    let tenant = Tenant::new(Tollgate::shared().await, "Journal").await;
    let recorder = Recorder::start();
    let (_, mcp) = tenant.open(&[&tenant.upstream("rec", recorder.transport(), "code").await]).await;
    let code = "a = rec.echo(text=\"one\")\nb = try_call(rec.fail)\nc, d = parallel([lambda: rec.echo(text=\"two\"), lambda: rec.count()])\nprint(b[\"ok\"])\nresult = [a[\"echo\"][\"text\"], b[\"error\"], c[\"echo\"][\"text\"], d[\"count\"]]";
    let answer = run(&mcp, code).await;
    assert_eq!(answer["result"], json!(["one", "it failed on purpose", "two", 1]), "{answer}");
    assert_eq!(answer["logs"], json!(["False"]));
    check_stored(&tenant, &answer, code).await;
    let stored = tenant.get(&format!("script-runs/{}", text(&answer, "script_run_id"))).await.expect(200);
    let journal = stored["journal"].as_array().expect("a journal");
    assert_eq!(journal.iter().map(|line| line["sequence"].clone()).collect::<Vec<_>>(), [1, 2, 3, 4].map(Value::from));
    let rows = tenant.calls(&format!("script_run_id={}", text(&answer, "script_run_id"))).await;
    for line in journal {
        let row = rows.iter().find(|row| row["sequence"] == line["sequence"]).expect("the call's row");
        assert_eq!((&row["id"], &row["tool_id"]), (&line["call_id"], &line["entry"]["tool_id"]), "{line}");
    }
    assert_eq!(journal[0]["entry"]["answer"], json!({"Value": {"echo": {"text": "one"}}}));
    assert_eq!(journal[1]["entry"]["answer"], json!({"Error": "it failed on purpose"}));
    assert_eq!(
        rows.iter().map(|row| row["outcome"].as_str().expect("an outcome")).collect::<Vec<_>>(),
        ["ok", "tool_error", "ok", "ok"]
    );
}
