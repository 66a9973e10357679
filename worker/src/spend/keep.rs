//! What a worker does with its leases beside drawing from them: renews them, and gives back what is used up, idle, asked for or left by the dead.

use std::{
    collections::HashSet,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use tollgate_domain::{BudgetId, Picos};
use tollgate_store::{StoreResult, spend};
use uuid::Uuid;

use super::{MARGIN, Wallet, Wallets};

const TICK: Duration = Duration::from_millis(500);
const RENEW: Duration = Duration::from_secs(5);
const DEAF: Duration = Duration::from_secs(1);
/// A lease from which nobody has drawn for this long goes back.
const IDLE: Duration = Duration::from_secs(2);
/// Leases that are closed in one statement.
const CLOSED_TOGETHER: usize = 256;

impl Wallet {
    /// These are closed, or are not and leave another time.
    fn closed(&self, leases: &HashSet<Uuid>, closed: StoreResult<()>) {
        let mut state = self.state();
        match closed {
            Ok(()) => state.leases.retain(|lease| !leases.contains(&lease.id)),
            Err(error) => {
                tracing::debug!(%error, "leases could not be closed; it is tried again");
                state.leases.iter_mut().filter(|lease| leases.contains(&lease.id)).for_each(|lease| lease.leaving = false);
            }
        }
    }
}

impl Wallets {
    /// Close the leases of a wallet that are closing and have nothing pending; how many are left that are closing.
    async fn give_back(&self, wallet: &Wallet) -> usize {
        let leaving: Vec<(Uuid, Option<Picos>)> = {
            let mut state = wallet.state();
            let ready = state.leases.iter_mut().filter(|lease| lease.closing && lease.pending == 0 && !lease.leaving);
            ready
                .map(|lease| {
                    lease.leaving = true;
                    (lease.id, (!lease.doubtful).then_some(Picos(lease.drawn)))
                })
                .collect()
        };
        let count = leaving.len();
        // Of those nobody waits for a row: they are closed together. Of the others each may be held for long.
        let known: Vec<(Uuid, Picos)> = leaving.iter().filter_map(|(id, drawn)| Some((*id, (*drawn)?))).collect();
        for together in known.chunks(CLOSED_TOGETHER) {
            let closed = spend::close_all(&self.0.store, together).await;
            wallet.closed(&together.iter().map(|(id, _)| *id).collect(), closed);
        }
        for (id, _) in leaving.into_iter().filter(|(_, drawn)| drawn.is_none()) {
            let closed = spend::close(&self.0.store, id, None).await;
            wallet.closed(&HashSet::from([id]), closed);
        }
        count + wallet.state().leases.iter().filter(|lease| lease.closing).count()
    }

    /// Give back what this worker holds of the budget and cannot use for this wallet's calls; how many leases are on their way.
    pub(super) async fn give_back_all(&self, wallet: &Wallet) -> usize {
        let mut closing = self.give_back(wallet).await;
        for other in self.all().into_iter().filter(|other| other.budget == wallet.budget && !std::ptr::eq(&**other, wallet)) {
            other.state().leases.iter_mut().for_each(|lease| lease.closing = true);
            closing += self.give_back(&other).await;
        }
        closing
    }

    fn all(&self) -> Vec<Arc<Wallet>> {
        self.0.wallets.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Keep leases alive, give back what is idle or asked for, and close what dead workers have left. Does not end.
    pub async fn keep(self) {
        tokio::join!(self.keep_alive(), self.give_back_what_is_idle(), self.close_what_has_expired(), self.hear());
    }

    async fn keep_alive(&self) {
        let mut ticks = tokio::time::interval(RENEW);
        loop {
            ticks.tick().await;
            self.renew().await;
        }
    }

    async fn give_back_what_is_idle(&self) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.tidy().await;
        }
    }

    async fn close_what_has_expired(&self) {
        let mut ticks = tokio::time::interval(RENEW);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Err(error) = spend::reap(&self.0.store).await {
                tracing::warn!(%error, "leases of dead workers were not closed; it is tried again");
            }
        }
    }

    /// Hear when another worker needs what lies idle here. A deaf worker costs the others two seconds.
    async fn hear(&self) {
        loop {
            match spend::listen(&self.0.store).await {
                Ok(mut listener) => {
                    while let Ok(Some(notice)) = listener.try_recv().await {
                        if let Ok(budget) = notice.payload().parse::<Uuid>() {
                            self.recalled(Some(budget.into())).await;
                        }
                    }
                }
                Err(error) => tracing::debug!(%error, "no ear for what other workers need"),
            }
            tokio::time::sleep(DEAF).await;
        }
    }

    async fn recalled(&self, budget: Option<BudgetId>) {
        for wallet in self.all().into_iter().filter(|wallet| budget.is_none_or(|budget| wallet.budget == budget)) {
            wallet.state().leases.iter_mut().for_each(|lease| lease.closing = true);
            self.give_back(&wallet).await;
        }
    }

    async fn renew(&self) {
        let leases: Vec<Uuid> =
            self.all().iter().flat_map(|wallet| wallet.state().leases.iter().map(|lease| lease.id).collect::<Vec<_>>()).collect();
        if leases.is_empty() {
            return;
        }
        let asked = Instant::now();
        let kept: HashSet<Uuid> = match spend::renew(&self.0.store, self.0.worker, &leases).await {
            Ok(kept) => kept.into_iter().collect(),
            Err(error) => {
                tracing::warn!(%error, "leases of budgets were not renewed; they end unless that succeeds soon");
                return;
            }
        };
        let asked_for: HashSet<Uuid> = leases.into_iter().collect();
        for wallet in self.all() {
            let mut state = wallet.state();
            state.leases.retain(|lease| kept.contains(&lease.id) || !asked_for.contains(&lease.id));
            let kept = state.leases.iter_mut().filter(|lease| kept.contains(&lease.id));
            kept.for_each(|lease| lease.usable_until = asked + spend::LEASE - MARGIN);
        }
    }

    async fn tidy(&self) {
        let now = self.0.clock.now();
        for wallet in self.all() {
            {
                let mut state = wallet.state();
                let a_second = state.drawn.saturating_mul(2);
                state.a_second = a_second;
                state.drawn = 0;
                for lease in &mut state.leases {
                    let over = now > lease.until + chrono::TimeDelta::seconds(2);
                    lease.closing |= over || lease.left == 0 || lease.used.elapsed() > IDLE;
                }
            }
            self.give_back(&wallet).await;
        }
        let mut wallets = self.0.wallets.lock().unwrap_or_else(PoisonError::into_inner);
        wallets.retain(|_, wallet| Arc::strong_count(wallet) > 1 || !wallet.state().leases.is_empty());
    }

    /// Give everything back: the process ends.
    pub async fn close(&self) {
        self.recalled(None).await;
    }
}
