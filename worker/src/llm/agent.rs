//! The loop between a model and its tools. In manual mode it has one turn: what the model asks for goes back to whoever asked the model.
//!
//! Every turn is a request of its own, under the first one. The end of a turn becomes durable while its tools run, and before the next turn
//! begins. Where people have to decide first, the loop is put down (`durable.rs`) and taken up later, here or in another worker.

use std::{sync::Arc, time::Duration};

use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use futures::future::join_all;
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;
use tollgate_domain::{LlmRequestId, Origin, Outcome, llm::Mode};
use tollgate_store::audit::AuditError;

use super::{
    answering::Answering,
    dialect::{Dialect, Read, ToolUse},
    durable::{self, Driving, Mark, Stays},
    execute::{Executed, execute},
    offer::Offer,
    request::{self, Asking, Open, Refusal},
    sse,
    stream::{self, Hold, Out, Place, Turned},
};
use crate::{
    call::Parent,
    caller::{Caller, Refused},
    gate::Gate,
    rates::Told,
    script::KEY_HAS_ENDED,
};

/// Between two signs of life while tools run.
const ALIVE: Duration = Duration::from_secs(15);
/// Until another worker serves.
const SOON: Duration = Duration::from_secs(1);

/// All that one request of a caller's needs, from its first turn to its last.
#[derive(Debug)]
pub struct Session {
    pub gate: Arc<Gate>,
    pub caller: Caller,
    pub dialect: Dialect,
    pub model: String,
    pub streaming: bool,
    pub mode: Mode,
    /// Turns at most.
    pub turns: u32,
    pub offer: Offer,
    /// Tools that the caller has brought along.
    pub own_tools: usize,
    pub own_usage: bool,
    pub client: Option<String>,
    /// What of the caller's goes on to providers.
    pub headers: HeaderMap,
    pub told: Told,
    /// The first turn's id, which the answer names.
    pub root: LlmRequestId,
    /// The body as it goes to the provider.
    pub body: Map<String, Value>,
    /// Whoever asked has gone: nothing new is begun.
    pub gone: CancellationToken,
    /// Of a loop that was taken up again.
    pub driving: Option<Driving>,
    /// What had happened before.
    pub done: Done,
}

/// What has happened in a loop so far.
#[derive(Debug, Default)]
pub struct Done {
    pub turn: u32,
    /// The last request that was begun here.
    pub request: Option<LlmRequestId>,
    /// Tool calls as callers are told of them, without what came of them.
    pub executed: Vec<Value>,
    /// Tokens of all turns, in and out.
    pub usage: Option<(u64, u64)>,
    /// Blocks and events that the caller has seen.
    blocks: u64,
    passed: u64,
    /// The caller has begun to read an answer.
    begun: bool,
}

/// How a turn goes on.
pub enum Next {
    /// The model reads what its tool calls came to.
    Again,
    /// It was the last one.
    Last,
    /// People have to decide: what the caller is told.
    Waits(Value),
}

/// An answer that has come to its end.
struct Answered {
    bytes: Bytes,
    answer: Value,
    next: Next,
}

