//! Expressions, with parentheses only where Starlark's precedence asks for them.

use super::super::SyntaxError;
use super::super::ast::{Expr, Expression, Piece};
use super::super::text::quote;
use super::{Emitted, Emitter};

pub(super) const OR: u8 = 1;
const AND: u8 = 2;
const NOT: u8 = 3;
const COMPARE: u8 = 4;
const UNARY: u8 = 11;
pub(super) const CALL: u8 = 12;

fn binary_level(op: &str) -> u8 {
    match op {
        "|" => 5,
        "^" => 6,
        "&" => 7,
        "<<" | ">>" => 8,
        "+" | "-" => 9,
        "%" | "**" => CALL, // written as calls
        _ => 10,
    }
}

fn level(e: &Expression) -> u8 {
    match &e.kind {
        Expr::Lambda(..) | Expr::Choice(..) => 0,
        Expr::Logic("or", _) => OR,
        Expr::Logic(..) => AND,
        Expr::Unary("not", _) => NOT,
        Expr::Unary(..) => UNARY,
        // A chain is written with `and`, or as a call; `is` as a call.
        Expr::Compare(..) => match plain_comparison(e) {
            Some(_) => COMPARE,
            None => CALL,
        },
        Expr::Binary(_, op, _) => binary_level(op),
        _ => CALL,
    }
}

/// The one comparison that Starlark has too.
fn plain_comparison(e: &Expression) -> Option<(&Expression, &'static str, &Expression)> {
    match &e.kind {
        Expr::Compare(left, rest) => match rest.as_slice() {
            [(op, right)] if !op.starts_with("is") => Some((left, op, right)),
            [("is", right)] if is_none(right) => Some((left, "==", right)),
            [("is not", right)] if is_none(right) => Some((left, "!=", right)),
            _ => None,
        },
        _ => None,
    }
}

/// `d.keys()` or `d.items()`
fn is_view(e: &Expression) -> bool {
    match &e.kind {
        Expr::Call(function, arguments) if arguments.is_empty() => {
            matches!(&function.kind, Expr::Attribute(_, name) if name == "keys" || name == "items")
        }
        _ => false,
    }
}

fn is_none(e: &Expression) -> bool {
    matches!(&e.kind, Expr::Constant(c) if c == "None")
}

