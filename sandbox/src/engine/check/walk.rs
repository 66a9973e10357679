//! One walk over the tree: which names are bound to what, and every place where a name, an attribute or a call is evaluated.

use std::collections::HashMap;

use crate::python::Script;
use crate::python::ast::{Argument, Block, Class, Comprehension, Def, Expr, Expression, Parameter, Piece, Statement, Stmt, Try};
use crate::python::scope::{Kind, Scopes, address};

/// What becomes of the value of an expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role<'a> {
    /// Anything may.
    Free,
    /// One of its attributes is read.
    Base,
    /// It is called.
    Callee,
    /// `getattr` and `hasattr` look at it.
    Probe,
    /// It gets another name, in this scope.
    Alias(usize, &'a str),
}

#[derive(Debug)]
pub struct Site<'a> {
    pub scope: usize,
    pub expression: &'a Expression,
    pub role: Role<'a>,
    /// Where Python's own names mean something to the translation that nothing binds: bases and decorators.
    pub lenient: bool,
}

/// A name's only value; none where it is bound more than once, or to what only the run can tell.
#[derive(Debug, Clone, Copy)]
pub struct Binding<'a> {
    pub scope: usize,
    pub value: Option<&'a Expression>,
}

#[derive(Debug)]
pub struct Walk<'a> {
    scopes: &'a Scopes,
    scope: usize,
    lenient: bool,
    pub sites: Vec<Site<'a>>,
    /// By the scope that owns the name.
    pub bindings: HashMap<usize, HashMap<&'a str, Binding<'a>>>,
}

pub fn walk(script: &Script) -> Walk<'_> {
    let scopes = &script.scopes;
    let block: &Block = &script.block;
    let mut walk = Walk { scopes, scope: scopes.of(block), lenient: false, sites: Vec::new(), bindings: HashMap::new() };
    walk.block(block);
    walk
}

impl<'a> Walk<'a> {
    fn bind(&mut self, name: &'a str, value: Option<&'a Expression>) {
        let Some(owner) = self.scopes.resolve(self.scope, name) else { return };
        let new = Binding { scope: self.scope, value };
        self.bindings.entry(owner).or_default().entry(name).and_modify(|known| known.value = None).or_insert(new);
    }

    fn inside(&mut self, scope: usize, body: impl FnOnce(&mut Self)) {
        let outer = std::mem::replace(&mut self.scope, scope);
        body(self);
        self.scope = outer;
    }

    fn leniently(&mut self, expressions: &'a [Expression]) {
        self.lenient = true;
        expressions.iter().for_each(|e| self.free(e));
        self.lenient = false;
    }

    // --- statements -------------------------------------------------------------------------------------------------

    fn block(&mut self, block: &'a [Statement]) {
        block.iter().for_each(|s| self.statement(s));
    }

    fn statement(&mut self, statement: &'a Statement) {
        match &statement.kind {
            Stmt::Expression(e) => self.free(e),
            Stmt::Assign(targets, value) => self.assign(targets, value),
            Stmt::Augment(target, _, value) => {
                self.free(value);
                self.free(target);
                self.target(target, None);
            }
            Stmt::If(branches, otherwise) => {
                for (condition, body) in branches {
                    self.free(condition);
                    self.block(body);
                }
                self.block(otherwise);
            }
            Stmt::While(condition, body, otherwise) => {
                self.free(condition);
                self.block(body);
                self.block(otherwise);
            }
            Stmt::For(target, iterable, body, otherwise) => {
                self.free(iterable);
                self.target(target, None);
                self.block(body);
                self.block(otherwise);
            }
            Stmt::Def(def) => self.function(def),
            Stmt::Class(class) => self.class(class),
            Stmt::Return(value) | Stmt::Raise(value) => value.iter().for_each(|v| self.free(v)),
            Stmt::Delete(targets) => targets.iter().for_each(|t| self.target(t, None)),
            Stmt::Assert(condition, message) => {
                self.free(condition);
                message.iter().for_each(|m| self.free(m));
            }
            Stmt::Try(attempt) => self.attempt(attempt),
            Stmt::Import(names) => names.iter().for_each(|(name, _)| self.bind(name, None)),
            Stmt::Annotate(_) | Stmt::Break | Stmt::Continue | Stmt::Pass | Stmt::Global(_) | Stmt::Nonlocal(_) => {}
        }
    }

    /// A server that gets another name in a function or in the module is known under that name too. (A class's names are
    /// reached from elsewhere, as its attributes.)
    fn assign(&mut self, targets: &'a [Expression], value: &'a Expression) {
        match (targets, &value.kind) {
            ([target], Expr::Name(_)) => match self.alias(target) {
                Some(role) => self.expression(value, role),
                None => self.free(value),
            },
            _ => self.free(value),
        }
        targets.iter().for_each(|t| self.target(t, Some(value)));
    }

