//! What is not there, and what to write instead.

use super::SyntaxError;
use super::lexer::{Lexeme, Token};

pub const WITH: &str = "There is no `with`. Call the function and keep its value in a variable.";
const YIELD: &str = "There are no generators. Append to a list and return it: `out.append(x)` .. `return out`.";

/// Operators of other languages.
const FOREIGN: &[(&str, &str)] = &[
    ("&&", "There is no `&&`. Write `and`."),
    ("||", "There is no `||`. Write `or`."),
    ("===", "There is no `===`. Write `==`."),
    ("!==", "There is no `!==`. Write `!=`."),
    ("=>", "There is no `=>`. Write `lambda x: ..`."),
    ("++", "There is no `++`. Write `x += 1`."),
    ("?.", "There is no `?.`. Write `r.get(\"key\")`."),
    ("??", "There is no `??`. Write `x if x != None else default`."),
    ("?", "There is no `?`. Write `a if condition else b`."),
    ("`", "There are no backquotes. Write an f-string: f\"{x}\"."),
    ("/*", "Comments begin with `#`."),
    ("$", "There is no `$`. Write an f-string: f\"{x}\"."),
    ("<>", "There is no `<>`. Write `!=`."),
];

pub fn foreign(rest: &str) -> Option<&'static str> {
    // `a ++b` is Python, if odd; `x++` at the end of a line is not.
    let applies =
        |op: &str| op != "++" || rest[2..].trim_start_matches([' ', '\t']).starts_with(['\n', ';', ')']) || rest.len() == 2;
    FOREIGN.iter().find(|(op, _)| rest.starts_with(op) && applies(op)).map(|(_, hint)| *hint)
}

pub fn character(c: char) -> String {
    match c {
        '\u{201c}' | '\u{201d}' => "These are typographic quotes. Write `\"`.".into(),
        '\u{2018}' | '\u{2019}' => "These are typographic quotes. Write `'`.".into(),
        '\\' => "A `\\` continues a line only at its very end. Put the expression into parentheses instead.".into(),
        '!' => "Use `not x` or `!=`.".into(),
        c => format!("The character '{c}' means nothing here. Remove it, or put it into a string."),
    }
}

/// Statements that are not there. `next` is the token behind `word`.
pub fn statement(word: &str, next: Option<&Token>) -> Option<&'static str> {
    let plain = matches!(next, Some(Token::Name(_) | Token::Text(_) | Token::Number(_)));
    Some(match word {
        "with" => WITH,
        "yield" => YIELD,
        "match" if plain => "There is no `match`. Use `if` and `elif`.",
        "print" if plain => "`print` is a function: `print(x)`.",
        "const" | "let" | "var" if plain => "Variables need no word in front. Write `name = value`.",
        "function" if plain => "Functions begin with `def`. Write `def name(x):`.",
        "else" | "elif" => "This branch has no `if` above it on the same indentation. Indent it like its `if`.",
        "except" | "finally" => "This branch has no `try` above it on the same indentation. Indent it like its `try`.",
        _ => return None,
    })
}

pub fn module(module: &str) -> String {
    let root = module.split('.').next().unwrap_or(module);
    let hint = match root {
        "requests" | "httpx" | "urllib" | "aiohttp" | "http" | "socket" => "Scripts have no network. Use a tool.",
        "os" | "sys" | "pathlib" | "subprocess" | "shutil" | "io" | "glob" | "tempfile" => {
            "Scripts have no files and no operating system. Use a tool."
        }
        "pandas" | "numpy" => "Use lists and dicts: `sum(r.amount for r in rows)`, `sorted(rows, key=lambda r: r.day)`.",
        "concurrent" | "threading" | "multiprocessing" => "Use `parallel([lambda: a.b(), lambda: c.d()])`.",
        "zoneinfo" | "pytz" | "dateutil" | "calendar" => {
            "Use `datetime.fromisoformat(text)`, `timedelta(days=1)` and `timezone(timedelta(hours=1))`."
        }
        "logging" => "Use `print(..)`: it goes to the run's logs.",
        "uuid" | "secrets" => "Use `random()`, which is replayed, or let a tool make the id.",
        "csv" => "Use `line.split(\",\")` and `\",\".join(..)`.",
        "decimal" | "fractions" => "Use integers (cents) or `round(x, 2)`.",
        "enum" => "Use strings: `OPEN = \"open\"`.",
        "textwrap" | "string" => "Use the methods of strings: `strip`, `ljust`, `split`.",
        "traceback" => "Write `str(e)`.",
        "hashlib" | "base64" | "hmac" => "Use a tool that encodes.",
        _ => "The servers are global names: leave the line out.",
    };
    format!("There is no module '{module}'. {hint} Modules: json, re, math, datetime, time, random, collections, itertools.")
}

/// From the last few tokens, what the author may have meant.
pub fn unexpected(source: &str, tokens: &[Lexeme], expected: &str) -> SyntaxError {
    let Some((here, before)) = tokens.split_last() else {
        return SyntaxError::new(0, format!("Expected {expected}."));
    };
    let shown = match &here.token {
        Token::Newline | Token::End => "the end of the line".to_owned(),
        Token::Indent | Token::Dedent => "a change of indentation".to_owned(),
        _ => format!("'{}'", source.get(here.at..here.end).unwrap_or_default().chars().take(20).collect::<String>()),
    };
    let word = |lexeme: Option<&Lexeme>| match lexeme.map(|l| &l.token) {
        Some(Token::Name(name)) => name.clone(),
        _ => String::new(),
    };
    let previous = before.last();
    let hint = match (&here.token, word(previous).as_str()) {
        (Token::Name(name), _) if name == "yield" => YIELD.to_owned(),
        (Token::Name(name), _) if name == "with" => WITH.to_owned(),
        (Token::Name(name), _) if name == "await" => "Drop the word `await`: a tool call returns its value.".to_owned(),
        (Token::Op("="), _) if expected == "':'" => "`=` assigns. Write `==` to compare.".to_owned(),
        (Token::Op(":="), _) => "`:=` needs a name on its left. Assign on a line of its own.".to_owned(),
        (Token::Op("!"), _) => "Use `not x` or `!=`.".to_owned(),
        (Token::Op("{"), _) if expected == "':'" => "Blocks begin with `:` and are indented. Write `:` and no braces.".to_owned(),
        (Token::Newline | Token::End, _) if expected == "':'" => "Write `:` at the end of the line.".to_owned(),
        (_, _) if expected == "`else`" => "`a if condition` needs an `else`: `a if condition else b`.".to_owned(),
        (Token::Name(name), "else") if name == "if" => "Write `elif`.".to_owned(),
        (Token::End | Token::Newline, _) if matches!(expected, "')'" | "']'" | "'}'") => {
            format!("A bracket is not closed. Write {expected}.")
        }
        (Token::Name(_) | Token::Text(_) | Token::Number(_), _) if matches!(expected, "')'" | "']'" | "'}'") => {
            format!("Is a comma missing before {shown}?")
        }
        (Token::Name(name), _) if is_keyword_value(name) => {
            format!("`{name}` is a word of the language. Choose another name.")
        }
        _ => String::new(),
    };
    let message = format!("Expected {expected}, found {shown}. {hint}");
    SyntaxError::new(here.at, message.trim_end())
}

fn is_keyword_value(name: &str) -> bool {
    matches!(name, "class" | "from" | "import" | "global" | "pass" | "def" | "return" | "del" | "as" | "try" | "raise" | "lambda")
}
