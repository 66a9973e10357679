//! Each dialect to each kind of provider and back, by what the providers' documentation shows of their requests and answers.

mod answers;
mod requests;
mod streams;

use serde_json::{Map, Value, json};
use tollgate_domain::llm::ProviderKind;

use super::{Answers, To, forget, request};
use crate::llm::{
    dialect::{Dialect, Passage, Read},
    sse::{self, Frames},
    streamed::Streamed,
};

const OTHERS: [(Dialect, ProviderKind); 6] = [
    (Dialect::Chat, ProviderKind::Anthropic),
    (Dialect::Chat, ProviderKind::Gemini),
    (Dialect::Chat, ProviderKind::Bedrock),
    (Dialect::Messages, ProviderKind::OpenAi),
    (Dialect::Messages, ProviderKind::Gemini),
    (Dialect::Messages, ProviderKind::Bedrock),
];

fn to(dialect: Dialect, kind: ProviderKind) -> To<'static> {
    let model = match kind {
        ProviderKind::OpenAi => "gpt-5-mini",
        ProviderKind::Anthropic => "claude-sonnet-5-5",
        ProviderKind::Gemini => "gemini-3.8-flash",
        ProviderKind::Bedrock => "eu.anthropic.claude-sonnet-5-5-v1:0",
    };
    To { dialect, kind, model, base: "https://api.openai.com/v1" }
}

fn object(value: Value) -> Map<String, Value> {
    value.as_object().cloned().expect("an object")
}

fn sent(dialect: Dialect, kind: ProviderKind, body: Value) -> Result<Value, String> {
    request(&object(body), &to(dialect, kind))
}

/// What an answer that comes at once is in the caller's dialect, and what the door reads of it.
fn whole(dialect: Dialect, kind: ProviderKind, answer: &Value) -> (Value, Read) {
    let mut answers = Answers::new(&to(dialect, kind), 7, "application/json; charset=utf-8");
    assert!(!answers.is_stream());
    for piece in answer.to_string().as_bytes().chunks(5) {
        assert!(answers.push(piece).unwrap().is_empty(), "nothing before all of it has come");
    }
    let answer: Value = serde_json::from_slice(&answers.end()).unwrap();
    let read = dialect.read(&answer);
    (answer, read)
}

/// What comes of a stream, cut into pieces of any size: its events, and the answer that the door puts together from them.
struct Streaming {
    events: Vec<Value>,
    passages: Vec<Passage>,
    answer: Value,
    read: Read,
    ended: bool,
    error: Option<String>,
}

fn streaming(dialect: Dialect, kind: ProviderKind, bytes: &[u8], size: usize) -> Streaming {
    let media =
        if kind == ProviderKind::Bedrock { "application/vnd.amazon.eventstream" } else { "text/event-stream; charset=utf-8" };
    let mut answers = Answers::new(&to(dialect, kind), 7, media);
    assert!(answers.is_stream());
    let mut frames = Frames::default();
    for piece in bytes.chunks(size) {
        frames.push(&answers.push(piece).unwrap()).unwrap();
    }
    frames.push(&answers.end()).unwrap();
    let (mut streamed, mut events, mut passages) = (Streamed::new(dialect, true), Vec::new(), Vec::new());
    while let Some(frame) = frames.next() {
        let data = sse::data(&frame).unwrap();
        passages.push(streamed.push(&data));
        if data != "[DONE]" {
            events.push(serde_json::from_str(&data).unwrap());
        }
    }
    assert!(frames.rest().is_empty());
    let (answer, read) = streamed.answer(dialect);
    let (ended, error) = (streamed.ended(), streamed.error().map(str::to_owned));
    Streaming { events, passages, answer, read, ended, error }
}

fn sse(events: &[Value]) -> Vec<u8> {
    events.iter().flat_map(|event| sse::frame(event["type"].as_str(), &event.to_string()).to_vec()).collect()
}

#[test]
fn what_comes_out_is_what_goes_in_for_every_pair() {
    // Each kind's answer, said again as a history: tool calls keep their ids, and results find them.
    for (dialect, kind) in OTHERS {
        let (answer, read) = whole(dialect, kind, &answers::with_calls(kind));
        let mut body = match dialect {
            Dialect::Messages => {
                object(json!({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "weather?"}]}))
            }
            _ => object(json!({"model": "m", "messages": [{"role": "user", "content": "weather?"}]})),
        };
        let results: Vec<_> = read
            .calls
            .iter()
            .rev()
            .map(|call| crate::llm::dialect::ToolResult {
                id: call.id.clone(),
                name: call.name.clone(),
                text: format!("of {}", call.arguments),
                failed: false,
            })
            .collect();
        dialect.go_on(&mut body, &answer, &results);
        let again = request(&body, &to(dialect, kind)).unwrap_or_else(|why| panic!("{dialect:?} {kind}: {why}")).to_string();
        for expected in ["weather", "Paris", "London", "of {", "It is"] {
            assert!(again.contains(expected), "{dialect:?} {kind}: {expected} in {again}");
        }
        // And the caller's own kind gets it without what it does not know.
        forget(dialect, &mut body);
        let own = Value::from(body).to_string();
        for ours in ["tollgate:", "thought_signature", "thinking_blocks", "reasoning_content"] {
            assert!(!own.contains(ours), "{dialect:?} {kind}: {own}");
        }
    }
}
