//! The key schedule of a rotation (section 4, ROTATE).

use crate::{
    schedule::{Result, expand, hash, mac},
    secret::Secret32,
    suite::{Digest, Suite},
};

/// The next epoch's keys.
#[derive(Debug, Clone)]
pub struct NextKeys {
    /// `K_u'`.
    pub unique_key: Secret32,
    /// `A_u'`.
    pub management_key: Secret32,
}

/// `RS`, `P`, `RTH` and the keys, from the master secret of the envelope, the
/// shared secret, H(E) and the whole note message.
pub fn next_keys(
    suite: &dyn Suite,
    master: &Digest,
    shared: &[u8],
    envelope_hash: &Digest,
    note: &[u8],
) -> Result<NextKeys> {
    let mut rs = Digest::zeroed(suite.hash_len());
    expand(suite, master.as_slice(), b"IDB1 rot\0", &[], rs.as_mut())?;
    let p = mac(suite, rs.as_slice(), shared)?;
    let note_hash = hash(suite, note)?;
    let transcript = hash(suite, &[b"IDB1 rth\0", envelope_hash.as_slice(), note_hash.as_slice()].concat())?;
    let key = |label: &[u8]| -> Result<Secret32> {
        let mut key = Secret32::new([0; 32]);
        expand(suite, p.as_slice(), label, transcript.as_slice(), key.expose_mut())?;
        Ok(key)
    };
    Ok(NextKeys { unique_key: key(b"IDB1 Ku\0")?, management_key: key(b"IDB1 Au\0")? })
}
