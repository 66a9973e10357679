//! JavaScript's values to JSON and back. The way to JSON counts bytes and levels as it goes, and calls the script's own code
//! where a getter or `toJSON` is one.

use rquickjs::object::Property;
use rquickjs::{Array, BigInt, Ctx, Error, Function, Object, Result, String as Text, Value};
use serde_json::{Map, Number, Value as Json};

use super::host::{Parts, Prelude};
use crate::engine::limits::VALUE_DEPTH;

/// The largest integer up to which all are exact.
const EXACT: i64 = 9_007_199_254_740_991;
const EXACT_FLOAT: f64 = 9_007_199_254_740_991.0;

/// What becomes of values that JSON does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Refused: a tool must not be given something else than was meant.
    Arguments,
    /// As `JSON.stringify` does it where that loses little.
    Result,
    /// Shown, for people.
    Log,
}

#[derive(Debug)]
pub enum ConvertError {
    TooLarge,
    TooDeep,
    /// `path` is how to reach the culprit from the converted value: `.items[3]`.
    Unsupported {
        what: String,
        path: String,
    },
    /// The script's own code failed; the exception is the context's.
    Thrown,
}

impl From<Error> for ConvertError {
    fn from(_: Error) -> Self {
        Self::Thrown
    }
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

/// # Errors
/// When the text would exceed `max_bytes`, nests too deeply, or the value holds something that JSON cannot express.
pub fn to_json<'js>(
    prelude: &Prelude<'js>,
    value: &Value<'js>,
    max_bytes: usize,
    manner: Manner,
) -> std::result::Result<Json, ConvertError> {
    let mut converter = Converter { prelude, left: max_bytes, manner };
    Ok(converter.convert(value, 0)?.unwrap_or(Json::Null))
}

struct Converter<'a, 'js> {
    prelude: &'a Prelude<'js>,
    left: usize,
    manner: Manner,
}

type Converted = std::result::Result<Option<Json>, ConvertError>;

