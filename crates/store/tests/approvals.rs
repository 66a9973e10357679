//! Calls that wait for people: what an approval is bound to, who counts, and that it lets one call through.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

mod support;

use chrono::{DateTime, TimeDelta, Utc};
use futures::future::join_all;
use sqlx::PgPool;
use tollgate_domain::{ApprovalId, ApprovalState as S, CallId, Decision, Role, ScriptRunId, policy::Reason};
use tollgate_store::{
    Actor, PageRequest, Store, StoreError,
    approvals::{
        self, Filter, Verdict,
        hold::{self, Ask, Standing},
    },
    audit::{AuditWriter, ScriptPlace},
    waiting,
};

use support::{QUEUE, Who, opens, tenant};

struct World {
    store: Store,
    audit: AuditWriter,
    who: Who,
}

async fn world(pool: &PgPool) -> World {
    let store = Store::from_pool(pool.clone());
    World { audit: AuditWriter::start(&store, QUEUE), who: Who::new(tenant(pool).await), store }
}

/// Approvals end an hour after the first call of a test.
fn later(hours: i64) -> DateTime<Utc> {
    support::now() + TimeDelta::hours(hours)
}

impl World {
    fn ask(&self) -> Ask {
        Ask {
            tenant: self.who.tenant,
            key: self.who.key,
            team: None,
            tool: self.who.tool,
            upstream: (self.who.upstream, "crm".to_owned()),
            tool_name: "wipe".to_owned(),
            call: CallId::mint(support::now()),
            request: self.who.request,
            place: None,
            may_call: None,
            arguments: [1; 32],
            policy: [2; 32],
            confirmations: 1,
            now: support::now(),
            expires_at: later(1),
            at_most: 10,
        }
    }

    async fn stand(&self, ask: &Ask) -> Standing {
        hold::stand(&self.store, ask).await.unwrap()
    }

