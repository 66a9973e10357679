//! What binds names inside expressions: comprehensions and parameters.

use super::SyntaxError;
use super::ast::{Clause, Collects, Comprehension, Expr, Expression, Parameter};
use super::expression::Parser;
use super::lexer::Token;

type Parsed<T> = Result<T, SyntaxError>;

impl Parser<'_> {
    pub(super) fn comprehension(
        &mut self,
        at: usize,
        collects: Collects,
        element: Expression,
        value: Option<Expression>,
    ) -> Parsed<Expression> {
        let mut clauses: Vec<Clause> = Vec::new();
        loop {
            let asynchronous = self.word("async") && matches!(self.ahead(1), Some(Token::Name(n)) if n == "for");
            self.at += usize::from(asynchronous);
            if self.take_word("for") {
                let target = self.targets()?;
                self.expect_word("in")?;
                let iterable = self.logic("or")?;
                clauses.push(Clause { target, iterable, conditions: Vec::new() });
            } else if let Some(last) =
                clauses.last_mut().filter(|_| matches!(&self.tokens[self.at].token, Token::Name(n) if n == "if"))
            {
                self.at += 1;
                let condition = self.condition()?;
                last.conditions.push(condition);
            } else {
                break;
            }
        }
        let comprehension = Comprehension { collects, element, value, clauses };
        Ok(Expression::new(at, Expr::Comprehension(Box::new(comprehension))))
    }

    /// Behind a comprehension's `if`: no `if .. else` of its own, but `name := value`.
    fn condition(&mut self) -> Parsed<Expression> {
        if matches!(self.ahead(1), Some(Token::Op(":="))) { self.named() } else { self.logic("or") }
    }

    /// `k, (a, b)` behind `for`.
    pub fn targets(&mut self) -> Parsed<Expression> {
        let at = self.place();
        let mut items = Vec::new();
        let mut comma = false;
        loop {
            let at = self.place();
            let star = self.take("*");
            let item = self.postfix()?;
            items.push(if star { Expression::new(at, Expr::Starred(Box::new(item))) } else { item });
            if !self.take(",") {
                break;
            }
            comma = true;
            if self.word("in") {
                break;
            }
        }
        Ok(if comma { Expression::new(at, Expr::Tuple(items)) } else { items.remove(0) })
    }

    /// Up to the closing token, which stays. `annotated` is false for a lambda, whose colon ends them.
    pub fn parameters(&mut self, closing: &str, annotated: bool) -> Parsed<Vec<Parameter>> {
        let mut out = Vec::new();
        while !self.is(closing) {
            let star = ["**", "*", "/"].into_iter().find(|star| self.take(star)).unwrap_or("");
            let bare = star == "/" || (star == "*" && (self.is(",") || self.is(closing)));
            let name = if bare { String::new() } else { self.identifier("a parameter")? };
            if annotated && !bare && self.take(":") {
                self.expression()?;
            }
            let default = if self.take("=") { Some(self.expression()?) } else { None };
            out.push(Parameter { star, name, default });
            if !self.take(",") {
                break;
            }
        }
        Ok(out)
    }
}
