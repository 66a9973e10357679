//! Which variables belong to which function, and which of them must live in a dict because more than one Starlark function
//! assigns them: Starlark has neither `global` nor `nonlocal`, and the body of a `try` becomes a function of its own.

use std::collections::{BTreeSet, HashMap};

use super::SyntaxError;
use super::ast::{Block, Comprehension, Def, Expr, Expression, Parameter, Piece, Statement, Stmt, Try};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Module,
    Function,
    Class,
    /// A lambda or a comprehension: no statements.
    Expression,
}

#[derive(Debug)]
pub struct Scope {
    pub kind: Kind,
    pub parent: Option<usize>,
    names: BTreeSet<String>,
    boxed: BTreeSet<String>,
    /// Declared `global` or `nonlocal`, with the scope they belong to.
    elsewhere: HashMap<String, usize>,
}

#[derive(Debug)]
pub struct Scopes {
    pub all: Vec<Scope>,
    /// By the address of the node that opens the scope.
    by_node: HashMap<usize, usize>,
    /// Some function is `async`.
    pub waits: bool,
    /// Some name is `defaultdict` or `Counter`: reading an element may then add it.
    pub defaults: bool,
    /// Some `try` may catch an error inside a loop.
    pub catches: bool,
}

pub fn address<T>(node: &T) -> usize {
    std::ptr::from_ref(node).addr()
}

impl Scopes {
    pub fn of<T>(&self, node: &T) -> usize {
        self.by_address(address(node))
    }

    pub fn by_address(&self, node: usize) -> usize {
        self.by_node.get(&node).copied().unwrap_or(0)
    }

    /// The scope that binds `name` as seen from `from`; none for what the engine provides.
    pub fn resolve(&self, from: usize, name: &str) -> Option<usize> {
        let mut at = Some(from);
        while let Some(id) = at {
            let scope = &self.all[id];
            if let Some(&owner) = scope.elsewhere.get(name) {
                return self.all[owner].names.contains(name).then_some(owner);
            }
            // A class's names are seen by its body alone, not by its methods.
            if scope.names.contains(name) && (scope.kind != Kind::Class || id == from) {
                return Some(id);
            }
            at = scope.parent;
        }
        None
    }

    /// The names that are bound in this scope and in those around it.
    pub fn visible(&self, from: usize) -> Vec<&str> {
        let mut out = Vec::new();
        let mut at = Some(from);
        while let Some(id) = at {
            out.extend(self.all[id].names.iter().map(String::as_str));
            at = self.all[id].parent;
        }
        out
    }

    pub fn is_boxed(&self, scope: usize, name: &str) -> bool {
        self.all[scope].kind == Kind::Class || self.all[scope].boxed.contains(name)
    }

    pub fn has_box(&self, scope: usize) -> bool {
        self.all[scope].kind == Kind::Class || !self.all[scope].boxed.is_empty()
    }

    pub fn binds(&self, scope: usize, name: &str) -> bool {
        self.all[scope].names.contains(name)
    }
}

struct Analysis {
    scopes: Scopes,
    current: usize,
    /// How many bodies of `try` there are around, within the current function.
    bodies: usize,
}

type Analysed = Result<(), SyntaxError>;

pub fn analyse(block: &Block) -> Result<Scopes, SyntaxError> {
    let scopes = Scopes { all: Vec::new(), by_node: HashMap::new(), waits: false, defaults: false, catches: false };
    let mut analysis = Analysis { scopes, current: 0, bodies: 0 };
    analysis.open(address(block), Kind::Module);
    analysis.block(block)?;
    Ok(analysis.scopes)
}

impl Analysis {
    fn open(&mut self, node: usize, kind: Kind) {
        let parent = (kind != Kind::Module).then_some(self.current);
        let scope = Scope { kind, parent, names: BTreeSet::new(), boxed: BTreeSet::new(), elsewhere: HashMap::new() };
        self.current = self.scopes.all.len();
        self.scopes.by_node.insert(node, self.current);
        self.scopes.all.push(scope);
    }

    /// Do `body` in a scope of its own.
    fn inside(&mut self, node: usize, kind: Kind, body: impl FnOnce(&mut Self) -> Analysed) -> Analysed {
        let (outer, bodies) = (self.current, std::mem::take(&mut self.bodies));
        self.open(node, kind);
        let done = body(self);
        (self.current, self.bodies) = (outer, bodies);
        done
    }

    fn bind(&mut self, name: &str) {
        let scope = &mut self.scopes.all[self.current];
        if let Some(&owner) = scope.elsewhere.get(name) {
            self.scopes.all[owner].names.insert(name.to_owned());
            self.scopes.all[owner].boxed.insert(name.to_owned());
            return;
        }
        scope.names.insert(name.to_owned());
        if self.bodies > 0 {
            scope.boxed.insert(name.to_owned());
        }
    }

