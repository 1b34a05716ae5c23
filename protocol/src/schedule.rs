//! The key schedule (protocol, section 4). Every AEAD key made here encrypts
//! exactly one message.

pub mod enrolment;
pub mod rotation;

use std::fmt;

use zeroize::{Zeroize, Zeroizing};

use crate::{
    codec::Write,
    secret::Secret32,
    suite::{Digest, KEY_LEN, NONCE_LEN, Suite, SuiteError, TAG_LEN},
};

pub(crate) type Result<T> = std::result::Result<T, SuiteError>;

/// The hash of one message.
pub fn hash(suite: &dyn Suite, data: &[u8]) -> Result<Digest> {
    let mut out = Digest::zeroed(suite.hash_len());
    suite.hash(data, out.as_mut())?;
    Ok(out)
}

/// HMAC over the suite's hash; `Extract(salt, ikm)` of RFC 5869 is `mac(salt, ikm)`.
pub fn mac(suite: &dyn Suite, key: &[u8], data: &[u8]) -> Result<Digest> {
    let mut out = Digest::zeroed(suite.hash_len());
    suite.mac(key, data, out.as_mut())?;
    Ok(out)
}

/// `HKDF-Expand` of RFC 5869 with `info` = label ‖ context, into `out` (at most
/// 255 hash lengths).
pub fn expand(suite: &dyn Suite, prk: &[u8], label: &[u8], context: &[u8], out: &mut [u8]) -> Result<()> {
    // label and context are ours: at most 16 and 48 bytes, before them the
    // last block and behind them the block's number.
    let mut input = [0; 128];
    let hash_len = suite.hash_len();
    let info = hash_len..hash_len + label.len() + context.len();
    if info.end >= input.len() || out.len() > 255 * hash_len {
        return Err(SuiteError::Failed);
    }
    input[info.start..info.start + label.len()].copy_from_slice(label);
    input[info.start + label.len()..info.end].copy_from_slice(context);
    let mut block = Digest::zeroed(hash_len);
    for (number, chunk) in (1u8..=255).zip(out.chunks_mut(hash_len)) {
        input[info.end] = number;
        let from = if number == 1 { info.start } else { 0 };
        suite.mac(prk, &input[from..=info.end], block.as_mut())?;
        chunk.copy_from_slice(&block.as_slice()[..chunk.len()]);
        input[..hash_len].copy_from_slice(block.as_slice());
    }
    input.zeroize();
    Ok(())
}

/// What the unique key is applied to: the whole input of its one HMAC per
/// message. `user_id` is the resolved plain id, at most 65,535 bytes.
pub fn root_input(user_id: &[u8], header: &[u8]) -> Vec<u8> {
    let mut input = Vec::with_capacity(ROOT.len() + 2 + user_id.len() + header.len() + 1);
    input.put(ROOT);
    input.put_v16(user_id);
    input.put(header);
    input.put_u8(1);
    input
}

/// `MS`, the master secret of one message: the only use of the unique key.
pub fn master_secret(suite: &dyn Suite, unique_key: &Secret32, user_id: &[u8], header: &[u8]) -> Result<Digest> {
    mac(suite, unique_key.expose(), &root_input(user_id, header))
}

/// A key and nonce for one message.
pub struct MessageKey(Zeroizing<[u8; KEY_LEN + NONCE_LEN]>);

impl MessageKey {
    /// `Expand(prk, label ‖ context, 44)`.
    pub fn derive(suite: &dyn Suite, prk: &Digest, label: &[u8], context: &[u8]) -> Result<Self> {
        let mut key = Self(Zeroizing::new([0; KEY_LEN + NONCE_LEN]));
        expand(suite, prk.as_slice(), label, context, key.0.as_mut_slice())?;
        Ok(key)
    }

    /// Key ‖ nonce, for test vectors.
    pub fn expose(&self) -> &[u8] {
        self.0.as_slice()
    }

