//! From what went wrong to what the author should write instead.

use starlark::codemap::FileSpan;
use tollgate_codemode::wire::{Catalog, CatalogTool, ErrorKind, ScriptError};

use super::limits::Limit;
use super::raised::Raised;
use super::run::Run;
use super::source::{Rewritten, line_column};

/// Names listed in one message.
const LISTED: usize = 20;

/// When an error was found: the same Starlark error means another thing in a script that did parse (`int("x")`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Parse,
    Run,
}

/// Turn Starlark's error into the one the author reads, at the place in the text the author wrote.
#[must_use]
pub fn script_error(error: &starlark::Error, phase: Phase, source: &str, rewritten: &Rewritten, run: &Run) -> ScriptError {
    let at = error.span().map(|span| rewritten.original(span.span.begin().get() as usize));
    // The lexer blames the end of the line before for a line's indentation.
    let at = at.map(|at| if phase == Phase::Parse && source[at..].starts_with("\n\t") { at + 1 } else { at });
    let (kind, message) = describe(error, phase, source, at, run);
    let place = at.map(|at| line_column(source, at));
    ScriptError { kind, message, line: place.map(|p| p.0), column: place.map(|p| p.1) }
}

fn describe(error: &starlark::Error, phase: Phase, source: &str, at: Option<usize>, run: &Run) -> (ErrorKind, String) {
    use starlark::ErrorKind as K;
    match Raised::of(error) {
        Some(Raised::Error { kind, message }) => return (*kind, message.clone()),
        Some(Raised::Suspend) | None => {}
    }
    let text = error.without_diagnostic().to_string();
    match error.kind() {
        _ if phase == Phase::Parse => (ErrorKind::Syntax, syntax(&text, source, at)),
        K::StackOverflow(_) => (ErrorKind::Limit, Limit::Callstack(run.limits.callstack).to_string()),
        K::Scope(_) => unknown_name(error.span(), &text, source, at, &run.catalog),
        K::Fail(e) => (ErrorKind::Runtime, e.to_string().trim().to_owned()),
        _ => (ErrorKind::Runtime, runtime(&text)),
    }
}

// --- syntax ---------------------------------------------------------------------------------------------------------

/// Python's words that are not in the language, and what takes their place.
const WORDS: &[(&str, &str)] = &[
    ("while", "There is no `while`. Use `for i in range(n):` with a bound and `break`."),
    ("import", "There is no `import`. `json` is there already, and the servers are global names."),
    ("from", "There is no `import`. `json` is there already, and the servers are global names."),
    ("try", "There is no `try`. Use `r = try_call(server.tool, key=value)`, which gives {\"ok\", \"value\", \"error\"}."),
    ("except", "There is no `except`. Use `r = try_call(server.tool, key=value)`, which gives {\"ok\", \"value\", \"error\"}."),
    ("finally", "There is no `finally`. Write the statements after the call; use `try_call` where a call may fail."),
    ("raise", "There is no `raise`. Use `fail(\"message\")`."),
    ("class", "There is no `class`. Use a dict for the data and `def` for the functions."),
    ("is", "There is no `is`. Use `==` or `!=` (`x == None`)."),
    (
        "await",
        "There is no `await`: a tool call returns its value. Drop the word, or use `parallel([lambda: a.b(), lambda: c.d()])`.",
    ),
    (
        "async",
        "There is no `async`: a tool call returns its value. Write `def`, or use `parallel([lambda: a.b(), lambda: c.d()])`.",
    ),
    ("yield", "There are no generators. Append to a list and return it."),
    ("with", "There is no `with`. Call the function and keep its value in a variable."),
    ("as", "There is no `as`. Assign with `name = value`."),
    ("global", "There is no `global`. Return the value from the function, or keep it in a dict."),
    ("nonlocal", "There is no `nonlocal`. Return the value from the function, or keep it in a dict."),
    ("del", "There is no `del`. Use `d.pop(\"key\")` or build a new list."),
    ("assert", "There is no `assert`. Use `if not condition: fail(\"message\")`."),
    ("load", "There is no `load`. The servers are global names."),
    ("match", "There is no `match`. Use `if` and `elif`."),
];

