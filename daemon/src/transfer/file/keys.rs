//! The key of one file, and who can unwrap it.

use aws_lc_rs::rand;
use zeroize::Zeroizing;

use super::{FileError, header::Wrapped};
use crate::management::sealing::{KeyEncryptionKey, Place};

/// The key-encryption keys of the configuration: a backup is made for all of
/// them, and any of them opens it.
#[derive(Debug)]
pub struct Keks(KeyEncryptionKey);

impl Keks {
    /// The one that there is.
    pub fn new(kek: KeyEncryptionKey) -> Self {
        Self(kek)
    }

    fn wrap(&self, place: Place<'_>, key: &[u8]) -> Result<Vec<Wrapped>, FileError> {
        let key = self.0.seal(place, key).map_err(|_| FileError::Library)?;
        Ok(vec![Wrapped { recipient: String::new(), key }])
    }

    fn unwrap(&self, place: Place<'_>, wrapped: &[Wrapped]) -> Option<Zeroizing<Vec<u8>>> {
        wrapped.iter().find_map(|wrapped| self.0.open(place, &wrapped.key).ok())
    }
}

/// 32 random bytes, made for one file and wrapped in its header.
pub(super) struct FileKey(Zeroizing<[u8; 32]>);

impl FileKey {
    pub(super) fn generate() -> Result<Self, FileError> {
        let mut key = Zeroizing::new([0; 32]);
        rand::fill(key.as_mut_slice()).map_err(|_| FileError::Library)?;
        Ok(Self(key))
    }

    pub(super) fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// For each key-encryption key, bound to realm and file.
    pub(super) fn wrap(&self, keks: &Keks, realm: &str, id: &[u8; 16]) -> Result<Vec<Wrapped>, FileError> {
        keks.wrap(place(realm, &data_encoding::HEXLOWER.encode(id)), self.0.as_slice())
    }

    /// By whichever key-encryption key it was wrapped for; `None` when by none.
    pub(super) fn unwrap(keks: &Keks, realm: &str, id: &[u8; 16], wrapped: &[Wrapped]) -> Option<Self> {
        let opened = keks.unwrap(place(realm, &data_encoding::HEXLOWER.encode(id)), wrapped)?;
        let mut key = Zeroizing::new([0; 32]);
        if opened.len() != key.len() {
            return None;
        }
        key.copy_from_slice(&opened);
        Some(Self(key))
    }
}

fn place<'a>(realm: &'a str, owner: &'a str) -> Place<'a> {
    Place { realm, kind: "backup", owner, epoch: 0 }
}
