//! JSON Schema as a graph of types. Equal types are one node, references stay references: nothing is expanded here, so the
//! size of the graph never exceeds the size of the schema, however it refers to itself.

use std::collections::HashMap;

use serde_json::{Map, Value};

use crate::shape::{EFFORT, Shape, list, resolve};
use crate::text;

/// Schemas read per tool; the largest tool of the corpus has some 1,500. What is beyond reads as `Any`.
const MAX_NODES: u32 = 5_000;
const MAX_DEPTH: u32 = 60;
/// Members of one enum or union; the rest is not read.
const MAX_WIDTH: usize = 500;
/// A literal longer than this says less than the type it belongs to.
const MAX_LITERAL: usize = 80;

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) struct TypeId(u32);

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Type {
    Any,
    /// A reference that leads out of the document, or nowhere.
    Remote,
    Never,
    None,
    /// `str`, `int`, `float`, `bool`
    Plain(&'static str),
    /// Python literals.
    Literal(Vec<String>),
    List(Option<TypeId>),
    Tuple(Vec<TypeId>),
    Dict(Option<TypeId>),
    Object(Vec<Field>),
    Union(Vec<TypeId>),
    Ref(usize),
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Field {
    pub(crate) key: String,
    pub(crate) ty: TypeId,
    pub(crate) required: bool,
}

/// Types go two ways: what a script writes, and what it reads, where "absent" and "null" need no telling apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Way {
    In,
    Out,
}

#[derive(Default)]
pub(crate) struct Arena {
    types: Vec<Type>,
    index: HashMap<Type, TypeId>,
    /// What a type would like to be called.
    hints: HashMap<TypeId, String>,
    /// Targets of references; `None` while not read yet.
    defs: Vec<Option<TypeId>>,
    def_index: HashMap<(String, Way, String), usize>,
}

impl Arena {
    pub(crate) fn get(&self, id: TypeId) -> &Type {
        self.types.get(id.0 as usize).unwrap_or(&Type::Any)
    }

    pub(crate) fn hint(&self, id: TypeId) -> Option<&str> {
        self.hints.get(&id).map(String::as_str)
    }

    /// Follow references to a type that is none; a circle of references alone means nothing and reads as `Any`.
    pub(crate) fn chase(&self, mut id: TypeId) -> Option<TypeId> {
        for _ in 0..32 {
            match self.get(id) {
                Type::Ref(def) => id = self.defs.get(*def).copied().flatten()?,
                _ => return Some(id),
            }
        }
        None
    }

    pub(crate) fn intern(&mut self, ty: Type) -> TypeId {
        if let Some(id) = self.index.get(&ty) {
            return *id;
        }
        let id = TypeId(u32::try_from(self.types.len()).unwrap_or(u32::MAX));
        self.types.push(ty.clone());
        self.index.insert(ty, id);
        id
    }

    fn suggest(&mut self, id: TypeId, hint: &str) {
        if !hint.is_empty() {
            self.hints.entry(id).or_insert_with(|| hint.to_owned());
        }
    }
}

/// Reads the schemas of one document (an `inputSchema` or an `outputSchema`) into an arena.
pub(crate) struct Reader<'a, 'r> {
    arena: &'r mut Arena,
    root: &'a Value,
    way: Way,
    left: u32,
    effort: u32,
    flat: bool,
    /// Fingerprint of what references can reach, made when the first one is met.
    document: Option<String>,
    queue: Vec<(usize, &'a Value, String)>,
}

impl<'a, 'r> Reader<'a, 'r> {
    pub(crate) fn new(arena: &'r mut Arena, root: &'a Value, way: Way) -> Self {
        Self { arena, root, way, left: MAX_NODES, effort: EFFORT, flat: false, document: None, queue: Vec::new() }
    }

    /// For an arena of one's own: an object is a `dict` whatever is in it, and no more than `nodes` schemas are read.
    pub(crate) fn flat(arena: &'r mut Arena, root: &'a Value, way: Way, nodes: u32) -> Self {
        Self { arena, root, way, left: nodes, effort: 0, flat: true, document: Some(String::new()), queue: Vec::new() }
    }

    /// The type of one schema of the document, with everything it refers to.
    pub(crate) fn read(&mut self, schema: &'a Value, hint: &str) -> TypeId {
        let id = self.schema(schema, hint, 0);
        while let Some((def, target, name)) = self.queue.pop() {
            let body = self.schema(target, "", 0);
            self.arena.suggest(body, &name);
            if let Some(slot) = self.arena.defs.get_mut(def) {
                *slot = Some(body);
            }
        }
        id
    }

    fn schema(&mut self, schema: &'a Value, hint: &str, depth: u32) -> TypeId {
        if self.left == 0 || depth > MAX_DEPTH {
            return self.arena.intern(Type::Any);
        }
        self.left -= 1;
        let Some(map) = schema.as_object() else {
            return self.arena.intern(if *schema == Value::Bool(false) { Type::Never } else { Type::Any });
        };
        let hint = map.get("title").and_then(Value::as_str).filter(|t| t.len() <= 40).unwrap_or(hint);
        let id = self.keywords(schema, map, hint, depth);
        self.arena.suggest(id, hint);
        if map.get("nullable") == Some(&Value::Bool(true)) {
            let none = self.arena.intern(Type::None);
            return self.union(vec![id, none]);
        }
        id
    }

    fn keywords(&mut self, schema: &'a Value, map: &'a Map<String, Value>, hint: &str, depth: u32) -> TypeId {
        if let Some(reference) = map.get("$ref") {
            return self.reference(reference.as_str().unwrap_or_default());
        }
        if let Some(value) = map.get("const") {
            return self.literals(std::slice::from_ref(value));
        }
        if map.contains_key("enum") {
            return self.literals(list(map, "enum"));
        }
        let any_of = list(map, "anyOf");
        let branches = if any_of.is_empty() { list(map, "oneOf") } else { any_of };
        let parts = list(map, "allOf");
        if self.flat && map.contains_key("properties") {
            return self.arena.intern(Type::Dict(None));
        }
        if !parts.is_empty() || (!branches.is_empty() && map.contains_key("properties")) {
            let shape = Shape::of(self.root, schema, &mut self.effort);
            if !shape.props.is_empty() {
                return self.object(&shape, depth);
            }
        }
        for part in parts {
            let id = self.schema(part, hint, depth + 1);
            if *self.arena.get(id) != Type::Any {
                return id;
            }
        }
        if !branches.is_empty() {
            let ids: Vec<TypeId> = branches.iter().take(MAX_WIDTH).map(|b| self.schema(b, hint, depth + 1)).collect();
            // Branches that only say `required` are conditions on the base, not types.
            if ids.iter().any(|id| *self.arena.get(*id) != Type::Any) {
                return self.union(ids);
            }
        }
        self.typed(schema, map, hint, depth)
    }

    fn typed(&mut self, schema: &'a Value, map: &'a Map<String, Value>, hint: &str, depth: u32) -> TypeId {
        match map.get("type") {
            Some(Value::String(name)) => self.named(name, schema, map, hint, depth),
            Some(Value::Array(names)) => {
                let ids = names.iter().filter_map(Value::as_str).map(|n| self.named(n, schema, map, hint, depth)).collect();
                self.union(ids)
            }
            _ if ["properties", "additionalProperties", "patternProperties"].iter().any(|w| map.contains_key(*w)) => {
                self.named("object", schema, map, hint, depth)
            }
            _ if map.contains_key("items") || map.contains_key("prefixItems") => self.named("array", schema, map, hint, depth),
            _ => self.arena.intern(Type::Any),
        }
    }

    fn named(&mut self, name: &str, schema: &'a Value, map: &'a Map<String, Value>, hint: &str, depth: u32) -> TypeId {
        let ty = match name {
            "string" => Type::Plain("str"),
            "integer" => Type::Plain("int"),
            "number" => Type::Plain("float"),
            "boolean" => Type::Plain("bool"),
            "null" => Type::None,
            "array" => return self.array(map, hint, depth),
            "object" => {
                let shape = Shape::of(self.root, schema, &mut self.effort);
                if !shape.props.is_empty() {
                    return self.object(&shape, depth);
                }
                return self.dict(map, depth);
            }
            _ => Type::Any,
        };
        self.arena.intern(ty)
    }

    fn array(&mut self, map: &'a Map<String, Value>, hint: &str, depth: u32) -> TypeId {
        let prefix = match map.get("items") {
            Some(Value::Array(items)) => items.as_slice(),
            _ => list(map, "prefixItems"),
        };
        let ty = if !prefix.is_empty() {
            Type::Tuple(prefix.iter().map(|item| self.schema(item, "", depth + 1)).collect())
        } else {
            let item = map.get("items").map(|item| self.schema(item, hint, depth + 1));
            Type::List(item.filter(|id| *self.arena.get(*id) != Type::Any))
        };
        self.arena.intern(ty)
    }

    fn dict(&mut self, map: &'a Map<String, Value>, depth: u32) -> TypeId {
        let mut ids = Vec::new();
        if let Some(patterns) = map.get("patternProperties").and_then(Value::as_object) {
            ids.extend(patterns.values().map(|schema| self.schema(schema, "", depth + 1)));
        }
        if let Some(extra @ Value::Object(_)) = map.get("additionalProperties") {
            ids.push(self.schema(extra, "", depth + 1));
        }
        let value = (!ids.is_empty()).then(|| self.union(ids)).filter(|id| *self.arena.get(*id) != Type::Any);
        self.arena.intern(Type::Dict(value))
    }

    fn object(&mut self, shape: &Shape<'a>, depth: u32) -> TypeId {
        let mut fields = Vec::with_capacity(shape.props.len());
        for prop in &shape.props {
            let mut ty = self.schema(prop.schema, prop.key, depth + 1);
            if self.way == Way::Out && !prop.required {
                ty = self.without_none(ty);
            }
            fields.push(Field { key: prop.key.to_owned(), ty, required: prop.required });
        }
        self.arena.intern(Type::Object(fields))
    }

    fn without_none(&mut self, id: TypeId) -> TypeId {
        let Type::Union(members) = self.arena.get(id) else { return id };
        let kept: Vec<TypeId> = members.iter().copied().filter(|m| *self.arena.get(*m) != Type::None).collect();
        self.union(kept)
    }

    fn reference(&mut self, reference: &str) -> TypeId {
        let Some(target) = resolve(self.root, reference) else { return self.arena.intern(Type::Remote) };
        let document = self.document.get_or_insert_with(|| fingerprint(self.root)).clone();
        let def = match self.arena.def_index.get(&(document.clone(), self.way, reference.to_owned())) {
            Some(def) => *def,
            None => {
                let def = self.arena.defs.len();
                self.arena.defs.push(None);
                self.arena.def_index.insert((document, self.way, reference.to_owned()), def);
                let name = reference.rsplit('/').next().unwrap_or_default().to_owned();
                self.queue.push((def, target, name));
                def
            }
        };
        self.arena.intern(Type::Ref(def))
    }

    fn literals(&mut self, values: &[Value]) -> TypeId {
        let mut literals: Vec<String> = Vec::new();
        let mut ids = Vec::new();
        for value in values.iter().take(MAX_WIDTH) {
            match python_literal(value) {
                Some(l) if l.len() <= MAX_LITERAL => {
                    if !literals.contains(&l) {
                        literals.push(l);
                    }
                }
                _ => ids.push(self.arena.intern(plain(value))),
            }
        }
        if !literals.is_empty() {
            ids.insert(0, self.arena.intern(Type::Literal(literals)));
        }
        self.union(ids)
    }

    /// Flat, without repetition, `None` last; `Any` swallows the rest.
    fn union(&mut self, ids: Vec<TypeId>) -> TypeId {
        let mut members: Vec<TypeId> = Vec::new();
        let mut none = None;
        for id in ids {
            let inner = match self.arena.get(id) {
                Type::Any => return id,
                Type::Union(inner) => inner.clone(),
                _ => vec![id],
            };
            for id in inner {
                if *self.arena.get(id) == Type::None {
                    none = Some(id);
                } else if *self.arena.get(id) != Type::Never && !members.contains(&id) {
                    members.push(id);
                }
            }
        }
        members.extend(none);
        match members.as_slice() {
            [] => self.arena.intern(Type::Any),
            [one] => *one,
            _ => self.arena.intern(Type::Union(members)),
        }
    }
}

/// Two documents whose definitions are equal share the types made of them, unless they refer to other places as well.
fn fingerprint(root: &Value) -> String {
    use sha2::{Digest, Sha256};
    let text = match (root.get("$defs"), root.get("definitions")) {
        (defs, definitions) if refers_to_definitions_only(root) => {
            format!("{}\n{}", defs.unwrap_or(&Value::Null), definitions.unwrap_or(&Value::Null))
        }
        _ => root.to_string(),
    };
    format!("{:x}", Sha256::digest(text))
}

fn refers_to_definitions_only(root: &Value) -> bool {
    let mut open = vec![root];
    while let Some(value) = open.pop() {
        match value {
            Value::Array(items) => open.extend(items),
            Value::Object(map) => {
                if let Some(Value::String(r)) = map.get("$ref")
                    && !r.starts_with("#/$defs/")
                    && !r.starts_with("#/definitions/")
                {
                    return false;
                }
                open.extend(map.values());
            }
            _ => {}
        }
    }
    true
}

/// A scalar as Python writes it; `None` for null, lists, objects and numbers too long to be of use.
fn python_literal(value: &Value) -> Option<String> {
    match value {
        Value::String(s) => Some(text::literal(s)),
        Value::Number(n) => Some(n.to_string()).filter(|n| n.len() <= 40),
        Value::Bool(b) => Some(if *b { "True" } else { "False" }.to_owned()),
        _ => None,
    }
}

fn plain(value: &Value) -> Type {
    match value {
        Value::Null => Type::None,
        Value::String(_) => Type::Plain("str"),
        Value::Number(_) => Type::Plain("float"),
        Value::Bool(_) => Type::Plain("bool"),
        Value::Array(_) => Type::List(None),
        Value::Object(_) => Type::Dict(None),
    }
}
