//! The syntax tree: as much of Python as scripts use. Every node knows where it begins in the author's text.

pub type Block = Vec<Statement>;

#[derive(Debug)]
pub struct Statement {
    pub at: usize,
    pub kind: Stmt,
}

#[derive(Debug)]
pub enum Stmt {
    Expression(Expression),
    /// `a = b = value`
    Assign(Vec<Expression>, Expression),
    /// Target, operator without `=`, value.
    Augment(Expression, &'static str, Expression),
    /// `x: int`, which only a dataclass takes notice of.
    Annotate(String),
    If(Vec<(Expression, Block)>, Block),
    While(Expression, Block, Block),
    For(Expression, Expression, Block, Block),
    Def(Def),
    Class(Class),
    Return(Option<Expression>),
    Break,
    Continue,
    Pass,
    Delete(Vec<Expression>),
    Assert(Expression, Option<Expression>),
    Raise(Option<Expression>),
    Try(Try),
    /// Names that belong to the module, or (`nonlocal`) to a function further out.
    Global(Vec<String>),
    Nonlocal(Vec<String>),
    /// The name bound, and what it stands for.
    Import(Vec<(String, String)>),
}

#[derive(Debug)]
pub struct Def {
    pub name: String,
    pub parameters: Vec<Parameter>,
    pub body: Block,
    pub decorators: Vec<Expression>,
    /// `async def`: a call of it waits to be awaited.
    pub waits: bool,
}

#[derive(Debug)]
pub struct Class {
    pub name: String,
    pub bases: Vec<Expression>,
    pub body: Block,
    /// `@dataclass`: its annotated names are the parameters of its constructor.
    pub dataclass: bool,
}

#[derive(Debug)]
pub struct Try {
    pub body: Block,
    pub handlers: Vec<Handler>,
    pub otherwise: Block,
    pub finally: Block,
}

#[derive(Debug)]
pub struct Handler {
    pub kind: Option<Expression>,
    pub name: Option<String>,
    pub body: Block,
}

#[derive(Debug)]
pub struct Parameter {
    /// "", "*", "**", or "/" for the mark alone.
    pub star: &'static str,
    /// Empty for a lone `*` or `/`.
    pub name: String,
    pub default: Option<Expression>,
}

#[derive(Debug)]
pub struct Expression {
    pub at: usize,
    pub kind: Expr,
}

#[derive(Debug)]
pub enum Expr {
    Name(String),
    /// Starlark's text for it: numbers, `True`, `False`, `None`.
    Constant(String),
    Text(String),
    Formatted(Vec<Piece>),
    Tuple(Vec<Expression>),
    List(Vec<Expression>),
    Set(Vec<Expression>),
    /// `None` as key: `**value`.
    Dict(Vec<(Option<Expression>, Expression)>),
    Starred(Box<Expression>),
    Unary(&'static str, Box<Expression>),
    Binary(Box<Expression>, &'static str, Box<Expression>),
    /// `and`, `or`.
    Logic(&'static str, Vec<Expression>),
    Compare(Box<Expression>, Vec<(&'static str, Expression)>),
    /// Condition, then, else.
    Choice(Box<Expression>, Box<Expression>, Box<Expression>),
    Lambda(Vec<Parameter>, Box<Expression>),
    Call(Box<Expression>, Vec<Argument>),
    Attribute(Box<Expression>, String),
    Index(Box<Expression>, Box<Expression>),
    Slice(Box<Expression>, [Option<Box<Expression>>; 3]),
    Comprehension(Box<Comprehension>),
    Walrus(String, Box<Expression>),
    /// `await x`
    Await(Box<Expression>),
}

#[derive(Debug)]
pub enum Piece {
    Text(String),
    /// Expression, conversion (`r`, `s`), specification.
    Value(Expression, Option<char>, Vec<Piece>),
}

#[derive(Debug)]
pub struct Argument {
    /// "", "*" or "**".
    pub star: &'static str,
    pub name: Option<String>,
    pub value: Expression,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Collects {
    List,
    Set,
    Dict,
    /// A generator expression.
    Items,
}

#[derive(Debug)]
pub struct Comprehension {
    pub collects: Collects,
    pub element: Expression,
    /// Of a dict.
    pub value: Option<Expression>,
    pub clauses: Vec<Clause>,
}

#[derive(Debug)]
pub struct Clause {
    pub target: Expression,
    pub iterable: Expression,
    pub conditions: Vec<Expression>,
}

impl Expression {
    #[must_use]
    pub fn new(at: usize, kind: Expr) -> Self {
        Self { at, kind }
    }

    /// The name, if it is one.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match &self.kind {
            Expr::Name(name) => Some(name),
            _ => None,
        }
    }

    /// May it be written twice without being felt?
    #[must_use]
    pub fn is_simple(&self) -> bool {
        match &self.kind {
            Expr::Name(_) | Expr::Constant(_) | Expr::Text(_) => true,
            Expr::Unary(_, inner) => inner.is_simple(),
            _ => false,
        }
    }
}
