//! `json`, as Python writes it: `", "` and `": "` between items, beyond ASCII only as escapes unless told otherwise.

use serde_json::Value as Json;
use starlark::environment::GlobalsBuilder;
use starlark::eval::Evaluator;
use starlark::starlark_module;
use starlark::values::dict::{AllocDict, DictRef};
use starlark::values::list::ListRef;
use starlark::values::tuple::TupleRef;
use starlark::values::{Heap, Value};

use super::convert::{self, ConvertError};
use super::exceptions::ErrorClass;
use super::limits::{ENCODE_BYTES, Limit, VALUE_DEPTH};
use super::raised::Raised;
use super::run::{Run, call_back};
use super::show;

const MAX_INDENT: usize = 16;

pub fn register(builder: &mut GlobalsBuilder) {
    builder.set("JSONDecodeError", ErrorClass { name: "JSONDecodeError".into() });
    functions(builder);
}

#[starlark_module]
fn functions(builder: &mut GlobalsBuilder) {
    /// Compact, as tools read it.
    fn encode<'v>(#[starlark(require = pos)] value: Value<'v>, heap: Heap<'v>) -> starlark::Result<String> {
        Ok(encodable(heap, value)?.to_string())
    }

    fn decode<'v>(#[starlark(require = pos)] text: Value<'v>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        parse(text, heap)
    }

    fn dumps<'v>(
        #[starlark(require = pos)] value: Value<'v>,
        #[starlark(kwargs)] options: DictRef<'v>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<String> {
        let heap = eval.heap();
        let given = |name: &str| options.get_str(name).filter(|v| !v.is_none());
        let indent = match given("indent") {
            None => None,
            Some(indent) => Some(match (indent.unpack_i32(), indent.unpack_str()) {
                (Some(width), _) => " ".repeat(usize::try_from(width).unwrap_or(0).min(MAX_INDENT)),
                (None, text) => text.unwrap_or("  ").chars().take(MAX_INDENT).collect(),
            }),
        };
        let separators: Vec<String> = match given("separators") {
            Some(pair) => pair.iterate(heap)?.map(|s| s.to_str()).collect(),
            None => Vec::new(),
        };
        let between = if indent.is_some() { "," } else { ", " };
        let mut writer = Writer {
            out: String::new(),
            item: separators.first().cloned().unwrap_or_else(|| between.into()),
            key: separators.get(1).cloned().unwrap_or_else(|| ": ".into()),
            indent,
            sorted: given("sort_keys").is_some_and(Value::to_bool),
            ascii: given("ensure_ascii").is_none_or(Value::to_bool),
        };
        let value = match given("default") {
            Some(default) => substitute(eval, value, default, 0)?,
            None => value,
        };
        writer.write(&encodable(heap, value)?, 0)?;
        Ok(writer.out)
    }

    fn loads<'v>(
        #[starlark(require = pos)] text: Value<'v>,
        #[starlark(kwargs)] _options: DictRef<'v>,
        heap: Heap<'v>,
    ) -> starlark::Result<Value<'v>> {
        parse(text, heap)
    }
}

/// What JSON cannot express, replaced by what `default` makes of it.
fn substitute<'v>(
    eval: &mut Evaluator<'v, '_, '_>,
    value: Value<'v>,
    default: Value<'v>,
    depth: usize,
) -> starlark::Result<Value<'v>> {
    let heap = eval.heap();
    if depth > VALUE_DEPTH {
        return Err(Raised::limit(Limit::ValueDepth));
    }
    Run::of(eval).charge(eval)?;
    match value.get_type() {
        "string" | "int" | "float" | "bool" | "NoneType" => Ok(value),
        "list" | "tuple" => {
            let items: Vec<Value> = value.iterate(heap)?.collect();
            let items =
                items.into_iter().map(|i| substitute(eval, i, default, depth + 1)).collect::<starlark::Result<Vec<_>>>()?;
            Ok(heap.alloc(items))
        }
        "dict" => {
            let pairs = DictRef::from_value(value).map(|d| d.iter().collect::<Vec<_>>()).unwrap_or_default();
            let out = heap.alloc(AllocDict(Vec::<(&str, Value)>::new()));
            for (key, value) in pairs {
                let value = substitute(eval, value, default, depth + 1)?;
                out.set_at(key, value)?;
            }
            Ok(out)
        }
        _ if default.get_type() == "function" && default.to_str() == "str" => {
            let text = show::text(eval, value, false)?;
            Ok(heap.alloc(text))
        }
        _ => {
            let made = call_back(eval, default, &[value])?;
            substitute(eval, made, default, depth + 1)
        }
    }
}

