//! Before the first step of a run: what in the whole script cannot succeed, whatever the tools answer, and which tools it may
//! call. A name counts as the author's own wherever anything in the script binds it: the check knows no scopes, and rather
//! says nothing than something wrong. Authority is not decided here.

use std::collections::{BTreeMap, BTreeSet};

use oxc_ast::ast::*;
use oxc_ast_visit::{Visit, walk};
use oxc_span::{GetSpan, Span};
use tollgate_codemode::wire::{Catalog, CatalogParam, CatalogServer, CatalogTool, ErrorKind, Scalar, ScriptError};

use super::errors::Call;
use super::hints as own;
use crate::engine::check::{COLLECTED, Finding, MAY_CALL, report};
use crate::engine::hints;

/// What every script has.
const GIVEN: [&str; 70] = [
    "AggregateError",
    "Array",
    "ArrayBuffer",
    "BigInt",
    "BigInt64Array",
    "BigUint64Array",
    "Boolean",
    "DataView",
    "Date",
    "Error",
    "EvalError",
    "Float16Array",
    "Float32Array",
    "Float64Array",
    "Function",
    "Infinity",
    "Int16Array",
    "Int32Array",
    "Int8Array",
    "InternalError",
    "Iterator",
    "JSON",
    "Map",
    "Math",
    "NaN",
    "Number",
    "Object",
    "Promise",
    "Proxy",
    "RangeError",
    "ReferenceError",
    "Reflect",
    "RegExp",
    "Set",
    "String",
    "Symbol",
    "SyntaxError",
    "ToolError",
    "TypeError",
    "URIError",
    "Uint16Array",
    "Uint32Array",
    "Uint8Array",
    "Uint8ClampedArray",
    "WeakMap",
    "WeakSet",
    "arguments",
    "console",
    "decodeURI",
    "decodeURIComponent",
    "encodeURI",
    "encodeURIComponent",
    "escape",
    "globalThis",
    "isFinite",
    "isNaN",
    "parseFloat",
    "parseInt",
    "print",
    "queueMicrotask",
    "result",
    "undefined",
    "unescape",
    "this",
    "super",
    "new",
    "import",
    "AsyncDisposableStack",
    "DisposableStack",
    "SuppressedError",
];
/// Of a text, as it is quoted in a message.
const SHOWN: usize = 40;

pub struct Checked {
    findings: Vec<Finding>,
    pub may_call: Vec<String>,
}

/// Every call of something's method, and what it is called.
pub fn calls(program: &Program) -> Vec<Call> {
    let mut found = Calls(Vec::new());
    found.visit_program(program);
    found.0
}

struct Calls(Vec<Call>);

impl<'a> Visit<'a> for Calls {
    fn visit_call_expression(&mut self, it: &CallExpression<'a>) {
        let name = match plain(&it.callee) {
            Expression::StaticMemberExpression(member) => Some(member.property.name.as_str()),
            Expression::Identifier(name) => Some(name.name.as_str()),
            _ => None,
        };
        if let Some(name) = name {
            let (from, to) = (it.span.start as usize, it.span.end as usize);
            self.0.push(Call { from, to, name: name.to_owned() });
        }
        walk::walk_call_expression(self, it);
    }
}

impl Checked {
    /// Everything that was found, if anything is wrong for certain.
    pub fn error(&self, source: &str) -> Option<ScriptError> {
        (!self.findings.is_empty()).then(|| report(source, self.findings.clone()))
    }
}

pub fn check(program: &Program, catalog: &Catalog) -> Checked {
    let mut names = Names::default();
    names.visit_program(program);
    let mut checker = Checker {
        catalog,
        bound: names.bound,
        probed: names.probed,
        lenient: BTreeSet::new(),
        findings: Vec::new(),
        may_call: BTreeSet::new(),
    };
    checker.visit_program(program);
    let mut may_call: Vec<String> = checker.may_call.into_iter().take(MAY_CALL + 1).collect();
    if may_call.len() > MAY_CALL {
        may_call.truncate(MAY_CALL);
        may_call.push("?".to_owned());
    }
    Checked { findings: checker.findings, may_call }
}

/// Every name that anything binds, and every name that stands where a member is looked for (`"tool" in crm`).
#[derive(Default)]
struct Names {
    bound: BTreeSet<String>,
    probed: BTreeSet<String>,
}

impl<'a> Visit<'a> for Names {
    fn visit_binding_identifier(&mut self, it: &BindingIdentifier<'a>) {
        self.bound.insert(it.name.to_string());
    }

