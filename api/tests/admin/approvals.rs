//! Calls that wait for people, through the admin door.

use aws_lc_rs::hmac;
use axum::http::StatusCode;
use chrono::Duration;
use serde_json::{Value, json};
use sqlx::PgPool;
use tollgate_api::approvals::notices::Runner;
use tollgate_domain::{ApprovalId, CallId, Clock, LlmRequestId, ScriptRunId, ToolId, UpstreamId};
use tollgate_store::{
    approvals::hold::{self, Ask, Standing},
    audit::ScriptPlace,
};

use crate::{
    schedules::{Receiver, SECRET},
    world::{Trail, World},
};

struct Waiting<'a> {
    world: &'a World,
    tenant: String,
    trail: Trail,
    tool: ToolId,
}

impl<'a> Waiting<'a> {
    async fn new(world: &'a World) -> Self {
        let tenant = world.tenant("A").await;
        let trail = Trail::new(world, &tenant);
        Self { world, tenant, trail, tool: ToolId::mint(world.clock.now()) }
    }

    /// A held call, as a worker leaves it.
    async fn held(&self, confirmations: u8, arguments: u8, place: Option<ScriptPlace>) -> ApprovalId {
        let (approval, call) = self.asked(confirmations, arguments, place).await;
        self.trail.hold(call, approval, place).await;
        approval
    }