impl Session {
    fn asking(&self, turn: u32) -> Asking<'_> {
        Asking {
            gate: &self.gate,
            caller: &self.caller,
            dialect: self.dialect,
            model: &self.model,
            streaming: self.streaming,
            mode: self.mode,
            root: self.root,
            turn,
            tools: self.offer.size(),
            client: self.client.clone(),
            headers: &self.headers,
            told: &self.told,
        }
    }

    async fn begin(&mut self, done: &mut Done) -> Result<(Open, Answering), Refusal> {
        if self.driving.is_some() && self.gate.shutdown.is_requested() {
            // Another worker goes on from here, sooner than this one would be done.
            let told = "the gateway's worker is about to end; ask for the answer of this loop again";
            return Err(Refusal {
                retry_after: Some(SOON),
                ..Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", told)
            });
        }
        done.turn += 1;
        let id = if done.turn == 1 { self.root } else { LlmRequestId::mint(self.gate.clock.now()) };
        done.request = Some(id);
        let begun = request::begin(&self.asking(done.turn), id, &self.body).await;
        if self.driving.is_none() && (self.mode == Mode::Manual || done.turn >= self.turns) {
            // No other turn comes, and this one's answer may take minutes.
            self.body = Map::new();
        }
        begun
    }

    /// The answer, once it is whole.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn answer(mut self) -> Result<Bytes, Refusal> {
        let mut done = std::mem::take(&mut self.done);
        let answered = self.turns(&mut done).await;
        Box::pin(self.ended(&done, answered.as_ref().map(|answered| &answered.next))).await?;
        let Answered { bytes, mut answer, next } = answered.map_err(|refusal| done.told(refusal))?;
        if self.mode == Mode::Manual {
            // Byte by byte.
            return Ok(bytes);
        }
        answer["tollgate"] = match next {
            Next::Waits(told) => told,
            Next::Again | Next::Last => done.shown(self.root, "done"),
        };
        Ok(answer.to_string().into())
    }

    async fn turns(&mut self, done: &mut Done) -> Result<Answered, Refusal> {
        loop {
            let (mut open, answering) = Box::pin(self.begin(done)).await?;
            let turned = stream::whole(&mut open, answering, self.dialect).await;
            if !turned.whole {
                return Err(Box::pin(failed(open, turned.ended)).await);
            }
            let Turned { ended, answer, bytes, read, .. } = turned;
            done.add(&read);
            match Box::pin(self.go_on(open, ended, &answer, read, done, None)).await? {
                Next::Again => {}
                next => return Ok(Answered { bytes, answer, next }),
            }
        }
    }

    /// Of a loop that was taken up: say how it ended, or let go of it. Nothing of a loop that another worker has is told.
    pub async fn ended(&mut self, done: &Done, next: Result<&Next, &Refusal>) -> Result<(), Refusal> {
        let Some(driving) = &mut self.driving else { return Ok(()) };
        match next {
            // It was put down.
            Ok(Next::Waits(_) | Next::Again) => Ok(()),
            Ok(Next::Last) => driving.end(done, None).await,
            // Nobody is left to hear of it, which is not the loop's fault.
            Err(_) if self.gone.is_cancelled() => {
                driving.rest().await;
                Ok(())
            }
            // What may be otherwise in a moment does not end what people have decided on.
            Err(refusal) if passes(refusal) && driving.rest_a_while(refusal).await => Ok(()),
            Err(refusal) => {
                // As the rows have it: what a provider says may say what it was asked.
                let message = self.caller.config().trail.words(refusal.message.clone()).await;
                let refusal = Refusal { message, ..refusal.clone() };
                driving.end(done, Some(&refusal)).await
            }
        }
    }

    /// End a turn, and make the tool calls that it asks for where that is ours to do.
    async fn go_on(
        &mut self,
        open: Open,
        ended: request::Ended,
        answer: &Value,
        read: Read,
        done: &mut Done,
        out: Option<&Out>,
    ) -> Result<Next, Refusal> {
        let ours = !read.calls.is_empty() && read.calls.iter().all(|call| self.offer.behind(&call.name).is_some());
        // Of an answer that was cut off, the last call may not be what the model was about to say.
        let finished = matches!(
            read.finish_reason.as_deref(),
            Some("tool_calls" | "function_call" | "stop" | "tool_use" | "end_turn" | "completed")
        );
        // A loop that was taken up is taken up again.
        let leaves = (self.gone.is_cancelled() || self.gate.shutdown.is_requested()) && self.driving.is_none();
        let may = self.mode == Mode::Agent && ours && finished && !leaves && done.turn < self.turns;
        let renewed = if may { self.renew().await } else { Ok(false) };
        let (true, Some(id)) = (matches!(renewed, Ok(true)), open.id()) else {
            open.close(ended).await?;
            if may && self.driving.is_some() {
                renewed?;
                return Err(Refusal::new(StatusCode::FORBIDDEN, "key_ended", KEY_HAS_ENDED));
            }
            return renewed.map(|_| Next::Last);
        };
        if self.driving.is_none() {
            // Written while the tools run: nobody hears of what they come to before both are done.
            let written = tokio::spawn(open.close(ended));
            let executed = self.execute(id, read.calls, out).await;
            let written = written.await.unwrap_or(Err(AuditError::Unavailable));
            done.tell(executed.iter().filter_map(|one| one.as_ref().ok()));
            written?;
            return self.settle(id, answer, executed.into_iter().collect::<Result<_, _>>()?, done).await;
        }
        // Whoever takes it up after this worker finds the turn, and that nothing of it was made yet.
        open.close(ended).await?;
        self.step((id, read.calls.iter().map(Mark::open).collect()), done, false).await?;
        if self.gone.is_cancelled() || self.gate.shutdown.is_requested() {
            return self.rest(done).await;
        }
        let executed = self.execute(id, read.calls.clone(), out).await;
        let executed = self.all_made(id, &read.calls, executed, done).await?;
        self.settle(id, answer, executed, done).await
    }

    /// The calls of a driven turn, where all of them have rows; else it is written which have, and the loop rests.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn all_made(
        &mut self,
        request: LlmRequestId,
        calls: &[ToolUse],
        executed: Vec<Result<Executed, AuditError>>,
        done: &mut Done,
    ) -> Result<Vec<Executed>, Refusal> {
        done.tell(executed.iter().filter_map(|one| one.as_ref().ok()));
        if let Some(error) = executed.iter().find_map(|one| one.as_ref().err()).copied() {
            let mark =
                |(one, call): (&Result<Executed, AuditError>, &ToolUse)| one.as_ref().map_or_else(|_| Mark::open(call), Mark::of);
            let marks = executed.iter().zip(calls).map(mark).collect();
            self.step((request, marks), done, false).await?;
            return Err(error.into());
        }
        Ok(executed.into_iter().flatten().collect())
    }

    /// What a turn's calls came to goes to the model, or the loop waits for people.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn settle(
        &mut self,
        request: LlmRequestId,
        answer: &Value,
        executed: Vec<Executed>,
        done: &Done,
    ) -> Result<Next, Refusal> {
        if executed.iter().any(Executed::waits) {
            let put = durable::put_down(self, request, done, &executed).await;
            // Of a run that waits a model can ask itself what has become of it.
            if put.is_ok() || executed.iter().any(|one| one.waiting.is_some()) {
                return Ok(Next::Waits(self.waits(&executed, done, put)));
            }
        } else if self.driving.is_some() {
            self.step((request, executed.iter().map(Mark::of).collect()), done, true).await?;
        }
        let results: Vec<_> = executed.into_iter().map(|one| one.result).collect();
        self.dialect.go_on(&mut self.body, answer, &results);
        Ok(Next::Again)
    }

    /// What a caller is told whose loop waits: what was done and what that came to, should it go on by itself.
    fn waits(&self, executed: &[Executed], done: &Done, put: Result<(), Stays>) -> Value {
        let mut told = done.shown(self.root, "waiting_approval");
        let last = told["tool_calls"].as_array_mut().into_iter().flatten().rev();
        for (told, one) in last.zip(executed.iter().rev()) {
            if !one.waits() {
                told["result"] = self.dialect.result(&one.result);
            }
        }
        match put {
            Ok(()) => durable::tell_how_to_resume(&mut told, self.root),
            Err(Stays(why)) => {
                told["resumable"] = false.into();
                let message = format!(
                    "The loop ends here, because {why}. Execute the calls once they are approved, and go on with the results"
                );
                told["message"] = message.into();
            }
        }
        told
    }

    async fn step(&mut self, at: (LlmRequestId, Vec<Mark>), done: &Done, further: bool) -> Result<(), Refusal> {
        let at = durable::state(self, at, done, (Vec::new(), Vec::new()));
        match &mut self.driving {
            Some(driving) => driving.step(at, further).await,
            None => Ok(()),
        }
    }

    /// Nobody is left to hear of it here: another worker goes on.
    async fn rest(&mut self, done: &Done) -> Result<Next, Refusal> {
        if let Some(driving) = &mut self.driving {
            driving.rest().await;
        }
        let mut told = done.shown(self.root, "running");
        durable::tell_how_to_resume(&mut told, self.root);
        Ok(Next::Waits(told))
    }

    /// Authority is asked for again before each thing that is done; false where the key has ended.
    async fn renew(&mut self) -> Result<bool, Refusal> {
        match self.caller.renewed(&self.gate.directory, self.gate.clock.now()).await {
            Ok(caller) => {
                self.caller = caller;
                Ok(true)
            }
            Err(Refused::Unavailable) => Err(AuditError::Unavailable.into()),
            Err(Refused::Unauthorized | Refused::UnknownGroup) => Ok(false),
        }
    }

    /// All at the same time; a caller who listens hears of each as it ends.
    pub async fn execute(
        &self,
        request: LlmRequestId,
        calls: Vec<ToolUse>,
        out: Option<&Out>,
    ) -> Vec<Result<Executed, AuditError>> {
        let cancel = CancellationToken::new();
        let _stops = cancel.clone().drop_guard();
        let each = calls.into_iter().map(|call| {
            let cancel = cancel.child_token();
            // Each with rows of its own: what one carries is no other's.
            let parent = Parent { told: self.told.clone(), ..Parent::known(request, Origin::Llm) };
            async move {
                let executed = execute(&self.gate, &self.caller, &parent, &self.offer, call, cancel).await?;
                if let Some(out) = out {
                    // A caller that does not read loses the news, never the answer.
                    let _ = out.try_send(self.aside(&json!({"tool_call": executed.told()})));
                }
                Ok::<_, AuditError>(executed)
            }
        });
        let mut all = std::pin::pin!(join_all(each));
        let mut alive = tokio::time::interval_at(tokio::time::Instant::now() + ALIVE, ALIVE);
        loop {
            tokio::select! {
                executed = &mut all => return executed,
                _ = alive.tick() => {
                    if let Some(out) = out {
                        let _ = out.try_send(Bytes::from_static(b": at work\n\n"));
                    }
                }
            }
        }
    }

    /// How the loop stands, as an event that clients which do not know of it pass over.
    fn aside(&self, told: &Value) -> Bytes {
        let event = match self.dialect {
            Dialect::Messages => json!({"type": "ping", "tollgate": told}),
            Dialect::Responses => json!({"type": "tollgate", "tollgate": told}),
            Dialect::Chat | Dialect::Embeddings => {
                json!({"id": self.root, "object": "chat.completion.chunk", "created": self.gate.clock.now().timestamp(), "model": self.model,
                    "choices": [{"index": 0, "delta": {}, "finish_reason": null}], "tollgate": told})
            }
        };
        sse::event(self.dialect, &event)
    }

    /// Begin a streamed answer: what is refused before the provider answers is still an ordinary answer.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn start(mut self) -> Result<Started, Refusal> {
        let mut done = std::mem::take(&mut self.done);
        match Box::pin(self.begin(&mut done)).await {
            Ok((open, answering)) => Ok(Started { session: self, done, open, answering }),
            Err(refusal) => {
                Box::pin(self.ended(&done, Err(&refusal))).await?;
                Err(done.told(refusal))
            }
        }
    }

    /// Pass on turn after turn; what is held back of the last one comes back.
    ///
    /// To begin a turn and to end it takes many times the memory that its pieces need, and almost all of the time goes by with pieces: all
    /// but these lies on the heap while it is done.
    async fn pass(
        &mut self,
        (mut open, mut answering): (Open, Answering),
        done: &mut Done,
        out: &Out,
    ) -> Result<(Next, Vec<Bytes>), Refusal> {
        let hold = if self.mode == Mode::Agent { Hold::Calls } else { Hold::End };
        loop {
            let place = Place { hold, own_usage: self.own_usage, blocks: done.blocks, passed: done.passed, first: !done.begun };
            let Turned { ended, answer, read, held, blocks, passed, whole, .. } =
                stream::pump(&mut open, answering, self.dialect, out, place).await;
            (done.blocks, done.passed, done.begun) = (done.blocks + blocks, passed, true);
            if !whole {
                return Err(Box::pin(failed(open, ended)).await);
            }
            done.add(&read);
            match Box::pin(self.go_on(open, ended, &answer, read, done, Some(out))).await? {
                Next::Again => {}
                next => return Ok((next, held)),
            }
            if out.is_closed() {
                self.gone.cancel();
                if self.driving.is_none() {
                    return Ok((Next::Last, Vec::new()));
                }
                return Ok((Box::pin(self.rest(done)).await?, Vec::new()));
            }
            (open, answering) = Box::pin(self.begin(done)).await?;
        }
    }

    fn error(&self, refusal: &Refusal) -> Bytes {
        let error = match self.dialect {
            Dialect::Responses => json!({"type": "error", "code": refusal.code, "message": refusal.message, "param": null}),
            dialect => refusal.body(dialect),
        };
        match self.dialect {
            Dialect::Messages => sse::frame(Some("error"), &error.to_string()),
            dialect => sse::event(dialect, &error),
        }
    }
}

