//! Checks on fields, collected so that a form is refused once and for all its fields.

use std::str::FromStr;

use chrono::{DateTime, Utc};

use crate::problem::{FieldError, Problem};

/// The longest name, in characters.
pub const MAX_NAME: usize = 200;

#[derive(Debug, Default)]
pub struct Checks {
    errors: Vec<FieldError>,
}

impl Checks {
    pub fn refuse(&mut self, pointer: impl Into<String>, message: impl Into<String>) {
        self.errors.push(FieldError { pointer: pointer.into(), message: message.into() });
    }

    pub fn require(&mut self, ok: bool, pointer: &str, message: &str) {
        if !ok {
            self.refuse(pointer, message);
        }
    }

    /// A name for people: 1 to 200 characters, none of them invisible or a control character, which would lie in logs
    /// and on screens.
    pub fn name(&mut self, pointer: &str, name: &str) {
        if name.trim().is_empty() || name.chars().count() > MAX_NAME {
            self.refuse(pointer, format!("use 1 to {MAX_NAME} characters"));
        } else if name.chars().any(is_hidden) {
            self.refuse(pointer, "control characters and invisible characters are not accepted");
        }
    }

    /// A word that stands in URLs.
    pub fn slug(&mut self, pointer: &str, slug: &str) {
        let fits = |w: &str| !w.is_empty() && w.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if slug.len() > MAX_SLUG || !slug.split('-').all(fits) {
            self.refuse(pointer, format!("use at most {MAX_SLUG} lower-case letters and digits, in words joined by \"-\""));
        }
    }

    /// A time that has not come yet.
    pub fn future(&mut self, pointer: &str, time: Option<DateTime<Utc>>, now: DateTime<Utc>) {
        if time.is_some_and(|t| t <= now) {
            self.refuse(pointer, "use a time in the future");
        }
        // Postgres ends before chrono does.
        if time.is_some_and(|t| t.timestamp() > 253_402_300_799) {
            self.refuse(pointer, "use a time before the year 10000");
        }
    }

    /// A text that has a type of its own in the domain.
    pub fn parse<T: FromStr<Err: std::fmt::Display>>(&mut self, pointer: &str, text: &str) -> Option<T> {
        text.parse().map_err(|e: T::Err| self.refuse(pointer, e.to_string())).ok()
    }

    /// How many fields were refused so far.
    #[must_use]
    pub fn count(&self) -> usize {
        self.errors.len()
    }

    /// What was refused, for an answer that is no refusal.
    #[must_use]
    pub fn into_errors(self) -> Vec<FieldError> {
        self.errors
    }

    /// # Errors
    /// 422 with every refused field.
    pub fn done(self) -> Result<(), Problem> {
        if self.errors.is_empty() { Ok(()) } else { Err(Problem::fields(self.errors)) }
    }
}

pub const MAX_SLUG: usize = 63;

/// A slug from a name: what is left of it in lower-case ASCII, or `fallback`.
#[must_use]
pub fn slug_of(name: &str, fallback: &str) -> String {
    let words: Vec<String> =
        name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_ascii_lowercase).collect();
    let mut slug = words.join("-");
    slug.truncate(48);
    let slug = slug.trim_end_matches('-');
    if slug.is_empty() { fallback.to_owned() } else { slug.to_owned() }
}

/// Control characters, line and paragraph separators, and the format characters that hide or reorder text.
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(u32::from(c), 0xAD | 0x061C | 0x180E | 0x200B..=0x200F | 0x2028..=0x202E | 0x2060..=0x206F | 0xFEFF
            | 0xFFF9..=0xFFFB | 0xE0000..=0xE007F)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name_is_refused(name: &str) -> bool {
        let mut checks = Checks::default();
        checks.name("/name", name);
        checks.done().is_err()
    }

    #[test]
    fn names_are_for_people() {
        for good in ["a", "Zoë's team", "日本", &"é".repeat(200)] {
            assert!(!name_is_refused(good), "{good}");
        }
        for bad in ["", "  ", "a\nb", "a\u{1b}[31m", "a\u{202e}b", "a\u{200b}b", &"a".repeat(201)] {
            assert!(name_is_refused(bad), "{bad:?}");
        }
    }

    #[test]
    fn slugs_come_from_names() {
        assert_eq!(slug_of("Acme, Inc.", "t"), "acme-inc");
        assert_eq!(slug_of("日本", "t"), "t");
        assert_eq!(slug_of(&"a-".repeat(100), "t").len(), 47);
    }
}
