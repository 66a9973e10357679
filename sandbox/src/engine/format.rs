//! Python's format specifications (`.2f`, `,`, `>10`, `05d`, `.1%`) for f-strings, and rounding as Python rounds.

use serde_json::Number;
use starlark::eval::Evaluator;
use starlark::values::float::UnpackFloat;
use starlark::values::{UnpackValue, Value};

use super::raised::Raised;
use super::{dates, show};

const MAX_WIDTH: usize = 1_000;

struct Spec {
    fill: char,
    align: Option<char>,
    plus: bool,
    width: usize,
    separator: Option<char>,
    precision: Option<usize>,
    kind: Option<char>,
}

/// # Errors
/// When the specification is not one of these, or does not suit the value.
pub fn format<'v>(eval: &mut Evaluator<'v, '_, '_>, value: Value<'v>, spec: &str) -> starlark::Result<String> {
    if let Some(text) = dates::formatted(value, spec)? {
        return Ok(text);
    }
    // A bool is a number only to a format for numbers.
    let value = match (value.unpack_bool(), spec.ends_with(['d', 'f'])) {
        (Some(b), true) => eval.heap().alloc(i32::from(b)),
        _ => value,
    };
    let text = show::text(eval, value, false)?;
    write(value, text, spec).map_err(Raised::value)
}

fn write(value: Value, text: String, spec: &str) -> Result<String, String> {
    let spec =
        parse(spec).ok_or_else(|| format!("The format '{spec}' is not supported. Use .2f, d, %, e, width, alignment or ','."))?;
    let numeric = matches!(value.get_type(), "int" | "float");
    let body = match (spec.kind, value.get_type()) {
        (None | Some('d'), "int") if spec.precision.is_none() => group(&text, spec.separator),
        (Some('x'), "int") => radix(value, |n| format!("{n:x}"))?,
        (Some('X'), "int") => radix(value, |n| format!("{n:X}"))?,
        (Some('b'), "int") => radix(value, |n| format!("{n:b}"))?,
        (Some('o'), "int") => radix(value, |n| format!("{n:o}"))?,
        (None, "float") if spec.precision.is_none() => group(&value.to_str(), spec.separator),
        (kind, "int" | "float") => float(value, kind, &spec)?,
        (None | Some('s'), _) => spec.precision.map_or_else(|| text.clone(), |n| text.chars().take(n).collect()),
        (Some(kind), other) => return Err(format!("The format '{kind}' takes a number, not a value of type {other}.")),
    };
    let body = if numeric && spec.plus && !body.starts_with('-') { format!("+{body}") } else { body };
    Ok(pad(&body, &spec, numeric))
}

fn parse(spec: &str) -> Option<Spec> {
    let mut out = Spec { fill: ' ', align: None, plus: false, width: 0, separator: None, precision: None, kind: None };
    let chars: Vec<char> = spec.chars().collect();
    let mut at = 0;
    let is_align = |c: Option<&char>| c.is_some_and(|c| "<>^=".contains(*c));
    if is_align(chars.get(1)) {
        (out.fill, out.align, at) = (chars[0], Some(chars[1]), 2);
    } else if is_align(chars.first()) {
        (out.align, at) = (Some(chars[0]), 1);
    }
    if chars.get(at) == Some(&'+') {
        (out.plus, at) = (true, at + 1);
    } else if matches!(chars.get(at), Some('-' | ' ')) {
        at += 1;
    }
    if chars.get(at) == Some(&'0') && out.align.is_none() {
        (out.fill, out.align, at) = ('0', Some('='), at + 1);
    }
    let digits = |at: &mut usize| {
        let start = *at;
        while chars.get(*at).is_some_and(char::is_ascii_digit) {
            *at += 1;
        }
        chars[start..*at].iter().collect::<String>().parse::<usize>().ok()
    };
    out.width = digits(&mut at).unwrap_or(0);
    if let Some(c @ (',' | '_')) = chars.get(at) {
        (out.separator, at) = (Some(*c), at + 1);
    }
    if chars.get(at) == Some(&'.') {
        at += 1;
        out.precision = Some(digits(&mut at)?);
    }
    if let Some(c) = chars.get(at).filter(|c| "dfFeEgGsxXbo%".contains(**c)) {
        (out.kind, at) = (Some(*c), at + 1);
    }
    (at == chars.len() && out.width <= MAX_WIDTH && out.precision.unwrap_or(0) <= MAX_WIDTH).then_some(out)
}

