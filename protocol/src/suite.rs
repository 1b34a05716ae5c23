//! The primitives of a cipher suite, as the protocol needs them.

use std::fmt;

use zeroize::Zeroize;

/// AEAD key bytes of every suite.
pub const KEY_LEN: usize = 32;
/// AEAD nonce bytes of every suite.
pub const NONCE_LEN: usize = 12;
/// AEAD tag bytes of every suite.
pub const TAG_LEN: usize = 16;

/// Why a primitive gave no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SuiteError {
    /// The ciphertext does not authenticate.
    #[error("the ciphertext does not authenticate")]
    Rejected,
    /// The cipher library failed: [`crate::Code::Unavailable`], never a failed authentication.
    #[error("the cipher library failed")]
    Failed,
}

/// One cipher suite: a hash, HMAC over it, and an AEAD.
///
/// The protocol calls it with buffers of the sizes named here.
pub trait Suite: Send + Sync {
    /// Bytes of the hash: 32 or 48.
    fn hash_len(&self) -> usize;

    /// The hash of `data` into `out` of `hash_len` bytes.
    fn hash(&self, data: &[u8], out: &mut [u8]) -> Result<(), SuiteError>;

    /// HMAC of `data` under `key` into `out` of `hash_len` bytes.
    fn mac(&self, key: &[u8], data: &[u8], out: &mut [u8]) -> Result<(), SuiteError>;

    /// Seals `plaintext` into `out` of `plaintext.len() + TAG_LEN` bytes.
    fn seal(&self, key: &[u8], nonce: &[u8], aad: &[u8], plaintext: &[u8], out: &mut [u8]) -> Result<(), SuiteError>;

    /// Opens `ciphertext` into `out` of `ciphertext.len() - TAG_LEN` bytes.
    fn open(&self, key: &[u8], nonce: &[u8], aad: &[u8], ciphertext: &[u8], out: &mut [u8]) -> Result<(), SuiteError>;
}

/// An output of a suite's hash or HMAC: 32 or 48 bytes, wiped when dropped,
/// since many are keys.
#[derive(Clone)]
pub struct Digest {
    bytes: [u8; 48],
    len: usize,
}

impl Digest {
    /// A digest of `len` zero bytes (at most 48) to be filled.
    pub(crate) fn zeroed(len: usize) -> Self {
        Self { bytes: [0; 48], len: len.min(48) }
    }

    /// Takes over a digest made elsewhere, such as inside an HSM; `None`
    /// unless it has 32 or 48 bytes.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        if !matches!(bytes.len(), 32 | 48) {
            return None;
        }
        let mut digest = Self::zeroed(bytes.len());
        digest.as_mut().copy_from_slice(bytes);
        Some(digest)
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    pub(crate) fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

impl Drop for Digest {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({} bytes, redacted)", self.len)
    }
}
