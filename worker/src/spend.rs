//! What this worker may let calls cost without asking the database: leases of budgets.
//!
//! A call draws what it may cost at most from one lease of each budget that covers it, from all or from none, in memory. Its row
//! names these leases, and is written only while they are open. A wallet that has not enough asks for another lease, once for all who
//! wait; near the limit a lease is no more than they need. What is not used is given back: after a moment without a call, when
//! another worker asks for it, at the end of the window, and at the end of the process. `store::spend` says why this cannot overshoot.

mod keep;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use tollgate_domain::{
    Budget, BudgetId, Picos, TenantId, TimeZone, WorkerId,
    budget::{Spender, Window},
    clock::SharedClock,
    ids,
};
use tollgate_store::{Store, spend};
use uuid::Uuid;

/// How long before its end a lease is used no more: a row that names it has to be committed by then.
const MARGIN: Duration = Duration::from_secs(10);
/// How far a call may be older than a lease from which it draws.
const OLDEST_CALL: chrono::TimeDelta = chrono::TimeDelta::seconds(60);
/// A lease is asked for so many calls like the one that needs it, if there is plenty.
const AHEAD: i64 = 16;
/// Pauses between tries while others give back what they hold.
const RECALLS: [Duration; 4] =
    [Duration::from_millis(40), Duration::from_millis(80), Duration::from_millis(160), Duration::from_millis(320)];
/// How long an answer of "nothing left" stands for those who have waited for it.
const DRY: Duration = Duration::from_millis(100);
/// How often a call goes round when others take what it has waited for.
const ROUNDS: usize = 64;

/// Why nothing could be drawn.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Short {
    #[error("{0}")]
    Exhausted(Exhausted),
    #[error("the database does not answer")]
    Unavailable,
}

/// The budget that a call does not fit.
#[derive(Debug, Clone)]
pub struct Exhausted {
    pub budget: Arc<str>,
    pub limit: Picos,
    pub left: Picos,
    pub amount: Picos,
    pub resets_at: Option<DateTime<Utc>>,
}

impl std::fmt::Display for Exhausted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { budget, limit, left, amount, resets_at } = self;
        write!(f, "of budget \"{budget}\" {left} of {limit} is left, and the call may cost {amount}; ")?;
        match resets_at {
            Some(at) => write!(f, "there is room again from {} on", at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)),
            None => f.write_str("it does not begin anew: ask an admin"),
        }
    }
}

/// All wallets of a worker. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Wallets(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    worker: WorkerId,
    clock: SharedClock,
    /// Ask for no more than those need who wait.
    exact: bool,
    wallets: Mutex<HashMap<(BudgetId, DateTime<Utc>), Arc<Wallet>>>,
}

/// One window of one budget.
#[derive(Debug)]
struct Wallet {
    tenant: TenantId,
    budget: BudgetId,
    window: Window,
    state: Mutex<State>,
    /// Held by the one who asks the database for all who wait.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    leases: Vec<Lease>,
    /// What those who wait need together.
    waiting: i64,
    /// Drawn since the last tick, and what that comes to in a second.
    drawn: i64,
    a_second: i64,
    /// Nothing more than this was left at that time.
    dry: Option<(Instant, Picos)>,
}

#[derive(Debug)]
struct Lease {
    id: Uuid,
    floor: Uuid,
    left: i64,
    drawn: i64,
    /// Calls that have drawn and whose rows are not known to be written.
    pending: u32,
    /// Nobody draws any more: it goes back when nothing is pending.
    closing: bool,
    /// A row may or may not have been written: what was drawn is read from the rows.
    doubtful: bool,
    /// It is being closed.
    leaving: bool,
    used: Instant,
    usable_until: Instant,
    /// The end of its window: no later call draws from it.
    until: DateTime<Utc>,
}

/// What one call has drawn. Unless it is said what became of the call's row, that counts as unknown.
#[derive(Debug, Default)]
pub struct Hold {
    draws: Vec<(Arc<Wallet>, Uuid)>,
    amount: Picos,
}

impl Hold {
    #[must_use]
    pub fn leases(&self) -> Vec<Uuid> {
        self.draws.iter().map(|(_, lease)| *lease).collect()
    }

