//! From TypeScript to JavaScript by leaving text out: what is a type goes, all else stays where it was. Only what has a
//! meaning at run time and no JavaScript of its own (enums, parameter properties) is written anew.

use oxc_ast::ast::*;
use oxc_ast_visit::{Visit, walk};
use oxc_span::{GetSpan, Span};
use oxc_syntax::precedence::{GetPrecedence, Precedence};

use super::places::Edits;
use super::tokens::{begins_statement, blank_comments, calls_parent, cast, next_token, offset};
use crate::python::SyntaxError;

/// Words that stand before a member and mean nothing at run time.
const MODIFIERS: [&str; 7] = ["private", "public", "protected", "readonly", "override", "abstract", "declare"];

/// Collects what to leave out; `problem` is the first thing that cannot be left out.
pub struct Strip<'s> {
    pub source: &'s str,
    pub edits: Edits,
    pub problem: Option<SyntaxError>,
    /// Whether the constructor that comes next belongs to a class with a parent.
    derived: bool,
}

impl<'s> Strip<'s> {
    pub fn new(source: &'s str) -> Self {
        Self { source, edits: Edits::default(), problem: None, derived: false }
    }

    pub fn refuse(&mut self, at: u32, message: &str) {
        if self.problem.is_none() {
            self.problem = Some(SyntaxError { at: at as usize, message: message.to_owned() });
        }
    }

    fn text(&self, from: u32, to: u32) -> &'s str {
        self.source.get(from as usize..to as usize).unwrap_or_default()
    }

    /// A space stands in its place: what was apart stays apart (`x<!<T>--y` must not become the comment `<!--`).
    fn erase(&mut self, from: u32, to: u32) {
        self.edits.replace(from, to, " ".to_owned());
    }

    fn insert(&mut self, at: u32, text: &str) {
        self.edits.replace(at, at, text.to_owned());
    }

    /// A type behind an expression. It ended the statement where JavaScript would read on in a later line.
    fn erase_cast(&mut self, expression: &Expression, to: u32) {
        let (next, later) = next_token(self.source, to);
        let inner = match cast(expression).unwrap_or(expression) {
            Expression::BinaryExpression(inner) => inner.precedence(),
            _ => Precedence::Member,
        };
        let ended = match self.text(next, next + 1) {
            "(" | "[" | "`" => true,
            // The parser takes no operator behind the type that would bind more closely than the one before it.
            "/" | "*" => inner < Precedence::Multiply,
            "+" | "-" => inner < Precedence::Add,
            _ => false,
        };
        self.edits.replace(expression.span().end, to, if later && ended { ";" } else { " " }.to_owned());
    }

    /// A statement that is a type: an empty one stands in its place, so that the line before ends where it did.
    fn erase_statement(&mut self, span: Span) {
        self.edits.replace(span.start, span.end, ";".to_owned());
    }

    /// The first `mark` between two places, outside comments.
    fn erase_mark(&mut self, from: u32, to: u32, mark: char) {
        let text = blank_comments(self.text(from, to));
        if let Some(at) = text.find(mark) {
            let at = from + offset(at);
            self.erase(at, at + offset(mark.len_utf8()));
        }
    }

    fn erase_words(&mut self, from: u32, to: u32, words: &[&str]) {
        let text = blank_comments(self.text(from, to));
        let mut begin = None;
        for (at, c) in text.char_indices().chain(std::iter::once((text.len(), ' '))) {
            let in_word = c.is_alphanumeric() || c == '_' || c == '$';
            match begin {
                None if in_word => begin = Some(at),
                Some(start) if !in_word => {
                    if words.contains(&&text[start..at]) {
                        self.erase(from + offset(start), from + offset(at));
                    }
                    begin = None;
                }
                _ => {}
            }
        }
    }

    /// Modifiers before a class's member, and marks behind its name.
    fn member(&mut self, span: Span, key: Span, decorators: usize) {
        if decorators > 0 {
            self.refuse(span.start, "Decorators cannot be run here. Call the function yourself.");
        }
        let before = self.text(span.start, key.start);
        let end = span.start + offset(before.find(|c: char| !c.is_alphabetic()).unwrap_or(before.len()));
        if MODIFIERS.contains(&self.text(span.start, end)) {
            // The member before has ended here, whatever the next begins with (`[`, `*`).
            self.edits.replace(span.start, end, ";".to_owned());
            self.erase_words(end, key.start, &MODIFIERS);
        } else {
            self.erase_words(span.start, key.start, &MODIFIERS);
        }
    }

    fn constructor(&mut self, method: &MethodDefinition) {
        let mut assigned = String::new();
        for parameter in &method.value.params.items {
            if parameter.accessibility.is_none() && !parameter.readonly && !parameter.r#override {
                continue;
            }
            if let BindingPattern::BindingIdentifier(id) = &parameter.pattern {
                assigned += &format!(" this.{0} = {0};", id.name);
            }
            self.erase_words(parameter.span.start, parameter.pattern.span().start, &MODIFIERS);
        }
        let Some(body) = method.value.body.as_deref().filter(|_| !assigned.is_empty()) else { return };
        if !self.derived {
            return self.insert(body.span.start + 1, &assigned);
        }
        match body.statements.iter().find(|statement| calls_parent(statement)) {
            Some(call) => self.insert(call.span().end, &format!(";{assigned}")),
            None => {
                self.refuse(method.span.start, "Call `super(..);` as a statement of its own: its parameters become fields then.")
            }
        }
    }
}