fn syntax(text: &str, source: &str, at: Option<usize>) -> String {
    let at = at.unwrap_or(source.len());
    let here = source.get(at..).unwrap_or_default();
    let word: String = here.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
    let line_start = source.get(..at).and_then(|s| s.rfind('\n')).map_or(0, |i| i + 1);
    let line = source[line_start..].lines().next().unwrap_or_default().trim_start();
    if let Some((_, hint)) = WORDS.iter().find(|(w, _)| *w == word && *w != "match") {
        return (*hint).to_owned();
    }
    let hint = if word == "for" {
        "There are no generator expressions. Use a list: `sum([x for x in xs])`."
    } else if text.contains("not associative") {
        "Comparisons cannot be chained. Write `a < b and b < c`."
    } else if here.starts_with(":=") || (here.starts_with('=') && source[..at].ends_with(':')) {
        "There is no `:=`. Assign on a line of its own."
    } else if here.starts_with("**") {
        "There is no `**` operator here. Use `pow(x, n)`, `d1 | d2` to merge dicts, or `f(**kwargs)` in a call."
    } else if here.starts_with('*') || line.contains(",*") || line.contains(", *") {
        "A `*` cannot stand here. Join lists with `a + b` and take the rest of a list with `xs[1:]`."
    } else if here.starts_with('@') {
        "There are no decorators. Call the function yourself."
    } else if text.contains("tabs are not allowed") {
        "Tabs are not allowed. Indent with spaces."
    } else if in_braces_without_colon(source, at) && (here.starts_with(',') || here.starts_with('}')) {
        "There are no set literals. Use a list `[1, 2]` or `set([1, 2])`."
    } else if line.starts_with("match ") {
        "There is no `match`. Use `if` and `elif`."
    } else if line.starts_with("print ") {
        "`print` is a function: `print(x)`."
    } else if text.contains("unfinished string") {
        "Close the string on its line, or use three quotes for a long one."
    } else if here.starts_with('!') {
        "Use `not x` or `!=`."
    } else {
        return text.trim_start_matches("Parse error: ").to_owned();
    };
    hint.to_owned()
}

/// Is `at` inside `{..` whose first element has no `:`?
fn in_braces_without_colon(source: &str, at: usize) -> bool {
    let before = &source[..at.min(source.len())];
    before.rfind('{').is_some_and(|open| !before[open..].contains(':') && before[open..].trim() != "{")
}

// --- names ----------------------------------------------------------------------------------------------------------

/// Python's own names that scripts reach for.
const PYTHON: &[(&str, &str)] = &[
    ("open", "Scripts have no files. Use a tool."),
    ("input", "Scripts have no input. Put the value into the script."),
    ("next", "Use `xs[0]`, after checking that the list is not empty."),
    ("iter", "Loop over the list itself."),
    ("datetime", "Scripts have no clock. Pass times as strings, or use a tool."),
    ("time", "Scripts have no clock. Pass times as strings, or use a tool."),
    ("random", "Scripts have no randomness: they are replayed."),
    ("re", "There are no regular expressions. Use str methods: split, find, startswith, replace."),
    ("math", "There is no `math`. Use `//`, `%`, `round`, `abs`, `pow`, `min` and `max`."),
    ("asyncio", "Calls need no event loop. Use `parallel([lambda: a.b(), lambda: c.d()])`."),
    ("gather", "Use `parallel([lambda: a.b(), lambda: c.d()])`."),
    ("Exception", "There are no exceptions. Use `try_call(server.tool, key=value)` and `fail(\"message\")`."),
    ("requests", "Scripts have no network. Use a tool."),
    ("os", "Scripts have no operating system. Use a tool."),
    ("sys", "Scripts have no operating system. Use a tool."),
    ("exec", "Code cannot be run from strings. Write it in the script."),
    ("eval", "Code cannot be run from strings. Write it in the script."),
    ("object", "There are no classes. Use a dict."),
    ("collections", "Use a dict: `d[k] = d.get(k, 0) + 1`."),
    ("true", "Write `True`."),
    ("false", "Write `False`."),
    ("null", "Write `None`."),
];

