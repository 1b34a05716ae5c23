//! The key of one file, and who can unwrap it.

use aws_lc_rs::rand;
use zeroize::Zeroizing;

use super::{FileError, header::Wrapped};
use crate::management::kek::{Kek, Recipients};

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

    /// For each key-encryption key at hand, bound to realm and file. An error
    /// when there is none: nobody could ever open the file.
    pub(super) fn wrap(&self, keks: &Recipients, realm: &str, id: &[u8; 16]) -> Result<Vec<Wrapped>, FileError> {
        let aad = aad(realm, id);
        let wrap = |kek: &Kek| {
            let key = kek.wrap(&aad, self.0.as_slice()).map_err(|_| FileError::Library)?;
            Ok(Wrapped { recipient: kek.id().to_string(), key })
        };
        let wrapped = keks.at_hand().map(wrap).collect::<Result<Vec<_>, FileError>>()?;
        if wrapped.is_empty() { Err(FileError::NoKey) } else { Ok(wrapped) }
    }

    /// By whichever key-encryption key it was wrapped for; `None` when by none.
    pub(super) fn unwrap(keks: &Recipients, realm: &str, id: &[u8; 16], wrapped: &[Wrapped]) -> Option<Self> {
        let aad = aad(realm, id);
        let open = |wrapped: &Wrapped| keks.get(wrapped.recipient.parse().ok()?)?.unwrap(&aad, &wrapped.key).ok();
        let opened = wrapped.iter().find_map(open)?;
        let mut key = Zeroizing::new([0; 32]);
        if opened.len() != key.len() {
            return None;
        }
        key.copy_from_slice(&opened);
        Some(Self(key))
    }
}

fn aad(realm: &str, id: &[u8; 16]) -> Vec<u8> {
    [b"claviger backup key/1\0", id.as_slice(), realm.as_bytes()].concat()
}
