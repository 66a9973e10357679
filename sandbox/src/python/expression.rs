//! Expressions: from the lowest precedence to atoms.

use super::ast::{Argument, Collects, Expr, Expression};
use super::lexer::{Lexeme, Token};
use super::{SyntaxError, fstring, refuse};

pub struct Parser<'a> {
    pub source: &'a str,
    pub tokens: Vec<Lexeme>,
    pub at: usize,
    /// f-strings within f-strings.
    pub nested: usize,
    /// The word `async` has been read.
    pub waits: bool,
}

type Parsed<T> = Result<T, SyntaxError>;

const KEYWORDS: &[&str] = &[
    "False", "None", "True", "and", "as", "assert", "async", "await", "break", "class", "continue", "def", "del", "elif", "else",
    "except", "finally", "for", "from", "global", "if", "import", "in", "is", "lambda", "nonlocal", "not", "or", "pass", "raise",
    "return", "try", "while", "with", "yield",
];

const BINARY: &[&[&str]] = &[&["|"], &["^"], &["&"], &["<<", ">>"], &["+", "-"], &["*", "/", "//", "%", "@"]];

impl Parser<'_> {
    // --- tokens -----------------------------------------------------------------------------------------------------

    fn current(&self) -> &Lexeme {
        &self.tokens[self.at.min(self.tokens.len() - 1)]
    }

    pub fn token(&self) -> &Token {
        &self.current().token
    }

    pub fn place(&self) -> usize {
        self.current().at
    }

    pub fn ahead(&self, by: usize) -> Option<&Token> {
        self.tokens.get(self.at + by).map(|l| &l.token)
    }

    pub fn is(&self, op: &str) -> bool {
        matches!(self.token(), Token::Op(found) if *found == op)
    }

    pub fn word(&self, word: &str) -> bool {
        matches!(self.token(), Token::Name(found) if found == word)
    }

    pub fn take(&mut self, op: &str) -> bool {
        let found = self.is(op);
        self.at += usize::from(found);
        found
    }

    pub fn take_word(&mut self, word: &str) -> bool {
        let found = self.word(word);
        self.at += usize::from(found);
        found
    }

    pub fn expect(&mut self, op: &str) -> Parsed<()> {
        if self.take(op) { Ok(()) } else { Err(self.unexpected(&format!("'{op}'"))) }
    }

    pub fn expect_word(&mut self, word: &str) -> Parsed<()> {
        if self.take_word(word) { Ok(()) } else { Err(self.unexpected(&format!("`{word}`"))) }
    }

    pub fn unexpected(&self, expected: &str) -> SyntaxError {
        let begin = self.at.saturating_sub(8);
        refuse::unexpected(self.source, &self.tokens[begin..=self.at.min(self.tokens.len() - 1)], expected)
    }

    pub fn identifier(&mut self, what: &str) -> Parsed<String> {
        match self.token().clone() {
            Token::Name(name) if !KEYWORDS.contains(&name.as_str()) => {
                self.at += 1;
                Ok(name)
            }
            _ => Err(self.unexpected(what)),
        }
    }

    // --- the levels -------------------------------------------------------------------------------------------------

    /// `a, *b, c`: a tuple where there is a comma.
    pub fn list_of(&mut self) -> Parsed<Expression> {
        let at = self.place();
        let first = self.starred()?;
        if !self.is(",") {
            return Ok(first);
        }
        let mut items = vec![first];
        while self.take(",") {
            if self.ends_list() {
                break;
            }
            items.push(self.starred()?);
        }
        Ok(Expression::new(at, Expr::Tuple(items)))
    }

    fn ends_list(&self) -> bool {
        match self.token() {
            Token::Newline | Token::End => true,
            Token::Op(op) => matches!(*op, ")" | "]" | "}" | "=" | ":" | ";") || op.ends_with('=') && op.len() > 1,
            Token::Name(name) => name == "in",
            _ => false,
        }
    }

    fn starred(&mut self) -> Parsed<Expression> {
        let at = self.place();
        if self.take("*") {
            let inner = self.binary(0)?;
            return Ok(Expression::new(at, Expr::Starred(Box::new(inner))));
        }
        self.named()
    }

    /// An expression that may be `name := value`.
    pub fn named(&mut self) -> Parsed<Expression> {
        let at = self.place();
        if let (Token::Name(name), Some(Token::Op(":="))) = (self.token().clone(), self.ahead(1)) {
            self.at += 2;
            let value = self.expression()?;
            return Ok(Expression::new(at, Expr::Walrus(name, Box::new(value))));
        }
        self.expression()
    }

    pub fn expression(&mut self) -> Parsed<Expression> {
        let at = self.place();
        if self.take_word("lambda") {
            let parameters = self.parameters(":", false)?;
            self.expect(":")?;
            let body = self.expression()?;
            return Ok(Expression::new(at, Expr::Lambda(parameters, Box::new(body))));
        }
        let value = self.logic("or")?;
        if !self.take_word("if") {
            return Ok(value);
        }
        let condition = self.logic("or")?;
        if !self.take_word("else") {
            return Err(self.unexpected("`else`"));
        }
        let otherwise = self.expression()?;
        Ok(Expression::new(at, Expr::Choice(Box::new(condition), Box::new(value), Box::new(otherwise))))
    }

    pub(super) fn logic(&mut self, word: &'static str) -> Parsed<Expression> {
        let at = self.place();
        let mut items = vec![if word == "or" { self.logic("and")? } else { self.not()? }];
        while self.take_word(word) {
            items.push(if word == "or" { self.logic("and")? } else { self.not()? });
        }
        Ok(match items.len() {
            1 => items.remove(0),
            _ => Expression::new(at, Expr::Logic(word, items)),
        })
    }

    fn not(&mut self) -> Parsed<Expression> {
        let at = self.place();
        if self.take_word("not") {
            let inner = self.not()?;
            return Ok(Expression::new(at, Expr::Unary("not", Box::new(inner))));
        }
        let first = self.binary(0)?;
        let mut rest = Vec::new();
        while let Some(op) = self.comparison() {
            rest.push((op, self.binary(0)?));
        }
        Ok(if rest.is_empty() { first } else { Expression::new(at, Expr::Compare(Box::new(first), rest)) })
    }

    fn comparison(&mut self) -> Option<&'static str> {
        let second = |word: &str| matches!(self.ahead(1), Some(Token::Name(n)) if n == word);
        let (op, length) = match self.token() {
            Token::Op(op @ ("<" | ">" | "<=" | ">=" | "==" | "!=")) => (*op, 1),
            Token::Name(name) if name == "in" => ("in", 1),
            Token::Name(name) if name == "not" && second("in") => ("not in", 2),
            Token::Name(name) if name == "is" && second("not") => ("is not", 2),
            Token::Name(name) if name == "is" => ("is", 1),
            _ => return None,
        };
        self.at += length;
        Some(op)
    }

    fn binary(&mut self, level: usize) -> Parsed<Expression> {
        let at = self.place();
        let mut left = self.unary()?;
        // One loop for all levels that bind tighter, so that a parenthesis costs few frames of the native stack.
        while let Some((op, found)) = self.binary_operator(level) {
            self.at += 1;
            let right = self.binary(found + 1)?;
            left = Expression::new(at, Expr::Binary(Box::new(left), op, Box::new(right)));
        }
        Ok(left)
    }

    fn binary_operator(&self, least: usize) -> Option<(&'static str, usize)> {
        let Token::Op(op) = self.token() else { return None };
        let level = BINARY.iter().position(|ops| ops.contains(op))?;
        (level >= least).then_some((*op, level))
    }

    fn unary(&mut self) -> Parsed<Expression> {
        let at = self.place();
        for op in ["-", "+", "~"] {
            if self.take(op) {
                let inner = self.unary()?;
                return Ok(Expression::new(at, Expr::Unary(op, Box::new(inner))));
            }
        }
        if self.take_word("await") {
            let inner = self.unary()?;
            return Ok(Expression::new(at, Expr::Await(Box::new(inner))));
        }
        let base = self.postfix()?;
        if self.take("**") {
            let exponent = self.unary()?;
            return Ok(Expression::new(at, Expr::Binary(Box::new(base), "**", Box::new(exponent))));
        }
        Ok(base)
    }

    pub(super) fn postfix(&mut self) -> Parsed<Expression> {
        let at = self.place();
        let mut value = self.atom()?;
        loop {
            if self.take(".") {
                let name = self.attribute_name()?;
                value = Expression::new(at, Expr::Attribute(Box::new(value), name));
            } else if self.take("(") {
                let arguments = self.arguments()?;
                value = Expression::new(at, Expr::Call(Box::new(value), arguments));
            } else if self.take("[") {
                value = self.subscript(at, value)?;
            } else {
                return Ok(value);
            }
        }
    }

    /// Fields of answers are called what they are called: `r.class` and `r.from` are read as well.
    fn attribute_name(&mut self) -> Parsed<String> {
        match self.token().clone() {
            Token::Name(name) => {
                self.at += 1;
                Ok(name)
            }
            _ => Err(self.unexpected("a name after the dot")),
        }
    }

    fn subscript(&mut self, at: usize, base: Expression) -> Parsed<Expression> {
        let mut parts: [Option<Box<Expression>>; 3] = [None, None, None];
        let mut colons = 0;
        while !self.is("]") {
            if self.take(":") {
                colons += 1;
                if colons > 2 {
                    return Err(self.unexpected("']'"));
                }
            } else if parts[colons].is_none() {
                let index = if colons == 0 { self.list_of()? } else { self.expression()? };
                parts[colons] = Some(Box::new(index));
            } else {
                return Err(self.unexpected("']'"));
            }
        }
        self.expect("]")?;
        match (colons, parts) {
            (0, [Some(index), _, _]) => Ok(Expression::new(at, Expr::Index(Box::new(base), index))),
            (0, _) => Err(SyntaxError::new(at, "An index is missing between the brackets. Write `xs[0]`.")),
            (_, parts) => Ok(Expression::new(at, Expr::Slice(Box::new(base), parts))),
        }
    }

    fn arguments(&mut self) -> Parsed<Vec<Argument>> {
        let mut out = Vec::new();
        while !self.is(")") {
            let star = ["**", "*"].into_iter().find(|star| self.take(star)).unwrap_or("");
            let mut name = None;
            if let (Token::Name(word), Some(Token::Op("="))) = (self.token().clone(), self.ahead(1)) {
                // A keyword of Python may be a tool's parameter; the tool has it under `class_` too.
                self.at += 2;
                name = Some(if KEYWORDS.contains(&word.as_str()) { word + "_" } else { word });
            }
            let at = self.place();
            let value = self.named()?;
            if self.word("for") || self.word("async") {
                let value = self.comprehension(at, Collects::Items, value, None)?;
                out.push(Argument { star, name, value });
            } else {
                out.push(Argument { star, name, value });
            }
            if !self.take(",") {
                break;
            }
        }
        self.expect(")")?;
        Ok(out)
    }

    // --- atoms ------------------------------------------------------------------------------------------------------

    fn atom(&mut self) -> Parsed<Expression> {
        let at = self.place();
        match self.token().clone() {
            Token::Number(text) => {
                self.at += 1;
                Ok(Expression::new(at, Expr::Constant(text)))
            }
            Token::Text(_) => fstring::strings(self),
            Token::Name(name) => match name.as_str() {
                "True" | "False" | "None" => {
                    self.at += 1;
                    Ok(Expression::new(at, Expr::Constant(name)))
                }
                _ => Ok(Expression::new(at, Expr::Name(self.identifier("a value")?))),
            },
            Token::Op("(") => self.parenthesis(at),
            Token::Op("[") => self.bracket(at),
            Token::Op("{") => self.brace(at),
            Token::Op("...") => {
                self.at += 1;
                Ok(Expression::new(at, Expr::Constant("None".into())))
            }
            _ => Err(self.unexpected("a value")),
        }
    }

    fn parenthesis(&mut self, at: usize) -> Parsed<Expression> {
        self.at += 1;
        if self.take(")") {
            return Ok(Expression::new(at, Expr::Tuple(Vec::new())));
        }
        let value = self.list_of()?;
        let value = if self.word("for") { self.comprehension(at, Collects::Items, value, None)? } else { value };
        self.expect(")")?;
        // The place is that of what stands inside; a tuple's is its bracket.
        Ok(value)
    }

    fn bracket(&mut self, at: usize) -> Parsed<Expression> {
        self.at += 1;
        let mut items = Vec::new();
        while !self.is("]") {
            items.push(self.starred()?);
            if (self.word("for") || self.word("async")) && items.len() == 1 {
                let element = items.remove(0);
                let out = self.comprehension(at, Collects::List, element, None)?;
                self.expect("]")?;
                return Ok(out);
            }
            if !self.take(",") {
                break;
            }
        }
        self.expect("]")?;
        Ok(Expression::new(at, Expr::List(items)))
    }

    fn brace(&mut self, at: usize) -> Parsed<Expression> {
        self.at += 1;
        let (mut items, mut pairs) = (Vec::new(), Vec::new());
        while !self.is("}") {
            if self.take("**") {
                pairs.push((None, self.binary(0)?));
            } else {
                let first = self.starred()?;
                if !self.take(":") {
                    if self.word("for") {
                        let out = self.comprehension(at, Collects::Set, first, None)?;
                        self.expect("}")?;
                        return Ok(out);
                    }
                    items.push(first);
                } else {
                    let value = self.expression()?;
                    if self.word("for") {
                        let out = self.comprehension(at, Collects::Dict, first, Some(value))?;
                        self.expect("}")?;
                        return Ok(out);
                    }
                    pairs.push((Some(first), value));
                }
            }
            if !self.take(",") {
                break;
            }
        }
        self.expect("}")?;
        match (items.is_empty(), pairs.is_empty()) {
            (false, false) => {
                Err(SyntaxError::new(at, "This mixes a dict and a set. Give every key a value: `{\"key\": value}`."))
            }
            (false, true) => Ok(Expression::new(at, Expr::Set(items))),
            _ => Ok(Expression::new(at, Expr::Dict(pairs))),
        }
    }
}