    /// Seals `plaintext` behind what is in `out` already.
    pub fn seal_into(&self, suite: &dyn Suite, aad: &[u8], plaintext: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let (key, nonce) = self.0.split_at(KEY_LEN);
        let from = out.len();
        out.resize(from + plaintext.len() + TAG_LEN, 0);
        suite.seal(key, nonce, aad, plaintext, &mut out[from..])
    }

    /// Opens `ciphertext` (attacker-controlled) into a buffer that is wiped
    /// when dropped. Where it does not authenticate, `Rejected`.
    pub fn open(&self, suite: &dyn Suite, aad: &[u8], ciphertext: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let mut out = Zeroizing::new(Vec::new());
        self.open_into(suite, aad, ciphertext, &mut out)?;
        Ok(out)
    }

    /// As [`Self::open`], into `out`, which has the plaintext's length
    /// afterwards whatever the outcome, all zero when it was rejected.
    pub(crate) fn open_into(&self, suite: &dyn Suite, aad: &[u8], ciphertext: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let (key, nonce) = self.0.split_at(KEY_LEN);
        let len = ciphertext.len().checked_sub(TAG_LEN).ok_or(SuiteError::Rejected)?;
        out.resize(len, 0);
        suite.open(key, nonce, aad, ciphertext, out).inspect_err(|_| out.fill(0))
    }
}

impl fmt::Debug for MessageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MessageKey(redacted)")
    }
}

/// `MK‖IV`: seals the inner part of an envelope.
pub fn envelope_key(suite: &dyn Suite, master: &Digest) -> Result<MessageKey> {
    MessageKey::derive(suite, master, b"IDB1 msg\0", &[])
}

/// `NK‖IV`: seals the note.
pub fn note_key(suite: &dyn Suite, master: &Digest, envelope_hash: &Digest) -> Result<MessageKey> {
    MessageKey::derive(suite, master, NOTE, envelope_hash.as_slice())
}

/// The note's associated data: label ‖ H(E).
pub fn note_aad(envelope_hash: &Digest) -> Vec<u8> {
    [NOTE, envelope_hash.as_slice()].concat()
}

/// Seals a directory.
pub fn directory_key(suite: &dyn Suite, master: &Digest, envelope_hash: &Digest) -> Result<MessageKey> {
    MessageKey::derive(suite, master, DIRECTORY, envelope_hash.as_slice())
}

/// The directory's associated data: label ‖ H(E).
pub fn directory_aad(envelope_hash: &Digest) -> Vec<u8> {
    [DIRECTORY, envelope_hash.as_slice()].concat()
}

/// `TH`, the transcript hash of a sign-on.
pub fn transcript(suite: &dyn Suite, envelope_hash: &Digest, reply_head: &[u8]) -> Result<Digest> {
    hash(suite, &[b"IDB1 th\0", envelope_hash.as_slice(), reply_head].concat())
}

/// `RK‖IV`: seals the reply, from the session password and the shared secret.
pub fn reply_key(
    suite: &dyn Suite,
    session_password: &Secret32,
    shared: &[u8],
    transcript: &Digest,
) -> Result<MessageKey> {
    let prk = mac(suite, session_password.expose(), shared)?;
    MessageKey::derive(suite, &prk, b"IDB1 rep\0", transcript.as_slice())
}

const ROOT: &[u8] = b"IDB1 root\0";
const NOTE: &[u8] = b"IDB1 note\0";
const DIRECTORY: &[u8] = b"IDB1 dir\0";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{aws_lc::AwsLc, registry::SuiteId};

    #[test]
    fn expand_is_hkdf_of_rfc_5869() {
        // RFC 5869, test case 1: PRK, info of 10 bytes, 42 bytes of output.
        let hex = |text: &str| data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap();
        let prk = hex("077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5");
        let info = hex("f0f1f2f3f4f5f6f7f8f9");
        let mut out = [0; 42];
        let suite = AwsLc::suite(SuiteId::AES_256_GCM_SHA256).unwrap();
        expand(suite, &prk, &info[..4], &info[4..], &mut out).unwrap();
        let expected = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865";
        assert_eq!(out.to_vec(), hex(expected));
    }
}