    fn visit_binary_expression(&mut self, it: &BinaryExpression<'a>) {
        if it.operator == BinaryOperator::In
            && let Expression::Identifier(name) = &it.right
        {
            self.probed.insert(name.name.to_string());
        }
        walk::walk_binary_expression(self, it);
    }
}

struct Checker<'c> {
    catalog: &'c Catalog,
    bound: BTreeSet<String>,
    probed: BTreeSet<String>,
    /// Places of names that may be missing: `typeof fetch`.
    lenient: BTreeSet<u32>,
    findings: Vec<Finding>,
    may_call: BTreeSet<String>,
}

/// `crm.notes`, however it is written.
struct Use<'c, 'n> {
    server: &'c CatalogServer,
    name: &'n str,
    at: Span,
}

impl<'c> Checker<'c> {
    fn server(&self, name: &str) -> Option<&'c CatalogServer> {
        if self.bound.contains(name) {
            return None;
        }
        self.catalog.servers.iter().find(|server| server.name == name)
    }

    fn tool_use<'n>(&self, expression: &'n Expression) -> Option<Use<'c, 'n>> {
        let expression = plain(expression);
        let (object, name) = match expression {
            Expression::StaticMemberExpression(it) => (&it.object, it.property.name.as_str()),
            Expression::ComputedMemberExpression(it) => match plain(&it.expression) {
                Expression::StringLiteral(text) => (&it.object, text.value.as_str()),
                _ => return None,
            },
            _ => return None,
        };
        let Expression::Identifier(base) = plain(object) else { return None };
        Some(Use { server: self.server(&base.name)?, name, at: expression.span() })
    }

    fn tool(found: &Use<'c, '_>) -> Option<&'c CatalogTool> {
        found.server.tools.iter().find(|tool| tool.name == found.name)
    }

    fn find(&mut self, at: u32, kind: ErrorKind, message: String, choice: String) {
        if self.findings.len() <= COLLECTED {
            self.findings.push(Finding { at: at as usize, kind, message, choice });
        }
    }

    fn member(&mut self, found: &Use<'c, '_>) {
        if Self::tool(found).is_some() {
            self.may_call.insert(format!("{}.{}", found.server.name, found.name));
            return;
        }
        if self.probed.contains(&found.server.name) || matches!(found.name, "then" | "toJSON") {
            return;
        }
        let tools = || found.server.tools.iter().map(|tool| tool.name.as_str());
        let message = hints::no_such_tool(found.name, &found.server.name, tools());
        self.find(found.at.start, ErrorKind::UnknownTool, message, hints::available_tools(tools()));
    }

    /// The same rules as `host::bind`, which has the last word.
    fn arguments(&mut self, at: u32, tool: &CatalogTool, arguments: &[Argument]) {
        let choice = hints::parameters(tool);
        let object = match arguments {
            [] => None,
            [Argument::SpreadElement(_), ..] => return,
            [one] => match one.as_expression().map(plain) {
                Some(Expression::ObjectExpression(object)) => Some(object),
                Some(e) if literal(e).is_some_and(|l| l.scalar != Scalar::None) => {
                    return self.find(at, ErrorKind::Arguments, own::one_object(tool), choice);
                }
                _ => return,
            },
            _ => return self.find(at, ErrorKind::Arguments, own::one_object(tool), choice),
        };
        let mut given: BTreeMap<usize, ()> = BTreeMap::new();
        let mut meant: BTreeSet<&str> = BTreeSet::new();
        let mut whole = true;
        for property in object.map(|o| o.properties.as_slice()).unwrap_or_default() {
            let ObjectPropertyKind::ObjectProperty(property) = property else {
                whole = false;
                continue;
            };
            let Some(name) = property.key.static_name() else {
                whole = false;
                continue;
            };
            let name: &str = &name;
            if matches!(plain(&property.value), Expression::Identifier(id) if id.name == "undefined") {
                continue;
            }
            match tool.params.iter().position(|p| p.name == name).or_else(|| tool.params.iter().position(|p| p.key == name)) {
                Some(index) => {
                    given.insert(index, ());
                    if let Some(message) = literal(&property.value).and_then(|l| problem(&tool.name, &tool.params[index], &l)) {
                        self.find(property.value.span().start, ErrorKind::Arguments, message, String::new());
                    }
                }
                None if tool.open => {}
                None => {
                    meant.extend(hints::nearest(name, tool.params.iter().map(|p| p.name.as_str())));
                    let message = hints::unknown_parameter(name, tool);
                    self.find(property.span.start, ErrorKind::Arguments, message, choice.clone());
                }
            }
        }
        let missing = tool.params.iter().enumerate();
        let missing = missing.filter(|(i, p)| p.required && !given.contains_key(i) && !meant.contains(p.name.as_str()));
        let missing: Vec<String> = missing.map(|(_, p)| format!("'{}'", p.name)).collect();
        if whole && !missing.is_empty() {
            self.find(at, ErrorKind::Arguments, format!("{}() needs {}.", tool.name, missing.join(", ")), choice);
        }
    }

    fn called(&self, expression: &Expression) -> Option<String> {
        let Expression::CallExpression(call) = plain(expression) else { return None };
        let found = self.tool_use(&call.callee)?;
        Self::tool(&found).map(|tool| format!("{}.{}", found.server.name, tool.name))
    }
}

