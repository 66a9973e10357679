//! A rate card as a sheet: CSV as spreadsheets write it, read strictly and refused by line and column.
//!
//! | column | what |
//! |---|---|
//! | `upstream`, `tool` | names; `*`, `*` is the tenant's default, and `*` as the tool that of the upstream |
//! | `unit` | `call`, `successful_call`, `kb`, `second`; or `inherit`: no price of its own |
//! | `from_call` | of a tier; a price has as many lines as tiers, one after the other. Empty: the same amount for every call |
//! | `amount`, `max_amount` | decimals with a point |
//! | `effective_from` | RFC 3339; empty, or a time that has passed: now |
//! | `currency` | the tenant's, where the column is there: a card in another one is refused |
//!
//! Separated by commas, or by semicolons or tabs where the header is; with or without a byte order mark; lines end as they like.

use std::collections::HashMap;

use chrono::{DateTime, SecondsFormat, Utc};
use tollgate_domain::{
    Currency, Picos,
    price::{Price, Rate, RateCard, Target, Tier, Unit},
};
use tollgate_store::prices::import::Priced;

use crate::{
    audit::{
        Unwritable,
        csv::{Rows, neutral},
    },
    check::Checks,
};

pub const COLUMNS: [&str; 8] = ["upstream", "tool", "unit", "from_call", "amount", "max_amount", "effective_from", "currency"];
/// Those without which a line says nothing.
const NEEDED: [&str; 4] = ["upstream", "tool", "unit", "amount"];
/// Lines of one file.
pub const MAX_LINES: usize = 20_000;
const INHERIT: &str = "inherit";

/// What a price is for, by the names in the file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Name {
    pub upstream: String,
    pub tool: String,
}

/// One price of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The first of its lines.
    pub line: u64,
    pub name: Name,
    /// `None`: no price of its own.
    pub rate: Option<Rate>,
    pub effective_from: Option<DateTime<Utc>>,
}

/// The card at a moment: what each target has of its own.
///
/// # Errors
/// Never for want of space: it is memory.
pub fn write(priced: &Priced, card: &RateCard, (at, currency): (DateTime<Utc>, Currency)) -> Result<Vec<u8>, Unwritable> {
    let mut rows = Rows::new(&COLUMNS)?;
    let mut put = |upstream: &str, tool: &str, target| {
        lines(card.own(target, at), currency)
            .into_iter()
            .try_for_each(|line| rows.push([upstream, tool].into_iter().chain(line.iter().map(String::as_str))))
    };
    put("*", "*", Target::Tenant)?;
    for (id, upstream, tools) in &priced.upstreams {
        put(upstream, "*", Target::Upstream(*id))?;
        for (tool, name) in tools {
            put(upstream, name, Target::Tool(*tool))?;
        }
    }
    rows.finish()
}

/// The cells behind the names.
fn lines(price: Option<&Price>, currency: Currency) -> Vec<[String; 6]> {
    let Some((price, rate)) = price.and_then(|price| Some((price, price.rate.as_ref()?))) else {
        return vec![[INHERIT, "", "", "", "", ""].map(str::to_owned)];
    };
    let line = |from_call: String, amount: Picos| {
        let max = rate.max.map(|max| max.to_string()).unwrap_or_default();
        let from = price.effective_from.to_rfc3339_opts(SecondsFormat::AutoSi, true);
        [rate.unit.to_string(), from_call, amount.to_string(), max, from, currency.to_string()]
    };
    match rate.tiers() {
        [] => vec![line(String::new(), rate.amount)],
        tiers => tiers.iter().map(|tier| line(tier.from_call.to_string(), tier.amount)).collect(),
    }
}

/// One line, as far as it could be read.
struct Line {
    number: u64,
    name: Name,
    /// `None`: inherit.
    unit: Option<Unit>,
    from_call: Option<u64>,
    amount: Picos,
    max: Option<Picos>,
    effective_from: Option<DateTime<Utc>>,
}