/// A streamed answer that has begun.
pub struct Started {
    session: Session,
    done: Done,
    open: Open,
    answering: Answering,
}

impl Started {
    /// Whether the provider streams, as it was asked to.
    #[must_use]
    pub const fn is_stream(&self) -> bool {
        self.answering.is_stream()
    }

    /// Pass on turn after turn.
    pub async fn run(self: Box<Self>, out: Out) {
        let Self { mut session, mut done, open, answering } = *self;
        let passed = session.pass((open, answering), &mut done, &out).await;
        if out.is_closed() {
            session.gone.cancel();
        }
        let ended = Box::pin(session.ended(&done, passed.as_ref().map(|(next, _)| next))).await;
        let told = match (ended, passed) {
            (Err(refusal), _) | (_, Err(refusal)) => vec![session.error(&done.told(refusal))],
            (Ok(()), Ok((next, held))) => match next {
                Next::Waits(told) => [session.aside(&told)].into_iter().chain(held).collect(),
                Next::Again | Next::Last => held,
            },
        };
        for frame in told {
            if out.send(frame).await.is_err() {
                return;
            }
        }
    }

    /// An answer that did not come as a stream after all.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn whole(self) -> Result<Bytes, Refusal> {
        let Self { mut session, mut open, answering, done } = self;
        let turned = stream::whole(&mut open, answering, session.dialect).await;
        let ended = match turned.whole {
            true => open.close(turned.ended).await.map_err(Refusal::from),
            false => Err(failed(open, turned.ended).await),
        };
        session.ended(&done, ended.as_ref().map(|()| &Next::Last)).await?;
        ended.map(|()| turned.bytes)
    }
}

