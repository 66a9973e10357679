//! Values that are too long to be read whole: what is shown of them, and how the rest is reached.
//!
//! What is cut keeps its form: a list loses its last items, a text its last characters, a dict first what is long in it. So what
//! is shown is true, and what is missing can be named by a path and a range.

use std::io::{self, Write};

use serde_json::{Map, Value};

use crate::text;

/// No number, `true` or `null` is longer.
const SCALAR: usize = 26;
/// Cuts that one answer names.
const TOLD: usize = 4;
/// Keys that an error names.
const NAMED: usize = 20;

/// A part that is not shown whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// Such as `rows[3].name`; empty for the value itself.
    pub path: String,
    pub what: &'static str,
    /// From here, counted from 0.
    pub from: usize,
    /// To here, exclusive: where reading goes on.
    pub to: usize,
    pub of: usize,
}

/// `value` as JSON text of at most `chars` characters (no less than 26), and what had to be cut for it.
#[must_use]
pub fn excerpt(value: &Value, chars: usize) -> (Value, Vec<Cut>) {
    let mut cuts = Vec::new();
    let shown = fit(value, chars.max(SCALAR), "", &mut cuts);
    (shown, cuts)
}

/// One sentence: what was cut, and how it is read; `run` is `None` where the rest is not kept.
#[must_use]
pub fn told(cuts: &[Cut], run: Option<&str>) -> String {
    let parts: Vec<String> = cuts.iter().take(TOLD).map(Cut::told).collect();
    let more = if cuts.len() > TOLD { format!(" and {} more", cuts.len() - TOLD) } else { String::new() };
    let cut = format!("The result is cut: {}{more}.", parts.join(", "));
    match (run, cuts.last()) {
        // The outermost cut is noted last, and reaches most.
        (Some(run), Some(last)) => {
            let path = if last.path.is_empty() { String::new() } else { format!("\"path\": {}, ", text::literal(&last.path)) };
            format!("{cut} Read on with readResult {{\"run\": \"{run}\", {path}\"range\": \"{}:\"}}, or return less.", last.to)
        }
        _ => format!("{cut} The rest is not kept: run the script again and return less."),
    }
}

/// What `readResult` answers: the JSON text of what `path` and `range` name, in at most about `chars` characters, and a last line
/// that says where to go on if it is cut.
///
/// # Errors
/// What is wrong with the path or the range, for the model that wrote it.
pub fn read(value: &Value, path: &str, range: Option<&str>, chars: usize) -> Result<String, String> {
    let (found, path) = find(value, path)?;
    let chars = chars.max(SCALAR);
    let mut cuts = Vec::new();
    let shown = match range {
        None => fit(found, chars, &path, &mut cuts),
        Some(range) => {
            let asked = |of: usize, what: &'static str| slice(range, of).map(|(from, to)| Part { from, to, of, what });
            match found {
                Value::Array(items) => asked(items.len(), "items").map(|part| list(items, part, chars, &path, &mut cuts))?,
                Value::String(text) => {
                    asked(text.chars().count(), "characters").map(|part| string(text, part, chars, &path, &mut cuts))?
                }
                Value::Object(map) => asked(map.len(), "keys").map(|part| dict(map, part, chars, &path, &mut cuts))?,
                _ => return Err("There is nothing to take a range of: it is one value. Leave range out.".to_owned()),
            }
        }
    };
    let mut out = shown.to_string();
    let parts: Vec<String> = cuts.iter().take(TOLD).map(Cut::told).collect();
    if let Some(last) = cuts.last() {
        out.push_str(&format!("\n# cut: {}; go on with range \"{}:\"", parts.join(", "), last.to));
        if last.path != path {
            out.push_str(&format!(" of path {}", text::literal(&last.path)));
        }
    }
    Ok(out)
}

impl Cut {
    fn told(&self) -> String {
        let Self { path, what, from, to, of } = self;
        let name = if path.is_empty() { "it" } else { path };
        format!("{name} shows {what} {from}:{to} of {of}")
    }
}

/// The part of a list, text or dict that is asked for.
#[derive(Clone, Copy)]
struct Part {
    from: usize,
    to: usize,
    of: usize,
    what: &'static str,
}

impl Part {
    fn whole(of: usize, what: &'static str) -> Self {
        Self { from: 0, to: of, of, what }
    }

    fn note(self, shown: usize, path: &str, cuts: &mut Vec<Cut>) {
        let Self { from, to, of, what } = self;
        if from + shown < to {
            cuts.push(Cut { path: path.to_owned(), what, from, to: from + shown, of });
        }
    }
}

