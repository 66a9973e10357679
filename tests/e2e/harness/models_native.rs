//! The fake provider in the words of Google's generateContent and Amazon's Converse.

use std::time::Duration;

use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use serde_json::{Value, json};

use super::models::{LEAK, Says, Shared, credential, note, pieces, says, tokens, whole, words};

pub fn routes() -> Router<Shared> {
    Router::new()
        .route("/v1beta/models/{verb}", post(gemini))
        .route("/model/{model}/converse", post(|state, path, headers, body| bedrock(state, path, headers, body, false)))
        .route("/model/{model}/converse-stream", post(|state, path, headers, body| bedrock(state, path, headers, body, true)))
}

/// A refusal in the words of each.
fn refuse(status: StatusCode, message: &str, google: bool, error: &'static str) -> Response {
    let body = if google {
        json!({"error": {"code": status.as_u16(), "message": message, "status": "X", "details": [{"reason": error}]}})
    } else {
        json!({"message": message})
    };
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::SERVER, LEAK),
        (HeaderName::from_static("x-amzn-errortype"), error),
    ];
    (status, headers, body.to_string()).into_response()
}

/// What a model does before it says anything.
async fn mood(model: &str, times: usize, headers: &HeaderMap, google: bool) -> Option<Response> {
    let key = credential(headers);
    match model {
        "busy" if times <= 2 => Some(refuse(StatusCode::TOO_MANY_REQUESTS, "too many", google, "ThrottlingException")),
        "down" => Some(refuse(StatusCode::SERVICE_UNAVAILABLE, "overloaded", google, "ServiceUnavailableException")),
        "shut" if google => {
            Some(refuse(StatusCode::BAD_REQUEST, &format!("API key not valid: {key}"), google, "API_KEY_INVALID"))
        }
        "shut" => {
            Some(refuse(StatusCode::FORBIDDEN, &format!("The token {key} is invalid"), google, "UnrecognizedClientException"))
        }
        "wrong" => {
            Some(refuse(StatusCode::BAD_REQUEST, &format!("temperature is too high for {key}"), google, "ValidationException"))
        }
        "garbage" => Some((StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], "<html>").into_response()),
        "silent" => {
            tokio::time::sleep(Duration::from_secs(600)).await;
            None
        }
        _ => None,
    }
}

