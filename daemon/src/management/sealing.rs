//! Secrets in records: sealed under a data key before a store sees them, and
//! bound to where they belong, so that rows cannot be exchanged.
//!
//! A sealed secret is a format byte, the id of its data key (4 bytes), a nonce
//! (12 bytes), the ciphertext and a tag (16 bytes). Which data keys there are,
//! and which of them seals, is the matter of [`super::keyring`].

use std::fmt;

use aws_lc_rs::{
    aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand,
};
use zeroize::Zeroizing;

/// Names a data key within its ring: random.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DataKeyId(pub [u8; 4]);

/// Seals the secrets of records.
pub trait Seal {
    /// Seals `secret` for its place.
    fn seal(&self, place: Place<'_>, secret: &[u8]) -> Result<Vec<u8>, Unsealable>;
}

/// Seals and opens the secrets of records.
///
/// AES-256-GCM-SIV (RFC 8452) with random nonces: one key may seal far more
/// records than there are users, and a repeated nonce would show only whether
/// two secrets are equal.
pub struct DataKey {
    id: DataKeyId,
    aead: Aead,
}

/// Where a secret belongs: the associated data it is sealed with.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The realm.
    pub realm: &'a str,
    /// What kind of secret it is.
    pub kind: &'a str,
    /// Whose it is: a user id, or the id of an enrolment.
    pub owner: &'a str,
    /// Key epoch, 0 where there is none.
    pub epoch: u32,
}

/// A sealed secret does not open: it was sealed under another key, or moved, or damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a sealed secret does not open under the data keys of this realm")]
pub struct Unsealable;

impl DataKey {
    /// From the key itself.
    pub fn new(id: DataKeyId, key: &[u8; 32]) -> Self {
        Self { id, aead: Aead::new(key) }
    }

    /// A random one, for what does not outlive this process.
    pub fn random() -> Result<Self, Unsealable> {
        let mut id = DataKeyId([0; 4]);
        let mut key = Zeroizing::new([0; 32]);
        rand::fill(&mut id.0).and_then(|()| rand::fill(key.as_mut_slice())).map_err(|_| Unsealable)?;
        Ok(Self::new(id, &key))
    }

    /// Its id.
    pub fn id(&self) -> DataKeyId {
        self.id
    }

    /// Opens what this key has sealed for that place.
    pub fn open(&self, place: Place<'_>, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unsealable> {
        let (head, rest) = sealed.split_at_checked(HEAD_LEN).ok_or(Unsealable)?;
        if head != self.id.head() {
            return Err(Unsealable);
        }
        self.aead.open(&place.encode(), rest)
    }

    /// Seals what `former` has sealed for that place. The nonce stays, so that
    /// [`same_secret`] knows both for one; under another key it is no repetition.
    pub fn reseal(&self, place: Place<'_>, former: &Self, sealed: &[u8]) -> Result<Vec<u8>, Unsealable> {
        let secret = former.open(place, sealed)?;
        let nonce = nonce(sealed).ok_or(Unsealable)?;
        self.aead.seal(&self.id.head(), nonce, &place.encode(), &secret)
    }
}

impl Seal for DataKey {
    fn seal(&self, place: Place<'_>, secret: &[u8]) -> Result<Vec<u8>, Unsealable> {
        self.aead.seal(&self.id.head(), random_nonce()?, &place.encode(), secret)
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DataKey({}, redacted)", self.id)
    }
}

impl DataKeyId {
    /// The id of the data key that has sealed a secret.
    pub fn of(sealed: &[u8]) -> Option<Self> {
        let (head, _) = sealed.split_first_chunk::<HEAD_LEN>()?;
        let [FORMAT, id @ ..] = *head else { return None };
        Some(Self(id))
    }

    /// What every secret under that data key begins with.
    pub(super) fn head(self) -> [u8; HEAD_LEN] {
        let [a, b, c, d] = self.0;
        [FORMAT, a, b, c, d]
    }
}

impl fmt::Display for DataKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for DataKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Whether two sealed secrets are one, sealed under the same data key or anew
/// under another: they have one nonce of 96 random bits. It says nothing about
/// whether they open.
pub fn same_secret(one: &[u8], other: &[u8]) -> bool {
    nonce(one).is_some_and(|found| nonce(other) == Some(found))
}

impl Place<'_> {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(32 + self.realm.len() + self.kind.len() + self.owner.len());
        out.extend_from_slice(b"claviger record 1");
        for part in [self.realm, self.kind, self.owner] {
            out.extend_from_slice(&(part.len() as u32).to_be_bytes());
            out.extend_from_slice(part.as_bytes());
        }
        out.extend_from_slice(&self.epoch.to_be_bytes());
        out
    }
}

