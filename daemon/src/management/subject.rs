//! Pairwise subjects: each service knows a user by another name.

use aws_lc_rs::{hmac, rand};
use claviger_plugin_api::{PluginError, Put, UserStore, Written};
use zeroize::Zeroizing;

use super::sealing::{KeyEncryptionKey, Place};

/// Makes subjects: HMAC-SHA-256 of service and user under a key of the realm
/// that is made once and kept in the store, sealed (protocol, section 9).
pub struct Subjects {
    key: hmac::Key,
}

/// Why there is no key for subjects.
#[derive(Debug, thiserror::Error)]
pub enum SubjectKeyError {
    /// The store.
    #[error("the user store does not answer: {0}")]
    Store(#[from] PluginError),
    /// The key on record does not open.
    #[error("the realm's subject key does not open: this is not the key-encryption key of this store")]
    Sealed,
}

impl Subjects {
    /// Reads the realm's key, or makes it. A key that does not open says that
    /// the key-encryption key is not the one of this store.
    pub async fn load(store: &dyn UserStore, kek: &KeyEncryptionKey, realm: &str) -> Result<Self, SubjectKeyError> {
        let place = Place { realm, kind: "subject key", owner: "", epoch: 0 };
        loop {
            if let Some(record) = store.get(&[KEY.to_owned()]).await?.pop().flatten() {
                let key = kek.open(place, &record.value).map_err(|_| SubjectKeyError::Sealed)?;
                return Ok(Self { key: hmac::Key::new(hmac::HMAC_SHA256, &key) });
            }
            let mut key = Zeroizing::new([0; 32]);
            rand::fill(key.as_mut_slice()).map_err(|_| SubjectKeyError::Sealed)?;
            let value = kek.seal(place, key.as_slice()).map_err(|_| SubjectKeyError::Sealed)?;
            let put = Put { key: KEY.to_owned(), expected: 0, value, terms: Vec::new() };
            if let Written::Done(_) = store.put(put).await? {
                return Ok(Self { key: hmac::Key::new(hmac::HMAC_SHA256, key.as_slice()) });
            }
            // Another daemon made it at the same time: read that one.
        }
    }

    /// The subject of a user at a service: 43 characters of base64url.
    pub fn pairwise(&self, service: &str, user: &str) -> String {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&(service.len() as u32).to_be_bytes());
        context.update(service.as_bytes());
        context.update(user.as_bytes());
        data_encoding::BASE64URL_NOPAD.encode(context.sign().as_ref())
    }
}

const KEY: &str = "realm/subject-key";
