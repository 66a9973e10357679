//! Authenticated encryption for what leaves the server and comes back: page tokens, cursors, MCP session ids. What rests in the database
//! is sealed by the [`Vault`].

use std::fmt;

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey},
    hkdf,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{
    key::Pepper,
    vault::{DataKey, Vault},
};

/// The server's one secret, from which all others derive, and the keys of what rests. Losing it invalidates every key.
#[derive(Clone)]
pub struct Secrets {
    pub pepper: Pepper,
    pub sealer: Sealer,
    pub vault: Vault,
    /// From which the trail's signing key is made where none is configured.
    pub signing_seed: [u8; 32],
}

impl Secrets {
    #[must_use]
    pub fn from_bytes(secret: [u8; 32]) -> Self {
        let sealing = derive(&secret, b"tollgate/seal/1");
        Self {
            pepper: Pepper::new(&derive(&secret, b"tollgate/pepper/1")),
            sealer: Sealer(sealing),
            vault: Vault::new(Vec::new(), sealing),
            signing_seed: derive(&secret, b"tollgate/audit-signing/1"),
        }
    }

    /// With keys of the operator's for what rests. The first seals.
    #[must_use]
    pub fn with_keys(self, keys: Vec<DataKey>) -> Self {
        Self { vault: Vault::new(keys, self.sealer.0), ..self }
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets(..)")
    }
}

/// AES-256-GCM with a random nonce in front of the ciphertext.
#[derive(Clone)]
pub struct Sealer([u8; 32]);

/// The value was not sealed by this server for this purpose, or was changed since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not sealed by this server for this purpose")]
pub struct NotOurs;

impl Sealer {
    pub(crate) const fn new(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// Seal `plain` for one `purpose`; only the same purpose opens it.
    #[must_use]
    pub fn seal(&self, purpose: &str, plain: &[u8]) -> Vec<u8> {
        let mut body = plain.to_vec();
        #[expect(clippy::expect_used, reason = "fails only without randomness or above 64 GiB")]
        let nonce = self.key().seal_in_place_append_tag(Aad::from(purpose), &mut body).expect("sealing a small buffer");
        let mut sealed = nonce.as_ref().to_vec();
        sealed.append(&mut body);
        sealed
    }

    /// # Errors
    /// [`NotOurs`], whatever the reason.
    pub fn open(&self, purpose: &str, sealed: &[u8]) -> Result<Vec<u8>, NotOurs> {
        let (nonce, body) = sealed.split_at_checked(12).ok_or(NotOurs)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| NotOurs)?;
        let mut body = body.to_vec();
        let plain = self.key().open_in_place(nonce, Aad::from(purpose), &mut body).map_err(|_| NotOurs)?;
        Ok(plain.to_vec())
    }

    /// [`Self::seal`] as text that fits a header or a query string.
    #[must_use]
    pub fn seal_text(&self, purpose: &str, plain: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode(self.seal(purpose, plain))
    }

    /// # Errors
    /// [`NotOurs`], whatever the reason.
    pub fn open_text(&self, purpose: &str, sealed: &str) -> Result<Vec<u8>, NotOurs> {
        self.open(purpose, &URL_SAFE_NO_PAD.decode(sealed).map_err(|_| NotOurs)?)
    }

    #[expect(clippy::expect_used, reason = "the key's length is fixed by its type")]
    fn key(&self) -> RandomizedNonceKey {
        RandomizedNonceKey::new(&AES_256_GCM, &self.0).expect("32 bytes are an AES-256 key")
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer(..)")
    }
}

#[expect(clippy::expect_used, reason = "HKDF-SHA256 gives 32 bytes for any input")]
pub(crate) fn derive(secret: &[u8; 32], label: &[u8]) -> [u8; 32] {
    let mut key = [0u8; 32];
    hkdf::Salt::new(hkdf::HKDF_SHA256, b"tollgate")
        .extract(secret)
        .expand(&[label], hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut key))
        .expect("32 bytes");
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t50_every_bit_flip_and_every_other_purpose_is_refused() {
        let sealer = Secrets::from_bytes([7; 32]).sealer;
        let sealed = sealer.seal("page/tools", b"position");
        assert_eq!(sealer.open("page/tools", &sealed).unwrap(), b"position");
        assert_eq!(sealer.open("page/keys", &sealed), Err(NotOurs));
        assert_eq!(Secrets::from_bytes([8; 32]).sealer.open("page/tools", &sealed), Err(NotOurs));
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(sealer.open("page/tools", &flipped), Err(NotOurs), "bit {bit}");
        }
        assert_eq!(sealer.open("page/tools", b""), Err(NotOurs));
    }
}
