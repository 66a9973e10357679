//! `re`, on an engine whose time is linear in the text: no pattern can hang a run. What such an engine cannot do
//! (lookaround, references back) is refused.

// The derives of `ProvidesStaticType` expand to an unsafe marker impl; there is no other unsafe here.
#![allow(unsafe_code)]

mod functions;

use std::fmt;

use allocative::Allocative;
use regex::{Captures, Regex, RegexBuilder};
use starlark::any::ProvidesStaticType;
use starlark::environment::Methods;
use starlark::eval::Evaluator;
use starlark::values::tuple::AllocTuple;
use starlark::values::{Heap, NoSerialize, StarlarkPagablePanic, StarlarkValue, Value, ValueLike, starlark_value};

pub use self::functions::register;
use super::limits::{ENCODE_BYTES, Limit, TEXT_BYTES};
use super::raised::Raised;
use super::run::{Run, call_back};

const IGNORECASE: i32 = 2;
const MULTILINE: i32 = 8;
const DOTALL: i32 = 16;
const VERBOSE: i32 = 64;
/// Of one compiled pattern.
const PATTERN_BYTES: usize = 2 << 20;

#[derive(Debug, ProvidesStaticType, NoSerialize, Allocative, StarlarkPagablePanic)]
struct Pattern {
    #[allocative(skip)]
    regex: Regex,
}
starlark::starlark_simple_value!(Pattern);

/// What was found, detached from the text.
#[derive(Debug, ProvidesStaticType, NoSerialize, Allocative, StarlarkPagablePanic)]
struct Match {
    groups: Vec<Option<Group>>,
    names: Vec<Option<String>>,
}
starlark::starlark_simple_value!(Match);

#[derive(Debug, Allocative)]
struct Group {
    text: String,
    /// In characters.
    start: usize,
    end: usize,
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "re.compile({:?})", self.regex.as_str())
    }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.groups.first().and_then(Option::as_ref).map_or("", |g| g.text.as_str());
        write!(f, "<re.Match object; match={text:?}>")
    }
}

#[starlark_value(type = "pattern")]
impl<'v> StarlarkValue<'v> for Pattern {
    fn get_methods() -> Option<&'static Methods> {
        Some(functions::PATTERN.methods())
    }
}

#[starlark_value(type = "match")]
impl<'v> StarlarkValue<'v> for Match {
    fn get_methods() -> Option<&'static Methods> {
        Some(functions::MATCH.methods())
    }

    fn at(&self, index: Value<'v>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        self.value(heap, index)
    }
}

impl Match {
    fn new(regex: &Regex, text: &str, captures: &Captures) -> Self {
        let place = |at: usize| text[..at].chars().count();
        let group = |g: regex::Match| Group { text: g.as_str().to_owned(), start: place(g.start()), end: place(g.end()) };
        Self {
            groups: captures.iter().map(|g| g.map(group)).collect(),
            names: regex.capture_names().map(|n| n.map(str::to_owned)).collect(),
        }
    }

    fn group(&self, index: Value) -> starlark::Result<Option<&Group>> {
        let at = match index.unpack_str() {
            Some(name) => self.names.iter().position(|n| n.as_deref() == Some(name)),
            None => index.unpack_i32().and_then(|i| usize::try_from(i).ok()),
        };
        match at.and_then(|at| self.groups.get(at)) {
            Some(group) => Ok(group.as_ref()),
            None => Err(Raised::of_class("IndexError", format!("The pattern has no group {}.", index.to_repr()))),
        }
    }

    fn value<'v>(&self, heap: Heap<'v>, index: Value) -> starlark::Result<Value<'v>> {
        Ok(self.group(index)?.map_or_else(Value::new_none, |g| heap.alloc(g.text.as_str())))
    }
}

/// The pattern of a call, compiled at most once a step.
fn compiled<'v>(eval: &Evaluator<'v, '_, '_>, pattern: Value<'v>, flags: i32) -> starlark::Result<Regex> {
    if let Some(pattern) = pattern.downcast_ref::<Pattern>() {
        return Ok(pattern.regex.clone());
    }
    let Some(text) = pattern.unpack_str() else {
        return Err(Raised::type_of(format!("A pattern is a string, not a value of type {}.", pattern.get_type())));
    };
    Run::of(eval).pattern(text, flags, || compile(text, flags))
}

fn kept(eval: &Evaluator, text: &str) -> starlark::Result<Regex> {
    Run::of(eval).pattern(text, 0, || compile(text, 0))
}

/// The flags stand in the pattern itself, so that what is built from its text keeps them.
fn compile(text: &str, flags: i32) -> starlark::Result<Regex> {
    let mut inline = String::new();
    for (flag, letter) in [(IGNORECASE, 'i'), (MULTILINE, 'm'), (DOTALL, 's'), (VERBOSE, 'x')] {
        if flags & flag != 0 {
            inline.push(letter);
        }
    }
    let text = text.replace("\\Z", "\\z");
    let text = if inline.is_empty() { text } else { format!("(?{inline}){text}") };
    RegexBuilder::new(&text).size_limit(PATTERN_BYTES).dfa_size_limit(PATTERN_BYTES).build().map_err(|error| {
        let why = error.to_string();
        let why = why.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
        let hint = if why.contains("look-around") {
            " Match more and cut it off: a group `(..)` gives the part you want."
        } else if why.contains("backreferences") {
            " Compare the groups afterwards: `m.group(1) == m.group(2)`."
        } else {
            ""
        };
        Raised::value(format!("The pattern is not supported: {why}.{hint}"))
    })
}

