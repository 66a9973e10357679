//! Calls that wait for people, through the admin door.

use chrono::Duration;
use serde_json::{Value, json};
use sqlx::PgPool;
use tollgate_domain::{ApprovalId, CallId, Clock, LlmRequestId, ScriptRunId, ToolId, UpstreamId};
use tollgate_store::{
    approvals::hold::{self, Ask, Standing},
    audit::ScriptPlace,
};

use crate::world::{Trail, World};

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
        self.trail.hold(ask.call, waiting.approval, place).await;
        waiting.approval
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
