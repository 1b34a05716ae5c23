//! Tokens of `mode = "derived"`: a unique key, sealed under one that the module
//! derives for it.
//!
//! A token is `1 || nonce (12) || ciphertext (32) || tag (16)`, AES-256-GCM-SIV
//! with the key's id as associated data.

use aws_lc_rs::{
    aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hmac, rand,
};
use claviger_plugin_api::{KeyId, PluginError, SecretBytes};
use zeroize::Zeroize;

use crate::objects::KEY_LEN;

const VERSION: u8 = 1;
const TAG_LEN: usize = 16;
/// Bytes of a token.
const TOKEN_LEN: usize = 1 + NONCE_LEN + KEY_LEN + TAG_LEN;

/// What the module computes the sealing key of a unique key over.
pub(crate) fn context(id: &KeyId) -> Vec<u8> {
    [b"claviger ku/1\0", &id[..]].concat()
}

/// Seals a unique key.
pub(crate) fn seal(sealing: &SecretBytes, id: &KeyId, key: &SecretBytes) -> Result<Vec<u8>, PluginError> {
    let mut nonce = [0; NONCE_LEN];
    rand::fill(&mut nonce).map_err(|_| failed())?;
    let mut token = Vec::with_capacity(TOKEN_LEN);
    token.push(VERSION);
    token.extend_from_slice(&nonce);
    token.extend_from_slice(key.expose());
    let sealed = cipher(sealing)?.seal_in_place_separate_tag(
        Nonce::assume_unique_for_key(nonce),
        Aad::from(id),
        &mut token[1 + NONCE_LEN..],
    );
    let Ok(tag) = sealed else {
        token.zeroize();
        return Err(failed());
    };
    token.extend_from_slice(tag.as_ref());
    Ok(token)
}

/// Opens a token; `None` where it was not sealed for this id under this key, or
/// is damaged.
pub(crate) fn open(sealing: &SecretBytes, id: &KeyId, token: &[u8]) -> Result<Option<SecretBytes>, PluginError> {
    let Some((&[VERSION], body)) = token.split_first_chunk::<1>() else { return Ok(None) };
    if token.len() != TOKEN_LEN {
        return Ok(None);
    }
    let (nonce, sealed) = body.split_at(NONCE_LEN);
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| failed())?;
    let mut buffer = SecretBytes::copy_from(sealed);
    let opened = cipher(sealing)?.open_in_place(nonce, Aad::from(id), buffer.expose_mut());
    Ok(opened.ok().map(|key| SecretBytes::copy_from(key)))
}

/// An HMAC with an opened key. `hash_len` is 32 or 48.
pub(crate) fn mac(key: &SecretBytes, hash_len: usize, message: &[u8]) -> SecretBytes {
    let algorithm = if hash_len == 48 { hmac::HMAC_SHA384 } else { hmac::HMAC_SHA256 };
    let tag = hmac::sign(&hmac::Key::new(algorithm, key.expose()), message);
    SecretBytes::copy_from(tag.as_ref())
}

fn cipher(sealing: &SecretBytes) -> Result<LessSafeKey, PluginError> {
    Ok(LessSafeKey::new(UnboundKey::new(&AES_256_GCM_SIV, sealing.expose()).map_err(|_| failed())?))
}

fn failed() -> PluginError {
    PluginError::Unavailable("the cipher library failed".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_opens_under_its_own_key_and_id_only_and_unchanged() {
        let (sealing, other) = (SecretBytes::copy_from(&[1; 32]), SecretBytes::copy_from(&[2; 32]));
        let key = SecretBytes::copy_from(&[3; 32]);
        let token = seal(&sealing, &[4; 16], &key).unwrap();
        assert_eq!(open(&sealing, &[4; 16], &token).unwrap().unwrap().expose(), key.expose());
        assert_ne!(seal(&sealing, &[4; 16], &key).unwrap(), token, "nonces are random");
        let refused = |answer: Result<Option<SecretBytes>, PluginError>| matches!(answer, Ok(None));
        assert!(refused(open(&other, &[4; 16], &token)), "another sealing key");
        assert!(refused(open(&sealing, &[5; 16], &token)), "another id");
        for at in 0..token.len() {
            let mut changed = token.clone();
            changed[at] ^= 1;
            assert!(refused(open(&sealing, &[4; 16], &changed)), "byte {at}");
            assert!(refused(open(&sealing, &[4; 16], &token[..at])), "cut to {at}");
        }
        assert!(refused(open(&sealing, &[4; 16], &[&token[..], &[0]].concat())), "a trailing byte");
    }
}
