//! What a tenant may ask to be redacted: as the admin API takes it and the database keeps it.

use std::collections::HashSet;

use regex::{Regex, RegexBuilder, RegexSetBuilder};
use serde::{Deserialize, Serialize};

use super::{
    Redactor,
    detect::{self, DETECTORS, Find},
    path::Paths,
    scan::{Rule, Scanner},
};

pub const MAX_PATHS: usize = 64;
pub const MAX_PATTERNS: usize = 32;
/// The longest source of a pattern, in bytes.
pub const MAX_REGEX: usize = 512;
/// The longest name of a pattern, in bytes.
pub const MAX_PATTERN_NAME: usize = 40;
/// How large one compiled pattern may be, in bytes: room for `\w{8}` in all scripts, or 10,000 plain characters.
const MAX_COMPILED: usize = 512 * 1024;
/// How large all patterns may be together, in the set that tells which of them to try.
const MAX_COMPILED_SET: usize = 4 * 1024 * 1024;
/// The memory of one lazily built automaton; what does not fit is built again, so time stays linear.
const CACHE: usize = 1024 * 1024;

/// One tenant's rules. None of them is there unless it was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedactionRules {
    /// JSONPath (RFC 9535) without filters: what is selected becomes `"[redacted]"`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    /// Names of built-in detectors.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub detectors: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub patterns: Vec<RedactionPattern>,
}

/// A detector of the tenant's own. What it matches becomes `[redacted:<name>]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedactionPattern {
    pub name: String,
    pub regex: String,
}

/// A rule that cannot be: its JSON pointer within the rules, and a sentence that says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{pointer}: {message}")]
pub struct RuleError {
    pub pointer: String,
    pub message: String,
}

impl RedactionRules {
    /// The names that `detectors` may hold.
    pub fn detector_names() -> impl Iterator<Item = &'static str> {
        DETECTORS.iter().map(|d| d.name)
    }

    /// Whether a [`Redactor`] can be made of these rules.
    ///
    /// # Errors
    /// Every rule that cannot be.
    pub fn check(&self) -> Result<(), Vec<RuleError>> {
        compile(self).map(drop)
    }
}

#[derive(Default)]
struct Errors(Vec<RuleError>);

impl Errors {
    fn refuse(&mut self, pointer: impl Into<String>, message: impl Into<String>) {
        self.0.push(RuleError { pointer: pointer.into(), message: message.into() });
    }
}

pub(super) fn compile(rules: &RedactionRules) -> Result<(Paths, Scanner), Vec<RuleError>> {
    let mut errors = Errors::default();
    let paths = compile_paths(&rules.paths, &mut errors);
    let detectors = compile_detectors(&rules.detectors, &mut errors);
    let patterns = compile_patterns(&rules.patterns, &mut errors);
    if !errors.0.is_empty() {
        return Err(errors.0);
    }
    let set = |rules: &[Rule]| {
        RegexSetBuilder::new(rules.iter().map(|r| r.regex.as_str())).size_limit(MAX_COMPILED_SET).dfa_size_limit(CACHE).build()
    };
    let Ok(detector_set) = set(&detectors) else {
        errors.refuse("/detectors", "these detectors do not fit together; use fewer of them");
        return Err(errors.0);
    };
    let Ok(pattern_set) = set(&patterns) else {
        errors.refuse("/patterns", "the patterns are too large together; use fewer, or smaller repetitions");
        return Err(errors.0);
    };
    Ok((paths, Scanner::new((detectors, detector_set), (patterns, pattern_set))))
}

fn compile_paths(texts: &[String], errors: &mut Errors) -> Paths {
    let mut paths = Paths::default();
    if texts.len() > MAX_PATHS {
        errors.refuse("/paths", format!("use at most {MAX_PATHS} paths"));
        return paths;
    }
    for (i, text) in texts.iter().enumerate() {
        if let Err(sentence) = paths.add(text) {
            errors.refuse(format!("/paths/{i}"), sentence);
        }
    }
    paths
}

