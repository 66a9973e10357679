//! Everything about one tool, as text for a model. What the upstream wrote is indented, so that it cannot pose as a heading.

use std::fmt::Write;

use serde_json::{Map, Value};

use crate::seen::Seen;
use crate::shape::{EFFORT, Prop, Shape, list, resolve};
use crate::sheet::{DOCS, Sheet, brief, python};
use crate::text;
use crate::types::Way;
use crate::wire::{CatalogTool, Language};

const MAX_DESCRIPTION: usize = 8 << 10;
const MAX_FIELD: usize = 600;
/// Lines about parameters, and again about returned fields.
const MAX_FIELDS: usize = 150;
const MAX_DEPTH: usize = 4;

/// What a schema may say about a value beyond its type, and how it is put.
const CONSTRAINTS: [(&str, &str); 13] = [
    ("format", "format "),
    ("pattern", "pattern "),
    ("minimum", ">= "),
    ("maximum", "<= "),
    ("exclusiveMinimum", "> "),
    ("exclusiveMaximum", "< "),
    ("multipleOf", "multiple of "),
    ("minLength", "min length "),
    ("maxLength", "max length "),
    ("minItems", "min items "),
    ("maxItems", "max items "),
    ("uniqueItems", "unique items "),
    ("contentEncoding", "encoded as "),
];

/// The documentation of one tool.
pub(crate) fn page(
    server: &str,
    tool: &CatalogTool,
    raw_name: &str,
    definition: &Value,
    (language, seen): (Language, Option<&Seen>),
) -> String {
    let mut out = String::new();
    heading(&mut out, server, tool, raw_name, definition, language);
    let input = definition.get("inputSchema").unwrap_or(&Value::Null);
    let mut fields = Fields::new(input, Way::In, language);
    fields.params(tool);
    section(&mut out, "Parameters", &fields.lines);
    if let Some(output) = definition.get("outputSchema") {
        let mut fields = Fields::new(output, Way::Out, language);
        fields.nested(crate::value::wrapped_result(definition).unwrap_or(output), "", 0);
        section(&mut out, "Returns", &fields.lines);
    } else if let Some(seen) = seen {
        let _ = writeln!(out, "Returns: not declared; seen in recent results: {}", seen.text());
    } else {
        out.push_str(
            "Returns: not declared. JSON text arrives parsed, other text as a string; print it once to see its shape.\n",
        );
    }
    let _ = writeln!(out, "Effects: {}", effects(definition));
    let example = example(server, tool, input, language);
    let _ = match language {
        Language::Python => writeln!(out, "Example: r = {example}"),
        Language::Typescript => writeln!(out, "Example: const r = await {example}"),
    };
    out
}

fn heading(out: &mut String, server: &str, tool: &CatalogTool, raw_name: &str, definition: &Value, language: Language) {
    let mut sheet = Sheet::default();
    sheet.add(tool, definition);
    let rendered = sheet.render(DOCS, language);
    for line in &rendered.signatures {
        let line = line.strip_prefix("def ").unwrap_or(line).trim_start();
        let _ = writeln!(out, "{server}.{}", line.strip_suffix(": ...").unwrap_or(line));
    }
    section(out, "Types", &rendered.aliases);
    if raw_name != tool.name {
        let _ = writeln!(out, "Upstream name: {}", text::cap(&text::line(raw_name), 200));
    }
    let description = definition.get("description").and_then(Value::as_str).unwrap_or_default();
    let description = &description[..text::floor_boundary(description, MAX_DESCRIPTION)];
    let title = definition.get("title").and_then(Value::as_str).map(|t| text::cap(&text::line(t), 200));
    let mut lines = text::lines(description);
    if lines.is_empty() {
        lines.extend(title);
    }
    section(out, "Description", &lines);
}

fn section(out: &mut String, name: &str, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    let _ = writeln!(out, "{name}:");
    for line in lines {
        let _ = writeln!(out, "{}", format!("  {line}").trim_end());
    }
}

/// One line for each property that a schema names, however deep.
struct Fields<'a> {
    root: &'a Value,
    way: Way,
    language: Language,
    effort: u32,
    lines: Vec<String>,
    /// Schemas on the way down, so that a recursive one is described once.
    open: Vec<*const Value>,
}

