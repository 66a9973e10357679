//! One stub file in the making: the signatures of its tools, and short names for the types that occur more than once.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use crate::names::{Allocator, type_name};
use crate::shape::{EFFORT, Shape};
use crate::text;
use crate::types::{Arena, Field, Reader, Type, TypeId, Way};
use crate::wire::{CatalogTool, Language};

/// Types deeper than this are not looked at for names; nothing is ever printed that deep.
const MAX_DEPTH: u32 = 120;
/// A type shorter than this is repeated rather than named.
const WORTH_A_NAME: usize = 48;

/// How many bytes of a type are shown where; what does not fit is shown less deep and marked.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) param: usize,
    pub(crate) result: usize,
    pub(crate) alias: usize,
    /// How many named types away from a signature a named type may stand.
    pub(crate) hops: u32,
    pub(crate) summary: usize,
}

pub(crate) const STUB: Limits = Limits { param: 700, result: 420, alias: 500, hops: 3, summary: 120 };
pub(crate) const DOCS: Limits = Limits { param: 2000, result: 3000, alias: 2000, hops: 6, summary: 0 };

pub(crate) struct Signature {
    name: String,
    params: Vec<Param>,
    more: bool,
    returns: TypeId,
    summary: String,
}

struct Param {
    name: String,
    ty: TypeId,
    required: bool,
    default: String,
}

#[derive(Default)]
pub(crate) struct Sheet {
    arena: Arena,
    signatures: Vec<Signature>,
}

/// A rendered sheet: every entry is one line of Python.
pub(crate) struct Rendered {
    pub(crate) aliases: Vec<String>,
    pub(crate) signatures: Vec<String>,
    /// Something was too large to show and stands as `dict[...]` or the like.
    pub(crate) cut: bool,
}

impl Sheet {
    pub(crate) fn add(&mut self, tool: &CatalogTool, definition: &Value) {
        let input = definition.get("inputSchema").unwrap_or(&Value::Null);
        let shape = Shape::of(input, input, &mut EFFORT.clone());
        let mut reader = Reader::new(&mut self.arena, input, Way::In);
        let params = shape
            .in_signature_order()
            .zip(&tool.params)
            .map(|(prop, param)| Param {
                name: param.name.clone(),
                ty: reader.read(prop.schema, prop.key),
                required: prop.required,
                default: default_of(prop.schema),
            })
            .collect();
        let returns = self.returns(tool, definition);
        let summary = summary(definition, &tool.name);
        self.signatures.push(Signature { name: tool.name.clone(), params, more: shape.asks_for_more(), returns, summary });
    }

    fn returns(&mut self, tool: &CatalogTool, definition: &Value) -> TypeId {
        let Some(output) = definition.get("outputSchema") else { return self.arena.intern(Type::Any) };
        let schema = crate::value::wrapped_result(definition).unwrap_or(output);
        Reader::new(&mut self.arena, output, Way::Out).read(schema, &format!("{}_result", tool.name))
    }

    pub(crate) fn render(&self, limits: Limits, language: Language) -> Rendered {
        let names = self.names();
        let mut printer = Printer {
            language,
            arena: &self.arena,
            names: &names,
            used: Vec::new(),
            known: HashSet::new(),
            closed: false,
            cut: false,
        };
        let signatures = self.signatures.iter().map(|s| printer.signature(s, limits)).collect();
        let aliases = printer.aliases(limits);
        Rendered { aliases, signatures, cut: printer.cut }
    }

    /// The types that get a name: those that contain themselves, and long ones in more than one place.
    fn names(&self) -> HashMap<TypeId, String> {
        let mut census = Census {
            arena: &self.arena,
            count: HashMap::new(),
            open: HashSet::new(),
            circular: HashSet::new(),
            order: Vec::new(),
        };
        for signature in &self.signatures {
            for param in &signature.params {
                census.visit(param.ty, 0);
            }
            census.visit(signature.returns, 0);
        }
        let mut names = HashMap::new();
        let mut sizes: HashMap<TypeId, usize> = HashMap::new();
        let mut allocator = Allocator::default();
        for id in &census.order {
            let ty = self.arena.get(*id);
            let size = self.size(ty, &sizes);
            let compound = matches!(ty, Type::Object(_) | Type::Union(_) | Type::Literal(_) | Type::Tuple(_));
            let shared = census.count.get(id).is_some_and(|c| *c > 1) && size >= WORTH_A_NAME;
            if census.circular.contains(id) || (compound && shared) {
                let name = allocator.take(type_name(self.arena.hint(*id).unwrap_or("Type")));
                sizes.insert(*id, name.len());
                names.insert(*id, name);
            } else {
                sizes.insert(*id, size);
            }
        }
        names
    }