fn compile_detectors(names: &[String], errors: &mut Errors) -> Vec<Rule> {
    let mut rules: Vec<Rule> = Vec::new();
    if names.len() > DETECTORS.len() {
        errors.refuse("/detectors", format!("name each detector once; there are {}", detect::names()));
        return rules;
    }
    for (i, name) in names.iter().enumerate() {
        let pointer = format!("/detectors/{i}");
        let Some(detector) = DETECTORS.iter().find(|d| d.name == name) else {
            errors.refuse(pointer, format!("there is no such detector; use one of {}", detect::names()));
            continue;
        };
        if rules.iter().any(|r| r.name == *name) {
            errors.refuse(pointer, "name each detector once");
            continue;
        }
        // Without Unicode classes the automata are small and never leave their fast path.
        match compile_regex(&detector.regex.replace(r"\b", r"(?-u:\b)")) {
            Ok(regex) => rules.push(Rule { name: name.clone(), regex, find: detector.find }),
            Err(sentence) => errors.refuse(pointer, sentence),
        }
    }
    rules
}

fn compile_patterns(patterns: &[RedactionPattern], errors: &mut Errors) -> Vec<Rule> {
    let mut rules = Vec::new();
    if patterns.len() > MAX_PATTERNS {
        errors.refuse("/patterns", format!("use at most {MAX_PATTERNS} patterns"));
        return rules;
    }
    let mut seen = HashSet::new();
    for (i, pattern) in patterns.iter().enumerate() {
        let name = pattern.name.as_str();
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, ' ' | '_' | '-' | '.');
        if name.trim() != name || name.is_empty() || name.len() > MAX_PATTERN_NAME || !name.chars().all(fits) {
            errors.refuse(
                format!("/patterns/{i}/name"),
                format!("use 1 to {MAX_PATTERN_NAME} letters, digits, spaces, \"_\", \"-\" and \".\": the name stands in place of what was found"),
            );
        } else if DETECTORS.iter().any(|d| d.name == name) {
            errors.refuse(format!("/patterns/{i}/name"), "this is the name of a detector; use another");
        } else if !seen.insert(name) {
            errors.refuse(format!("/patterns/{i}/name"), "two patterns have this name; use another");
        }
        match compile_pattern(&pattern.regex) {
            Ok(regex) => rules.push(Rule { name: name.to_owned(), regex, find: Find::Match }),
            Err(sentence) => errors.refuse(format!("/patterns/{i}/regex"), sentence),
        }
    }
    rules
}

fn compile_pattern(source: &str) -> Result<Regex, String> {
    if source.is_empty() || source.len() > MAX_REGEX {
        return Err(format!("use 1 to {MAX_REGEX} bytes"));
    }
    let regex = compile_regex(source)?;
    if ["", "a 1-\n"].iter().any(|probe| regex.find_iter(probe).any(|found| found.is_empty())) {
        return Err(
            "it matches the empty text, so that a real match may go unseen; use + in place of *, and no bare ^, $ or \\b"
                .to_owned(),
        );
    }
    Ok(regex)
}

fn compile_regex(source: &str) -> Result<Regex, String> {
    let built = RegexBuilder::new(source).size_limit(MAX_COMPILED).dfa_size_limit(CACHE).nest_limit(64).build();
    built.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => {
            r"it is too large when compiled; use smaller repetitions, or [0-9] and [A-Za-z0-9_] in place of \d and \w".to_owned()
        }
        error => {
            let text = error.to_string();
            if text.contains("look-around") {
                "look-ahead and look-behind are not supported, so that time stays linear; match the surrounding text as well, or use \\b"
                    .to_owned()
            } else if text.contains("backreferences") {
                "backreferences are not supported, so that time stays linear; write out what may be repeated".to_owned()
            } else {
                let reason = text.lines().rev().find_map(|line| line.strip_prefix("error: ")).unwrap_or("it cannot be read");
                format!("use a regular expression in the syntax of RE2; {reason}")
            }
        }
    })
}

impl Redactor {
    /// Compile a tenant's rules. Takes milliseconds: keep the redactor.
    ///
    /// # Errors
    /// Every rule that cannot be, as [`RedactionRules::check`].
    pub fn new(rules: &RedactionRules) -> Result<Self, Vec<RuleError>> {
        let (paths, scanner) = compile(rules)?;
        Ok(Self::of(paths, scanner))
    }
}
