//! Text that strangers wrote, made safe to show to a model and to put into generated Python.

/// Characters a reader cannot see or that reorder what is seen: controls, category Cf, fillers, variation selectors,
/// Unicode tags and private use. Instructions are smuggled past people in these.
pub(crate) fn is_hidden(c: char) -> bool {
    matches!(c,
        '\0'..='\u{8}' | '\u{b}'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{ad}' | '\u{34f}'
        | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}' | '\u{891}' | '\u{8e2}'
        | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}'
        | '\u{e000}'..='\u{f8ff}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
        | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{10ffff}')
}

/// The text on one line: hidden characters gone, all white space folded into single spaces.
pub(crate) fn line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut gap = false;
    for c in text.chars() {
        if c.is_whitespace() || c == '\u{2028}' || c == '\u{2029}' {
            gap = !out.is_empty();
        } else if !is_hidden(c) {
            if std::mem::take(&mut gap) {
                out.push(' ');
            }
            out.push(c);
        }
    }
    out
}

/// The text with its lines kept: hidden characters gone, line ends unified, at most one empty line in a row.
pub(crate) fn lines(text: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for raw in text.split(['\n', '\r', '\u{2028}', '\u{2029}', '\u{85}']) {
        let kept: String = raw.chars().filter(|c| !is_hidden(*c)).map(|c| if c.is_whitespace() { ' ' } else { c }).collect();
        let kept = kept.trim_end();
        if !kept.is_empty() || out.last().is_some_and(|l| !l.is_empty()) {
            out.push(kept.to_owned());
        }
    }
    while out.last().is_some_and(String::is_empty) {
        out.pop();
    }
    out
}

/// At most `max` bytes, cut at a word where one ends near, and marked.
pub(crate) fn cap(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let hard = floor_boundary(text, max.saturating_sub(3));
    let soft = text[..hard].rfind(' ').filter(|at| at * 4 > hard * 3).unwrap_or(hard);
    format!("{}...", text[..soft].trim_end())
}

/// The largest index not over `at` that does not split a character.
pub(crate) fn floor_boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// The first sentence of a description, on one line and at most `max` bytes.
pub(crate) fn sentence(text: &str, max: usize) -> String {
    // Nothing beyond this can matter, and descriptions of hundreds of kilobytes exist.
    let head = &text[..floor_boundary(text, max * 8)];
    let mut joined = String::new();
    for l in lines(head) {
        let l = l.trim().trim_start_matches(['#', '*', '-', '=', '`', '>', ' ']);
        if joined.is_empty() {
            joined.push_str(l);
        } else if l.starts_with(|c: char| c.is_lowercase()) {
            // A wrapped line, not a new thought.
            joined.push(' ');
            joined.push_str(l);
        } else {
            break;
        }
    }
    let flat = line(&joined);
    let end = sentence_end(&flat).unwrap_or(flat.len());
    cap(flat[..end].trim_end_matches(['*', ' ', ':']), max)
}

/// Where the first sentence ends: a full stop before a space that does not belong to an abbreviation.
fn sentence_end(flat: &str) -> Option<usize> {
    const SHORT: [&str; 6] = ["e.g.", "i.e.", "etc.", "vs.", "cf.", "incl."];
    flat.match_indices(['.', '!', '?']).map(|(at, _)| at + 1).find(|&end| {
        flat[end..].starts_with(' ') && end > 8 && !SHORT.iter().any(|s| flat[..end].to_ascii_lowercase().ends_with(s))
    })
}

/// A Python string literal with exactly this value; what cannot be seen is escaped, so that the value stays true.
pub(crate) fn literal(value: &str) -> String {
    let mut out = String::with_capacity(value.len() + 2);
    out.push('"');
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if is_hidden(c) || (c.is_whitespace() && c != ' ') => {
                let code = u32::from(c);
                let escaped = if code > 0xffff { format!("\\U{code:08x}") } else { format!("\\u{code:04x}") };
                out.push_str(&escaped);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_characters_vanish_from_text_and_are_escaped_in_literals() {
        let tricky = "de\u{200b}le\u{202e}te\u{e0041} all\u{1b}[31m";
        assert_eq!(line(tricky), "delete all[31m");
        assert_eq!(literal("a\u{202e}\"\\\n\u{e0041}"), "\"a\\u202e\\\"\\\\\\n\\U000e0041\"");
    }

    #[test]
    fn a_sentence_ends_at_its_full_stop() {
        assert_eq!(sentence("Find a customer (e.g. by mail). Then more.", 120), "Find a customer (e.g. by mail).");
        assert_eq!(sentence("## Notion | Retrieve a user\nError Responses:\n400", 120), "Notion | Retrieve a user");
        assert_eq!(sentence("Reads a file\nfrom disk. More", 120), "Reads a file from disk.");
        assert_eq!(sentence(&"word ".repeat(100), 20), "word word word...");
        assert_eq!(sentence("", 20), "");
    }

    #[test]
    fn cutting_never_splits_a_character() {
        for max in 4..40 {
            assert!(cap(&"é😀".repeat(20), max).len() <= max);
        }
    }
}
