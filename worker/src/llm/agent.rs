//! The loop between a model and its tools. In manual mode it has one turn: what the model asks for goes back to whoever asked the model.
//!
//! Every turn is a request of its own, under the first one. The end of a turn becomes durable while its tools run, and before the next turn
//! begins.

use std::time::Duration;

use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use futures::future::join_all;
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;
use tollgate_domain::{LlmRequestId, Origin, Outcome, llm::Mode};
use tollgate_store::audit::AuditError;

use super::{
    dialect::{Dialect, Read, ToolUse},
    execute::{Executed, execute},
    offer::Offer,
    provider::Answering,
    request::{self, Asking, Open, Refusal},
    sse,
    stream::{self, Hold, Out, Place, Turned},
};
use crate::{
    call::Parent,
    caller::{Caller, Refused},
    gate::Gate,
    rates::Told,
};

/// Between two signs of life while tools run.
const ALIVE: Duration = Duration::from_secs(15);

/// All that one request of a caller's needs, from its first turn to its last.
#[derive(Debug)]
pub struct Session {
    pub gate: Gate,
    pub caller: Caller,
    pub dialect: Dialect,
    pub model: String,
    pub streaming: bool,
    pub mode: Mode,
    /// Turns at most.
    pub turns: u32,
    pub offer: Offer,
    pub own_usage: bool,
    pub client: Option<String>,
    pub headers: HeaderMap,
    pub told: Told,
    /// The first turn's id, which the answer names.
    pub root: LlmRequestId,
    /// The body as it goes to the provider.
    pub body: Map<String, Value>,
    /// Whoever asked has gone: nothing new is begun.
    pub gone: CancellationToken,
}

/// What has happened in a loop so far.
#[derive(Default)]
struct Done {
    turn: u32,
    executed: Vec<Value>,
    /// Blocks that the caller has seen.
    blocks: u64,
    usage: Option<(u64, u64)>,
}

