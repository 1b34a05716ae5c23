//! What must hold in every run, whatever the network does.

use std::collections::{HashMap, HashSet};

use claviger_protocol::{Secret32, management::envelope::Floor, message::Header};

/// Sees every message and every decision, and panics on a violated property.
#[derive(Debug, Default)]
pub struct Ledger {
    secrets: HashSet<[u8; 32]>,
    starts: HashMap<Vec<u8>, Start>,
    sessions: HashMap<Vec<u8>, [u8; 32]>,
    noted: HashSet<Vec<u8>>,
}

#[derive(Debug, PartialEq, Eq)]
struct Start {
    user: usize,
    service: usize,
}

impl Ledger {
    /// A unique or management authentication key was made.
    pub fn made_key(&mut self, key: &Secret32) {
        self.secrets.insert(*key.expose());
    }

    /// These bytes reach the network or a service.
    pub fn in_clear(&self, bytes: &[u8]) {
        let found = bytes.windows(32).any(|window| self.secrets.contains(window));
        assert!(!found, "a long-lived key reached the network or a service");
    }

    /// A terminal began to sign on with this envelope.
    pub fn started(&mut self, envelope: &[u8], user: usize, service: usize) {
        let before = self.starts.insert(envelope.to_vec(), Start { user, service });
        assert!(before.is_none(), "an envelope was made twice");
    }

    /// A service has a session because of this envelope, with this key.
    pub fn session(&mut self, envelope: &[u8], user: usize, service: usize, key: [u8; 32]) {
        let start = self.starts.get(envelope);
        assert_eq!(start, Some(&Start { user, service }), "a session that no terminal started");
        let before = self.sessions.insert(envelope.to_vec(), key);
        assert!(before.is_none(), "two sessions for one envelope");
    }

    /// A terminal holds a key for the envelope it made.
    pub fn signed_on(&self, envelope: &[u8], key: &[u8]) {
        assert_eq!(self.sessions.get(envelope).map(|key| &key[..]), Some(key), "the sides hold different keys");
    }

    /// The management server sealed a note (or a directory) for this envelope.
    pub fn noted(&mut self, envelope: &[u8]) {
        assert!(self.noted.insert(envelope.to_vec()), "two notes were sealed for one envelope");
    }

    /// The management server granted what this header asks for.
    pub fn granted(&self, header: &Header<'_>, floor: &Floor) {
        assert!(header.suite >= floor.suite, "granted below the suite floor");
        assert_eq!(header.suite.hash_len(), Some(floor.hash_len), "granted under another hash");
        assert!(header.kem >= floor.kem, "granted below the kem floor");
    }
}
