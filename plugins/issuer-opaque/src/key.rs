//! The keys: how they are made, presented and looked up.

use aws_lc_rs::{
    digest::{SHA256, digest},
    rand,
};
use claviger_plugin_api::{PluginError, Presented, SecretBytes};
use data_encoding::BASE64URL_NOPAD;

/// Random bytes of a key: 256 bits.
const KEY_LEN: usize = 32;
/// Characters of a key: its bytes in base64url without padding.
const TEXT_LEN: usize = 43;
/// Random bytes of a key's public name.
pub(crate) const ID_LEN: usize = 16;

/// The random bytes of a key. Its text is what the terminal gets; its hash is
/// all that is stored.
pub(crate) struct Key(SecretBytes);

impl Key {
    /// Draws a new key.
    pub(crate) fn random() -> Result<Self, PluginError> {
        let mut bytes = SecretBytes::zeroed(KEY_LEN);
        fill(bytes.expose_mut())?;
        Ok(Self(bytes))
    }

    /// The key that a request presents: the only `Authorization` header, scheme
    /// `Bearer` in any case, one space, and exactly 43 characters of canonical
    /// base64url. `None` for anything else, which is no key of this issuer.
    pub(crate) fn presented(presented: &Presented) -> Option<Self> {
        let (scheme, text) = presented.single_header("authorization")?.split_at_checked(b"Bearer ".len())?;
        if !scheme.eq_ignore_ascii_case(b"Bearer ") || text.len() != TEXT_LEN {
            return None;
        }
        // 43 characters decode to exactly 32 bytes, straight into the secret.
        let mut bytes = SecretBytes::zeroed(KEY_LEN);
        BASE64URL_NOPAD.decode_mut(text, bytes.expose_mut()).ok()?;
        Some(Self(bytes))
    }

    /// The text that the terminal presents.
    pub(crate) fn text(&self) -> SecretBytes {
        let mut text = SecretBytes::zeroed(TEXT_LEN);
        BASE64URL_NOPAD.encode_mut(self.0.expose(), text.expose_mut());
        text
    }

    /// Where the state store keeps the session. It tells nothing about the key,
    /// so it need not be compared in constant time.
    pub(crate) fn slot(&self) -> String {
        let hash = digest(&SHA256, self.0.expose());
        format!("{SLOT}{}", BASE64URL_NOPAD.encode(hash.as_ref()))
    }
}

/// How a slot begins.
pub(crate) const SLOT: &str = "ok/";

/// Draws the public name of a key.
pub(crate) fn random_id() -> Result<[u8; ID_LEN], PluginError> {
    let mut id = [0; ID_LEN];
    fill(&mut id)?;
    Ok(id)
}

/// Where the state store keeps the slot of the key with this public name.
pub(crate) fn index_slot(id: &[u8; ID_LEN]) -> String {
    format!("oi/{}", BASE64URL_NOPAD.encode(id))
}

fn fill(bytes: &mut [u8]) -> Result<(), PluginError> {
    rand::fill(bytes).map_err(|_| PluginError::Unavailable("the random generator failed".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_the_hash_of_the_key() {
        // SHA-256 of 32 zero bytes.
        let key = Key(SecretBytes::zeroed(KEY_LEN));
        assert_eq!(key.text().expose(), [b'A'; TEXT_LEN]);
        assert_eq!(key.slot(), "ok/Zmh6rfhivXdsj8GLjp-OIAiXFIVu4jOzkCpZHQ1fKSU");
    }

    #[test]
    fn keys_and_ids_do_not_repeat() {
        let slots: std::collections::HashSet<String> =
            (0..100).flat_map(|_| [Key::random().unwrap().slot(), index_slot(&random_id().unwrap())]).collect();
        assert_eq!(slots.len(), 200);
    }
}
