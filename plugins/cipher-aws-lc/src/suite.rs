//! A suite of algorithms of aws-lc-rs.

use aws_lc_rs::{aead, digest, hmac, rand};
use claviger_plugin_api::{CipherError, CipherSuite, SuiteInfo};

/// Which algorithms make a suite.
#[derive(Clone, Copy)]
pub struct Row {
    /// Number in the registry of the protocol, section 2.
    pub id: u16,
    /// Name for people.
    pub name: &'static str,
    /// The hash.
    pub digest: &'static digest::Algorithm,
    /// HMAC over the same hash.
    pub hmac: hmac::Algorithm,
    /// The AEAD: 32 bytes of key, 12 of nonce, 16 of tag.
    pub aead: &'static aead::Algorithm,
}

/// One suite. Stateless: each call sets its key up anew, as the protocol uses
/// each AEAD key for one message only.
pub struct Suite(Row);

impl Suite {
    /// The suite of a row.
    #[must_use]
    pub fn new(row: Row) -> Self {
        Self(row)
    }

    fn key(&self, key: &[u8], nonce: &[u8]) -> Result<(aead::LessSafeKey, aead::Nonce), CipherError> {
        let key = aead::UnboundKey::new(self.0.aead, key).map_err(|_| CipherError::BadSize)?;
        let nonce = aead::Nonce::try_assume_unique_for_key(nonce).map_err(|_| CipherError::BadSize)?;
        Ok((aead::LessSafeKey::new(key), nonce))
    }
}

impl CipherSuite for Suite {
    fn info(&self) -> SuiteInfo {
        SuiteInfo::new(self.0.id, self.0.name, self.0.digest.output_len(), IMPLEMENTATION)
    }

    fn hash(&self, data: &[u8], out: &mut [u8]) -> Result<(), CipherError> {
        let digest = digest::digest(self.0.digest, data);
        copy(digest.as_ref(), out)
    }

    fn mac(&self, key: &[u8], data: &[u8], out: &mut [u8]) -> Result<(), CipherError> {
        if out.len() != self.0.digest.output_len() {
            return Err(CipherError::BadSize);
        }
        let key = hmac::Key::new(self.0.hmac, key);
        hmac::sign_to_buffer(&key, data, out).map(|_| ()).map_err(|_| CipherError::Failed)
    }

    fn seal(&self, key: &[u8], nonce: &[u8], aad: &[u8], plaintext: &[u8], out: &mut [u8]) -> Result<(), CipherError> {
        let (body, tag) = out.split_at_mut_checked(plaintext.len()).ok_or(CipherError::BadSize)?;
        if tag.len() != SuiteInfo::TAG_LEN {
            return Err(CipherError::BadSize);
        }
        let (key, nonce) = self.key(key, nonce)?;
        let aad = aead::Aad::from(aad);
        key.seal_out_of_place_scatter(nonce, aad, plaintext, body, &[], tag).map_err(|_| CipherError::Failed)
    }

    fn open(&self, key: &[u8], nonce: &[u8], aad: &[u8], ciphertext: &[u8], out: &mut [u8]) -> Result<(), CipherError> {
        let (body, tag) = ciphertext.split_last_chunk::<{ SuiteInfo::TAG_LEN }>().ok_or(CipherError::BadSize)?;
        if out.len() != body.len() {
            return Err(CipherError::BadSize);
        }
        let (key, nonce) = self.key(key, nonce)?;
        key.open_separate_gather(nonce, aead::Aad::from(aad), body, tag, out).map_err(|_| {
            // Unauthenticated plaintext, so wiping it is about not using it, and not about a secret.
            out.fill(0);
            CipherError::Rejected
        })
    }

    fn random(&self, out: &mut [u8]) -> Result<(), CipherError> {
        rand::fill(out).map_err(|_| CipherError::Failed)
    }
}

fn copy(from: &[u8], out: &mut [u8]) -> Result<(), CipherError> {
    if out.len() != from.len() {
        return Err(CipherError::BadSize);
    }
    out.copy_from_slice(from);
    Ok(())
}

const IMPLEMENTATION: &str = "aws-lc-rs 1";