    /// The same, before its row is written.
    async fn asked(&self, confirmations: u8, arguments: u8, place: Option<ScriptPlace>) -> (ApprovalId, CallId) {
        let now = self.world.clock.now();
        let ask = Ask {
            tenant: self.tenant.rsplit('/').next().unwrap().parse().unwrap(),
            key: self.trail.key,
            team: None,
            tool: self.tool,
            upstream: (UpstreamId::mint(now), "crm".to_owned()),
            tool_name: "wipe".to_owned(),
            call: CallId::mint(now),
            request: LlmRequestId::mint(now),
            place,
            may_call: place.map(|_| r#"["crm.find","crm.wipe"]"#.to_owned()),
            arguments: [arguments; 32],
            policy: [0; 32],
            confirmations,
            now,
            expires_at: now + Duration::hours(24),
            at_most: 100,
        };
        let Standing::Waiting(waiting) = hold::stand(&self.world.app.store, &ask).await.unwrap() else { panic!("{ask:?}") };
        (waiting.approval, ask.call)
    }

    fn path(&self, id: ApprovalId) -> String {
        format!("{}/approvals/{id}", self.tenant)
    }

    async fn list(&self, filter: &str) -> Vec<Value> {
        let listed = self.world.get(&self.world.root, &format!("{}/approvals?{filter}", self.tenant)).await;
        assert_eq!(listed.status, 200, "{}", listed.text);
        listed.json["items"].as_array().unwrap().clone()
    }
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn people_read_what_waits_and_two_of_them_confirm_it(pool: PgPool) {
    let world = World::new(pool).await;
    let w = Waiting::new(&world).await;
    let (ann, bob) = (world.token(&w.tenant, "operator").await, world.token(&w.tenant, "admin").await);
    let auditor = world.token(&w.tenant, "auditor").await;
    let finance = world.token(&w.tenant, "finance").await;
    let place = ScriptPlace { run: ScriptRunId::mint(world.clock.now()), sequence: 3 };
    let (other, id) = (w.held(1, 1, None).await, w.held(2, 2, Some(place)).await);

    let read = world.get(&auditor, &w.path(id)).await;
    assert_eq!(read.status, 200, "{}", read.text);
    let shown = &read.json;
    assert_eq!((&shown["id"], &shown["state"]), (&json!(id), &json!("pending")));
    assert_eq!(
        (&shown["tool"]["id"], &shown["tool"]["upstream"], &shown["tool"]["name"]),
        (&json!(w.tool), &json!("crm"), &json!("wipe"))
    );
    assert_eq!((&shown["arguments"], &shown["requested_by"]), (&json!({"all": true}), &json!(w.trail.key)));
    assert_eq!((&shown["script_run_id"], &shown["sequence"]), (&json!(place.run), &json!(3)));
    assert_eq!(shown["may_call"], json!(["crm.find", "crm.wipe"]), "{shown}");
    assert_eq!((&shown["confirmations"], &shown["decisions"]), (&json!({"needed": 2, "given": 0}), &json!([])));
    world.get(&finance, &w.path(id)).await.is(403, "forbidden");
    world.post(&auditor, &format!("{}/approve", w.path(id)), json!({})).await.is(403, "forbidden");

    let listed = w.list("state=pending").await;
    assert_eq!(listed.iter().map(|item| item["id"].clone()).collect::<Vec<_>>(), [json!(id), json!(other)], "newest first");
    assert_eq!(listed[0]["arguments"], json!({"all": true}));
    assert_eq!(w.list(&format!("script_run_id={}", place.run)).await.len(), 1);
    assert_eq!(w.list(&format!("tool_id={}&key_id={}", w.tool, w.trail.key)).await.len(), 2);
    assert_eq!(w.list("state=used").await.len(), 0);

    let approve = format!("{}/approve", w.path(id));
    for _ in 0..2 {
        let once = world.post(&ann, &approve, json!({"reason": "as planned"})).await;
        assert_eq!(
            (once.status.as_u16(), &once.json["state"], &once.json["confirmations"]["given"]),
            (200, &json!("pending"), &json!(1)),
            "{}",
            once.text
        );
    }
    let twice = world.post(&bob, &approve, json!({})).await;
    assert_eq!((twice.status.as_u16(), &twice.json["state"]), (200, &json!("approved")), "{}", twice.text);
    let said = twice.json["decisions"].as_array().unwrap();
    assert_eq!(
        (said.len(), &said[0]["decision"], &said[0]["reason"], &said[0]["label"]),
        (2, &json!("approve"), &json!("as planned"), &json!("operator"))
    );
    assert_ne!(said[0]["principal"], said[1]["principal"]);
    assert_eq!(world.post(&ann, &approve, json!({})).await.status, 200, "the same word again, after all was said");
    let late = world.post(&ann, &format!("{}/deny", w.path(id)), json!({})).await;
    late.is(409, "conflict");
    assert_eq!(late.json["detail"], "this call is approved already");

    let events = world.get(&world.root, &format!("{}/admin-events?target_id={id}", w.tenant)).await.json["items"].clone();
    let events = events.as_array().unwrap();
    assert_eq!(events.len(), 2, "one each, whatever was said again");
    assert!(events.iter().all(|event| event["action"] == "approval.approve"));
    assert_eq!(events[0]["detail"]["confirmations"], json!({"needed": 2, "given": 2}));
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_denial_has_a_reason_and_nothing_is_decided_twice_or_by_strangers(pool: PgPool) {
    let world = World::new(pool).await;
    let w = Waiting::new(&world).await;
    let operator = world.token(&w.tenant, "operator").await;
    let id = w.held(1, 1, None).await;
    let stranger_tenant = world.tenant("B").await;
    let stranger = world.token(&stranger_tenant, "owner").await;
    world.post(&stranger, &format!("{}/approve", w.path(id)), json!({})).await.is(404, "not_found");
    world.post(&stranger, &format!("{stranger_tenant}/approvals/{id}/approve"), json!({})).await.is(404, "not_found");

    let deny = format!("{}/deny", w.path(id));
    for (reason, pointer) in
        [("x".repeat(1001), "/reason"), ("a\u{202e}b".to_owned(), "/reason"), ("a\u{1b}b".to_owned(), "/reason")]
    {
        let refused = world.post(&operator, &deny, json!({"reason": reason})).await;
        assert_eq!(refused.is(422, "invalid").pointer(), pointer);
    }
    let denied = world.post(&operator, &deny, json!({"reason": "not this\ncustomer"})).await;
    assert_eq!((denied.status.as_u16(), &denied.json["state"]), (200, &json!("denied")), "{}", denied.text);
    assert_eq!(denied.json["decisions"][0]["reason"], "not this\ncustomer");
    assert_eq!(world.post(&operator, &deny, json!({})).await.status, 200, "again");
    world.post(&world.root, &format!("{}/approve", w.path(id)), json!({})).await.is(409, "conflict");

    let late = w.held(1, 2, None).await;
    world.pass(Duration::hours(25));
    let refused = world.call(&world.root, "POST", &format!("{}/approve", w.path(late)), None, &[]).await;
    refused.is(409, "conflict");
    assert_eq!(world.count("SELECT count(*) FROM approval_confirmations").await, 1);
}

/// A receiver for the approvals of the tenant "a" and of no other.
async fn told() -> Receiver {
    Receiver::of(|url| {
        format!(
            "[approvals]\napi_url = 'https://tollgate.example/'\n[[approvals.webhook]]\nname = 'chat'\ntenants = ['a']\nurl = '{url}'\nsecret = '{SECRET}'\n"
        )
    })
    .await
}

fn bodies(receiver: &Receiver) -> Vec<Value> {
    receiver.heard().iter().map(|(_, body)| serde_json::from_slice(body).unwrap()).collect()
}

fn events(receiver: &Receiver) -> Vec<String> {
    bodies(receiver).iter().map(|body| body["event"].as_str().unwrap().to_owned()).collect()
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_webhook_is_told_in_order_what_becomes_of_an_approval_and_another_tenants_is_not(pool: PgPool) {
    let receiver = told().await;
    let world = World::with_config(pool, receiver.config.clone()).await;
    let w = Waiting::new(&world).await;
    let other = Waiting { tenant: world.tenant("B").await, ..Waiting::new(&world).await };
    let other = Waiting { trail: Trail::new(&world, &other.tenant), ..other };
    let (ann, bob) = (world.token(&w.tenant, "operator").await, world.token(&w.tenant, "admin").await);
    let runner = Runner::new(world.app.clone()).unwrap();
    let (id, foreign) = (w.held(2, 1, None).await, other.held(1, 1, None).await);
    assert_ne!(id, foreign);
    assert_eq!((runner.round().await.unwrap(), runner.round().await.unwrap()), (1, 0));

    // The receiver is away while two confirm: what they said comes afterwards, in order.
    receiver.answers(StatusCode::SERVICE_UNAVAILABLE);
    for person in [&ann, &bob] {
        let said = world.post(person, &format!("{}/approve", w.path(id)), json!({"reason": "as planned"})).await;
        assert_eq!(said.status, 200, "{}", said.text);
        assert_eq!(runner.round().await.unwrap(), usize::from(person == &ann), "the second waits for the first");
    }
    let shown = world.get(&world.root, &w.path(id)).await.json["notices"].clone();
    let states: Vec<_> =
        shown.as_array().unwrap().iter().map(|n| json!([n["webhook"], n["event"], n["state"], n["error"]])).collect();
    let failed = "the receiver answered 503";
    assert_eq!(
        states,
        [
            json!(["chat", "requested", "delivered", null]),
            json!(["chat", "confirmed", "waiting", failed]),
            json!(["chat", "approved", "waiting", null])
        ]
    );
    receiver.answers(StatusCode::OK);
    assert_eq!(runner.round().await.unwrap(), 0, "it pauses");
    world.pass(Duration::seconds(2));
    assert_eq!(runner.round().await.unwrap(), 2);
    let order = ["approval.requested", "approval.confirmed", "approval.confirmed", "approval.approved"];
    assert_eq!(events(&receiver), order, "at least once");

    let heard = receiver.heard();
    for ((headers, body), event) in heard.iter().zip(order) {
        let header = |name: &str| headers[name].to_str().unwrap();
        let told: Value = serde_json::from_slice(body).unwrap();
        assert_eq!((header("x-tollgate-event"), header("idempotency-key")), (event, told["id"].as_str().unwrap()));
        let message = [header("x-tollgate-timestamp").as_bytes(), b".", body].concat();
        let tag = tollgate_evidence::hash::from_hex(header("x-tollgate-signature").strip_prefix("sha256=").unwrap()).unwrap();
        hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes()), &message, &tag).unwrap();
    }
    assert_eq!(heard[1].0["idempotency-key"], heard[2].0["idempotency-key"]);
    let body = &bodies(&receiver)[0];
    let approval = &body["approval"];
    assert_eq!(
        (&body["id"], &approval["id"], &approval["tool"]["name"]),
        (&json!(format!("{id}/1")), &json!(id), &json!("wipe"))
    );
    assert_eq!((&approval["arguments"], &approval["requested_by"]), (&json!({"all": true}), &json!(w.trail.key)));
    assert!(approval["expires_at"].is_string() && approval.get("notices").is_none(), "{approval}");
    let link = format!("https://tollgate.example{}", w.path(id));
    assert_eq!(body["links"], json!({"self": link, "approve": format!("{link}/approve"), "deny": format!("{link}/deny")}));
    let last = &bodies(&receiver)[3]["approval"];
    assert_eq!((&last["state"], &last["decisions"][0]["reason"]), (&json!("approved"), &json!("as planned")));
    assert!(!receiver.heard().iter().any(|(_, body)| String::from_utf8_lossy(body).contains(&foreign.to_string())));
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn what_expires_or_is_denied_is_told_and_what_nobody_takes_is_given_up_after_a_day(pool: PgPool) {
    let receiver = told().await;
    let world = World::with_config(pool, receiver.config.clone()).await;
    let w = Waiting::new(&world).await;
    let runners = [Runner::new(world.app.clone()).unwrap(), Runner::new(world.app.clone()).unwrap()];
    let (denied, late) = (w.held(1, 1, None).await, w.held(1, 2, None).await);
    assert_eq!(world.post(&world.root, &format!("{}/deny", w.path(denied)), json!({"reason": "no"})).await.status, 200);
    let (a, b) = tokio::join!(runners[0].round(), runners[1].round());
    assert_eq!(a.unwrap() + b.unwrap(), 3, "two runners share the work and repeat nothing");
    let of = |id: ApprovalId| -> Vec<Value> {
        bodies(&receiver).into_iter().filter(|b| b["approval"]["id"] == json!(id)).map(|b| b["event"].clone()).collect()
    };
    assert_eq!(of(denied), ["approval.requested", "approval.denied"]);
    world.pass(Duration::hours(25));
    assert_eq!(tollgate_store::approvals::expire(&world.app.store, world.clock.now()).await.unwrap(), 1);
    assert_eq!(runners[0].round().await.unwrap(), 1);
    assert_eq!(of(late), ["approval.requested", "approval.expired"]);

    receiver.answers(StatusCode::NOT_FOUND);
    let lost = w.held(1, 3, None).await;
    let mut tries = 0;
    for _ in 0..24 * 6 + 2 {
        tries += runners[0].round().await.unwrap();
        world.pass(Duration::minutes(10));
    }
    assert!(tries > 100, "{tries}");
    let notice = world.get(&world.root, &w.path(lost)).await.json["notices"][0].clone();
    assert_eq!((&notice["state"], &notice["error"]), (&json!("failed"), &json!("the receiver answered 404")), "{notice}");
    assert_eq!(world.count("SELECT count(*) FROM admin_events WHERE action = 'approval.notice_failed'").await, 1);
    assert_eq!(runners[0].round().await.unwrap(), 0);
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_notice_waits_for_the_held_calls_row(pool: PgPool) {
    let receiver = told().await;
    let world = World::with_config(pool, receiver.config.clone()).await;
    let w = Waiting::new(&world).await;
    let runner = Runner::new(world.app.clone()).unwrap();
    let (id, call) = w.asked(1, 1, None).await;
    assert_eq!((runner.round().await.unwrap(), receiver.heard().len()), (1, 0), "its arguments cannot be read yet");
    w.trail.hold(call, id, None).await;
    world.pass(Duration::seconds(1));
    assert_eq!(runner.round().await.unwrap(), 1);
    assert_eq!(bodies(&receiver)[0]["approval"]["arguments"], json!({"all": true}));
    assert_eq!(world.get(&world.root, &w.path(id)).await.json["notices"][0]["attempts"], 1);

    // One that never comes holds the notice up for half a minute.
    let (lost, _) = w.asked(1, 2, None).await;
    assert_eq!((runner.round().await.unwrap(), receiver.heard().len()), (1, 1));
    world.pass(Duration::seconds(31));
    assert_eq!((runner.round().await.unwrap(), receiver.heard().len()), (1, 2));
    let told = bodies(&receiver)[1]["approval"].clone();
    assert_eq!((&told["id"], &told["arguments"], &told["arguments_form"]), (&json!(lost), &Value::Null, &json!("omitted")));
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn nobody_confirms_what_their_own_key_asks_for(pool: PgPool) {
    let world = World::new(pool).await;
    let mut w = Waiting::new(&world).await;
    let (ann, bob) = (world.token(&w.tenant, "admin").await, world.token(&w.tenant, "operator").await);
    let keys = format!("{}/keys", w.tenant);
    // Ann's agent asks with a key of hers.
    let tokens = world.get(&world.root, &format!("{}/service-tokens", w.tenant)).await.json["items"].clone();
    let hers = tokens.as_array().unwrap().iter().find(|token| token["role"] == "admin").unwrap()["id"].clone();
    let made = world.post(&ann, &keys, json!({"name": "Ann's", "tool_group_ids": [], "held_by": [hers]})).await;
    assert_eq!((made.status.as_u16(), made.json["held_by"].as_array().map(Vec::len)), (201, Some(1)), "{}", made.text);
    assert!(made.json["held_by"][0].as_str().unwrap().starts_with("svc_"), "{}", made.text);
    w.trail.key = made.id().parse().unwrap();
    let id = w.held(1, 1, None).await;
    let own = world.post(&ann, &format!("{}/approve", w.path(id)), json!({})).await;
    own.is(403, "forbidden");
    assert!(own.json["detail"].as_str().unwrap().contains("held_by"), "{}", own.text);
    assert_eq!(world.get(&ann, &w.path(id)).await.json["confirmations"]["given"], 0);
    assert_eq!(world.post(&bob, &format!("{}/approve", w.path(id)), json!({})).await.json["state"], "approved");

    // Of two confirmations, neither is theirs; and they may always say no.
    let id = w.held(2, 2, None).await;
    assert_eq!(world.post(&bob, &format!("{}/approve", w.path(id)), json!({})).await.json["state"], "pending");
    world.post(&ann, &format!("{}/approve", w.path(id)), json!({})).await.is(403, "forbidden");
    assert_eq!(world.post(&ann, &format!("{}/deny", w.path(id)), json!({})).await.json["state"], "denied");

    // A key that was made for somebody else, here a person who is known by their identity provider.
    let path = format!("{keys}/{}", made.id());
    let person = json!({"held_by": ["https://id.example#bob"]});
    let moved = world.call(&ann, "PATCH", &path, Some(person.clone()), &[("if-match", "*")]).await;
    assert_eq!((moved.status.as_u16(), &moved.json["held_by"]), (200, &person["held_by"]), "{}", moved.text);
    let id = w.held(1, 3, None).await;
    let tenant = w.tenant.rsplit('/').next().unwrap().parse().unwrap();
    let mut tx = world.app.store.tenant(tenant).await.unwrap();
    for (principal, own) in [("https://id.example#bob", true), ("https://id.example#ann", false), ("", false)] {
        let asks = tollgate_store::approvals::notices::asks_itself(&mut tx, tenant, id, principal).await.unwrap();
        assert_eq!(asks, own, "{principal}");
    }
    drop(tx);
    assert_eq!(world.post(&ann, &format!("{}/approve", w.path(id)), json!({})).await.json["state"], "approved");
    let events =
        world.get(&world.root, &format!("{}/admin-events?target_id={}", w.tenant, made.id())).await.json["items"].clone();
    assert_eq!(events[0]["detail"]["held_by"], person["held_by"], "a change of that is recorded: {events}");

    // Nobody is thought to hold a key of whom that is not said.
    let made = world.post(&ann, &keys, json!({"name": "b", "tool_group_ids": []})).await;
    assert_eq!(made.json["held_by"], json!([]));
    let wrong = json!({"name": "c", "tool_group_ids": [], "held_by": ["a", ""]});
    assert_eq!(world.post(&ann, &keys, wrong).await.is(422, "invalid").pointer(), "/held_by/1");
}