fn texts<'a>(parts: impl IntoIterator<Item = &'a Value>) -> String {
    parts.into_iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join(" ")
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

async fn gemini(State(memory): State<Shared>, Path(verb): Path<String>, headers: HeaderMap, body: Bytes) -> Response {
    let body: Value = serde_json::from_slice(&body).expect("JSON");
    let (model, verb) = verb.split_once(':').expect("a verb");
    let times = note(&memory, ("gemini", model), &headers, &body);
    if let Some(answer) = mood(model, times, &headers, true).await {
        return answer;
    }
    let turns = || array(&body["contents"]);
    let of_user = |part: &&Value| part["role"] == "user" && part["parts"][0].get("functionResponse").is_none();
    let last = turns().filter(of_user).last().map(|turn| texts(array(&turn["parts"]))).unwrap_or_default();
    let results: Vec<String> = turns()
        .flat_map(|turn| array(&turn["parts"]))
        .filter_map(|part| Some(part.get("functionResponse")?["response"].to_string()))
        .collect();
    // It knows its own thoughts.
    let calls: Vec<&Value> =
        turns().flat_map(|turn| array(&turn["parts"])).filter(|part| part.get("functionCall").is_some()).collect();
    if !calls.is_empty() && !calls.iter().any(|part| part["thoughtSignature"] == "c2lnbmVk") {
        return refuse(StatusCode::BAD_REQUEST, "Function call is missing a thought_signature", true, "X");
    }
    let (parts, spoken): (Vec<Value>, usize) = match says(model, &last, &results) {
        Says::Text(text) => (words(&text).into_iter().map(|word| json!({"text": word})).collect(), tokens(&text)),
        Says::Calls(calls) => {
            let part = |(n, (name, arguments)): (usize, (String, String))| {
                let arguments: Value = serde_json::from_str(&arguments).expect("JSON");
                let mut part = json!({"functionCall": {"name": name, "args": arguments}});
                if n == 0 {
                    part["thoughtSignature"] = "c2lnbmVk".into();
                }
                part
            };
            (calls.into_iter().enumerate().map(part).collect(), 2)
        }
    };
    let usage = json!({"promptTokenCount": tokens(&last), "candidatesTokenCount": spoken, "thoughtsTokenCount": 1, "totalTokenCount": 9,
        "cachedContentTokenCount": 1});
    let answer = |parts: &[Value], finish: Option<&str>| {
        json!({"candidates": [{"content": {"parts": parts, "role": "model"}, "finishReason": finish, "index": 0}], "usageMetadata": usage,
            "modelVersion": model, "responseId": "r1"})
    };
    if model == "broken" {
        let error = json!({"error": {"code": 500, "message": format!("out of memory for {}", credential(&headers))}});
        return match verb {
            "generateContent" => whole(&error),
            _ => pieces(memory, model, "text/event-stream", vec![format!("data: {error}\r\n\r\n").into()]),
        };
    }
    if verb == "generateContent" {
        return whole(&answer(&parts, Some("STOP")));
    }
    // Lines end as Google's do.
    let mut frames: Vec<Bytes> = Vec::new();
    for part in &parts {
        frames.push(format!("data: {}\r\n\r\n", answer(std::slice::from_ref(part), None)).into());
    }
    frames.push(format!("data: {}\r\n\r\n", answer(&[json!({"text": ""})], Some("STOP"))).into());
    pieces(memory, model, "text/event-stream", frames)
}

/// One message of an event stream.
fn message(name: &str, payload: &Value) -> Bytes {
    let (mut headers, payload) = (Vec::new(), payload.to_string());
    let (kind, of_name) = if name.ends_with("Exception") { ("exception", ":exception-type") } else { ("event", ":event-type") };
    for (header, value) in [(of_name, name), (":content-type", "application/json"), (":message-type", kind)] {
        headers.push(u8::try_from(header.len()).expect("short"));
        headers.extend(header.bytes());
        headers.push(7);
        headers.extend(u16::try_from(value.len()).expect("short").to_be_bytes());
        headers.extend(value.bytes());
    }
    let length = |bytes: usize| u32::try_from(bytes).expect("short").to_be_bytes();
    let mut all = [length(16 + headers.len() + payload.len()), length(headers.len())].concat();
    all.extend(crc32fast::hash(&all).to_be_bytes());
    all.extend(headers);
    all.extend(payload.bytes());
    all.extend(crc32fast::hash(&all).to_be_bytes());
    all.into()
}

async fn bedrock(
    State(memory): State<Shared>,
    Path(model): Path<String>,
    headers: HeaderMap,
    body: Bytes,
    stream: bool,
) -> Response {
    let body: Value = serde_json::from_slice(&body).expect("JSON");
    let times = note(&memory, ("bedrock", &model), &headers, &body);
    if let Some(answer) = mood(&model, times, &headers, false).await {
        return answer;
    }
    let turns = || array(&body["messages"]);
    let of_user = |turn: &&Value| turn["role"] == "user" && turn["content"][0].get("toolResult").is_none();
    let last = turns().filter(of_user).last().map(|turn| texts(array(&turn["content"]))).unwrap_or_default();
    let results: Vec<String> = turns()
        .flat_map(|turn| array(&turn["content"]))
        .filter_map(|part| Some(texts(array(&part.get("toolResult")?["content"]))))
        .collect();
    let usage = json!({"inputTokens": tokens(&last), "outputTokens": 5, "totalTokens": 9, "cacheReadInputTokens": 2, "cacheWriteInputTokens": 0});
    let (blocks, stop) = match says(&model, &last, &results) {
        Says::Text(text) => (vec![json!({"text": text})], "end_turn"),
        Says::Calls(calls) => {
            let block = |(n, (name, arguments)): (usize, (String, String))| {
                let input: Value = serde_json::from_str(&arguments).expect("JSON");
                json!({"toolUse": {"toolUseId": format!("tooluse_{times}_{n}"), "name": name, "input": input}})
            };
            (calls.into_iter().enumerate().map(block).collect(), "tool_use")
        }
    };
    if !stream {
        if model == "broken" {
            return whole(&json!({"error": {"message": format!("out of memory for {}", credential(&headers))}}));
        }
        return whole(
            &json!({"output": {"message": {"role": "assistant", "content": blocks}}, "stopReason": stop, "usage": usage,
            "metrics": {"latencyMs": 1}}),
        );
    }
    let mut frames = vec![message("messageStart", &json!({"role": "assistant"}))];
    for (index, block) in blocks.iter().enumerate() {
        let deltas: Vec<Value> = match block["text"].as_str() {
            Some(text) => words(text).into_iter().map(|word| json!({"text": word})).collect(),
            None => {
                let tool = &block["toolUse"];
                let start = json!({"toolUse": {"toolUseId": tool["toolUseId"], "name": tool["name"]}});
                frames.push(message("contentBlockStart", &json!({"contentBlockIndex": index, "start": start})));
                let input = tool["input"].to_string();
                let (first, second) = input.split_at(input.len() / 2);
                [first, second].map(|piece| json!({"toolUse": {"input": piece}})).to_vec()
            }
        };
        for delta in deltas {
            frames.push(message("contentBlockDelta", &json!({"contentBlockIndex": index, "delta": delta})));
        }
        frames.push(message("contentBlockStop", &json!({"contentBlockIndex": index})));
    }
    if model == "broken" {
        let words = format!("out of memory for {}", credential(&headers));
        frames.truncate(2);
        frames.push(message("modelStreamErrorException", &json!({"message": words})));
    }
    frames.push(message("messageStop", &json!({"stopReason": stop})));
    frames.push(message("metadata", &json!({"usage": usage, "metrics": {"latencyMs": 1}})));
    pieces(memory, &model, "application/vnd.amazon.eventstream", frames)
}
