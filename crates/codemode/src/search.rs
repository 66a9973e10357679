//! Finding tools by what they are for: BM25 over names, descriptions and parameters, in memory and without a network.
//!
//! What a text says often counts as what it says once, and a long text counts less: an upstream that stuffs its descriptions
//! does not come first by it.

use std::collections::{BTreeSet, HashMap};

use serde_json::Value;

use crate::wire::{CatalogServer, CatalogTool};

/// How soon standing in one place more stops to matter, and how much the length of a text does (the customary values).
const SATURATION: f32 = 1.2;
const LENGTH: f32 = 0.75;
/// What a word weighs by where it stands.
const IN_NAME: f32 = 3.0;
const IN_SERVER: f32 = 2.0;
const IN_TEXT: f32 = 1.0;
const IN_PARAM: f32 = 0.5;
/// What is said of a server says a little of each of its tools.
const OF_SERVER: f32 = 0.5;
/// How much more a tool weighs whose whole name is asked for: `list_pipelines` does what it says, `list_pipeline_schedules` something
/// else as well.
const WHOLE_NAME: f32 = 0.5;
/// What a hit weighs that is not the word itself: another word for it, or one that begins alike or is spelled nearly so.
const SYNONYM: f32 = 0.4;
const NEAR: f32 = 0.8;
/// Bytes of a description that are read, and words of a query.
const MAX_TEXT: usize = 2 << 10;
const MAX_WORDS: usize = 24;

/// Words that tools use for the same thing, after [`stem`].
const SYNONYMS: [&[&str]; 12] = [
    &["create", "add", "new", "insert", "make", "open"],
    &["delete", "remove", "drop", "erase", "destroy"],
    &["update", "edit", "modify", "change", "set", "patch"],
    &["get", "read", "fetch", "show", "retrieve", "view", "describe"],
    &["list", "all", "enumerate", "browse"],
    &["search", "find", "query", "lookup", "filter"],
    &["send", "post", "publish", "write"],
    &["run", "execute", "start", "invoke", "trigger", "launch"],
    &["stop", "cancel", "abort", "kill", "end"],
    &["file", "document", "doc"],
    &["folder", "directory", "dir"],
    &["user", "person", "people", "member", "contact"],
];
/// Words that say nothing about a tool.
const EMPTY: [&str; 27] = [
    "a", "an", "the", "of", "to", "in", "on", "for", "and", "or", "with", "by", "from", "is", "are", "be", "this", "that", "it",
    "as", "at", "i", "my", "tool", "use", "want", "need",
];

/// Where a tool stands: its server and its place there.
pub(crate) type Place = (usize, usize);

/// A server, what is said of it, and its tools with their definitions.
pub(crate) struct Listed<'a> {
    pub(crate) catalog: &'a CatalogServer,
    pub(crate) description: &'a str,
    pub(crate) tools: Vec<(&'a CatalogTool, &'a Value)>,
}

#[derive(Debug, Default)]
pub(crate) struct Index {
    places: Vec<Place>,
    /// The words of each tool's name.
    names: Vec<Vec<String>>,
    /// Sum of the weights of each tool's words.
    lengths: Vec<f32>,
    average: f32,
    /// Word, to the tools that say it with the sum of its weights there.
    words: HashMap<String, Vec<(usize, f32)>>,
}

