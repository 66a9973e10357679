//! What to write instead.

use tollgate_codemode::wire::{Catalog, CatalogTool, ErrorKind};

use crate::engine::hints::{list, nearest};

/// Names that scripts reach for elsewhere.
const ELSEWHERE: &[(&str, &str)] = &[
    ("fetch", "Scripts have no network. Use a tool."),
    ("axios", "Scripts have no network. Use a tool."),
    ("XMLHttpRequest", "Scripts have no network. Use a tool."),
    ("WebSocket", "Scripts have no network. Use a tool."),
    ("require", super::source::NO_IMPORT),
    ("module", "End the script with the value, or `return` it."),
    ("exports", "End the script with the value, or `return` it."),
    ("process", "Scripts have no process and no environment. Put the value into the script."),
    ("Deno", "Scripts have no operating system. Use a tool."),
    ("Bun", "Scripts have no operating system. Use a tool."),
    ("Buffer", "There are no bytes. Strings are text."),
    ("TextEncoder", "There are no bytes. Strings are text."),
    ("fs", "Scripts have no files. Use a tool."),
    ("window", "Scripts do not run in a browser."),
    ("document", "Scripts do not run in a browser."),
    ("localStorage", "Scripts keep nothing. Use a tool."),
    ("setTimeout", "There are no timers: calls are awaited, and nothing else takes time."),
    ("setInterval", "There are no timers: calls are awaited, and nothing else takes time."),
    ("setImmediate", "There are no timers: calls are awaited, and nothing else takes time."),
    ("eval", "Code cannot be run from strings. Write it in the script."),
    ("crypto", "There is `Math.random()`."),
    ("performance", "Use `Date.now()`."),
    ("Intl", "Use `toFixed(2)` for numbers and `toISOString()` for dates."),
    ("structuredClone", "Write `JSON.parse(JSON.stringify(x))`."),
    ("URL", "Put the text together yourself; `encodeURIComponent` is there."),
    ("len", "Write `xs.length`."),
    ("None", "Write `null`."),
    ("True", "Write `true`."),
    ("False", "Write `false`."),
    ("str", "Write `String(x)`."),
    ("int", "Write `Math.trunc(x)` or `parseInt(text, 10)`."),
    ("json", "Write `JSON.parse(text)` or `JSON.stringify(x)`."),
    ("try_call", "Use `try { .. } catch (e) { .. }`."),
    ("parallel", "Use `await Promise.all([..])`."),
];

/// The hint for a name that nothing binds.
#[must_use]
pub fn elsewhere(name: &str) -> Option<&'static str> {
    ELSEWHERE.iter().find(|(n, _)| *n == name).map(|(_, hint)| *hint)
}

/// `x is not defined`, with what may have been meant.
#[must_use]
pub fn unknown_name(message: &str, catalog: &Catalog) -> (ErrorKind, String) {
    let Some(name) = message.strip_suffix(" is not defined").map(|name| name.trim_matches(['\'', '"'])) else {
        return (ErrorKind::Runtime, format!("ReferenceError: {message}"));
    };
    let (kind, message, choice) = unknown(name, false, catalog);
    (kind, format!("{message} {choice}").trim_end().to_owned())
}

/// Kind, message, and the servers where one of them may have been meant.
#[must_use]
pub fn unknown(name: &str, has_field: bool, catalog: &Catalog) -> (ErrorKind, String, String) {
    if let Some(hint) = elsewhere(name) {
        return (ErrorKind::Runtime, format!("Unknown name '{name}'. {hint}"), String::new());
    }
    let servers = || catalog.servers.iter().map(|s| s.name.as_str());
    let choice = format!("Available servers: {}", list(servers()));
    match nearest(name, servers()) {
        Some(similar) => (ErrorKind::UnknownTool, format!("Unknown name '{name}'. Did you mean '{similar}'?"), choice),
        None if has_field => (ErrorKind::UnknownTool, format!("Unknown name '{name}'."), choice),
        None => (ErrorKind::Runtime, format!("Unknown name '{name}'. Declare it before it is used."), String::new()),
    }
}

#[must_use]
pub fn one_object(tool: &CatalogTool) -> String {
    let names: Vec<&str> = tool.params.iter().filter(|p| p.required).map(|p| p.name.as_str()).collect();
    let names = if names.is_empty() { String::new() } else { format!(" {}: ..", names.join(": .., ")) };
    format!("{}() takes one object, `{}({{{names} }})`.", tool.name, tool.name)
}

/// Part of the engine's message, and the sentence to add.
const RUNTIME: &[(&str, &str)] = &[
    ("of undefined", "The value is undefined: check it first, `x?.name`. A call's answer must be awaited."),
    ("of null", "The value is null: check it first, `x?.name`."),
    ("not iterable", "Only lists are looped over. For an object write `Object.entries(x)`; a call's answer must be awaited."),
    ("not a function", "If the value comes from a call, await it first: `(await crm.list({})).map(..)`."),
    ("circular reference", "Give plain data: a value must not hold itself."),
    ("BigInt", "Whole numbers beyond 2^53 arrive as BigInt so that they stay exact: `Number(x)` where that does not matter."),
    ("is read-only", "Declare it with `let`."),
    ("unexpected token", "If the text comes from a tool it may be parsed already: print it once."),
];

#[must_use]
pub fn runtime(text: &str) -> String {
    match RUNTIME.iter().find(|(part, _)| text.contains(part)) {
        Some((_, hint)) => format!("{}. {hint}", text.trim_end_matches('.')),
        None => text.to_owned(),
    }
}
