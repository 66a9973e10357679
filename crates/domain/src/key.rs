//! Bearer secrets of our own making: virtual keys, service tokens, platform tokens.
//!
//! `tg_live_<id:26><random:52><crc:7>`, all in one lower-case base32 word. The id is public and finds the row; the row
//! holds HMAC-SHA256 of the whole text under a pepper that the database does not know; the CRC refuses a typo without
//! a lookup and lets secret scanners tell a key from a likeness.

use std::fmt;

use aws_lc_rs::{constant_time, hmac, rand};
use uuid::Uuid;

use crate::ids::{self, ID_CHARS};

const RANDOM_CHARS: usize = 2 * ID_CHARS;
const CRC_CHARS: usize = 7;
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretKind {
    /// A virtual key: opens the worker's door.
    Key,
    /// A service token: opens the admin API of one tenant.
    Service,
    /// A platform token: opens the admin API of all tenants.
    Platform,
}

impl SecretKind {
    const ALL: [Self; 3] = [Self::Key, Self::Service, Self::Platform];

    const fn prefix(self) -> &'static str {
        match self {
            Self::Key => "tg_live_",
            Self::Service => "tg_svc_",
            Self::Platform => "tg_root_",
        }
    }
}

/// A well-formed secret. Never printed by `Debug`; [`Secret::reveal`] is called where it is handed to its owner.
#[derive(Clone)]
pub struct Secret {
    kind: SecretKind,
    id: Uuid,
    text: String,
}

/// The key of the HMAC, known to the server processes alone.
#[derive(Clone)]
pub struct Pepper(hmac::Key);

impl Pepper {
    #[must_use]
    pub fn new(key: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// A hash of these parts that nobody can make, or guess at, without the pepper. `purpose` keeps its uses apart.
    #[must_use]
    pub fn mac(&self, purpose: &str, parts: &[&[u8]]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.0);
        for part in [purpose.as_bytes()].iter().chain(parts) {
            context.update(&part.len().to_le_bytes());
            context.update(part);
        }
        let mut mac = [0; 32];
        mac.copy_from_slice(context.sign().as_ref());
        mac
    }
}

impl fmt::Debug for Pepper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pepper(..)")
    }
}

impl Secret {
    /// A new secret for the row `id`, from the operating system's randomness.
    ///
    /// # Panics
    /// Where the operating system has no randomness to give: nothing safe can be done then.
    #[must_use]
    pub fn generate(kind: SecretKind, id: Uuid) -> Self {
        let mut random = [0u8; RANDOM_CHARS];
        #[expect(clippy::expect_used, reason = "no randomness, no keys")]
        rand::fill(&mut random).expect("the operating system gives randomness");
        let random: String = random.iter().map(|b| char::from(ALPHABET[usize::from(b & 31)])).collect();
        let body = format!("{}{}{random}", kind.prefix(), ids::encode(id));
        let text = format!("{body}{}", checksum(&body));
        Self { kind, id, text }
    }

    /// Read a secret; `None` for whatever is not one, a typo included.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = SecretKind::ALL.iter().find_map(|&k| text.strip_prefix(k.prefix()).map(|rest| (k, rest)))?;
        if rest.len() != ID_CHARS + RANDOM_CHARS + CRC_CHARS || !rest.is_ascii() {
            return None;
        }
        let (body, crc) = text.split_at(text.len() - CRC_CHARS);
        if crc != checksum(body) {
            return None;
        }
        Some(Self { kind, id: ids::decode(&rest[..ID_CHARS])?, text: text.to_owned() })
    }

    #[must_use]
    pub const fn kind(&self) -> SecretKind {
        self.kind
    }

    /// The public id that the secret carries, not yet proved.
    #[must_use]
    pub const fn id(&self) -> Uuid {
        self.id
    }

    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.text
    }

    /// What the row keeps.
    #[must_use]
    pub fn hash(&self, pepper: &Pepper) -> Vec<u8> {
        hmac::sign(&pepper.0, self.text.as_bytes()).as_ref().to_vec()
    }

    /// Whether this is the secret of the row that keeps `hash`; in constant time.
    #[must_use]
    pub fn matches(&self, hash: &[u8], pepper: &Pepper) -> bool {
        constant_time::verify_slices_are_equal(&self.hash(pepper), hash).is_ok()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({}{}..)", self.kind.prefix(), ids::encode(self.id))
    }
}

fn checksum(body: &str) -> String {
    let crc = crc32fast::hash(body.as_bytes());
    (0..CRC_CHARS).map(|i| char::from(ALPHABET[(crc >> (5 * i) & 31) as usize])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_read_back_and_only_its_own_hash_matches() {
        let pepper = Pepper::new(b"pepper");
        let id = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001);
        let secret = Secret::generate(SecretKind::Key, id);
        let read = Secret::parse(secret.reveal()).unwrap();
        assert_eq!((read.id(), read.kind()), (id, SecretKind::Key));
        assert!(read.matches(&secret.hash(&pepper), &pepper));
        assert!(!read.matches(&secret.hash(&Pepper::new(b"other")), &pepper));
        assert!(!Secret::generate(SecretKind::Key, id).matches(&secret.hash(&pepper), &pepper));
        assert!(!format!("{secret:?}").contains(&secret.reveal()[40..]));
    }

    #[test]
    fn every_single_character_typo_is_refused() {
        let secret = Secret::generate(SecretKind::Service, Uuid::from_u128(7));
        let text = secret.reveal();
        for i in 0..text.len() {
            let mut typo = text.as_bytes().to_vec();
            typo[i] = if typo[i] == b'x' { b'y' } else { b'x' };
            assert!(Secret::parse(std::str::from_utf8(&typo).unwrap()).is_none(), "position {i}");
        }
        assert!(Secret::parse(&text[..text.len() - 1]).is_none());
        assert!(Secret::parse("").is_none());
    }
}
