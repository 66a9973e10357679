//! A conversation and its answer in nobody's dialect. Each caller's dialect is read into it and written from it, and so is each provider's:
//! one file for each, instead of one for each pair.

use serde_json::Value;
use tollgate_domain::llm_price::Usage;

/// What a model is asked.
#[derive(Debug, Default)]
pub struct Conversation {
    /// Texts of the system, all before the first message.
    pub system: Vec<String>,
    /// No two of one role behind each other.
    pub messages: Vec<Message>,
    pub tools: Vec<Tool>,
    pub choice: Option<Choice>,
    /// One tool call at a time.
    pub one_call: bool,
    pub max_tokens: Option<u64>,
    /// Numbers, as the caller has written them.
    pub temperature: Option<Value>,
    pub top_p: Option<Value>,
    pub top_k: Option<Value>,
    pub seed: Option<Value>,
    pub presence_penalty: Option<Value>,
    pub frequency_penalty: Option<Value>,
    pub stop: Vec<String>,
    pub format: Option<Format>,
    /// Tokens that the model may think with, where the caller wants to see its thoughts.
    pub thinking: Option<u64>,
    pub stream: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    User,
    Assistant,
}

#[derive(Debug)]
pub struct Message {
    pub role: Role,
    pub parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    Text(String),
    Picture(Picture),
    Call(Call),
    Result(Outcome),
    Thought(Thought),
}

#[derive(Debug, Clone, PartialEq)]
pub enum Picture {
    /// Its media type, and its bytes in base64.
    Inline(String, String),
    Address(String),
}

/// A tool call that a model has asked for.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Call {
    pub id: String,
    pub name: String,
    /// JSON text, as the model wrote it.
    pub arguments: String,
    /// By which Gemini knows the thought behind it.
    pub signature: Option<String>,
}

/// What a tool call came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Of the call.
    pub id: String,
    /// Texts and pictures.
    pub parts: Vec<Part>,
    pub failed: bool,
}

/// What a model thought.
#[derive(Debug, Clone, PartialEq)]
pub enum Thought {
    /// Without a signature, nobody takes it back.
    Shown(String, Option<String>),
    Hidden(String),
}

/// A tool that the model may call.
#[derive(Debug)]
pub struct Tool {
    pub name: String,
    pub description: Option<String>,
    /// JSON Schema of an object.
    pub parameters: Value,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    None,
    Auto,
    Any,
    Named(String),
}

/// What the answer has to be.
#[derive(Debug)]
pub enum Format {
    Json,
    Schema { name: String, schema: Value },
}

/// Why an answer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finish {
    Stop,
    /// At a text of the caller's.
    StopAt(Option<String>),
    Length,
    Calls,
    /// Somebody has kept it back.
    Filter,
}

/// What comes of an answer, in its order.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    Start {
        id: Option<String>,
        model: Option<String>,
        usage: Option<Usage>,
    },
    Text(String),
    Thought(String),
    /// Of the thought before it, which ends with it.
    Signed(String),
    Hidden(String),
    /// The beginning of a tool call; its arguments follow.
    Call(Call),
    Arguments(String),
    Finish(Finish),
    /// All that has been counted so far.
    Usage(Usage),
    /// In the provider's words.
    Failed(String),
    /// Nothing comes after it.
    Done,
}

/// An answer that came at once, or all that came of it.
#[derive(Debug, Default)]
pub struct Answer {
    pub id: Option<String>,
    pub model: Option<String>,
    pub parts: Vec<Part>,
    pub finish: Option<Finish>,
    pub usage: Option<Usage>,
    pub failed: Option<String>,
}

impl Conversation {
    /// Put something behind what was said.
    pub fn say(&mut self, role: Role, parts: Vec<Part>) {
        match self.messages.last_mut() {
            _ if parts.is_empty() => {}
            Some(last) if last.role == role => last.parts.extend(parts),
            _ => self.messages.push(Message { role, parts }),
        }
    }

    #[must_use]
    pub fn system(&self) -> Option<String> {
        (!self.system.is_empty()).then(|| self.system.join("\n\n"))
    }
}

impl Call {
    /// Its arguments as an object. What is none is the model's mistake, which it had better see again.
    #[must_use]
    pub fn object(&self) -> Value {
        match serde_json::from_str(&self.arguments) {
            Ok(object @ Value::Object(_)) => object,
            _ if self.arguments.trim().is_empty() => serde_json::json!({}),
            _ => serde_json::json!({"arguments": self.arguments}),
        }
    }
}

impl Outcome {
    /// Its texts.
    #[must_use]
    pub fn text(&self) -> String {
        let text = |part: &Part| match part {
            Part::Text(text) => Some(text.clone()),
            _ => None,
        };
        self.parts.iter().filter_map(text).collect::<Vec<_>>().join("\n")
    }

    #[must_use]
    pub fn has_pictures(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Picture(_)))
    }
}

impl Answer {
    #[must_use]
    pub fn of(events: Vec<Event>) -> Self {
        let mut all = Self::default();
        for event in events {
            all.take(event);
        }
        all
    }

    fn take(&mut self, event: Event) {
        match (event, self.parts.last_mut()) {
            (Event::Start { id, model, usage }, _) => (self.id, self.model, self.usage) = (id, model, usage),
            (Event::Text(more), Some(Part::Text(text))) => text.push_str(&more),
            (Event::Text(text), _) => self.parts.push(Part::Text(text)),
            (Event::Thought(more), Some(Part::Thought(Thought::Shown(text, None)))) => text.push_str(&more),
            (Event::Thought(text), _) => self.parts.push(Part::Thought(Thought::Shown(text, None))),
            (Event::Signed(by), Some(Part::Thought(Thought::Shown(_, signature)))) => *signature = Some(by),
            (Event::Signed(by), _) => self.parts.push(Part::Thought(Thought::Shown(String::new(), Some(by)))),
            (Event::Hidden(data), _) => self.parts.push(Part::Thought(Thought::Hidden(data))),
            (Event::Call(call), _) => self.parts.push(Part::Call(call)),
            (Event::Arguments(more), Some(Part::Call(call))) => call.arguments.push_str(&more),
            (Event::Finish(finish), _) => self.finish = Some(finish),
            (Event::Usage(usage), _) => self.usage = Some(usage),
            (Event::Failed(words), _) => self.failed = Some(words),
            (Event::Arguments(_) | Event::Done, _) => {}
        }
    }
}