/// Whether what was refused may go well in a while.
fn passes(refusal: &Refusal) -> bool {
    matches!(
        refusal.status,
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS | StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT
    ) && refusal.code != "loop_interrupted"
}

/// A turn that did not come to its end.
async fn failed(open: Open, ended: request::Ended) -> Refusal {
    let message = ended.error.clone().unwrap_or_default();
    let (status, code) = match ended.outcome {
        Some(Outcome::Timeout) => (StatusCode::GATEWAY_TIMEOUT, "provider_timeout"),
        _ => (StatusCode::BAD_GATEWAY, "provider_error"),
    };
    match open.close(ended).await {
        Ok(()) => Refusal::new(status, code, message),
        Err(error) => error.into(),
    }
}

impl Done {
    fn add(&mut self, read: &Read) {
        if let Some(usage) = read.usage {
            let (input, output) = self.usage.unwrap_or_default();
            self.usage = Some((input + usage.input, output + usage.output));
        }
    }

    /// Calls that were made, some perhaps after they had waited.
    pub fn tell<'a>(&mut self, executed: impl Iterator<Item = &'a Executed>) {
        for one in executed {
            let told = one.told();
            let waited = |earlier: &Value| earlier.get("approval_id").is_some() || earlier.get("approvals").is_some();
            // Models give the same ids again in later turns.
            let same = |earlier: &&mut Value| earlier["tool_call_id"] == told["tool_call_id"] && waited(earlier);
            match self.executed.iter_mut().rfind(same) {
                Some(earlier) => *earlier = told,
                None => self.executed.push(told),
            }
        }
    }

    /// How the loop stands, for its caller.
    #[must_use]
    pub fn shown(&self, root: LlmRequestId, state: &str) -> Value {
        let usage = self.usage.map(|(input, output)| json!({"input_tokens": input, "output_tokens": output}));
        json!({"request_id": root, "state": state, "turns": self.turn, "tool_calls": self.executed, "usage": usage})
    }

    /// As it is kept, as JSON text.
    #[must_use]
    pub fn progress(&self) -> String {
        json!({"turns": self.turn, "tool_calls": self.executed, "usage": self.usage}).to_string()
    }

    /// As it was kept.
    #[must_use]
    pub fn of(progress: &str, turn: u32) -> Self {
        let progress: Value = serde_json::from_str(progress).unwrap_or_default();
        let executed = progress["tool_calls"].as_array().cloned().unwrap_or_default();
        let usage = serde_json::from_value(progress["usage"].clone()).unwrap_or_default();
        Self { turn, executed, usage, ..Self::default() }
    }

    /// A refusal that says what was done before it.
    pub fn told(&mut self, refusal: Refusal) -> Refusal {
        Refusal { done: std::mem::take(&mut self.executed), ..refusal }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of what such a function returns.
    fn size<A, F>(_: impl FnOnce(A) -> F) -> usize {
        size_of::<F>()
    }

    /// A call that is made in the middle of one of these, and not on the heap, makes it ten times as large for as long as a model takes.
    #[test]
    fn what_waits_for_a_model_is_small() {
        for (what, size) in [
            ("an open stream", size(|(started, out)| Started::run(started, out))),
            ("a stream that begins", size(Session::start)),
            ("a whole answer", size(Session::answer)),
            ("a request that a provider has not answered yet", size(|(asking, id, body)| request::begin(asking, id, body))),
        ] {
            assert!(size <= 6 << 10, "{what} takes {size} bytes");
        }
    }
}