fn fit(value: &Value, chars: usize, path: &str, cuts: &mut Vec<Cut>) -> Value {
    if length(value) <= chars {
        return value.clone();
    }
    match value {
        Value::Array(items) => list(items, Part::whole(items.len(), "items"), chars, path, cuts),
        Value::String(text) => string(text, Part::whole(text.chars().count(), "characters"), chars, path, cuts),
        Value::Object(map) => dict(map, Part::whole(map.len(), "keys"), chars, path, cuts),
        scalar => scalar.clone(),
    }
}

fn string(text: &str, part: Part, chars: usize, path: &str, cuts: &mut Vec<Cut>) -> Value {
    let mut used = 2;
    let mut shown = String::new();
    let mut count = 0;
    for c in text.chars().skip(part.from).take(part.to.saturating_sub(part.from)) {
        used += match c {
            '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
            c if c < ' ' => 6,
            _ => 1,
        };
        if used > chars {
            break;
        }
        shown.push(c);
        count += 1;
    }
    part.note(count, path, cuts);
    Value::String(shown)
}

fn list(items: &[Value], part: Part, chars: usize, path: &str, cuts: &mut Vec<Cut>) -> Value {
    let mut used = 2;
    let mut shown = Vec::new();
    for (at, item) in items.iter().enumerate().skip(part.from).take(part.to.saturating_sub(part.from)) {
        let left = chars.saturating_sub(used + usize::from(!shown.is_empty()));
        let length = length(item);
        if length <= left {
            used = chars - left + length;
            shown.push(item.clone());
            continue;
        }
        // Something of the first is better than nothing.
        if shown.is_empty() && left >= SCALAR {
            shown.push(fit(item, left, &format!("{path}[{at}]"), cuts));
        }
        break;
    }
    part.note(shown.len(), path, cuts);
    Value::Array(shown)
}

/// Short members stay whole, long ones share what is left.
fn dict(map: &Map<String, Value>, part: Part, chars: usize, path: &str, cuts: &mut Vec<Cut>) -> Value {
    let mut left = chars - 2;
    let mut members = Vec::new();
    for (key, value) in map.iter().skip(part.from).take(part.to.saturating_sub(part.from)) {
        let name = length(&Value::from(key.as_str())) + 2;
        let length = length(value);
        // Each has room at least for a number.
        if left < name + SCALAR * (members.len() + 1) {
            break;
        }
        left -= name;
        members.push((key, value, length));
    }
    let mut by_length: Vec<usize> = (0..members.len()).collect();
    by_length.sort_by_key(|at| members.get(*at).map(|m| m.2));
    let mut shown: Vec<Option<Value>> = vec![None; members.len()];
    for (done, at) in by_length.iter().enumerate() {
        let (Some((key, value, whole)), Some(place)) = (members.get(*at), shown.get_mut(*at)) else { continue };
        let share = left / (members.len() - done);
        let kept = if *whole <= share { (*value).clone() } else { fit(value, share, &join(path, key), cuts) };
        left -= length(&kept).min(left);
        *place = Some(kept);
    }
    part.note(members.len(), path, cuts);
    Value::Object(members.iter().zip(shown).map(|((key, ..), value)| ((*key).clone(), value.unwrap_or_default())).collect())
}

/// Characters of its JSON text.
fn length(value: &Value) -> usize {
    struct Count(usize);
    impl Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // Continuation bytes begin no character.
            self.0 += bytes.iter().filter(|byte| (**byte & 0xC0) != 0x80).count();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    // Cannot fail: nothing is written anywhere.
    let _ = serde_json::to_writer(&mut count, value);
    count.0
}

// ---------------------------------------------------------------- paths and ranges

fn is_word(key: &str) -> bool {
    let mut chars = key.chars();
    chars.next().is_some_and(|c| c.is_alphabetic() || c == '_') && chars.all(|c| c.is_alphanumeric() || c == '_')
}

fn join(path: &str, key: &str) -> String {
    match (is_word(key), path.is_empty()) {
        (true, true) => key.to_owned(),
        (true, false) => format!("{path}.{key}"),
        (false, _) => format!("{path}[{}]", Value::from(key)),
    }
}

enum Segment {
    Key(String),
    Index(i64),
}

