//! Text to times and back: ISO 8601, `strptime` and `strftime`.

use chrono::format::{Item, Parsed, StrftimeItems};
use chrono::{NaiveDate, NaiveTime};

use super::super::raised::Raised;
use super::{DateTime, midnight};

/// Of a format: each directive makes a bounded piece of text.
const FORMAT_BYTES: usize = 1_000;

/// # Errors
/// When the text is no time of ISO 8601.
pub fn iso(text: &str) -> starlark::Result<DateTime> {
    read_iso(text.trim()).ok_or_else(|| {
        Raised::value(format!(
            "'{}' is no time as 2025-01-31T12:00:00+00:00. Use `datetime.strptime(text, format)`.",
            short(text)
        ))
    })
}

/// # Errors
/// When the text is no date of ISO 8601.
pub fn iso_date(text: &str) -> starlark::Result<NaiveDate> {
    read_date(text.trim())
        .ok_or_else(|| Raised::value(format!("'{}' is no date as 2025-01-31. Cut a time off first: `text[:10]`.", short(text))))
}

fn short(text: &str) -> String {
    text.chars().take(60).collect()
}

fn read_date(text: &str) -> Option<NaiveDate> {
    let digits: String = match text.len() {
        10 if text.is_char_boundary(4) && text.as_bytes()[4] == b'-' && text.as_bytes()[7] == b'-' => text.replace('-', ""),
        8 => text.to_owned(),
        _ => return None,
    };
    let number = |range: std::ops::Range<usize>| digits.get(range).filter(|d| d.bytes().all(|b| b.is_ascii_digit()));
    let (year, month, day) = (number(0..4)?, number(4..6)?, number(6..8)?);
    NaiveDate::from_ymd_opt(year.parse().ok().filter(|y| *y > 0)?, month.parse().ok()?, day.parse().ok()?)
}

fn read_iso(text: &str) -> Option<DateTime> {
    let Some(at) = text.find(['T', 't', ' ']) else {
        return Some(DateTime { naive: midnight(read_date(text)?), offset: None });
    };
    let date = read_date(&text[..at])?;
    let rest = &text[at + 1..];
    let zone = rest.find(['Z', 'z', '+', '-']).unwrap_or(rest.len());
    let offset = if zone == rest.len() { None } else { Some(read_offset(&rest[zone..])?) };
    let time = read_time(&rest[..zone])?;
    Some(DateTime { naive: date.and_time(time), offset })
}

fn read_time(text: &str) -> Option<NaiveTime> {
    let (clock, fraction) = text.split_once(['.', ',']).unwrap_or((text, ""));
    let digits = clock.replace(':', "");
    if !digits.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()) || !matches!(digits.len(), 2 | 4 | 6) {
        return None;
    }
    let number = |from: usize| digits.get(from..from + 2).map_or(Some(0), |d| d.parse::<u32>().ok());
    let micros: u32 = format!("{:0<6}", fraction.get(..6).unwrap_or(fraction)).parse().ok()?;
    NaiveTime::from_hms_micro_opt(number(0)?, number(2)?, number(4)?, micros)
}

/// Seconds east of UTC.
pub fn read_offset(text: &str) -> Option<i32> {
    if matches!(text, "Z" | "z") {
        return Some(0);
    }
    let sign = match text.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let digits = text[1..].replace(':', "");
    if !digits.bytes().all(|b| b.is_ascii_digit()) || !matches!(digits.len(), 2 | 4) {
        return None;
    }
    let minutes = digits.get(2..4).map_or(Some(0), |m| m.parse::<i32>().ok())?;
    Some(sign * (digits[..2].parse::<i32>().ok()? * 3600 + minutes * 60))
}

/// # Errors
/// When the text does not follow the format.
pub fn strptime(text: &str, format: &str) -> starlark::Result<DateTime> {
    let ours = directives(format, |directive, out| match directive {
        'f' if out.ends_with('.') => {
            out.pop();
            out.push_str("%.f");
        }
        'f' => out.push_str("%6f"),
        'z' => out.push_str("%#z"),
        'Z' => out.push_str("UTC"),
        other => out.extend(['%', other]),
    })?;
    let refuse = || Raised::value(format!("'{}' does not follow the format '{}'.", short(text), short(format)));
    let items = items(&ours)?;
    let mut parsed = Parsed::new();
    chrono::format::parse(&mut parsed, text, items.iter()).map_err(|_| refuse())?;
    if parsed.year().is_none() && parsed.year_mod_100().is_none() && parsed.timestamp().is_none() {
        parsed.set_year(1900).map_err(|_| refuse())?;
    }
    let dated = parsed.ordinal().is_some()
        || parsed.isoweek().is_some()
        || parsed.week_from_sun().is_some()
        || parsed.timestamp().is_some();
    if !dated && parsed.month().is_none() {
        parsed.set_month(1).map_err(|_| refuse())?;
    }
    if !dated && parsed.day().is_none() {
        parsed.set_day(1).map_err(|_| refuse())?;
    }
    if parsed.hour_mod_12().is_some() && parsed.hour_div_12().is_none() {
        parsed.set_ampm(false).map_err(|_| refuse())?;
    }
    if parsed.hour_mod_12().is_none() {
        parsed.set_hour(0).map_err(|_| refuse())?;
    }
    if parsed.minute().is_none() {
        parsed.set_minute(0).map_err(|_| refuse())?;
    }
    let date = parsed.to_naive_date().map_err(|_| refuse())?;
    let time = parsed.to_naive_time().map_err(|_| refuse())?;
    super::checked(date.and_time(time), parsed.offset())
}

/// # Errors
/// When the format has a directive that is none.
pub fn strftime(time: &DateTime, format: &str) -> starlark::Result<String> {
    let zone = time.offset.map(|o| super::values::offset_text(o).replace(':', ""));
    let name = time.offset.map(|o| if o == 0 { "UTC".to_owned() } else { format!("UTC{}", super::values::offset_text(o)) });
    let ours = directives(format, |directive, out| match directive {
        'f' => out.push_str("%6f"),
        'z' => out.push_str(zone.as_deref().unwrap_or("")),
        'Z' => out.push_str(name.as_deref().unwrap_or("")),
        other => out.extend(['%', other]),
    })?;
    let items = items(&ours)?;
    let mut out = String::new();
    std::fmt::Write::write_fmt(&mut out, format_args!("{}", time.naive.format_with_items(items.iter())))
        .map_err(|_| Raised::value(format!("The format '{}' does not suit a time without zone.", short(format))))?;
    Ok(out)
}

fn items(format: &str) -> starlark::Result<Vec<Item<'_>>> {
    let items: Vec<Item> = StrftimeItems::new(format).collect();
    if items.iter().any(|item| matches!(item, Item::Error)) {
        return Err(Raised::value(format!("'{}' is no format. Use %Y, %m, %d, %H, %M, %S, %b, %a and the like.", short(format))));
    }
    Ok(items)
}

/// The format with each directive written anew.
fn directives(format: &str, mut write: impl FnMut(char, &mut String)) -> starlark::Result<String> {
    if format.len() > FORMAT_BYTES {
        return Err(Raised::value(format!("The format is longer than {FORMAT_BYTES} bytes.")));
    }
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        match (c, c == '%') {
            (_, true) => match chars.next() {
                Some(directive) => write(directive, &mut out),
                None => return Err(Raised::value("The format ends with a lone `%`. Write `%%`.")),
            },
            (c, false) => out.push(c),
        }
    }
    Ok(out)
}