/// Read a file. What cannot be accepted is refused in `checks`, under `/<line>/<column>`.
pub fn read(bytes: &[u8], currency: Currency, checks: &mut Checks) -> (usize, Vec<Entry>) {
    let Ok(text) = std::str::from_utf8(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)) else {
        checks.refuse("", "the file is not UTF-8: save it as \"CSV UTF-8\"");
        return (0, Vec::new());
    };
    let mut reader =
        csv::ReaderBuilder::new().delimiter(separator(text)).flexible(true).trim(csv::Trim::All).from_reader(text.as_bytes());
    let Some(header) = Header::read(&mut reader, checks) else { return (0, Vec::new()) };
    let mut place = Place { text: text.as_bytes(), at: 0, line: 1 };
    let (mut lines, mut count) = (Vec::new(), 0);
    for record in reader.records() {
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                checks.refuse("", format!("the file cannot be read as CSV: {error}"));
                return (count, Vec::new());
            }
        };
        // A spreadsheet leaves empty lines behind what was deleted.
        if record.iter().all(str::is_empty) {
            continue;
        }
        count += 1;
        if count > MAX_LINES {
            checks.refuse("", format!("the file has more than {MAX_LINES} lines: import it in parts"));
            return (count, Vec::new());
        }
        lines.extend(line((place.of(&record), &record), &header, currency, checks));
    }
    (count, entries(lines, checks))
}

/// How far the lines of the file were counted.
struct Place<'a> {
    text: &'a [u8],
    at: usize,
    line: u64,
}

impl Place<'_> {
    /// The line on which a record begins. The reader's own count stops in front of what is left of the line before, and of empty ones.
    fn of(&mut self, record: &csv::StringRecord) -> u64 {
        let byte = record.position().map_or(0, csv::Position::byte);
        let start = usize::try_from(byte).unwrap_or(usize::MAX).min(self.text.len());
        let blank = self.text[start..].iter().take_while(|byte| matches!(byte, b'\n' | b'\r')).count();
        let end = start + blank;
        let breaks = self.text[self.at.min(end)..end].iter().filter(|byte| **byte == b'\n').count();
        self.line += u64::try_from(breaks).unwrap_or(0);
        self.at = end;
        self.line
    }
}

/// By the first line: commas, unless it has none and another one.
fn separator(text: &str) -> u8 {
    let header = text.lines().next().unwrap_or_default();
    match (header.contains(','), header.contains(';'), header.contains('\t')) {
        (false, true, _) => b';',
        (false, false, true) => b'\t',
        _ => b',',
    }
}

/// In which field each column stands.
struct Header {
    places: HashMap<&'static str, usize>,
    width: usize,
}

impl Header {
    fn read(reader: &mut csv::Reader<&[u8]>, checks: &mut Checks) -> Option<Self> {
        let Ok(header) = reader.headers() else {
            checks.refuse("/1", "the header cannot be read");
            return None;
        };
        let mut places = HashMap::new();
        for (place, name) in header.iter().enumerate().filter(|(_, name)| !name.is_empty()) {
            match COLUMNS.iter().find(|column| **column == name) {
                Some(column) if !places.contains_key(column) => drop(places.insert(*column, place)),
                Some(column) => checks.refuse(format!("/1/{column}"), "this column comes twice"),
                None => checks.refuse("/1", format!("there is no column {name:?}; there are {}", COLUMNS.join(", "))),
            }
        }
        for column in NEEDED.iter().filter(|column| !places.contains_key(*column)) {
            checks.refuse(format!("/1/{column}"), "this column is missing");
        }
        let width = header.len();
        NEEDED.iter().all(|column| places.contains_key(column)).then_some(Self { places, width })
    }
}

/// A cell without the apostrophe that was put in front of what a spreadsheet would take for a formula.
fn plain(cell: &str) -> &str {
    match cell.strip_prefix('\'') {
        Some(rest) if neutral(rest) != rest => rest,
        _ => cell,
    }
}