impl<'a> Fields<'a> {
    fn new(root: &'a Value, way: Way, language: Language) -> Self {
        Self { root, way, language, effort: EFFORT, lines: Vec::new(), open: Vec::new() }
    }

    fn params(&mut self, tool: &CatalogTool) {
        let shape = Shape::of(self.root, self.root, &mut self.effort);
        let props: Vec<Prop<'a>> = shape.in_signature_order().cloned().collect();
        for (prop, param) in props.iter().zip(&tool.params) {
            let renamed = if param.name == prop.key { String::new() } else { format!(" (sent as {})", text::literal(prop.key)) };
            self.field(prop, &param.name, &renamed, 0);
        }
    }

    fn nested(&mut self, schema: &'a Value, path: &str, depth: usize) {
        let (schema, suffix) = self.element(schema);
        if depth >= MAX_DEPTH || self.open.contains(&std::ptr::from_ref(schema)) {
            return;
        }
        self.open.push(schema);
        let shape = Shape::of(self.root, schema, &mut self.effort);
        for prop in shape.props {
            let key = text::line(prop.key);
            let path = if path.is_empty() && suffix.is_empty() { key } else { format!("{path}{suffix}.{key}") };
            self.field(&prop, &path, "", depth);
        }
        self.open.pop();
    }

    fn field(&mut self, prop: &Prop<'a>, path: &str, note: &str, depth: usize) {
        if self.lines.len() >= MAX_FIELDS {
            if self.lines.len() == MAX_FIELDS {
                self.lines.push("... and more".to_owned());
            }
            return;
        }
        let (target, _) = self.element(prop.schema);
        let described = described(prop.schema).or_else(|| described(target)).unwrap_or_default();
        let mut line = format!("{path}{note}: {}", brief(self.root, prop.schema, self.way, self.language));
        if self.way == Way::In && prop.required {
            line.push_str(", required");
        }
        if self.way == Way::In
            && let Some(default) = prop.schema.get("default").filter(|d| !d.is_null())
        {
            let _ = write!(line, ", default {}", text::cap(&spelled(default, self.language), 200));
        }
        let constraints = constraints(prop.schema);
        if !constraints.is_empty() {
            let _ = write!(line, " ({constraints})");
        }
        if !described.is_empty() {
            let _ = write!(line, " - {described}");
        }
        self.lines.push(line);
        self.nested(prop.schema, path, depth + 1);
    }

    /// The schema that holds the properties: behind references, list items and "or null"; and `[]` for each list passed.
    fn element(&self, mut schema: &'a Value) -> (&'a Value, String) {
        let mut suffix = String::new();
        for _ in 0..16 {
            let Some(map) = schema.as_object() else { break };
            let next = if let Some(reference) = map.get("$ref").and_then(Value::as_str) {
                resolve(self.root, reference)
            } else if let Some(items @ Value::Object(_)) = map.get("items") {
                suffix.push_str("[]");
                Some(items)
            } else {
                only_branch(map)
            };
            match next {
                Some(next) => schema = next,
                None => break,
            }
        }
        (schema, suffix)
    }
}

/// The one alternative of `anyOf`/`oneOf` that is not null.
fn only_branch(map: &Map<String, Value>) -> Option<&Value> {
    if map.contains_key("properties") {
        return None;
    }
    let branches = list(map, "anyOf").iter().chain(list(map, "oneOf"));
    let mut real = branches.filter(|b| b.get("type").is_none_or(|t| t != "null"));
    real.next().filter(|_| real.next().is_none())
}

fn described(schema: &Value) -> Option<String> {
    let description = schema.get("description").and_then(Value::as_str)?;
    let head = &description[..text::floor_boundary(description, MAX_FIELD * 4)];
    Some(text::cap(&text::line(head), MAX_FIELD)).filter(|d| !d.is_empty())
}

fn constraints(schema: &Value) -> String {
    let mut parts = Vec::new();
    for (key, words) in CONSTRAINTS {
        match schema.get(key) {
            Some(Value::String(s)) => parts.push(format!("{words}{}", text::cap(&text::line(s), 120))),
            Some(Value::Number(n)) => parts.push(format!("{words}{}", text::cap(&n.to_string(), 40))),
            Some(Value::Bool(true)) => parts.push(words.trim_end().to_owned()),
            _ => {}
        }
    }
    parts.join("; ")
}

