//! From the tree to Starlark text.
//!
//! Names that begin with `__` and a lower-case letter belong to this module and to `engine::builtins`; scripts that use one
//! of their own of the same spelling only confuse themselves: what a script may do is decided when a call is made.

mod attempt;
mod call;
mod class;
mod comprehension;
mod expression;
mod function;
mod statement;

use super::ast::{Block, Expr, Statement, Stmt};
use super::places::Places;
use super::scope::Scopes;
use super::{SyntaxError, Translated};

type Emitted = Result<(), SyntaxError>;

/// What a `break`, `continue` or `return` has to leave, from the outside in.
enum Frame {
    Function,
    /// With the variable that tells the loop's `else` of a `break`.
    Loop(Option<String>),
    /// The function that a `try` body has become; which ways out of it were used.
    Body(Exits),
}

#[derive(Clone, Copy, Default)]
struct Exits {
    returns: bool,
    breaks: bool,
    continues: bool,
}

struct Emitter<'a> {
    out: String,
    places: Places,
    scopes: &'a Scopes,
    scope: usize,
    indent: usize,
    temporaries: usize,
    frames: Vec<Frame>,
    /// Variables that hold the exceptions being handled, from the outside in.
    handling: Vec<String>,
    /// Class and first parameter of the method around, for `super()`.
    method: Option<(String, String)>,
    class: Option<String>,
}

pub fn emit(block: &Block, scopes: &Scopes) -> Result<Translated, SyntaxError> {
    let mut emitter = Emitter {
        out: String::new(),
        places: Places::default(),
        scopes,
        scope: scopes.of(block),
        indent: 0,
        temporaries: 0,
        frames: vec![Frame::Function],
        handling: Vec::new(),
        method: None,
        class: None,
    };
    if scopes.has_box(emitter.scope) {
        emitter.line(0, "__v0 = {}");
    }
    let implicit = !scopes.binds(emitter.scope, "result") && !has_return(block);
    emitter.module(block, implicit)?;
    if scopes.is_boxed(emitter.scope, "result") {
        emitter.line(0, "result = __v0.get(\"result\")");
    }
    Ok(Translated { text: emitter.out, places: emitter.places })
}

/// A `return` outside functions ends the script with its value.
fn has_return(block: &Block) -> bool {
    block.iter().any(|s| match &s.kind {
        Stmt::Return(_) => true,
        Stmt::If(branches, otherwise) => branches.iter().any(|(_, b)| has_return(b)) || has_return(otherwise),
        Stmt::For(_, _, a, b) | Stmt::While(_, a, b) => has_return(a) || has_return(b),
        Stmt::Try(t) => {
            [&t.body, &t.otherwise, &t.finally].into_iter().any(has_return) || t.handlers.iter().any(|h| has_return(&h.body))
        }
        _ => false,
    })
}

impl Emitter<'_> {
    /// The statements of the script itself. The last one's value is the result where nothing else says what is.
    fn module(&mut self, block: &Block, implicit: bool) -> Emitted {
        let Some((last, others)) = block.split_last().filter(|_| implicit) else { return self.statements(block) };
        self.statements(others)?;
        self.last(last)
    }

    fn last(&mut self, statement: &Statement) -> Emitted {
        match &statement.kind {
            Stmt::Expression(value) => self.on_line(statement.at, |e| {
                e.push("result = ");
                if e.scopes.waits {
                    return e.wrapped("__await", value);
                }
                e.expression(value, 0)
            }),
            // `if __name__ == "__main__": main()`
            Stmt::If(branches, otherwise) if is_main(branches) && otherwise.is_empty() => self.module(&branches[0].1, true),
            _ => self.statement(statement),
        }
    }

    fn push(&mut self, text: &str) {
        self.out.push_str(text);
    }

    /// What is written next comes from `at`.
    fn mark(&mut self, at: usize) {
        self.places.mark(self.out.len(), at);
    }

    fn margin(&mut self, at: usize) {
        for _ in 0..self.indent {
            self.out.push(' ');
        }
        self.mark(at);
    }

    fn line(&mut self, at: usize, text: &str) {
        self.margin(at);
        self.push(text);
        self.push("\n");
    }

    fn on_line(&mut self, at: usize, write: impl FnOnce(&mut Self) -> Emitted) -> Emitted {
        self.margin(at);
        write(self)?;
        self.push("\n");
        Ok(())
    }

    /// `head:` and a block below it.
    fn nested(&mut self, write: impl FnOnce(&mut Self) -> Emitted) -> Emitted {
        self.indent += 1;
        let before = self.out.len();
        write(self)?;
        if self.out.len() == before {
            let at = self.places.original(before);
            self.line(at, "pass");
        }
        self.indent -= 1;
        Ok(())
    }

    fn temporary(&mut self, letter: char) -> String {
        self.temporaries += 1;
        format!("__{letter}{}", self.temporaries)
    }

    /// How the variable is read and assigned from here.
    fn variable(&self, name: &str) -> String {
        match self.scopes.resolve(self.scope, name) {
            Some(owner) if self.scopes.is_boxed(owner, name) => format!("__v{owner}[{name:?}]"),
            _ => plain(name).to_owned(),
        }
    }

    /// Is it the engine's own name, not one of the script's?
    fn is_given(&self, name: &str) -> bool {
        self.scopes.resolve(self.scope, name).is_none()
    }

    fn statements(&mut self, block: &[Statement]) -> Emitted {
        block.iter().try_for_each(|s| self.statement(s))
    }
}

fn is_main(branches: &[(super::ast::Expression, Block)]) -> bool {
    match branches {
        [(condition, _)] => match &condition.kind {
            Expr::Compare(left, _) => left.name() == Some("__name__"),
            _ => false,
        },
        _ => false,
    }
}

/// `load` is a word of Starlark alone; tools have it under the same other name.
fn plain(name: &str) -> &str {
    if name == "load" { "load_" } else { name }
}
