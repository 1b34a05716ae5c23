//! Keys of the realm that are made once and kept in the store, sealed: they
//! name users to services, make handles, and open private user ids.

use aws_lc_rs::{
    agreement,
    cipher::{AES_256, DecryptingKey, DecryptionContext, EncryptingKey, UnboundCipherKey},
    hmac, rand,
};
use claviger_plugin_api::{KeyId, PluginError, Put, UserStore, Written};
use rustls::crypto::{
    aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_256 as HPKE,
    hpke::{EncapsulatedSecret, Hpke, HpkePrivateKey},
};
use zeroize::Zeroizing;

use super::{
    keyring::Keyring,
    sealing::{Place, Seal},
};

/// The realm's own keys, all derived from one secret.
pub struct RealmKeys {
    realm: String,
    subjects: hmac::Key,
    handles: Zeroizing<[u8; 32]>,
    key_tag: [u8; KEY_TAG_LEN],
    dummy_key_id: KeyId,
    hpke: HpkePrivateKey,
    hpke_public: Vec<u8>,
}

/// Why there are no realm keys.
#[derive(Debug, thiserror::Error)]
pub enum RealmKeyError {
    /// The store.
    #[error("the user store does not answer: {0}")]
    Store(#[from] PluginError),
    /// The secret on record does not open.
    #[error(
        "the realm's secret does not open under the data keys of this store: it was damaged, or is of another realm"
    )]
    Sealed,
    /// The cipher library failed.
    #[error("the cipher library failed")]
    Library,
}

/// A handle (protocol, section 9): names a user for one sign-on, and tells
/// nobody else which.
pub type Handle = [u8; 16];

/// The part of a credential's id that a handle carries.
pub type CredentialNumber = [u8; 8];

impl RealmKeys {
    /// Reads the realm's secret, or makes it.
    pub async fn load(store: &dyn UserStore, keyring: &Keyring, realm: &str) -> Result<Self, RealmKeyError> {
        let place = place(realm);
        loop {
            if let Some(record) = store.get(&[KEY.to_owned()]).await?.pop().flatten() {
                let secret = keyring.open(place, &record.value).map_err(|_| RealmKeyError::Sealed)?;
                return Self::new(&secret, realm);
            }
            let mut secret = Zeroizing::new([0; 32]);
            rand::fill(secret.as_mut_slice()).map_err(|_| RealmKeyError::Library)?;
            let value = keyring.seal(place, secret.as_slice()).map_err(|_| RealmKeyError::Library)?;
            let put = Put { key: KEY.to_owned(), expected: 0, value, terms: Vec::new() };
            if let Written::Done(_) = store.put(put).await? {
                return Self::new(secret.as_slice(), realm);
            }
            // Another daemon made it at the same time: read that one.
        }
    }

    /// Derives all keys from the secret of 32 bytes.
    pub fn new(secret: &[u8], realm: &str) -> Result<Self, RealmKeyError> {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let derive = |label: &str| {
            let mut key = Zeroizing::new([0; 32]);
            key.copy_from_slice(hmac::sign(&secret, label.as_bytes()).as_ref());
            key
        };
        let mut key_tag = [0; KEY_TAG_LEN];
        key_tag.copy_from_slice(&derive("claviger key tag")[..KEY_TAG_LEN]);
        let dummy = derive("claviger dummy key");
        let hpke = derive("claviger hpke");
        let private = agreement::PrivateKey::from_private_key(&agreement::X25519, hpke.as_slice());
        let public = private.map_err(|_| RealmKeyError::Library)?.compute_public_key();
        Ok(Self {
            realm: realm.to_owned(),
            subjects: hmac::Key::new(hmac::HMAC_SHA256, derive("claviger subjects").as_slice()),
            handles: derive("claviger handles"),
            key_tag,
            dummy_key_id: key_id(key_tag, |rest| rest.copy_from_slice(&dummy[..rest.len()])),
            hpke_public: public.map_err(|_| RealmKeyError::Library)?.as_ref().to_vec(),
            hpke: HpkePrivateKey::from(hpke.to_vec()),
        })
    }

    /// Names the key in custody that stands in for those of users that are not
    /// known: one for the realm, however many daemons it has.
    pub fn dummy_key_id(&self) -> KeyId {
        self.dummy_key_id
    }

    /// An id for a new key in custody: the realm's tag of 4 bytes, so that
    /// realms on one token do not take each other's keys for their own, and 12
    /// random bytes.
    pub fn new_key_id(&self) -> Result<KeyId, RealmKeyError> {
        let mut random = Ok(());
        let id = key_id(self.key_tag, |rest| random = rand::fill(rest));
        random.map(|()| id).map_err(|_| RealmKeyError::Library)
    }

    /// Whether a key in custody has the tag of this realm.
    pub fn is_own_key(&self, id: &KeyId) -> bool {
        id.starts_with(&self.key_tag)
    }

    /// The subject of a user at a service: pairwise, 43 characters of base64url.
    pub fn subject(&self, service: &str, user: &str) -> String {
        let mut context = hmac::Context::with_key(&self.subjects);
        context.update(&(service.len() as u32).to_be_bytes());
        context.update(service.as_bytes());
        context.update(user.as_bytes());
        data_encoding::BASE64URL_NOPAD.encode(context.sign().as_ref())
    }