impl Index {
    pub(crate) fn of<'a>(servers: impl Iterator<Item = Listed<'a>>) -> Self {
        let mut index = Self::default();
        for (at, server) in servers.enumerate() {
            for (place, (tool, definition)) in server.tools.iter().enumerate() {
                index.add((at, place), &server, tool, definition);
            }
        }
        let total: f32 = index.lengths.iter().sum();
        index.average = (total / count(index.lengths.len().max(1))).max(1.0);
        index
    }

    fn add(&mut self, place: Place, server: &Listed<'_>, tool: &CatalogTool, definition: &Value) {
        let text = |pointer| definition.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let description = text("/description");
        let mut said: HashMap<String, f32> = HashMap::new();
        // Once in each place, however often it stands there.
        let mut say = |text: &str, weight: f32| {
            let once: BTreeSet<String> = words(text).collect();
            once.into_iter().for_each(|word| *said.entry(word).or_default() += weight);
        };
        say(&tool.name, IN_NAME);
        say(&server.catalog.name, IN_SERVER);
        say(start(server.description), OF_SERVER);
        say(text("/title"), IN_TEXT);
        say(start(description), IN_TEXT);
        tool.params.iter().for_each(|param| say(&param.key, IN_PARAM));
        let at = self.places.len();
        self.places.push(place);
        self.names.push(words(&tool.name).collect());
        self.lengths.push(said.values().sum());
        for (word, weight) in said {
            self.words.entry(word).or_default().push((at, weight));
        }
    }

    /// The tools that fit `query`, best first; where two fit alike, in the order of the files.
    pub(crate) fn find(&self, query: &str, limit: usize) -> Vec<Place> {
        let mut scores: HashMap<usize, f32> = HashMap::new();
        let mut asked: Vec<String> = words(query).take(MAX_WORDS).collect();
        asked.sort_unstable();
        asked.dedup();
        for word in &asked {
            // The best of its spellings counts, once.
            let mut best: HashMap<usize, f32> = HashMap::new();
            for (spelling, weight) in self.spellings(word) {
                for (tool, score) in self.score(spelling) {
                    let known = best.entry(tool).or_default();
                    *known = known.max(score * weight);
                }
            }
            best.into_iter().for_each(|(tool, score)| *scores.entry(tool).or_default() += score);
        }
        let meant: BTreeSet<&str> = asked.iter().flat_map(|word| self.spellings(word)).map(|(word, _)| word).collect();
        let whole = |tool: usize| {
            let name = self.names.get(tool).map_or(&[][..], Vec::as_slice);
            let said = name.iter().filter(|word| meant.contains(word.as_str())).count();
            1.0 + WHOLE_NAME * count(said) / count(name.len().max(1))
        };
        let mut found: Vec<(usize, f32)> = scores.into_iter().map(|(tool, score)| (tool, score * whole(tool))).collect();
        found.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        found.into_iter().take(limit).filter_map(|(tool, _)| self.places.get(tool).copied()).collect()
    }

    fn score<'a>(&'a self, word: &str) -> impl Iterator<Item = (usize, f32)> + 'a {
        let tools = self.words.get(word).map(Vec::as_slice).unwrap_or_default();
        let (with, all) = (count(tools.len()), count(self.places.len()));
        let rarity = (1.0 + (all - with + 0.5) / (with + 0.5)).ln();
        tools.iter().map(move |&(tool, weight)| {
            let length = self.lengths.get(tool).copied().unwrap_or(self.average) / self.average;
            (tool, rarity * weight * (SATURATION + 1.0) / (weight + SATURATION * (1.0 - LENGTH + LENGTH * length)))
        })
    }

    /// The words of the index that `word` may mean, with what a hit is worth.
    fn spellings<'a>(&'a self, word: &'a str) -> Vec<(&'a str, f32)> {
        let mut out = Vec::new();
        if self.words.contains_key(word) {
            out.push((word, 1.0));
        }
        let alike = SYNONYMS.iter().map(|group| group.iter().map(|other| stem(other)).collect::<Vec<_>>());
        for other in alike.filter(|group| group.iter().any(|other| other == word)).flatten().filter(|other| other != word) {
            out.extend(self.words.get_key_value(&other).map(|(other, _)| (other.as_str(), SYNONYM)));
        }
        // A word that is nowhere may be the beginning of one, or misspelled.
        if out.is_empty() && word.len() >= 3 {
            let near = |other: &&String| other.starts_with(word) || strsim::jaro_winkler(word, other) >= 0.92;
            out.extend(self.words.keys().filter(near).map(|other| (other.as_str(), NEAR)));
        }
        out
    }
}

/// As much of a description as is read.
fn start(text: &str) -> &str {
    &text[..crate::text::floor_boundary(text, MAX_TEXT.min(text.len()))]
}

/// The words of a text or of an identifier: `listOpen_pull-requests` has four.
fn words(text: &str) -> impl Iterator<Item = String> + '_ {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut before = ' ';
    for c in text.chars().chain([' ']) {
        let joins = c.is_alphanumeric() && !(c.is_uppercase() && before.is_lowercase());
        if !joins && !word.is_empty() {
            words.push(stem(&std::mem::take(&mut word)));
        }
        if c.is_alphanumeric() {
            word.extend(c.to_lowercase());
        }
        before = c;
    }
    words.into_iter().filter(|word| !EMPTY.contains(&word.as_str()))
}

/// English endings off, so that *closed*, *closing* and *closes* are one word; other languages are compared as they are.
fn stem(word: &str) -> String {
    let mut stem = word;
    if let Some(rest) = word.strip_suffix("ies").filter(|rest| rest.len() >= 2) {
        return format!("{rest}y");
    }
    if let Some(rest) = word.strip_suffix('s').filter(|rest| rest.len() >= 3 && !rest.ends_with(['s', 'u', 'i'])) {
        stem = rest;
    }
    if let Some(rest) = stem.strip_suffix("ing").or_else(|| stem.strip_suffix("ed")).filter(|rest| rest.len() >= 3) {
        stem = rest;
        let end = stem.as_bytes().last_chunk::<2>();
        // *stopped*, *running*; *ll* and *ss* are mostly the word's own.
        if end.is_some_and(|[a, b]| a == b && b"bdgmnprt".contains(a)) {
            stem = &stem[..stem.len() - 1];
        }
    }
    stem.strip_suffix('e').filter(|rest| rest.len() >= 3).unwrap_or(stem).to_owned()
}

#[expect(clippy::cast_precision_loss, reason = "numbers of tools are far below 2^24")]
const fn count(n: usize) -> f32 {
    n as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_and_texts_have_the_same_words() {
        let of = |text| words(text).collect::<Vec<_>>();
        assert_eq!(of("closes closed closing close"), ["clos"; 4]);
        assert_eq!(of("stopped stopping stop; created creates"), ["stop", "stop", "stop", "creat", "creat"]);
        assert_eq!(of("listOpen_pull-requests"), ["list", "open", "pull", "request"]);
        assert_eq!(of("Lists the open pull requests."), ["list", "open", "pull", "request"]);
        assert_eq!(of("queries, statuses; searching HTTPServer 日本"), ["query", "status", "search", "httpserver", "日本"]);
    }
}
