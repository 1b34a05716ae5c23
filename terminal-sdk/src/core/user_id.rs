//! User ids that only the management server can read (section 9): HPKE in
//! base mode with DHKEM(X25519), HKDF-SHA256 and AES-256-GCM.

use claviger_protocol::Realm;
use rustls::crypto::{
    aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_256,
    hpke::{Hpke, HpkePublicKey},
};
use zeroize::Zeroizing;

use crate::error::{Error, Result};

/// The longest user id in bytes that can be sealed.
pub(crate) const MAX_LEN: usize = 64;

/// Seals a user id, padded to 64 bytes, to the realm's key: 112 bytes, other
/// ones each time.
pub(crate) fn seal(realm: &Realm, user_id: &[u8], key: &[u8; 32]) -> Result<Vec<u8>> {
    check(user_id)?;
    let mut padded = Zeroizing::new([0; MAX_LEN]);
    padded[..user_id.len()].copy_from_slice(user_id);
    let hpke: &dyn Hpke = DH_KEM_X25519_HKDF_SHA256_AES_256;
    let (share, ciphertext) = hpke
        .seal(&info(realm), &[], padded.as_slice(), &HpkePublicKey(key.to_vec()))
        .map_err(|_| Error::Crypto("the realm's key for user ids is not valid; run `claviger services refresh`"))?;
    Ok([share.0, ciphertext].concat())
}

/// Refuses a user id that does not fit.
pub(crate) fn check(user_id: &[u8]) -> Result<()> {
    if user_id.len() <= MAX_LEN {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "the user id has {} bytes, and private user ids have at most {MAX_LEN}; ask your administrator for a shorter one",
        user_id.len()
    )))
}

fn info(realm: &Realm) -> Vec<u8> {
    [b"IDB1 uid\0", realm.as_str().as_bytes()].concat()
}

#[cfg(test)]
pub(crate) mod tests {
    use rustls::crypto::hpke::{EncapsulatedSecret, HpkeKeyPair};

    use super::*;

    fn pair() -> HpkeKeyPair {
        let (public_key, private_key) = DH_KEM_X25519_HKDF_SHA256_AES_256.generate_key_pair().unwrap();
        HpkeKeyPair { public_key, private_key }
    }

    pub(crate) fn public_key() -> [u8; 32] {
        pair().public_key.0.try_into().unwrap()
    }

    #[test]
    fn only_the_management_server_of_the_realm_reads_it() {
        let (realm, pair) = ("example".parse().unwrap(), pair());
        let key = pair.public_key.0.clone().try_into().unwrap();
        let sealed = seal(&realm, b"alice", &key).unwrap();
        assert_eq!(sealed.len(), 112);
        assert_ne!(sealed, seal(&realm, b"alice", &key).unwrap());
        let open = |info: &[u8]| {
            let share = EncapsulatedSecret(sealed[..32].to_vec());
            DH_KEM_X25519_HKDF_SHA256_AES_256.open(&share, info, &[], &sealed[32..], &pair.private_key)
        };
        let plain = open(b"IDB1 uid\0example").unwrap();
        assert_eq!((plain.len(), &plain[..6]), (64, &b"alice\0"[..]));
        assert!(open(b"IDB1 uid\0other").is_err());
    }

    #[test]
    fn ids_that_do_not_fit_are_refused_with_advice() {
        let (realm, key) = ("example".parse().unwrap(), public_key());
        assert!(seal(&realm, &[b'x'; 64], &key).is_ok());
        let error = seal(&realm, &[b'x'; 65], &key).unwrap_err();
        assert!(error.to_string().contains("at most 64"), "{error}");
    }
}