    /// Ask, with the held call's row.
    async fn held(&self, ask: &Ask) -> ApprovalId {
        let Standing::Waiting(waiting) = self.stand(ask).await else { panic!("it does not wait") };
        let mut row = self.who.intent(r#"{"all":true}"#);
        (row.id, row.decision, row.reason, row.approval) =
            (ask.call, Decision::Held, Some(Reason::ApprovalRequired), Some(waiting.approval));
        row.place = ask.place;
        self.audit.before(opens(row)).await.unwrap();
        waiting.approval
    }

    async fn decide(&self, id: ApprovalId, who: &str, approves: bool, reason: Option<&str>) -> Result<bool, StoreError> {
        self.decide_at(id, who, approves, reason, support::now()).await
    }

    async fn decide_at(
        &self,
        id: ApprovalId,
        who: &str,
        approves: bool,
        reason: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        let actor = Actor { kind: "admin", id: who.to_owned(), role: Some(Role::Operator), request_id: None };
        let mut change = self.store.change(self.who.tenant, actor, now).await?;
        let done = approvals::decide(&mut change, id, &Verdict { principal: who, label: who, approves, reason }).await?;
        change.commit_quietly().await?;
        Ok(done)
    }

    async fn state(&self, id: ApprovalId) -> S {
        let mut tx = self.store.tenant(self.who.tenant).await.unwrap();
        approvals::get(&mut tx, self.who.tenant, id).await.unwrap().0.state
    }

    async fn count(&self) -> usize {
        let mut tx = self.store.tenant(self.who.tenant).await.unwrap();
        let page = PageRequest { limit: 1000, after: None };
        approvals::list(&mut tx, self.who.tenant, Filter::default(), page).await.unwrap().items.len()
    }
}

fn waits(standing: &Standing) -> ApprovalId {
    match standing {
        Standing::Waiting(waiting) => waiting.approval,
        other => panic!("{other:?}"),
    }
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn one_approval_lets_one_call_through_however_many_come_at_once(pool: PgPool) {
    let w = world(&pool).await;
    let first = w.held(&w.ask()).await;
    let again = join_all((0..50).map(|_| async { w.stand(&w.ask()).await })).await;
    assert!(again.iter().all(|standing| waits(standing) == first), "they share the one that is pending");
    assert!(w.decide(first, "ann", true, None).await.unwrap());

    let tried = join_all((0..50).map(|_| async { w.stand(&w.ask()).await })).await;
    let spent: Vec<_> = tried.iter().filter(|standing| matches!(standing, Standing::Spent(_))).collect();
    assert_eq!(spent.len(), 1);
    let Standing::Spent(spent) = spent[0] else { unreachable!() };
    assert_eq!((spent.approval, spent.tool, spent.policy, spent.arguments), (first, w.who.tool, [2; 32], [1; 32]));
    let mut next: Vec<_> = tried.iter().filter(|standing| !matches!(standing, Standing::Spent(_))).map(waits).collect();
    next.sort_unstable();
    next.dedup();
    assert!(next.len() == 1 && next[0] != first, "all others wait for one new approval: {next:?}");
    assert_eq!((w.state(first).await, w.count().await), (S::Used, 2));
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn an_approval_is_for_one_key_tool_arguments_and_rule(pool: PgPool) {
    let w = world(&pool).await;
    let first = w.held(&w.ask()).await;
    assert!(w.decide(first, "ann", true, None).await.unwrap());
    let other = Who::new(w.who.tenant);
    for ask in [Ask { arguments: [9; 32], ..w.ask() }, Ask { key: other.key, ..w.ask() }, Ask { tool: other.tool, ..w.ask() }] {
        assert_ne!(waits(&w.stand(&ask).await), first);
    }
    assert_eq!(w.state(first).await, S::Approved);
    // Another definition, or another number of people: what was approved is void for good.
    let changed = waits(&w.stand(&Ask { policy: [3; 32], ..w.ask() }).await);
    assert_ne!(changed, first);
    assert_eq!(w.state(first).await, S::Expired);
    assert_ne!(waits(&w.stand(&w.ask()).await), first, "also when the rule is changed back");
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn two_confirmations_are_of_two_principals_and_one_denial_ends_it(pool: PgPool) {
    let w = world(&pool).await;
    let two = Ask { confirmations: 2, ..w.ask() };
    let id = w.held(&two).await;
    assert!(w.decide(id, "ann", true, None).await.unwrap());
    assert!(!w.decide(id, "ann", true, None).await.unwrap(), "the same word again");
    assert_eq!((w.state(id).await, waits(&w.stand(&two).await)), (S::Pending, id));
    assert!(w.decide(id, "bob", true, None).await.unwrap());
    assert_eq!(w.state(id).await, S::Approved);
    let late = w.decide(id, "eve", false, None).await;
    assert!(matches!(late, Err(StoreError::Conflict(why)) if why == "this call is approved already"));
    assert!(matches!(w.stand(&two).await, Standing::Spent(_)));

    // Somebody who has confirmed may think better of it.
    let id = w.held(&two).await;
    assert!(w.decide(id, "ann", true, None).await.unwrap() && w.decide(id, "ann", false, Some("not on a Friday")).await.unwrap());
    assert_eq!(w.stand(&two).await, Standing::Denied(id, Some("not on a Friday".to_owned())));
    assert!(
        matches!(w.decide(id, "bob", true, None).await, Err(StoreError::Conflict(why)) if why == "this call was denied already")
    );
    // A denial holds for as long as the question would have.
    let afterwards = Ask { now: later(2), expires_at: later(3), ..two };
    assert_ne!(waits(&w.stand(&afterwards).await), id);

    let racing = w.held(&Ask { arguments: [8; 32], ..w.ask() }).await;
    let names: Vec<_> = (0..4).map(|n| format!("p{n}")).collect();
    let won = join_all(names.iter().map(|name| w.decide(racing, name, true, None))).await;
    assert_eq!(won.into_iter().filter(|result| matches!(result, Ok(true))).count(), 1, "one was enough");
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn what_nobody_can_read_nobody_approves(pool: PgPool) {
    let w = world(&pool).await;
    let ask = w.ask();
    let id = waits(&w.stand(&ask).await);
    let blind = w.decide(id, "ann", true, None).await;
    assert!(
        matches!(blind, Err(StoreError::Conflict(why)) if why.contains("not in the audit trail yet")),
        "its row was not written"
    );
    // The next call of the kind has a row, and is what they read.
    assert_eq!(w.held(&w.ask()).await, id);
    assert!(w.decide(id, "ann", true, None).await.unwrap());
    let mut tx = w.store.tenant(w.who.tenant).await.unwrap();
    let (approval, said) = approvals::get(&mut tx, w.who.tenant, id).await.unwrap();
    assert_eq!((approval.arguments.as_deref(), approval.given, said.len()), (Some(r#"{"all":true}"#), 1, 1));
    assert_ne!(approval.call_id, ask.call);
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn time_ends_what_is_pending_and_what_is_not_used(pool: PgPool) {
    let w = world(&pool).await;
    let (pending, approved) = (w.held(&w.ask()).await, w.held(&Ask { arguments: [5; 32], ..w.ask() }).await);
    assert!(w.decide(approved, "ann", true, None).await.unwrap());
    assert_eq!(approvals::expire(&w.store, support::now()).await.unwrap(), 0);
    let late = w.decide_at(pending, "ann", true, None, later(2)).await;
    assert!(matches!(late, Err(StoreError::Conflict(why)) if why.starts_with("nobody decided")), "before anyone has ended it");
    // The call comes before the round that ends them does.
    let after = Ask { now: later(2), expires_at: later(3), arguments: [5; 32], ..w.ask() };
    assert_ne!(waits(&w.stand(&after).await), approved);
    assert_eq!(w.state(approved).await, S::Expired);
    assert_eq!(approvals::expire(&w.store, later(2)).await.unwrap(), 1);
    assert_eq!(w.state(pending).await, S::Expired);
    assert_eq!(approvals::expire(&w.store, later(9)).await.unwrap(), 1, "the new one");
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn in_a_script_the_answer_goes_to_the_place_that_asked(pool: PgPool) {
    let w = world(&pool).await;
    let run = ScriptRunId::mint(support::now());
    let at = |sequence| Ask { place: Some(ScriptPlace { run, sequence }), ..w.ask() };
    let (one, two) = (w.held(&at(1)).await, w.held(&at(2)).await);
    let outside = w.held(&w.ask()).await;
    assert!(one != two && one != outside, "the same call in three places");
    assert!(w.decide(outside, "ann", true, None).await.unwrap());
    assert_eq!(waits(&w.stand(&at(1)).await), one, "an approval from elsewhere does not count");
    assert!(w.decide(one, "ann", true, None).await.unwrap() && w.decide(two, "ann", false, None).await.unwrap());
    assert_ne!(waits(&w.stand(&Ask { arguments: [7; 32], ..at(1) }).await), one, "other arguments at the same place");
    assert_eq!(w.state(one).await, S::Expired);
    assert_eq!(w.stand(&at(2)).await, Standing::Denied(two, None));
    assert_eq!(w.stand(&Ask { now: later(5), ..at(2) }).await, Standing::Denied(two, None), "also much later");
    let three = w.held(&at(3)).await;
    approvals::expire(&w.store, later(2)).await.unwrap();
    assert_eq!(w.stand(&Ask { now: later(2), ..at(3) }).await, Standing::Expired(three));
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_key_has_so_many_waiting_and_no_more(pool: PgPool) {
    let w = world(&pool).await;
    for n in 0..10 {
        waits(&w.stand(&Ask { arguments: [n; 32], ..w.ask() }).await);
    }
    assert_eq!(w.stand(&Ask { arguments: [99; 32], ..w.ask() }).await, Standing::TooMany);
    assert_eq!(w.count().await, 10, "nobody was asked");
    let other = Ask { key: Who::new(w.who.tenant).key, ..w.ask() };
    waits(&w.stand(&other).await);
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_run_is_taken_up_once_all_are_decided_and_by_one_worker(pool: PgPool) {
    let w = world(&pool).await;
    let run = ScriptRunId::mint(support::now());
    let at = |sequence| Ask { place: Some(ScriptPlace { run, sequence }), ..w.ask() };
    let (one, two) = (w.held(&at(1)).await, w.held(&at(2)).await);
    waiting::suspend(&w.store, w.who.tenant, run, w.who.key, support::now()).await.unwrap();
    let claim = || waiting::claim_decided(&w.store, w.who.worker, support::now());
    assert!(w.decide(one, "ann", true, None).await.unwrap());
    assert_eq!(claim().await.unwrap(), [], "one of two");
    assert!(w.decide(two, "ann", false, None).await.unwrap());
    let claims: Vec<_> = join_all((0..4).map(|_| claim())).await.into_iter().flat_map(Result::unwrap).collect();
    assert_eq!(claims, [waiting::Claim { tenant: w.who.tenant, run, turn: 1 }]);
    // It waits again, and takes its second turn.
    let three = w.held(&at(3)).await;
    waiting::suspend(&w.store, w.who.tenant, run, w.who.key, support::now()).await.unwrap();
    assert_eq!(claim().await.unwrap(), []);
    approvals::expire(&w.store, later(2)).await.unwrap();
    assert_eq!(w.state(three).await, S::Expired);
    assert_eq!(claim().await.unwrap()[0].turn, 2);
}
