//! `tollgate up`: what it writes, what it keeps, what it says when something is in the way, and what it leaves behind.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::json;

use crate::harness::{Options, Recorder, Scratch, Tenant, Tollgate, text, until};

const FAILURE: Duration = Duration::from_secs(60);

/// Start one that must give up, and what it said.
async fn refused(options: Options) -> (i32, String) {
    match Tollgate::try_start(options).await {
        Ok(tollgate) => panic!("it started, in {}", tollgate.data_dir.display()),
        Err(process) => (process.wait(FAILURE).code().expect("an exit code"), process.output()),
    }
}

/// The file comes first, then the text for people.
async fn is_printed(tollgate: &Tollgate, text: &str) {
    let shown = async || tollgate.process.output().contains(text).then_some(());
    until(&format!("{text} is printed"), Duration::from_secs(10), shown).await;
}

#[tokio::test]
async fn the_ready_file_is_private_and_says_everything_and_a_second_start_keeps_the_data() {
    let demo = || Options { seed: Some("demo".to_owned()), ..Options::default() };
    let first = Tollgate::start(demo()).await;
    let file = first.data_dir.join("ready.json");
    let mode = fs::metadata(&file).expect("ready.json").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "others must not read the admin token");
    let fields: BTreeSet<_> = first.ready.as_object().expect("an object").keys().map(String::as_str).collect();
    assert!(fields.is_superset(&BTreeSet::from(["api_url", "gateway_url", "admin_token", "demo", "pid"])), "{fields:?}");
    assert_eq!(first.ready["pid"], first.process.pid());
    let demo_of =
        |tollgate: &Tollgate| ["tenant_id", "virtual_key", "virtual_key_id"].map(|field| text(&tollgate.ready["demo"], field));
    let [tenant_id, virtual_key, key_id] = demo_of(&first);
    assert!(tenant_id.starts_with("ten_") && virtual_key.starts_with("tg_live_") && key_id.starts_with("vk_"), "{}", first.ready);
    for shown in [&first.api_url, &first.gateway_url, &first.admin_token, &virtual_key] {
        is_printed(&first, shown).await;
    }

    // The key works, and what it does is kept.
    let echo = first.mcp(&virtual_key).call("clock__echo", json!({"text": "before"})).await;
    assert_eq!(echo.content_text(), "before");
    let admin = first.admin();
    let rows = format!("/v1/tenants/{tenant_id}/tool-calls");
    let before = admin.list(&rows).await;
    assert_eq!(before.len(), 1);
    let upstreams = admin.list(&format!("/v1/tenants/{tenant_id}/upstreams")).await.len();

    // A second one on the same directory is told who is there.
    let (code, said) = refused(Options { data_dir: Some(first.data_dir.clone()), ..demo() }).await;
    assert_ne!(code, 0);
    assert!(said.contains(&format!("pid {}", first.process.pid())) && said.contains("--data-dir"), "{said}");
    assert!(admin.get("/readyz").await.status == 200, "the first is none the worse");

    assert!(first.stop().success(), "{}", first.process.output());
    let second = first.restart().await;
    assert_eq!(demo_of(&second), demo_of(&first));
    assert_eq!(second.admin_token, first.admin_token);
    is_printed(&second, &virtual_key).await;
    assert_eq!(second.admin().list(&rows).await, before, "the audit trail is the same, field by field");
    assert_eq!(
        second.admin().list(&format!("/v1/tenants/{tenant_id}/upstreams")).await.len(),
        upstreams,
        "nothing is planted twice"
    );
    let echo = second.mcp(&virtual_key).call("clock__echo", json!({"text": "after"})).await;
    assert_eq!(echo.content_text(), "after");
}

#[tokio::test]
async fn what_is_in_the_way_is_named_together_with_the_way_out() {
    // A port that somebody has.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    for (flag, variable, options) in [
        ("--api", "TOLLGATE_API", Options { api: Some(address.clone()), ..Options::default() }),
        ("--gateway", "TOLLGATE_GATEWAY", Options { gateway: Some(address.clone()), ..Options::default() }),
    ] {
        let (code, said) = refused(options).await;
        assert_ne!(code, 0);
        for part in [address.as_str(), "taken by another process", flag, variable] {
            assert!(said.contains(part), "{part:?} is not in: {said}");
        }
    }

    // A directory that cannot be made, and one that cannot be written: not by root either.
    let (code, said) = refused(Options { data_dir: Some(PathBuf::from("/proc/tollgate-data")), ..Options::default() }).await;
    assert_ne!(code, 0);
    assert!(said.contains("cannot create the data directory /proc/tollgate-data"), "{said}");
    let (code, said) = refused(Options { data_dir: Some(PathBuf::from("/proc/sys/kernel")), ..Options::default() }).await;
    assert_ne!(code, 0);
    assert!(said.contains("the data directory /proc/sys/kernel is not writable"), "{said}");

    // Settings that hold an unknown name.
    let (code, said) = refused(Options { config: "[limits]\naudit_que = 5\n".to_owned(), ..Options::default() }).await;
    assert_ne!(code, 0);
    assert!(said.contains("tollgate.toml:2:1") && said.contains("audit_que"), "{said}");
}

