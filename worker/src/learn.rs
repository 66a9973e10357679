//! Learns what results look like, for tools that do not say so themselves. Off the path of calls: of some results a copy is laid
//! into a short queue, and where that is full, it is not.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use serde_json::Value;
use tokio::sync::mpsc;
use tollgate_boot::Shutdown;
use tollgate_codemode::{seen::Seen, value::answer_of, wire::Answer};
use tollgate_domain::{Outcome, TenantId, ToolId, clock::SharedClock, tool::DefinitionHash, tool::Tool};
use tollgate_store::{Store, payload::Payload, shapes};

/// Results that wait to be looked at.
const QUEUE: usize = 64;
/// Larger results are not looked at: there are smaller ones.
const LARGEST: usize = 256 << 10;
/// The first results of a tool are all looked at, then one in so many.
const FIRST: u32 = 8;
const ONE_IN: u32 = 32;
/// Tools of which this worker remembers anything; then it begins anew.
const TOOLS: usize = 4096;

/// Where calls leave what may be learned from. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Learner {
    lessons: mpsc::Sender<Lesson>,
    /// Results of each tool so far.
    counts: Arc<Mutex<HashMap<ToolId, u32>>>,
}

#[derive(Debug)]
struct Lesson {
    tenant: TenantId,
    tool: ToolId,
    hash: DefinitionHash,
    definition: Arc<Value>,
    /// As the trail keeps it: of what the tenant's rules take out, nothing is learned.
    result: Arc<[u8]>,
}

impl Learner {
    #[must_use]
    pub fn start(store: Store, clock: SharedClock, shutdown: &Shutdown) -> Self {
        let (lessons, queue) = mpsc::channel(QUEUE);
        shutdown.spawn(study(store, clock, queue, shutdown.clone()));
        Self { lessons, counts: Arc::default() }
    }

    /// A tool has answered. Costs a look at a table, and now and then a copy.
    pub fn hear(&self, tenant: TenantId, tool: &Tool, outcome: Outcome, result: Option<&Payload>) {
        let Some(result) = result.and_then(Payload::stored).filter(|result| result.len() <= LARGEST) else { return };
        let says_so = tool.definition.get("outputSchema").is_some_and(Value::is_object);
        if outcome != Outcome::Ok || says_so || !self.is_worth_it(tool.id) {
            return;
        }
        let Ok(place) = self.lessons.try_reserve() else {
            metrics::counter!("tollgate_shape_lessons_dropped_total").increment(1);
            return;
        };
        place.send(Lesson {
            tenant,
            tool: tool.id,
            hash: tool.definition_sha256,
            definition: Arc::clone(&tool.definition),
            result: result.into(),
        });
    }

    fn is_worth_it(&self, tool: ToolId) -> bool {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.len() >= TOOLS && !counts.contains_key(&tool) {
            counts.clear();
        }
        let count = counts.entry(tool).or_default();
        *count = count.wrapping_add(1);
        *count <= FIRST || count.is_multiple_of(ONE_IN)
    }
}

async fn study(store: Store, clock: SharedClock, mut queue: mpsc::Receiver<Lesson>, shutdown: Shutdown) {
    // What the database has at least: most lessons teach nothing new, and cost it nothing.
    let mut known: HashMap<ToolId, (DefinitionHash, Seen)> = HashMap::new();
    loop {
        let lesson = tokio::select! {
            () = shutdown.requested() => return,
            lesson = queue.recv() => lesson,
        };
        let Some(Lesson { tenant, tool, hash, definition, result }) = lesson else { return };
        // Parsing takes milliseconds at worst, on a thread that may take them.
        let Ok(Some(seen)) = tokio::task::spawn_blocking(move || look(&result, &definition)).await else { continue };
        let before = known.get(&tool).filter(|(of, _)| *of == hash).map(|(_, seen)| seen.clone());
        if before.as_ref().is_some_and(|before| before.clone().merge(seen.clone()) == *before) {
            continue;
        }
        let mut all = seen.clone();
        let learned = shapes::learn(&store, (tenant, tool), hash, clock.now(), |stored| {
            let stored = stored.and_then(|text| serde_json::from_str::<Seen>(text).ok());
            all = stored.unwrap_or_default().merge(seen);
            serde_json::to_string(&all).unwrap_or_default()
        });
        match learned.await {
            Ok(()) => {
                if known.len() >= TOOLS {
                    known.clear();
                }
                known.insert(tool, (hash, all));
            }
            Err(error) => tracing::debug!(%error, %tool, "what a result looks like was not noted"),
        }
    }
}

/// The shape of what a script would see of a result.
fn look(result: &[u8], definition: &Value) -> Option<Seen> {
    let result: Value = serde_json::from_slice(result).ok()?;
    match answer_of(&result, definition) {
        Answer::Value(value) => Some(Seen::of(&value)),
        Answer::Error(_) => None,
    }
}
