//! What has happened, read three ways: as rows, as sums, as a file.

use serde_json::{Value, json};
use sqlx::PgPool;
use tollgate_domain::{CallId, KeyId, LlmRequestId, ScriptRunId, TenantId, ids};
use tollgate_store::{Store, payload};

use crate::world::World;

pub struct Call {
    pub id: CallId,
    pub request: LlmRequestId,
    pub run: ScriptRunId,
    pub key: KeyId,
}

/// One call that went well, in a script, with a name that a spreadsheet would run.
pub async fn record(world: &World, tenant: &str) -> Call {
    let now = tollgate_domain::Clock::now(&*world.clock);
    let tenant: TenantId = tenant.rsplit('/').next().unwrap().parse().unwrap();
    // Not minted: that never goes back behind the last id, and other tests of this process live at other times.
    let id = |n: u128| uuid::Uuid::from_u128(ids::floor(now).as_u128() | 0x7000_8000_0000_0000_0000 | n);
    let call = Call { id: id(1).into(), request: id(2).into(), run: id(3).into(), key: id(4).into() };
    let all = [tenant.uuid(), call.id.uuid(), call.request.uuid(), call.run.uuid(), call.key.uuid()];
    for sql in [
        "INSERT INTO llm_requests (tenant_id, llm_request_id, key_id, origin, method, at) SELECT $1[1], $1[3], $1[5], 'minted', 'tools/call', $2 WHERE $3 IS NOT NULL",
        "INSERT INTO script_run_starts (tenant_id, script_run_id, llm_request_id, key_id, catalog_sha256, engine, worker_id, opened_at)
         SELECT $1[1], $1[4], $1[3], $1[5], '', 'e', $1[1], $2 WHERE $3 IS NOT NULL",
        "INSERT INTO script_run_ends (tenant_id, script_run_id, kind, state, at) SELECT $1[1], $1[4], 1, 'done', $2 WHERE $3 IS NOT NULL",
        "INSERT INTO script_payloads (tenant_id, script_run_id, part, sequence, size, salt, body)
         SELECT $1[1], $1[4], part, 0, 5, '', $3 FROM generate_series(0, 1) part WHERE $2 IS NOT NULL",
        "INSERT INTO tool_call_events (tenant_id, call_id, kind, at, llm_request_id, origin, script_run_id, sequence, key_id, tool_name, decision, currency, arguments_sha256)
         SELECT $1[1], $1[2], 0, $2, $1[3], 'minted', $1[4], 1, $1[5], '=evil()', 'permitted', 'USD', '' WHERE $3 IS NOT NULL",
        "INSERT INTO tool_call_events (tenant_id, call_id, kind, at, outcome, latency_us, amount_picos)
         SELECT $1[1], $1[2], 1, $2, 'ok', 1500, 2000000000 WHERE $3 IS NOT NULL",
        "INSERT INTO tool_call_payloads (tenant_id, call_id, kind, size, body) SELECT $1[1], $1[2], 0, 5, $3 WHERE $2 IS NOT NULL",
    ] {
        let sql = sql.replace("$1[", "($1::uuid[])[").replace("$2", "$2::timestamptz").replace("$3", "$3::bytea");
        let sql = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(all.to_vec()).bind(now).bind(payload::pack(b"{ \"a\": 1,\n \"a\": 2 }"));
        sql.execute(&world.pool).await.unwrap();
    }
    call
}

