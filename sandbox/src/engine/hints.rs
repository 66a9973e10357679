//! From what went wrong to what the author should write instead.

use starlark::codemap::FileSpan;
use tollgate_codemode::wire::{Catalog, CatalogTool, ErrorKind, ScriptError};

use super::limits::Limit;
use super::raised::Raised;
use super::run::Run;
use crate::python::{SyntaxError, line_column};

/// Names listed in one message.
const LISTED: usize = 20;
/// A name for which others like it are looked for.
const LONGEST: usize = 120;

#[must_use]
pub fn syntax_error(source: &str, error: &SyntaxError) -> ScriptError {
    let (line, column) = line_column(source, error.at);
    ScriptError { kind: ErrorKind::Syntax, message: error.message.clone(), line: Some(line), column: Some(column) }
}

/// Starlark refuses what it was given: something that Python allows and the translation has let through.
#[must_use]
pub fn untranslatable(error: &starlark::Error, run: &Run) -> ScriptError {
    let at = run.original(error.span().map_or(0, |span| span.span.begin().get() as usize));
    let text = error.without_diagnostic().to_string();
    let message = format!("This cannot be run here: {}. Write it in simpler steps.", text.trim_start_matches("Parse error: "));
    syntax_error(run.source(), &SyntaxError { at, message })
}

/// Turn Starlark's error into the one the author reads, at the place in the text the author wrote.
#[must_use]
pub fn script_error(error: &starlark::Error, run: &Run) -> ScriptError {
    let first = match Raised::of(error) {
        Some(Raised::Thrown { at, .. }) => *at,
        _ => None,
    };
    let at = first.or_else(|| error.span().map(|span| span.span.begin().get() as usize)).map(|at| run.original(at));
    let (kind, message) = describe(error, at, run);
    let place = at.map(|at| line_column(run.source(), at));
    ScriptError { kind, message, line: place.map(|p| p.0), column: place.map(|p| p.1) }
}

/// What an error that a script has caught would have said.
#[must_use]
pub fn describe_caught(error: &starlark::Error, run: &Run) -> (ErrorKind, String) {
    describe(error, error.span().map(|span| run.original(span.span.begin().get() as usize)), run)
}

fn describe(error: &starlark::Error, at: Option<usize>, run: &Run) -> (ErrorKind, String) {
    use starlark::ErrorKind as K;
    match Raised::of(error) {
        Some(Raised::Error { kind, message, .. } | Raised::Thrown { kind, message, .. }) => return (*kind, message.clone()),
        Some(Raised::Suspend | Raised::Exit) | None => {}
    }
    let text = error.without_diagnostic().to_string();
    let source = run.source();
    match error.kind() {
        K::StackOverflow(_) => (ErrorKind::Limit, Limit::Callstack(run.limits.callstack).to_string()),
        K::Scope(_) => unknown_in(error.span(), &text, source, at, &run.catalog),
        K::Fail(e) => (ErrorKind::Runtime, e.to_string().trim().to_owned()),
        _ => (ErrorKind::Runtime, unassigned(&text, source, at).unwrap_or_else(|| runtime(&text))),
    }
}

/// A variable that lives in a dict was read before anything was assigned to it.
fn unassigned(text: &str, source: &str, at: Option<usize>) -> Option<String> {
    let key = text.strip_prefix("Key `\"")?.strip_suffix("\"` was not found")?;
    let rest = source.get(at?..)?.strip_prefix(key)?;
    let is_name = !rest.starts_with(|c: char| c == '_' || c == '[' || c.is_alphanumeric());
    is_name.then(|| format!("The variable '{key}' is read before it is assigned. Assign it before the `try` or the `if`."))
}

// --- names ----------------------------------------------------------------------------------------------------------

