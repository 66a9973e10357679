//! Questions about small pieces of the author's text and tree.

use oxc_ast::ast::*;
use oxc_syntax::identifier::is_identifier_name;
use oxc_syntax::keyword::is_reserved_keyword;

const LINE_ENDS: [char; 4] = ['\n', '\r', '\u{2028}', '\u{2029}'];

/// Where the token after a place begins, and whether that is in a later line.
pub fn next_token(source: &str, from: u32) -> (u32, bool) {
    let rest = source.get(from as usize..).unwrap_or_default();
    let mut at = 0;
    loop {
        let tail = &rest[at..];
        let blank = tail.len() - tail.trim_start_matches(|c: char| c.is_whitespace() || c == '\u{feff}').len();
        let comment = match &tail[blank..] {
            tail if tail.starts_with("//") => tail.find(LINE_ENDS).unwrap_or(tail.len()),
            tail if tail.starts_with("/*") => tail.find("*/").map_or(tail.len(), |end| end + 2),
            _ => 0,
        };
        at += blank + comment;
        if comment == 0 {
            return (from + offset(at), rest[..at].contains(LINE_ENDS));
        }
    }
}

pub fn offset(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

pub fn member_name<'a>(id: &TSEnumMemberName<'a>) -> Option<&'a str> {
    match id {
        TSEnumMemberName::Identifier(id) => Some(id.name.as_str()),
        TSEnumMemberName::String(text) | TSEnumMemberName::ComputedString(text) => Some(text.value.as_str()),
        TSEnumMemberName::ComputedTemplateString(_) => None,
    }
}

/// What a type was put behind, without parentheses around it.
pub fn cast<'e, 'a>(expression: &'e Expression<'a>) -> Option<&'e Expression<'a>> {
    match expression {
        Expression::TSAsExpression(it) => cast(&it.expression).or(Some(&it.expression)),
        Expression::TSSatisfiesExpression(it) => cast(&it.expression).or(Some(&it.expression)),
        _ => None,
    }
}

/// Whether a constant may have this name.
pub fn is_plain(name: &str) -> bool {
    const STRICT: [&str; 3] = ["eval", "arguments", "undefined"];
    is_identifier_name(name) && !is_reserved_keyword(name) && !STRICT.contains(&name)
}

pub fn calls_parent(statement: &Statement) -> bool {
    let Statement::ExpressionStatement(statement) = statement else { return false };
    matches!(&statement.expression, Expression::CallExpression(call) if matches!(call.callee, Expression::Super(_)))
}

/// Whether a statement that began so would be no expression.
pub fn begins_statement(text: &str) -> bool {
    let word = |word: &str| {
        text.strip_prefix(word).is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$'))
    };
    text.starts_with('{') || ["function", "class", "async", "let"].into_iter().any(word)
}

/// The text with the same length and no comments.
pub fn blank_comments(text: &str) -> String {
    if !text.contains("//") && !text.contains("/*") {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("//").into_iter().chain(rest.find("/*")).min() {
        out.push_str(&rest[..at]);
        let tail = &rest[at..];
        let end = if tail.starts_with("//") { tail.find('\n') } else { tail.find("*/").map(|e| e + 2) };
        let end = end.unwrap_or(tail.len());
        out.extend(std::iter::repeat_n(' ', end));
        rest = &tail[end..];
    }
    out + rest
}
