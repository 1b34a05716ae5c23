//! A suite on aws-lc-rs that panics on input that says so, since it must pass
//! the host's self-test before.

use aws_lc_rs::{aead, digest, hmac, rand};
use claviger_plugin_api::{CipherError, CipherSuite, SuiteInfo};

use crate::Plan;

pub(crate) struct Suite(pub(crate) Plan);

impl Suite {
    fn call(&self, call: &str, input: &[u8]) {
        if input == b"panic" {
            self.0.panic_in(call);
        }
    }
}

fn key(key: &[u8], nonce: &[u8]) -> Result<(aead::LessSafeKey, aead::Nonce), CipherError> {
    let key = aead::UnboundKey::new(&aead::AES_256_GCM, key).map_err(|_| CipherError::BadSize)?;
    let nonce = aead::Nonce::try_assume_unique_for_key(nonce).map_err(|_| CipherError::BadSize)?;
    Ok((aead::LessSafeKey::new(key), nonce))
}

impl CipherSuite for Suite {
    fn info(&self) -> SuiteInfo {
        self.0.panic_in("cipher.info");
        let id = self.0.suite();
        SuiteInfo::new(id, "misbehaving", 32, "a test")
    }

    fn hash(&self, data: &[u8], out: &mut [u8]) -> Result<(), CipherError> {
        self.call("cipher.hash", data);
        out.copy_from_slice(digest::digest(&digest::SHA256, data).as_ref());
        Ok(())
    }

    fn mac(&self, key: &[u8], data: &[u8], out: &mut [u8]) -> Result<(), CipherError> {
        self.call("cipher.mac", data);
        out.copy_from_slice(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data).as_ref());
        out[0] ^= u8::from(self.0.lies("cipher.mac"));
        Ok(())
    }

    fn seal(&self, k: &[u8], nonce: &[u8], aad: &[u8], plaintext: &[u8], out: &mut [u8]) -> Result<(), CipherError> {
        self.call("cipher.seal", aad);
        let (key, nonce) = key(k, nonce)?;
        let (body, tag) = out.split_at_mut(plaintext.len());
        key.seal_out_of_place_scatter(nonce, aead::Aad::from(aad), plaintext, body, &[], tag)
            .map_err(|_| CipherError::Failed)
    }

    /// Leaves what it decrypted in `out` when the tag is wrong, against the contract.
    fn open(&self, k: &[u8], nonce: &[u8], aad: &[u8], ciphertext: &[u8], out: &mut [u8]) -> Result<(), CipherError> {
        self.call("cipher.open", aad);
        let (key, nonce) = key(k, nonce)?;
        let (body, tag) = ciphertext.split_at(out.len());
        key.open_separate_gather(nonce, aead::Aad::from(aad), body, tag, out).map_err(|_| {
            out.fill(0xee);
            CipherError::Rejected
        })
    }

    fn random(&self, out: &mut [u8]) -> Result<(), CipherError> {
        self.call("cipher.random", &b"panic"[..if out.len() == 5 { 5 } else { 0 }]);
        rand::fill(out).map_err(|_| CipherError::Failed)
    }
}

impl Drop for Suite {
    fn drop(&mut self) {
        self.0.panic_in("drop");
    }
}
