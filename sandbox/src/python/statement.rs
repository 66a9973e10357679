//! Statements and blocks.

use super::ast::{Block, Class, Def, Expr, Expression, Handler, Statement, Stmt, Try};
use super::expression::Parser;
use super::lexer::{Lexeme, Token};
use super::{SyntaxError, imports, refuse};

type Parsed<T> = Result<T, SyntaxError>;

const AUGMENTS: &[&str] = &["+=", "-=", "*=", "/=", "//=", "%=", "**=", "&=", "|=", "^=", "<<=", ">>="];

pub fn parse(source: &str, tokens: Vec<Lexeme>) -> Parsed<Block> {
    let mut parser = Parser { source, tokens, at: 0, nested: 0, waits: false };
    let mut out = Vec::new();
    while !matches!(parser.token(), Token::End) {
        if matches!(parser.token(), Token::Indent) {
            return Err(SyntaxError::new(parser.place(), "This line is indented without a reason. Move it to the left."));
        }
        parser.statement(&mut out)?;
    }
    Ok(out)
}

impl Parser<'_> {
    fn statement(&mut self, out: &mut Block) -> Parsed<()> {
        let at = self.place();
        if self.is("@") {
            out.push(self.decorated()?);
            return Ok(());
        }
        let word = match self.token() {
            Token::Name(name) => name.clone(),
            _ => String::new(),
        };
        let kind = match word.as_str() {
            "if" => self.conditional()?,
            "while" => self.repeat()?,
            "for" => self.iterate()?,
            "try" => self.attempt()?,
            "def" => Stmt::Def(self.function(Vec::new())?),
            "class" => Stmt::Class(self.class(false)?),
            "async" => {
                self.at += 1;
                self.waits = self.word("def");
                return match self.token() {
                    Token::Name(n) if n == "def" || n == "for" => self.statement(out),
                    _ => Err(SyntaxError::new(at, refuse::WITH)),
                };
            }
            _ => {
                self.simple(out)?;
                while self.take(";") {
                    if matches!(self.token(), Token::Newline | Token::End) {
                        break;
                    }
                    self.simple(out)?;
                }
                return self.end_of_line();
            }
        };
        out.push(Statement { at, kind });
        Ok(())
    }

    fn end_of_line(&mut self) -> Parsed<()> {
        match self.token() {
            Token::Newline => {
                self.at += 1;
                Ok(())
            }
            Token::End | Token::Dedent => Ok(()),
            _ => Err(self.unexpected("the end of the line")),
        }
    }

    fn block(&mut self) -> Parsed<Block> {
        if !self.take(":") {
            return Err(self.unexpected("':'"));
        }
        let mut out = Vec::new();
        if !matches!(self.token(), Token::Newline) {
            self.simple(&mut out)?;
            while self.take(";") {
                if matches!(self.token(), Token::Newline | Token::End) {
                    break;
                }
                self.simple(&mut out)?;
            }
            self.end_of_line()?;
            return Ok(out);
        }
        self.at += 1;
        if !matches!(self.token(), Token::Indent) {
            return Err(SyntaxError::new(
                self.place(),
                "An indented block is missing here. Indent the lines that belong to it, or write `pass`.",
            ));
        }
        self.at += 1;
        while !matches!(self.token(), Token::Dedent | Token::End) {
            if matches!(self.token(), Token::Indent) {
                return Err(SyntaxError::new(self.place(), "This line is indented without a reason. Move it to the left."));
            }
            self.statement(&mut out)?;
        }
        if matches!(self.token(), Token::Dedent) {
            self.at += 1;
        }
        Ok(out)
    }

    fn conditional(&mut self) -> Parsed<Stmt> {
        let mut branches = Vec::new();
        let mut otherwise = Vec::new();
        self.at += 1;
        loop {
            let condition = self.named()?;
            branches.push((condition, self.block()?));
            if self.take_word("elif") {
                continue;
            }
            if self.take_word("else") {
                otherwise = self.block()?;
            }
            return Ok(Stmt::If(branches, otherwise));
        }
    }

    fn otherwise(&mut self) -> Parsed<Block> {
        if self.take_word("else") { self.block() } else { Ok(Vec::new()) }
    }

    fn repeat(&mut self) -> Parsed<Stmt> {
        self.at += 1;
        let condition = self.named()?;
        let body = self.block()?;
        Ok(Stmt::While(condition, body, self.otherwise()?))
    }

    fn iterate(&mut self) -> Parsed<Stmt> {
        self.at += 1;
        let target = self.targets()?;
        check_target(&target)?;
        self.expect_word("in")?;
        let iterable = self.list_of()?;
        let body = self.block()?;
        Ok(Stmt::For(target, iterable, body, self.otherwise()?))
    }

    fn attempt(&mut self) -> Parsed<Stmt> {
        let at = self.place();
        self.at += 1;
        let body = self.block()?;
        let mut handlers = Vec::new();
        while self.word("except") {
            self.at += 1;
            if self.is("*") {
                return Err(SyntaxError::new(self.place(), "There are no exception groups. Write `except Exception as e:`."));
            }
            let kind = if self.is(":") { None } else { Some(self.list_of()?) };
            let name = if self.take_word("as") { Some(self.identifier("a name")?) } else { None };
            handlers.push(Handler { kind, name, body: self.block()? });
        }
        let otherwise = self.otherwise()?;
        let finally = if self.take_word("finally") { self.block()? } else { Vec::new() };
        if handlers.is_empty() && finally.is_empty() {
            return Err(SyntaxError::new(at, "This `try` has no `except`. Write `except Exception as e:` below its block."));
        }
        Ok(Stmt::Try(Try { body, handlers, otherwise, finally }))
    }

    fn function(&mut self, decorators: Vec<Expression>) -> Parsed<Def> {
        self.at += 1;
        let waits = std::mem::take(&mut self.waits);
        let name = self.identifier("the function's name")?;
        self.expect("(")?;
        let parameters = self.parameters(")", true)?;
        self.expect(")")?;
        if self.take("->") {
            self.expression()?;
        }
        Ok(Def { name, parameters, body: self.block()?, decorators, waits })
    }

    fn class(&mut self, dataclass: bool) -> Parsed<Class> {
        self.at += 1;
        let name = self.identifier("the class's name")?;
        let mut bases = Vec::new();
        if self.take("(") {
            while !self.is(")") {
                if matches!(self.ahead(1), Some(Token::Op("="))) {
                    return Err(self.unexpected("a class"));
                }
                bases.push(self.expression()?);
                if !self.take(",") {
                    break;
                }
            }
            self.expect(")")?;
        }
        Ok(Class { name, bases, body: self.block()?, dataclass })
    }

    fn decorated(&mut self) -> Parsed<Statement> {
        let at = self.place();
        let mut decorators = Vec::new();
        while self.take("@") {
            decorators.push(self.named()?);
            self.end_of_line()?;
        }
        self.waits = self.take_word("async");
        if self.word("def") {
            // What remembers results changes nothing that a script could see.
            decorators
                .retain(|d| !matches!(decorator_name(d), Some("cache" | "lru_cache" | "wraps" | "override" | "abstractmethod")));
            return Ok(Statement { at, kind: Stmt::Def(self.function(decorators)?) });
        }
        let dataclass = matches!(decorators.as_slice(), [one] if decorator_name(one) == Some("dataclass"));
        if self.word("class") && dataclass {
            return Ok(Statement { at, kind: Stmt::Class(self.class(true)?) });
        }
        Err(SyntaxError::new(at, "This decorator is not known here. Call the function yourself: `f = decorator(f)`."))
    }

    fn simple(&mut self, out: &mut Block) -> Parsed<()> {
        let at = self.place();
        let word = match self.token() {
            Token::Name(name) => name.clone(),
            _ => String::new(),
        };
        // `match` and `type` are names as well; only what cannot be one is refused.
        if let Some(message) = refuse::statement(&word, self.ahead(1)) {
            return Err(SyntaxError::new(at, message));
        }
        let kind = match word.as_str() {
            "pass" => self.alone(Stmt::Pass),
            "break" => self.alone(Stmt::Break),
            "continue" => self.alone(Stmt::Continue),
            "return" => {
                self.at += 1;
                Stmt::Return(if self.ends_statement() { None } else { Some(self.list_of()?) })
            }
            "raise" => {
                self.at += 1;
                let value = if self.ends_statement() { None } else { Some(self.expression()?) };
                if self.take_word("from") {
                    self.expression()?;
                }
                Stmt::Raise(value)
            }
            "del" => {
                self.at += 1;
                let targets = self.list_of()?;
                Stmt::Delete(match targets.kind {
                    Expr::Tuple(items) => items,
                    _ => vec![targets],
                })
            }
            "assert" => {
                self.at += 1;
                let condition = self.expression()?;
                Stmt::Assert(condition, if self.take(",") { Some(self.expression()?) } else { None })
            }
            "global" | "nonlocal" => {
                self.at += 1;
                let mut names = vec![self.identifier("a name")?];
                while self.take(",") {
                    names.push(self.identifier("a name")?);
                }
                if word == "global" { Stmt::Global(names) } else { Stmt::Nonlocal(names) }
            }
            "import" | "from" => Stmt::Import(imports::parse(self)?),
            _ => self.assignment()?,
        };
        out.push(Statement { at, kind });
        Ok(())
    }

    fn alone(&mut self, kind: Stmt) -> Stmt {
        self.at += 1;
        kind
    }

    fn ends_statement(&self) -> bool {
        matches!(self.token(), Token::Newline | Token::End | Token::Dedent | Token::Op(";"))
    }

    fn assignment(&mut self) -> Parsed<Stmt> {
        let first = self.list_of()?;
        if let Token::Op(op) = *self.token() {
            if let Some(op) = AUGMENTS.iter().find(|a| **a == op) {
                if !matches!(first.kind, Expr::Name(_) | Expr::Attribute(..) | Expr::Index(..)) {
                    return Err(SyntaxError::new(first.at, format!("`{op}` takes one variable, field or element on its left.")));
                }
                self.at += 1;
                return Ok(Stmt::Augment(first, &op[..op.len() - 1], self.list_of()?));
            }
            if op == ":" {
                check_target(&first)?;
                self.at += 1;
                self.expression()?;
                if self.take("=") {
                    return Ok(Stmt::Assign(vec![first], self.list_of()?));
                }
                return Ok(Stmt::Annotate(first.name().unwrap_or_default().to_owned()));
            }
        }
        if !self.is("=") {
            return Ok(Stmt::Expression(first));
        }
        let mut targets = vec![first];
        loop {
            self.expect("=")?;
            let value = self.list_of()?;
            if !self.is("=") {
                targets.iter().try_for_each(check_target)?;
                return Ok(Stmt::Assign(targets, value));
            }
            targets.push(value);
        }
    }
}

fn decorator_name(decorator: &Expression) -> Option<&str> {
    match &decorator.kind {
        Expr::Name(name) | Expr::Attribute(_, name) => Some(name),
        Expr::Call(function, _) => decorator_name(function),
        _ => None,
    }
}

fn check_target(target: &Expression) -> Parsed<()> {
    match &target.kind {
        Expr::Name(_) | Expr::Attribute(..) | Expr::Index(..) => Ok(()),
        Expr::Starred(inner) => check_target(inner),
        Expr::Tuple(items) | Expr::List(items) => items.iter().try_for_each(check_target),
        Expr::Slice(..) => {
            Err(SyntaxError::new(target.at, "A slice cannot be assigned to. Build the list: `xs = xs[:i] + new + xs[j:]`."))
        }
        Expr::Call(..) => Err(SyntaxError::new(target.at, "A call cannot be assigned to. Use `==` to compare.")),
        _ => Err(SyntaxError::new(target.at, "This cannot be assigned to. Use `==` to compare.")),
    }
}