    /// The row is durable.
    pub fn written(mut self) {
        self.settle(|_, _| {});
    }

    /// The row is not written, and never will be.
    pub fn unwritten(mut self) {
        self.settle(|lease, amount| {
            lease.left += amount;
            lease.drawn -= amount;
        });
    }

    fn settle(&mut self, what: impl Fn(&mut Lease, i64)) {
        for (wallet, id) in self.draws.drain(..) {
            let mut state = wallet.state();
            // A lease that was lost is nobody's concern here: it is counted by its rows.
            if let Some(lease) = state.leases.iter_mut().find(|lease| lease.id == id) {
                lease.pending -= 1;
                what(lease, self.amount.0);
            }
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.settle(|lease, _| (lease.doubtful, lease.closing) = (true, true));
    }
}

impl Wallet {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A lease that has `amount`.
    fn fit(&mut self, (call, at): (Uuid, DateTime<Utc>), amount: i64, now: Instant) -> Option<&mut Lease> {
        let fits = |lease: &&mut Lease| {
            !lease.closing && lease.left >= amount && lease.usable_until > now && lease.floor <= call && at < lease.until
        };
        self.leases.iter_mut().find(fits)
    }
}

impl Wallets {
    #[must_use]
    pub fn new(store: Store, worker: WorkerId, clock: SharedClock) -> Self {
        Self(Arc::new(Inner { store, worker, clock, exact: false, wallets: Mutex::default() }))
    }

    /// Wallets that keep nothing ready: each lease is what those need who wait, as it is near every limit. For the benchmark.
    #[must_use]
    pub fn exact(store: Store, worker: WorkerId, clock: SharedClock) -> Self {
        Self(Arc::new(Inner { store, worker, clock, exact: true, wallets: Mutex::default() }))
    }

    /// Draw `amount` from every budget that covers the call of this id, or nothing from any.
    ///
    /// # Errors
    /// [`Short`], with the first budget that has not enough.
    pub async fn reserve(
        &self,
        (tenant, zone, budgets): (TenantId, TimeZone, &[Budget]),
        call: (Uuid, DateTime<Utc>),
        spender: &Spender,
        amount: Picos,
    ) -> Result<Hold, Short> {
        if amount.0 <= 0 || budgets.is_empty() {
            return Ok(Hold::default());
        }
        let covering: Vec<(&Budget, Arc<Wallet>)> = budgets
            .iter()
            .filter(|budget| budget.scope.covers(spender))
            .map(|budget| (budget, self.wallet(tenant, budget.id, budget.window(zone, call.1))))
            .collect();
        for _ in 0..ROUNDS {
            let (lacks, wallet) = match draw(&covering, call, amount) {
                Ok(hold) => return Ok(hold),
                Err(at) => &covering[at],
            };
            if let Some(left) = self.refill(wallet, call, amount).await? {
                return Err(Short::Exhausted(Exhausted {
                    budget: lacks.name.as_str().into(),
                    limit: lacks.limit,
                    left,
                    amount,
                    resets_at: lacks.resets_at(&wallet.window),
                }));
            }
        }
        Err(Short::Unavailable)
    }

    fn wallet(&self, tenant: TenantId, budget: BudgetId, window: Window) -> Arc<Wallet> {
        let mut wallets = self.0.wallets.lock().unwrap_or_else(PoisonError::into_inner);
        let wallet = wallets.entry((budget, window.starts_at)).or_insert_with(|| {
            Arc::new(Wallet { tenant, budget, window, state: Mutex::default(), asking: tokio::sync::Mutex::default() })
        });
        Arc::clone(wallet)
    }

