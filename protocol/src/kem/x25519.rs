//! X25519 (RFC 7748).

use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey, X25519};
use zeroize::Zeroizing;

use super::{KemError, SharedSecret};
use crate::secret::Secret32;

/// A private key.
pub(super) struct Key(PrivateKey);

impl Key {
    /// The key of these random bytes, and its public share.
    pub(super) fn new(random: &Secret32) -> Result<(Self, [u8; 32]), KemError> {
        let key = PrivateKey::from_private_key(&X25519, random.expose()).map_err(|_| KemError::Failed)?;
        let share = key.compute_public_key().map_err(|_| KemError::Failed)?;
        let share = share.as_ref().try_into().map_err(|_| KemError::Failed)?;
        Ok((Self(key), share))
    }

    /// The shared secret; refuses a result of zeros.
    pub(super) fn agree(&self, share: &[u8]) -> Result<SharedSecret, KemError> {
        if share.len() != 32 {
            return Err(KemError::InvalidShare);
        }
        agreement::agree(&self.0, UnparsedPublicKey::new(&X25519, share), KemError::InvalidShare, |secret| {
            if secret.iter().all(|byte| *byte == 0) {
                return Err(KemError::InvalidShare);
            }
            Ok(SharedSecret(Zeroizing::new(secret.to_vec())))
        })
    }
}
