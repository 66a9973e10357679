//! Which languages a key's model may write scripts in, and how its stubs are spelled in each.

use std::fmt;

use crate::text;
use crate::wire::Language;

/// At least one, the first of which is meant where nothing is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Languages {
    first: Language,
    both: bool,
}

impl Default for Languages {
    fn default() -> Self {
        Self { first: Language::Python, both: false }
    }
}

impl fmt::Display for Languages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.all().map(Language::name).collect();
        f.write_str(&names.join(", "))
    }
}

impl Languages {
    /// From the names in a setting; `None` where one is unknown, stands there twice, or there is none.
    #[must_use]
    pub fn parse<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let languages: Option<Vec<Language>> = names.into_iter().map(Language::parse).collect();
        match languages?[..] {
            [first] => Some(Self { first, both: false }),
            [first, second] if first != second => Some(Self { first, both: true }),
            _ => None,
        }
    }

    #[must_use]
    pub fn first(self) -> Language {
        self.first
    }

    pub fn all(self) -> impl Iterator<Item = Language> {
        let second = match self.first {
            Language::Python => Language::Typescript,
            Language::Typescript => Language::Python,
        };
        std::iter::once(self.first).chain(self.both.then_some(second))
    }

    /// The one that is meant.
    ///
    /// # Errors
    /// What to write instead, when it is not offered.
    pub fn choose(self, asked: Option<&str>) -> Result<Language, String> {
        let Some(asked) = asked else { return Ok(self.first) };
        let found = Language::parse(asked).filter(|language| self.all().any(|offered| offered == *language));
        found.ok_or_else(|| {
            let asked = text::cap(&text::line(asked), 40);
            format!("Scripts in {asked:?} are not run for this key. Offered: {self}")
        })
    }
}

impl Language {
    /// From a setting or an argument.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Python, Self::Typescript].into_iter().find(|language| language.name() == name)
    }

    /// As people write it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Python => "Python",
            Self::Typescript => "TypeScript",
        }
    }

    /// The ending of its stub files.
    pub(crate) fn ending(self) -> &'static str {
        match self {
            Self::Python => ".pyi",
            Self::Typescript => ".d.ts",
        }
    }

    pub(crate) fn comment(self) -> &'static str {
        match self {
            Self::Python => "#",
            Self::Typescript => "//",
        }
    }

    pub(crate) fn any(self) -> &'static str {
        if self == Self::Python { "Any" } else { "any" }
    }

    pub(crate) fn never(self) -> &'static str {
        if self == Self::Python { "Never" } else { "never" }
    }

    pub(crate) fn none(self) -> &'static str {
        if self == Self::Python { "None" } else { "null" }
    }

    pub(crate) fn dict(self) -> &'static str {
        if self == Self::Python { "dict" } else { "Record<string, any>" }
    }

    /// An object that is not shown.
    pub(crate) fn elided(self) -> &'static str {
        if self == Self::Python { "dict[...]" } else { "Record<string, any> /* ... */" }
    }

    /// A type of JSON Schema, by its name in Python.
    pub(crate) fn plain(self, name: &'static str) -> &'static str {
        match (self, name) {
            (Self::Python, _) => name,
            (Self::Typescript, "str") => "string",
            (Self::Typescript, "bool") => "boolean",
            (Self::Typescript, _) => "number",
        }
    }

    /// A literal as Python writes it.
    pub(crate) fn literal(self, python: &str) -> String {
        match (self, python) {
            (Self::Python, _) => python.to_owned(),
            (Self::Typescript, "True") => "true".to_owned(),
            (Self::Typescript, "False") => "false".to_owned(),
            (Self::Typescript, _) => braced(python),
        }
    }

    /// A field's name, before its colon.
    pub(crate) fn key(self, name: &str, required: bool) -> String {
        let quoted = text::literal(name);
        match self {
            Self::Python => format!("{}{}: ", quoted.strip_suffix('"').unwrap_or(&quoted), if required { "\"" } else { "?\"" }),
            Self::Typescript => {
                let name = if is_identifier(name) { name.to_owned() } else { braced(&quoted) };
                format!("{name}{}: ", if required { "" } else { "?" })
            }
        }
    }
}

/// `\U0001f600` as `\u{0001f600}`.
fn braced(literal: &str) -> String {
    let mut out = String::with_capacity(literal.len());
    let mut chars = literal.chars();
    while let Some(c) = chars.next() {
        out.push(c);
        if c != '\\' {
            continue;
        }
        match chars.next() {
            Some('U') => {
                out.push_str("u{");
                out.extend(chars.by_ref().take(8));
                out.push('}');
            }
            Some(other) => out.push(other),
            None => {}
        }
    }
    out
}

fn is_identifier(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_' || c == '$')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '$')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_names_at_least_one_language_and_none_twice() {
        let parse = |names: &[&str]| Languages::parse(names.iter().copied()).map(|l| l.to_string());
        assert_eq!(parse(&["python"]).as_deref(), Some("python"));
        assert_eq!(parse(&["typescript", "python"]).as_deref(), Some("typescript, python"));
        for bad in [&[][..], &["perl"], &["python", "python"], &["python", "typescript", "python"], &["Python"]] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_language_that_is_not_offered_is_refused_with_those_that_are() {
        let both = Languages::parse(["typescript", "python"]).unwrap();
        assert_eq!(both.choose(None), Ok(Language::Typescript));
        assert_eq!(both.choose(Some("python")), Ok(Language::Python));
        let error = Languages::default().choose(Some("typescript")).unwrap_err();
        assert_eq!(error, "Scripts in \"typescript\" are not run for this key. Offered: python");
    }

    #[test]
    fn literals_and_keys_of_both_languages() {
        let tricky = text::literal("a\"\\U\u{e0041}");
        assert_eq!(Language::Typescript.literal(&tricky), "\"a\\\"\\\\U\\u{000e0041}\"");
        assert_eq!(Language::Typescript.key("a-b", false), "\"a-b\"?: ");
        assert_eq!(Language::Typescript.key("class", true), "class: ");
        assert_eq!(Language::Python.key("a\"", true), "\"a\\\"\": ");
    }
}
