//! Reading a script: its syntax tree, what cannot be run, and the JavaScript that runs in its place.

use oxc_allocator::Allocator;
use oxc_ast::ast::*;
use oxc_ast_visit::Visit;
use oxc_parser::{ParseOptions, Parser};
use oxc_span::{GetSpan, SourceType};

use super::places::Written;
use super::strip::Strip;
use crate::python::SyntaxError;

pub const NO_IMPORT: &str = "Scripts import nothing: servers are globals (`await crm.find_customer({ email })`), and JSON, Math, Date, Map, \
                             Set and RegExp are built in.";
/// Around the script: a function that may await and return, and whose value is that of the last expression, or else of the
/// variable `result`.
const HEAD: &str = "(async () => {\"use strict\"; let $$value;\n";
const TAIL: &str = "\n;return $$value !== undefined ? $$value : typeof result === \"function\" ? undefined : result; })()";
const VALUE: &str = "$$value = ";

/// The author's text as a tree.
///
/// # Errors
/// Where it is no TypeScript.
pub fn parse<'a>(allocator: &'a Allocator, source: &'a str) -> Result<Program<'a>, SyntaxError> {
    if let Some(at) = source.find('\0') {
        return Err(SyntaxError { at, message: "The script holds a null character. Write \"\\0\" in a string.".to_owned() });
    }
    let options = ParseOptions { allow_return_outside_function: true, ..ParseOptions::default() };
    let parsed = Parser::new(allocator, source, SourceType::ts().with_module(true)).with_options(options).parse();
    let first = parsed.diagnostics.errors().next();
    if let Some(error) = first {
        let at = error.labels.iter().map(|label| label.offset()).min().unwrap_or_default();
        let mut message = error.message.trim_end_matches('.').to_owned() + ".";
        if let Some(help) = &error.help {
            message += &format!(" {}", help.trim_end_matches('.'));
            message.push('.');
        }
        if let Some(hint) = python(source, at as usize) {
            message += &format!(" {hint}");
        }
        return Err(SyntaxError { at: at as usize, message });
    }
    if parsed.panicked {
        return Err(SyntaxError { at: 0, message: "This is no TypeScript.".to_owned() });
    }
    Ok(parsed.program)
}

/// What the author may have meant, where the line is another language's.
fn python(source: &str, at: usize) -> Option<&'static str> {
    let start = source.get(..at)?.rfind('\n').map_or(0, |at| at + 1);
    let line = source.get(start..)?.lines().next()?.trim_start();
    let starts = |word: &str| line.starts_with(word);
    if starts("def ") || starts("elif ") || starts("except") || (line.ends_with(':') && (starts("for ") || starts("if "))) {
        return Some("This looks like Python; the script is run as TypeScript.");
    }
    (starts("for ") && line.contains(" in ") && !line.contains('(')).then_some("Write `for (const x of xs) { .. }`.")
}

/// The JavaScript that runs: types left out, wrapped in a function whose value is the script's.
///
/// # Errors
/// What TypeScript allows and cannot be run here.
pub fn translate(source: &str, program: &Program) -> Result<Written, SyntaxError> {
    let mut strip = Strip::new(source);
    if let Some(hashbang) = &program.hashbang {
        strip.edits.replace(hashbang.span.start, hashbang.span.end, String::new());
    }
    let mut value = None;
    for (index, statement) in program.body.iter().enumerate() {
        let last = index + 1 == program.body.len();
        match statement {
            Statement::ExportDefaultDeclaration(it) => default_export(&mut strip, it),
            Statement::TSExportAssignment(it) => {
                strip.edits.replace(it.span.start, it.expression.span().start, VALUE.to_owned());
                strip.visit_expression(&it.expression);
            }
            Statement::ExpressionStatement(it) if last => {
                value = Some(it.expression.span());
                strip.visit_expression(&it.expression);
            }
            other => strip.visit_statement(other),
        }
    }
    // A text alone is filed as a directive.
    if let Some(directive) = program.directives.last().filter(|_| program.body.is_empty()) {
        value = Some(directive.expression.span);
    }
    if let Some(span) = value {
        strip.edits.replace(span.start, span.start, format!("{VALUE}("));
        strip.edits.replace(span.end, span.end, ")".to_owned());
    }
    if let Some(problem) = strip.problem {
        return Err(problem);
    }
    Ok(strip.edits.apply(source, HEAD, TAIL))
}

fn default_export(strip: &mut Strip, it: &ExportDefaultDeclaration) {
    let start = it.declaration.span().start;
    match &it.declaration {
        ExportDefaultDeclarationKind::FunctionDeclaration(function) => {
            strip.edits.replace(it.span.start, start, if function.id.is_some() { "" } else { VALUE }.to_owned());
            strip.visit_function(function, oxc_syntax::scope::ScopeFlags::Function);
            if let Some(id) = &function.id {
                strip.edits.replace(it.span.end, it.span.end, format!("\n{VALUE}{};", id.name));
            }
        }
        ExportDefaultDeclarationKind::ClassDeclaration(class) => {
            strip.edits.replace(it.span.start, start, String::new());
            strip.visit_class(class);
        }
        ExportDefaultDeclarationKind::TSInterfaceDeclaration(_) => {
            strip.edits.replace(it.span.start, it.span.end, ";".to_owned());
        }
        declaration => {
            strip.edits.replace(it.span.start, start, VALUE.to_owned());
            if let Some(expression) = declaration.as_expression() {
                strip.visit_expression(expression);
            }
        }
    }
}
