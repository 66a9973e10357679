//! What rests in the database and must not be read there: credentials of providers and upstreams, answers that hold a secret. It is
//! sealed in an envelope that names its key, so that keys can be changed one after the other while everything goes on.
//!
//! ```text
//! "tgsealed" | key id, 8 bytes | nonce, 12 bytes | AES-256-GCM over the text, with envelope and purpose as associated data
//! ```
//!
//! What was sealed before there were envelopes is a nonce and the ciphertext alone; the server's secret opens it.

use std::{fmt, sync::Arc};

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};

use crate::seal::{Sealer, derive};

/// What an envelope begins with.
pub const MAGIC: &[u8; 8] = b"tgsealed";
/// How much of an envelope tells its key.
pub const HEAD: usize = MAGIC.len() + KEY_ID;
const KEY_ID: usize = 8;
const NONCE: usize = 12;

/// The name that a key has by itself, wherever it came from. It tells nothing of the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DataKeyId([u8; KEY_ID]);

impl DataKeyId {
    /// Of which key an envelope is; `None`: of the server's secret, from before there were envelopes.
    #[must_use]
    pub fn of(sealed: &[u8]) -> Option<Self> {
        sealed.strip_prefix(MAGIC)?.first_chunk().map(|id| Self(*id))
    }

    /// What everything begins with that is sealed under this key.
    #[must_use]
    pub fn head(self) -> Vec<u8> {
        [MAGIC.as_slice(), &self.0].concat()
    }
}

impl fmt::Display for DataKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// One key of a vault.
#[derive(Clone)]
pub struct DataKey {
    /// What the operator calls it.
    name: String,
    id: DataKeyId,
    key: [u8; 32],
}

impl DataKey {
    #[must_use]
    pub fn new(name: impl Into<String>, secret: &[u8; 32]) -> Self {
        let named = derive(secret, b"tollgate/data-key-id/1");
        let mut id = [0; KEY_ID];
        id.copy_from_slice(&named[..KEY_ID]);
        Self { name: name.into(), id: DataKeyId(id), key: derive(secret, b"tollgate/data-key/1") }
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    #[must_use]
    pub const fn id(&self) -> DataKeyId {
        self.id
    }

    #[expect(clippy::expect_used, reason = "the key's length is fixed by its type")]
    fn cipher(&self) -> RandomizedNonceKey {
        RandomizedNonceKey::new(&AES_256_GCM, &self.key).expect("32 bytes are an AES-256 key")
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DataKey({}, {})", self.name, self.id)
    }
}

/// The keys: one that seals, and all that open. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Vault(Arc<Keys>);

#[derive(Debug)]
struct Keys {
    /// The first one seals. The last one is the server's own, which is always there.
    keys: Vec<DataKey>,
    legacy: Sealer,
}

/// Why something that is sealed stays so. The text is for an operator and holds no secret; it says what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unopened {
    #[error(
        "it is sealed under the key {0}, which this process does not have: list that key as a [[secrets.key]] behind the first \
         (`tollgate secrets status` tells which keys are in use)"
    )]
    NoSuchKey(DataKeyId),
    #[error("it does not open under its key {0}: it was changed, or belongs to another row")]
    Damaged(DataKeyId),
    #[error("it was sealed under another server secret, or was changed: start with the secret that this database was made with")]
    OtherSecret,
}

impl Vault {
    /// `server` is derived from the server's secret. It seals where there are no other `keys`, and opens in any case.
    #[must_use]
    pub(crate) fn new(mut keys: Vec<DataKey>, server: [u8; 32]) -> Self {
        keys.push(DataKey::new(SERVER, &server));
        Self(Arc::new(Keys { keys, legacy: Sealer::new(server) }))
    }

    /// The key that seals.
    #[must_use]
    pub fn current(&self) -> &DataKey {
        &self.0.keys[0]
    }

    /// All keys, the one that seals first.
    #[must_use]
    pub fn keys(&self) -> &[DataKey] {
        &self.0.keys
    }

    #[must_use]
    pub fn key(&self, id: DataKeyId) -> Option<&DataKey> {
        self.0.keys.iter().find(|key| key.id == id)
    }

    /// Seal `plain` for one `purpose` under the current key; only the same purpose opens it.
    #[must_use]
    pub fn seal(&self, purpose: &str, plain: &[u8]) -> Vec<u8> {
        let key = self.current();
        let mut sealed = key.id.head();
        let mut body = plain.to_vec();
        #[expect(clippy::expect_used, reason = "fails only without randomness or above 64 GiB")]
        let nonce =
            key.cipher().seal_in_place_append_tag(Aad::from(bound(&sealed, purpose)), &mut body).expect("sealing a small buffer");
        sealed.extend_from_slice(nonce.as_ref());
        sealed.append(&mut body);
        sealed
    }