    fn alias(&self, target: &'a Expression) -> Option<Role<'a>> {
        let name = target.name()?;
        let owner = self.scopes.resolve(self.scope, name)?;
        (self.scopes.all[owner].kind != Kind::Class).then_some(Role::Alias(owner, name))
    }

    fn target(&mut self, target: &'a Expression, value: Option<&'a Expression>) {
        match &target.kind {
            Expr::Name(name) => self.bind(name, value),
            Expr::Starred(inner) => self.target(inner, None),
            Expr::Tuple(items) | Expr::List(items) => items.iter().for_each(|i| self.target(i, None)),
            Expr::Attribute(base, _) => self.free(base),
            _ => self.free(target),
        }
    }

    fn function(&mut self, def: &'a Def) {
        self.leniently(&def.decorators);
        self.defaults(&def.parameters);
        self.bind(&def.name, None);
        self.inside(self.scopes.of(def), |w| {
            w.parameters(&def.parameters);
            w.block(&def.body);
        });
    }

    fn class(&mut self, class: &'a Class) {
        self.leniently(&class.bases);
        self.bind(&class.name, None);
        self.inside(self.scopes.by_address(address(class)), |w| w.block(&class.body));
    }

    fn attempt(&mut self, attempt: &'a Try) {
        self.block(&attempt.body);
        for handler in &attempt.handlers {
            handler.kind.iter().for_each(|k| self.free(k));
            handler.name.iter().for_each(|n| self.bind(n, None));
            self.block(&handler.body);
        }
        self.block(&attempt.otherwise);
        self.block(&attempt.finally);
    }

    fn defaults(&mut self, parameters: &'a [Parameter]) {
        parameters.iter().filter_map(|p| p.default.as_ref()).for_each(|d| self.free(d));
    }

    fn parameters(&mut self, parameters: &'a [Parameter]) {
        parameters.iter().filter(|p| !p.name.is_empty()).for_each(|p| self.bind(&p.name, None));
    }

    // --- expressions ------------------------------------------------------------------------------------------------

    fn free(&mut self, e: &'a Expression) {
        self.expression(e, Role::Free);
    }

    fn expression(&mut self, e: &'a Expression, role: Role<'a>) {
        if matches!(e.kind, Expr::Name(_) | Expr::Attribute(..) | Expr::Call(..)) {
            self.sites.push(Site { scope: self.scope, expression: e, role, lenient: self.lenient });
        }
        match &e.kind {
            Expr::Name(_) | Expr::Constant(_) | Expr::Text(_) => {}
            Expr::Formatted(pieces) => self.pieces(pieces),
            Expr::Tuple(items) | Expr::List(items) | Expr::Set(items) | Expr::Logic(_, items) => {
                items.iter().for_each(|i| self.free(i));
            }
            Expr::Dict(pairs) => {
                for (key, value) in pairs {
                    key.iter().for_each(|k| self.free(k));
                    self.free(value);
                }
            }
            Expr::Starred(inner) | Expr::Unary(_, inner) | Expr::Await(inner) => self.free(inner),
            Expr::Attribute(base, _) => self.expression(base, Role::Base),
            Expr::Binary(left, _, right) | Expr::Index(left, right) => {
                self.free(left);
                self.free(right);
            }
            Expr::Compare(first, rest) => {
                self.free(first);
                rest.iter().for_each(|(_, e)| self.free(e));
            }
            Expr::Choice(a, b, c) => [a, b, c].into_iter().for_each(|e| self.free(e)),
            Expr::Lambda(parameters, body) => {
                self.defaults(parameters);
                self.inside(self.scopes.of(parameters), |w| {
                    w.parameters(parameters);
                    w.free(body);
                });
            }
            Expr::Call(function, arguments) => self.call(function, arguments),
            Expr::Slice(base, parts) => {
                self.free(base);
                parts.iter().flatten().for_each(|p| self.free(p));
            }
            Expr::Comprehension(comprehension) => self.comprehension(comprehension),
            Expr::Walrus(name, value) => {
                self.free(value);
                self.walrus(name);
            }
        }
    }

    fn call(&mut self, function: &'a Expression, arguments: &'a [Argument]) {
        self.expression(function, Role::Callee);
        let probes = function.name().is_some_and(|n| matches!(n, "getattr" | "hasattr") && self.is_given(n));
        for (index, argument) in arguments.iter().enumerate() {
            let probed = probes && index == 0 && argument.star.is_empty() && argument.name.is_none();
            self.expression(&argument.value, if probed { Role::Probe } else { Role::Free });
        }
    }

    fn is_given(&self, name: &str) -> bool {
        self.scopes.resolve(self.scope, name).is_none()
    }

    fn walrus(&mut self, name: &'a str) {
        let mut scope = self.scope;
        while self.scopes.all[scope].kind == Kind::Expression {
            scope = self.scopes.all[scope].parent.unwrap_or(0);
        }
        self.inside(scope, |w| w.bind(name, None));
    }

    fn pieces(&mut self, pieces: &'a [Piece]) {
        for piece in pieces {
            if let Piece::Value(value, _, specification) = piece {
                self.free(value);
                self.pieces(specification);
            }
        }
    }

    fn comprehension(&mut self, c: &'a Comprehension) {
        if let Some(first) = c.clauses.first() {
            self.free(&first.iterable);
        }
        self.inside(self.scopes.of(c), |w| {
            for (index, clause) in c.clauses.iter().enumerate() {
                w.target(&clause.target, None);
                if index > 0 {
                    w.free(&clause.iterable);
                }
                clause.conditions.iter().for_each(|condition| w.free(condition));
            }
            w.free(&c.element);
            c.value.iter().for_each(|v| w.free(v));
        });
    }
}