impl<'js> Converter<'_, 'js> {
    fn spend(&mut self, bytes: usize) -> std::result::Result<(), ConvertError> {
        self.left = self.left.checked_sub(bytes).ok_or(ConvertError::TooLarge)?;
        Ok(())
    }

    /// None for what is left out of objects.
    fn convert(&mut self, value: &Value<'js>, depth: usize) -> Converted {
        if depth > VALUE_DEPTH {
            return Err(ConvertError::TooDeep);
        }
        if value.is_undefined() {
            return Ok(None);
        }
        if value.is_null() {
            self.spend(4)?;
            return Ok(Some(Json::Null));
        }
        if let Some(b) = value.as_bool() {
            self.spend(5)?;
            return Ok(Some(Json::Bool(b)));
        }
        if let Some(number) = value.as_number() {
            return self.number(number).map(Some);
        }
        if let Some(text) = value.as_string() {
            return self.text(self.prelude.utf8(text)?).map(Some);
        }
        if value.is_big_int() {
            return self.big_integer(value).map(Some);
        }
        match value.as_object() {
            Some(_) if value.is_promise() => self.odd("a promise (write `await` before the call)"),
            Some(_) if value.is_function() => self.odd("a function"),
            Some(object) => self.object(value, object, depth),
            None => self.odd("a symbol"),
        }
    }

    fn odd(&mut self, what: &str) -> Converted {
        match self.manner {
            Manner::Log => self.text(format!("[{}]", what.split(" (").next().unwrap_or(what))).map(Some),
            Manner::Result if !what.starts_with("a promise") => Ok(None),
            Manner::Result | Manner::Arguments => Err(unsupported(what)),
        }
    }

    fn text(&mut self, text: String) -> std::result::Result<Json, ConvertError> {
        self.spend(quoted_len(&text))?;
        Ok(Json::String(text))
    }

    fn number(&mut self, number: f64) -> std::result::Result<Json, ConvertError> {
        self.spend(8)?;
        if !number.is_finite() {
            return match self.manner {
                Manner::Arguments => Err(unsupported("NaN or infinity")),
                Manner::Result => Ok(Json::Null),
                Manner::Log => self.text(number.to_string()),
            };
        }
        if number.fract() == 0.0 && number.abs() <= EXACT_FLOAT {
            return Ok(whole(number));
        }
        Number::from_f64(number).map(Json::Number).ok_or_else(|| unsupported("this number"))
    }

    fn big_integer(&mut self, value: &Value<'js>) -> std::result::Result<Json, ConvertError> {
        let text: String = self.prelude.text(value)?;
        self.spend(text.len())?;
        if text.parse::<i64>().is_err() && text.parse::<u64>().is_err() {
            return Err(unsupported("an integer of more than 64 bits (write String(n) instead)"));
        }
        text.parse::<Number>().map(Json::Number).map_err(|_| unsupported("this integer"))
    }

    fn object(&mut self, value: &Value<'js>, object: &Object<'js>, depth: usize) -> Converted {
        self.spend(2)?;
        if value.is_array() {
            return self.array(object, depth).map(Some);
        }
        if value.is_error() {
            return self.error(object).map(Some);
        }
        let own: Value = object.get("toJSON")?;
        if let Some(own) = own.as_function() {
            let made: Value = own.call((rquickjs::function::This(object.clone()),))?;
            return self.convert(&made, depth + 1);
        }
        match self.prelude.parts(value)? {
            Some(Parts::Map(items)) => return self.map(items.as_object(), depth),
            Some(Parts::Set(items)) => return self.array(items.as_object(), depth).map(Some),
            Some(Parts::List) => return self.array(object, depth).map(Some),
            Some(Parts::Box(held)) => return self.convert(&held, depth + 1),
            Some(Parts::Strange(what)) => return self.odd(&what),
            None => {}
        }
        let mut out = Map::new();
        for key in object.keys::<Text>() {
            let key = key?;
            let item: Value = object.get(key.as_value().clone())?;
            self.field(&mut out, self.prelude.utf8(&key)?, &item, depth)?;
        }
        Ok(Some(Json::Object(out)))
    }

    fn field(
        &mut self,
        out: &mut Map<String, Json>,
        key: String,
        item: &Value<'js>,
        depth: usize,
    ) -> std::result::Result<(), ConvertError> {
        let converted = self.convert(item, depth + 1).map_err(|e| e.inside(|| step(&key)))?;
        if let Some(json) = converted {
            self.spend(quoted_len(&key) + 2)?;
            out.insert(key, json);
        }
        Ok(())
    }

    fn map(&mut self, items: &Object<'js>, depth: usize) -> Converted {
        let mut out = Map::new();
        for at in (0..self.length(items)?).step_by(2) {
            let key: Value = items.get(at)?;
            let key = match key.as_string() {
                Some(text) => self.prelude.utf8(text)?,
                None if key.is_number() || key.is_bool() || key.is_big_int() => self.prelude.text(&key)?,
                None => return Err(unsupported("a Map whose keys are no strings (write [...map])")),
            };
            let item: Value = items.get(at + 1)?;
            self.field(&mut out, key, &item, depth)?;
        }
        Ok(Some(Json::Object(out)))
    }

    /// Read as any number: rquickjs's own `len` panics beyond 2^31, and a proxy says what it likes.
    fn length(&self, list: &Object<'js>) -> std::result::Result<u32, ConvertError> {
        let length: Value = list.get("length")?;
        let length = match (length.as_int(), length.as_number()) {
            (Some(length), _) => u32::try_from(length).unwrap_or(0),
            (None, Some(length)) if length >= 1.0 => u32::MAX,
            _ => 0,
        };
        // No item takes less than a byte.
        if usize::try_from(length).is_ok_and(|length| length <= self.left) { Ok(length) } else { Err(ConvertError::TooLarge) }
    }

    fn array(&mut self, array: &Object<'js>, depth: usize) -> std::result::Result<Json, ConvertError> {
        let mut out = Vec::new();
        for at in 0..self.length(array)? {
            self.spend(1)?;
            let item: Value = array.get(at)?;
            let converted = self.convert(&item, depth + 1).map_err(|e| e.inside(|| format!("[{at}]")))?;
            if converted.is_none() {
                self.spend(4)?;
            }
            out.push(converted.unwrap_or(Json::Null));
        }
        Ok(Json::Array(out))
    }

    fn error(&mut self, object: &Object<'js>) -> std::result::Result<Json, ConvertError> {
        let mut out = Map::new();
        for key in ["name", "message"] {
            let item: Value = object.get(key)?;
            self.field(&mut out, key.to_owned(), &item, VALUE_DEPTH - 2)?;
        }
        Ok(Json::Object(out))
    }
}

