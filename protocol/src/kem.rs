//! Key agreement between the terminal and its peer (the service in LOGIN, the
//! management server in ENROL and ROTATE).
//!
//! X25519 keys are made from random bytes that the caller hands in. ML-KEM
//! keys and encapsulations come from aws-lc-rs, which makes its own randomness.

mod hybrid;
mod x25519;

use std::fmt;

use zeroize::Zeroizing;

use crate::{registry::KemId, secret::Secret32};

/// Why an agreement gave no shared secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KemError {
    /// The peer's share is not valid (wrong length, all-zero result, ML-KEM key out of range).
    #[error("the peer's key share is not valid")]
    InvalidShare,
    /// The library failed.
    #[error("the key agreement failed")]
    Failed,
}

/// The terminal's ephemeral secret, kept while an answer is awaited.
pub struct TerminalKey(Inner);

enum Inner {
    None,
    X25519(x25519::Key),
    Hybrid(Box<hybrid::Key>),
}

impl TerminalKey {
    /// Makes the key from `random` (32 fresh random bytes; unused for
    /// [`KemId::None`]) and gives the share to send.
    pub fn generate(kem: KemId, random: &Secret32) -> Result<(Self, Vec<u8>), KemError> {
        match kem {
            KemId::None => Ok((Self(Inner::None), Vec::new())),
            KemId::X25519 => {
                let (key, share) = x25519::Key::new(random)?;
                Ok((Self(Inner::X25519(key)), share.to_vec()))
            }
            KemId::X25519MlKem768 => {
                let (key, share) = hybrid::Key::generate(random)?;
                Ok((Self(Inner::Hybrid(Box::new(key))), share))
            }
        }
    }

    /// As [`Self::generate`], with the ML-KEM key from its seed `d ‖ z` (FIPS
    /// 203) where the KEM has one: for test vectors.
    #[cfg(feature = "vectors")]
    pub fn from_seed(kem: KemId, random: &Secret32, seed: &[u8]) -> Result<(Self, Vec<u8>), KemError> {
        match kem {
            KemId::X25519MlKem768 => {
                let (key, share) = hybrid::Key::from_seed(random, seed)?;
                Ok((Self(Inner::Hybrid(Box::new(key))), share))
            }
            _ => Self::generate(kem, random),
        }
    }

    /// The shared secret from the peer's share (attacker-controlled).
    pub fn agree(&self, share: &[u8]) -> Result<SharedSecret, KemError> {
        match &self.0 {
            Inner::None if share.is_empty() => Ok(SharedSecret::none()),
            Inner::None => Err(KemError::InvalidShare),
            Inner::X25519(key) => key.agree(share),
            Inner::Hybrid(key) => key.agree(share),
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
            let (key, own) = x25519::Key::new(random)?;
            let secret = key.agree(share)?;
            Ok((own.to_vec(), secret))
        }
        KemId::X25519MlKem768 => hybrid::respond(share, random),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_agree() {
        for kem in KemId::ALL {
            let (terminal, share) = TerminalKey::generate(kem, &Secret32::new([7; 32])).unwrap();
            assert_eq!(share.len(), kem.terminal_share_len());
            let (answer, secret) = respond(kem, &share, &Secret32::new([9; 32])).unwrap();
            assert_eq!(answer.len(), kem.peer_share_len());
            assert_eq!(terminal.agree(&answer).unwrap().expose(), secret.expose());
            if kem == KemId::None {
                continue;
            }
            // Another answer, another secret; a changed one never the same.
            for at in [0, answer.len() - 1] {
                let mut changed = answer.clone();
                changed[at] ^= 1;
                let agreed = terminal.agree(&changed);
                assert!(agreed.is_err() || agreed.is_ok_and(|other| other.expose() != secret.expose()));
            }
            for len in [0, answer.len() - 1, answer.len() + 1] {
                assert_eq!(terminal.agree(&vec![1; len]).unwrap_err(), KemError::InvalidShare, "{kem}: {len}");
            }
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
        let (_, hybrid) = TerminalKey::generate(KemId::X25519MlKem768, &Secret32::new([7; 32])).unwrap();
        for point in points {
            let share = data_encoding::HEXLOWER.decode(point.as_bytes()).unwrap();
            let error = respond(KemId::X25519, &share, &Secret32::new([9; 32])).unwrap_err();
            assert_eq!(error, KemError::InvalidShare, "{point}");
            let share = [&hybrid[..1184], &share].concat();
            let error = respond(KemId::X25519MlKem768, &share, &Secret32::new([9; 32])).unwrap_err();
            assert_eq!(error, KemError::InvalidShare, "hybrid: {point}");
        }
    }

    #[test]
    fn an_ml_kem_key_out_of_range_is_refused() {
        // FIPS 203, section 7.2: each 12-bit coefficient must be below q = 3329.
        let (_, share) = TerminalKey::generate(KemId::X25519MlKem768, &Secret32::new([7; 32])).unwrap();
        for at in [0, 3, 1149] {
            let mut bad = share.clone();
            bad[at] = 0xff;
            bad[at + 1] |= 0x0f;
            let error = respond(KemId::X25519MlKem768, &bad, &Secret32::new([9; 32])).unwrap_err();
            assert_eq!(error, KemError::InvalidShare, "byte {at}");
        }
    }
}
