//! Types of expressions that can have only one.

use tollgate_codemode::wire::{CatalogParam, Scalar};

use super::super::hints;
use super::values::Values;
use crate::python::ast::{Collects, Expr, Expression};
use crate::python::text::quote;

/// Deeper expressions are no literals that anybody reads.
const MAX_DEPTH: usize = 8;
/// Of a text, as it is quoted in a message.
const SHOWN: usize = 40;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Literal<'a> {
    /// With its value where that is known.
    Str(Option<&'a str>),
    Int(&'a str),
    /// An integer whose value is not known.
    SomeInt,
    /// Whether it has a fraction.
    Float(bool),
    Bool,
    None,
    List,
    Dict,
}

impl Values<'_> {
    pub fn literal<'e>(&self, scope: usize, e: &'e Expression) -> Option<Literal<'e>> {
        self.typed(scope, e, MAX_DEPTH)
    }

    fn typed<'e>(&self, scope: usize, e: &'e Expression, left: usize) -> Option<Literal<'e>> {
        if left == 0 {
            return None;
        }
        match &e.kind {
            Expr::Text(text) => Some(Literal::Str(Some(text))),
            Expr::Formatted(_) => Some(Literal::Str(None)),
            Expr::Constant(text) => constant(text),
            Expr::List(_) | Expr::Tuple(_) => Some(Literal::List),
            Expr::Dict(_) => Some(Literal::Dict),
            Expr::Comprehension(c) => match c.collects {
                Collects::List => Some(Literal::List),
                Collects::Dict => Some(Literal::Dict),
                Collects::Set | Collects::Items => None,
            },
            Expr::Unary("-" | "+", inner) => match self.typed(scope, inner, left - 1)? {
                Literal::Int(_) | Literal::SomeInt => Some(Literal::SomeInt),
                float @ Literal::Float(_) => Some(float),
                _ => None,
            },
            Expr::Unary("not", _) => Some(Literal::Bool),
            Expr::Binary(a, "+", b) => match (self.typed(scope, a, left - 1)?, self.typed(scope, b, left - 1)?) {
                (Literal::Str(_), Literal::Str(_)) => Some(Literal::Str(None)),
                (Literal::List, Literal::List) => Some(Literal::List),
                _ => None,
            },
            Expr::Binary(a, "%", _) if matches!(self.typed(scope, a, left - 1)?, Literal::Str(_)) => Some(Literal::Str(None)),
            Expr::Call(function, _) => match &function.kind {
                Expr::Name(name) if name == "str" && self.is_given(scope, name) => Some(Literal::Str(None)),
                Expr::Name(name) if name == "len" && self.is_given(scope, name) => Some(Literal::SomeInt),
                Expr::Attribute(base, method) if method == "join" || method == "format" => {
                    matches!(base.kind, Expr::Text(_)).then_some(Literal::Str(None))
                }
                _ => None,
            },
            _ => None,
        }
    }
}

fn constant(text: &str) -> Option<Literal<'_>> {
    match text {
        "True" | "False" => Some(Literal::Bool),
        "None" => Some(Literal::None),
        _ if text.bytes().all(|b| b.is_ascii_digit()) => Some(Literal::Int(text)),
        _ if text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-')) => {
            text.parse::<f64>().ok().map(|value| Literal::Float(value.fract() != 0.0))
        }
        // Hexadecimal and the like.
        _ if text.starts_with('0') => Some(Literal::SomeInt),
        _ => None,
    }
}

