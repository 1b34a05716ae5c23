//! X25519MLKEM768: ML-KEM-768 (FIPS 203), then X25519, as TLS has it.

use aws_lc_rs::kem::{Ciphertext, DecapsulationKey, EncapsulationKey, ML_KEM_768};
use zeroize::Zeroizing;

use super::{KemError, SharedSecret, x25519};
use crate::{registry::KemId, secret::Secret32};

/// The terminal's private keys.
pub(super) struct Key {
    ml_kem: DecapsulationKey,
    x25519: x25519::Key,
}

impl Key {
    /// Fresh keys and their share.
    pub(super) fn generate(random: &Secret32) -> Result<(Self, Vec<u8>), KemError> {
        let ml_kem = DecapsulationKey::generate(&ML_KEM_768).map_err(|_| KemError::Failed)?;
        let public = ml_kem.encapsulation_key().and_then(|key| Ok(key.key_bytes()?.as_ref().to_vec()));
        Self::with(ml_kem, public.map_err(|_| KemError::Failed)?, random)
    }

    /// The ML-KEM key of a seed `d ‖ z` of 64 bytes.
    #[cfg(feature = "vectors")]
    pub(super) fn from_seed(random: &Secret32, seed: &[u8]) -> Result<(Self, Vec<u8>), KemError> {
        #[expect(deprecated, reason = "aws-lc-rs takes the expanded key only")]
        use ml_kem::ExpandedKeyEncoding;
        use ml_kem::KeyExport;

        let seed = ml_kem::Seed::try_from(seed).map_err(|_| KemError::Failed)?;
        let key = ml_kem::ml_kem_768::DecapsulationKey::from_seed(seed);
        #[expect(deprecated, reason = "aws-lc-rs takes the expanded key only")]
        let expanded = key.to_expanded_bytes();
        let ml_kem = DecapsulationKey::new(&ML_KEM_768, &expanded).map_err(|_| KemError::Failed)?;
        Self::with(ml_kem, key.encapsulation_key().to_bytes().to_vec(), random)
    }

    fn with(ml_kem: DecapsulationKey, mut share: Vec<u8>, random: &Secret32) -> Result<(Self, Vec<u8>), KemError> {
        let (x25519, public) = x25519::Key::new(random)?;
        share.extend_from_slice(&public);
        Ok((Self { ml_kem, x25519 }, share))
    }

    /// The shared secret from the peer's ciphertext and X25519 share.
    pub(super) fn agree(&self, share: &[u8]) -> Result<SharedSecret, KemError> {
        if share.len() != KemId::X25519MlKem768.peer_share_len() {
            return Err(KemError::InvalidShare);
        }
        let (ciphertext, public) = share.split_at(CIPHERTEXT);
        let ml_kem = self.ml_kem.decapsulate(Ciphertext::from(ciphertext)).map_err(|_| KemError::InvalidShare)?;
        Ok(join(ml_kem.as_ref(), &self.x25519.agree(public)?))
    }
}

/// Encapsulates to the terminal's share.
pub(super) fn respond(share: &[u8], random: &Secret32) -> Result<(Vec<u8>, SharedSecret), KemError> {
    if share.len() != KemId::X25519MlKem768.terminal_share_len() {
        return Err(KemError::InvalidShare);
    }
    let (encapsulation_key, public) = share.split_at(ENCAPSULATION_KEY);
    // Both the size and the modulus check of FIPS 203, section 7.2.
    let key = EncapsulationKey::new(&ML_KEM_768, encapsulation_key).map_err(|_| KemError::InvalidShare)?;
    let (ciphertext, ml_kem) = key.encapsulate().map_err(|_| KemError::InvalidShare)?;
    let (x25519, own) = x25519::Key::new(random)?;
    let secret = join(ml_kem.as_ref(), &x25519.agree(public)?);
    Ok(([ciphertext.as_ref(), &own].concat(), secret))
}

const ENCAPSULATION_KEY: usize = 1184;
const CIPHERTEXT: usize = 1088;

fn join(ml_kem: &[u8], x25519: &SharedSecret) -> SharedSecret {
    SharedSecret(Zeroizing::new([ml_kem, x25519.expose()].concat()))
}