/// A request to a model that has ended, with the key of `call`: 0.5, of 30 tokens in and 12 out.
async fn ask_a_model(world: &World, tenant: &str, call: &Call) {
    let now = tollgate_domain::Clock::now(&*world.clock);
    let tenant: TenantId = tenant.rsplit('/').next().unwrap().parse().unwrap();
    let id = uuid::Uuid::from_u128(ids::floor(now).as_u128() | 0x7000_8000_0000_0000_0000 | 9);
    for sql in [
        "INSERT INTO llm_requests (tenant_id, llm_request_id, key_id, origin, method, model, at)
         VALUES ($1, $2, $3, 'llm', '/v1/chat/completions', 'openai/gpt-5', $4)",
        "INSERT INTO llm_forwards (tenant_id, llm_request_id, root_id, turn, mode, streaming, worker_id, decision, tools_offered, tools_tokens, quoted_picos, currency, prompt_sha256)
         SELECT $1, $2, $2, 1, 'manual', false, $1, 'permitted', 0, 0, 7, 'USD', '' WHERE $3::uuid IS NOT NULL AND $4::timestamptz IS NOT NULL",
        "INSERT INTO llm_request_ends (tenant_id, llm_request_id, kind, at, outcome, attempts, usage, input_tokens, cached_tokens, cache_write_tokens, output_tokens, reasoning_tokens, amount_picos)
         SELECT $1, $2, 1, $4, 'ok', '[]', 'reported', 30, 10, 0, 12, 5, 500000000000 WHERE $3::uuid IS NOT NULL",
    ] {
        sqlx::query(sql).bind(tenant.uuid()).bind(id).bind(call.key.uuid()).bind(now).execute(&world.pool).await.unwrap();
    }
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn models_and_credits_have_their_place_in_every_format(pool: PgPool) {
    let world = World::new(pool).await;
    let tenant = world.tenant("acme").await;
    let call = record(&world, &tenant).await;
    ask_a_model(&world, &tenant, &call).await;
    let credit = json!({"tool_call_id": call.id, "amount": "0.0015", "reason": "billed twice"});
    let made = world.call(&world.root, "POST", &format!("{tenant}/credits"), Some(credit), &[]).await;
    assert_eq!(made.status, 201, "{}", made.text);
    world.pass(chrono::Duration::seconds(1));
    let get = async |query: &str| world.get(&world.root, &format!("{tenant}/reports/costs?{query}")).await;
    let keys = get("group_by=key,day").await;
    assert_eq!(keys.json["items"].as_array().unwrap().len(), 1, "{}", keys.text);
    for of in [&keys.json["items"][0], &keys.json["total"]] {
        let told = ["calls", "amount", "llm_requests", "llm_amount", "credits", "net"].map(|name| &of[name]);
        assert_eq!(
            told,
            [&json!(1), &json!("0.002"), &json!(1), &json!("0.5"), &json!("0.0015"), &json!("0.5005")],
            "{}",
            keys.text
        );
        let tokens = ["input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens"].map(|name| of[name].as_i64());
        assert_eq!(tokens, [Some(30), Some(10), Some(12), Some(5)]);
    }
    let tools = get("group_by=tool").await.json;
    let told = ["llm_amount", "credits", "net"].map(|name| &tools["total"][name]);
    assert_eq!(
        told,
        [&Value::Null, &json!("0.0015"), &Value::Null],
        "what models cost is not told, nor what is left to pay: {tools}"
    );
    let columns = |text: &str| text.lines().next().unwrap_or_default().to_owned();
    assert_eq!(
        columns(&get("group_by=tool&format=csv").await.text),
        "tool_id,tool,calls,errors,amount,latency_p50_us,latency_p99_us,credits,currency"
    );
    assert!(!get("group_by=tool&format=parquet&compare=previous").await.text.contains("net"));
    let models = get("group_by=model&format=csv").await.text;
    let header = "model,calls,errors,amount,latency_p50_us,latency_p99_us,prompt_tokens_avoided,llm_requests,llm_amount,input_tokens,\
                  cached_tokens,output_tokens,reasoning_tokens,currency\r\n";
    assert_eq!(
        models,
        format!("{header}openai/gpt-5,0,0,0,,,0,1,0.5,30,10,12,5,USD\r\n,1,0,0.002,1504,1504,0,0,0,0,0,0,0,USD\r\n")
    );
    let file = get("group_by=key&format=parquet").await.text;
    assert!(["llm_amount", "reasoning_tokens", "credits", "net"].iter().all(|name| file.contains(name)), "{file}");
    // The same columns in both, of the period before as well.
    let compared = columns(&get("group_by=key&compare=previous&format=csv").await.text);
    let file = get("group_by=key&compare=previous&format=parquet").await.text;
    let missing: Vec<&str> = compared.split(',').filter(|name| !file.contains(name)).collect();
    assert_eq!(missing, Vec::<&str>::new(), "{compared}");
    assert!(compared.contains(",previous_latency_p99_us,"), "{compared}");

    let focus = get("format=focus").await.text;
    let lines: Vec<Vec<&str>> = focus.lines().map(|line| line.split(',').collect()).collect();
    let field = |row: usize, name: &str| lines[row][lines[0].iter().position(|column| *column == name).unwrap()];
    let row = |row| ["ChargeCategory", "BilledCost", "ConsumedQuantity", "ConsumedUnit", "SkuId"].map(|name| field(row, name));
    assert_eq!(lines.len(), 4, "{focus}");
    assert_eq!(row(1), ["Usage", "0.002", "1", "Calls", ""]);
    assert_eq!(row(2), ["Credit", "-0.0015", "", "", ""]);
    assert_eq!(row(3), ["Usage", "0.5", "42", "Tokens", "openai/gpt-5"]);
    assert_eq!((field(3, "ServiceSubcategory"), field(3, "ResourceType")), ("Generative AI", "Model"));
    let stranger = KeyId::mint(tollgate_domain::Clock::now(&*world.clock));
    assert_eq!(get(&format!("format=focus&key_id={stranger}")).await.text.lines().count(), 1);
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn one_row_is_read_as_a_call_a_sum_and_a_line(pool: PgPool) {
    let world = World::new(pool).await;
    let (tenant, other) = (world.tenant("acme").await, world.tenant("other").await);
    let call = record(&world, &tenant).await;
    world.pass(chrono::Duration::seconds(1));
    let auditor = world.token(&tenant, "auditor").await;

    let listed = world.get(&auditor, &format!("{tenant}/tool-calls?key_id={}&outcome=ok", call.key)).await;
    let row = &listed.json["items"][0];
    assert_eq!(
        (&row["id"], &row["amount"], &row["currency"]),
        (&json!(call.id), &json!("0.002"), &json!("USD")),
        "{}",
        listed.text
    );
    assert!(listed.text.contains("\"arguments\":{ \"a\": 1,\n \"a\": 2 }"), "verbatim: {}", listed.text);
    assert_eq!(world.get(&auditor, &format!("{tenant}/tool-calls/{}", call.id)).await.json, *row);
    world.get(&world.root, &format!("{other}/tool-calls/{}", call.id)).await.is(404, "not_found");
    assert_eq!(world.get(&world.root, &format!("{other}/tool-calls")).await.json["items"], json!([]));

    for (query, found) in [("A%201", 1), ("a&outcome=ok", 1), ("a&outcome=denied", 0), ("b", 0), ("2.1", 0)] {
        let page = world.get(&auditor, &format!("{tenant}/tool-calls?from=2026-11-01T00:00:00Z&q={query}")).await;
        assert_eq!((page.json["items"].as_array().unwrap().len(), &page.json["next_page"]), (found, &Value::Null), "{query}");
    }
    let quarter = "from=2026-10-01T00:00:00Z&to=2027-01-01T00:00:00Z";
    assert_eq!(world.get(&auditor, &format!("{tenant}/tool-calls?q=a&{quarter}")).await.status, 200, "92 days are not too many");

    let tree = world.get(&auditor, &format!("{tenant}/llm-requests/{}", call.request)).await;
    assert_eq!(tree.json["script_runs"][0]["tool_calls"][0]["id"], json!(call.id), "{}", tree.text);
    assert_eq!((&tree.json["tool_calls"], &tree.json["complete"]), (&json!([]), &json!(true)));
    let run = world.get(&auditor, &format!("{tenant}/script-runs/{}", call.run)).await;
    assert_eq!(
        (&run.json["source"], &run.json["state"], &run.json["journal"]),
        (&json!("{ \"a\": 1,\n \"a\": 2 }"), &json!("done"), &json!([]))
    );
    for list in ["llm-requests", "script-runs"] {
        let listed = world.get(&auditor, &format!("{tenant}/{list}?outcome=ok")).await;
        assert_eq!(listed.json["items"].as_array().unwrap().len(), 1, "{list}: {}", listed.text);
        assert_eq!(world.get(&auditor, &format!("{tenant}/{list}?outcome=denied")).await.json["items"], json!([]));
    }

    let costs = world.get(&auditor, &format!("{tenant}/reports/costs?group_by=key,outcome,day")).await;
    let item = &costs.json["items"][0];
    assert_eq!(
        (&item["key_id"], &item["outcome"], &item["calls"]),
        (&json!(call.key), &json!("ok"), &json!(1)),
        "{}",
        costs.text
    );
    assert_eq!(
        (&item["latency_p50_us"], &item["amount"]),
        (&json!(1504), &json!("0.002")),
        "the middle of a bucket of a histogram"
    );
    assert_eq!(
        (&costs.json["total"], &costs.json["currency"]),
        (
            &json!({"calls": 1, "errors": 0, "amount": "0.002", "llm_requests": null, "llm_amount": null, "input_tokens": null,
                    "cached_tokens": null, "output_tokens": null, "reasoning_tokens": null, "credits": null, "net": null}),
            &json!("USD")
        )
    );
    let csv = world.get(&auditor, &format!("{tenant}/reports/costs?group_by=outcome&format=csv")).await.text;
    assert_eq!(csv, "outcome,calls,errors,amount,latency_p50_us,latency_p99_us,currency\r\nok,1,0,0.002,1504,1504,USD\r\n");
    // The same, where the sums are kept: the worker of this installation builds them.
    let id: TenantId = tenant.rsplit('/').next().unwrap().parse().unwrap();
    tollgate_store::costs::rollup::build(&Store::from_pool(world.pool.clone()), id).await.unwrap();
    let top = world.get(&auditor, &format!("{tenant}/reports/costs?group_by=key&top=1&compare=previous")).await;
    assert_eq!(
        (&top.json["items"][0]["previous"]["amount"], &top.json["items"][0]["rest_groups"]),
        (&json!("0"), &Value::Null),
        "{}",
        top.text
    );
    assert_eq!((&top.json["previous"]["calls"], &top.json["total"]["prompt_tokens_avoided"]), (&json!(0), &json!(0)));
    let (from, to) = (top.json["previous"]["from"].as_str().unwrap(), top.json["previous"]["to"].as_str().unwrap());
    assert!(from < to, "{from} {to}");
    let csv =
        world.get(&auditor, &format!("{tenant}/reports/costs?group_by=origin&format=csv&top=5&compare=previous")).await.text;
    let header = "origin,calls,errors,amount,latency_p50_us,latency_p99_us,prompt_tokens_avoided,llm_requests,llm_amount,input_tokens,\
                  cached_tokens,output_tokens,reasoning_tokens,rest_groups,previous_calls,previous_errors,previous_amount,\
                  previous_latency_p50_us,previous_latency_p99_us,previous_llm_requests,previous_llm_amount,currency\r\n";
    assert!(csv.starts_with(header) && csv.contains(",1,0,0.002,1504,1504,0,0,0,0,0,0,0,,0,0,0,,,0,0,USD\r\n"), "{csv}");
    let file = world.get(&auditor, &format!("{tenant}/reports/costs?group_by=key&format=parquet&top=1&compare=previous")).await;
    assert!(file.text.starts_with("PAR1") && file.text.contains("previous_amount"), "{}", file.text);

    let file = world.get(&auditor, &format!("{tenant}/reports/costs?group_by=tool,week,origin&format=parquet")).await;
    assert!(file.text.starts_with("PAR1") && file.text.ends_with("PAR1"), "{}", file.text);
    assert_eq!(file.headers["content-type"], "application/vnd.apache.parquet");
    let focus = world.get(&auditor, &format!("{tenant}/reports/costs?format=focus")).await.text;
    let lines: Vec<Vec<&str>> = focus.lines().map(|line| line.split(',').collect()).collect();
    let field = |name: &str| lines[1][lines[0].iter().position(|column| *column == name).unwrap()];
    assert_eq!((lines.len(), field("BilledCost"), field("EffectiveCost"), field("ConsumedQuantity")), (2, "0.002", "0.002", "1"));
    assert_eq!((field("BillingCurrency"), field("ChargeCategory"), field("ServiceProviderName")), ("USD", "Usage", "Tollgate"));
    assert!(field("ChargePeriodStart").ends_with("T00:00:00Z") && field("BillingPeriodStart").contains("-01T"), "{focus}");
    // A day of the tenant's own zone begins at another moment.
    let zone = world.call(&world.root, "PATCH", &tenant, Some(json!({"time_zone": "Asia/Kolkata"})), &[("if-match", "*")]).await;
    assert_eq!((zone.status.as_u16(), &zone.json["time_zone"]), (200, &json!("Asia/Kolkata")), "{}", zone.text);
    let days = world.get(&auditor, &format!("{tenant}/reports/costs?group_by=day")).await;
    assert!(days.json["items"][0]["day"].as_str().unwrap().ends_with("T18:30:00Z"), "{}", days.text);

    let file = world.get(&auditor, &format!("{tenant}/audit/export")).await;
    let mut line: Value = serde_json::from_str(file.text.trim_end()).unwrap();
    assert_eq!(file.text.lines().count(), 1);
    assert_eq!(line.as_object_mut().unwrap().remove("tenant_id").unwrap(), json!(tenant.rsplit('/').next()));
    assert_eq!(line, *row);
    assert!(file.headers["content-disposition"].to_str().unwrap().ends_with(".ndjson\""));
    let csv = world.get(&auditor, &format!("{tenant}/audit/export?format=csv")).await.text;
    assert!(csv.starts_with("id,llm_request_id,") && csv.contains(",'=evil(),"), "{csv}");
    let file = world.get(&auditor, &format!("{tenant}/audit/export?format=parquet")).await;
    assert!(file.text.starts_with("PAR1") && file.text.ends_with("PAR1"));
    assert_eq!(file.headers["content-type"], "application/vnd.apache.parquet");
    assert!(file.headers["content-disposition"].to_str().unwrap().ends_with(".parquet\""));
    let file = world.get(&auditor, &format!("{tenant}/audit/export?format=ocsf")).await;
    let event: Value = serde_json::from_str(file.text.trim_end()).unwrap();
    assert_eq!((&event["metadata"]["uid"], &event["class_uid"]), (&row["id"], &json!(6003)));
    assert_eq!(file.headers["content-type"], "application/x-ndjson");
    assert!(file.headers["content-disposition"].to_str().unwrap().ends_with(".ocsf.ndjson\""));
    let events = world.count("SELECT count(*) FROM admin_events WHERE action = 'audit.export'").await;
    assert_eq!(events, 4);
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn what_cannot_be_read_is_said(pool: PgPool) {
    let world = World::new(pool).await;
    let tenant = world.tenant("acme").await;
    let finance = world.token(&tenant, "finance").await;
    world.get(&finance, &format!("{tenant}/audit/export")).await.is(403, "forbidden");
    let get = async |path: &str| world.get(&world.root, &format!("{tenant}/{path}")).await;
    let refused = get("audit/export?format=xml").await;
    assert!(refused.is(422, "unsupported_format").text.contains("ndjson"), "{}", refused.text);
    let refused = get("audit/export?format=bundle&outcome=ok").await;
    assert!(refused.text.contains("a bundle proves whole seals"), "{}", refused.text);
    get("reports/costs?format=xlsx").await.is(422, "unsupported_format");
    for (path, pointer) in [
        ("reports/costs?group_by=tool,tools", "?group_by"),
        ("reports/costs?group_by=hour,day", "?group_by"),
        ("reports/costs?group_by=tool&top=0", "?top"),
        ("reports/costs?group_by=tool&top=1001", "?top"),
        ("reports/costs?format=focus&top=3", "?top"),
        ("reports/costs?format=focus&compare=previous", "?compare"),
        ("reports/costs?compare=last", "?compare"),
        ("reports/costs?group_by=day&compare=previous", "?compare"),
        ("reports/costs?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", "?from"),
        ("audit/export?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", "?from"),
        ("tool-calls?outcome=fine", "?outcome"),
        ("tool-calls?tool=x", "?tool"),
        ("tool-calls?q=", "?q"),
        ("tool-calls?q=%22--%22&from=2026-11-18T00:00:00Z", "?q"),
        ("tool-calls?q=ada", "?from"),
        ("tool-calls?q=ada&from=2026-08-01T00:00:00Z", "?from"),
        ("tool-calls?q=ada&from=2026-01-01T00:00:00Z&to=2026-04-03T00:00:01Z", "?from"),
        ("llm-requests?q=ada&from=2026-11-18T00:00:00Z", "?q"),
        ("script-runs?q=ada&from=2026-11-18T00:00:00Z", "?q"),
    ] {
        assert_eq!(get(path).await.is(422, "invalid").pointer(), pointer, "{path}");
    }
    assert_eq!(world.count("SELECT count(*) FROM admin_events WHERE action = 'audit.export'").await, 0, "nothing was exported");
    let unknown = format!("tool-calls/call_{}", ids::encode(uuid::Uuid::nil()));
    get(&unknown).await.is(404, "not_found");
}