    /// Have a lease that fits the call, if there can be one; else what is left.
    async fn refill(&self, wallet: &Arc<Wallet>, call: (Uuid, DateTime<Utc>), amount: Picos) -> Result<Option<Picos>, Short> {
        let _waiting = Waiting::of(wallet, amount);
        // Whoever has this asks for all.
        let _turn = wallet.asking.lock().await;
        {
            let mut state = wallet.state();
            let now = Instant::now();
            if state.fit(call, amount.0, now).is_some() {
                return Ok(None);
            }
            if let Some((_, left)) = state.dry.filter(|(at, left)| at.elapsed() < DRY && *left < amount) {
                return Ok(Some(left));
            }
            // What is too small for this call, or not renewed in time, would lie about.
            let idle = |lease: &&mut Lease| lease.left < amount.0 || lease.usable_until <= now;
            state.leases.iter_mut().filter(idle).for_each(|lease| lease.closing = true);
        }
        let mut left = self.ask(wallet, call, amount).await?;
        for pause in RECALLS {
            let Some((_, idle)) = left else { return Ok(None) };
            // What lies idle here goes back at once, and others are asked for what lies idle there.
            let own = self.give_back_all(wallet).await;
            if idle == 0 && own == 0 {
                break;
            }
            if idle > 0 && pause == RECALLS[0] {
                spend::recall(&self.0.store, wallet.budget).await.map_err(unavailable)?;
            }
            tokio::time::sleep(pause).await;
            left = self.ask(wallet, call, amount).await?;
        }
        let Some((left, _)) = left else { return Ok(None) };
        wallet.state().dry = Some((Instant::now(), left));
        Ok(Some(left))
    }

    /// Ask the database for a lease: what is left and what others hold where there is not enough.
    async fn ask(
        &self,
        wallet: &Wallet,
        (call, at): (Uuid, DateTime<Utc>),
        amount: Picos,
    ) -> Result<Option<(Picos, i128)>, Short> {
        let asked = Instant::now();
        let (waiting, want) = {
            let state = wallet.state();
            let soon = state.a_second.max(state.drawn).saturating_mul(2);
            let want = if self.0.exact { amount.0 } else { soon.max(amount.0.saturating_mul(AHEAD)) };
            (Picos(state.waiting.max(amount.0)), Picos(want))
        };
        let floor = ids::floor(self.0.clock.now() - OLDEST_CALL).min(call);
        let Wallet { tenant, budget, window, .. } = *wallet;
        let wanted = spend::Wanted { tenant, budget, window, at, need: amount, waiting, want, floor };
        let granted = spend::lease(&self.0.store, self.0.worker, &wanted).await.map_err(unavailable)?;
        if granted.amount < amount {
            return Ok(Some((granted.remaining, granted.idle)));
        }
        let mut state = wallet.state();
        state.dry = None;
        state.leases.push(Lease {
            id: granted.lease,
            floor,
            left: granted.amount.0,
            drawn: 0,
            pending: 0,
            closing: false,
            doubtful: false,
            leaving: false,
            used: Instant::now(),
            usable_until: asked + spend::LEASE - MARGIN,
            until: granted.until,
        });
        Ok(None)
    }
}

/// Draw from all of them, or say which has not enough.
fn draw(covering: &[(&Budget, Arc<Wallet>)], call: (Uuid, DateTime<Utc>), amount: Picos) -> Result<Hold, usize> {
    let now = Instant::now();
    let mut hold = Hold { draws: Vec::with_capacity(covering.len()), amount };
    for (at, (_, wallet)) in covering.iter().enumerate() {
        let drawn = {
            let mut state = wallet.state();
            let drawn = state.fit(call, amount.0, now).map(|lease| {
                lease.left -= amount.0;
                lease.drawn += amount.0;
                lease.pending += 1;
                lease.used = now;
                lease.id
            });
            if drawn.is_some() {
                state.drawn = state.drawn.saturating_add(amount.0);
            }
            drawn
        };
        match drawn {
            Some(lease) => hold.draws.push((Arc::clone(wallet), lease)),
            None => {
                hold.unwritten();
                return Err(at);
            }
        }
    }
    Ok(hold)
}

/// One who waits for a lease.
struct Waiting<'a>(&'a Wallet, i64);

impl<'a> Waiting<'a> {
    fn of(wallet: &'a Wallet, amount: Picos) -> Self {
        let mut state = wallet.state();
        state.waiting = state.waiting.saturating_add(amount.0);
        Self(wallet, amount.0)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.waiting = state.waiting.saturating_sub(self.1);
    }
}

fn unavailable(error: tollgate_store::StoreError) -> Short {
    tracing::warn!(%error, "no lease of a budget: the database does not answer");
    Short::Unavailable
}