/// Python's own names that scripts reach for.
const PYTHON: &[(&str, &str)] = &[
    ("open", "Scripts have no files. Use a tool."),
    ("input", "Scripts have no input. Put the value into the script."),
    ("requests", "Scripts have no network. Use a tool."),
    ("httpx", "Scripts have no network. Use a tool."),
    ("os", "Scripts have no operating system. Use a tool."),
    ("sys", "Scripts have no operating system. Use a tool."),
    ("logging", "Use `print(..)`: it goes to the run's logs."),
    ("exit", "Write `return value`, which ends the script."),
    ("quit", "Write `return value`, which ends the script."),
    ("exec", "Code cannot be run from strings. Write it in the script."),
    ("eval", "Code cannot be run from strings. Write it in the script."),
    ("globals", "Name the variable itself, or keep your values in a dict."),
    ("locals", "Name the variable itself, or keep your values in a dict."),
    ("vars", "Name the fields themselves."),
    ("object", "Use a dict for data, or `class Name:`."),
    ("Enum", "Use strings or constants: `OPEN = \"open\"`."),
    ("bytes", "There are no bytes. Strings are text."),
    ("bytearray", "There are no bytes. Strings are text."),
    ("Decimal", "Use integers (cents) or `round(x, 2)`."),
    ("pd", "Use lists and dicts."),
    ("np", "Use lists and dicts."),
    ("true", "Write `True`."),
    ("false", "Write `False`."),
    ("null", "Write `None`."),
    ("undefined", "Write `None`."),
    ("console", "Write `print(x)`."),
    ("JSON", "Write `json.loads(text)` or `json.dumps(value)`."),
    ("Math", "Write `round(x)`, `max(a, b)` or `math.floor(x)`."),
    ("Promise", "Use `parallel([lambda: a.b(), lambda: c.d()])`."),
    ("fetch", "Scripts have no network. Use a tool."),
    ("ThreadPoolExecutor", "Use `parallel([lambda: a.b(), lambda: c.d()])`."),
];

fn unknown_in(span: Option<&FileSpan>, text: &str, source: &str, at: Option<usize>, catalog: &Catalog) -> (ErrorKind, String) {
    let Some(name) = span.map(|s| s.source_span().to_owned()).filter(|n| !n.is_empty()) else {
        return (ErrorKind::Runtime, text.to_owned());
    };
    let after = at.and_then(|at| source.get(at + name.len()..)).unwrap_or_default();
    // Starlark suggests a name whatever its distance.
    let suggested =
        text.split("did you mean `").nth(1).and_then(|t| t.split('`').next()).and_then(|s| nearest(&name, std::iter::once(s)));
    let (kind, message, choice) = unknown_name(&name, after.trim_start().starts_with('.'), suggested, catalog);
    (kind, format!("{message} {choice}").trim_end().to_owned())
}

/// A name that nothing binds: kind, message, and the servers where it may have meant one. `suggested` is the variable it may
/// have meant.
#[must_use]
pub fn unknown_name(name: &str, has_field: bool, suggested: Option<&str>, catalog: &Catalog) -> (ErrorKind, String, String) {
    if let Some((_, hint)) = PYTHON.iter().find(|(n, _)| *n == name) {
        return (ErrorKind::Runtime, format!("Unknown name '{name}'. {hint}"), String::new());
    }
    let servers = || catalog.servers.iter().map(|s| s.name.as_str());
    let similar = nearest(name, servers());
    if !has_field && similar.is_none() {
        let hint = suggested.map_or_else(|| "Assign it before it is used.".to_owned(), |s| format!("Did you mean '{s}'?"));
        return (ErrorKind::Runtime, format!("Unknown name '{name}'. {hint}"), String::new());
    }
    let mut message = format!("Unknown name '{name}'.");
    if let Some(similar) = similar.or(suggested.filter(|_| !has_field)) {
        message += &format!(" Did you mean '{similar}'?");
    }
    (ErrorKind::UnknownTool, message, format!("Available servers: {}", list(servers())))
}

#[must_use]
pub fn unknown_tool<'a>(name: &str, server: &str, tools: impl Iterator<Item = &'a str> + Clone) -> String {
    format!("{} {}", no_such_tool(name, server, tools.clone()), available_tools(tools))
}

#[must_use]
pub fn no_such_tool<'a>(name: &str, server: &str, tools: impl Iterator<Item = &'a str> + Clone) -> String {
    let mut message = format!("Server '{server}' has no tool '{name}'.");
    let near = closest(name, tools);
    if !near.is_empty() {
        let near: Vec<String> = near.into_iter().map(|n| format!("'{n}'")).collect();
        message += &format!(" Did you mean {}?", near.join(" or "));
    }
    message
}

#[must_use]
pub fn available_tools<'a>(tools: impl Iterator<Item = &'a str>) -> String {
    format!("Available tools: {}", list(tools))
}

/// The candidate that `name` was probably meant to be.
pub fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    scored(name, candidates).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, candidate)| candidate)
}

/// Up to three candidates, nearest first; those that are far behind the first are left out.
fn closest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut found: Vec<(f64, &str)> = scored(name, candidates).collect();
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    let best = found.first().map_or(0.0, |f| f.0);
    found.into_iter().take(3).filter(|(score, _)| *score >= best - 0.1).map(|(_, candidate)| candidate).collect()
}

