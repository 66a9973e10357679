//! Those who wait for the same thing are answered by one statement.
//!
//! Who comes first asks for all who have come by then; who comes while it is asked waits for the next turn. So a busy counter costs the
//! database one statement a round trip, however many wait, and nobody waits for longer than two.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::oneshot;

/// Queues that are kept when nobody waits in them.
const QUEUES: usize = 10_000;
/// Those who are answered by one statement at most.
const TOGETHER: usize = 1_024;

/// Queues by what is waited for.
#[derive(Debug)]
pub struct Combiner<K, W, A>(Mutex<HashMap<K, Arc<Queue<W, A>>>>);

#[derive(Debug)]
struct Queue<W, A> {
    waiting: Mutex<VecDeque<(W, oneshot::Sender<A>)>>,
    /// Held by the one who asks for all.
    asking: tokio::sync::Mutex<()>,
}

impl<K, W, A> Default for Combiner<K, W, A> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Hash + Eq, W, A> Combiner<K, W, A> {
    /// Wait for `key` with `wish`. `ask` is given the wishes of all who wait, in the order in which they came, and has an answer for
    /// each, in the same order. `None`: who asked for this one was stopped in the middle; whether it was answered is not known.
    pub async fn ask<F>(&self, key: K, wish: W, mut ask: impl FnMut(Vec<W>) -> F) -> Option<A>
    where
        F: Future<Output = Vec<A>>,
    {
        let queue = self.queue(key);
        let (tell, mut answer) = oneshot::channel();
        queue.lock().push_back((wish, tell));
        loop {
            let turn = queue.asking.lock().await;
            match answer.try_recv() {
                Ok(answer) => return Some(answer),
                Err(oneshot::error::TryRecvError::Closed) => return None,
                Err(oneshot::error::TryRecvError::Empty) => {}
            }
            let (wishes, tells): (Vec<W>, Vec<_>) = queue.next().into_iter().unzip();
            let answers = ask(wishes).await;
            drop(turn);
            for (tell, answer) in tells.into_iter().zip(answers) {
                // Who has gone meanwhile does not hear it.
                let _ = tell.send(answer);
            }
        }
    }

    fn queue(&self, key: K) -> Arc<Queue<W, A>> {
        let mut queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if queues.len() > QUEUES {
            // One that is in use is held by who uses it.
            queues.retain(|_, queue| Arc::strong_count(queue) > 1);
        }
        let queue = queues
            .entry(key)
            .or_insert_with(|| Arc::new(Queue { waiting: Mutex::default(), asking: tokio::sync::Mutex::default() }));
        Arc::clone(queue)
    }
}

impl<W, A> Queue<W, A> {
    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<(W, oneshot::Sender<A>)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those who are asked for next. Who has gone away is not.
    fn next(&self) -> Vec<(W, oneshot::Sender<A>)> {
        let mut waiting = self.lock();
        waiting.retain(|(_, tell)| !tell.is_closed());
        let count = waiting.len().min(TOGETHER);
        waiting.drain(..count).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use super::*;

    #[tokio::test]
    async fn who_waits_meanwhile_is_answered_together_and_in_order() {
        let combiner: Arc<Combiner<u8, usize, (usize, usize)>> = Arc::default();
        let statements = Arc::new(AtomicUsize::new(0));
        let ask = |wish: usize| {
            let (combiner, statements) = (Arc::clone(&combiner), Arc::clone(&statements));
            async move {
                let answer = combiner.ask(1, wish, |wishes| {
                    let statement = statements.fetch_add(1, Ordering::Relaxed);
                    async move {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        wishes.into_iter().map(|wish| (wish, statement)).collect()
                    }
                });
                answer.await
            }
        };
        let tasks: Vec<_> = (0..3 * TOGETHER).map(|wish| tokio::spawn(ask(wish))).collect();
        let mut by_statement = vec![0; 8];
        for (wish, task) in tasks.into_iter().enumerate() {
            let (mine, statement) = task.await.unwrap().unwrap();
            assert_eq!(mine, wish);
            by_statement[statement] += 1;
        }
        assert!(statements.load(Ordering::Relaxed) <= 5, "{by_statement:?}");
        assert!(by_statement.iter().all(|count| *count <= TOGETHER), "{by_statement:?}");
    }

    #[tokio::test]
    async fn who_goes_away_is_not_asked_for_and_holds_nobody_up() {
        let combiner: Arc<Combiner<u8, u8, u8>> = Arc::default();
        let slow = tokio::spawn({
            let combiner = Arc::clone(&combiner);
            async move {
                combiner
                    .ask(1, 1, |wishes| async {
                        std::future::pending::<()>().await;
                        wishes
                    })
                    .await
            }
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        let gone = tokio::spawn({
            let combiner = Arc::clone(&combiner);
            async move { combiner.ask(1, 2, |wishes| async { wishes }).await }
        });
        let last = tokio::spawn({
            let combiner = Arc::clone(&combiner);
            async move {
                let mut seen = Vec::new();
                let answer = combiner
                    .ask(1, 3, |wishes| {
                        seen.clone_from(&wishes);
                        async { wishes }
                    })
                    .await;
                (answer, seen)
            }
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        gone.abort();
        slow.abort();
        assert_eq!(last.await.unwrap(), (Some(3), vec![3]));
        assert!(gone.await.is_err() && slow.await.is_err());
    }
}