struct Writer {
    out: String,
    item: String,
    key: String,
    indent: Option<String>,
    sorted: bool,
    ascii: bool,
}

impl Writer {
    fn line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            self.out.push_str(&indent.repeat(depth));
        }
    }

    fn write(&mut self, json: &Json, depth: usize) -> starlark::Result<()> {
        if self.out.len() > ENCODE_BYTES {
            return Err(Raised::limit(Limit::Encode));
        }
        match json {
            Json::String(text) => self.text(text),
            Json::Array(items) if items.is_empty() => self.out.push_str("[]"),
            Json::Object(fields) if fields.is_empty() => self.out.push_str("{}"),
            Json::Array(items) => {
                self.out.push('[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        self.out.push_str(&self.item);
                    }
                    self.line(depth + 1);
                    self.write(item, depth + 1)?;
                }
                self.line(depth);
                self.out.push(']');
            }
            Json::Object(fields) => {
                let mut fields: Vec<(&String, &Json)> = fields.iter().collect();
                if self.sorted {
                    fields.sort_by_key(|(key, _)| *key);
                }
                self.out.push('{');
                for (index, (key, value)) in fields.into_iter().enumerate() {
                    if index > 0 {
                        self.out.push_str(&self.item);
                    }
                    self.line(depth + 1);
                    self.text(key);
                    self.out.push_str(&self.key);
                    self.write(value, depth + 1)?;
                }
                self.line(depth);
                self.out.push('}');
            }
            plain => self.out.push_str(&plain.to_string()),
        }
        Ok(())
    }

    fn text(&mut self, text: &str) {
        let quoted = Json::from(text).to_string();
        if !self.ascii || quoted.is_ascii() {
            self.out.push_str(&quoted);
            return;
        }
        let mut units = [0; 2];
        for c in quoted.chars() {
            if c.is_ascii() {
                self.out.push(c);
                continue;
            }
            for unit in c.encode_utf16(&mut units) {
                self.out.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
}

fn encodable<'v>(heap: Heap<'v>, value: Value<'v>) -> starlark::Result<Json> {
    convert::to_json(heap, value, ENCODE_BYTES).map_err(|e| match e {
        ConvertError::TooLarge => Raised::limit(Limit::Encode),
        ConvertError::TooDeep => Raised::limit(Limit::ValueDepth),
        ConvertError::Unsupported { what, path } => {
            Raised::type_of(format!("The value{path} holds {what}, which JSON cannot express."))
        }
    })
}

fn parse<'v>(text: Value<'v>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
    let Some(source) = text.unpack_str() else {
        let kind = text.get_type();
        let decoded =
            DictRef::from_value(text).is_some() || ListRef::from_value(text).is_some() || TupleRef::from_value(text).is_some();
        let hint = if decoded { "It is decoded already: use it as it is." } else { "Give it a string." };
        return Err(Raised::type_of(format!("json.loads() takes text, not a value of type {kind}. {hint}")));
    };
    let json: Json =
        serde_json::from_str(source).map_err(|e| Raised::of_class("JSONDecodeError", format!("The text is not JSON: {e}")))?;
    Ok(convert::from_json(heap, &json))
}
