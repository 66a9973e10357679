//! Money as integers: one pico is 1e-12 of the currency's unit. No floats anywhere.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

const DECIMALS: usize = 12;
const UNIT: i64 = 1_000_000_000_000;

/// An amount in 1e-12 of a currency's unit: at most about 9.2 million units a row. Sums are `i128`
/// (`numeric(38,0)` in SQL), printed by [`decimal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Picos(pub i64);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadAmount {
    #[error("an amount is a decimal string such as \"0.002\"")]
    NotDecimal,
    #[error("an amount has at most 12 decimal places")]
    TooFine,
    #[error("an amount is below 9223372 units")]
    TooLarge,
    #[error("an amount is not negative")]
    Negative,
}

impl FromStr for Picos {
    type Err = BadAmount;

    fn from_str(text: &str) -> Result<Self, BadAmount> {
        if text.starts_with('-') {
            return Err(BadAmount::Negative);
        }
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(fraction) {
            return Err(BadAmount::NotDecimal);
        }
        if fraction.len() > DECIMALS {
            return Err(BadAmount::TooFine);
        }
        let whole: i64 = whole.parse().map_err(|_| BadAmount::TooLarge)?;
        let fraction: i64 = format!("{fraction:0<DECIMALS$}").parse().map_err(|_| BadAmount::NotDecimal)?;
        whole.checked_mul(UNIT).and_then(|w| w.checked_add(fraction)).map(Self).ok_or(BadAmount::TooLarge)
    }
}

/// The exact decimal text of a number of picos, without trailing zeros: `2000000000` is `0.002`.
#[must_use]
pub fn decimal(picos: i128) -> String {
    let sign = if picos < 0 { "-" } else { "" };
    let (whole, fraction) = (picos.unsigned_abs() / UNIT as u128, picos.unsigned_abs() % UNIT as u128);
    let fraction = format!("{fraction:012}");
    match fraction.trim_end_matches('0') {
        "" => format!("{sign}{whole}"),
        fraction => format!("{sign}{whole}.{fraction}"),
    }
}

impl fmt::Display for Picos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&decimal(i128::from(self.0)))
    }
}

impl Serialize for Picos {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Picos {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// An ISO 4217 code: three capital letters. One per tenant; amounts of different currencies are never added.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Currency([u8; 3]);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a currency is three capital letters (ISO 4217), such as \"USD\"")]
pub struct BadCurrency;

impl Currency {
    pub const USD: Self = Self(*b"USD");

    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("XXX")
    }
}

impl FromStr for Currency {
    type Err = BadCurrency;
    fn from_str(text: &str) -> Result<Self, BadCurrency> {
        let code: [u8; 3] = text.as_bytes().try_into().map_err(|_| BadCurrency)?;
        code.iter().all(u8::is_ascii_uppercase).then_some(Self(code)).ok_or(BadCurrency)
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Currency {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Currency {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_exact_both_ways() {
        for (text, picos) in
            [("0.002", 2_000_000_000), ("0", 0), ("1", UNIT), ("0.000000000001", 1), ("12.5", 12 * UNIT + UNIT / 2)]
        {
            assert_eq!(text.parse(), Ok(Picos(picos)));
            assert_eq!(Picos(picos).to_string(), text);
        }
        assert_eq!("1.50".parse::<Picos>().unwrap().to_string(), "1.5");
        assert_eq!(decimal(i128::from(i64::MAX) * 4), "36893488.147419103228");
    }

    #[test]
    fn everything_else_is_refused_with_its_reason() {
        for (text, why) in [
            ("", BadAmount::NotDecimal),
            ("1e3", BadAmount::NotDecimal),
            (".5", BadAmount::NotDecimal),
            ("1.", BadAmount::NotDecimal),
            ("+1", BadAmount::NotDecimal),
            ("1,5", BadAmount::NotDecimal),
            ("-1", BadAmount::Negative),
            ("0.0000000000001", BadAmount::TooFine),
            ("9223373", BadAmount::TooLarge),
            ("99999999999999999999", BadAmount::TooLarge),
        ] {
            assert_eq!(text.parse::<Picos>(), Err(why), "{text}");
        }
    }
}
