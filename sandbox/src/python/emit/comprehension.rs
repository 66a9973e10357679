//! Comprehensions and generator expressions.

use super::super::ast::{Collects, Comprehension, Expression};
use super::expression::OR;
use super::{Emitted, Emitter};

impl Emitter<'_> {
    /// What a `for` loops over: strings give characters, iterators their rest.
    pub(super) fn iterable(&mut self, e: &Expression) -> Emitted {
        // An error caught in the middle of a loop leaves Starlark's list locked; a copy does not matter.
        self.wrapped(if self.scopes.catches { "__copy" } else { "__iter" }, e)
    }

    pub(super) fn comprehension(&mut self, c: &Comprehension) -> Emitted {
        let (open, close) = match c.collects {
            Collects::List => ("[", "]"),
            Collects::Items => ("__items([", "])"),
            Collects::Set => ("__set([", "])"),
            Collects::Dict => ("{", "}"),
        };
        self.push(open);
        self.collected(c, None)?;
        self.push(close);
        Ok(())
    }

    /// `element for target in iterable if ..`; `first` stands in the place of the first iterable.
    pub(super) fn collected(&mut self, c: &Comprehension, first: Option<&str>) -> Emitted {
        let outer = self.scope;
        self.scope = self.scopes.of(c);
        self.expression(&c.element, OR)?;
        if let Some(value) = &c.value {
            self.push(": ");
            self.expression(value, OR)?;
        }
        self.scope = outer;
        self.clauses_from(c, first)
    }

    pub(super) fn clauses(&mut self, c: &Comprehension) -> Emitted {
        self.clauses_from(c, None)
    }

    fn clauses_from(&mut self, c: &Comprehension, first: Option<&str>) -> Emitted {
        let (outer, inner) = (self.scope, self.scopes.of(c));
        for (index, clause) in c.clauses.iter().enumerate() {
            self.scope = inner;
            self.push(" for ");
            self.target(&clause.target)?;
            self.push(" in ");
            match first.filter(|_| index == 0) {
                Some(text) => self.push(text),
                None => {
                    // The first iterable belongs to the scope around.
                    self.scope = if index == 0 { outer } else { inner };
                    self.iterable(&clause.iterable)?;
                    self.scope = inner;
                }
            }
            for condition in &clause.conditions {
                self.push(" if ");
                self.expression(condition, OR)?;
            }
        }
        self.scope = outer;
        Ok(())
    }
}
