//! The key of one file, and who can unwrap it.

use aws_lc_rs::rand;
use zeroize::Zeroizing;

use super::{FileError, header::Wrapped};
use crate::management::sealing::{KeyEncryptionKey, Place};

/// 32 random bytes, made for one file and wrapped in its header.
pub(in super::super) struct FileKey(Zeroizing<[u8; 32]>);

impl FileKey {
    pub(super) fn generate() -> Result<Self, FileError> {
        let mut key = Zeroizing::new([0; 32]);
        rand::fill(key.as_mut_slice()).map_err(|_| FileError::Library)?;
        Ok(Self(key))
    }

    pub(super) fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// For every key-encryption key of the configuration: any of them opens the file.
    pub(super) fn wrap(&self, keys: &KeyEncryptionKey, realm: &str, id: &[u8; 16]) -> Result<Vec<Wrapped>, FileError> {
        let owner = data_encoding::HEXLOWER.encode(id);
        let key = keys.seal(place(realm, &owner), self.0.as_slice()).map_err(|_| FileError::Library)?;
        Ok(vec![Wrapped { recipient: String::new(), key }])
    }

    /// By whichever key-encryption key of the configuration it was wrapped for.
    pub(super) fn unwrap(keys: &KeyEncryptionKey, realm: &str, id: &[u8; 16], wrapped: &[Wrapped]) -> Option<Self> {
        let owner = data_encoding::HEXLOWER.encode(id);
        let opened = wrapped.iter().find_map(|wrapped| keys.open(place(realm, &owner), &wrapped.key).ok())?;
        let mut key = Zeroizing::new([0; 32]);
        key.copy_from_slice(opened.get(..).filter(|opened| opened.len() == 32)?);
        Some(Self(key))
    }
}

fn place<'a>(realm: &'a str, owner: &'a str) -> Place<'a> {
    Place { realm, kind: "backup", owner, epoch: 0 }
}
