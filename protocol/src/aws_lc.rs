//! The cipher suites on aws-lc-rs, for parties that load no plugins: terminals,
//! tools and tests.

use aws_lc_rs::{aead, digest, hmac};

use crate::{
    registry::SuiteId,
    suite::{Suite, SuiteError, TAG_LEN},
};

/// A suite of the registry on aws-lc-rs.
#[derive(Debug, Clone, Copy)]
pub struct AwsLc {
    digest: &'static digest::Algorithm,
    hmac: hmac::Algorithm,
    aead: &'static aead::Algorithm,
}

impl AwsLc {
    /// The suite of that number; `None` when it is not offered here.
    pub fn suite(id: SuiteId) -> Option<&'static Self> {
        Some(match id {
            SuiteId::AES_256_GCM_SHA256 => &AES_256_GCM_SHA256,
            SuiteId::AES_256_GCM_SIV_SHA256 => &AES_256_GCM_SIV_SHA256,
            SuiteId::CHACHA20_POLY1305_SHA256 => &CHACHA20_POLY1305_SHA256,
            SuiteId::AES_256_GCM_SHA384 => &AES_256_GCM_SHA384,
            SuiteId::AES_256_GCM_SIV_SHA384 => &AES_256_GCM_SIV_SHA384,
            _ => return None,
        })
    }

    fn key(&self, key: &[u8], nonce: &[u8]) -> Result<(aead::LessSafeKey, aead::Nonce), SuiteError> {
        let key = aead::UnboundKey::new(self.aead, key).map_err(|_| SuiteError::Failed)?;
        let nonce = aead::Nonce::try_assume_unique_for_key(nonce).map_err(|_| SuiteError::Failed)?;
        Ok((aead::LessSafeKey::new(key), nonce))
    }
}

impl Suite for AwsLc {
    fn hash_len(&self) -> usize {
        self.digest.output_len()
    }

    fn hash(&self, data: &[u8], out: &mut [u8]) -> Result<(), SuiteError> {
        fill(out, digest::digest(self.digest, data).as_ref())
    }

    fn mac(&self, key: &[u8], data: &[u8], out: &mut [u8]) -> Result<(), SuiteError> {
        fill(out, hmac::sign(&hmac::Key::new(self.hmac, key), data).as_ref())
    }

    fn seal(&self, key: &[u8], nonce: &[u8], aad: &[u8], plaintext: &[u8], out: &mut [u8]) -> Result<(), SuiteError> {
        let (key, nonce) = self.key(key, nonce)?;
        let (text, tag) = out.split_at_mut_checked(plaintext.len()).ok_or(SuiteError::Failed)?;
        text.copy_from_slice(plaintext);
        let made = key.seal_in_place_separate_tag(nonce, aead::Aad::from(aad), text).map_err(|_| SuiteError::Failed)?;
        fill(tag, made.as_ref())
    }

    fn open(&self, key: &[u8], nonce: &[u8], aad: &[u8], ciphertext: &[u8], out: &mut [u8]) -> Result<(), SuiteError> {
        let (key, nonce) = self.key(key, nonce)?;
        let text_len = ciphertext.len().checked_sub(TAG_LEN).ok_or(SuiteError::Rejected)?;
        if out.len() != text_len {
            return Err(SuiteError::Failed);
        }
        let (text, tag) = ciphertext.split_at(text_len);
        key.open_separate_gather(nonce, aead::Aad::from(aad), text, tag, out).map_err(|_| {
            out.fill(0);
            SuiteError::Rejected
        })
    }
}

fn fill(out: &mut [u8], bytes: &[u8]) -> Result<(), SuiteError> {
    if out.len() != bytes.len() {
        return Err(SuiteError::Failed);
    }
    out.copy_from_slice(bytes);
    Ok(())
}

static AES_256_GCM_SHA256: AwsLc = with_sha256(&aead::AES_256_GCM);
static AES_256_GCM_SIV_SHA256: AwsLc = with_sha256(&aead::AES_256_GCM_SIV);
static CHACHA20_POLY1305_SHA256: AwsLc = with_sha256(&aead::CHACHA20_POLY1305);
static AES_256_GCM_SHA384: AwsLc = with_sha384(&aead::AES_256_GCM);
static AES_256_GCM_SIV_SHA384: AwsLc = with_sha384(&aead::AES_256_GCM_SIV);

const fn with_sha256(aead: &'static aead::Algorithm) -> AwsLc {
    AwsLc { digest: &digest::SHA256, hmac: hmac::HMAC_SHA256, aead }
}

const fn with_sha384(aead: &'static aead::Algorithm) -> AwsLc {
    AwsLc { digest: &digest::SHA384, hmac: hmac::HMAC_SHA384, aead }
}
