//! The loop between a model and its tools. In manual mode it has one turn: what the model asks for goes back to whoever asked the model.
//!
//! Every turn is a request of its own, under the first one. The end of a turn is written with the first tool call that it led to, or with
//! the next turn: a loop costs no commit more than its parts do.

use std::time::Duration;

use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use futures::future::join_all;
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;
use tollgate_domain::{LlmRequestId, Origin, Outcome, llm::Mode};
use tollgate_store::audit::{AuditError, Entry, Keep};

use super::{
    dialect::{Dialect, ToolUse},
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
}

/// What has happened in a loop so far.
#[derive(Default)]
struct Done {
    turn: u32,
    executed: Vec<Value>,
    /// What is to be written with whatever is written next.
    carry: Entry,
    /// What keeps unwritten ends in the register.
    keeps: Vec<Keep>,
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
        let mut body = self.body.clone();
        let begun = request::begin(&self.asking(done.turn), id, &mut body, &mut done.carry).await;
        if begun.is_ok() {
            // The end of the turn before is written with it.
            done.keeps.clear();
        } else {
            drop(self.flush(done));
        }
        begun
    }

    /// Have written what waits to be, whatever becomes of whoever asked for it.
    fn flush(&self, done: &mut Done) -> tokio::task::JoinHandle<Result<(), AuditError>> {
        let (carry, keeps, audit) = (std::mem::take(&mut done.carry), std::mem::take(&mut done.keeps), self.gate.audit.clone());
        tokio::spawn(
            async move { if carry.is_empty() { Ok(()) } else { audit.after_keeping(carry, Some(Box::new(keeps))).await } },
        )
    }

    /// The answer, once it is whole.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn answer(mut self) -> Result<(StatusCode, Value), Refusal> {
        let mut done = Done::default();
        loop {
            let (mut open, answering) = self.begin(&mut done).await?;
            let turned = stream::whole(&mut open, answering, self.dialect).await;
            if !turned.whole {
                let message = turned.ended.error.clone().unwrap_or_default();
                let status =
                    if turned.ended.outcome == Outcome::Timeout { StatusCode::GATEWAY_TIMEOUT } else { StatusCode::BAD_GATEWAY };
                open.close(turned.ended).await?;
                return Err(Refusal { status, code: "provider_error", message, retry_after: None });
            }
            let Turned { ended, mut answer, read, .. } = turned;
            add(&mut done, read.usage.map(|usage| (usage.input, usage.output)));
            match self.go_on(open, ended, &answer, read.calls, &mut done, None).await? {
                Next::Again => {}
                Next::Last => {
                    self.mark(&mut answer, &done, "done");
                    return Ok((StatusCode::OK, answer));
                }
                Next::Waits => {
                    self.mark(&mut answer, &done, "waiting_approval");
                    return Ok((StatusCode::OK, answer));
                }
            }
        }
    }

    /// What an agent loop adds to an answer: what was done, and what it took in all.
    fn mark(&self, answer: &mut Value, done: &Done, state: &str) {
        if self.mode == Mode::Manual {
            return;
        }
        answer["tollgate"] = json!({
            "request_id": self.root, "state": state, "turns": done.turn, "tool_calls": done.executed,
            "usage": done.usage.map(|(input, output)| json!({"input_tokens": input, "output_tokens": output})),
        });
    }

    /// End a turn, and make the tool calls that it asks for where that is ours to do.
    async fn go_on(
        &mut self,
        open: Open,
        ended: request::Ended,
        answer: &Value,
        calls: Vec<ToolUse>,
        done: &mut Done,
        out: Option<&Out>,
    ) -> Result<Next, Refusal> {
        let ours = !calls.is_empty() && calls.iter().all(|call| self.offer.behind(&call.name).is_some());
        if self.mode == Mode::Manual || !ours || done.turn >= self.turns || !self.renew().await? {
            open.close(ended).await?;
            return Ok(Next::Last);
        }
        let id = open.id;
        let (end, keep) = open.end(ended).await;
        done.keeps.push(keep);
        let parent = Parent { told: self.told.clone(), ..Parent::known(id, Origin::Llm) };
        parent.carry.lock().unwrap_or_else(std::sync::PoisonError::into_inner).llm_ends.push(end);
        let executed = self.execute(&parent, calls, out).await;
        done.carry = parent.take_carry();
        let executed = match executed {
            Ok(executed) => executed,
            Err(refusal) => {
                drop(self.flush(done));
                return Err(refusal);
            }
        };
        let waits = executed.iter().any(|one| one.waiting.is_some());
        done.executed.extend(executed.iter().map(Executed::told));
        if waits {
            self.flush(done).await.unwrap_or(Err(AuditError::Unavailable))?;
            // Those that were made: who goes on with the conversation needs what they came to.
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
    async fn execute(&self, parent: &Parent, calls: Vec<ToolUse>, out: Option<&Out>) -> Result<Vec<Executed>, Refusal> {
        let cancel = CancellationToken::new();
        let _stops = cancel.clone().drop_guard();
        let each = calls.into_iter().map(|call| {
            let cancel = cancel.child_token();
            async move {
                let executed = execute(&self.gate, &self.caller, parent, &self.offer, call, cancel).await?;
                if let Some(out) = out {
                    // A caller that does not read loses the news, never the answer.
                    let _ = out.try_send(self.news(&executed.told()));
                }
                Ok::<_, AuditError>(executed)
            }
        });
        let mut all = std::pin::pin!(join_all(each));
        let mut alive = tokio::time::interval_at(tokio::time::Instant::now() + ALIVE, ALIVE);
        loop {
            tokio::select! {
                executed = &mut all => return Ok(executed.into_iter().collect::<Result<_, _>>()?),
                _ = alive.tick() => {
                    if let Some(out) = out {
                        let _ = out.try_send(Bytes::from_static(b": at work\n\n"));
                    }
                }
            }
        }
    }

    /// What a tool call came to, as an event that clients which do not know of it pass over.
    fn news(&self, told: &Value) -> Bytes {
        match self.dialect {
            Dialect::Messages => sse::frame(Some("ping"), &json!({"type": "ping", "tollgate": {"tool_call": told}}).to_string()),
            _ => {
                let chunk = json!({"id": self.root, "object": "chat.completion.chunk", "created": self.gate.clock.now().timestamp(), "model": self.model,
                    "choices": [{"index": 0, "delta": {}, "finish_reason": null}], "tollgate": {"tool_call": told}});
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
        let error = self.dialect.error(refusal.status, refusal.code, &refusal.message);
        let name = (self.dialect == Dialect::Messages || self.dialect == Dialect::Responses).then_some("error");
        let error = match self.dialect {
            Dialect::Responses => json!({"type": "error", "code": refusal.code, "message": refusal.message, "param": null}),
            _ => error,
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
            let Turned { ended, answer, read, held, blocks, whole } =
                stream::pump(&mut open, answering, session.dialect, &out, place).await;
            done.blocks += blocks;
            if !whole {
                let told = ended.error.clone().unwrap_or_default();
                let written = open.close(ended).await;
                let refusal =
                    Refusal { status: StatusCode::BAD_GATEWAY, code: "provider_error", message: told, retry_after: None };
                let refusal = written.map_or_else(Refusal::from, |()| refusal);
                let _ = out.send(session.error(&refusal)).await;
                return;
            }
            add(&mut done, read.usage.map(|usage| (usage.input, usage.output)));
            let next = match session.go_on(open, ended, &answer, read.calls, &mut done, Some(&out)).await {
                Ok(next) => next,
                Err(refusal) => return drop(out.send(session.error(&refusal)).await),
            };
            match next {
                Next::Again => {}
                Next::Last | Next::Waits => {
                    if matches!(next, Next::Waits) {
                        let waits = json!({"state": "waiting_approval", "tool_calls": done.executed});
                        let _ = out.send(session.waits(&waits)).await;
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
                let _ = session.flush(&mut done).await;
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
    pub async fn whole(self) -> Result<(StatusCode, Value), Refusal> {
        let Self { session, mut open, answering, .. } = self;
        let turned = stream::whole(&mut open, answering, session.dialect).await;
        let (whole, error) = (turned.whole, turned.ended.error.clone());
        open.close(turned.ended).await?;
        if whole {
            return Ok((StatusCode::OK, turned.answer));
        }
        let message = error.unwrap_or_default();
        Err(Refusal { status: StatusCode::BAD_GATEWAY, code: "provider_error", message, retry_after: None })
    }
}

impl Session {
    /// The loop stands still; what was done so far goes with it, in a form that programs read.
    fn waits(&self, waits: &Value) -> Bytes {
        match self.dialect {
            Dialect::Messages => sse::frame(Some("ping"), &json!({"type": "ping", "tollgate": waits}).to_string()),
            _ => {
                let chunk = json!({"id": self.root, "object": "chat.completion.chunk", "created": self.gate.clock.now().timestamp(), "model": self.model,
                    "choices": [{"index": 0, "delta": {}, "finish_reason": null}], "tollgate": waits});
                sse::frame(None, &chunk.to_string())
            }
        }
    }
}

fn add(done: &mut Done, usage: Option<(u64, u64)>) {
    if let Some((input, output)) = usage {
        let (all_in, all_out) = done.usage.unwrap_or_default();
        done.usage = Some((all_in + input, all_out + output));
    }
}