/// How a turn goes on.
enum Next {
    /// The model reads what its tool calls came to.
    Again,
    /// It was the last one.
    Last,
    /// A call waits for people.
    Waits,
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
        done.turn += 1;
        let id = if done.turn == 1 { self.root } else { LlmRequestId::mint(self.gate.clock.now()) };
        let begun = request::begin(&self.asking(done.turn), id, &self.body).await;
        begun.map_err(|refusal| done.told(refusal))
    }

    /// The answer, once it is whole.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn answer(mut self) -> Result<Bytes, Refusal> {
        let mut done = Done::default();
        loop {
            let (mut open, answering) = self.begin(&mut done).await?;
            let turned = stream::whole(&mut open, answering, self.dialect).await;
            if !turned.whole {
                return Err(done.told(failed(open, turned.ended).await));
            }
            let Turned { ended, mut answer, bytes, read, .. } = turned;
            done.add(&read);
            let state = match self.go_on(open, ended, &answer, read, &mut done, None).await {
                Ok(Next::Again) => continue,
                Ok(Next::Last) => "done",
                Ok(Next::Waits) => "waiting_approval",
                Err(refusal) => return Err(done.told(refusal)),
            };
            if self.mode == Mode::Manual {
                // Byte by byte.
                return Ok(bytes);
            }
            answer["tollgate"] = json!({
                "request_id": self.root, "state": state, "turns": done.turn, "tool_calls": done.executed,
                "usage": done.usage.map(|(input, output)| json!({"input_tokens": input, "output_tokens": output})),
            });
            return Ok(answer.to_string().into());
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
        let leaves = self.gone.is_cancelled() || self.gate.shutdown.is_requested();
        let may = self.mode == Mode::Agent && ours && finished && !leaves && done.turn < self.turns;
        let renewed = if may { self.renew().await } else { Ok(false) };
        let (true, Some(id)) = (matches!(renewed, Ok(true)), open.id()) else {
            open.close(ended).await?;
            return renewed.map(|_| Next::Last);
        };
        // Written while the tools run: nobody hears of what they come to before both are done.
        let written = tokio::spawn(open.close(ended));
        let executed = self.execute(id, read.calls, out).await;
        let written = written.await.unwrap_or(Err(AuditError::Unavailable));
        done.executed.extend(executed.iter().filter_map(|one| one.as_ref().ok()).map(Executed::told));
        let executed = executed.into_iter().collect::<Result<Vec<_>, _>>()?;
        written?;
        if executed.iter().any(|one| one.waiting.is_some()) {
            // Those that were made: who goes on with the conversation needs what they came to, and must not make them again.
            for (told, one) in done.executed.iter_mut().rev().zip(executed.iter().rev()) {
                if one.waiting.is_none() {
                    told["result"] = self.dialect.result(&one.result);
                }
            }
            return Ok(Next::Waits);
        }
        let results: Vec<_> = executed.into_iter().map(|one| one.result).collect();
        self.dialect.go_on(&mut self.body, answer, &results);
        Ok(Next::Again)
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
    async fn execute(&self, request: LlmRequestId, calls: Vec<ToolUse>, out: Option<&Out>) -> Vec<Result<Executed, AuditError>> {
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
        match self.dialect {
            Dialect::Messages => sse::frame(Some("ping"), &json!({"type": "ping", "tollgate": told}).to_string()),
            _ => {
                let chunk = json!({"id": self.root, "object": "chat.completion.chunk", "created": self.gate.clock.now().timestamp(), "model": self.model,
                    "choices": [{"index": 0, "delta": {}, "finish_reason": null}], "tollgate": told});
                sse::frame(None, &chunk.to_string())
            }
        }
    }

    /// Begin a streamed answer: what is refused before the provider answers is still an ordinary answer.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn start(mut self) -> Result<Started, Refusal> {
        let mut done = Done::default();
        let (open, answering) = self.begin(&mut done).await?;
        Ok(Started { session: self, done, open, answering })
    }

    fn error(&self, refusal: &Refusal) -> Bytes {
        let name = (self.dialect == Dialect::Messages || self.dialect == Dialect::Responses).then_some("error");
        let error = match self.dialect {
            Dialect::Responses => json!({"type": "error", "code": refusal.code, "message": refusal.message, "param": null}),
            dialect => refusal.body(dialect),
        };
        sse::frame(name, &error.to_string())
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
    pub fn is_stream(&self) -> bool {
        stream::is_stream(&self.answering.response)
    }

    /// Pass on turn after turn.
    pub async fn run(self, out: Out) {
        let Self { mut session, mut done, mut open, mut answering } = self;
        let hold = if session.mode == Mode::Agent { Hold::Calls } else { Hold::End };
        loop {
            let place = Place { hold, own_usage: session.own_usage, blocks: done.blocks, first: done.turn == 1 };
            let Turned { ended, answer, read, held, blocks, whole, .. } =
                stream::pump(&mut open, answering, session.dialect, &out, place).await;
            done.blocks += blocks;
            if !whole {
                let refusal = done.told(failed(open, ended).await);
                return drop(out.send(session.error(&refusal)).await);
            }
            done.add(&read);
            let next = match session.go_on(open, ended, &answer, read, &mut done, Some(&out)).await {
                Ok(next) => next,
                Err(refusal) => return drop(out.send(session.error(&done.told(refusal))).await),
            };
            match next {
                Next::Again => {}
                Next::Last | Next::Waits => {
                    if matches!(next, Next::Waits) {
                        let waits = json!({"state": "waiting_approval", "tool_calls": done.executed});
                        let _ = out.send(session.aside(&waits)).await;
                    }
                    for frame in held {
                        if out.send(frame).await.is_err() {
                            return;
                        }
                    }
                    return;
                }
            }
            if out.is_closed() {
                return;
            }
            (open, answering) = match session.begin(&mut done).await {
                Ok(begun) => begun,
                Err(refusal) => return drop(out.send(session.error(&refusal)).await),
            };
        }
    }

    /// An answer that did not come as a stream after all.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn whole(self) -> Result<Bytes, Refusal> {
        let Self { session, mut open, answering, .. } = self;
        let turned = stream::whole(&mut open, answering, session.dialect).await;
        if turned.whole {
            open.close(turned.ended).await?;
            return Ok(turned.bytes);
        }
        Err(failed(open, turned.ended).await)
    }
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

    /// A refusal that says what was done before it.
    fn told(&mut self, refusal: Refusal) -> Refusal {
        Refusal { done: std::mem::take(&mut self.executed), ..refusal }
    }
}
