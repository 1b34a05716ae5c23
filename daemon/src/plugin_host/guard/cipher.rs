//! The guard of a cipher suite. It must stay cheap: a good call costs a load
//! and two comparisons more, and only failures are counted.

use std::sync::Arc;

use arc_swap::ArcSwap;
use claviger_plugin_api::{CipherError, CipherSuite, SuiteInfo};
use metrics::{Counter, counter};

/// A suite that passed its self-test, and what it said of itself then.
pub(in super::super) struct Tested<S> {
    pub(in super::super) info: SuiteInfo,
    pub(in super::super) suite: S,
}

/// A suite behind its counters.
pub(in super::super) struct GuardedSuite<S> {
    /// It can be replaced between two calls, by one of the same number and hash length.
    tested: ArcSwap<Tested<S>>,
    failed: [Counter; CALLS.len()],
    panicked: [Counter; CALLS.len()],
}

impl<S: CipherSuite> GuardedSuite<S> {
    pub(in super::super) fn new(plugin: &str, tested: Arc<Tested<S>>) -> Self {
        let counters = |outcome: &'static str| {
            CALLS
                .map(|call| counter!(super::CALLS, "plugin" => plugin.to_owned(), "call" => call, "outcome" => outcome))
        };
        Self { tested: ArcSwap::new(tested), failed: counters("failed"), panicked: counters("panicked") }
    }

    /// Gives calls from now on to `tested`, and the one before back.
    pub(in super::super) fn swap(&self, tested: Arc<Tested<S>>) -> Arc<Tested<S>> {
        self.tested.swap(tested)
    }

    /// Passes the result on; a failure of the plugin is counted. A rejected
    /// ciphertext is the peer's doing, and none.
    #[inline]
    fn judge(&self, call: usize, result: Result<(), CipherError>) -> Result<(), CipherError> {
        if result.is_err() { self.failure(call, result) } else { result }
    }

    #[cold]
    fn failure(&self, call: usize, result: Result<(), CipherError>) -> Result<(), CipherError> {
        match result {
            Ok(()) | Err(CipherError::Rejected) => {}
            Err(CipherError::Panicked) => self.panicked[call].increment(1),
            Err(_) => self.failed[call].increment(1),
        }
        result
    }
}

impl<S: CipherSuite> CipherSuite for GuardedSuite<S> {
    /// As it was when the suite was tested.
    fn info(&self) -> SuiteInfo {
        self.tested.load().info.clone()
    }

    fn hash(&self, data: &[u8], out: &mut [u8]) -> Result<(), CipherError> {
        let tested = self.tested.load();
        size(out.len(), tested.info.hash_len)?;
        self.judge(HASH, tested.suite.hash(data, out))
    }

    fn mac(&self, key: &[u8], data: &[u8], out: &mut [u8]) -> Result<(), CipherError> {
        let tested = self.tested.load();
        size(out.len(), tested.info.hash_len)?;
        self.judge(MAC, tested.suite.mac(key, data, out))
    }

    /// After an error `out` is wiped, whatever the plugin left there.
    fn seal(&self, key: &[u8], nonce: &[u8], aad: &[u8], plaintext: &[u8], out: &mut [u8]) -> Result<(), CipherError> {
        sizes(key, nonce, plaintext.len().checked_add(SuiteInfo::TAG_LEN), out.len())?;
        let result = self.tested.load().suite.seal(key, nonce, aad, plaintext, out);
        self.judge(SEAL, result).inspect_err(|_| out.fill(0))
    }

    /// After an error `out` is wiped, whatever the plugin left there.
    fn open(&self, key: &[u8], nonce: &[u8], aad: &[u8], ciphertext: &[u8], out: &mut [u8]) -> Result<(), CipherError> {
        sizes(key, nonce, ciphertext.len().checked_sub(SuiteInfo::TAG_LEN), out.len())?;
        let result = self.tested.load().suite.open(key, nonce, aad, ciphertext, out);
        self.judge(OPEN, result).inspect_err(|_| out.fill(0))
    }

    fn random(&self, out: &mut [u8]) -> Result<(), CipherError> {
        self.judge(RANDOM, self.tested.load().suite.random(out))
    }
}

fn size(found: usize, expected: usize) -> Result<(), CipherError> {
    if found == expected { Ok(()) } else { Err(CipherError::BadSize) }
}

fn sizes(key: &[u8], nonce: &[u8], expected: Option<usize>, out: usize) -> Result<(), CipherError> {
    size(key.len(), SuiteInfo::KEY_LEN)?;
    size(nonce.len(), SuiteInfo::NONCE_LEN)?;
    size(out, expected.ok_or(CipherError::BadSize)?)
}

const CALLS: [&str; 5] = ["cipher.hash", "cipher.mac", "cipher.seal", "cipher.open", "cipher.random"];
const HASH: usize = 0;
const MAC: usize = 1;
const SEAL: usize = 2;
const OPEN: usize = 3;
const RANDOM: usize = 4;
