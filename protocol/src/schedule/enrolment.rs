//! The key schedule of an enrolment (section 8).

use std::fmt;

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

/// The two MACs by which each side proves that it has the keys, and the
/// comparison string.
#[derive(Clone, Copy)]
pub struct Confirmation {
    /// The terminal's, in E3.
    pub terminal: [u8; 32],
    /// The management server's, in E4.
    pub manager: [u8; 32],
    /// What both sides show where an administrator compares them: see [`comparison`].
    pub comparison: u32,
}

/// The comparison string of an enrolment as a number below 1,000,000, shown
/// with six digits: the first four bytes of `H(th3)`, which covers the whole
/// of E1 and E2, modulo 1,000,000. No secret.
pub fn comparison(suite: &dyn Suite, th3: &Digest) -> Result<u32> {
    let digest = hash(suite, th3.as_slice())?;
    let bytes = digest.as_slice();
    Ok(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) % 1_000_000)
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

    /// The MACs of E3 and E4 and the comparison string, over the whole of E2.
    pub fn confirmation(&self, suite: &dyn Suite, e2: &[u8]) -> Result<Confirmation> {
        let th3 = hash(suite, &[self.th.as_slice(), e2].concat())?;
        let tag = |label: &[u8], who: &[u8]| -> Result<[u8; 32]> {
            let key = self.key(suite, label, &th3)?;
            Ok(first_32(&mac(suite, key.expose(), who)?))
        };
        Ok(Confirmation {
            terminal: tag(b"IDB1 ec\0", b"T")?,
            manager: tag(b"IDB1 ea\0", b"M")?,
            comparison: comparison(suite, &th3)?,
        })
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

impl fmt::Debug for Confirmation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Confirmation(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{aws_lc::AwsLc, registry::SuiteId};

    #[test]
    fn the_comparison_string_is_the_start_of_the_hash() {
        // SHA-256 and SHA-384 of 32 and 48 zero bytes, computed with another implementation.
        for (id, len, expected) in
            [(SuiteId::AES_256_GCM_SHA256, 32, 123_181), (SuiteId::AES_256_GCM_SHA384, 48, 999_068)]
        {
            let th3 = Digest::from_slice(&vec![0; len]).unwrap();
            assert_eq!(comparison(AwsLc::suite(id).unwrap(), &th3).unwrap(), expected, "{id}");
        }
    }
}
