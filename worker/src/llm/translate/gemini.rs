//! Providers that speak Google's generateContent.

use std::collections::HashMap;

use serde_json::{Map, Value, json};
use tollgate_domain::llm_price::Usage;

use super::{
    Reads, To, minted,
    neutral::{Call, Choice, Conversation, Event, Finish, Format, Message, Part, Picture, Role},
};

/// Before the id of a call that Gemini has given one: it wants it back.
const THEIRS: &str = "gem_";
/// Of one that it has not, which is known by its place alone.
const OURS: &str = "gen_";
/// What Google's documentation has for calls that no Gemini has made, or whose signature was lost: newer models take none without.
const UNSIGNED: &str = "skip_thought_signature_validator";

/// # Errors
/// A sentence that names what cannot be said.
pub fn write(all: &Conversation, to: &To<'_>) -> Result<Value, String> {
    if all.one_call {
        return Err(to.cannot("tool_choice.disable_parallel_tool_use"));
    }
    let mut contents = Vec::new();
    // Gemini knows results by the names of their tools, and by their order among the calls before them.
    let mut called = HashMap::new();
    for message in &all.messages {
        contents.push(content(message, &called, to)?);
        let first = called.len();
        called.extend(calls(message).enumerate().map(|(at, call)| (call.id.as_str(), (first + at, call.name.as_str()))));
    }
    contents.retain(|content| content["parts"] != json!([]));
    let mut body = Map::new();
    body.insert("contents".to_owned(), contents.into());
    if let Some(text) = all.system() {
        body.insert("systemInstruction".to_owned(), json!({"parts": [{"text": text}]}));
    }
    if !all.tools.is_empty() {
        let declared: Vec<Value> = all
            .tools
            .iter()
            .map(|tool| {
                let description = tool.description.as_deref().unwrap_or_default();
                json!({"name": tool.name, "description": description, "parametersJsonSchema": tool.parameters})
            })
            .collect();
        body.insert("tools".to_owned(), json!([{"functionDeclarations": declared}]));
        if let Some(choice) = &all.choice {
            let config = match choice {
                Choice::None => json!({"mode": "NONE"}),
                Choice::Auto => json!({"mode": "AUTO"}),
                Choice::Any => json!({"mode": "ANY"}),
                Choice::Named(name) => json!({"mode": "ANY", "allowedFunctionNames": [name]}),
            };
            body.insert("toolConfig".to_owned(), json!({"functionCallingConfig": config}));
        }
    }
    let config = config(all);
    if !config.is_empty() {
        body.insert("generationConfig".to_owned(), config.into());
    }
    Ok(body.into())
}

