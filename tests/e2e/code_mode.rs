//! Code Mode over real servers: a model reads its files, runs one script, and every call in it is a row with its parent.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tollgate_domain::Picos;

use crate::harness::{Mcp, Tenant, Tollgate, Upstream, stdio, text};

fn sum<'a>(amounts: impl IntoIterator<Item = &'a Value>) -> i128 {
    let picos =
        |amount: &Value| amount.as_str().and_then(|text| text.parse::<Picos>().ok()).unwrap_or_else(|| panic!("{amount}")).0;
    amounts.into_iter().map(|amount| i128::from(picos(amount))).sum()
}

/// Three servers that are not ours, with the prices 0.001, 0.02 and 0.3.
async fn three(tenant: &Tenant) -> [Upstream; 3] {
    let mut found = Vec::new();
    for (program, price) in [("everything", "0.001"), ("filesystem", "0.02"), ("memory", "0.3")] {
        let upstream = tenant.upstream(program, stdio(program), "code").await;
        tenant.price_upstream(&upstream.id, price).await;
        found.push(upstream);
    }
    found.try_into().expect("three")
}

async fn files(mcp: &Mcp) -> Vec<String> {
    let listed = mcp.call("listToolFiles", json!({})).await.content_text();
    listed.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

#[tokio::test]
async fn one_script_over_three_servers_is_one_request_with_priced_rows_in_every_report() {
    let tollgate = Tollgate::shared().await;
    let tenant = Tenant::new(tollgate, "Code Mode").await;
    let upstreams = three(&tenant).await;
    let team = text(&tenant.post("teams", json!({"name": "Research"})).await.expect(201), "id");
    let group = tenant.group(&upstreams.iter().collect::<Vec<_>>()).await;
    let key = tenant.key_with(json!({"name": "script", "team_id": team, "tool_group_ids": [group.id]})).await;
    let mcp = tenant.mcp(&key);

    // What the model reads first.
    assert_eq!(mcp.tool_names().await, ["executeToolCode", "getToolDocs", "listToolFiles", "readResult", "readToolFile"]);
    assert_eq!(files(&mcp).await, ["servers/everything.pyi", "servers/filesystem.pyi", "servers/memory.pyi"]);
    let stub = mcp.call("readToolFile", json!({"fileName": "servers/memory.pyi"})).await.content_text();
    assert!(stub.contains("def create_entities(entities: list[Entities])"), "{stub}");
    let lines =
        mcp.call("readToolFile", json!({"fileName": "servers/memory.pyi", "startLine": 2, "endLine": 2})).await.content_text();
    assert!(stub.lines().nth(1).is_some_and(|second| lines.contains(second)) && lines.lines().count() <= 2, "{lines}");
    let docs = mcp.call("getToolDocs", json!({"server": "filesystem", "tool": "write_file"})).await.content_text();
    assert!(docs.contains("path: str, required") && docs.contains("content: str, required"), "{docs}");
    let unknown = mcp.call("readToolFile", json!({"fileName": "servers/nothing.pyi"})).await.result();
    assert_eq!(unknown["isError"], true, "{unknown}");

    let folder = tollgate.scratch().join("files").canonicalize().expect("the folder");
    let file = folder.join("code-mode.txt").display().to_string();
    let code = format!(
        r#"
total = everything.get_sum(a=40, b=2)
weather = everything.get_structured_content(location="Chicago")
filesystem.write_file(path="{file}", content="forty-two")
read = filesystem.read_text_file(path="{file}")
memory.create_entities(entities=[{{"name": "code-mode", "entityType": "test", "observations": [read["content"]]}}])
found = memory.open_nodes(names=["code-mode"])
print("humidity", weather["humidity"])
result = {{"sum": total, "content": read["content"], "observed": found["entities"][0]["observations"][0], "conditions": weather["conditions"]}}
"#
    );
    let reply = mcp.call("executeToolCode", json!({"code": code})).await;
    let answer = reply.structured();
    assert_eq!(answer["state"], "done", "{answer}");
    assert_eq!(answer["result"]["content"], "forty-two");
    assert_eq!(answer["result"]["observed"], "forty-two");
    assert!(answer["result"]["sum"].to_string().contains("42"), "{answer}");
    assert!(answer["logs"].to_string().contains("humidity"), "{answer}");
    let mut shown = answer.clone();
    shown.as_object_mut().expect("an object").remove("calls");
    assert_eq!(serde_json::from_str::<Value>(&reply.content_text()).expect("the text says the same, without the calls"), shown);
    assert_eq!(std::fs::read_to_string(&file).expect("the real server wrote it"), "forty-two");

    // Its rows.
    let expected = [
        ("everything", "get-sum", "0.001"),
        ("everything", "get-structured-content", "0.001"),
        ("filesystem", "write_file", "0.02"),
        ("filesystem", "read_text_file", "0.02"),
        ("memory", "create_entities", "0.3"),
        ("memory", "open_nodes", "0.3"),
    ];
    let (request, run) = (reply.request_id(), text(&answer, "script_run_id"));
    let rows = tenant.calls(&format!("script_run_id={run}")).await;
    assert_eq!(rows.len(), expected.len());
    for (n, (row, (upstream, tool, amount))) in rows.iter().zip(expected).enumerate() {
        assert_eq!(row["llm_request_id"], request.as_str(), "{row}");
        assert_eq!(row["script_run_id"], run.as_str());
        assert_eq!(row["sequence"], n + 1);
        assert_eq!((&row["upstream_name"], &row["tool_name"]), (&json!(upstream), &json!(tool)));
        assert_eq!((&row["amount"], &row["currency"], &row["outcome"]), (&json!(amount), &json!("USD"), &json!("ok")));
        assert_eq!((&row["key_id"], &row["team_id"]), (&json!(key.id), &json!(team)));
        assert!(
            row["price_id"].is_string() && row["definition_sha256"].is_string() && row["latency_us"].as_i64() > Some(0),
            "{row}"
        );
        assert_eq!(answer["calls"][n], json!({"call_id": row["id"], "tool": answer["calls"][n]["tool"], "outcome": "ok"}));
    }
    assert_eq!(rows[2]["arguments"], json!({"path": file, "content": "forty-two"}));
    assert_eq!(tenant.calls(&format!("llm_request_id={request}")).await, rows, "the request has no other calls");
    assert_eq!(tenant.calls(&format!("key_id={}", key.id)).await, rows);
    assert_eq!(tenant.calls(&format!("team_id={team}&upstream_id={}", upstreams[1].id)).await, rows[2..4]);

    // Its run and its request.
    let found = tenant.get(&format!("script-runs/{run}")).await.expect(200);
    assert_eq!((&found["state"], &found["llm_request_id"], &found["key_id"]), (&json!("done"), &json!(request), &json!(key.id)));
    let parent = tenant.get(&format!("llm-requests/{request}")).await.expect(200);
    assert_eq!(
        (&parent["method"], &parent["origin"], &parent["key_id"]),
        (&json!("tools/call"), &json!("minted"), &json!(key.id))
    );

    // What it saved: of each request that used a tool of Code Mode, and of the key in sum.
    assert!(parent["prompt_tokens_avoided"].as_i64() > Some(500), "{parent}");
    let requests = tenant.get(&format!("llm-requests?key_id={}", key.id)).await.expect(200);
    let avoided = requests["items"].as_array().expect("items").iter().filter_map(|item| item["prompt_tokens_avoided"].as_i64());
    let keys = tenant.get("reports/costs?group_by=key").await.expect(200);
    assert_eq!(keys["items"][0]["prompt_tokens_avoided"], avoided.sum::<i64>(), "{keys} {requests}");

    // Finance reads the same rows.
    let report = tenant.role("finance").await.get(&tenant.path("reports/costs?group_by=upstream")).await.expect(200);
    assert_eq!(
        ["calls", "errors", "amount", "net"].map(|name| &report["total"][name]),
        // What models cost is not told of an upstream, and so it is not said what is left to pay.
        [&json!(6), &json!(0), &json!("0.642"), &Value::Null],
        "{report}"
    );
    assert_eq!(report["currency"], "USD");
    let items = report["items"].as_array().expect("items");
    let by: BTreeSet<_> =
        items.iter().map(|item| (text(item, "upstream"), text(item, "amount"), item["calls"].as_i64())).collect();
    let line = |upstream: &str, amount: &str| (upstream.to_owned(), amount.to_owned(), Some(2));
    assert_eq!(by, BTreeSet::from([line("everything", "0.002"), line("filesystem", "0.04"), line("memory", "0.6")]));
    for group_by in ["tool", "key,team", "outcome", "day,tool"] {
        let report = tenant.get(&format!("reports/costs?group_by={group_by}")).await.expect(200);
        let items = report["items"].as_array().expect("items");
        assert_eq!(sum(items.iter().map(|item| &item["amount"])), sum([&report["total"]["amount"]]), "{group_by}");
        assert_eq!(sum(rows.iter().map(|row| &row["amount"])), sum([&report["total"]["amount"]]), "{group_by}");
    }

    // So does compliance.
    let auditor = tenant.role("auditor").await;
    let export = auditor.get(&tenant.path(&format!("audit/export?format=ndjson&key_id={}", key.id))).await;
    let exported: Vec<Value> = export.text.lines().map(|line| serde_json::from_str(line).expect("a row")).collect();
    assert_eq!(exported.len(), rows.len());
    for (exported, row) in exported.iter().zip(&rows) {
        assert_eq!(exported["tenant_id"], tenant.id.as_str());
        for (field, value) in row.as_object().expect("a row") {
            assert_eq!(&exported[field], value, "{field} of {exported}");
        }
    }
    let export = auditor.get(&tenant.path(&format!("audit/export?format=csv&key_id={}", key.id))).await;
    let mut reader = csv::Reader::from_reader(export.text.as_bytes());
    let header = reader.headers().expect("a header").clone();
    let records: Vec<csv::StringRecord> = reader.records().map(|record| record.expect("a record")).collect();
    assert_eq!(records.len(), rows.len());
    for (record, row) in records.iter().zip(&rows) {
        for (field, cell) in header.iter().zip(record).filter(|(field, _)| *field != "tenant_id") {
            let same = match &row[field] {
                Value::Null => cell.is_empty(),
                Value::String(text) => cell == text,
                structured @ (Value::Object(_) | Value::Array(_)) => {
                    serde_json::from_str::<Value>(cell).is_ok_and(|v| v == *structured)
                }
                other => *cell == *other.to_string(),
            };
            assert!(same, "{field}: {cell:?} is not {}", row[field]);
        }
    }
}

#[tokio::test]
async fn what_the_admin_reads_as_a_keys_scope_is_what_its_model_is_shown() {
    let tollgate = Tollgate::shared().await;
    let tenant = Tenant::new(tollgate, "Scopes").await;
    let memory = tenant
        .upstream_with(json!({"name": "memory", "transport": stdio("memory"), "exposure": "code", "binding": "tool"}))
        .await;
    let shop = tenant.upstream("shop", stdio("shop"), "code").await;
    let clock = tenant.upstream("clock", stdio("clock"), "classic").await;

    let some = json!([
        {"upstream_id": memory.id, "tools": ["read_graph", "search_nodes"]},
        {"upstream_id": shop.id, "tools": ["find_customer"]},
        {"upstream_id": clock.id, "tools": ["now", "echo"]},
    ]);
    let (all, some) = (tenant.group(&[&memory, &shop, &clock]).await, tenant.group_with(some).await);
    let classic = tenant.group(&[&clock]).await;
    for groups in [vec![&all], vec![&some], vec![&classic], vec![&some, &classic], vec![]] {
        let key = tenant.key(&groups).await;
        let mcp = tenant.mcp(&key);
        let scope = tenant.get(&format!("keys/{}/scope", key.id)).await.expect(200);
        let of = |exposure: &str| -> BTreeSet<(String, String)> {
            let tools = scope["tools"].as_array().expect("tools").iter().filter(|tool| tool["exposure"] == exposure);
            tools.map(|tool| (text(tool, "upstream"), text(tool, "name"))).collect()
        };
        let listed: BTreeSet<String> = mcp.tool_names().await.into_iter().collect();
        let mut expected: BTreeSet<String> = of("classic").iter().map(|(upstream, tool)| format!("{upstream}__{tool}")).collect();
        if !of("code").is_empty() {
            expected.extend(["listToolFiles", "readToolFile", "getToolDocs", "executeToolCode", "readResult"].map(str::to_owned));
        }
        assert_eq!(listed, expected);

        let files: Vec<String> =
            scope["files"].as_array().expect("files").iter().map(|f| f.as_str().expect("a path").to_owned()).collect();
        if of("code").is_empty() {
            assert!(files.is_empty(), "{files:?}");
            assert_eq!(mcp.call("listToolFiles", json!({})).await.error()["code"], -32602, "no meta-tool without Code Mode");
            continue;
        }
        // One file for the shop, one for each tool of the memory; each can be read, and no other.
        let tools: BTreeSet<String> =
            of("code").into_iter().filter(|(u, _)| u == "memory").map(|(_, t)| format!("servers/memory/{t}.pyi")).collect();
        let shown: BTreeSet<String> = files.iter().cloned().collect();
        assert_eq!(shown, tools.iter().cloned().chain(["servers/shop.pyi".to_owned()]).collect());
        let mut defined = BTreeSet::new();
        for file in &files {
            let stub = mcp.call("readToolFile", json!({"fileName": file})).await.content_text();
            let server = file.trim_start_matches("servers/").split(['/', '.']).next().expect("a server").to_owned();
            let names =
                stub.lines().filter_map(|line| line.trim_start().strip_prefix("def ")?.split('(').next().map(str::to_owned));
            defined.extend(names.map(|name| (server.clone(), name)));
        }
        assert_eq!(defined, of("code"), "the stubs define what the scope lists");
        let listing = mcp.call("listToolFiles", json!({})).await.content_text();
        assert!(listing.contains("servers/memory/<tool>.pyi") && listing.contains("servers/shop.pyi"), "{listing}");
        assert_eq!(mcp.call("readToolFile", json!({"fileName": "servers/memory.pyi"})).await.result()["isError"], true);

        // A script reaches the same tools: what is not in the files is not there.
        let may = of("code").contains(&("memory".to_owned(), "delete_entities".to_owned()));
        let tried =
            mcp.call("executeToolCode", json!({"code": "result = memory.delete_entities(entityNames=[])"})).await.result();
        let tried = &tried["structuredContent"];
        assert_eq!(tried["state"] == "done", may, "{tried}");
        if !may {
            assert!(tried["error"].to_string().contains("delete_entities"), "{tried}");
            assert!(
                tenant
                    .calls(&format!("key_id={}", key.id))
                    .await
                    .iter()
                    .all(|row| row["tool_name"] != "delete_entities" || row["outcome"] == "denied")
            );
        }
    }
}

#[tokio::test]
async fn a_client_may_name_its_own_request_as_the_parent_and_no_other() {
    let tollgate = Tollgate::shared().await;
    let tenant = Tenant::new(tollgate, "Parents by name").await;
    let clock = tenant.upstream("clock", stdio("clock"), "classic").await;
    let (_, mcp) = tenant.open(&[&clock]).await;
    let (_, other) = tenant.open(&[&clock]).await;
    let first = mcp.call("clock__echo", json!({"text": "1"})).await.request_id();
    let second = mcp.header("x-tollgate-request-id", &first).call("clock__echo", json!({"text": "2"})).await;
    assert_eq!(second.content_text(), "2");
    assert_eq!(second.request_id(), first);
    assert_eq!(tenant.calls(&format!("llm_request_id={first}")).await.len(), 2);

    let refused = other.header("x-tollgate-request-id", &first).call("clock__echo", json!({"text": "3"})).await;
    assert_eq!(refused.error()["code"], -32602, "{}", refused.text);
    let row = tenant.call_of(&refused.request_id()).await;
    assert_eq!((&row["decision"], &row["reason"]), (&json!("denied"), &json!("unknown_parent")));
    assert_eq!(tenant.calls(&format!("llm_request_id={first}")).await.len(), 2, "nothing was written under it");
}