#[tokio::test]
async fn a_database_newer_than_the_binary_is_left_alone() {
    let first = Tollgate::start(Options::default()).await;
    let pool = sqlx::PgPool::connect(&first.database_url()).await.expect("its own Postgres");
    let insert = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
                  VALUES (99990101000000, 'from the future', true, '\\x00', 1)";
    sqlx::query(insert).execute(&pool).await.expect("inserted");
    pool.close().await;
    assert!(first.stop().success());
    let (code, said) = refused(Options { data_dir: Some(first.data_dir.clone()), ..Options::default() }).await;
    assert_ne!(code, 0);
    assert!(said.contains("newer than this binary") && said.contains("99990101000000"), "{said}");
    assert!(!first.data_dir.join("ready.json").exists(), "nobody must take it for ready");
    assert!(descendants_in(&first.data_dir).is_empty(), "its Postgres has stopped again: {:?}", descendants_in(&first.data_dir));
}

#[tokio::test]
async fn sigterm_lets_calls_end_and_leaves_nothing_running() {
    let tollgate = Tollgate::start(Options::default()).await;
    let recorder = Recorder::start();
    let tenant = Tenant::new(&tollgate, "Drained").await;
    let recorded = tenant.upstream("rec", recorder.transport(), "classic").await;
    let shop = tenant.upstream("shop", json!({"type": "stdio", "program": "shop"}), "code").await;
    let (_, mcp) = tenant.open(&[&recorded, &shop]).await;
    assert_eq!(mcp.script("result = 1 + 1").await["result"], 2);

    let tree = tree_of(tollgate.process.pid());
    let names: BTreeSet<String> = tree.iter().map(|(_, name)| name.clone()).collect();
    for part in ["tollgate", "postgres", "tollgate-sandbox", "tollgate-demo-shop"] {
        assert!(names.iter().any(|name| name.starts_with(&part[..part.len().min(15)])), "no {part} among {names:?}");
    }
    let slow = tokio::spawn({
        let mcp = mcp.clone();
        async move { mcp.call("rec__slow", json!({"ms": 1500, "tag": "last"})).await }
    });
    until("the call has arrived", Duration::from_secs(10), async || (!recorder.tagged("last").is_empty()).then_some(())).await;
    let status = tollgate.stop();
    assert!(status.success(), "{status}: {}", tollgate.process.output());
    let reply = slow.await.expect("no panic");
    assert_eq!(reply.structured(), json!({"slept": true}), "the call in flight was answered");
    assert!(!tollgate.data_dir.join("ready.json").exists());
    let left: Vec<_> = tree.iter().filter(|(pid, name)| name_of(*pid).as_ref() == Some(name)).collect();
    assert!(left.is_empty(), "still running: {left:?}");

    // Its row was written before the database went down.
    let again = tollgate.restart().await;
    let row = tenant.through(again.admin(), &again.gateway_url).call_of(&reply.request_id()).await;
    assert_eq!((&row["outcome"], &row["tool_name"]), (&json!("ok"), &json!("slow")), "{row}");
}

#[tokio::test]
async fn a_supervisor_that_is_killed_takes_its_postgres_with_it() {
    let scratch = Scratch::new("killed");
    let options = Options { data_dir: Some(scratch.path().join("data")), ..Options::default() };
    let tollgate = Tollgate::start(options).await;
    let tree = tree_of(tollgate.process.pid());
    assert!(tree.iter().any(|(_, name)| name == "postgres"), "{tree:?}");
    tollgate.process.kill();
    until("nothing is left", Duration::from_secs(20), async || {
        tree.iter().all(|(pid, name)| name_of(*pid).as_ref() != Some(name)).then_some(())
    })
    .await;
    // The leftover ready.json is no lie for long: the next start on the directory works and replaces it.
    let next = tollgate.restart().await;
    assert_ne!(next.ready["pid"], tollgate.ready["pid"]);
    assert_eq!(next.admin().get("/readyz").await.status, 200);
}

/// A process and everything below it: id and name.
fn tree_of(root: u32) -> Vec<(u32, String)> {
    let all: Vec<(u32, u32, String)> =
        processes().into_iter().filter_map(|pid| Some((pid, parent_of(pid)?, name_of(pid)?))).collect();
    let mut tree = vec![root];
    let mut at = 0;
    while at < tree.len() {
        let parent = tree[at];
        tree.extend(all.iter().filter(|(_, of, _)| *of == parent).map(|(pid, _, _)| *pid));
        at += 1;
    }
    tree.into_iter().filter_map(|pid| Some((pid, name_of(pid)?))).collect()
}

/// Processes whose command line names the directory.
fn descendants_in(dir: &Path) -> Vec<u32> {
    let dir = dir.display().to_string();
    let names =
        |pid: &u32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| String::from_utf8_lossy(&line).contains(&dir));
    processes().into_iter().filter(names).collect()
}

fn processes() -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("/proc");
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Name and parent as the kernel tells them; a zombie is no process any more.
fn stat(pid: u32) -> Option<(String, u32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (before, after) = text.rsplit_once(')')?;
    let mut fields = after.split_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    (state != "Z").then(|| (before.split_once('(').map(|(_, name)| name.to_owned()).unwrap_or_default(), parent))
}

fn name_of(pid: u32) -> Option<String> {
    stat(pid).map(|(name, _)| name)
}

fn parent_of(pid: u32) -> Option<u32> {
    stat(pid).map(|(_, parent)| parent)
}