/// What a path leads to, and the path as it is written here.
fn find<'a>(root: &'a Value, path: &str) -> Result<(&'a Value, String), String> {
    let mut segments = if path.starts_with('/') { pointer(path) } else { segments(path.trim())? };
    // `result.rows`, as the script calls it; unless there is something of that name.
    let named = matches!(segments.first(), Some(Segment::Key(key)) if key == "result") && root.get("result").is_none();
    if named {
        segments.remove(0);
    }
    let (mut value, mut at) = (root, String::new());
    for segment in segments {
        (value, at) = match (value, segment) {
            (Value::Object(map), Segment::Key(key)) => {
                let found = map.get(&key).ok_or_else(|| no_key(&key, &at, map))?;
                (found, join(&at, &key))
            }
            (Value::Object(map), Segment::Index(n)) => {
                let key = n.to_string();
                let found = map.get(&key).ok_or_else(|| no_key(&key, &at, map))?;
                (found, join(&at, &key))
            }
            (Value::Array(items), Segment::Index(n)) => {
                let place = position(n, items.len());
                let found = usize::try_from(place).ok().and_then(|place| items.get(place));
                let found = found.ok_or_else(|| format!("{} has {} items, and none at {n}.", shown(&at), items.len()))?;
                (found, format!("{at}[{place}]"))
            }
            (Value::Array(items), Segment::Key(key)) => {
                let key = text::literal(&text::cap(&key, 100));
                return Err(format!("{} is a list of {} items: write [0] before {key}.", shown(&at), items.len()));
            }
            (_, Segment::Key(key)) => {
                return Err(format!("{} is one value and has no {}.", shown(&at), text::literal(&text::cap(&key, 100))));
            }
            (_, Segment::Index(n)) => return Err(format!("{} is one value and has no [{n}]; use range for text.", shown(&at))),
        };
    }
    Ok((value, at))
}

fn shown(path: &str) -> &str {
    if path.is_empty() { "the result" } else { path }
}

fn no_key(key: &str, at: &str, map: &Map<String, Value>) -> String {
    let mut names: Vec<String> = map.keys().take(NAMED).map(|key| text::cap(&text::line(key), 60)).collect();
    if map.len() > NAMED {
        names.push("...".to_owned());
    }
    let key = text::literal(&text::cap(key, 100));
    format!("There is no {key} in {}. Its keys: {}.", shown(at), names.join(", "))
}

fn pointer(path: &str) -> Vec<Segment> {
    let segment = |part: &str| match part.parse() {
        Ok(index) => Segment::Index(index),
        Err(_) => Segment::Key(part.replace("~1", "/").replace("~0", "~")),
    };
    path.split('/').skip(1).filter(|part| !part.is_empty()).map(segment).collect()
}

fn segments(path: &str) -> Result<Vec<Segment>, String> {
    let bad = || {
        format!("The path {} cannot be read. Write it like rows[3].name, or leave it out.", text::literal(&text::cap(path, 100)))
    };
    let mut found = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix('[') {
            if inner.starts_with(['"', '\'']) {
                let (key, after) = quoted(inner).ok_or_else(bad)?;
                found.push(Segment::Key(key));
                rest = after.strip_prefix(']').ok_or_else(bad)?;
            } else {
                let (index, after) = inner.split_once(']').ok_or_else(bad)?;
                found.push(Segment::Index(index.trim().parse().map_err(|_| bad())?));
                rest = after;
            }
            continue;
        }
        let word = rest.strip_prefix('.').unwrap_or(rest);
        let end = word.find(['.', '[']).unwrap_or(word.len());
        let (word, after) = word.split_at(end);
        match word {
            "" if after.is_empty() && found.is_empty() => {}
            "" => return Err(bad()),
            "$" if found.is_empty() => {}
            word => found.push(word.parse().map_or_else(|_| Segment::Key(word.to_owned()), Segment::Index)),
        }
        rest = after;
    }
    Ok(found)
}

/// A key in quotes, and what comes behind it.
fn quoted(text: &str) -> Option<(String, &str)> {
    if text.starts_with('"') {
        let mut stream = serde_json::Deserializer::from_str(text).into_iter::<String>();
        let key = stream.next()?.ok()?;
        return Some((key, text.get(stream.byte_offset()..)?));
    }
    let (key, after) = text.strip_prefix('\'')?.split_once('\'')?;
    Some((key.to_owned(), after))
}

/// From 0, where negative numbers count from the end.
fn position(n: i64, of: usize) -> i64 {
    if n < 0 { n.saturating_add(i64::try_from(of).unwrap_or(i64::MAX)) } else { n }
}