fn float(value: Value, kind: Option<char>, spec: &Spec) -> Result<String, String> {
    let x = UnpackFloat::unpack_value(value).ok().flatten().ok_or("the number is too large to format")?.0;
    let precision = spec.precision.unwrap_or(6);
    Ok(match kind {
        Some('%') => format!("{}%", group(&format!("{:.*}", precision, x * 100.0), spec.separator)),
        Some('e' | 'E') => scientific(x, precision, kind == Some('E')),
        None | Some('g' | 'G') => general(x, precision, spec.separator),
        _ => group(&format!("{x:.precision$}"), spec.separator),
    })
}

/// `1.5e+03`, where Rust writes `1.5e3`.
fn scientific(x: f64, precision: usize, upper: bool) -> String {
    let text = format!("{x:.precision$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |d| ('-', d));
    format!("{mantissa}{}{sign}{digits:0>2}", if upper { 'E' } else { 'e' })
}

/// `precision` significant digits, without trailing zeros.
fn general(x: f64, precision: usize, separator: Option<char>) -> String {
    let precision = precision.max(1);
    let exponent = format!("{x:.*e}", precision - 1).split_once('e').and_then(|(_, e)| e.parse::<i32>().ok()).unwrap_or(0);
    let digits = i32::try_from(precision).unwrap_or(i32::MAX);
    if exponent < -4 || exponent >= digits {
        let text = scientific(x, precision - 1, false);
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "+00"));
        let mantissa = if mantissa.contains('.') { mantissa.trim_end_matches('0').trim_end_matches('.') } else { mantissa };
        return format!("{mantissa}e{exponent}");
    }
    let text = format!("{x:.*}", usize::try_from(digits - 1 - exponent).unwrap_or(0));
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    group(text, separator)
}

fn radix(value: Value, write: impl Fn(u64) -> String) -> Result<String, String> {
    let n = i64::unpack_value(value).ok().flatten().ok_or("the integer is too large for this format")?;
    Ok(format!("{}{}", if n < 0 { "-" } else { "" }, write(n.unsigned_abs())))
}

/// `1234567.5` as `1,234,567.5`.
fn group(number: &str, separator: Option<char>) -> String {
    let Some(separator) = separator else { return number.to_owned() };
    let (sign, rest) = number.strip_prefix('-').map_or(("", number), |rest| ("-", rest));
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let mut out = sign.to_owned();
    for (i, digit) in rest[..end].chars().enumerate() {
        if i > 0 && (end - i) % 3 == 0 {
            out.push(separator);
        }
        out.push(digit);
    }
    out + &rest[end..]
}

fn pad(body: &str, spec: &Spec, numeric: bool) -> String {
    let missing = spec.width.saturating_sub(body.chars().count());
    let fill = |n: usize| std::iter::repeat_n(spec.fill, n).collect::<String>();
    match spec.align.unwrap_or(if numeric { '>' } else { '<' }) {
        '<' => body.to_owned() + &fill(missing),
        '^' => fill(missing / 2) + body + &fill(missing - missing / 2),
        '=' => {
            let digits = body.find(|c| c != '-' && c != '+').unwrap_or(0);
            format!("{}{}{}", &body[..digits], fill(missing), &body[digits..])
        }
        _ => fill(missing) + body,
    }
}

/// To `digits` decimal places, as Python does: by the exact decimal value, ties to even.
pub fn round(x: f64, digits: i32) -> f64 {
    if !x.is_finite() || digits > 300 {
        return x;
    }
    match usize::try_from(digits) {
        Ok(digits) => format!("{x:.digits$}").parse().unwrap_or(x),
        Err(_) => {
            let unit = 10f64.powi(-digits);
            if unit.is_finite() { (x / unit).round_ties_even() * unit } else { 0.0 }
        }
    }
}

/// A float without fraction as an integer of any size.
pub fn integral(x: f64) -> Result<Number, String> {
    if !x.is_finite() {
        return Err("round() takes finite numbers.".into());
    }
    let text = format!("{x:.0}");
    text.trim_start_matches(|c| c == '-' && x == 0.0).parse().map_err(|_| "round() failed.".to_owned())
}

/// The shortest text that reads back as the same float, as Python writes it.
#[must_use]
pub fn shortest(x: f64) -> String {
    if x.is_nan() {
        return "nan".into();
    }
    if x.is_infinite() {
        return if x > 0.0 { "inf".into() } else { "-inf".into() };
    }
    let text = format!("{x:e}");
    let exponent: i32 = text.split_once('e').and_then(|(_, e)| e.parse().ok()).unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = format!("{x}");
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let (mantissa, _) = text.split_once('e').unwrap_or((&text, ""));
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}