impl<'a> Visit<'a> for Strip<'_> {
    // --- types ------------------------------------------------------------------------------------------------------

    fn visit_ts_type_annotation(&mut self, it: &TSTypeAnnotation<'a>) {
        // Whether the colon is a part of the annotation has differed between versions of the parser.
        let start = if self.text(it.span.start, it.span.end).starts_with(':') {
            it.span.start
        } else {
            let before = self.text(0, it.span.start);
            offset(before.rfind(':').unwrap_or(before.len()))
        };
        self.erase(start, it.span.end);
    }

    fn visit_ts_type_parameter_declaration(&mut self, it: &TSTypeParameterDeclaration<'a>) {
        self.erase(it.span.start, it.span.end);
    }

    fn visit_ts_type_parameter_instantiation(&mut self, it: &TSTypeParameterInstantiation<'a>) {
        self.erase(it.span.start, it.span.end);
    }

    fn visit_ts_as_expression(&mut self, it: &TSAsExpression<'a>) {
        self.visit_expression(&it.expression);
        self.erase_cast(&it.expression, it.span.end);
    }

    fn visit_ts_satisfies_expression(&mut self, it: &TSSatisfiesExpression<'a>) {
        self.visit_expression(&it.expression);
        self.erase_cast(&it.expression, it.span.end);
    }

    fn visit_binary_expression(&mut self, it: &BinaryExpression<'a>) {
        // `(a ** b as T) ** c` groups from the left, and would from the right without the type. The parser refuses all others.
        if it.operator == BinaryOperator::Exponential && matches!(cast(&it.left), Some(Expression::BinaryExpression(_))) {
            self.refuse(it.left.span().start, "Put parentheses around `x as T`.");
        }
        // The engine takes `<!--` for a comment, in which what may be called would be hidden.
        if it.operator == BinaryOperator::LessThan && self.text(it.right.span().start, it.right.span().end).starts_with('!') {
            self.insert(it.right.span().start, " ");
        }
        walk::walk_binary_expression(self, it);
    }

    fn visit_ts_non_null_expression(&mut self, it: &TSNonNullExpression<'a>) {
        self.visit_expression(&it.expression);
        self.erase(it.expression.span().end, it.span.end);
    }

    fn visit_ts_type_assertion(&mut self, it: &TSTypeAssertion<'a>) {
        let inner = it.expression.span();
        if begins_statement(self.text(inner.start, inner.end)) {
            self.edits.replace(it.span.start, inner.start, " (".to_owned());
            self.visit_expression(&it.expression);
            self.insert(inner.end, ")");
        } else {
            self.erase(it.span.start, inner.start);
            self.visit_expression(&it.expression);
        }
    }

    fn visit_ts_this_parameter(&mut self, it: &TSThisParameter<'a>) {
        let (next, _) = next_token(self.source, it.span.end);
        let end = if self.text(next, next + 1) == "," { next + 1 } else { it.span.end };
        self.erase(it.span.start, end);
    }

    // --- statements -------------------------------------------------------------------------------------------------

    fn visit_ts_interface_declaration(&mut self, it: &TSInterfaceDeclaration<'a>) {
        self.erase_statement(it.span);
    }

    fn visit_ts_type_alias_declaration(&mut self, it: &TSTypeAliasDeclaration<'a>) {
        self.erase_statement(it.span);
    }

    fn visit_ts_module_declaration(&mut self, it: &TSModuleDeclaration<'a>) {
        if it.declare {
            self.erase_statement(it.span);
        } else {
            self.refuse(it.span.start, "Namespaces cannot be run here. Use an object: `const util = { f(x) { .. } }`.");
        }
    }

    fn visit_ts_global_declaration(&mut self, it: &TSGlobalDeclaration<'a>) {
        self.erase_statement(it.span);
    }

    fn visit_ts_enum_declaration(&mut self, it: &TSEnumDeclaration<'a>) {
        if it.declare { self.erase_statement(it.span) } else { self.enumeration(it) }
    }

    fn visit_ts_import_equals_declaration(&mut self, it: &TSImportEqualsDeclaration<'a>) {
        self.refuse(it.span.start, super::source::NO_IMPORT);
    }

    fn visit_import_declaration(&mut self, it: &ImportDeclaration<'a>) {
        if it.import_kind == ImportOrExportKind::Type {
            self.erase_statement(it.span);
        } else {
            self.refuse(it.span.start, super::source::NO_IMPORT);
        }
    }

    fn visit_import_expression(&mut self, it: &ImportExpression<'a>) {
        self.refuse(it.span.start, super::source::NO_IMPORT);
    }

    fn visit_export_named_declaration(&mut self, it: &ExportNamedDeclaration<'a>) {
        match &it.declaration {
            Some(declaration) => {
                self.erase(it.span.start, declaration.span().start);
                self.visit_declaration(declaration);
            }
            None => self.erase_statement(it.span),
        }
    }

    fn visit_export_all_declaration(&mut self, it: &ExportAllDeclaration<'a>) {
        self.refuse(it.span.start, super::source::NO_IMPORT);
    }

    fn visit_variable_declaration(&mut self, it: &VariableDeclaration<'a>) {
        if it.declare {
            return self.erase_statement(it.span);
        }
        for declarator in &it.declarations {
            if declarator.definite
                && let Some(annotation) = &declarator.type_annotation
            {
                self.erase_mark(declarator.id.span().end, annotation.span.start + 1, '!');
            }
        }
        walk::walk_variable_declaration(self, it);
    }

    // --- functions and classes --------------------------------------------------------------------------------------

    fn visit_function(&mut self, it: &Function<'a>, flags: oxc_syntax::scope::ScopeFlags) {
        if it.body.is_none() || it.declare {
            self.erase_statement(it.span);
        } else {
            walk::walk_function(self, it, flags);
        }
    }

    /// Within the line that they began in: `return` ends at its line's end, and an arrow stands in the line of its parameters.
    fn visit_arrow_function_expression(&mut self, it: &ArrowFunctionExpression<'a>) {
        if let Some(parameters) = &it.type_parameters {
            self.erase(parameters.span.start, it.params.span.start);
        }
        self.visit_formal_parameters(&it.params);
        if let Some(returned) = &it.return_type {
            self.erase(it.params.span.end, returned.span.end);
        }
        self.visit_function_body(&it.body);
    }

    fn visit_formal_parameter(&mut self, it: &FormalParameter<'a>) {
        if !it.decorators.is_empty() {
            self.refuse(it.span.start, "Decorators cannot be run here. Call the function yourself.");
        }
        if it.optional {
            let end = it.type_annotation.as_ref().map_or(it.span.end, |a| a.span.start + 1);
            self.erase_mark(it.pattern.span().end, end.max(it.pattern.span().end), '?');
        }
        walk::walk_formal_parameter(self, it);
    }

    fn visit_class(&mut self, it: &Class<'a>) {
        if it.declare {
            return self.erase_statement(it.span);
        }
        if !it.decorators.is_empty() {
            self.refuse(it.span.start, "Decorators cannot be run here. Call the function yourself.");
        }
        if it.r#abstract {
            let class = blank_comments(self.text(it.span.start, it.body.span.start)).find("class").unwrap_or_default();
            self.erase_words(it.span.start, it.span.start + offset(class), &["abstract"]);
        }
        if let Some(last) = it.implements.last() {
            let from = it
                .super_type_arguments
                .as_ref()
                .map(|a| a.span.end)
                .or_else(|| it.super_class.as_ref().map(|s| s.span().end))
                .or_else(|| it.type_parameters.as_ref().map(|p| p.span.end))
                .or_else(|| it.id.as_ref().map(|id| id.span.end))
                .unwrap_or(it.span.start);
            let word = blank_comments(self.text(from, it.body.span.start)).find("implements").unwrap_or_default();
            self.erase(from + offset(word), last.span.end);
        }
        if let Some(parameters) = &it.type_parameters {
            self.visit_ts_type_parameter_declaration(parameters);
        }
        if let Some(parent) = &it.super_class {
            self.visit_expression(parent);
        }
        if let Some(arguments) = &it.super_type_arguments {
            self.visit_ts_type_parameter_instantiation(arguments);
        }
        let outer = std::mem::replace(&mut self.derived, it.super_class.is_some());
        for element in &it.body.body {
            self.derived = it.super_class.is_some();
            self.visit_class_element(element);
        }
        self.derived = outer;
    }

    fn visit_ts_index_signature(&mut self, it: &TSIndexSignature<'a>) {
        self.erase_statement(it.span);
    }

    fn visit_accessor_property(&mut self, it: &AccessorProperty<'a>) {
        self.refuse(it.span.start, "`accessor` cannot be run here. Write `get` and `set`.");
    }

    fn visit_method_definition(&mut self, it: &MethodDefinition<'a>) {
        if it.value.body.is_none() {
            return self.erase_statement(it.span);
        }
        self.member(it.span, it.key.span(), it.decorators.len());
        if it.optional {
            self.erase_mark(it.key.span().end, it.value.span.start.max(it.key.span().end), '?');
        }
        if it.kind == MethodDefinitionKind::Constructor {
            self.constructor(it);
        }
        walk::walk_method_definition(self, it);
    }

    fn visit_property_definition(&mut self, it: &PropertyDefinition<'a>) {
        if it.declare || it.r#type == PropertyDefinitionType::TSAbstractPropertyDefinition {
            return self.erase_statement(it.span);
        }
        self.member(it.span, it.key.span(), it.decorators.len());
        let end = it.type_annotation.as_ref().map_or(it.span.end, |a| a.span.start + 1);
        if it.optional {
            self.erase_mark(it.key.span().end, end, '?');
        } else if it.definite {
            self.erase_mark(it.key.span().end, end, '!');
        }
        walk::walk_property_definition(self, it);
        if it.value.is_none() && (it.type_annotation.is_some() || it.optional || it.definite) {
            // A field called `get` or `static` would otherwise be a word before the next member.
            self.insert(it.span.end, ";");
        }
    }
}
