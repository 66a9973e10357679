//! Prices as finance sets them: units, tiers, defaults, whole rate cards, token prices, and credits.

use axum::{
    body::Body,
    http::{Request, header},
};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    upstreams::{Peer, Worker, http, tool, worker},
    world::{Reply, Trail, World},
};

struct Desk {
    world: World,
    tenant: String,
    finance: String,
    upstream: String,
    _worker: Worker,
}

impl Desk {
    /// A tenant with an upstream `crm` that lists `a` and `b`.
    async fn new(pool: PgPool) -> Self {
        let world = World::new(pool).await;
        let tenant = world.tenant("acme").await;
        let worker = worker(&world, Peer::Lists(vec![tool("a", "1"), tool("b", "1")]));
        let upstream = world.post(&world.root, &format!("{tenant}/upstreams"), http("crm")).await.id();
        let finance = world.token(&tenant, "finance").await;
        Self { world, tenant, finance, upstream, _worker: worker }
    }

    fn path(&self, rest: &str) -> String {
        format!("{}/{rest}", self.tenant)
    }

    async fn post(&self, rest: &str, body: Value) -> Reply {
        self.world.post(&self.finance, &self.path(rest), body).await
    }

    async fn get(&self, rest: &str) -> Reply {
        self.world.get(&self.finance, &self.path(rest)).await
    }

    async fn import(&self, query: &str, file: &str, headers: &[(&str, &str)]) -> Reply {
        let mut request = Request::builder().method("POST").uri(self.path(&format!("rate-card/import{query}")));
        request =
            request.header(header::AUTHORIZATION, format!("Bearer {}", self.finance)).header(header::CONTENT_TYPE, "text/csv");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.world.send(request.body(Body::from(file.to_owned())).unwrap()).await
    }