/// What the tool's annotations claim. Hints of the upstream, not promises.
fn effects(definition: &Value) -> String {
    let hint = |key: &str| definition.get("annotations").and_then(|a| a.get(key)).and_then(Value::as_bool);
    let mut parts = Vec::new();
    match (hint("readOnlyHint"), hint("destructiveHint")) {
        (Some(true), _) => parts.push("read-only"),
        (_, Some(true)) => parts.push("DESTRUCTIVE: may delete or overwrite"),
        (_, Some(false)) => parts.push("writes, adds only"),
        (Some(false), None) => parts.push("writes, may be destructive"),
        (None, None) => parts.push("not declared, assume that it writes"),
    }
    if hint("idempotentHint") == Some(true) {
        parts.push("safe to repeat");
    }
    if hint("openWorldHint") == Some(true) {
        parts.push("reaches outside systems");
    }
    parts.join("; ")
}

fn example(server: &str, tool: &CatalogTool, input: &Value, language: Language) -> String {
    let shape = Shape::of(input, input, &mut EFFORT.clone());
    let sets = if language == Language::Python { "=" } else { ": " };
    let arguments: Vec<String> = shape
        .in_signature_order()
        .zip(&tool.params)
        .filter(|(prop, _)| prop.required)
        .map(|(prop, param)| format!("{}{sets}{}", param.name, spelled(&sample(input, prop.schema, 0), language)))
        .collect();
    let arguments = arguments.join(", ");
    match language {
        Language::Typescript if !arguments.is_empty() => format!("{server}.{}({{ {arguments} }})", tool.name),
        _ => format!("{server}.{}({arguments})", tool.name),
    }
}

/// A JSON value as the language writes it.
fn spelled(value: &Value, language: Language) -> String {
    match language {
        Language::Python => python(value),
        Language::Typescript => value.to_string(),
    }
}

/// A value that the schema would probably accept.
fn sample(root: &Value, schema: &Value, depth: usize) -> Value {
    let Some(map) = schema.as_object().filter(|_| depth < 6) else { return Value::from("...") };
    let short = |v: &&Value| v.to_string().len() <= 120;
    let given = map.get("const").or_else(|| list(map, "enum").first()).or_else(|| list(map, "examples").first());
    if let Some(value) =
        given.or_else(|| map.get("example")).or_else(|| map.get("default").filter(|d| !d.is_null())).filter(short)
    {
        return value.clone();
    }
    if let Some(target) = map.get("$ref").and_then(Value::as_str).and_then(|r| resolve(root, r)) {
        return sample(root, target, depth + 1);
    }
    let branch = ["anyOf", "oneOf", "allOf"].iter().find_map(|w| list(map, w).first());
    let name = match map.get("type") {
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).find(|n| *n != "null"),
        other => other.and_then(Value::as_str),
    };
    match (name, branch) {
        (Some("object"), _) => sample_object(root, schema, depth),
        (None, Some(branch)) => sample(root, branch, depth + 1),
        (Some("array"), _) => {
            map.get("items").map_or_else(|| Value::Array(Vec::new()), |i| Value::Array(vec![sample(root, i, depth + 1)]))
        }
        (Some("integer" | "number"), _) => map.get("minimum").cloned().unwrap_or_else(|| Value::from(1)),
        (Some("boolean"), _) => Value::Bool(true),
        (None, None) if map.contains_key("properties") => sample_object(root, schema, depth),
        _ => Value::from(match map.get("format").and_then(Value::as_str) {
            Some("date-time") => "2026-01-31T12:00:00Z",
            Some("date") => "2026-01-31",
            Some("email") => "someone@example.com",
            Some("uri" | "url") => "https://example.com",
            Some("uuid") => "00000000-0000-0000-0000-000000000000",
            _ => "...",
        }),
    }
}

fn sample_object(root: &Value, schema: &Value, depth: usize) -> Value {
    let shape = Shape::of(root, schema, &mut 2_000);
    let required = shape.props.iter().filter(|p| p.required).take(12);
    Value::Object(required.map(|p| (p.key.to_owned(), sample(root, p.schema, depth + 1))).collect())
}
