//! The cipher suite AES-256-GCM with SHA-256, on aws-lc-rs.
//!
//! Exchange the library below for yours; number, sizes and values are those of
//! the protocol's registry, and the tests compare them.

#![forbid(unsafe_code)]

#[cfg(test)]
mod tests;

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    digest::{SHA256, digest},
    hmac, rand,
};
use claviger_plugin_api::{CipherError, CipherSuite, Context, InitError, Plugin, SuiteInfo, export_plugin};

export_plugin! {
    name: env!("CARGO_PKG_NAME"),
    provides: [cipher],
    init: init,
}

fn init(context: Context) -> Result<Plugin, InitError> {
    // A key that nobody reads is a mistake of the operator: say so.
    if context.configuration.as_object().is_some_and(|table| !table.is_empty()) {
        return Err(InitError::Configuration("this plugin has no settings; remove its config table".to_owned()));
    }
    Ok(Plugin::new().with_suite(Suite))
}

/// The suite. It has no state, so calls from many threads share nothing.
pub struct Suite;

/// Bytes of a SHA-256 hash.
const HASH_LEN: usize = 32;

impl CipherSuite for Suite {
    fn info(&self) -> SuiteInfo {
        SuiteInfo::new(0x0001, "AES-256-GCM/SHA-256", HASH_LEN, "aws-lc-rs 1")
    }

    fn hash(&self, data: &[u8], out: &mut [u8]) -> Result<(), CipherError> {
        size(out.len() == HASH_LEN)?;
        out.copy_from_slice(digest(&SHA256, data).as_ref());
        Ok(())
    }

    fn mac(&self, key: &[u8], data: &[u8], out: &mut [u8]) -> Result<(), CipherError> {
        size(out.len() == HASH_LEN)?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        out.copy_from_slice(hmac::sign(&key, data).as_ref());
        Ok(())
    }

    fn seal(&self, key: &[u8], nonce: &[u8], aad: &[u8], plaintext: &[u8], out: &mut [u8]) -> Result<(), CipherError> {
        let (body, tag) = out.split_at_mut_checked(plaintext.len()).ok_or(CipherError::BadSize)?;
        size(tag.len() == SuiteInfo::TAG_LEN)?;
        let (key, nonce) = prepared(key, nonce)?;
        key.seal_out_of_place_scatter(nonce, Aad::from(aad), plaintext, body, &[], tag).map_err(|_| CipherError::Failed)
    }

    fn open(&self, key: &[u8], nonce: &[u8], aad: &[u8], ciphertext: &[u8], out: &mut [u8]) -> Result<(), CipherError> {
        let (body, tag) = ciphertext.split_last_chunk::<{ SuiteInfo::TAG_LEN }>().ok_or(CipherError::BadSize)?;
        size(out.len() == body.len())?;
        let (key, nonce) = prepared(key, nonce)?;
        key.open_separate_gather(nonce, Aad::from(aad), body, tag, out).map_err(|_| {
            // Nothing of a text that does not authenticate may be left.
            out.fill(0);
            CipherError::Rejected
        })
    }

    fn random(&self, out: &mut [u8]) -> Result<(), CipherError> {
        rand::fill(out).map_err(|_| CipherError::Failed)
    }
}

/// The protocol uses each key for one message, so there is nothing to keep between calls.
fn prepared(key: &[u8], nonce: &[u8]) -> Result<(LessSafeKey, Nonce), CipherError> {
    let key = UnboundKey::new(&AES_256_GCM, key).map_err(|_| CipherError::BadSize)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| CipherError::BadSize)?;
    Ok((LessSafeKey::new(key), nonce))
}

fn size(right: bool) -> Result<(), CipherError> {
    if right { Ok(()) } else { Err(CipherError::BadSize) }
}