impl<'a> Visit<'a> for Checker<'_> {
    fn visit_ts_type_annotation(&mut self, _: &TSTypeAnnotation<'a>) {}
    fn visit_ts_type_parameter_declaration(&mut self, _: &TSTypeParameterDeclaration<'a>) {}
    fn visit_ts_type_parameter_instantiation(&mut self, _: &TSTypeParameterInstantiation<'a>) {}
    fn visit_ts_interface_declaration(&mut self, _: &TSInterfaceDeclaration<'a>) {}
    fn visit_ts_type_alias_declaration(&mut self, _: &TSTypeAliasDeclaration<'a>) {}
    fn visit_ts_module_declaration(&mut self, _: &TSModuleDeclaration<'a>) {}
    fn visit_ts_class_implements(&mut self, _: &TSClassImplements<'a>) {}
    fn visit_ts_enum_declaration(&mut self, _: &TSEnumDeclaration<'a>) {}
    fn visit_ts_index_signature(&mut self, _: &TSIndexSignature<'a>) {}

    fn visit_ts_as_expression(&mut self, it: &TSAsExpression<'a>) {
        self.visit_expression(&it.expression);
    }

    fn visit_ts_satisfies_expression(&mut self, it: &TSSatisfiesExpression<'a>) {
        self.visit_expression(&it.expression);
    }

    fn visit_ts_type_assertion(&mut self, it: &TSTypeAssertion<'a>) {
        self.visit_expression(&it.expression);
    }

    fn visit_import_declaration(&mut self, _: &ImportDeclaration<'a>) {}
    fn visit_export_specifier(&mut self, _: &ExportSpecifier<'a>) {}

    fn visit_unary_expression(&mut self, it: &UnaryExpression<'a>) {
        if it.operator == UnaryOperator::Typeof
            && let Expression::Identifier(name) = &it.argument
        {
            self.lenient.insert(name.span.start);
        }
        walk::walk_unary_expression(self, it);
    }

    fn visit_call_expression(&mut self, it: &CallExpression<'a>) {
        if let Some(found) = self.tool_use(&it.callee)
            && let Some(tool) = Self::tool(&found)
        {
            self.arguments(it.span.start, tool, &it.arguments);
        }
        walk::walk_call_expression(self, it);
    }

    fn visit_expression(&mut self, it: &Expression<'a>) {
        if let Some(found) = self.tool_use(it) {
            return self.member(&found);
        }
        walk::walk_expression(self, it);
    }

    fn visit_static_member_expression(&mut self, it: &StaticMemberExpression<'a>) {
        let name = it.property.name.as_str();
        if let Some(call) = self.called(&it.object)
            && !matches!(name, "then" | "catch" | "finally" | "constructor")
        {
            let message = format!("A call gives a promise, which has no '{name}'. Await it: `(await {call}(..)).{name}`.");
            self.find(it.property.span.start, ErrorKind::Runtime, message, String::new());
        }
        walk::walk_static_member_expression(self, it);
    }

    fn visit_identifier_reference(&mut self, it: &IdentifierReference<'a>) {
        let name = it.name.as_str();
        if self.bound.contains(name) {
            return;
        }
        if let Some(server) = self.catalog.servers.iter().find(|server| server.name == name) {
            self.may_call.insert(format!("{}.?", server.name));
        } else if !GIVEN.contains(&name) && !self.lenient.contains(&it.span.start) {
            let similar = hints::nearest(name, self.bound.iter().map(String::as_str).filter(|_| own::elsewhere(name).is_none()));
            let (kind, mut message, choice) = own::unknown(name, false, self.catalog);
            if kind == ErrorKind::Runtime
                && let Some(similar) = similar
            {
                message = format!("Unknown name '{name}'. Did you mean '{similar}'?");
            }
            self.find(it.span.start, kind, message, choice);
        }
    }
}

/// Without parentheses, `!`, and what else stands around for the compiler's sake.
fn plain<'e, 'a>(expression: &'e Expression<'a>) -> &'e Expression<'a> {
    match expression {
        Expression::ParenthesizedExpression(it) => plain(&it.expression),
        Expression::TSNonNullExpression(it) => plain(&it.expression),
        Expression::TSAsExpression(it) => plain(&it.expression),
        Expression::TSSatisfiesExpression(it) => plain(&it.expression),
        other => other,
    }
}

struct Literal<'a> {
    scalar: Scalar,
    text: Option<&'a str>,
    whole: bool,
}

/// What an expression is for certain.
fn literal<'e>(expression: &'e Expression) -> Option<Literal<'e>> {
    let of = |scalar| Some(Literal { scalar, text: None, whole: true });
    match plain(expression) {
        Expression::StringLiteral(it) => Some(Literal { scalar: Scalar::Str, text: Some(it.value.as_str()), whole: true }),
        Expression::TemplateLiteral(_) => of(Scalar::Str),
        Expression::NumericLiteral(it) => Some(Literal { scalar: Scalar::Float, text: None, whole: it.value.fract() == 0.0 }),
        Expression::UnaryExpression(it) if matches!(it.operator, UnaryOperator::UnaryNegation | UnaryOperator::UnaryPlus) => {
            literal(&it.argument).filter(|inner| inner.scalar == Scalar::Float)
        }
        Expression::UnaryExpression(it) if it.operator == UnaryOperator::LogicalNot => of(Scalar::Bool),
        Expression::BooleanLiteral(_) => of(Scalar::Bool),
        Expression::NullLiteral(_) => of(Scalar::None),
        Expression::ArrayExpression(_) => of(Scalar::List),
        Expression::ObjectExpression(_) => of(Scalar::Dict),
        _ => None,
    }
}

fn type_name(scalar: Scalar) -> &'static str {
    match scalar {
        Scalar::Str => "string",
        Scalar::Int => "a whole number",
        Scalar::Float => "number",
        Scalar::Bool => "boolean",
        Scalar::None => "null",
        Scalar::List => "array",
        Scalar::Dict => "object",
    }
}

/// What is wrong with giving `literal` to the parameter, and what to write.
fn problem(tool: &str, param: &CatalogParam, literal: &Literal) -> Option<String> {
    // null for what need not be given means that it is not given.
    if param.types.is_empty() || (literal.scalar == Scalar::None && !param.required) {
        return None;
    }
    let name = &param.name;
    let fits = |scalar: &Scalar| {
        *scalar == literal.scalar || (*scalar == Scalar::Int && literal.scalar == Scalar::Float && literal.whole)
    };
    if !param.types.iter().any(fits) {
        let wanted: Vec<&str> = param.types.iter().map(|scalar| type_name(*scalar)).collect();
        return Some(format!(
            "{tool}(): '{name}' takes {}, this is {}.{}",
            wanted.join(" or "),
            type_name(literal.scalar),
            advice(param, literal)
        ));
    }
    let text = literal.text?;
    if param.choices.is_empty() || param.choices.iter().any(|choice| choice == text) {
        return None;
    }
    let quote = |text: &str| serde_json::Value::from(text).to_string();
    let similar = hints::nearest(text, param.choices.iter().map(String::as_str));
    let similar = similar.map(|s| format!(" Did you mean {}?", quote(s))).unwrap_or_default();
    let choices: Vec<String> = param.choices.iter().map(|choice| quote(choice)).collect();
    let choices = hints::list(choices.iter().map(String::as_str));
    let shown: String = text.chars().take(SHOWN).collect();
    Some(format!("{tool}(): '{name}' cannot be {}.{similar} One of: {choices}", quote(&shown)))
}

fn advice(param: &CatalogParam, literal: &Literal) -> String {
    let name = &param.name;
    let takes = |scalar| param.types.contains(&scalar);
    match (literal.scalar, literal.text) {
        (Scalar::Str, Some(text)) if takes(Scalar::Bool) && matches!(text, "true" | "false") => {
            format!(" Write `{name}: {text}`.")
        }
        (Scalar::Str, Some(text))
            if (takes(Scalar::Int) || takes(Scalar::Float))
                && text.len() < SHOWN
                && text.parse::<f64>().is_ok_and(f64::is_finite) =>
        {
            format!(" Write `{name}: {text}`.")
        }
        (Scalar::Float, _) if takes(Scalar::Str) && param.choices.is_empty() => format!(" Write it as text: `{name}: \"..\"`."),
        (Scalar::Str | Scalar::Float | Scalar::Dict, _) if takes(Scalar::List) => {
            format!(" Put it into an array: `{name}: [..]`.")
        }
        (Scalar::None, _) => " It is required: give it a value.".to_owned(),
        _ => String::new(),
    }
}