    /// A fresh handle for a credential: its number and eight random bytes,
    /// encrypted as one block. So each handle is new, nothing needs to be
    /// stored for it, and only this realm can tell whose it is.
    pub fn handle(&self, credential: &CredentialNumber) -> Option<Handle> {
        let mut block = [0; 16];
        block[..8].copy_from_slice(credential);
        rand::fill(&mut block[8..]).ok()?;
        let key = UnboundCipherKey::new(&AES_256, self.handles.as_slice()).ok()?;
        EncryptingKey::ecb(key).ok()?.encrypt(&mut block).ok()?;
        Some(block)
    }

    /// The number in a handle (attacker-controlled): of a forged one, some
    /// number that belongs to nobody.
    pub fn open_handle(&self, handle: &Handle) -> Option<CredentialNumber> {
        let mut block = *handle;
        let key = UnboundCipherKey::new(&AES_256, self.handles.as_slice()).ok()?;
        DecryptingKey::ecb(key).ok()?.decrypt(&mut block, DecryptionContext::None).ok()?;
        block[..8].try_into().ok()
    }

    /// The public key to which terminals seal user ids: X25519, 32 bytes.
    pub fn hpke_public_key(&self) -> &[u8] {
        &self.hpke_public
    }

    /// Opens a sealed user id (attacker-controlled, 112 bytes: encapsulated
    /// key 32, then 64 bytes and a tag).
    pub fn open_user_id(&self, sealed: &[u8]) -> Option<String> {
        let (encapsulated, ciphertext) = sealed.split_at_checked(32)?;
        let info = [b"IDB1 uid\0", self.realm.as_bytes()].concat();
        let encapsulated = EncapsulatedSecret(encapsulated.to_vec());
        let padded = HPKE.open(&encapsulated, &info, &[], ciphertext, &self.hpke).ok()?;
        let length = padded.iter().rposition(|byte| *byte != 0)? + 1;
        String::from_utf8(padded[..length].to_vec()).ok()
    }
}

/// Where the secret belongs.
pub(super) fn place(realm: &str) -> Place<'_> {
    Place { realm, kind: "realm secret", owner: "", epoch: 0 }
}

/// The key of the record, which is the sealed secret and nothing else.
pub const KEY: &str = "realm/secret";

/// Bytes of the realm's tag in the ids of its keys in custody.
const KEY_TAG_LEN: usize = 4;

fn key_id(tag: [u8; KEY_TAG_LEN], fill_rest: impl FnOnce(&mut [u8])) -> KeyId {
    let mut id = [0; size_of::<KeyId>()];
    id[..KEY_TAG_LEN].copy_from_slice(&tag);
    fill_rest(&mut id[KEY_TAG_LEN..]);
    id
}

#[cfg(test)]
mod tests {
    use rustls::crypto::hpke::HpkePublicKey;

    use super::*;

    #[test]
    fn subjects_are_pairwise_and_stable() {
        let keys = RealmKeys::new(&[1; 32], "example").unwrap();
        assert_eq!(keys.subject("a", "alice"), keys.subject("a", "alice"));
        let others = [keys.subject("b", "alice"), keys.subject("a", "bob"), keys.subject("aa", "lice")];
        assert!(!others.contains(&keys.subject("a", "alice")));
        assert_ne!(RealmKeys::new(&[2; 32], "example").unwrap().subject("a", "alice"), keys.subject("a", "alice"));
    }

    #[test]
    fn handles_are_fresh_and_open_to_their_credential() {
        let keys = RealmKeys::new(&[1; 32], "example").unwrap();
        let (first, second) = (keys.handle(&[7; 8]).unwrap(), keys.handle(&[7; 8]).unwrap());
        assert_ne!(first, second);
        assert_eq!(keys.open_handle(&first), Some([7; 8]));
        assert_eq!(keys.open_handle(&second), Some([7; 8]));
        let other = RealmKeys::new(&[2; 32], "example").unwrap();
        assert_ne!(other.open_handle(&first), Some([7; 8]));
    }

    #[test]
    fn keys_in_custody_are_told_apart_by_their_realm() {
        let (keys, other) = (RealmKeys::new(&[1; 32], "example").unwrap(), RealmKeys::new(&[2; 32], "other").unwrap());
        let (first, second) = (keys.new_key_id().unwrap(), keys.new_key_id().unwrap());
        assert_ne!(first, second);
        for id in [first, second, keys.dummy_key_id()] {
            assert!(keys.is_own_key(&id) && !other.is_own_key(&id));
        }
        assert_eq!(RealmKeys::new(&[1; 32], "example").unwrap().dummy_key_id(), keys.dummy_key_id());
    }

    #[test]
    fn sealed_user_ids_open_in_their_realm_only() {
        let keys = RealmKeys::new(&[1; 32], "example").unwrap();
        let seal = |id: &str, realm: &str| {
            let mut padded = id.as_bytes().to_vec();
            padded.resize(64, 0);
            let info = [b"IDB1 uid\0", realm.as_bytes()].concat();
            let public = HpkePublicKey(keys.hpke_public_key().to_vec());
            let (encapsulated, ciphertext) = HPKE.seal(&info, &[], &padded, &public).unwrap();
            [encapsulated.0, ciphertext].concat()
        };
        let sealed = seal("alice", "example");
        assert_eq!(sealed.len(), 112);
        assert_eq!(keys.open_user_id(&sealed).as_deref(), Some("alice"));
        assert_eq!(keys.open_user_id(&seal("alice", "other")), None);
        assert_eq!(keys.open_user_id(&seal("", "example")), None);
        assert_eq!(RealmKeys::new(&[2; 32], "example").unwrap().open_user_id(&sealed), None);
        for at in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[at] ^= 1;
            // The last bit of an X25519 share is ignored by the agreement, not by the key schedule.
            assert_eq!(keys.open_user_id(&bad), None, "byte {at}");
        }
    }
}