    /// About how many bytes a type takes when printed in full.
    fn size(&self, ty: &Type, sizes: &HashMap<TypeId, usize>) -> usize {
        let of = |id: &TypeId| self.arena.chase(*id).and_then(|id| sizes.get(&id)).copied().unwrap_or(12);
        match ty {
            Type::Plain(_) | Type::Any | Type::Remote | Type::Never | Type::None | Type::Ref(_) => 4,
            Type::Literal(values) => 9 + values.iter().map(|v| v.len() + 2).sum::<usize>(),
            Type::List(item) | Type::Dict(item) => 6 + item.as_ref().map_or(0, of),
            Type::Tuple(items) | Type::Union(items) => {
                items.iter().map(|i| of(i).saturating_add(3)).fold(0, usize::saturating_add)
            }
            Type::Object(fields) => {
                fields.iter().map(|f| of(&f.ty).saturating_add(f.key.len() + 6)).fold(2, usize::saturating_add)
            }
        }
    }
}

/// Counts from how many places each type is referred to.
struct Census<'a> {
    arena: &'a Arena,
    count: HashMap<TypeId, u32>,
    open: HashSet<TypeId>,
    circular: HashSet<TypeId>,
    /// Children before parents.
    order: Vec<TypeId>,
}

impl Census<'_> {
    fn visit(&mut self, id: TypeId, depth: u32) {
        let Some(id) = self.arena.chase(id) else { return };
        if self.open.contains(&id) {
            self.circular.insert(id);
            return;
        }
        let count = self.count.entry(id).or_insert(0);
        *count += 1;
        let first = *count == 1;
        // Lists never get a name: what they hold is what may be shared. The others are looked into once.
        let transparent = matches!(self.arena.get(id), Type::List(_) | Type::Dict(_));
        if (!first && !transparent) || depth > MAX_DEPTH {
            return;
        }
        self.open.insert(id);
        match self.arena.get(id) {
            Type::List(item) | Type::Dict(item) => item.iter().for_each(|i| self.visit(*i, depth + 1)),
            Type::Tuple(items) | Type::Union(items) => items.iter().for_each(|i| self.visit(*i, depth + 1)),
            Type::Object(fields) => fields.iter().for_each(|f| self.visit(f.ty, depth + 1)),
            _ => {}
        }
        self.open.remove(&id);
        if first {
            self.order.push(id);
        }
    }
}

/// One schema as a few words: nested objects are only called `dict`.
pub(crate) fn brief(root: &Value, schema: &Value, way: Way, language: Language) -> String {
    let mut arena = Arena::default();
    let id = Reader::flat(&mut arena, root, way, 300).read(schema, "");
    let names = HashMap::new();
    let printer =
        Printer { language, arena: &arena, names: &names, used: Vec::new(), known: HashSet::new(), closed: true, cut: false };
    let mut draft = Draft { out: String::new(), depth: 0, width: 30, room: 400, names: Vec::new(), cut: false, full: false };
    printer.print(id, &mut draft);
    text::cap(&draft.out, 400)
}

/// How deep and how wide a type is printed; the first that fits its room is taken.
const DETAIL: [(u32, usize); 9] = [(12, 400), (6, 60), (4, 40), (3, 24), (2, 24), (2, 12), (1, 16), (1, 8), (0, 6)];

struct Printer<'a> {
    language: Language,
    arena: &'a Arena,
    names: &'a HashMap<TypeId, String>,
    /// Names printed so far and how many hops from a signature, in order: they have to be explained.
    used: Vec<TypeId>,
    known: HashSet<TypeId>,
    /// No further names may be introduced.
    closed: bool,
    cut: bool,
}