    /// # Errors
    /// [`Unopened`], which says what an operator can do.
    pub fn open(&self, purpose: &str, sealed: &[u8]) -> Result<Vec<u8>, Unopened> {
        let Some(id) = DataKeyId::of(sealed) else {
            return self.0.legacy.open(purpose, sealed).map_err(|_| Unopened::OtherSecret);
        };
        let key = self.key(id).ok_or(Unopened::NoSuchKey(id))?;
        opened(key, purpose, sealed).ok_or(Unopened::Damaged(id))
    }

    /// The same under the current key; `None` where it is that already.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn reseal(&self, purpose: &str, sealed: &[u8]) -> Result<Option<Vec<u8>>, Unopened> {
        if DataKeyId::of(sealed) == Some(self.current().id) {
            return Ok(None);
        }
        self.open(purpose, sealed).map(|plain| Some(self.seal(purpose, &plain)))
    }
}

/// How the key that is made from the server's secret is called.
pub const SERVER: &str = "server secret";

fn opened(key: &DataKey, purpose: &str, sealed: &[u8]) -> Option<Vec<u8>> {
    let (head, rest) = sealed.split_at_checked(HEAD)?;
    let (nonce, body) = rest.split_at_checked(NONCE)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let mut body = body.to_vec();
    let plain = key.cipher().open_in_place(nonce, Aad::from(bound(head, purpose)), &mut body).ok()?;
    Some(plain.to_vec())
}

/// What an envelope is bound to. The head has one length, so nothing can move over from it into the purpose.
fn bound(head: &[u8], purpose: &str) -> Vec<u8> {
    [head, purpose.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Secrets;

    fn vault(keys: &[u8]) -> Vault {
        let keys = keys.iter().map(|&byte| DataKey::new(format!("key {byte}"), &[byte; 32])).collect();
        Secrets::from_bytes([7; 32]).with_keys(keys).vault
    }

    #[test]
    fn the_first_key_seals_and_each_opens_its_own() {
        let (old, both, new) = (vault(&[1]), vault(&[2, 1]), vault(&[2]));
        let (before, after) = (old.seal("a", b"hush"), both.seal("a", b"hush"));
        assert_ne!(before[..HEAD], after[..HEAD]);
        assert_eq!(DataKeyId::of(&after), Some(new.current().id()));
        for (vault, sealed) in [(&old, &before), (&both, &before), (&both, &after), (&new, &after)] {
            assert_eq!(vault.open("a", sealed).unwrap(), b"hush");
        }
        assert_eq!(new.open("a", &before), Err(Unopened::NoSuchKey(old.current().id())));
        let told = new.open("a", &before).unwrap_err().to_string();
        assert!(told.contains(&old.current().id().to_string()) && told.contains("[[secrets.key]]"), "{told}");
        assert!(!format!("{both:?}").contains("1, 1"), "{both:?}");
    }

    #[test]
    fn t50_every_bit_flip_and_every_other_purpose_is_refused() {
        let vault = vault(&[1]);
        let sealed = vault.seal("provider/1", b"position");
        let id = vault.current().id();
        assert_eq!(vault.open("provider/2", &sealed), Err(Unopened::Damaged(id)));
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(vault.open("provider/1", &flipped).is_err(), "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert!(vault.open("provider/1", &sealed[..length]).is_err(), "{length} bytes");
        }
        // Whoever swaps the head of an envelope for that of another key of ours gets nothing out of it either.
        let two = super::tests::vault(&[1, 2]);
        let moved = [two.keys()[1].id().head(), sealed[HEAD..].to_vec()].concat();
        assert_eq!(two.open("provider/1", &moved), Err(Unopened::Damaged(two.keys()[1].id())));
    }

    #[test]
    fn what_was_sealed_before_there_were_envelopes_opens_and_is_taken_over() {
        let before = Secrets::from_bytes([7; 32]).sealer.seal("a", b"hush");
        let vault = vault(&[1]);
        assert_eq!(vault.open("a", &before).unwrap(), b"hush");
        assert_eq!(vault.open("b", &before), Err(Unopened::OtherSecret));
        assert_eq!(Secrets::from_bytes([8; 32]).vault.open("a", &before), Err(Unopened::OtherSecret));
        let after = vault.reseal("a", &before).unwrap().expect("another key");
        assert_eq!((vault.open("a", &after).unwrap().as_slice(), vault.reseal("a", &after)), (&b"hush"[..], Ok(None)));
    }

    #[test]
    fn without_keys_of_its_own_a_vault_seals_under_the_servers_secret() {
        let alone = vault(&[]);
        let sealed = alone.seal("a", b"hush");
        assert_eq!(alone.current().name(), SERVER);
        assert_eq!(vault(&[1]).open("a", &sealed).unwrap(), b"hush", "it opens in any case");
        let other = Secrets::from_bytes([8; 32]).vault;
        assert_eq!(other.open("a", &sealed), Err(Unopened::NoSuchKey(alone.current().id())));
    }
}