fn unknown_name(span: Option<&FileSpan>, text: &str, source: &str, at: Option<usize>, catalog: &Catalog) -> (ErrorKind, String) {
    let Some(name) = span.map(|s| s.source_span().to_owned()).filter(|n| !n.is_empty()) else {
        return (ErrorKind::Runtime, text.to_owned());
    };
    if let Some((_, hint)) = PYTHON.iter().find(|(n, _)| *n == name) {
        return (ErrorKind::Runtime, format!("Unknown name '{name}'. {hint}"));
    }
    let servers: Vec<&str> = catalog.servers.iter().map(|s| s.name.as_str()).collect();
    let after = at.and_then(|at| source.get(at + name.len()..)).unwrap_or_default();
    // Starlark suggests a name whatever its distance.
    let suggested =
        text.split("did you mean `").nth(1).and_then(|t| t.split('`').next()).and_then(|s| nearest(&name, std::iter::once(s)));
    let similar = nearest(&name, servers.iter().copied());
    let is_server = after.trim_start().starts_with('.');
    if !is_server && similar.is_none() {
        let hint = suggested.map_or_else(|| "Assign it before it is used.".to_owned(), |s| format!("Did you mean '{s}'?"));
        return (ErrorKind::Runtime, format!("Unknown name '{name}'. {hint}"));
    }
    let mut message = format!("Unknown name '{name}'.");
    if let Some(similar) = similar.or(suggested.filter(|_| !is_server)) {
        message += &format!(" Did you mean '{similar}'?");
    }
    message += &format!(" Available servers: {}", list(servers.into_iter()));
    (ErrorKind::UnknownTool, message)
}

#[must_use]
pub fn unknown_tool<'a>(name: &str, server: &str, tools: impl Iterator<Item = &'a str> + Clone) -> String {
    let mut message = format!("Server '{server}' has no tool '{name}'.");
    if let Some(similar) = nearest(name, tools.clone()) {
        message += &format!(" Did you mean '{similar}'?");
    }
    message + &format!(" Available tools: {}", list(tools))
}

/// The candidate that `name` was probably meant to be.
pub fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_lowercase();
    candidates
        .map(|candidate| {
            let other = candidate.to_lowercase();
            let contained = name.len() > 2 && (other.contains(&lower) || (other.len() > 2 && lower.contains(&other)));
            let score = strsim::normalized_damerau_levenshtein(&lower, &other).max(if contained { 0.7 } else { 0.0 });
            (score, candidate)
        })
        .filter(|(score, _)| *score >= 0.6)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
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
    let params: Vec<String> =
        tool.params.iter().map(|p| if p.required { format!("{} (required)", p.name) } else { p.name.clone() }).collect();
    format!("{problem} Parameters: {}", list(params.iter().map(String::as_str)))
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
    ("has no attribute `sort`", "Use `xs = sorted(xs, key=..)`."),
    ("has no attribute `copy`", "Use `list(xs)` or `dict(d)`."),
    ("has no attribute `isoformat`", "Times are strings here."),
    ("on type `NoneType`", "The value is None: check it first."),
    ("has type `NoneType`", "The value is None: check it first."),
    ("`NoneType`", "A value is None: check it first."),
    ("not supported for types `string` and `int`", "Wrap the number: `str(n)`, or use f\"{n}\"."),
    ("not supported for types `string` and `float`", "Wrap the number: `str(n)`, or use f\"{n}\"."),
    ("was not found", "Use `d.get(\"key\")` where a key may be missing."),
    ("mutates an iterable", "Loop over a copy: `for x in list(xs):`."),
    ("format character", "Use an f-string: f\"{x:.2f}\"."),
    ("replacement field", "Use an f-string: f\"{x:.2f}\"."),
    ("`(iter)` not supported on type `string`", "A string is no list. Use `s.elems()` or `s.split()`."),
];

fn runtime(text: &str) -> String {
    match RUNTIME.iter().find(|(part, _)| text.contains(part)) {
        Some((_, hint)) => format!("{}. {hint}", text.trim_end_matches('.')),
        None => text.to_owned(),
    }
}