fn config(all: &Conversation) -> Map<String, Value> {
    let (kind, schema) = match &all.format {
        None => (None, None),
        Some(Format::Json) => (Some("application/json".into()), None),
        Some(Format::Schema { schema, .. }) => (Some("application/json".into()), Some(schema.clone())),
    };
    let fields = [
        ("maxOutputTokens", all.max_tokens.map(Value::from)),
        ("temperature", all.temperature.clone()),
        ("topP", all.top_p.clone()),
        ("topK", all.top_k.clone()),
        ("seed", all.seed.clone()),
        ("presencePenalty", all.presence_penalty.clone()),
        ("frequencyPenalty", all.frequency_penalty.clone()),
        ("stopSequences", (!all.stop.is_empty()).then(|| json!(all.stop))),
        ("responseMimeType", kind),
        ("responseJsonSchema", schema),
        ("thinkingConfig", all.thinking.map(|budget| json!({"includeThoughts": true, "thinkingBudget": budget}))),
    ];
    fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

/// Whether a model refuses calls without a signature: all but the first generations.
fn checks_signatures(model: &str) -> bool {
    !["gemini-1", "gemini-2"].iter().any(|older| model.contains(older))
}

fn calls(message: &Message) -> impl Iterator<Item = &Call> {
    message.parts.iter().filter_map(|part| match part {
        Part::Call(call) => Some(call),
        _ => None,
    })
}

fn content(message: &Message, called: &HashMap<&str, (usize, &str)>, to: &To<'_>) -> Result<Value, String> {
    let (mut results, mut parts) = (Vec::new(), Vec::new());
    // The first of calls made side by side carries the thought behind all of them.
    let mut is_first = true;
    for part in &message.parts {
        match part {
            Part::Text(text) => parts.push(json!({"text": text})),
            Part::Picture(Picture::Inline(kind, data)) => parts.push(json!({"inlineData": {"mimeType": kind, "data": data}})),
            Part::Picture(Picture::Address(_)) => return Err(to.cannot("a picture by its address")),
            Part::Call(call) => {
                let mut function = json!({"name": call.name, "args": call.object()});
                if let Some(id) = call.id.strip_prefix(THEIRS) {
                    function["id"] = id.into();
                }
                let mut part = json!({"functionCall": function});
                let unsigned = (std::mem::take(&mut is_first) && checks_signatures(to.model)).then_some(UNSIGNED);
                if let Some(by) = call.signature.as_deref().or(unsigned) {
                    part["thoughtSignature"] = by.into();
                }
                parts.push(part);
            }
            Part::Result(result) => {
                if result.has_pictures() {
                    return Err(to.cannot("a picture in a tool_result"));
                }
                let known = called.get(result.id.as_str()).copied();
                let (place, name) = known.ok_or_else(|| format!("\"{}\" is the result of no tool call", result.id))?;
                let key = if result.failed { "error" } else { "result" };
                let mut function = json!({"name": name, "response": {key: result.text()}});
                if let Some(id) = result.id.strip_prefix(THEIRS) {
                    function["id"] = id.into();
                }
                results.push((place, json!({"functionResponse": function})));
            }
            // Thoughts are shown, and not taken back.
            Part::Thought(_) => {}
        }
    }
    results.sort_by_key(|(place, _)| *place);
    let parts: Vec<Value> = results.into_iter().map(|(_, result)| result).chain(parts).collect();
    let role = if message.role == Role::User { "user" } else { "model" };
    Ok(json!({"role": role, "parts": parts}))
}

/// Reads an answer.
#[derive(Debug, Default)]
pub struct Reader {
    begun: bool,
    called: bool,
}

fn counted(usage: &Value) -> Option<Usage> {
    let number = |name: &str| usage[name].as_u64().unwrap_or(0);
    usage.as_object()?;
    let thoughts = number("thoughtsTokenCount");
    Some(Usage {
        input: number("promptTokenCount").saturating_add(number("toolUsePromptTokenCount")),
        cached_input: number("cachedContentTokenCount"),
        cache_write: 0,
        output: number("candidatesTokenCount").saturating_add(thoughts),
        reasoning: thoughts,
    })
}

impl Reader {
    fn part(&mut self, part: &Value, out: &mut Vec<Event>) {
        let function = &part["functionCall"];
        if let Some(name) = function["name"].as_str() {
            self.called = true;
            let theirs =
                function["id"].as_str().filter(|id| super::is_known_id(id) && id.len() <= 60).map(|id| format!("{THEIRS}{id}"));
            let id = theirs.unwrap_or_else(|| format!("{OURS}{}", minted()));
            let signature = part["thoughtSignature"].as_str().map(str::to_owned);
            out.push(Event::Call(Call { id, name: name.to_owned(), arguments: String::new(), signature }));
            let arguments = if function["args"].is_object() { function["args"].to_string() } else { "{}".to_owned() };
            out.push(Event::Arguments(arguments));
        }
        let text = part["text"].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        out.extend(text.map(|text| if part["thought"] == true { Event::Thought(text) } else { Event::Text(text) }));
    }

    fn finish(&self, reason: &str) -> Event {
        Event::Finish(match reason {
            "STOP" | "FINISH_REASON_UNSPECIFIED" if self.called => Finish::Calls,
            "STOP" | "FINISH_REASON_UNSPECIFIED" => Finish::Stop,
            "MAX_TOKENS" => Finish::Length,
            "SAFETY"
            | "RECITATION"
            | "LANGUAGE"
            | "BLOCKLIST"
            | "PROHIBITED_CONTENT"
            | "SPII"
            | "MODEL_ARMOR"
            | "IMAGE_SAFETY"
            | "IMAGE_PROHIBITED_CONTENT"
            | "IMAGE_RECITATION" => Finish::Filter,
            // Nothing of it can be gone on with.
            other => return Event::Failed(format!("the model's answer ended with {other}")),
        })
    }
}

impl Reads for Reader {
    fn event(&mut self, _: &str, chunk: &Value, out: &mut Vec<Event>) {
        if !chunk["error"].is_null() {
            return out.push(Event::Failed(crate::llm::dialect::words_of(&chunk["error"])));
        }
        let usage = counted(&chunk["usageMetadata"]);
        if !std::mem::replace(&mut self.begun, true) {
            let text = |name: &str| chunk[name].as_str().map(str::to_owned);
            out.push(Event::Start { id: text("responseId"), model: text("modelVersion"), usage });
        }
        out.extend(usage.map(Event::Usage));
        let candidate = &chunk["candidates"][0];
        for part in candidate["content"]["parts"].as_array().into_iter().flatten() {
            self.part(part, out);
        }
        out.extend(candidate["finishReason"].as_str().map(|reason| self.finish(reason)));
        if chunk["promptFeedback"]["blockReason"].is_string() {
            out.push(Event::Finish(Finish::Filter));
        }
    }

    fn whole(&mut self, answer: &Value, out: &mut Vec<Event>) -> Result<(), &'static str> {
        if answer["candidates"][0].is_null() && answer["promptFeedback"].is_null() {
            return Err("the provider's answer has no candidates");
        }
        self.event("", answer, out);
        Ok(())
    }
}