/// AES-256-GCM-SIV with its nonce in front of the ciphertext.
pub(super) struct Aead(LessSafeKey);

impl Aead {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        #[expect(clippy::expect_used, reason = "the length is that of the algorithm")]
        let key = UnboundKey::new(&AES_256_GCM_SIV, key).expect("a key of 32 bytes");
        Self(LessSafeKey::new(key))
    }

    /// `head` as it is ‖ nonce ‖ ciphertext ‖ tag.
    pub(super) fn seal(
        &self,
        head: &[u8],
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        secret: &[u8],
    ) -> Result<Vec<u8>, Unsealable> {
        // One allocation of the final size, so that no plaintext is left behind by growing.
        let begin = head.len() + NONCE_LEN;
        let mut out = Vec::with_capacity(begin + secret.len() + AES_256_GCM_SIV.tag_len());
        out.extend_from_slice(head);
        out.extend_from_slice(&nonce);
        out.extend_from_slice(secret);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self.0.seal_in_place_separate_tag(nonce, Aad::from(aad), &mut out[begin..]);
        out.extend_from_slice(tag.map_err(|_| Unsealable)?.as_ref());
        Ok(out)
    }

    /// Opens nonce ‖ ciphertext ‖ tag.
    pub(super) fn open(&self, aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unsealable> {
        let (nonce, ciphertext) = sealed.split_at_checked(NONCE_LEN).ok_or(Unsealable)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| Unsealable)?;
        let mut buffer = Zeroizing::new(ciphertext.to_vec());
        let len = self.0.open_in_place(nonce, Aad::from(aad), &mut buffer).map_err(|_| Unsealable)?.len();
        buffer.truncate(len);
        Ok(buffer)
    }
}

pub(super) fn random_nonce() -> Result<[u8; NONCE_LEN], Unsealable> {
    let mut nonce = [0; NONCE_LEN];
    rand::fill(&mut nonce).map_err(|_| Unsealable)?;
    Ok(nonce)
}

fn nonce(sealed: &[u8]) -> Option<[u8; NONCE_LEN]> {
    sealed.get(HEAD_LEN..)?.first_chunk().copied()
}

/// Of the layout above.
const FORMAT: u8 = 1;
const HEAD_LEN: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place<'_> = Place { realm: "example", kind: "keys", owner: "alice", epoch: 1 };
    const ELSEWHERE: [Place<'_>; 4] = [
        Place { realm: "other", ..PLACE },
        Place { kind: "psk", ..PLACE },
        Place { owner: "bob", ..PLACE },
        Place { epoch: 2, ..PLACE },
    ];

    #[test]
    fn a_secret_opens_only_in_its_place() {
        let key = DataKey::new(DataKeyId([1; 4]), &[7; 32]);
        let sealed = key.seal(PLACE, b"secret").unwrap();
        assert_eq!(key.open(PLACE, &sealed).unwrap().as_slice(), b"secret");
        for other in ELSEWHERE {
            assert_eq!(key.open(other, &sealed).unwrap_err(), Unsealable, "{other:?}");
        }
        assert_eq!(DataKey::new(DataKeyId([1; 4]), &[8; 32]).open(PLACE, &sealed).unwrap_err(), Unsealable);
        for at in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[at] ^= 1;
            assert_eq!(key.open(PLACE, &bad).unwrap_err(), Unsealable);
            assert_eq!(key.open(PLACE, &sealed[..at]).unwrap_err(), Unsealable);
        }
    }

    #[test]
    fn a_secret_sealed_anew_is_the_same_one_under_another_key() {
        let (former, key) = (DataKey::random().unwrap(), DataKey::random().unwrap());
        let sealed = former.seal(PLACE, b"secret").unwrap();
        let again = key.reseal(PLACE, &former, &sealed).unwrap();
        assert_eq!((DataKeyId::of(&sealed), DataKeyId::of(&again)), (Some(former.id()), Some(key.id())));
        assert_eq!(key.open(PLACE, &again).unwrap().as_slice(), b"secret");
        assert_eq!(former.open(PLACE, &again).unwrap_err(), Unsealable);
        assert!(same_secret(&sealed, &again));
        assert!(!same_secret(&sealed, &former.seal(PLACE, b"secret").unwrap()));
        assert!(!same_secret(&[], &[]));
        for other in ELSEWHERE {
            assert_eq!(key.reseal(other, &former, &sealed).unwrap_err(), Unsealable, "{other:?}");
        }
    }
}
