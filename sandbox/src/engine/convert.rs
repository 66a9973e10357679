//! JSON to Starlark values and back. The way back counts bytes and levels as it goes: `x = [x, x]`, forty times, is small
//! in memory and a terabyte as text.

use serde_json::{Map, Number, Value as Json};
use starlark::values::dict::{AllocDict, DictRef};
use starlark::values::float::UnpackFloat;
use starlark::values::list::ListRef;
use starlark::values::tuple::TupleRef;
use starlark::values::{Heap, UnpackValue, Value, ValueLike};

use super::builtins::check_digits;
use super::classes::{self, Instance};
use super::dates;
use super::limits::VALUE_DEPTH;

pub fn from_json<'v>(heap: Heap<'v>, json: &Json) -> Value<'v> {
    match json {
        Json::Null => Value::new_none(),
        Json::Bool(b) => Value::new_bool(*b),
        Json::Number(n) => from_number(heap, n),
        Json::String(s) => heap.alloc(s.as_str()),
        Json::Array(items) => {
            let items: Vec<Value> = items.iter().map(|item| from_json(heap, item)).collect();
            heap.alloc(items)
        }
        Json::Object(fields) => heap.alloc(AllocDict(fields.iter().map(|(key, value)| (key.as_str(), from_json(heap, value))))),
    }
}

fn from_number<'v>(heap: Heap<'v>, number: &Number) -> Value<'v> {
    let text = number.as_str();
    if text.bytes().all(|b| b.is_ascii_digit() || b == b'-') {
        return heap.alloc(number); // integers of any size
    }
    // Starlark's own conversion panics on what no float holds (`1e999`).
    heap.alloc(text.parse::<f64>().unwrap_or(f64::NAN))
}

#[derive(Debug, PartialEq, Eq)]
pub enum ConvertError {
    TooLarge,
    TooDeep,
    /// `path` is how to reach the culprit from the converted value: `["items"][3]`.
    Unsupported {
        what: String,
        path: String,
    },
}

/// # Errors
/// When the JSON text would exceed `max_bytes`, nests too deeply, or the value holds something that JSON cannot express.
pub fn to_json<'v>(heap: Heap<'v>, value: Value<'v>, max_bytes: usize) -> Result<Json, ConvertError> {
    Converter { heap, left: max_bytes }.convert(value, 0)
}

struct Converter<'v> {
    heap: Heap<'v>,
    left: usize,
}

impl<'v> Converter<'v> {
    fn spend(&mut self, bytes: usize) -> Result<(), ConvertError> {
        self.left = self.left.checked_sub(bytes).ok_or(ConvertError::TooLarge)?;
        Ok(())
    }

    fn convert(&mut self, value: Value<'v>, depth: usize) -> Result<Json, ConvertError> {
        if depth > VALUE_DEPTH {
            return Err(ConvertError::TooDeep);
        }
        if value.is_none() {
            self.spend(4)?;
            return Ok(Json::Null);
        }
        if let Some(b) = value.unpack_bool() {
            self.spend(4)?;
            return Ok(Json::Bool(b));
        }
        if let Some(s) = value.unpack_str() {
            self.spend(quoted_len(s))?;
            return Ok(Json::String(s.to_owned()));
        }
        if let Some(dict) = DictRef::from_value(value) {
            return self.object(&dict, depth);
        }
        if let Some(list) = ListRef::from_value(value) {
            return self.array(list.iter(), depth);
        }
        if let Some(tuple) = TupleRef::from_value(value) {
            return self.array(tuple.iter(), depth);
        }
        if let Some(text) = dates::json(value) {
            self.spend(quoted_len(&text))?;
            return Ok(Json::String(text));
        }
        if let Some(instance) = value.downcast_ref::<Instance>() {
            if classes::error_name(instance.class).is_some() {
                return Err(unsupported("an exception (write str(e))"));
            }
            if let Some(fields) = DictRef::from_value(instance.fields) {
                return self.object(&fields, depth);
            }
        }
        self.number_or_sequence(value, depth)
    }

    fn number_or_sequence(&mut self, value: Value<'v>, depth: usize) -> Result<Json, ConvertError> {
        match value.get_type() {
            "int" => {
                // What 64 bits do not hold would reach a tool as a rounded float.
                if check_digits(self.heap, value).is_err() {
                    return Err(unsupported("an integer of more than 64 bits (use a float)"));
                }
                let text = value.to_str();
                self.spend(text.len())?;
                if text.parse::<i64>().is_err() && text.parse::<u64>().is_err() {
                    return Err(unsupported("an integer of more than 64 bits (write str(n) instead)"));
                }
                text.parse::<Number>().map(Json::Number).map_err(|_| unsupported("this integer"))
            }
            "float" => {
                let float = UnpackFloat::unpack_value(value).ok().flatten().map_or(f64::NAN, |f| f.0);
                let number = Number::from_f64(float).ok_or_else(|| unsupported("NaN or infinity"))?;
                self.spend(number.as_str().len())?;
                Ok(Json::Number(number))
            }
            // The items are converted as they come: `range(10**9)` must run out of bytes, not of memory.
            "range" | "set" => match value.iterate(self.heap) {
                Ok(items) => self.array(items, depth),
                Err(_) => Err(unsupported(&format!("a value of type {}", value.get_type()))),
            },
            "coroutine" => Err(unsupported("a call that was not awaited (write `await`)")),
            other => Err(unsupported(&format!("a value of type {other}"))),
        }
    }

    fn array(&mut self, items: impl Iterator<Item = Value<'v>>, depth: usize) -> Result<Json, ConvertError> {
        self.spend(2)?;
        let mut array = Vec::new();
        for (index, item) in items.enumerate() {
            self.spend(1)?;
            array.push(self.convert(item, depth + 1).map_err(|e| e.inside(|| format!("[{index}]")))?);
        }
        Ok(Json::Array(array))
    }

    fn object(&mut self, dict: &DictRef<'v>, depth: usize) -> Result<Json, ConvertError> {
        self.spend(2)?;
        let mut object = Map::new();
        for (key, value) in dict.iter() {
            let key = key_text(key)?;
            self.spend(quoted_len(&key) + 2)?;
            let value = self.convert(value, depth + 1).map_err(|e| e.inside(|| format!("[\"{key}\"]")))?;
            object.insert(key, value);
        }
        Ok(Json::Object(object))
    }
}

/// Keys as Python's `json` writes them.
fn key_text(key: Value) -> Result<String, ConvertError> {
    if let Some(text) = key.unpack_str() {
        return Ok(text.to_owned());
    }
    if key.is_none() {
        return Ok("null".into());
    }
    match (key.unpack_bool(), key.get_type()) {
        (Some(b), _) => Ok(b.to_string()),
        (None, "int" | "float") => Ok(key.to_str()),
        (None, other) => Err(unsupported(&format!("a dict key of type {other}"))),
    }
}

/// Length of the string as JSON text.
fn quoted_len(text: &str) -> usize {
    2 + text
        .bytes()
        .map(|b| match b {
            b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
            0..0x20 => 6,
            _ => 1,
        })
        .sum::<usize>()
}

fn unsupported(what: &str) -> ConvertError {
    ConvertError::Unsupported { what: what.to_owned(), path: String::new() }
}

impl ConvertError {
    fn inside(self, step: impl FnOnce() -> String) -> Self {
        match self {
            Self::Unsupported { what, path } => Self::Unsupported { what, path: step() + &path },
            other => other,
        }
    }
}