    /// `name := value` belongs to the function around, even from within a comprehension.
    fn bind_walrus(&mut self, name: &str) {
        let mut id = self.current;
        while self.scopes.all[id].kind == Kind::Expression {
            id = self.scopes.all[id].parent.unwrap_or(0);
        }
        let owner = self.scopes.all[id].elsewhere.get(name).copied().unwrap_or(id);
        self.scopes.all[owner].names.insert(name.to_owned());
        self.scopes.all[owner].boxed.insert(name.to_owned());
    }

    fn block(&mut self, block: &Block) -> Analysed {
        // What a `global` declares holds for the whole function.
        block.iter().try_for_each(|s| self.declarations(s))?;
        block.iter().try_for_each(|s| self.statement(s))
    }

    fn declarations(&mut self, statement: &Statement) -> Analysed {
        let (names, global) = match &statement.kind {
            Stmt::Global(names) => (names, true),
            Stmt::Nonlocal(names) => (names, false),
            Stmt::If(branches, otherwise) => {
                branches.iter().try_for_each(|(_, b)| b.iter().try_for_each(|s| self.declarations(s)))?;
                return otherwise.iter().try_for_each(|s| self.declarations(s));
            }
            Stmt::For(_, _, body, _) | Stmt::While(_, body, _) => return body.iter().try_for_each(|s| self.declarations(s)),
            Stmt::Try(t) => return t.body.iter().try_for_each(|s| self.declarations(s)),
            _ => return Ok(()),
        };
        for name in names {
            let owner = if global { Some(0) } else { self.outer_owner(name) };
            let Some(owner) = owner else {
                let message = format!(
                    "No function around this one has a variable '{name}'. Assign it there first, or write `global {name}`."
                );
                return Err(SyntaxError::new(statement.at, message));
            };
            if owner != self.current {
                self.scopes.all[self.current].elsewhere.insert(name.clone(), owner);
            }
        }
        Ok(())
    }

    fn outer_owner(&self, name: &str) -> Option<usize> {
        let mut at = self.scopes.all[self.current].parent;
        while let Some(id) = at {
            let scope = &self.scopes.all[id];
            if let Some(&owner) = scope.elsewhere.get(name) {
                return Some(owner);
            }
            if scope.kind == Kind::Function && scope.names.contains(name) {
                return Some(id);
            }
            at = scope.parent;
        }
        None
    }

    fn statement(&mut self, statement: &Statement) -> Analysed {
        match &statement.kind {
            Stmt::Expression(e) => self.expression(e),
            Stmt::Assign(targets, value) => {
                self.expression(value)?;
                targets.iter().try_for_each(|t| self.target(t))
            }
            Stmt::Augment(target, _, value) => {
                self.expression(value)?;
                self.target(target)
            }
            Stmt::If(branches, otherwise) => {
                for (condition, body) in branches {
                    self.expression(condition)?;
                    self.statements(body)?;
                }
                self.statements(otherwise)
            }
            Stmt::While(condition, body, otherwise) => {
                self.expression(condition)?;
                self.statements(body)?;
                self.statements(otherwise)
            }
            Stmt::For(target, iterable, body, otherwise) => {
                self.expression(iterable)?;
                self.target(target)?;
                self.statements(body)?;
                self.statements(otherwise)
            }
            Stmt::Def(def) => self.function(def),
            Stmt::Class(class) => {
                class.bases.iter().try_for_each(|b| self.expression(b))?;
                self.bind(&class.name);
                self.inside(address(class), Kind::Class, |s| s.block(&class.body))
            }
            Stmt::Return(value) | Stmt::Raise(value) => value.iter().try_for_each(|v| self.expression(v)),
            Stmt::Delete(targets) => targets.iter().try_for_each(|t| self.target(t)),
            Stmt::Assert(condition, message) => {
                self.expression(condition)?;
                message.iter().try_for_each(|m| self.expression(m))
            }
            Stmt::Try(attempt) => self.attempt(attempt),
            Stmt::Import(names) => {
                for (name, from) in names {
                    self.scopes.defaults |= from.ends_with("defaultdict") || from.ends_with("Counter");
                    self.bind(name);
                }
                Ok(())
            }
            Stmt::Annotate(_) | Stmt::Break | Stmt::Continue | Stmt::Pass | Stmt::Global(_) | Stmt::Nonlocal(_) => Ok(()),
        }
    }

    fn statements(&mut self, block: &Block) -> Analysed {
        block.iter().try_for_each(|s| self.statement(s))
    }

