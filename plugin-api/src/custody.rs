//! Key custody: unique keys that stay in a module (an HSM) and never enter the host.

use async_trait::async_trait;

use crate::{PluginError, SecretBytes};

/// Names a key in custody: 16 random bytes, chosen by the host for each key.
pub type KeyId = [u8; 16];

/// The largest token in bytes that [`KeyCustody::keep`] may give.
pub const MAX_TOKEN: usize = 512;

/// A use of a key: one HMAC (protocol, section 4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MacRequest {
    /// Which key.
    pub key: KeyId,
    /// What [`KeyCustody::keep`] gave for it.
    pub token: Vec<u8>,
    /// The hash by its bytes: 32 for SHA-256, 48 for SHA-384.
    pub hash_len: usize,
    /// What the HMAC is computed over, at most 8 KiB. Attacker-controlled.
    pub message: Vec<u8>,
}

/// Keeps unique keys where the host cannot read them.
///
/// The host makes a key in an exchange with the terminal, hands it over once
/// and wipes its own copy; from then on it names the key and receives HMACs.
/// Calls come from many tasks at once, and a call may be dropped at any await.
///
/// A module that is away, logged out or emptied must answer
/// [`PluginError::Unavailable`] and never *there is no such key*.
#[async_trait]
pub trait KeyCustody: Send + Sync + 'static {
    /// Keeps a unique key of 32 bytes, durably before it answers. The token
    /// (at most [`MAX_TOKEN`] bytes) is stored by the host beside the id and
    /// comes back with each use; it may hold the key itself, sealed under one
    /// that never leaves the module. Of two keys with one id either may stay.
    ///
    /// # Errors
    /// [`PluginError::Full`] where the module takes no further key.
    async fn keep(&self, id: KeyId, key: SecretBytes) -> Result<Vec<u8>, PluginError>;

    /// The HMACs of `requests` (at most 1000) in their order, each of the
    /// length of its hash; `None` where the module certainly has no such key.
    async fn mac(&self, requests: &[MacRequest]) -> Result<Vec<Option<SecretBytes>>, PluginError>;

    /// Destroys keys (at most 1000). One that is not there is destroyed already.
    async fn destroy(&self, ids: &[KeyId]) -> Result<(), PluginError>;

    /// The ids of the keys it holds itself, in bytewise order from behind
    /// `after`: `limit` of them (1 to 1000), fewer only at the end. None where
    /// the tokens hold the keys. Tells the host which ones nobody uses.
    async fn keys(&self, after: Option<KeyId>, limit: usize) -> Result<Vec<KeyId>, PluginError>;

    /// A secret of 32 bytes for `context` (at most 255 bytes), the same each
    /// time, from a master key that never leaves the module. The host seals
    /// its own keys under it.
    async fn derive(&self, context: &[u8]) -> Result<SecretBytes, PluginError>;

    /// Makes the module ready: master key, and whatever proves that its
    /// storage is whole. Leaves alone what is there. Returns one line for the
    /// operator.
    async fn initialise(&self) -> Result<String, PluginError>;

    /// What an operator should know of the module, as a JSON object: names,
    /// versions, counts, limits. No secrets.
    async fn status(&self) -> Result<String, PluginError>;

    /// A cheap proof that the module answers, is logged in, and has its keys.
    async fn health(&self) -> Result<(), PluginError>;
}