/// A slice as Python writes it, without a step.
fn slice(range: &str, of: usize) -> Result<(usize, usize), String> {
    let bad = || "range is a slice such as \"100:200\", \"100:\" or \"-20:\", over items or characters.".to_owned();
    let (from, to) = range.trim().trim_matches(['[', ']']).split_once(':').ok_or_else(bad)?;
    let bound = |text: &str, otherwise: usize| match text.trim() {
        "" => Ok(otherwise),
        text => text.parse().map(|n| usize::try_from(position(n, of)).unwrap_or(0).min(of)).map_err(|_| bad()),
    };
    let (from, to) = (bound(from, 0)?, bound(to, of)?);
    if from >= to && of > 0 {
        return Err(format!("There is nothing in {}: it goes from 0 to {of}.", text::literal(&text::cap(range, 40))));
    }
    Ok((from, to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rows(n: usize) -> Value {
        json!({"total": n, "rows": (0..n).map(|i| json!({"id": i, "name": format!("row {i}")})).collect::<Vec<_>>()})
    }

    #[test]
    fn what_fits_is_shown_whole_and_what_does_not_says_where_it_goes_on() {
        let (shown, cuts) = excerpt(&rows(3), 1000);
        assert_eq!((shown, cuts), (rows(3), Vec::new()));
        let (shown, cuts) = excerpt(&rows(500), 200);
        assert!(length(&shown) <= 200, "{shown}");
        assert_eq!((&shown["total"], &shown["rows"][0]), (&json!(500), &json!({"id": 0, "name": "row 0"})));
        let n = shown["rows"].as_array().map_or(0, Vec::len);
        assert!(n > 3, "{shown}");
        assert_eq!(cuts, [Cut { path: "rows".to_owned(), what: "items", from: 0, to: n, of: 500 }]);
        assert_eq!(
            told(&cuts, Some("run_1")),
            format!(
                "The result is cut: rows shows items 0:{n} of 500. Read on with readResult {{\"run\": \"run_1\", \"path\": \"rows\", \
                 \"range\": \"{n}:\"}}, or return less."
            )
        );
        assert!(told(&cuts, None).ends_with("The rest is not kept: run the script again and return less."));
    }

    #[test]
    fn paths_are_read_as_models_write_them() {
        let value = rows(5);
        for path in
            ["rows[3].name", "/rows/3/name", "result.rows[3].name", "$.rows[-2].name", "rows.3.name", "['rows'][3][\"name\"]"]
        {
            assert_eq!(read(&value, path, None, 100).as_deref(), Ok("\"row 3\""), "{path}");
        }
        assert_eq!(read(&value, "rows[1].name", Some("4:"), 100).as_deref(), Ok("\"1\""));
        assert_eq!(read(&value, "", Some("0:1"), 100).as_deref(), Ok("{\"total\":5}"));
        for (path, range, error) in [
            ("rows[9]", None, "rows has 5 items, and none at 9."),
            ("rows[0].nme", None, "There is no \"nme\" in rows[0]. Its keys: id, name."),
            ("rows.name", None, "rows is a list of 5 items: write [0] before \"name\"."),
            ("total.x", None, "total is one value and has no \"x\"."),
            ("rows[", None, "The path \"rows[\" cannot be read. Write it like rows[3].name, or leave it out."),
            ("rows", Some("7:9"), "There is nothing in \"7:9\": it goes from 0 to 5."),
            ("rows", Some("7-9"), "range is a slice such as \"100:200\", \"100:\" or \"-20:\", over items or characters."),
            ("total", Some("0:"), "There is nothing to take a range of: it is one value. Leave range out."),
        ] {
            assert_eq!(read(&value, path, range, 100), Err(error.to_owned()), "{path} {range:?}");
        }
    }

    #[test]
    fn whoever_reads_on_reads_everything_once() {
        let value = rows(300);
        let mut found = Vec::new();
        let mut from = 0;
        loop {
            let text = read(&value, "rows", Some(&format!("{from}:")), 400).expect("a page");
            let (page, note) = text.split_once('\n').unwrap_or((&text, ""));
            assert!(page.chars().count() <= 400);
            let items: Vec<Value> = serde_json::from_str(page).expect("JSON");
            from += items.len();
            found.extend(items);
            if note.is_empty() {
                break;
            }
            assert!(note.ends_with(&format!("go on with range \"{from}:\"")), "{note}");
        }
        assert_eq!(Value::from(found), value["rows"]);
    }

    #[test]
    fn one_item_that_is_too_long_is_shown_in_part() {
        let value = json!([{"log": "x".repeat(900), "id": 7}, 2]);
        let (shown, cuts) = excerpt(&value, 100);
        assert_eq!(shown[0]["id"], 7);
        let paths: Vec<_> = cuts.iter().map(|cut| cut.path.as_str()).collect();
        assert_eq!(paths, ["[0].log", ""]);
        assert!(length(&shown) <= 100, "{shown}");
    }
}
