//! JSONPath (RFC 9535) as a set of states that walks down a document once, for all paths together.
//!
//! A list of nodes, which is what the RFC defines, can be exponentially longer than the document (`$[0,0][0,0]..`);
//! redaction asks only whether a node is selected. Filters are left out: what they select depends on values, some of
//! which other rules replace, and their cost has no good bound.

use std::ops::Range;

use super::parse;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Selector {
    Name(String),
    Wildcard,
    Index(i64),
    Slice { start: Option<i64>, end: Option<i64>, step: i64 },
}

#[derive(Debug)]
pub(super) struct Segment {
    pub descends: bool,
    pub selectors: Vec<Selector>,
    pub last: bool,
}

/// Where a value stands in its container.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place<'n> {
    Name(&'n str),
    Item { index: usize, len: usize },
}

/// All paths of a tenant. A state is the number of the segment that waits for a child to select.
#[derive(Debug, Default)]
pub(super) struct Paths {
    segments: Vec<Segment>,
    /// The first state of every path, in ascending order.
    starts: Vec<u16>,
    /// Whether a path selects the root itself.
    root: bool,
}

impl Paths {
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn len(&self) -> usize {
        self.starts.len() + usize::from(self.root)
    }

    pub const fn selects_root(&self) -> bool {
        self.root
    }

    pub fn starts(&self) -> &[u16] {
        &self.starts
    }

    /// Add a path.
    ///
    /// # Errors
    /// What to write instead.
    pub fn add(&mut self, text: &str) -> Result<(), String> {
        let mut segments = parse::path(text)?;
        let Some(last) = segments.last_mut() else {
            self.root = true;
            return Ok(());
        };
        last.last = true;
        self.starts.push(u16::try_from(self.segments.len()).map_err(|_| "use fewer paths".to_owned())?);
        self.segments.append(&mut segments);
        Ok(())
    }

    /// The states of a child, from `parent` (ascending), appended to `child` (ascending again); whether it is selected.
    pub fn advance(&self, parent: Range<usize>, place: Place<'_>, states: &mut Vec<u16>) -> bool {
        let begin = states.len();
        for i in parent {
            let state = states[i];
            let segment = &self.segments[usize::from(state)];
            if segment.descends && states[begin..].last() != Some(&state) {
                states.push(state);
            }
            if segment.selectors.iter().any(|selector| selector.selects(place)) {
                if segment.last {
                    return true;
                }
                states.push(state + 1);
            }
        }
        false
    }
}

impl Selector {
    fn selects(&self, place: Place<'_>) -> bool {
        match (self, place) {
            (Self::Wildcard, _) => true,
            (Self::Name(name), Place::Name(key)) => name == key,
            (&Self::Index(wanted), Place::Item { index, len }) => from_front(wanted, len) == i64::try_from(index).ok(),
            (&Self::Slice { start, end, step }, Place::Item { index, len }) => in_slice(start, end, step, index, len),
            _ => false,
        }
    }
}

fn from_front(index: i64, len: usize) -> Option<i64> {
    if index >= 0 { Some(index) } else { i64::try_from(len).ok().map(|len| len + index) }
}