fn subject<'v>(text: Value<'v>) -> starlark::Result<&'v str> {
    let Some(text) = text.unpack_str() else {
        let kind = text.get_type();
        return Err(Raised::type_of(format!(
            "`re` searches strings, not a value of type {kind}. Write `str(x)`, or `x or \"\"`."
        )));
    };
    if text.len() > TEXT_BYTES {
        return Err(Raised::limit(Limit::Text));
    }
    Ok(text)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Where {
    Anywhere,
    Start,
    Whole,
}

fn find<'v>(eval: &Evaluator<'v, '_, '_>, regex: &Regex, text: Value<'v>, wanted: Where) -> starlark::Result<Value<'v>> {
    let text = subject(text)?;
    // Anchored by the pattern itself: of several alternatives the one that fits is found.
    let anchored = match wanted {
        Where::Anywhere => regex.clone(),
        Where::Start => kept(eval, &format!("\\A(?:{})", regex.as_str()))?,
        Where::Whole => kept(eval, &format!("\\A(?:{})\\z", regex.as_str()))?,
    };
    let found = anchored.captures(text);
    Ok(found.map_or_else(Value::new_none, |c| eval.heap().alloc(Match::new(&anchored, text, &c))))
}

/// What `findall` gives for one match: the whole, the one group, or the groups.
fn found<'v>(heap: Heap<'v>, captures: &Captures) -> Value<'v> {
    let text = |at: usize| heap.alloc(captures.get(at).map_or("", |g| g.as_str()));
    match captures.len() {
        1 => text(0),
        2 => text(1),
        n => heap.alloc(AllocTuple((1..n).map(text).collect::<Vec<_>>())),
    }
}

fn find_all<'v>(heap: Heap<'v>, regex: &Regex, text: Value<'v>) -> starlark::Result<Value<'v>> {
    let text = subject(text)?;
    Ok(heap.alloc(regex.captures_iter(text).map(|c| found(heap, &c)).collect::<Vec<_>>()))
}

fn find_iter<'v>(heap: Heap<'v>, regex: &Regex, text: Value<'v>) -> starlark::Result<Value<'v>> {
    let text = subject(text)?;
    Ok(heap.alloc(regex.captures_iter(text).map(|c| heap.alloc(Match::new(regex, text, &c))).collect::<Vec<_>>()))
}

fn split<'v>(heap: Heap<'v>, regex: &Regex, text: Value<'v>, most: i32) -> starlark::Result<Value<'v>> {
    let text = subject(text)?;
    let most = usize::try_from(most).ok().filter(|n| *n > 0).unwrap_or(usize::MAX);
    let (mut out, mut from): (Vec<Value>, usize) = (Vec::new(), 0);
    for captures in regex.captures_iter(text).take(most) {
        let Some(whole) = captures.get(0) else { continue };
        out.push(heap.alloc(&text[from..whole.start()]));
        out.extend(captures.iter().skip(1).map(|g| g.map_or_else(Value::new_none, |g| heap.alloc(g.as_str()))));
        from = whole.end();
    }
    out.push(heap.alloc(&text[from..]));
    Ok(heap.alloc(out))
}

fn substitute<'v>(
    eval: &mut Evaluator<'v, '_, '_>,
    regex: &Regex,
    replacement: Value<'v>,
    text: Value<'v>,
    count: i32,
) -> starlark::Result<(String, i32)> {
    let text = subject(text)?;
    let most = usize::try_from(count).ok().filter(|n| *n > 0).unwrap_or(usize::MAX);
    let (mut out, mut from, mut times) = (String::new(), 0, 0);
    for captures in regex.captures_iter(text).take(most) {
        let Some(whole) = captures.get(0) else { continue };
        out.push_str(&text[from..whole.start()]);
        match replacement.unpack_str() {
            Some(template) => expand(template, &captures, &mut out)?,
            None => {
                let found = eval.heap().alloc(Match::new(regex, text, &captures));
                let new = call_back(eval, replacement, &[found])?;
                let new = new.unpack_str().ok_or_else(|| Raised::type_of("The function that replaces must return a string."))?;
                out.push_str(new);
            }
        }
        from = whole.end();
        times += 1;
        if out.len() > ENCODE_BYTES {
            return Err(Raised::limit(Limit::Text));
        }
    }
    out.push_str(&text[from..]);
    Ok((out, times))
}

/// `\1`, `\g<name>` and `\n` in a replacement.
fn expand(template: &str, captures: &Captures, out: &mut String) -> starlark::Result<()> {
    let mut rest = template;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let named = rest.strip_prefix("g<").and_then(|r| r.split_once('>'));
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (key, after) = match (named, digits.min(2)) {
            (Some((name, after)), _) => (name, after),
            (None, n @ 1..) => rest.split_at(n),
            (None, _) => {
                let c = rest.chars().next().unwrap_or('\\');
                out.push(match c {
                    'n' => '\n',
                    't' => '\t',
                    c => c,
                });
                rest = rest.get(c.len_utf8()..).unwrap_or_default();
                continue;
            }
        };
        let group = key.parse::<usize>().map_or_else(|_| captures.name(key), |n| captures.get(n));
        let known = key.parse::<usize>().map_or(true, |n| n < captures.len());
        if !known {
            return Err(Raised::of_class("IndexError", format!("The pattern has no group {key}.")));
        }
        out.push_str(group.map_or("", |g| g.as_str()));
        rest = after;
    }
    out.push_str(rest);
    Ok(())
}
