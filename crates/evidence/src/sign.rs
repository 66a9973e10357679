//! Ed25519 keys of the trail: one signs, any number of earlier ones are still believed.

use std::fmt;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    Hash,
    hash::{from_hex, to_hex},
};

/// A public key with its name.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublicKey {
    /// The first 16 hex digits of the key's SHA-256.
    pub key_id: String,
    pub algorithm: Algorithm,
    /// 64 hex digits.
    pub public_key: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    #[serde(rename = "ed25519")]
    Ed25519,
}

impl PublicKey {
    #[must_use]
    pub fn new(raw: &[u8]) -> Self {
        let key_id = to_hex(&Hash::of(&[raw]).0[..8]);
        Self { key_id, algorithm: Algorithm::Ed25519, public_key: to_hex(raw) }
    }

    /// The raw 32 bytes; `None` when the text is no key, or not the one that its name says.
    #[must_use]
    pub fn raw(&self) -> Option<Vec<u8>> {
        let raw = from_hex(&self.public_key).filter(|raw| raw.len() == 32)?;
        (Self::new(&raw).key_id == self.key_id).then_some(raw)
    }

    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.raw().is_some_and(|raw| UnparsedPublicKey::new(&ED25519, raw).verify(message, signature).is_ok())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ed25519:{}", self.public_key)
    }
}

/// The key that signs.
pub struct Signer {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an Ed25519 private key: expected PEM as `openssl genpkey -algorithm ed25519` writes it, or 32 bytes in base64")]
pub struct NotAKey;

impl Signer {
    /// # Errors
    /// [`NotAKey`]: never for 32 random bytes.
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self, NotAKey> {
        Ed25519KeyPair::from_seed_unchecked(seed).map(Self::of).map_err(|_| NotAKey)
    }

    /// From the text of a key file: PKCS#8 in PEM, or a seed of 32 bytes in base64.
    ///
    /// # Errors
    /// [`NotAKey`]
    pub fn from_text(text: &str) -> Result<Self, NotAKey> {
        let text = text.trim();
        let Some(body) = text.strip_prefix("-----BEGIN PRIVATE KEY-----") else {
            let seed: [u8; 32] = BASE64.decode(text).ok().and_then(|raw| raw.try_into().ok()).ok_or(NotAKey)?;
            return Self::from_seed(&seed);
        };
        let body = body.strip_suffix("-----END PRIVATE KEY-----").ok_or(NotAKey)?;
        let body: String = body.split_whitespace().collect();
        let der = BASE64.decode(body).map_err(|_| NotAKey)?;
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).map(Self::of).map_err(|_| NotAKey)
    }

    fn of(pair: Ed25519KeyPair) -> Self {
        let public = PublicKey::new(pair.public_key().as_ref());
        Self { pair, public }
    }

    #[must_use]
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        let mut signature = [0; 64];
        signature.copy_from_slice(self.pair.sign(message).as_ref());
        signature
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({:?})", self.public)
    }
}

/// The key that signs, and those that are believed beside it: the ones before it, and the one that comes next.
#[derive(Debug)]
pub struct KeyRing {
    signer: Signer,
    believed: Vec<PublicKey>,
}

impl KeyRing {
    /// The first key signs; all of them are believed.
    #[must_use]
    pub fn new(signer: Signer, others: impl IntoIterator<Item = PublicKey>) -> Self {
        let mut believed = vec![signer.public().clone()];
        for other in others {
            if !believed.contains(&other) {
                believed.push(other);
            }
        }
        Self { signer, believed }
    }

    #[must_use]
    pub const fn signer(&self) -> &Signer {
        &self.signer
    }

    /// What stands in front of an original that is not stored, when it is hashed. Nobody can try guesses against such a hash without
    /// the key, and whoever holds it can make this again and show that an original is the one.
    #[must_use]
    pub fn blind(&self, row: Uuid, part: u16) -> Hash {
        let message = [b"tollgate-blind-v1\n".as_slice(), row.as_bytes(), &part.to_be_bytes()].concat();
        Hash::of(&[&self.signer.sign(&message)])
    }

    /// All of them, the one that signs first.
    #[must_use]
    pub fn public_keys(&self) -> &[PublicKey] {
        &self.believed
    }

    #[must_use]
    pub fn verifies(&self, key_id: &str, message: &[u8], signature: &[u8]) -> bool {
        self.believed.iter().any(|key| key.key_id == key_id && key.verifies(message, signature))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_holds_for_one_key_and_one_message() {
        let (one, other) = (Signer::from_seed(&[1; 32]).unwrap(), Signer::from_seed(&[2; 32]).unwrap());
        let signature = one.sign(b"a");
        assert!(one.public().verifies(b"a", &signature));
        assert!(!one.public().verifies(b"b", &signature));
        assert!(!other.public().verifies(b"a", &signature));
        let renamed = PublicKey { key_id: other.public().key_id.clone(), ..one.public().clone() };
        assert!(!renamed.verifies(b"a", &signature), "a key under another's name");
    }

    #[test]
    fn key_files_are_pem_or_base64() {
        let pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIAEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB\n-----END PRIVATE KEY-----\n";
        let seed = BASE64.encode([1; 32]);
        let expected = Signer::from_seed(&[1; 32]).unwrap();
        assert_eq!(Signer::from_text(pem).unwrap().public(), expected.public());
        assert_eq!(Signer::from_text(&seed).unwrap().public(), expected.public());
        assert!(Signer::from_text("hello").is_err());
    }
}
