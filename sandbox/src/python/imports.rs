//! `import`: the modules that are there already are bound to the names the script gives them.

use super::SyntaxError;
use super::expression::Parser;
use super::lexer::Token;
use super::refuse;

/// Modules that the engine has as values of the same name, `__module_json` and so on.
const MODULES: &[&str] = &[
    "json",
    "re",
    "math",
    "datetime",
    "time",
    "random",
    "asyncio",
    "collections",
    "itertools",
    "functools",
    "statistics",
    "operator",
    "copy",
    "heapq",
];
/// Their names are for annotations, or for what the language does anyway.
const EMPTY: &[&str] = &["typing", "__future__", "dataclasses", "abc", "typing_extensions", "types"];

pub fn parse(parser: &mut Parser) -> Result<Vec<(String, String)>, SyntaxError> {
    let mut out = Vec::new();
    if parser.take_word("from") {
        let at = parser.place();
        let module = path(parser)?;
        parser.expect_word("import")?;
        let root = check(at, &module)?;
        let bracket = parser.take("(");
        loop {
            if parser.is("*") {
                return Err(SyntaxError::new(parser.place(), format!("`import *` is not there. Write `import {root}`.")));
            }
            let name = parser.identifier("a name")?;
            let alias = if parser.take_word("as") { parser.identifier("a name")? } else { name.clone() };
            if !EMPTY.contains(&root) {
                out.push((alias, format!("__module_{root}.{name}")));
            }
            if !parser.take(",") || parser.is(")") {
                break;
            }
        }
        if bracket {
            parser.expect(")")?;
        }
        return Ok(out);
    }
    parser.at += 1;
    loop {
        let at = parser.place();
        let module = path(parser)?;
        let root = check(at, &module)?;
        let alias = if parser.take_word("as") { parser.identifier("a name")? } else { root.to_owned() };
        if !EMPTY.contains(&root) {
            out.push((alias, format!("__module_{root}")));
        }
        if !parser.take(",") {
            return Ok(out);
        }
    }
}

fn path(parser: &mut Parser) -> Result<String, SyntaxError> {
    let mut out = String::new();
    while parser.take(".") {
        out.push('.');
    }
    while let Token::Name(name) = parser.token().clone() {
        if name == "import" {
            break;
        }
        parser.at += 1;
        out += &name;
        if !parser.take(".") {
            break;
        }
        out.push('.');
    }
    Ok(out)
}

fn check(at: usize, module: &str) -> Result<&str, SyntaxError> {
    let root = module.split('.').next().unwrap_or(module);
    if MODULES.contains(&root) || EMPTY.contains(&root) {
        return Ok(root);
    }
    Err(SyntaxError::new(at, refuse::module(module)))
}