impl Emitter<'_> {
    /// `least` is the level that what stands around asks for.
    pub(super) fn expression(&mut self, e: &Expression, least: u8) -> Emitted {
        let wrapped = level(e) < least;
        self.mark(e.at);
        if wrapped {
            self.push("(");
        }
        self.bare(e)?;
        if wrapped {
            self.push(")");
        }
        Ok(())
    }

    pub(super) fn wrapped(&mut self, function: &str, e: &Expression) -> Emitted {
        self.mark(e.at);
        self.push(function);
        self.push("(");
        self.expression(e, 0)?;
        self.push(")");
        Ok(())
    }

    fn bare(&mut self, e: &Expression) -> Emitted {
        match &e.kind {
            Expr::Name(name) if name == "__name__" => self.push("\"__main__\""),
            Expr::Name(name) => {
                let variable = self.variable(name);
                self.push(&variable);
            }
            Expr::Constant(text) => self.push(text),
            Expr::Text(text) => self.push(&quote(text)),
            Expr::Formatted(pieces) => return self.pieces(pieces),
            Expr::Tuple(items) => return self.sequence(items, "__tuple"),
            Expr::List(items) => return self.sequence(items, ""),
            Expr::Set(items) => return self.sequence(items, "__set"),
            Expr::Dict(pairs) => return self.dict(pairs),
            Expr::Starred(_) => {
                return Err(SyntaxError::new(
                    e.at,
                    "A `*` cannot stand here. Put it into a list, `[*a, b]`, or into a call, `f(*a)`.",
                ));
            }
            Expr::Unary(op, inner) => {
                self.push(op);
                if *op == "not" {
                    self.push(" ");
                    return self.expression(inner, NOT);
                }
                return self.expression(inner, UNARY);
            }
            Expr::Binary(left, op, right) => return self.binary(e.at, left, op, right),
            Expr::Logic(word, items) => {
                let level = if *word == "or" { OR } else { AND };
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        self.push(&format!(" {word} "));
                    }
                    self.expression(item, level + 1)?;
                }
            }
            Expr::Compare(first, rest) => return self.compare(e, first, rest),
            Expr::Choice(condition, then, otherwise) => {
                self.expression(then, OR)?;
                self.push(" if ");
                self.expression(condition, OR)?;
                self.push(" else ");
                return self.expression(otherwise, 0);
            }
            Expr::Lambda(parameters, body) => {
                self.push("lambda ");
                self.parameters(parameters)?;
                self.push(": ");
                let outer = std::mem::replace(&mut self.scope, self.scopes.of(parameters));
                self.expression(body, 0)?;
                self.scope = outer;
            }
            Expr::Call(function, arguments) => return self.call(e.at, function, arguments),
            Expr::Attribute(base, name) => {
                self.push("__attr(");
                self.expression(base, 0)?;
                self.push(&format!(",{name:?})"));
            }
            Expr::Index(base, index) if self.scopes.defaults => {
                self.push("__item(");
                self.expression(base, 0)?;
                self.push(", ");
                self.expression(index, 0)?;
                self.push(")");
            }
            Expr::Index(base, index) => {
                self.expression(base, CALL)?;
                self.push("[");
                self.expression(index, 0)?;
                self.push("]");
            }
            Expr::Slice(base, parts) => {
                self.expression(base, CALL)?;
                self.push("[");
                for (index, part) in parts.iter().enumerate() {
                    if index == 1 || (index == 2 && part.is_some()) {
                        self.push(":");
                    }
                    part.iter().try_for_each(|p| self.expression(p, OR))?;
                }
                self.push("]");
            }
            Expr::Comprehension(comprehension) => return self.comprehension(comprehension),
            Expr::Walrus(name, value) => return self.walrus(name, value),
            Expr::Await(inner) => return self.wrapped("__await", inner),
        }
        Ok(())
    }

    fn wrapped_if(&mut self, wrap: bool, e: &Expression, least: u8) -> Emitted {
        if wrap { self.wrapped("__set", e) } else { self.expression(e, least) }
    }

    fn walrus(&mut self, name: &str, value: &Expression) -> Emitted {
        // Always in a dict: an expression can put a value there.
        let mut scope = self.scope;
        while self.scopes.all[scope].kind == super::super::scope::Kind::Expression {
            scope = self.scopes.all[scope].parent.unwrap_or(0);
        }
        let owner = self.scopes.resolve(scope, name).unwrap_or(scope);
        self.push(&format!("__put(__v{owner}, {name:?}, "));
        self.expression(value, 0)?;
        self.push(")");
        Ok(())
    }

    fn binary(&mut self, at: usize, left: &Expression, op: &str, right: &Expression) -> Emitted {
        let function = match op {
            "**" => "__pow",
            "%" => "__mod",
            "@" => return Err(SyntaxError::new(at, "There are no matrices. Use a list comprehension.")),
            _ => {
                let level = binary_level(op);
                // A dict's keys are a list here, and a set wherever they meet a set.
                if matches!(op, "&" | "|" | "-" | "^") && (is_view(left) || is_view(right)) {
                    self.wrapped_if(is_view(left), left, level)?;
                    self.push(&format!(" {op} "));
                    return self.wrapped_if(is_view(right), right, level + 1);
                }
                self.expression(left, level)?;
                self.push(&format!(" {op} "));
                return self.expression(right, level + 1);
            }
        };
        self.push(function);
        self.push("(");
        self.expression(left, 0)?;
        self.push(", ");
        self.expression(right, 0)?;
        self.push(")");
        Ok(())
    }

    fn compare(&mut self, whole: &Expression, first: &Expression, rest: &[(&'static str, Expression)]) -> Emitted {
        if let Some((left, op, right)) = plain_comparison(whole) {
            return self.comparison(left, op, right);
        }
        if let [(op, right)] = rest {
            self.push(if *op == "is" { "__is(" } else { "(not __is(" });
            self.expression(first, 0)?;
            self.push(", ");
            self.expression(right, 0)?;
            self.push(if *op == "is" { ")" } else { "))" });
            return Ok(());
        }
        // `a < f() < c`: what stands in the middle is evaluated once.
        let middle = &rest[..rest.len() - 1];
        if middle.iter().all(|(_, e)| e.is_simple()) {
            self.push("(");
            let mut left = first;
            for (index, (op, right)) in rest.iter().enumerate() {
                if index > 0 {
                    self.push(" and ");
                }
                self.pair(left, op, right)?;
                left = right;
            }
            self.push(")");
            return Ok(());
        }
        self.push("__chain([");
        for (op, _) in rest {
            self.push(&format!("{op:?}, "));
        }
        self.push("], lambda: ");
        self.expression(first, 0)?;
        for (_, operand) in rest {
            self.push(", lambda: ");
            self.expression(operand, 0)?;
        }
        self.push(")");
        Ok(())
    }

    fn pair(&mut self, left: &Expression, op: &'static str, right: &Expression) -> Emitted {
        match op {
            "is" | "is not" => {
                self.push(if op == "is" { "__is(" } else { "not __is(" });
                self.expression(left, 0)?;
                self.push(", ");
                self.expression(right, 0)?;
                self.push(")");
                Ok(())
            }
            _ => self.comparison(left, op, right),
        }
    }

    fn comparison(&mut self, left: &Expression, op: &str, right: &Expression) -> Emitted {
        self.expression(left, COMPARE + 1)?;
        self.push(&format!(" {op} "));
        self.expression(right, COMPARE + 1)
    }

    fn sequence(&mut self, items: &[Expression], kind: &str) -> Emitted {
        let starred = items.iter().any(|i| matches!(i.kind, Expr::Starred(_)));
        let (open, close) = match (kind, starred) {
            ("__tuple", false) => ("(".to_owned(), ")"),
            ("", false) => ("[".to_owned(), "]"),
            (kind, false) => (format!("{kind}(["), "])"),
            ("", true) => ("__concat(".to_owned(), ")"),
            (kind, true) => (format!("{kind}(__concat("), "))"),
        };
        self.push(&open);
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                self.push(", ");
            }
            match &item.kind {
                Expr::Starred(inner) => self.expression(inner, 0)?,
                _ if starred => {
                    self.push("[");
                    self.expression(item, 0)?;
                    self.push("]");
                }
                _ => self.expression(item, 0)?,
            }
        }
        if kind == "__tuple" && !starred && items.len() == 1 {
            self.push(",");
        }
        self.push(close);
        Ok(())
    }

    fn dict(&mut self, pairs: &[(Option<Expression>, Expression)]) -> Emitted {
        let merged = pairs.iter().any(|(key, _)| key.is_none());
        self.push(if merged { "__merge(" } else { "{" });
        for (index, (key, value)) in pairs.iter().enumerate() {
            if index > 0 {
                self.push(", ");
            }
            let Some(key) = key else {
                self.expression(value, 0)?;
                continue;
            };
            if merged {
                self.push("{");
            }
            self.expression(key, 0)?;
            self.push(": ");
            self.expression(value, 0)?;
            if merged {
                self.push("}");
            }
        }
        self.push(if merged { ")" } else { "}" });
        Ok(())
    }

    fn pieces(&mut self, pieces: &[Piece]) -> Emitted {
        self.push("__text(");
        for piece in pieces {
            match piece {
                Piece::Text(text) if text.is_empty() => continue,
                Piece::Text(text) => self.push(&quote(text)),
                Piece::Value(value, conversion, specification) => {
                    let formatted = !specification.iter().all(|p| matches!(p, Piece::Text(t) if t.is_empty()));
                    if formatted {
                        self.mark(value.at);
                        self.push("__format(");
                    }
                    match conversion {
                        Some('r' | 'a') => self.wrapped("__repr", value)?,
                        _ => self.expression(value, 0)?,
                    }
                    if formatted {
                        self.push(", ");
                        self.pieces(specification)?;
                        self.push(")");
                    }
                }
            }
            self.push(", ");
        }
        self.push(")");
        Ok(())
    }
}