impl Printer<'_> {
    fn signature(&mut self, s: &Signature, limits: Limits) -> String {
        if self.language == Language::Typescript {
            return self.method(s, limits);
        }
        let mut out = format!("def {}(", s.name);
        for (at, p) in s.params.iter().enumerate() {
            let comma = if at > 0 { ", " } else { "" };
            let ty = self.fit(p.ty, limits.param);
            let default = if p.required { String::new() } else { format!(" = {}", p.default) };
            out.push_str(&format!("{comma}{}: {ty}{default}", p.name));
        }
        if s.more {
            let mut name = "kwargs".to_owned();
            while s.params.iter().any(|p| p.name == name) {
                name.push('_');
            }
            out.push_str(&format!("{}**{name}: Any", if s.params.is_empty() { "" } else { ", " }));
        }
        let returns = self.fit(s.returns, limits.result);
        out.push_str(&format!(") -> {returns}: ..."));
        if limits.summary > 0 && !s.summary.is_empty() {
            out.push_str("  # ");
            out.push_str(&s.summary);
        }
        out
    }

    /// `  tool(args: { required: string; optional?: number }): Promise<..>; // purpose`
    fn method(&mut self, s: &Signature, limits: Limits) -> String {
        let mut fields = Vec::new();
        for p in &s.params {
            let ty = self.fit(p.ty, limits.param);
            let shown = if p.required || p.default == "None" { String::new() } else { default_comment(&p.default) };
            fields.push(format!("{}{ty}{shown}", self.language.key(&p.name, p.required)));
        }
        if s.more {
            fields.push("[key: string]: any".to_owned());
        }
        let optional = if s.params.iter().any(|p| p.required) { "" } else { "?" };
        let args = if fields.is_empty() { String::new() } else { format!("args{optional}: {{ {} }}", fields.join("; ")) };
        let mut out = format!("  {}({args}): Promise<{}>;", s.name, self.fit(s.returns, limits.result));
        if limits.summary > 0 && !s.summary.is_empty() {
            out.push_str(" // ");
            out.push_str(&s.summary);
        }
        out
    }

    fn aliases(&mut self, limits: Limits) -> Vec<String> {
        let mut lines = Vec::new();
        let (mut at, mut hops) = (0, 1);
        while at < self.used.len() {
            let end = self.used.len();
            self.closed = hops >= limits.hops;
            for index in at..end {
                let Some(id) = self.used.get(index).copied() else { break };
                let body = self.fit_body(id, limits.alias);
                let name = self.names.get(&id).map_or("Type", String::as_str);
                lines.push(match self.language {
                    Language::Python => format!("{name} = {body}"),
                    Language::Typescript => format!("type {name} = {body};"),
                });
            }
            (at, hops) = (end, hops + 1);
        }
        lines
    }

    fn fit(&mut self, id: TypeId, room: usize) -> String {
        self.fitting(room, |printer, draft| printer.print(id, draft))
    }

    fn fit_body(&mut self, id: TypeId, room: usize) -> String {
        self.fitting(room, |printer, draft| printer.body(id, draft))
    }

    fn fitting(&mut self, room: usize, print: impl Fn(&Self, &mut Draft)) -> String {
        for (depth, width) in DETAIL {
            let mut draft = Draft { out: String::new(), depth, width, room, names: Vec::new(), cut: false, full: false };
            print(self, &mut draft);
            if draft.out.len() <= room && !draft.full {
                self.cut |= draft.cut;
                for id in draft.names {
                    if self.known.insert(id) {
                        self.used.push(id);
                    }
                }
                return draft.out;
            }
        }
        self.cut = true;
        self.language.any().to_owned()
    }

    fn print(&self, id: TypeId, draft: &mut Draft) {
        let Some(id) = self.arena.chase(id) else { return draft.put(self.language.any()) };
        match self.names.get(&id) {
            Some(name) if !self.closed || self.known.contains(&id) => {
                draft.put(name);
                draft.names.push(id);
            }
            // A name that may not be introduced any more; its body would start the walk anew.
            Some(_) if matches!(self.arena.get(id), Type::Object(_)) => draft.elide(self.language.elided()),
            Some(_) => draft.elide(self.language.any()),
            None => self.body(id, draft),
        }
    }

    fn body(&self, id: TypeId, draft: &mut Draft) {
        if draft.out.len() > draft.room {
            draft.full = true;
            return;
        }
        let typescript = self.language == Language::Typescript;
        match self.arena.get(id) {
            Type::Any | Type::Ref(_) => draft.put(self.language.any()),
            Type::Remote => draft.elide(self.language.any()),
            Type::Never => draft.put(self.language.never()),
            Type::None => draft.put(self.language.none()),
            Type::Plain(name) => draft.put(self.language.plain(name)),
            Type::Literal(values) => draft.literal(values, self.language),
            Type::List(item) if typescript => self.array(*item, draft),
            Type::List(item) => self.wrapped("list", item.as_slice(), draft),
            Type::Dict(None) => draft.put(self.language.dict()),
            Type::Dict(Some(item)) => {
                draft.put(if typescript { "Record<string, " } else { "dict[str, " });
                self.print(*item, draft);
                draft.put(if typescript { ">" } else { "]" });
            }
            Type::Tuple(items) if typescript && items.is_empty() => draft.put("[]"),
            Type::Tuple(items) => self.wrapped(if typescript { "" } else { "tuple" }, items, draft),
            Type::Object(fields) => self.object(fields, draft),
            Type::Union(items) => self.union(items, draft),
        }
    }

    /// `string[]`, or `Array<"a" | "b">` where brackets alone would bind too closely.
    fn array(&self, item: Option<TypeId>, draft: &mut Draft) {
        let Some(item) = item else { return draft.put("any[]") };
        let chased = self.arena.chase(item);
        let named = chased.is_some_and(|id| self.names.contains_key(&id));
        let loose = chased.is_some_and(|id| matches!(self.arena.get(id), Type::Union(_) | Type::Literal(_))) && !named;
        draft.put(if loose { "Array<" } else { "" });
        self.print(item, draft);
        draft.put(if loose { ">" } else { "[]" });
    }

    fn wrapped(&self, name: &str, items: &[TypeId], draft: &mut Draft) {
        draft.put(name);
        let shown = items.iter().take(draft.width);
        for (at, item) in shown.enumerate() {
            draft.put(if at == 0 { "[" } else { ", " });
            self.print(*item, draft);
        }
        if !items.is_empty() {
            draft.put("]");
        }
        draft.cut |= items.len() > draft.width;
    }

    fn union(&self, items: &[TypeId], draft: &mut Draft) {
        for (at, item) in items.iter().take(draft.width).enumerate() {
            if at > 0 {
                draft.put(" | ");
            }
            self.print(*item, draft);
        }
        if items.len() > draft.width {
            draft.elide(" | ");
            draft.put(self.language.any());
        }
    }

    fn object(&self, fields: &[Field], draft: &mut Draft) {
        if draft.depth == 0 {
            return draft.elide(self.language.elided());
        }
        draft.depth -= 1;
        let typescript = self.language == Language::Typescript;
        draft.put(if typescript { "{ " } else { "{" });
        // Where not all fit, the required ones come first.
        let shown: Vec<&Field> = if fields.len() > draft.width {
            fields.iter().filter(|f| f.required).chain(fields.iter().filter(|f| !f.required)).take(draft.width).collect()
        } else {
            fields.iter().collect()
        };
        for (at, field) in shown.iter().enumerate() {
            if at > 0 {
                draft.put(if typescript { "; " } else { ", " });
            }
            draft.put(&self.language.key(&field.key, field.required));
            self.print(field.ty, draft);
        }
        match fields.len() - shown.len() {
            0 => {}
            more if typescript => draft.elide(&format!(" /* {more} more */")),
            more => draft.elide(&format!(", \"...\": \"{more} more\"")),
        }
        draft.put(if typescript { " }" } else { "}" });
        draft.depth += 1;
    }
}