fn scored<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> impl Iterator<Item = (f64, &'a str)> {
    // The comparison takes the product of both lengths; a name as long as that is nobody's mistake.
    let lower = if name.len() > LONGEST { String::new() } else { name.to_lowercase() };
    let long = (3..=LONGEST).contains(&name.len());
    candidates
        .map(move |candidate| {
            let other = candidate.to_lowercase();
            let contained = long && (other.contains(&lower) || (other.len() > 2 && lower.contains(&other)));
            let score = strsim::normalized_damerau_levenshtein(&lower, &other).max(if contained { 0.7 } else { 0.0 });
            (score, candidate)
        })
        .filter(|(score, _)| *score >= 0.6)
}

/// At most `LISTED` names, and how many more there are.
pub fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    if names.is_empty() {
        return "none".to_owned();
    }
    let more = names.len().saturating_sub(LISTED);
    let shown = names[..names.len() - more].join(", ");
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}

// --- arguments ------------------------------------------------------------------------------------------------------

#[must_use]
pub fn arguments(problem: &str, tool: &CatalogTool) -> String {
    format!("{problem} {}", parameters(tool))
}

#[must_use]
pub fn parameters(tool: &CatalogTool) -> String {
    let params: Vec<String> =
        tool.params.iter().map(|p| if p.required { format!("{} (required)", p.name) } else { p.name.clone() }).collect();
    format!("Parameters: {}", list(params.iter().map(String::as_str)))
}

#[must_use]
pub fn unknown_parameter(name: &str, tool: &CatalogTool) -> String {
    let similar = nearest(name, tool.params.iter().map(|p| p.name.as_str()));
    let hint = similar.map(|s| format!(" Did you mean '{s}'?")).unwrap_or_default();
    format!("{}() has no parameter '{name}'.{hint}", tool.name)
}

/// The name in the script of the schema's `key`.
#[must_use]
pub fn python_name<'a>(tool: &'a CatalogTool, key: &'a str) -> &'a str {
    tool.params.iter().find(|p| p.key == key).map_or(key, |p| p.name.as_str())
}

// --- run time -------------------------------------------------------------------------------------------------------

/// Part of Starlark's message, and the sentence to add.
const RUNTIME: &[(&str, &str)] = &[
    ("`compare` not supported for types `set`", "Use `a.issubset(b)` or `a == b`."),
    ("`compare` not supported for types", "Give a key that all items have: `key=lambda r: r[\"n\"] or 0`."),
    ("`string` has no attribute `get`", "If it holds JSON, decode it: `json.loads(text).get(..)`."),
    ("`list` has no attribute `get`", "Take an element first: `xs[0].get(..)`."),
    ("`list` has no attribute `items`", "Loop over the list itself: `for x in xs:`."),
    ("`dict` has no attribute `append`", "Assign the key: `d[key] = value`."),
    ("`dict` has no attribute `has_key`", "Write `key in d`."),
    ("`list` has no attribute `push`", "Write `xs.append(x)`."),
    ("`list` has no attribute `add`", "Write `xs.append(x)`."),
    ("`list` has no attribute `length`", "Write `len(xs)`."),
    ("`set` has no attribute `append`", "Write `s.add(x)`."),
    ("has no attribute `isoformat`", "Times in answers are strings: `datetime.fromisoformat(text)`."),
    ("has no attribute `strftime`", "Times in answers are strings: `datetime.fromisoformat(text)`."),
    ("on type `NoneType`", "The value is None: check it first."),
    ("has type `NoneType`", "The value is None: check it first."),
    ("`NoneType`", "A value is None: check it first."),
    ("types `int` and `bool`", "Write `int(condition)`, or `1 if condition else 0`."),
    ("types `bool` and", "Write `int(condition)`, or `1 if condition else 0`."),
    ("Index `", "Check the length first: `if len(xs) > i:`."),
    ("not supported for types `string` and `int`", "Wrap the number: `str(n)`, or use f\"{n}\"."),
    ("not supported for types `string` and `float`", "Wrap the number: `str(n)`, or use f\"{n}\"."),
    ("was not found", "Use `d.get(\"key\")` where a key may be missing."),
    ("mutates an iterable", "Loop over a copy: `for x in list(xs):`."),
    ("format character", "Use an f-string: f\"{x:.2f}\"."),
    ("replacement field", "Use an f-string: f\"{x:.2f}\"."),
    ("`(iter)` not supported on type `string`", "A string is no list. Use `s.elems()` or `s.split()`."),
];

#[must_use]
pub fn runtime(text: &str) -> String {
    match RUNTIME.iter().find(|(part, _)| text.contains(part)) {
        Some((_, hint)) => format!("{}. {hint}", text.trim_end_matches('.')),
        None => text.to_owned(),
    }
}
