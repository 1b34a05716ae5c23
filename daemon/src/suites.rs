//! The cipher suites of a role: those its configuration allows, on the plugins
//! that serve them.

use std::sync::Arc;

use claviger_plugin_api::{CipherError, CipherSuite};
use claviger_protocol::{Suite, SuiteError, SuiteId};

/// The allowed suites, in the order of the configuration.
#[derive(Clone)]
pub struct Suites {
    ids: Vec<SuiteId>,
    suites: Vec<Arc<PluginSuite>>,
}

/// A configured suite that no loaded plugin serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no loaded plugin serves cipher suite {0}; load one that does ([[plugin]]) or take it out of `suites`")]
pub struct SuiteMissing(pub SuiteId);

impl Suites {
    /// Finds a plugin for each of `ids` through `find`.
    pub fn new(ids: &[u16], find: impl Fn(u16) -> Option<Arc<dyn CipherSuite>>) -> Result<Self, SuiteMissing> {
        let ids: Vec<_> = ids.iter().copied().map(SuiteId).collect();
        let suites = ids
            .iter()
            .map(|id| find(id.0).map(|suite| Arc::new(PluginSuite::new(suite))).ok_or(SuiteMissing(*id)))
            .collect::<Result<_, _>>()?;
        Ok(Self { ids, suites })
    }

    /// The numbers, in the order of the configuration.
    pub fn ids(&self) -> &[SuiteId] {
        &self.ids
    }

    /// The suite of that number, if it is allowed here.
    pub fn get(&self, id: SuiteId) -> Option<&PluginSuite> {
        let at = self.ids.iter().position(|known| *known == id)?;
        self.suites.get(at).map(|suite| &**suite)
    }

    /// Fills `out` with random bytes from the first suite's plugin.
    pub fn random(&self, out: &mut [u8]) -> Result<(), SuiteError> {
        let suite = self.suites.first().ok_or(SuiteError::Failed)?;
        suite.suite.random(out).map_err(|_| SuiteError::Failed)
    }

    /// As [`Self::random`], as an array.
    pub fn random_array<const N: usize>(&self) -> Result<[u8; N], SuiteError> {
        let mut out = [0; N];
        self.random(&mut out)?;
        Ok(out)
    }
}

/// A plugin's suite, as the protocol calls it.
pub struct PluginSuite {
    suite: Arc<dyn CipherSuite>,
    hash_len: usize,
}

impl PluginSuite {
    /// Wraps a plugin's suite.
    pub fn new(suite: Arc<dyn CipherSuite>) -> Self {
        let hash_len = suite.info().hash_len;
        Self { suite, hash_len }
    }
}

impl Suite for PluginSuite {
    fn hash_len(&self) -> usize {
        self.hash_len
    }

    fn hash(&self, data: &[u8], out: &mut [u8]) -> Result<(), SuiteError> {
        self.suite.hash(data, out).map_err(blame)
    }

    fn mac(&self, key: &[u8], data: &[u8], out: &mut [u8]) -> Result<(), SuiteError> {
        self.suite.mac(key, data, out).map_err(blame)
    }

    fn seal(&self, key: &[u8], nonce: &[u8], aad: &[u8], plaintext: &[u8], out: &mut [u8]) -> Result<(), SuiteError> {
        self.suite.seal(key, nonce, aad, plaintext, out).map_err(blame)
    }

    fn open(&self, key: &[u8], nonce: &[u8], aad: &[u8], ciphertext: &[u8], out: &mut [u8]) -> Result<(), SuiteError> {
        self.suite.open(key, nonce, aad, ciphertext, out).map_err(blame)
    }
}

fn blame(error: CipherError) -> SuiteError {
    match error {
        CipherError::Rejected => SuiteError::Rejected,
        _ => SuiteError::Failed,
    }
}
