//! Cipher suites.

use crate::error::CipherError;

/// What a suite is: its number in the protocol's registry and its sizes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SuiteInfo {
    /// Number in the suite registry of the protocol, section 2 (`0x0001` is AES-256-GCM with SHA-256).
    pub id: u16,
    /// Name for people, such as `AES-256-GCM/SHA-256`.
    pub name: String,
    /// Bytes of a hash and of a MAC: 32 or 48.
    pub hash_len: usize,
    /// Where the code comes from, such as `aws-lc-rs 1.17`.
    pub implementation: String,
}

impl SuiteInfo {
    /// Key bytes of every suite in the registry.
    pub const KEY_LEN: usize = 32;
    /// Nonce bytes of every suite in the registry.
    pub const NONCE_LEN: usize = 12;
    /// Tag bytes that `seal` appends in every suite of the registry.
    pub const TAG_LEN: usize = 16;

    /// Describes a suite.
    pub fn new(id: u16, name: impl Into<String>, hash_len: usize, implementation: impl Into<String>) -> Self {
        Self { id, name: name.into(), hash_len, implementation: implementation.into() }
    }
}

/// One cipher suite: a hash, HMAC over it, and an AEAD.
///
/// Synchronous and on the hot path: no call may block, lock or log. The host
/// guarantees the sizes named here; a plugin answers [`CipherError::BadSize`]
/// when they are broken and never panics on them.
pub trait CipherSuite: Send + Sync + 'static {
    /// What this suite is. Must not change while the plugin is loaded.
    fn info(&self) -> SuiteInfo;

    /// Hashes `data` (attacker-controlled) into `out` of `hash_len` bytes.
    fn hash(&self, data: &[u8], out: &mut [u8]) -> Result<(), CipherError>;

    /// HMAC of `data` (attacker-controlled) under `key` (any length) into `out` of `hash_len` bytes.
    fn mac(&self, key: &[u8], data: &[u8], out: &mut [u8]) -> Result<(), CipherError>;

    /// Seals `plaintext` into `out` of `plaintext.len() + TAG_LEN` bytes: ciphertext, then tag.
    fn seal(&self, key: &[u8], nonce: &[u8], aad: &[u8], plaintext: &[u8], out: &mut [u8]) -> Result<(), CipherError>;

    /// Opens `ciphertext` (attacker-controlled, at least `TAG_LEN` bytes) into
    /// `out` of `ciphertext.len() - TAG_LEN` bytes. On [`CipherError::Rejected`]
    /// nothing of the plaintext may be left in `out`.
    fn open(&self, key: &[u8], nonce: &[u8], aad: &[u8], ciphertext: &[u8], out: &mut [u8]) -> Result<(), CipherError>;

    /// Fills `out` from the library's cryptographic random generator.
    fn random(&self, out: &mut [u8]) -> Result<(), CipherError>;
}