/// One attempt at printing a type.
struct Draft {
    out: String,
    depth: u32,
    width: usize,
    room: usize,
    names: Vec<TypeId>,
    cut: bool,
    full: bool,
}

impl Draft {
    fn put(&mut self, part: &str) {
        self.out.push_str(part);
    }

    fn elide(&mut self, part: &str) {
        self.cut = true;
        self.out.push_str(part);
    }

    fn literal(&mut self, values: &[String], language: Language) {
        let (open, between, close) = match language {
            Language::Python => ("Literal[", ", ", "]"),
            Language::Typescript => ("", " | ", ""),
        };
        self.put(open);
        let shown = self.width;
        for (at, value) in values.iter().take(shown).enumerate() {
            if at > 0 {
                self.put(between);
            }
            self.put(&language.literal(value));
        }
        match language {
            _ if values.len() <= shown => {}
            Language::Python => self.elide(", ..."),
            Language::Typescript => self.elide(" /* ... */"),
        }
        self.put(close);
    }
}

/// A default behind the type that it belongs to: TypeScript's types have none.
fn default_comment(python: &str) -> String {
    let shown = Language::Typescript.literal(python).replace("*/", "* /");
    format!(" /* = {shown} */")
}

/// The default as Python writes it; `...` where it is too long to show, `None` where there is none.
fn default_of(schema: &Value) -> String {
    match schema.get("default") {
        None | Some(Value::Null) => "None".to_owned(),
        Some(value) => Some(python(value)).filter(|p| p.len() <= 40).unwrap_or_else(|| "...".to_owned()),
    }
}

/// A JSON value as a Python expression.
pub(crate) fn python(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(b) => if *b { "True" } else { "False" }.to_owned(),
        Value::Number(n) => n.to_string(),
        Value::String(s) => text::literal(s),
        Value::Array(items) => format!("[{}]", items.iter().map(python).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => {
            let pairs: Vec<String> = map.iter().map(|(k, v)| format!("{}: {}", text::literal(k), python(v))).collect();
            format!("{{{}}}", pairs.join(", "))
        }
    }
}

/// The first sentence of what the tool says about itself, unless it only repeats the name.
fn summary(definition: &Value, name: &str) -> String {
    let word = |key: &str| definition.get(key).and_then(Value::as_str).filter(|t| !t.trim().is_empty());
    let title = word("title").or_else(|| definition.pointer("/annotations/title").and_then(Value::as_str));
    let sentence = text::sentence(word("description").or(title).unwrap_or_default(), STUB.summary);
    let letters = |s: &str| s.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect::<String>();
    if letters(&sentence) == letters(name) { String::new() } else { sentence }
}
