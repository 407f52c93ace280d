//! Virtual keys: how they are made, and how a presented one is found by its digest. A key itself is
//! shown once, when it is made, and is nowhere after that.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::time::Instant;

use super::Tenant;

const PREFIX: &str = "fk-";
/// 256 bits, six a character.
const CHARACTERS: usize = 43;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

pub(crate) type KeyDigest = [u8; 32];

/// A key that was just made. The only place where it can be read.
#[derive(Clone)]
pub struct NewKey {
    /// The name by which it is spoken of, unique for its tenant.
    pub name: String,
    plain: String,
}

impl NewKey {
    pub(crate) fn random(name: String) -> Result<NewKey, getrandom::Error> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes)?;
        Ok(NewKey { name, plain: format!("{PREFIX}{}", base64url(&bytes)) })
    }

    /// The key itself, for the one to whom it belongs.
    pub fn plain(&self) -> &str {
        &self.plain
    }

    pub(crate) fn stored(&self, tenant: &str, created_milliseconds: i64) -> StoredKey {
        StoredKey {
            digest: digest(&self.plain),
            tenant: tenant.to_string(),
            name: self.name.clone(),
            last_four: self.plain[self.plain.len() - 4..].to_string(),
            created_milliseconds,
            ends_milliseconds: None,
        }
    }
}

/// Without the key.
impl fmt::Debug for NewKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("NewKey").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What the database has of a key.
#[derive(Clone, PartialEq)]
pub(crate) struct StoredKey {
    pub(crate) digest: KeyDigest,
    pub(crate) tenant: String,
    pub(crate) name: String,
    pub(crate) last_four: String,
    pub(crate) created_milliseconds: i64,
    pub(crate) ends_milliseconds: Option<i64>,
}

/// What may be shown of a key.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KeyView {
    pub name: String,
    /// Of the key, to tell it from others.
    pub last_four: String,
    pub created_milliseconds: i64,
    /// From then on it is not taken: revoked, or replaced and at the end of its grace.
    pub ends_milliseconds: Option<i64>,
    pub is_valid: bool,
}

/// Whose key it is.
#[derive(Clone, Debug)]
pub struct Known {
    pub tenant: Arc<Tenant>,
    /// The key's public name.
    pub key: Arc<str>,
}

struct Entry {
    known: Known,
    /// On the monotonic clock, so that a jump of the system's ends no key and revives none.
    ends: Option<Instant>,
}

/// All keys that are taken, by digest.
#[derive(Default)]
pub(crate) struct KeyRing {
    entries: HashMap<KeyDigest, Entry>,
}

impl KeyRing {
    pub(crate) fn insert(&mut self, digest: KeyDigest, known: Known, ends: Option<Instant>) {
        self.entries.insert(digest, Entry { known, ends });
    }

    /// The map is asked with the digest, of which an attacker can choose neither a bit nor a bucket
    /// (it is hashed again, with a secret of the process); the digests are then compared in constant
    /// time.
    pub(crate) fn find(&self, presented: &str, now: Instant) -> Option<Known> {
        if presented.len() != PREFIX.len() + CHARACTERS || !presented.starts_with(PREFIX) {
            return None;
        }
        let asked = digest(presented);
        let (stored, entry) = self.entries.get_key_value(&asked)?;
        let is_same: bool = stored[..].ct_eq(&asked[..]).into();
        let has_ended = entry.ends.is_some_and(|ends| ends <= now);
        (is_same && !has_ended).then(|| entry.known.clone())
    }
}

fn digest(key: &str) -> KeyDigest {
    Sha256::digest(key.as_bytes()).into()
}

/// Base64 with `-` and `_`, without padding (RFC 4648, section 5).
fn base64url(bytes: &[u8; 32]) -> String {
    let mut text = String::with_capacity(CHARACTERS);
    for group in bytes.chunks(3) {
        let bits =
            (0..3).fold(0u32, |bits, at| bits << 8 | u32::from(*group.get(at).unwrap_or(&0)));
        for place in 0..=group.len() {
            text.push(char::from(ALPHABET[(bits >> (18 - 6 * place)) as usize % 64]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_256_random_bits() {
        let keys: std::collections::HashSet<String> = (0..1000)
            .map(|_| NewKey::random("k".to_string()).unwrap().plain().to_string())
            .collect();
        assert_eq!(keys.len(), 1000);
        for key in keys {
            assert_eq!(key.len(), 46);
            assert!(key[3..].bytes().all(|byte| ALPHABET.contains(&byte)), "{key}");
        }
        assert_eq!(base64url(&[0; 32]), "A".repeat(43));
        assert_eq!(base64url(&[255; 32]), format!("{}8", "_".repeat(42)));
        let counting: Vec<u8> = (0..32).collect();
        let counting = <[u8; 32]>::try_from(counting).unwrap();
        assert_eq!(base64url(&counting), "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8");
    }

    #[test]
    fn no_key_is_shown_by_debugging() {
        let key = NewKey::random("key-1".to_string()).unwrap();
        assert!(!format!("{key:?}").contains(&key.plain()[3..]));
    }
}