/// Section 2.3.4.2.2 of the RFC, asked for one index.
fn in_slice(start: Option<i64>, end: Option<i64>, step: i64, index: usize, len: usize) -> bool {
    let (Ok(index), Ok(length)) = (i64::try_from(index), i64::try_from(len)) else { return false };
    let bound = |i: Option<i64>, default: i64| i.map_or(default, |i| from_front(i, len).unwrap_or(default));
    if step > 0 {
        let (lower, upper) = (bound(start, 0).clamp(0, length), bound(end, length).clamp(0, length));
        lower <= index && index < upper && (index - lower) % step == 0
    } else if step < 0 {
        let (upper, lower) = (bound(start, length - 1).clamp(-1, length - 1), bound(end, -1).clamp(-1, length - 1));
        lower < index && index <= upper && (upper - index) % step == 0
    } else {
        false
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;
    use serde_json_path::JsonPath;

    use super::*;

    fn select(paths: &Paths, states: &mut Vec<u16>, active: Range<usize>, value: &Value, at: &str, found: &mut Vec<String>) {
        let len = value.as_array().map_or(0, Vec::len);
        let children: Vec<(String, Place<'_>, &Value)> = match value {
            Value::Object(map) => map.iter().map(|(k, v)| (format!("/{k}"), Place::Name(k), v)).collect(),
            Value::Array(items) => {
                items.iter().enumerate().map(|(index, v)| (format!("/{index}"), Place::Item { index, len }, v)).collect()
            }
            _ => vec![],
        };
        for (step, place, child) in children {
            let (begin, at) = (states.len(), format!("{at}{step}"));
            if paths.advance(active.clone(), place, states) {
                found.push(at);
            } else {
                assert!(states[begin..].is_sorted_by(|a, b| a < b), "{:?}", &states[begin..]);
                select(paths, states, begin..states.len(), child, &at, found);
            }
            states.truncate(begin);
        }
    }

    /// The nodes that a path selects, without those inside another one.
    fn ours(path: &str, value: &Value) -> Vec<String> {
        let mut paths = Paths::default();
        paths.add(path).unwrap();
        if paths.selects_root() {
            return vec![String::new()];
        }
        let (mut states, mut found) = (paths.starts().to_vec(), Vec::new());
        let active = 0..states.len();
        select(&paths, &mut states, active, value, "", &mut found);
        found.sort();
        found
    }

    fn theirs(path: &str, value: &Value) -> Vec<String> {
        let path = JsonPath::parse(path).unwrap();
        let mut all: Vec<String> =
            path.query_located(value).locations().map(serde_json_path::NormalizedPath::to_json_pointer).collect();
        all.sort();
        all.dedup();
        let inside = |p: &String| all.iter().any(|q| q != p && p.starts_with(&format!("{q}/")));
        all.iter().filter(|p| !inside(p)).cloned().collect()
    }

    #[test]
    fn a_refused_path_says_what_to_write() {
        for (path, advice) in [
            ("", "\"$\" first"),
            ("customer.ssn", "\"$\" first"),
            ("$customer", "after \"$\""),
            ("$.", "starts with a letter"),
            ("$.first-name", "['first-name']"),
            ("$.1", "['name']"),
            ("$[1", "close the bracket"),
            ("$['a]", "close the quotation mark"),
            ("$[a]", "quoted name"),
            ("$[01]", "leading zeros"),
            ("$[-0]", "leading zeros"),
            ("$[?@.a]", "filters"),
            ("$..[?(@.a==1)]", "filters"),
            ("$..a..b..c", "\"..\" at most 2"),
            (&format!("${}", ".a".repeat(17)), "16 steps"),
            (&format!("$.{}", "a".repeat(255)), "256 bytes"),
            ("$.a ", "after \"$\""),
            (r"$['\ud800']", "in pairs"),
        ] {
            let sentence = Paths::default().add(path).unwrap_err();
            assert!(sentence.contains(advice), "{path}: {sentence}");
        }
    }

    #[test]
    fn names_are_written_in_any_of_the_forms() {
        let value = serde_json::json!({"a b": 1, "é": 2, "it's": 3, "😀": 4, "x/y": 5, "\n": 6});
        for path in
            ["$['a b']", "$[\"a\\u0020b\"]", "$.é", r"$['it\'s']", r"$['\ud83d\uDE00']", r"$['x\/y']", r"$ [ '\n' , 'é' ]"]
        {
            assert!(!ours(path, &value).is_empty(), "{path}");
        }
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![Just(Value::Null), (0..9).prop_map(Value::from)];
        leaf.prop_recursive(5, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map("[abc]", inner, 0..4).prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    fn path() -> impl Strategy<Value = String> {
        let slice = (prop::option::of(-6..6i64), prop::option::of(-6..6i64), prop::option::of(-3..4i64)).prop_map(|(a, b, c)| {
            let show = |n: Option<i64>| n.map_or(String::new(), |n| n.to_string());
            format!("{}:{}:{}", show(a), show(b), show(c))
        });
        let selector = prop_oneof!["'[abc]'", Just("*".to_owned()), (-6..6i64).prop_map(|i| i.to_string()), slice];
        let bracket = prop::collection::vec(selector, 1..3).prop_map(|s| format!("[{}]", s.join(",")));
        let plain = prop_oneof![bracket.clone(), "\\.[abc*]"];
        let deep = prop_oneof![bracket.prop_map(|b| format!("..{b}")), "\\.\\.[abc*]"];
        let part = || prop::collection::vec(plain.clone(), 0..3).prop_map(|s| s.concat());
        (part(), prop::option::of(deep.clone()), part(), prop::option::of(deep), part())
            .prop_map(|(a, b, c, d, e)| format!("${a}{}{c}{}{e}", b.unwrap_or_default(), d.unwrap_or_default()))
    }

    proptest! {
        #[test]
        fn it_selects_what_the_reference_selects(path in path(), value in json()) {
            prop_assert_eq!(ours(&path, &value), theirs(&path, &value), "{}", path);
        }
    }
}
