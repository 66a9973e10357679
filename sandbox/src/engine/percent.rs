//! `"%s: %.2f" % (name, x)` and `"{}: {:.2f}".format(name, x)`.

use starlark::eval::Evaluator;
use starlark::values::dict::DictRef;
use starlark::values::float::UnpackFloat;
use starlark::values::{UnpackValue, Value};

use super::attr;
use super::format;
use super::limits::{Limit, TEXT_BYTES};
use super::raised::Raised;
use super::show;

/// # Errors
/// When the format is none, or does not suit the arguments.
pub fn percent<'v>(
    eval: &mut Evaluator<'v, '_, '_>,
    text: &str,
    arguments: &Vec<Value<'v>>,
    whole: Value<'v>,
) -> starlark::Result<String> {
    let mut out = String::new();
    let mut rest = text;
    let mut next = arguments.iter();
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            out.push('%');
            rest = after;
            continue;
        }
        let named = rest.starts_with('(').then(|| rest.find(')')).flatten();
        let value = match named {
            Some(end) => {
                let key = &rest[1..end];
                rest = &rest[end + 1..];
                let found = DictRef::from_value(whole).and_then(|d| d.get_str(key));
                found.ok_or_else(|| Raised::of_class("KeyError", format!("The format needs the key '{key}'.")))?
            }
            None => *next.next().ok_or_else(|| Raised::type_of("The format has more `%` than there are values."))?,
        };
        let end = rest
            .find(|c: char| c.is_ascii_alphabetic())
            .ok_or_else(|| Raised::value("Behind `%` stands s, d, f or the like."))?;
        let spec = &rest[..end];
        let kind = rest.as_bytes()[end];
        rest = &rest[end + 1..];
        out.push_str(&one(eval, value, spec, char::from(kind))?);
        if out.len() > TEXT_BYTES {
            return Err(Raised::limit(Limit::Text));
        }
    }
    out.push_str(rest);
    if next.next().is_some() && !text.contains("%(") {
        return Err(Raised::type_of("There are more values than `%` in the format."));
    }
    Ok(out)
}

fn one<'v>(eval: &mut Evaluator<'v, '_, '_>, value: Value<'v>, spec: &str, kind: char) -> starlark::Result<String> {
    let left = spec.contains('-');
    let plain = spec.trim_start_matches('-');
    match kind {
        's' | 'r' => {
            let text = show::text(eval, value, kind == 'r')?;
            let text = eval.heap().alloc(text);
            format::format(
                eval,
                text,
                &format!("{}{plain}", if left || plain.is_empty() || plain.starts_with('.') { "" } else { ">" }),
            )
        }
        'd' | 'i' | 'u' => {
            let whole = match (value.get_type(), UnpackFloat::unpack_value(value)) {
                ("float", Ok(Some(UnpackFloat(float)))) => {
                    let number = format::integral(float.trunc()).map_err(Raised::value)?;
                    eval.heap().alloc(&number)
                }
                _ => value,
            };
            format::format(eval, whole, &format!("{}{plain}d", if left { "<" } else { "" }))
        }
        'f' | 'F' | 'e' | 'E' | 'g' | 'G' | 'x' | 'X' | 'o' => {
            format::format(eval, value, &format!("{}{plain}{kind}", if left { "<" } else { "" }))
        }
        other => Err(Raised::value(format!("The format `%{other}` is not there. Use an f-string: f\"{{x:.2f}}\"."))),
    }
}

/// `str.format`
///
/// # Errors
/// When the format is none, or a field is missing.
pub fn braces<'v>(
    eval: &mut Evaluator<'v, '_, '_>,
    text: &str,
    positional: &[Value<'v>],
    named: &[(String, Value<'v>)],
) -> starlark::Result<String> {
    let mut state = Braces { positional, named, next: 0 };
    state.write(eval, text, 0)
}

struct Braces<'a, 'v> {
    positional: &'a [Value<'v>],
    named: &'a [(String, Value<'v>)],
    next: usize,
}

impl<'v> Braces<'_, 'v> {
    fn write(&mut self, eval: &mut Evaluator<'v, '_, '_>, text: &str, depth: usize) -> starlark::Result<String> {
        let mut out = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            out.push_str(&rest[..at]);
            let doubled = rest[at..].starts_with("{{") || rest[at..].starts_with("}}");
            if doubled && depth == 0 {
                out.push_str(&rest[at..=at]);
                rest = &rest[at + 2..];
                continue;
            }
            let body = &rest[at + 1..];
            let end = closing(body).filter(|_| rest[at..].starts_with('{'));
            let Some(end) = end else {
                return Err(Raised::value("A single brace in the format. Write `{{` or `}}` for a brace."));
            };
            out.push_str(&self.field(eval, &body[..end], depth)?);
            rest = &body[end + 1..];
            if out.len() > TEXT_BYTES {
                return Err(Raised::limit(Limit::Text));
            }
        }
        out.push_str(rest);
        Ok(out)
    }

    fn field(&mut self, eval: &mut Evaluator<'v, '_, '_>, field: &str, depth: usize) -> starlark::Result<String> {
        let (name, spec) = field.split_once(':').unwrap_or((field, ""));
        let (name, repr) = match name.split_once('!') {
            Some((name, conversion)) => (name, conversion != "s"),
            None => (name, false),
        };
        let value = self.value(eval, name)?;
        let spec = if spec.contains('{') && depth == 0 { self.write(eval, spec, 1)? } else { spec.to_owned() };
        if repr {
            let text = show::text(eval, value, true)?;
            let text = eval.heap().alloc(text);
            return format::format(eval, text, &spec);
        }
        format::format(eval, value, &spec)
    }

    /// `0`, `name`, `row.name`, `row[name]`
    fn value(&mut self, eval: &mut Evaluator<'v, '_, '_>, name: &str) -> starlark::Result<Value<'v>> {
        let end = name.find(['.', '[']).unwrap_or(name.len());
        let (root, mut path) = name.split_at(end);
        let missing = |what: &str| Raised::of_class("IndexError", format!("The format needs {what}, which is not given."));
        let mut value = if let Ok(index) = root.parse::<usize>() {
            *self.positional.get(index).ok_or_else(|| missing(&format!("value {index}")))?
        } else if root.is_empty() {
            self.next += 1;
            *self.positional.get(self.next - 1).ok_or_else(|| missing("more values"))?
        } else {
            self.named.iter().find(|(k, _)| k == root).map(|(_, v)| *v).ok_or_else(|| missing(&format!("'{root}'")))?
        };
        while !path.is_empty() {
            let end = path[1..].find(['.', '[']).map_or(path.len(), |i| i + 1);
            let step = path[1..end].trim_end_matches(']');
            value = match step.parse::<i32>() {
                Ok(index) => value.at(eval.heap().alloc(index), eval.heap())?,
                Err(_) => attr::read(eval, value, step)?,
            };
            path = &path[end..];
        }
        Ok(value)
    }
}

/// Where the field that `body` begins with is closed.
fn closing(body: &str) -> Option<usize> {
    let mut depth = 0;
    for (at, c) in body.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => return Some(at),
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}