impl Literal<'_> {
    fn name(self) -> &'static str {
        match self {
            Self::Str(_) => "str",
            Self::Int(_) | Self::SomeInt => "int",
            Self::Float(_) => "float",
            Self::Bool => "bool",
            Self::None => "None",
            Self::List => "list",
            Self::Dict => "dict",
        }
    }

    /// JSON Schema's integers and floats overlap: 1.0 is an integer, 1 is a number.
    fn fits(self, scalar: Scalar) -> bool {
        match self {
            Self::Str(_) => scalar == Scalar::Str,
            Self::Int(_) | Self::SomeInt => matches!(scalar, Scalar::Int | Scalar::Float),
            Self::Float(fraction) => scalar == Scalar::Float || (scalar == Scalar::Int && !fraction),
            Self::Bool => scalar == Scalar::Bool,
            Self::None => scalar == Scalar::None,
            Self::List => scalar == Scalar::List,
            Self::Dict => scalar == Scalar::Dict,
        }
    }
}

/// What is wrong with giving `literal` to the parameter, and what to write.
pub fn problem(tool: &str, param: &CatalogParam, literal: Literal) -> Option<String> {
    // None for what need not be given means that it is not given.
    if param.types.is_empty() || (literal == Literal::None && !param.required) {
        return None;
    }
    let name = &param.name;
    if !param.types.iter().any(|scalar| literal.fits(*scalar)) {
        let wanted: Vec<&str> = param.types.iter().map(|scalar| scalar.name()).collect();
        let is = if literal == Literal::None { "it is None".to_owned() } else { format!("this is {}", literal.name()) };
        return Some(format!("{tool}(): '{name}' takes {}, {is}.{}", wanted.join(" or "), advice(param, literal)));
    }
    let Literal::Str(Some(text)) = literal else { return None };
    if param.choices.is_empty() || param.choices.iter().any(|choice| choice == text) {
        return None;
    }
    let similar = hints::nearest(text, param.choices.iter().map(String::as_str));
    let similar = similar.map(|s| format!(" Did you mean {}?", quote(s))).unwrap_or_default();
    let choices: Vec<String> = param.choices.iter().map(|choice| quote(choice)).collect();
    let choices = hints::list(choices.iter().map(String::as_str));
    Some(format!("{tool}(): '{name}' cannot be {}.{similar} One of: {choices}", quote(&shown(text))))
}

fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

fn advice(param: &CatalogParam, literal: Literal) -> String {
    let name = &param.name;
    let takes = |scalar| param.types.contains(&scalar);
    let number =
        |text: &str| text.parse::<f64>().is_ok_and(f64::is_finite) && (takes(Scalar::Float) || !text.contains(['.', 'e']));
    match literal {
        Literal::Str(Some(text)) if takes(Scalar::Bool) && matches!(text, "true" | "false" | "True" | "False") => {
            format!(" Write `{name}={}`.", if text.eq_ignore_ascii_case("true") { "True" } else { "False" })
        }
        Literal::Str(Some(text)) if (takes(Scalar::Int) || takes(Scalar::Float)) && number(text) && text.len() < SHOWN => {
            format!(" Write `{name}={text}`.")
        }
        Literal::Int(text) if takes(Scalar::Str) && param.choices.is_empty() => format!(" Write `{name}=\"{text}\"`."),
        Literal::SomeInt | Literal::Float(_) if takes(Scalar::Str) && param.choices.is_empty() => {
            format!(" Write `{name}=str(..)`.")
        }
        Literal::Int("0" | "1") if takes(Scalar::Bool) => format!(" Write `{name}=True` or `{name}=False`."),
        Literal::Str(Some(text))
            if (takes(Scalar::List) && text.starts_with('[')) || (takes(Scalar::Dict) && text.starts_with('{')) =>
        {
            " Give the value itself, not its text.".to_owned()
        }
        Literal::Str(Some(text)) if takes(Scalar::List) && text.len() < SHOWN => format!(" Write `{name}=[{}]`.", quote(text)),
        Literal::Str(_) | Literal::Int(_) | Literal::SomeInt | Literal::Dict if takes(Scalar::List) => {
            format!(" Put it into a list: `{name}=[..]`.")
        }
        Literal::None => " It is required: give it a value.".to_owned(),
        _ => String::new(),
    }
}
