//! The public keys that an identity provider publishes: a JSON Web Key Set (RFC 7517).

use std::fmt;

use jsonwebtoken::jwk::Jwk;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::keys::Key;
use crate::limits::KEY_SET_KEYS_MAX;

/// Public keys by their ids. One set may be used by many threads.
pub struct KeySet {
    keys: Vec<(String, Key)>,
}

#[derive(Deserialize)]
struct Document<'a> {
    #[serde(borrow)]
    keys: Vec<&'a RawValue>,
}

impl KeySet {
    /// Reads `{"keys":[..]}`. Keys without an id and keys that verify no token are left out, as
    /// RFC 7517 section 5 wants: providers publish keys for other purposes in the same set.
    ///
    /// # Errors
    /// It is no key set, no key is left, or there are more than [`KEY_SET_KEYS_MAX`].
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        let document: Document<'_> =
            serde_json::from_slice(json).map_err(|error| format!("it is no key set: {error}"))?;
        if document.keys.len() > KEY_SET_KEYS_MAX {
            return Err(format!("it has more than {KEY_SET_KEYS_MAX} keys"));
        }
        let usable = |json: &&RawValue| {
            let jwk: Jwk = serde_json::from_str(json.get()).ok()?;
            let key = Key::jwk(&jwk)?;
            Some((jwk.common.key_id?, key))
        };
        let keys: Vec<_> = document.keys.iter().filter_map(usable).collect();
        if keys.is_empty() {
            return Err("none of its keys has an id and can verify a token".to_owned());
        }
        Ok(Self { keys })
    }

    /// The ids of its keys, in the order of the document.
    pub fn key_ids(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(|(id, _)| id.as_str())
    }

    /// The keys with this id: keys of different kinds may share one (RFC 7517 section 4.5).
    pub(super) fn with_id<'a>(&'a self, id: &'a str) -> impl Iterator<Item = &'a Key> {
        self.keys.iter().filter(move |(of, _)| of == id).map(|(_, key)| key)
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KeySet").field(&self.key_ids().collect::<Vec<_>>()).finish()
    }
}
