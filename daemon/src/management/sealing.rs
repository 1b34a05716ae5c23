//! Secrets in records: sealed under a key-encryption key before a store sees
//! them, and bound to where they belong, so that rows cannot be exchanged.

use std::{fmt, fs, os::unix::fs::MetadataExt, path::Path};

use aws_lc_rs::{
    aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand,
};
use zeroize::Zeroizing;

/// Seals and opens the secrets of records.
///
/// AES-256-GCM-SIV (RFC 8452) with random nonces: one key may seal far more
/// records than there are users, and a repeated nonce would show only whether
/// two secrets are equal.
pub struct KeyEncryptionKey {
    key: LessSafeKey,
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

/// Why a key-encryption key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KekError {
    /// The file cannot be read.
    #[error("key-encryption key {}: {}; make one with `clavigerd keys init {}`", .0, .1, .0)]
    Read(String, std::io::Error),
    /// Others may read the file.
    #[error("key-encryption key {0}: others may read it (mode {1:o}); run `chmod 600 {0}`")]
    Mode(String, u32),
    /// The file does not hold a key.
    #[error("key-encryption key {0}: expected 64 hex digits and nothing else")]
    Format(String),
}

/// A sealed secret does not open: it was sealed under another key, or moved, or damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a sealed secret does not open under this key-encryption key")]
pub struct Unsealable;

impl KeyEncryptionKey {
    /// Reads the key from a file of 64 hex digits that only its owner can read.
    pub fn read(path: &Path) -> Result<Self, KekError> {
        let name = path.display().to_string();
        let read = |error| KekError::Read(name.clone(), error);
        let mode = fs::metadata(path).map_err(read)?.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KekError::Mode(name, mode));
        }
        let text = Zeroizing::new(fs::read(path).map_err(read)?);
        let digits = text.strip_suffix(b"\n").unwrap_or(&text);
        let mut key = Zeroizing::new([0; 32]);
        if digits.len() != 64 {
            return Err(KekError::Format(name));
        }
        match data_encoding::HEXLOWER_PERMISSIVE.decode_mut(digits, key.as_mut_slice()) {
            Ok(_) => Ok(Self::new(&key)),
            Err(_) => Err(KekError::Format(name)),
        }
    }

    /// From the key itself.
    pub fn new(key: &[u8; 32]) -> Self {
        #[expect(clippy::expect_used, reason = "the length is that of the algorithm")]
        let key = UnboundKey::new(&AES_256_GCM_SIV, key).expect("a key of 32 bytes");
        Self { key: LessSafeKey::new(key) }
    }

    /// Seals `secret` for its place: nonce ‖ ciphertext ‖ tag.
    pub fn seal(&self, place: Place<'_>, secret: &[u8]) -> Result<Vec<u8>, Unsealable> {
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).map_err(|_| Unsealable)?;
        // One allocation of the final size, so that no plaintext is left behind by growing.
        let mut out = Vec::with_capacity(NONCE_LEN + secret.len() + 16);
        out.extend_from_slice(&nonce);
        out.extend_from_slice(secret);
        let tag = self
            .key
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(place.encode()),
                &mut out[NONCE_LEN..],
            )
            .map_err(|_| Unsealable)?;
        out.extend_from_slice(tag.as_ref());
        Ok(out)
    }

    /// Opens what was sealed for that place.
    pub fn open(&self, place: Place<'_>, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unsealable> {
        let (nonce, ciphertext) = sealed.split_at_checked(NONCE_LEN).ok_or(Unsealable)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| Unsealable)?;
        let mut buffer = Zeroizing::new(ciphertext.to_vec());
        let len = self.key.open_in_place(nonce, Aad::from(place.encode()), &mut buffer).map_err(|_| Unsealable)?.len();
        buffer.truncate(len);
        Ok(buffer)
    }
}

impl fmt::Debug for KeyEncryptionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyEncryptionKey(redacted)")
    }
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const PLACE: Place<'_> = Place { realm: "example", kind: "keys", owner: "alice", epoch: 1 };

    #[test]
    fn a_secret_opens_only_in_its_place() {
        let kek = KeyEncryptionKey::new(&[7; 32]);
        let sealed = kek.seal(PLACE, b"secret").unwrap();
        assert_eq!(kek.open(PLACE, &sealed).unwrap().as_slice(), b"secret");
        for other in [
            Place { realm: "other", ..PLACE },
            Place { kind: "psk", ..PLACE },
            Place { owner: "bob", ..PLACE },
            Place { epoch: 2, ..PLACE },
        ] {
            assert_eq!(kek.open(other, &sealed).unwrap_err(), Unsealable, "{other:?}");
        }
        assert_eq!(KeyEncryptionKey::new(&[8; 32]).open(PLACE, &sealed).unwrap_err(), Unsealable);
        for at in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[at] ^= 1;
            assert_eq!(kek.open(PLACE, &bad).unwrap_err(), Unsealable);
            assert_eq!(kek.open(PLACE, &sealed[..at]).unwrap_err(), Unsealable);
        }
    }

    #[test]
    fn key_files_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kek");
        assert!(matches!(KeyEncryptionKey::read(&path), Err(KekError::Read(..))));
        for (text, mode, good) in [
            ("00".repeat(32), 0o600, true),
            ("0A".repeat(32) + "\n", 0o400, true),
            ("00".repeat(32), 0o640, false),
            ("00".repeat(31), 0o600, false),
            ("00".repeat(33), 0o600, false),
            ("zz".repeat(32), 0o600, false),
        ] {
            let _ = fs::remove_file(&path);
            fs::write(&path, &text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(KeyEncryptionKey::read(&path).is_ok(), good, "{text} {mode:o}");
        }
    }
}
