//! The key schedule of an enrolment (section 8).

use crate::{
    schedule::{MessageKey, Result, expand, hash, mac},
    secret::Secret32,
    suite::{Digest, Suite},
};

/// The MAC of E1.
pub fn request_tag(suite: &dyn Suite, psk: &Secret32, body: &[u8]) -> Result<[u8; 32]> {
    let tag = mac(suite, psk.expose(), &[b"IDB1 e1\0", body].concat())?;
    Ok(first_32(&tag))
}

/// What both sides derive from the code's key, the shared secret, E1 and the body of E2.
#[derive(Debug)]
pub struct Secrets {
    prk: Digest,
    th: Digest,
}

/// The two MACs by which each side proves that it has the keys.
#[derive(Debug, Clone, Copy)]
pub struct Confirmation {
    /// The terminal's, in E3.
    pub terminal: [u8; 32],
    /// The management server's, in E4.
    pub manager: [u8; 32],
}

impl Secrets {
    /// `th = H("IDB1 eth∅" ‖ H(E1) ‖ b2)`, `PRK = Extract(psk, ss)`.
    pub fn derive(suite: &dyn Suite, psk: &Secret32, shared: &[u8], e1_hash: &Digest, e2_body: &[u8]) -> Result<Self> {
        Ok(Self {
            prk: mac(suite, psk.expose(), shared)?,
            th: hash(suite, &[b"IDB1 eth\0", e1_hash.as_slice(), e2_body].concat())?,
        })
    }

    /// `th`, for test vectors.
    pub fn transcript(&self) -> &Digest {
        &self.th
    }

    /// Seals E2's box.
    pub fn box_key(&self, suite: &dyn Suite) -> Result<MessageKey> {
        MessageKey::derive(suite, &self.prk, b"IDB1 ebox\0", self.th.as_slice())
    }

    /// `K_u`.
    pub fn unique_key(&self, suite: &dyn Suite) -> Result<Secret32> {
        self.key(suite, b"IDB1 Ku\0", &self.th)
    }

    /// `A_u`.
    pub fn management_key(&self, suite: &dyn Suite) -> Result<Secret32> {
        self.key(suite, b"IDB1 Au\0", &self.th)
    }

    /// The MACs of E3 and E4, over the whole of E2.
    pub fn confirmation(&self, suite: &dyn Suite, e2: &[u8]) -> Result<Confirmation> {
        let th3 = hash(suite, &[self.th.as_slice(), e2].concat())?;
        let tag = |label: &[u8], who: &[u8]| -> Result<[u8; 32]> {
            let key = self.key(suite, label, &th3)?;
            Ok(first_32(&mac(suite, key.expose(), who)?))
        };
        Ok(Confirmation { terminal: tag(b"IDB1 ec\0", b"T")?, manager: tag(b"IDB1 ea\0", b"M")? })
    }

    fn key(&self, suite: &dyn Suite, label: &[u8], transcript: &Digest) -> Result<Secret32> {
        let mut key = Secret32::new([0; 32]);
        expand(suite, self.prk.as_slice(), label, transcript.as_slice(), key.expose_mut())?;
        Ok(key)
    }
}

fn first_32(digest: &Digest) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(&digest.as_slice()[..32]);
    out
}