fn line((number, record): (u64, &csv::StringRecord), header: &Header, currency: Currency, checks: &mut Checks) -> Option<Line> {
    if record.iter().skip(header.width).any(|cell| !cell.is_empty()) {
        checks.refuse(format!("/{number}"), "the line has more cells than the header: write decimals with a point");
        return None;
    }
    let cell =
        |column: &str| header.places.get(column).and_then(|place| record.get(*place)).map(plain).filter(|cell| !cell.is_empty());
    let at = |column: &str| format!("/{number}/{column}");
    let before = checks.count();
    let mut name = |column: &str| match cell(column) {
        Some(name) => name.to_owned(),
        None => {
            checks.refuse(at(column), "this cell is empty; \"*\" stands for all");
            String::new()
        }
    };
    let name = Name { upstream: name("upstream"), tool: name("tool") };
    if cell("currency").is_some_and(|given| given != currency.as_str()) {
        checks.refuse(at("currency"), format!("the tenant reckons in {currency}"));
    }
    let effective_from = cell("effective_from").and_then(|text| match DateTime::parse_from_rfc3339(text) {
        Ok(time) => Some(time.to_utc()),
        Err(_) => {
            checks.refuse(at("effective_from"), "use a time such as 2026-11-27T09:30:00Z, or leave it empty for now");
            None
        }
    });
    let mut line = Line { number, name, unit: None, from_call: None, amount: Picos(0), max: None, effective_from };
    match cell("unit") {
        Some(INHERIT) => {
            for column in ["from_call", "amount", "max_amount"].into_iter().filter(|column| cell(column).is_some()) {
                checks.refuse(at(column), "what has no price of its own has none of this");
            }
        }
        None => checks.refuse(at("unit"), "this cell is empty; use call, successful_call, kb, second or inherit"),
        Some(unit) => {
            line.unit =
                unit.parse().map_err(|_| checks.refuse(at("unit"), "use call, successful_call, kb, second or inherit")).ok();
            match cell("amount") {
                Some(amount) => line.amount = checks.parse(&at("amount"), amount).unwrap_or_default(),
                None => checks.refuse(at("amount"), "this cell is empty; 0 is free"),
            }
            line.max = cell("max_amount").and_then(|max| checks.parse(&at("max_amount"), max));
            line.from_call = cell("from_call").and_then(|from| {
                from.parse().map_err(|_| checks.refuse(at("from_call"), "use the number of a call, or leave it empty")).ok()
            });
        }
    }
    (checks.count() == before).then_some(line)
}

/// Put the tiers of a price together.
fn entries(lines: Vec<Line>, checks: &mut Checks) -> Vec<Entry> {
    let mut groups: Vec<Vec<Line>> = Vec::new();
    for line in lines {
        let same = |group: &&mut Vec<Line>| group[0].name == line.name && group[0].effective_from == line.effective_from;
        match groups.last_mut().filter(same) {
            Some(group) => group.push(line),
            None => groups.push(vec![line]),
        }
    }
    groups.iter().filter_map(|group| entry(group, checks)).collect()
}

fn entry(lines: &[Line], checks: &mut Checks) -> Option<Entry> {
    let first = lines.first()?;
    let entry = |rate| {
        let (name, effective_from) = (first.name.clone(), first.effective_from);
        Some(Entry { line: first.number, name, rate, effective_from })
    };
    if let [one] = lines
        && one.from_call.is_none()
    {
        return entry(one.unit.map(|unit| Rate::flat(unit, one.amount, one.max)));
    }
    let before = checks.count();
    for line in lines {
        let at = |column: &str| format!("/{}/{column}", line.number);
        checks.require(
            line.from_call.is_some(),
            &at("from_call"),
            "the same price has another line: give each the call from which it holds",
        );
        checks.require(line.unit == first.unit, &at("unit"), "all tiers of a price have one unit");
        checks.require(line.max == first.max, &at("max_amount"), "all tiers of a price have one max_amount");
    }
    let unit = first.unit.filter(|_| checks.count() == before)?;
    let tier = |line: &Line| Tier { from_call: line.from_call.unwrap_or(0), amount: line.amount };
    match Rate::tiered(unit, lines.iter().map(tier).collect(), first.max) {
        Ok(rate) => entry(Some(rate)),
        Err(error) => {
            checks.refuse(format!("/{}/from_call", first.number), error.to_string());
            None
        }
    }
}

#[cfg(test)]
mod tests;
