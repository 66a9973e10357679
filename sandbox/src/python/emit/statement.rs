//! Statements.

use super::super::SyntaxError;
use super::super::ast::{Block, Expr, Expression, Statement, Stmt};
use super::{Emitted, Emitter, Frame};

/// A value to assign or return.
#[derive(Clone, Copy)]
pub(super) enum Given<'e> {
    /// Starlark.
    Text(&'e str),
    Tree(&'e Expression),
}

/// More turns than any script may take.
const FOREVER: &str = "range(2000000000)";

impl Emitter<'_> {
    pub(super) fn statement(&mut self, statement: &Statement) -> Emitted {
        let at = statement.at;
        match &statement.kind {
            Stmt::Expression(value) => self.alone(at, value),
            Stmt::Assign(targets, value) => self.assign(at, targets, value),
            Stmt::Augment(target, op, value) => self.augment(at, target, op, value),
            Stmt::If(branches, otherwise) => self.conditional(at, branches, otherwise),
            Stmt::While(condition, body, otherwise) => self.repeat(at, condition, body, otherwise),
            Stmt::For(target, iterable, body, otherwise) => self.iterate(at, target, iterable, body, otherwise),
            Stmt::Def(def) => self.def(at, def),
            Stmt::Class(class) => self.class(at, class),
            Stmt::Return(value) => {
                let value = value.as_ref().map_or(Given::Text("None"), Given::Tree);
                self.leave_function(at, value)
            }
            Stmt::Break => self.leave_loop(at, true),
            Stmt::Continue => self.leave_loop(at, false),
            Stmt::Delete(targets) => targets.iter().try_for_each(|t| self.delete(at, t)),
            Stmt::Assert(condition, message) => {
                self.on_line(at, |e| {
                    e.push("if not ");
                    e.expression(condition, 12)?;
                    e.push(":");
                    Ok(())
                })?;
                self.indent += 1;
                self.on_line(at, |e| {
                    e.push("__raise(__class_of(\"AssertionError\")(");
                    message.iter().try_for_each(|m| e.expression(m, 0))?;
                    e.push("))");
                    Ok(())
                })?;
                self.indent -= 1;
                Ok(())
            }
            Stmt::Raise(value) => self.raise(at, value.as_ref()),
            Stmt::Try(attempt) => self.attempt(at, attempt),
            Stmt::Import(names) => {
                for (name, from) in names {
                    let line = format!("{} = {from}", self.variable(name));
                    self.line(at, &line);
                }
                Ok(())
            }
            Stmt::Annotate(_) | Stmt::Pass | Stmt::Global(_) | Stmt::Nonlocal(_) => Ok(()),
        }
    }

    fn alone(&mut self, at: usize, value: &Expression) -> Emitted {
        // A docstring, or the `...` of an empty body.
        if matches!(value.kind, Expr::Text(_) | Expr::Constant(_)) {
            return Ok(());
        }
        self.on_line(at, |e| match value.kind {
            // A coroutine that nobody awaits: Python warns and does nothing, which no author means.
            Expr::Call(..) if e.scopes.waits => e.wrapped("__await", value),
            _ => e.expression(value, 0),
        })
    }

    fn assign(&mut self, at: usize, targets: &[Expression], value: &Expression) -> Emitted {
        let [target] = targets else {
            let temporary = self.temporary('t');
            self.on_line(at, |e| {
                e.push(&format!("{temporary} = "));
                e.expression(value, 0)
            })?;
            return targets.iter().try_for_each(|t| self.store(at, t, Given::Text(&temporary)));
        };
        if needs_unpacking(target, value) {
            return self.store(at, target, Given::Tree(value));
        }
        self.on_line(at, |e| {
            e.target(target)?;
            e.push(" = ");
            e.expression(value, 0)
        })
    }

    fn given(&mut self, value: Given) -> Emitted {
        match value {
            Given::Text(text) => {
                self.push(text);
                Ok(())
            }
            Given::Tree(tree) => self.expression(tree, 0),
        }
    }

    pub(super) fn store(&mut self, at: usize, target: &Expression, value: Given) -> Emitted {
        let (unpack, items) = match &target.kind {
            Expr::Tuple(items) | Expr::List(items) => {
                let star = items.iter().position(|i| matches!(i.kind, Expr::Starred(_)));
                (star.map(|star| (star, items.len() - star - 1)), items.as_slice())
            }
            _ => (None, &[][..]),
        };
        // A starred name further in is unpacked on a line of its own.
        let inner: Vec<Option<String>> = items.iter().map(|i| has_star_inside(i).then(|| self.temporary('t'))).collect();
        let at_last = |e: &mut Self| -> Emitted {
            for (item, temporary) in items.iter().zip(&inner) {
                if let Some(temporary) = temporary {
                    e.store(at, item, Given::Text(temporary))?;
                }
            }
            Ok(())
        };
        self.on_line(at, |e| {
            if inner.iter().any(Option::is_some) {
                e.push("(");
                for (item, temporary) in items.iter().zip(&inner) {
                    match temporary {
                        Some(temporary) => e.push(temporary),
                        None => e.target(item)?,
                    }
                    e.push(", ");
                }
                e.push(")");
            } else {
                e.target(target)?;
            }
            let end = match unpack {
                Some((before, after)) => {
                    e.push(" = __unpack(");
                    format!(", {before}, {after})")
                }
                None if matches!(target.kind, Expr::Tuple(_) | Expr::List(_)) => {
                    e.push(" = __iter(");
                    ")".to_owned()
                }
                None => {
                    e.push(" = ");
                    String::new()
                }
            };
            e.given(value)?;
            e.push(&end);
            Ok(())
        })?;
        at_last(self)
    }

    pub(super) fn target(&mut self, target: &Expression) -> Emitted {
        self.mark(target.at);
        match &target.kind {
            Expr::Name(name) => {
                let variable = self.variable(name);
                self.push(&variable);
                Ok(())
            }
            Expr::Attribute(base, name) => {
                self.expression(base, 12)?;
                self.push(&format!("[{name:?}]"));
                Ok(())
            }
            Expr::Index(base, index) => {
                self.expression(base, 12)?;
                self.push("[");
                self.expression(index, 0)?;
                self.push("]");
                Ok(())
            }
            Expr::Starred(inner) => self.target(inner),
            Expr::Tuple(items) | Expr::List(items) => {
                self.push("(");
                for item in items {
                    self.target(item)?;
                    self.push(", ");
                }
                self.push(")");
                Ok(())
            }
            _ => Err(SyntaxError::new(target.at, "This cannot be assigned to.")),
        }
    }

    fn augment(&mut self, at: usize, target: &Expression, op: &'static str, value: &Expression) -> Emitted {
        if let (Expr::Index(base, index), true) = (&target.kind, self.scopes.defaults) {
            return self.on_line(at, |e| {
                e.push("__augment(");
                e.expression(base, 0)?;
                e.push(", ");
                e.expression(index, 0)?;
                e.push(&format!(", {op:?}, "));
                e.expression(value, 0)?;
                e.push(")");
                Ok(())
            });
        }
        self.on_line(at, |e| {
            e.target(target)?;
            let function = match op {
                "**" => "__pow",
                "%" => "__mod",
                _ => {
                    e.push(&format!(" {op}= "));
                    return e.expression(value, 0);
                }
            };
            e.push(&format!(" = {function}("));
            e.target(target)?;
            e.push(", ");
            e.expression(value, 0)?;
            e.push(")");
            Ok(())
        })
    }

    fn conditional(&mut self, at: usize, branches: &[(Expression, Block)], otherwise: &Block) -> Emitted {
        for (index, (condition, body)) in branches.iter().enumerate() {
            let at = if index == 0 { at } else { condition.at };
            self.on_line(at, |e| {
                e.push(if index == 0 { "if " } else { "elif " });
                e.expression(condition, 0)?;
                e.push(":");
                Ok(())
            })?;
            self.nested(|e| e.statements(body))?;
        }
        if !otherwise.is_empty() {
            self.line(at, "else:");
            self.nested(|e| e.statements(otherwise))?;
        }
        Ok(())
    }

    fn repeat(&mut self, at: usize, condition: &Expression, body: &Block, otherwise: &Block) -> Emitted {
        let turn = self.temporary('i');
        self.looping(at, otherwise, |e| {
            e.line(at, &format!("for {turn} in {FOREVER}:"));
            e.nested(|e| {
                if !matches!(&condition.kind, Expr::Constant(c) if c == "True" || c == "1") {
                    e.on_line(condition.at, |e| {
                        e.push("if not ");
                        e.expression(condition, 12)?;
                        e.push(": break");
                        Ok(())
                    })?;
                }
                e.statements(body)
            })
        })
    }

    fn iterate(&mut self, at: usize, target: &Expression, iterable: &Expression, body: &Block, otherwise: &Block) -> Emitted {
        let plain = self.is_plain(target);
        self.looping(at, otherwise, |e| {
            let turn = if plain { String::new() } else { e.temporary('i') };
            e.on_line(at, |e| {
                e.push("for ");
                if plain {
                    e.target(target)?
                } else {
                    e.push(&turn)
                }
                e.push(" in ");
                e.iterable(iterable)?;
                e.push(":");
                Ok(())
            })?;
            e.nested(|e| {
                if !plain {
                    e.store(target.at, target, Given::Text(&turn))?;
                }
                e.statements(body)
            })
        })
    }

    fn looping(&mut self, at: usize, otherwise: &Block, write: impl FnOnce(&mut Self) -> Emitted) -> Emitted {
        let flag = (!otherwise.is_empty()).then(|| self.temporary('b'));
        if let Some(flag) = &flag {
            self.line(at, &format!("{flag} = False"));
        }
        self.frames.push(Frame::Loop(flag.clone()));
        write(self)?;
        self.frames.pop();
        if let Some(flag) = flag {
            self.line(at, &format!("if not {flag}:"));
            self.nested(|e| e.statements(otherwise))?;
        }
        Ok(())
    }

    /// Does Starlark take the target as it stands?
    fn is_plain(&self, target: &Expression) -> bool {
        match &target.kind {
            Expr::Name(name) => self.variable(name) == super::plain(name),
            Expr::Tuple(items) | Expr::List(items) => items.iter().all(|i| self.is_plain(i)),
            _ => false,
        }
    }

    fn delete(&mut self, at: usize, target: &Expression) -> Emitted {
        self.on_line(at, |e| {
            match &target.kind {
                Expr::Index(base, index) => {
                    e.push("__delete(");
                    e.expression(base, 0)?;
                    e.push(", ");
                    e.expression(index, 0)?;
                }
                Expr::Attribute(base, name) => {
                    e.push("__delete(");
                    e.expression(base, 0)?;
                    e.push(&format!(", {name:?}"));
                }
                Expr::Name(name) => {
                    let variable = e.variable(name);
                    e.push(&format!("{variable} = None"));
                    return Ok(());
                }
                _ => {
                    return Err(SyntaxError::new(
                        target.at,
                        "This cannot be deleted. Write `del d[\"key\"]`, or build a new list.",
                    ));
                }
            }
            e.push(")");
            Ok(())
        })
    }

    pub(super) fn leave_function(&mut self, at: usize, value: Given) -> Emitted {
        let mut body = false;
        for frame in self.frames.iter_mut().rev() {
            match frame {
                Frame::Loop(_) => continue,
                Frame::Body(exits) => {
                    exits.returns = true;
                    body = true;
                }
                Frame::Function => {}
            }
            break;
        }
        let module = self.frames.iter().filter(|f| matches!(f, Frame::Function)).count() == 1;
        let (before, after) = match (body, module) {
            (true, _) => ("return (0, ", ")"),
            (false, true) => ("__exit(", ")"),
            (false, false) => ("return ", ""),
        };
        self.on_line(at, |e| {
            e.push(before);
            e.given(value)?;
            e.push(after);
            Ok(())
        })
    }

    pub(super) fn leave_loop(&mut self, at: usize, breaks: bool) -> Emitted {
        let word = if breaks { "break" } else { "continue" };
        match self.frames.last_mut() {
            Some(Frame::Loop(flag)) => {
                if let Some(flag) = flag.clone().filter(|_| breaks) {
                    self.line(at, &format!("{flag} = True"));
                }
                self.line(at, word);
                Ok(())
            }
            Some(Frame::Body(exits)) => {
                let inside = if breaks { &mut exits.breaks } else { &mut exits.continues };
                *inside = true;
                self.line(at, if breaks { "return (1, None)" } else { "return (2, None)" });
                Ok(())
            }
            _ => Err(SyntaxError::new(at, format!("`{word}` stands outside a loop. Use `return` to leave a function."))),
        }
    }
}

/// A list of targets takes what can be looped over; only a starred one needs more.
fn needs_unpacking(target: &Expression, value: &Expression) -> bool {
    match &target.kind {
        Expr::Tuple(items) | Expr::List(items) => {
            items.iter().any(|i| matches!(i.kind, Expr::Starred(_)) || has_star_inside(i))
                || !matches!(value.kind, Expr::Tuple(_) | Expr::List(_))
        }
        _ => false,
    }
}

/// Is it a list of targets with a starred one among them?
fn has_star_inside(target: &Expression) -> bool {
    match &target.kind {
        Expr::Tuple(items) | Expr::List(items) => items.iter().any(|i| matches!(i.kind, Expr::Starred(_)) || has_star_inside(i)),
        _ => false,
    }
}
