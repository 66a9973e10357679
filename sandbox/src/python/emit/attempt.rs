//! `try` and `raise`. The body becomes a function that `__try` runs: it gives the exception, or how the body was left.
//!
//! A suspended call and an exceeded limit pass through `__try` untouched, so that no handler and no `finally` runs.

use super::super::SyntaxError;
use super::super::ast::{Block, Expression, Try};
use super::statement::Given;
use super::{Emitted, Emitter, Exits, Frame};

impl Emitter<'_> {
    pub(super) fn attempt(&mut self, at: usize, attempt: &Try) -> Emitted {
        if attempt.finally.is_empty() {
            return self.handled(at, attempt);
        }
        let (outcome, exits) = self.body(at, |e| {
            if attempt.handlers.is_empty() {
                e.statements(&attempt.body)?;
                return e.statements(&attempt.otherwise);
            }
            e.handled(at, attempt)
        })?;
        self.statements(&attempt.finally)?;
        self.line(at, &format!("if {outcome}[0] != None:"));
        self.line_inside(at, &format!("__raise({outcome}[0])"));
        self.leave(at, &outcome, exits)
    }

    /// `try`, `except` and `else`.
    fn handled(&mut self, at: usize, attempt: &Try) -> Emitted {
        let (outcome, exits) = self.body(at, |e| e.statements(&attempt.body))?;
        self.line(at, &format!("if {outcome}[0] == None:"));
        self.nested(|e| {
            e.leave(at, &outcome, exits)?;
            e.statements(&attempt.otherwise)
        })?;
        let mut catches_all = false;
        for handler in &attempt.handlers {
            let place = handler.kind.as_ref().map_or(at, |k| k.at);
            match &handler.kind {
                None => {
                    catches_all = true;
                    self.line(place, "else:");
                }
                Some(kind) => self.on_line(place, |e| {
                    e.push(&format!("elif __catches({outcome}[0], "));
                    e.expression(kind, 0)?;
                    e.push("):");
                    Ok(())
                })?,
            }
            self.handler(place, &outcome, handler.name.as_deref(), &handler.body)?;
        }
        if !catches_all {
            self.line(at, "else:");
            self.line_inside(at, &format!("__raise({outcome}[0])"));
        }
        Ok(())
    }

    fn handler(&mut self, at: usize, outcome: &str, name: Option<&str>, body: &Block) -> Emitted {
        self.handling.push(format!("{outcome}[0]"));
        self.nested(|e| {
            if let Some(name) = name {
                let variable = e.variable(name);
                e.line(at, &format!("{variable} = {outcome}[0]"));
            }
            e.statements(body)
        })?;
        self.handling.pop();
        Ok(())
    }

    /// The function, its run, and the variable that holds what came of it.
    fn body(&mut self, at: usize, write: impl FnOnce(&mut Self) -> Emitted) -> Result<(String, Exits), SyntaxError> {
        let (function, outcome) = (self.temporary('f'), self.temporary('t'));
        self.line(at, &format!("def {function}():"));
        self.frames.push(Frame::Body(Exits::default()));
        self.nested(write)?;
        let exits = match self.frames.pop() {
            Some(Frame::Body(exits)) => exits,
            _ => Exits::default(),
        };
        self.line(at, &format!("{outcome} = __try({function})"));
        Ok((outcome, exits))
    }

    /// Go on with the `return`, `break` or `continue` that the body met.
    fn leave(&mut self, at: usize, outcome: &str, exits: Exits) -> Emitted {
        if !(exits.returns || exits.breaks || exits.continues) {
            return Ok(());
        }
        self.line(at, &format!("if {outcome}[1] != None:"));
        self.nested(|e| {
            let ways = [(exits.returns, 0), (exits.breaks, 1), (exits.continues, 2)];
            for (_, code) in ways.into_iter().filter(|(used, _)| *used) {
                e.line(at, &format!("if {outcome}[1][0] == {code}:"));
                e.nested(|e| match code {
                    0 => e.leave_function(at, Given::Text(&format!("{outcome}[1][1]"))),
                    _ => e.leave_loop(at, code == 1),
                })?;
            }
            Ok(())
        })
    }

    fn line_inside(&mut self, at: usize, text: &str) {
        self.indent += 1;
        self.line(at, text);
        self.indent -= 1;
    }

    pub(super) fn raise(&mut self, at: usize, value: Option<&Expression>) -> Emitted {
        match (value, self.handling.last().cloned()) {
            (Some(value), _) => self.on_line(at, |e| {
                e.push("__raise(");
                e.expression(value, 0)?;
                e.push(")");
                Ok(())
            }),
            (None, Some(exception)) => {
                self.line(at, &format!("__raise({exception})"));
                Ok(())
            }
            (None, None) => Err(SyntaxError::new(
                at,
                "`raise` alone stands only in an `except` block. Write `raise ValueError(\"message\")`.",
            )),
        }
    }
}