    async fn rates(&self) -> Vec<Value> {
        let card = self.get("rate-card").await;
        card.json["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|rate| json!([rate["tool_name"], rate["price_of"], rate["amount"], rate["unit"]]))
            .collect()
    }
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_price_has_a_unit_tiers_and_an_end(pool: PgPool) {
    let desk = Desk::new(pool).await;
    assert_eq!(desk.rates().await, [json!(["a", null, "0", "call"]), json!(["b", null, "0", "call"])]);
    let tool = desk.get("rate-card").await.json["items"][0]["tool_id"].clone();
    let set = desk.post("prices", json!({"tenant": true, "amount": "0.001", "unit": "kb", "max_amount": "0.50"})).await;
    assert_eq!(set.status, 201, "{}", set.text);
    assert_eq!(
        (&set.json["tenant"], &set.json["max_amount"], &set.json["inherit"], &set.json["tiers"]),
        (&json!(true), &json!("0.5"), &json!(false), &json!([]))
    );
    let tiers = json!([{"from_call": 1, "amount": "0.0020"}, {"from_call": 1001, "amount": "0.001"}]);
    let set = desk.post("prices", json!({"upstream_id": desk.upstream, "unit": "successful_call", "tiers": tiers})).await;
    assert_eq!(
        (set.status.as_u16(), &set.json["amount"], &set.json["tiers"][1]["amount"]),
        (201, &json!("0.002"), &json!("0.001"))
    );
    assert_eq!(desk.get(&format!("prices/{}", set.id())).await.json, set.json);
    let free = desk.post("prices", json!({"tool_id": tool, "amount": "0", "unit": "second"})).await;
    assert_eq!(free.status, 201, "{}", free.text);
    assert_eq!(desk.rates().await, [json!(["a", "tool", "0", "second"]), json!(["b", "upstream", "0.002", "successful_call"])]);

    desk.world.pass(chrono::Duration::seconds(1));
    let end = desk.post("prices", json!({"tool_id": tool, "inherit": true})).await;
    assert_eq!((end.status.as_u16(), &end.json["amount"], &end.json["unit"]), (201, &Value::Null, &Value::Null), "{}", end.text);
    desk.post("prices", json!({"upstream_id": desk.upstream, "inherit": true})).await;
    assert_eq!(desk.rates().await, [json!(["a", "tenant", "0.001", "kb"]), json!(["b", "tenant", "0.001", "kb"])]);

    let one = json!([{"from_call": 1, "amount": "1"}]);
    for (body, pointer) in [
        (json!({"amount": "1", "unit": "call"}), "/tool_id"),
        (json!({"tenant": true, "tool_id": tool, "amount": "1", "unit": "call"}), "/tool_id"),
        (json!({"tenant": true, "amount": "1"}), "/unit"),
        (json!({"tenant": true, "unit": "call"}), "/amount"),
        (json!({"tenant": true, "unit": "call", "amount": "1", "tiers": one}), "/amount"),
        (json!({"tenant": true, "unit": "hour", "amount": "1"}), "/unit"),
        (json!({"tenant": true, "unit": "call", "amount": "1", "max_amount": "-1"}), "/max_amount"),
        (json!({"tenant": true, "unit": "call", "tiers": []}), "/tiers"),
        (json!({"tenant": true, "unit": "call", "tiers": [{"from_call": 2, "amount": "1"}]}), "/tiers"),
        (json!({"tenant": true, "unit": "call", "tiers": [{"from_call": 1, "amount": "x"}]}), "/tiers/0/amount"),
        (json!({"tenant": true, "inherit": true, "amount": "1"}), "/inherit"),
    ] {
        let refused = desk.post("prices", body.clone()).await;
        assert_eq!(refused.is(422, "invalid").pointer(), pointer, "{body}: {}", refused.text);
    }
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_rate_card_goes_out_as_a_sheet_and_comes_back_as_prices(pool: PgPool) {
    let desk = Desk::new(pool).await;
    let empty = desk.get("rate-card?format=csv").await;
    assert!(empty.headers["content-type"].to_str().unwrap().starts_with("text/csv"));
    assert_eq!(
        empty.text,
        "upstream,tool,unit,from_call,amount,max_amount,effective_from,currency\r\n*,*,inherit,,,,,\r\ncrm,*,inherit,,,,,\r\ncrm,a,inherit,,,,,\r\ncrm,b,inherit,,,,,\r\n"
    );
    let same = desk.import("", &empty.text, &[]).await;
    assert_eq!(
        (same.status.as_u16(), &same.json["created"], &same.json["unchanged"], &same.json["lines"]),
        (200, &json!(0), &json!(4), &json!(4))
    );
    assert_eq!(
        desk.world.count("SELECT count(*) FROM admin_events WHERE action = 'rate_card.import'").await,
        0,
        "nothing was done"
    );

    // As Excel saves it where lists are separated by semicolons.
    let file = "\u{feff}upstream;tool;unit;from_call;amount;effective_from\r\n*;*;call;;0.001;\r\ncrm;a;kb;1;0.002;\r\ncrm;a;kb;101;0.001;\r\n\
                crm;*;second;;0.5;2027-01-01T00:00:00Z\r\ncrm;b;inherit;;;\r\n;;;;;\r\n";
    let dry = desk.import("?dry_run=true", file, &[]).await;
    assert_eq!(
        (dry.status.as_u16(), &dry.json["dry_run"], &dry.json["created"], &dry.json["unchanged"]),
        (200, &json!(true), &json!(3), &json!(1))
    );
    assert_eq!(desk.world.count("SELECT count(*) FROM prices").await, 0);
    assert_eq!(
        dry.json["changes"][1],
        json!({"line": 3, "upstream": "crm", "tool": "a", "effective_from": "2026-11-18T11:06:40Z", "before": null,
            "after": {"amount": "0.002", "unit": "kb", "max_amount": null,
                "tiers": [{"from_call": 1, "amount": "0.002"}, {"from_call": 101, "amount": "0.001"}]}})
    );
    let done = desk.import("", file, &[("idempotency-key", "november")]).await;
    assert_eq!(
        (done.status.as_u16(), &done.json["created"], &done.json["changes"]),
        (200, &json!(3), &dry.json["changes"]),
        "{}",
        done.text
    );
    let again = desk.import("", file, &[("idempotency-key", "november")]).await;
    assert_eq!((again.text, again.headers["idempotency-replayed"].to_str().unwrap()), (done.text, "true"));
    assert_eq!(desk.rates().await, [json!(["a", "tool", "0.002", "kb"]), json!(["b", "tenant", "0.001", "call"])]);

    // What goes out is what came in, and changes nothing when it comes in again, however it was saved meanwhile.
    desk.world.pass(chrono::Duration::hours(1));
    let out = desk.get("rate-card?format=csv").await.text;
    for file in [file.to_owned(), out.clone(), out.replace(',', "\t"), out.replace("\r\n", "\n")] {
        let again = desk.import("", &file, &[]).await;
        assert_eq!((again.status.as_u16(), &again.json["created"]), (200, &json!(0)), "{}", again.text);
    }
    let later = desk.get("rate-card?format=csv&at=2027-01-01T00:00:00Z").await.text;
    assert!(later.contains("crm,*,second,,0.5,,2027-01-01T00:00:00Z,USD\r\n"), "{later}");
    let events = desk.world.get(&desk.world.root, &desk.path("admin-events")).await;
    let imports: Vec<&Value> =
        events.json["items"].as_array().unwrap().iter().filter(|e| e["action"] == "rate_card.import").collect();
    assert_eq!(imports.len(), 1, "one act is one event");
    assert_eq!((&imports[0]["detail"]["created"], &imports[0]["detail"]["lines"]), (&json!(3), &json!(5)));

    // A cell that was edited takes effect now, though its line still says since when the old one was in force.
    let edited = desk.import("", &out.replace("crm,a,kb,101,0.001", "crm,a,kb,101,0.0005"), &[]).await;
    assert_eq!(
        (&edited.json["created"], &edited.json["changes"][0]["effective_from"]),
        (&json!(1), &json!("2026-11-18T12:06:40Z"))
    );
    let prices = desk.world.count("SELECT count(*) FROM prices").await;
    assert_eq!(prices, 4);

    let broken =
        "upstream,tool,unit,amount\ncrm,*,call,1\ncrm,nobody,call,1\nnobody,*,call,1\n*,a,call,1\ncrm,a,call,1e3\ncrm,*,kb,2\n";
    let refused = desk.import("", broken, &[]).await;
    refused.is(422, "invalid");
    let pointers: Vec<&str> = refused.json["errors"].as_array().unwrap().iter().map(|e| e["pointer"].as_str().unwrap()).collect();
    assert_eq!(pointers, ["/6/amount", "/3/tool", "/4/upstream", "/5/tool", "/7/effective_from"], "{}", refused.text);
    let dry = desk.import("?dry_run=true", broken, &[]).await;
    assert_eq!((dry.status.as_u16(), &dry.json["errors"]), (200, &refused.json["errors"]));
    assert_eq!(desk.world.count("SELECT count(*) FROM prices").await, prices, "all or nothing");
    let json = desk.post("rate-card/import", json!({})).await;
    json.is(415, "unsupported_media_type");
    desk.get("rate-card?format=xlsx").await.is(422, "unsupported_format");
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn token_prices_ship_with_a_date_and_a_tenants_own_go_before_them(pool: PgPool) {
    let desk = Desk::new(pool).await;
    let card = desk.get("llm-prices").await.json;
    assert!(
        card["default_table"]["date"].as_str().unwrap().starts_with("2026-") && card["default_table"]["applies"] == true,
        "{card}"
    );
    let of = |card: &Value, model: &str| -> Vec<Value> {
        card["items"].as_array().unwrap().iter().filter(|item| item["model"] == model).cloned().collect()
    };
    assert_eq!(of(&card, "gpt-5")[0]["amounts"]["input"], "1.25");
    let body = json!({"model": "gpt-5", "provider": "openai", "input": "1.00", "output": "8", "cached_input": "0.1",
        "long_context": {"above": 200_000, "input": "2", "output": "16"}});
    let set = desk.post("llm-prices", body).await;
    assert_eq!(
        (set.status.as_u16(), &set.json["amounts"]["input"], &set.json["amounts"]["reasoning"]),
        (201, &json!("1"), &Value::Null),
        "{}",
        set.text
    );
    assert_eq!(desk.get(&format!("llm-prices/{}", set.id())).await.json, set.json);
    let card = desk.get("llm-prices").await.json;
    let both = of(&card, "gpt-5");
    assert_eq!(
        (both.len(), &both[0]["source"], &both[0]["id"], &both[1]["source"]),
        (2, &json!("tenant"), &set.json["id"], &json!("default"))
    );
    desk.world.pass(chrono::Duration::seconds(1));
    let end = desk.post("llm-prices", json!({"model": "gpt-5", "provider": "openai", "inherit": true})).await;
    assert_eq!((end.status.as_u16(), &end.json["amounts"]), (201, &Value::Null), "{}", end.text);
    assert_eq!(of(&desk.get("llm-prices").await.json, "gpt-5").len(), 1);
    for (body, pointer) in [
        (json!({"model": "a b", "input": "1", "output": "1"}), "/model"),
        (json!({"model": "m", "output": "1"}), "/input"),
        (json!({"model": "m", "input": "1"}), "/output"),
        (json!({"model": "m", "input": "1", "output": "1", "reasoning": "x"}), "/reasoning"),
        (json!({"model": "m", "input": "1", "output": "1", "provider": ""}), "/provider"),
        (json!({"model": "m", "inherit": true, "output": "1"}), "/inherit"),
        (json!({"model": "m", "input": "1", "output": "1", "effective_from": "2020-01-01T00:00:00Z"}), "/effective_from"),
        (
            json!({"model": "m", "input": "1", "output": "1", "long_context": {"above": 1, "input": "1", "output": "-1"}}),
            "/long_context/output",
        ),
    ] {
        let refused = desk.post("llm-prices", body.clone()).await;
        assert_eq!(refused.is(422, "invalid").pointer(), pointer, "{body}: {}", refused.text);
    }
    // In another currency the table says nothing.
    let euro = desk.world.post(&desk.world.root, "/v1/tenants", json!({"name": "euro", "currency": "EUR"})).await.id();
    let card = desk.world.get(&desk.world.root, &format!("/v1/tenants/{euro}/llm-prices")).await.json;
    assert_eq!((card["items"].as_array().unwrap().len(), &card["default_table"]["applies"]), (0, &json!(false)));
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn what_was_charged_too_much_is_credited_and_the_row_stays(pool: PgPool) {
    let desk = Desk::new(pool).await;
    let trail = Trail::new(&desk.world, &desk.tenant);
    let (call, open) = (trail.call().await.to_string(), trail.open().await.to_string());
    let body = json!({"tool_call_id": call, "amount": "0.0015", "reason": "billed twice"});
    let made = desk.post("credits", body.clone()).await;
    assert_eq!(
        (made.status.as_u16(), &made.json["amount"], &made.json["tool_call_id"]),
        (201, &json!("0.0015"), &json!(call)),
        "{}",
        made.text
    );
    assert_eq!(made.json["key_id"], trail.key.to_string());
    let more = desk.post("credits", body).await;
    assert!(
        more.is(422, "invalid").text.contains("the call cost 0.002, and 0.0015 of that is credited already"),
        "{}",
        more.text
    );
    desk.post("credits", json!({"tool_call_id": open, "amount": "0.001", "reason": "r"})).await.is(409, "conflict");
    let free = desk.post("credits", json!({"upstream_id": desk.upstream, "amount": "5", "reason": "an outage"})).await;
    assert_eq!(
        (free.status.as_u16(), &free.json["upstream_id"], &free.json["tool_call_id"]),
        (201, &json!(desk.upstream), &Value::Null)
    );
    for (body, pointer) in [
        (json!({"tool_call_id": call, "key_id": trail.key, "amount": "1", "reason": "r"}), "/tool_call_id"),
        (json!({"tool_call_id": call, "amount": "0", "reason": "r"}), "/amount"),
        (json!({"tool_call_id": call, "amount": "-1", "reason": "r"}), "/amount"),
        (json!({"amount": "1", "reason": " "}), "/reason"),
        (json!({"key_id": trail.key, "amount": "1", "reason": "r"}), "/key_id"),
    ] {
        let refused = desk.post("credits", body.clone()).await;
        assert_eq!(refused.is(422, "invalid").pointer(), pointer, "{body}: {}", refused.text);
    }
    let auditor = desk.world.token(&desk.tenant, "auditor").await;
    let row = desk.world.get(&auditor, &desk.path(&format!("tool-calls/{call}"))).await.json;
    assert_eq!((&row["amount"], &row["credited"]), (&json!("0.002"), &json!("0.0015")));
    let other = desk.world.get(&auditor, &desk.path(&format!("tool-calls/{open}"))).await.json;
    assert!(other.get("credited").is_none(), "{other}");
    let listed = desk.world.get(&auditor, &desk.path(&format!("credits?tool_call_id={call}"))).await.json;
    assert_eq!(listed["items"], json!([made.json]));
    assert_eq!(desk.get(&format!("credits/{}", made.id())).await.json, made.json);
    assert_eq!(desk.get("credits").await.json["items"].as_array().unwrap().len(), 2);
    assert_eq!(desk.world.count("SELECT count(*) FROM admin_events WHERE action = 'credit.create'").await, 2);
    // Evidence of a call is what it was: files do not change when money is given back.
    let export = desk.world.get(&auditor, &desk.path("audit/export?format=ndjson")).await.text;
    assert!(!export.contains("credited") && export.contains("\"unit_amount\":null"), "{export}");
}
