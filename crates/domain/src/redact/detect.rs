//! Detectors for secrets and personal data of a known form.
//!
//! A detector is a regular expression, alone where the form has a prefix of its own, and with a check (or a scan by
//! hand) where a checksum tells a card from an order number. Tokens with a prefix are found inside longer words as well:
//! a key that is glued to other text is a key still.

use std::ops::Range;

pub(super) struct Detector {
    pub name: &'static str,
    /// What the text has to hold before `find` is tried; the match itself for all but [`Find::Scan`].
    pub regex: &'static str,
    pub find: Find,
}

#[derive(Clone, Copy)]
pub(super) enum Find {
    Match,
    /// A match that passes the check.
    Checked(fn(&str, Range<usize>) -> bool),
    /// All matches, in ascending order.
    Scan(fn(&str) -> Vec<Range<usize>>),
}

const fn plain(name: &'static str, regex: &'static str) -> Detector {
    Detector { name, regex, find: Find::Match }
}

pub(super) const DETECTORS: &[Detector] = &[
    plain("email", r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,}"),
    Detector { name: "credit_card", regex: r"[0-9](?:[ -]?[0-9]){12}", find: Find::Scan(cards) },
    Detector { name: "iban", regex: r"[A-Za-z]{2}[0-9]{2}[ -]?[A-Za-z0-9]{3}", find: Find::Scan(ibans) },
    Detector { name: "us_ssn", regex: r"[0-9]{3}[- ][0-9]{2}[- ][0-9]{4}", find: Find::Checked(is_ssn) },
    plain("jwt", r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){1,3}"),
    // A block whose end was cut off is a key still.
    plain(
        "private_key",
        r"(?s)-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----.*?(?:-----END (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----|\z)",
    ),
    Detector {
        name: "bearer_token",
        regex: r"\b[Bb](?:earer|EARER)[ \t]+[A-Za-z0-9._~+/-]{16,}=*",
        find: Find::Checked(|text, at| is_random(text[at].trim_start_matches(|c: char| c.is_ascii_alphabetic()).trim())),
    },
    plain("url_password", r#"://[^\s/?#:@"'<>]*:[^\s/?#@"'<>]+@"#),
    plain("aws_access_key", r"(?:AKIA|ASIA)[A-Z0-9]{16}"),
    plain("github_token", r"gh[oprsu]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,}"),
    plain("gitlab_token", r"glpat-[A-Za-z0-9_-]{20,}"),
    plain(
        "slack_token",
        r"xox[abeoprs]-[A-Za-z0-9-]{10,}|xapp-[0-9]-[A-Za-z0-9-]{10,}|hooks\.slack\.com/services/[A-Za-z0-9/]{20,}",
    ),
    plain("stripe_key", r"[rs]k_(?:live|test)_[A-Za-z0-9]{16,}|whsec_[A-Za-z0-9+/=]{24,}"),
    plain("google_api_key", r"AIza[A-Za-z0-9_-]{35}"),
    Detector {
        name: "openai_key",
        regex: r"\bsk-(?:proj-|svcacct-|admin-)?[A-Za-z0-9_-]{20,}",
        find: Find::Checked(|text, at| is_random(&text[at])),
    },
    plain("anthropic_key", r"sk-ant-[A-Za-z0-9_-]{20,}"),
    plain("npm_token", r"npm_[A-Za-z0-9]{36}"),
    // The form that `crate::key` gives; the checksum is not asked for, since a key with a typo gives away the rest.
    plain("tollgate_key", r"tg_(?:live|svc|root)_[0-9a-hjkmnp-tv-z]{60,}"),
];

/// The known detectors, for a sentence.
pub(super) fn names() -> String {
    DETECTORS.iter().map(|d| d.name).collect::<Vec<_>>().join(", ")
}

/// Whether a word looks drawn by lot: a digit in it, or capitals beyond the first letter among small letters.
fn is_random(word: &str) -> bool {
    let inner = word.get(1..).unwrap_or_default();
    word.bytes().any(|b| b.is_ascii_digit())
        || (inner.bytes().any(|b| b.is_ascii_uppercase()) && inner.bytes().any(|b| b.is_ascii_lowercase()))
}

/// Areas 000, 666 and 900-999, group 00 and serial 0000 were never issued; longer chains of digits are something else.
fn is_ssn(text: &str, at: Range<usize>) -> bool {
    let (bytes, found) = (text.as_bytes(), &text[at.clone()]);
    let joined = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    let alone = !joined(at.start.checked_sub(1).and_then(|i| bytes.get(i))) && !joined(bytes.get(at.end));
    let same_separator = found.as_bytes()[3] == found.as_bytes()[6];
    let issued =
        !matches!(&found[..3], "000" | "666") && !found.starts_with('9') && &found[4..6] != "00" && &found[7..] != "0000";
    alone && same_separator && issued
}

/// Runs of digits in groups, one space or hyphen between two groups; a card is a chain of whole groups.
fn cards(text: &str) -> Vec<Range<usize>> {
    let bytes = text.as_bytes();
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some(skip) = bytes[at..].iter().position(u8::is_ascii_digit) {
        let start = at + skip;
        let mut groups: Vec<Range<usize>> = Vec::new();
        at = start;
        loop {
            let end = at + bytes[at..].iter().take_while(|b| b.is_ascii_digit()).count();
            groups.push(at..end);
            at = end;
            let separated = matches!(bytes.get(end), Some(b' ' | b'-')) && bytes.get(end + 1).is_some_and(u8::is_ascii_digit);
            if !separated {
                break;
            }
            at = end + 1;
        }
        // A fraction (0.4111..), a part of a word or an identifier is no card; `.0` is how a float column writes a whole number.
        if !begins_like_a_number(&bytes[..start]) {
            groups.remove(0);
        }
        if !ends_like_a_number(&bytes[at..]) {
            groups.pop();
        }
        chains_of_groups(bytes, &groups, &mut found);
    }
    found
}

fn begins_like_a_number(before: &[u8]) -> bool {
    match before {
        [.., d, b'.'] => !d.is_ascii_digit(),
        [.., b] => !b.is_ascii_alphabetic() && *b != b'_',
        [] => true,
    }
}

fn ends_like_a_number(behind: &[u8]) -> bool {
    let zeros = behind.strip_prefix(b".").map_or(behind, |fraction| {
        let zeros = fraction.iter().take_while(|&&b| b == b'0').count();
        &fraction[zeros..]
    });
    zeros.first().is_none_or(|b| !b.is_ascii_alphanumeric() && *b != b'_')
}

fn chains_of_groups(bytes: &[u8], groups: &[Range<usize>], found: &mut Vec<Range<usize>>) {
    let mut first = 0;
    while first < groups.len() {
        let (mut digits, mut card) = (Vec::with_capacity(19), None);
        for (i, group) in groups.iter().enumerate().skip(first) {
            if digits.len() + group.len() > 19 {
                break;
            }
            digits.extend(bytes[group.clone()].iter().map(|b| b - b'0'));
            if is_card(&digits) {
                card = Some(i);
            }
        }
        if let Some(last) = card {
            found.push(groups[first].start..groups[last].end);
        }
        first = card.unwrap_or(first) + 1;
    }
}

/// The issuer's range and length, then Luhn's sum.
fn is_card(digits: &[u8]) -> bool {
    if !(13..=19).contains(&digits.len()) {
        return false;
    }
    let prefix = |n: usize| digits[..n].iter().fold(0u32, |sum, &d| sum * 10 + u32::from(d));
    let issued = match (prefix(2), digits.len()) {
        (40..=49, 13 | 16 | 19) | (51..=55, 16) | (34 | 37, 15) | (36 | 38 | 39, 14..) | (35, 16..) => true,
        (50 | 56..=69, _) => true,
        (22..=27, 16) => (2221..=2720).contains(&prefix(4)),
        (30, 14..) => matches!(prefix(3), 300..=305 | 309),
        _ => false,
    };
    let luhn = digits.iter().rev().enumerate().fold(0u32, |sum, (i, &d)| {
        let doubled = u32::from(d) * if i % 2 == 1 { 2 } else { 1 };
        sum + if doubled > 9 { doubled - 9 } else { doubled }
    });
    issued && luhn % 10 == 0
}

/// Country and length, from the IBAN registry; cells of five bytes.
const IBAN_LENGTHS: &str = "\
    AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 \
    EE20 EG29 ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 \
    IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 \
    NL18 NO15 OM23 PK24 PL28 PS29 PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 \
    SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30";

fn ibans(text: &str) -> Vec<Range<usize>> {
    let bytes = text.as_bytes();
    let (mut found, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let begins = bytes[at].is_ascii_alphabetic() && (at == 0 || !bytes[at - 1].is_ascii_alphanumeric());
        if let Some(end) = if begins { iban_at(bytes, at) } else { None } {
            found.push(at..end);
            at = end;
        } else {
            at += 1;
        }
    }
    found
}

/// Where the IBAN that begins here ends: as many letters and digits as its country has, groups parted by single spaces
/// or hyphens, and 1 as the remainder by 97.
fn iban_at(bytes: &[u8], start: usize) -> Option<usize> {
    let [first, second, check @ ..] = bytes.get(start..start + 4)? else { return None };
    if !check.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let country = [first.to_ascii_uppercase(), second.to_ascii_uppercase()];
    let cell = IBAN_LENGTHS.as_bytes().chunks(5).find(|cell| cell.starts_with(&country))?;
    let length = cell[2..4].iter().fold(0, |sum, d| sum * 10 + usize::from(d - b'0'));
    let (mut word, mut at) = (Vec::with_capacity(length), start);
    while word.len() < length {
        let byte = *bytes.get(at)?;
        if byte.is_ascii_alphanumeric() {
            word.push(byte.to_ascii_uppercase());
        } else if !matches!(byte, b' ' | b'-') || !bytes.get(at + 1)?.is_ascii_alphanumeric() {
            return None;
        }
        at += 1;
    }
    if bytes.get(at).is_some_and(u8::is_ascii_alphanumeric) {
        return None;
    }
    word.rotate_left(4);
    let remainder = word.iter().fold(0u32, |sum, &b| match b {
        b'0'..=b'9' => (sum * 10 + u32::from(b - b'0')) % 97,
        _ => (sum * 100 + u32::from(b - b'A') + 10) % 97,
    });
    (remainder == 1).then_some(at)
}
