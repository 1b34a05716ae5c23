//! Key agreement between the terminal and its peer (the service in LOGIN, the
//! management server in ENROL and ROTATE).

use std::fmt;

use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey, X25519};
use zeroize::Zeroizing;

use crate::{registry::KemId, secret::Secret32};

/// Why an agreement gave no shared secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KemError {
    /// The peer's share is not valid (wrong length, all-zero result).
    #[error("the peer's key share is not valid")]
    InvalidShare,
    /// This KEM is not offered here.
    #[error("this KEM is not offered")]
    Unsupported,
    /// The library failed.
    #[error("the key agreement failed")]
    Failed,
}

/// The terminal's ephemeral secret, kept while an answer is awaited.
pub struct TerminalKey(Inner);

enum Inner {
    None,
    X25519(PrivateKey),
}

impl TerminalKey {
    /// Makes the key from `random` (32 fresh random bytes; unused for
    /// [`KemId::None`]) and gives the share to send.
    pub fn generate(kem: KemId, random: &Secret32) -> Result<(Self, Vec<u8>), KemError> {
        match kem {
            KemId::None => Ok((Self(Inner::None), Vec::new())),
            KemId::X25519 => {
                let (key, share) = x25519(random)?;
                Ok((Self(Inner::X25519(key)), share))
            }
            KemId::X25519MlKem768 => Err(KemError::Unsupported),
        }
    }

    /// The shared secret from the peer's share (attacker-controlled).
    pub fn agree(&self, share: &[u8]) -> Result<SharedSecret, KemError> {
        match &self.0 {
            Inner::None if share.is_empty() => Ok(SharedSecret::none()),
            Inner::None => Err(KemError::InvalidShare),
            Inner::X25519(key) => agree_x25519(key, share),
        }
    }
}

impl fmt::Debug for TerminalKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TerminalKey(redacted)")
    }
}

/// The peer's side: answers the terminal's share (attacker-controlled) with a
/// share of its own and the shared secret. `random` as in [`TerminalKey::generate`].
pub fn respond(kem: KemId, share: &[u8], random: &Secret32) -> Result<(Vec<u8>, SharedSecret), KemError> {
    match kem {
        KemId::None if share.is_empty() => Ok((Vec::new(), SharedSecret::none())),
        KemId::None => Err(KemError::InvalidShare),
        KemId::X25519 => {
            let (key, own) = x25519(random)?;
            let secret = agree_x25519(&key, share)?;
            Ok((own, secret))
        }
        KemId::X25519MlKem768 => Err(KemError::Unsupported),
    }
}

/// A shared secret: 32 zero bytes when there is no KEM.
pub struct SharedSecret(Zeroizing<Vec<u8>>);

impl SharedSecret {
    fn none() -> Self {
        Self(Zeroizing::new(vec![0; 32]))
    }

    /// The bytes, input keying material of `Extract`.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedSecret(redacted)")
    }
}

fn x25519(random: &Secret32) -> Result<(PrivateKey, Vec<u8>), KemError> {
    let key = PrivateKey::from_private_key(&X25519, random.expose()).map_err(|_| KemError::Failed)?;
    let share = key.compute_public_key().map_err(|_| KemError::Failed)?.as_ref().to_vec();
    Ok((key, share))
}

fn agree_x25519(key: &PrivateKey, share: &[u8]) -> Result<SharedSecret, KemError> {
    if share.len() != 32 {
        return Err(KemError::InvalidShare);
    }
    agreement::agree(key, UnparsedPublicKey::new(&X25519, share), KemError::InvalidShare, |secret| {
        if secret.iter().all(|byte| *byte == 0) {
            return Err(KemError::InvalidShare);
        }
        Ok(SharedSecret(Zeroizing::new(secret.to_vec())))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_agree() {
        for kem in [KemId::None, KemId::X25519] {
            let (terminal, share) = TerminalKey::generate(kem, &Secret32::new([7; 32])).unwrap();
            assert_eq!(share.len(), kem.terminal_share_len());
            let (answer, secret) = respond(kem, &share, &Secret32::new([9; 32])).unwrap();
            assert_eq!(answer.len(), kem.peer_share_len());
            assert_eq!(terminal.agree(&answer).unwrap().expose(), secret.expose());
        }
    }

    #[test]
    fn low_order_points_are_refused() {
        // RFC 7748, section 6.1: the all-zero output must be refused; these are
        // points of order 1, 2, 4 and 8.
        let points = [
            "0000000000000000000000000000000000000000000000000000000000000000",
            "0100000000000000000000000000000000000000000000000000000000000000",
            "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
            "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        ];
        for point in points {
            let share = data_encoding::HEXLOWER.decode(point.as_bytes()).unwrap();
            let error = respond(KemId::X25519, &share, &Secret32::new([9; 32])).unwrap_err();
            assert_eq!(error, KemError::InvalidShare, "{point}");
        }
    }
}