fn step(key: &str) -> String {
    let plain = !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || c == '_');
    if plain { format!(".{key}") } else { format!("[{}]", Json::from(key)) }
}

fn whole(number: f64) -> Json {
    // Its text has no fraction and fits 64 bits, since it is whole and at most 2^53.
    format!("{number:.0}").parse::<i64>().map_or(Json::Null, Json::from)
}

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

// --- the way in -----------------------------------------------------------------------------------------------------

/// Integers that a float does not hold become BigInt: an id must not change on its way through a script.
///
/// # Errors
/// When memory runs out.
pub fn from_json<'js>(ctx: &Ctx<'js>, json: &Json) -> Result<Value<'js>> {
    if !holds_big(json) {
        return ctx.json_parse(json.to_string());
    }
    match json {
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(n), _) => Ok(BigInt::from_i64(ctx.clone(), n)?.into_value()),
            (None, Some(n)) => Ok(BigInt::from_u64(ctx.clone(), n)?.into_value()),
            (None, None) => Ok(Text::from_str(ctx.clone(), &number.to_string())?.into_value()),
        },
        Json::Array(items) => Ok(list(ctx, items.iter().map(|item| from_json(ctx, item)))?.into_value()),
        Json::Object(fields) => {
            let object = Object::new(ctx.clone())?;
            for (key, value) in fields {
                object.prop(key.as_str(), own(from_json(ctx, value)?))?;
            }
            Ok(object.into_value())
        }
        other => ctx.json_parse(other.to_string()),
    }
}

/// Defined item by item: a setter of the script's on the parent of all lists must not take them.
///
/// # Errors
/// Those of the items; when memory runs out.
pub fn list<'js>(ctx: &Ctx<'js>, items: impl Iterator<Item = Result<Value<'js>>>) -> Result<Array<'js>> {
    let array = Array::new(ctx.clone())?;
    for (at, item) in (0_u32..).zip(items) {
        array.as_object().prop(at, own(item?))?;
    }
    Ok(array)
}

fn own<'js>(value: Value<'js>) -> Property<Value<'js>> {
    Property::from(value).writable().enumerable().configurable()
}

fn holds_big(json: &Json) -> bool {
    match json {
        Json::Number(number) => {
            let text = number.as_str();
            let is_whole = text.bytes().all(|b| b.is_ascii_digit() || b == b'-');
            is_whole && number.as_i64().is_none_or(|n| !(-EXACT..=EXACT).contains(&n))
        }
        Json::Array(items) => items.iter().any(holds_big),
        Json::Object(fields) => fields.values().any(holds_big),
        _ => false,
    }
}

/// A value as a line of the log.
///
/// # Errors
/// When it is too large.
pub fn show<'js>(prelude: &Prelude<'js>, value: &Value<'js>, max_bytes: usize) -> std::result::Result<String, ConvertError> {
    if let Some(text) = value.as_string() {
        return Ok(prelude.utf8(text)?);
    }
    if value.is_undefined() {
        return Ok("undefined".to_owned());
    }
    Ok(match to_json(prelude, value, max_bytes, Manner::Log)? {
        Json::String(text) => text,
        Json::Object(error) if value.is_error() => {
            let part = |key: &str| error.get(key).and_then(Json::as_str).unwrap_or_default();
            format!("{}: {}", part("name"), part("message"))
        }
        other => other.to_string(),
    })
}

/// The function of this name that the prelude gives the engine.
///
/// # Errors
/// When there is none.
pub fn function<'js>(object: &Object<'js>, name: &str) -> Result<Function<'js>> {
    object.get(name)
}