    fn attempt(&mut self, attempt: &Try) -> Analysed {
        self.scopes.catches = true;
        let all = usize::from(!attempt.finally.is_empty());
        self.bodies += all + 1;
        self.statements(&attempt.body)?;
        self.bodies -= 1;
        for handler in &attempt.handlers {
            handler.kind.iter().try_for_each(|k| self.expression(k))?;
            handler.name.iter().for_each(|n| self.bind(n));
            self.statements(&handler.body)?;
        }
        self.statements(&attempt.otherwise)?;
        self.bodies -= all;
        self.statements(&attempt.finally)
    }

    fn function(&mut self, def: &Def) -> Analysed {
        self.scopes.waits |= def.waits;
        def.decorators.iter().try_for_each(|d| self.expression(d))?;
        self.defaults(&def.parameters)?;
        self.bind(&def.name);
        self.inside(address(def), Kind::Function, |s| {
            s.parameters(&def.parameters);
            s.block(&def.body)
        })
    }

    fn defaults(&mut self, parameters: &[Parameter]) -> Analysed {
        parameters.iter().filter_map(|p| p.default.as_ref()).try_for_each(|d| self.expression(d))
    }

    fn parameters(&mut self, parameters: &[Parameter]) {
        parameters.iter().filter(|p| !p.name.is_empty()).for_each(|p| self.bind(&p.name));
    }

    fn target(&mut self, target: &Expression) -> Analysed {
        match &target.kind {
            Expr::Name(name) => {
                self.bind(name);
                Ok(())
            }
            Expr::Starred(inner) => self.target(inner),
            Expr::Tuple(items) | Expr::List(items) => items.iter().try_for_each(|i| self.target(i)),
            _ => self.expression(target),
        }
    }

    fn expression(&mut self, expression: &Expression) -> Analysed {
        match &expression.kind {
            Expr::Name(name) => {
                self.scopes.defaults |= name == "defaultdict" || name == "Counter";
                Ok(())
            }
            Expr::Constant(_) | Expr::Text(_) => Ok(()),
            Expr::Formatted(pieces) => self.pieces(pieces),
            Expr::Tuple(items) | Expr::List(items) | Expr::Set(items) | Expr::Logic(_, items) => {
                items.iter().try_for_each(|i| self.expression(i))
            }
            Expr::Dict(pairs) => pairs.iter().try_for_each(|(key, value)| {
                key.iter().try_for_each(|k| self.expression(k))?;
                self.expression(value)
            }),
            Expr::Starred(inner) | Expr::Unary(_, inner) | Expr::Await(inner) => self.expression(inner),
            Expr::Attribute(inner, name) => {
                self.scopes.defaults |= name == "defaultdict" || name == "Counter";
                self.expression(inner)
            }
            Expr::Binary(left, _, right) | Expr::Index(left, right) => {
                self.expression(left)?;
                self.expression(right)
            }
            Expr::Compare(first, rest) => {
                self.expression(first)?;
                rest.iter().try_for_each(|(_, e)| self.expression(e))
            }
            Expr::Choice(a, b, c) => [a, b, c].into_iter().try_for_each(|e| self.expression(e)),
            Expr::Lambda(parameters, body) => {
                self.defaults(parameters)?;
                self.inside(address(parameters), Kind::Expression, |s| {
                    s.parameters(parameters);
                    s.expression(body)
                })
            }
            Expr::Call(function, arguments) => {
                self.expression(function)?;
                arguments.iter().try_for_each(|a| self.expression(&a.value))
            }
            Expr::Slice(base, parts) => {
                self.expression(base)?;
                parts.iter().flatten().try_for_each(|p| self.expression(p))
            }
            Expr::Comprehension(comprehension) => self.comprehension(comprehension),
            Expr::Walrus(name, value) => {
                self.bind_walrus(name);
                self.expression(value)
            }
        }
    }

    fn pieces(&mut self, pieces: &[Piece]) -> Analysed {
        pieces.iter().try_for_each(|piece| match piece {
            Piece::Text(_) => Ok(()),
            Piece::Value(value, _, specification) => {
                self.expression(value)?;
                self.pieces(specification)
            }
        })
    }

    fn comprehension(&mut self, comprehension: &Comprehension) -> Analysed {
        if let Some(first) = comprehension.clauses.first() {
            self.expression(&first.iterable)?;
        }
        self.inside(address(comprehension), Kind::Expression, |s| {
            for (index, clause) in comprehension.clauses.iter().enumerate() {
                s.target(&clause.target)?;
                if index > 0 {
                    s.expression(&clause.iterable)?;
                }
                clause.conditions.iter().try_for_each(|c| s.expression(c))?;
            }
            s.expression(&comprehension.element)?;
            comprehension.value.iter().try_for_each(|v| s.expression(v))
        })
    }
}
