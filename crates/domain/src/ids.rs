//! Typed ids: a UUIDv7 behind a prefix that says what it names (`vk_01j9...`).
//!
//! The text form is the prefix, an underscore and the 128 bits in Crockford base32, 26 characters, lower case: it sorts
//! by time as the UUID does, has no characters that a double click breaks at, and cannot be mistaken for another kind.

use std::{fmt, str::FromStr, sync::Mutex};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::{ContextV7, Timestamp, Uuid};

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Length of a base32 id without its prefix.
pub const ID_CHARS: usize = 26;

/// Why a text is not the id it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected an id of the form {prefix}_ followed by 26 characters")]
pub struct BadId {
    pub prefix: &'static str,
}

/// Base32 of a UUID, without a prefix.
#[must_use]
pub fn encode(id: Uuid) -> String {
    Text::of("", id).as_str().to_owned()
}

/// An id as text, on the stack: a line of the audit trail has ten of them.
struct Text {
    bytes: [u8; LONGEST_PREFIX + 1 + ID_CHARS],
    start: usize,
}

const LONGEST_PREFIX: usize = 5;

impl Text {
    /// `prefix` ends with its underscore.
    fn of(prefix: &str, id: Uuid) -> Self {
        let mut bytes = [0; LONGEST_PREFIX + 1 + ID_CHARS];
        let mut bits = id.as_u128();
        for byte in bytes[LONGEST_PREFIX + 1..].iter_mut().rev() {
            *byte = ALPHABET[(bits & 31) as usize];
            bits >>= 5;
        }
        let start = LONGEST_PREFIX + 1 - prefix.len();
        bytes[start..=LONGEST_PREFIX].copy_from_slice(prefix.as_bytes());
        Self { bytes, start }
    }

    fn as_str(&self) -> &str {
        // Always ASCII.
        std::str::from_utf8(&self.bytes[self.start..]).unwrap_or_default()
    }
}

/// The reverse of [`encode`]; `None` for another length, an unknown character, or more than 128 bits.
#[must_use]
pub fn decode(text: &str) -> Option<Uuid> {
    if text.len() != ID_CHARS || text.as_bytes()[0] > b'7' {
        return None;
    }
    text.bytes()
        .try_fold(0u128, |bits, c| ALPHABET.iter().position(|&a| a == c).map(|digit| bits << 5 | digit as u128))
        .map(Uuid::from_u128)
}

// Ids made within one millisecond still sort in the order in which they were made.
static CONTEXT: Mutex<ContextV7> = Mutex::new(ContextV7::new());

/// A new UUIDv7 for the time `now`.
#[must_use]
pub fn mint(now: DateTime<Utc>) -> Uuid {
    let context = CONTEXT.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let seconds = u64::try_from(now.timestamp()).unwrap_or(0);
    Uuid::new_v7(Timestamp::from_unix(&*context, seconds, now.timestamp_subsec_nanos()))
}

/// The smallest UUIDv7 of this time: ids of rows written from `at` on are not below it.
#[must_use]
pub fn floor(at: DateTime<Utc>) -> Uuid {
    let millis = u128::try_from(at.timestamp_millis()).unwrap_or(0);
    // 48 bits of milliseconds reach into the year 10889; what lies beyond is after everything.
    if millis >> 48 > 0 { Uuid::max() } else { Uuid::from_u128(millis << 80) }
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal;)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Uuid);

        impl $name {
            pub const PREFIX: &'static str = $prefix;
            #[must_use]
            pub fn mint(now: DateTime<Utc>) -> Self { Self(mint(now)) }
            #[must_use]
            pub const fn from_uuid(id: Uuid) -> Self { Self(id) }
            #[must_use]
            pub const fn uuid(self) -> Uuid { self.0 }
        }
        impl From<Uuid> for $name { fn from(id: Uuid) -> Self { Self(id) } }
        impl From<$name> for Uuid { fn from(id: $name) -> Self { id.0 } }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(Text::of(concat!($prefix, "_"), self.0).as_str()) }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { fmt::Display::fmt(self, f) }
        }
        impl FromStr for $name {
            type Err = BadId;
            fn from_str(text: &str) -> Result<Self, BadId> {
                text.strip_prefix($prefix).and_then(|t| t.strip_prefix('_')).and_then(decode).map(Self)
                    .ok_or(BadId { prefix: $prefix })
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(Text::of(concat!($prefix, "_"), self.0).as_str())
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )+};
}

ids! {
    TenantId = "ten";
    TeamId = "team";
    /// A person who comes in through OIDC.
    AdminId = "adm";
    ServiceTokenId = "svc";
    /// A token of the platform's operator, above all tenants.
    PlatformTokenId = "plt";
    KeyId = "vk";
    UpstreamId = "ups";
    ToolId = "tool";
    ToolGroupId = "tg";
    PriceId = "price";
    LlmPriceId = "llmp";
    /// A correction of what was charged.
    CreditId = "crd";
    LlmRequestId = "req";
    ScriptRunId = "run";
    CallId = "call";
    ApprovalId = "apr";
    BudgetId = "bud";
    RateLimitId = "rl";
    /// Of models, not of tools.
    ProviderId = "prov";
    ModelRouteId = "route";
    AdminEventId = "evt";
    SyncRequestId = "sync";
    /// Of payloads that were taken away on purpose.
    ErasureId = "era";
    ExportJobId = "exp";
    ReportScheduleId = "rps";
    /// A running worker process.
    WorkerId = "wkr";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips_and_refuses_neighbours() {
        let id = KeyId::mint(DateTime::from_timestamp(1_700_000_000, 0).unwrap());
        let text = id.to_string();
        assert_eq!(text.len(), 3 + ID_CHARS);
        assert_eq!(text.parse::<KeyId>().unwrap(), id);
        assert!(text.parse::<TenantId>().is_err(), "another kind");
        assert!(text.to_uppercase().parse::<KeyId>().is_err(), "one spelling only");
        assert!("vk_8zzzzzzzzzzzzzzzzzzzzzzzzz".parse::<KeyId>().is_err(), "more than 128 bits");
        assert_eq!(decode("7zzzzzzzzzzzzzzzzzzzzzzzzz"), Some(Uuid::max()));
    }

    #[test]
    fn ids_sort_in_the_order_of_their_making() {
        let now = DateTime::from_timestamp(1_700_000_000, 123_000_000).unwrap();
        let ids: Vec<_> = (0..1000).map(|_| CallId::mint(now)).collect();
        assert!(ids.windows(2).all(|w| w[0] < w[1] && w[0].to_string() < w[1].to_string()));
        assert!(floor(now) <= ids[0].uuid());
    }
}
