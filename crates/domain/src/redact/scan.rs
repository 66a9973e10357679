//! Detectors and patterns over one text.

use std::{cmp::Reverse, ops::Range};

use regex::{Regex, RegexSet};

use super::{MARKER, detect::Find};

/// How many bytes the searches for patterns in one document may look at in the worst case.
///
/// One search is linear, but a search may look ahead to the end of the text for a match of one character
/// (`.*[^A-Z]|[A-Z]`), so the search for all matches can be quadratic. What a document leaves unsearched when this is
/// spent is replaced whole.
pub(super) const BUDGET: usize = 64 * 1024 * 1024;

pub(super) struct Rule {
    pub name: String,
    pub regex: Regex,
    pub find: Find,
}

/// All detectors and patterns of a tenant.
pub(super) struct Scanner {
    rules: Vec<Rule>,
    /// The first rules are detectors, the others patterns.
    detectors: usize,
    detector_set: RegexSet,
    pattern_set: RegexSet,
    /// What takes the place of a match, for each rule.
    markers: Vec<String>,
}

/// A part of the text to be replaced.
struct Span {
    at: Range<usize>,
    rule: usize,
}

impl Scanner {
    pub fn new(detectors: (Vec<Rule>, RegexSet), patterns: (Vec<Rule>, RegexSet)) -> Self {
        let (mut rules, detector_set) = detectors;
        let (count, (own, pattern_set)) = (rules.len(), patterns);
        rules.extend(own);
        let markers = rules.iter().map(|rule| format!("[redacted:{}]", rule.name)).collect();
        Self { rules, detectors: count, detector_set, pattern_set, markers }
    }

    pub const fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    pub const fn len(&self) -> usize {
        self.rules.len()
    }

    /// The text with every match replaced; `None` where nothing matches. All rules see the original text, and matches that
    /// overlap become one.
    pub fn redact(&self, text: &str, budget: &mut usize) -> Option<String> {
        let spans = self.spans(text, budget);
        let (first, last) = (spans.first()?, spans.last()?);
        let mut redacted = String::with_capacity(text.len());
        redacted.push_str(&text[..first.at.start]);
        for (i, span) in spans.iter().enumerate() {
            redacted.push_str(&self.markers[span.rule]);
            if let Some(next) = spans.get(i + 1) {
                redacted.push_str(&text[span.at.end..next.at.start]);
            }
        }
        redacted.push_str(&text[last.at.end..]);
        Some(redacted)
    }

    /// The marker of the first match; for values that are replaced whole.
    pub fn marker(&self, text: &str, budget: &mut usize) -> Option<&str> {
        self.spans(text, budget).first().map(|span| self.markers[span.rule].as_str())
    }

    fn spans(&self, text: &str, budget: &mut usize) -> Vec<Span> {
        let mut spans = Vec::new();
        if self.detectors > 0 && self.detector_set.is_match(text) {
            for rule in &self.detector_set.matches(text) {
                self.detect(rule, text, &mut spans);
            }
        }
        if self.rules.len() > self.detectors && self.pattern_set.is_match(text) {
            for rule in &self.pattern_set.matches(text) {
                self.search(self.detectors + rule, text, budget, &mut spans);
            }
        }
        if spans.is_empty() { spans } else { merged(self.outside_markers(text, spans)) }
    }

    fn detect(&self, rule: usize, text: &str, spans: &mut Vec<Span>) {
        let Rule { regex, find, .. } = &self.rules[rule];
        let matches = regex.find_iter(text).map(|found| found.range());
        let mut push = |at| spans.push(Span { at, rule });
        match find {
            Find::Match => matches.for_each(push),
            Find::Checked(passes) => matches.filter(|at| passes(text, at.clone())).for_each(push),
            Find::Scan(scan) => scan(text).into_iter().for_each(&mut push),
        }
    }

    fn search(&self, rule: usize, text: &str, budget: &mut usize, spans: &mut Vec<Span>) {
        let (regex, mut from) = (&self.rules[rule].regex, 0);
        while from < text.len() {
            let worst = text.len() - from;
            if *budget < worst {
                spans.push(Span { at: from..text.len(), rule });
                return;
            }
            *budget -= worst;
            let Some(found) = regex.find_at(text, from) else { return };
            // Rare: the rules refuse what plainly matches the empty text.
            from = if found.is_empty() {
                found.end() + text[found.end()..].chars().next().map_or(1, char::len_utf8)
            } else {
                found.end()
            };
            if !found.is_empty() {
                spans.push(Span { at: found.range(), rule });
            }
        }
    }

    /// Drop what lies within a marker that stands in the text already, so that redacting twice is redacting once. Only
    /// the very markers of these rules count: they are constants and can hide nothing.
    fn outside_markers(&self, text: &str, mut spans: Vec<Span>) -> Vec<Span> {
        let marker_at = |(at, _)| {
            let own = self.markers.iter().map(String::as_str).chain([MARKER]).find(|m| text[at..].starts_with(m));
            own.map(|marker| at..at + marker.len())
        };
        let standing: Vec<Range<usize>> = text.match_indices(&MARKER[..MARKER.len() - 1]).filter_map(marker_at).collect();
        if !standing.is_empty() {
            spans.retain(|span| {
                let next = standing.partition_point(|m| m.start <= span.at.start);
                next.checked_sub(1).is_none_or(|i| standing[i].end < span.at.end)
            });
        }
        spans
    }
}

fn merged(mut spans: Vec<Span>) -> Vec<Span> {
    spans.sort_by_key(|span| (span.at.start, Reverse(span.at.end), span.rule));
    let mut merged: Vec<Span> = Vec::with_capacity(spans.len());
    for span in spans {
        match merged.last_mut() {
            Some(last) if span.at.start < last.at.end || (span.at.start == last.at.end && span.rule == last.rule) => {
                last.at.end = last.at.end.max(span.at.end);
            }
            _ => merged.push(span),
        }
    }
    merged
}
