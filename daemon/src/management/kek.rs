//! Key-encryption keys: the recipients of what must open again after the loss
//! of any one of them. They lie outside of the store, in files, among the
//! credentials of systemd, or as a secret that a module derives.

use std::{env, fmt, fs, io, os::unix::fs::MetadataExt, path::Path, str::FromStr, sync::Arc};

use aws_lc_rs::hmac;
use claviger_plugin_api::{KeyCustody, PluginError};
use zeroize::Zeroizing;

use super::sealing::{Aead, Unsealable, random_nonce};
use crate::config::types::KekSource;

/// Names a key-encryption key without telling it: the first 8 bytes of an HMAC
/// under it. 16 hex digits in text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KekId(pub [u8; 8]);

/// A key-encryption key: wraps keys, and never seals what grows with the users.
pub struct Kek {
    id: KekId,
    aead: Aead,
}

/// A key-encryption key that the configuration names.
#[derive(Debug)]
pub struct Recipient {
    /// Where it lies.
    pub source: KekSource,
    /// The key, or why it is not at hand.
    pub kek: Result<Kek, KekError>,
}

/// All key-encryption keys that the configuration names, in its order.
#[derive(Debug)]
pub struct Recipients(Vec<Recipient>);

/// Why a key-encryption key is not at hand.
#[derive(Debug, thiserror::Error)]
pub enum KekError {
    /// The file cannot be read.
    #[error("it cannot be read: {0}; `clavigerd keys init` makes one")]
    Read(io::Error),
    /// Others may read the file.
    #[error("others may read it (mode {0:o}); run `chmod 600` on it")]
    Mode(u32),
    /// The file does not hold a key.
    #[error("it does not hold 64 hex digits and nothing else")]
    Format,
    /// systemd has handed over no credentials.
    #[error("there are no credentials (CREDENTIALS_DIRECTORY is not set); add LoadCredential= to the unit")]
    NoCredentials,
    /// The plugin offers no custody.
    #[error("that plugin was not loaded, or has no key custody; `clavigerd plugin list` says why")]
    NoCustody,
    /// The module does not answer.
    #[error("the module does not answer: {0}")]
    Custody(PluginError),
}

impl Kek {
    /// From the key itself: wrapping key and id are derived from it.
    pub fn new(key: &[u8; 32]) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        let mut id = KekId([0; 8]);
        id.0.copy_from_slice(&hmac::sign(&key, b"claviger kek id").as_ref()[..8]);
        let mut wrapping = Zeroizing::new([0; 32]);
        wrapping.copy_from_slice(hmac::sign(&key, b"claviger kek wrap").as_ref());
        Self { id, aead: Aead::new(&wrapping) }
    }

    /// Its id.
    pub fn id(&self) -> KekId {
        self.id
    }

    /// Wraps a secret: nonce (12 bytes) ‖ ciphertext ‖ tag (16 bytes). `aad` says
    /// what it is for, begins with a label of its own for each use, and is
    /// needed to unwrap it.
    pub fn wrap(&self, aad: &[u8], secret: &[u8]) -> Result<Vec<u8>, Unsealable> {
        self.aead.seal(&[], random_nonce()?, aad, secret)
    }

    /// The secret that was wrapped with the same `aad`.
    pub fn unwrap(&self, aad: &[u8], wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unsealable> {
        self.aead.open(aad, wrapped)
    }
}

impl fmt::Debug for Kek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kek({}, redacted)", self.id)
    }
}

impl KekId {
    /// From its bytes, as they are stored.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl FromStr for KekId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok();
        let id = bytes.and_then(|bytes| Self::from_slice(&bytes));
        id.ok_or_else(|| "the id of a key-encryption key has 16 hex digits; `clavigerd keys status` lists them".into())
    }
}

impl fmt::Display for KekId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for KekId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Recipients {
    /// Opens what the configuration names. `custody` finds the custody of a
    /// plugin. Never fails: one that is not at hand says why.
    pub async fn open(
        sources: &[KekSource],
        realm: &str,
        custody: impl Fn(&str) -> Option<Arc<dyn KeyCustody>>,
    ) -> Self {
        let mut all = Vec::with_capacity(sources.len());
        for source in sources {
            let kek = match source {
                KekSource::File(path) => read(path, Mode::Private),
                KekSource::Credential(name) => match env::var_os("CREDENTIALS_DIRECTORY") {
                    // Whom systemd lets in stands in an ACL there, which shows as a mode for a group.
                    Some(directory) => read(&Path::new(&directory).join(name), Mode::Any),
                    None => Err(KekError::NoCredentials),
                },
                KekSource::Custody(plugin) => match custody(plugin) {
                    Some(custody) => derive(&*custody, realm).await,
                    None => Err(KekError::NoCustody),
                },
            };
            all.push(Recipient { source: source.clone(), kek });
        }
        Self(all)
    }

    /// All, in the order of the configuration.
    pub fn all(&self) -> &[Recipient] {
        &self.0
    }

    /// Those that are at hand.
    pub fn at_hand(&self) -> impl Iterator<Item = &Kek> {
        self.0.iter().filter_map(|recipient| recipient.kek.as_ref().ok())
    }

    /// The one of that id, when it is at hand.
    pub fn get(&self, id: KekId) -> Option<&Kek> {
        self.at_hand().find(|kek| kek.id == id)
    }
}

#[cfg(test)]
impl Recipients {
    /// These, as if files had held them.
    pub(crate) fn of(keks: impl IntoIterator<Item = Kek>) -> Self {
        let recipient = |kek: Kek| Recipient { source: KekSource::File(kek.id().to_string().into()), kek: Ok(kek) };
        Self(keks.into_iter().map(recipient).collect())
    }

    /// With one that is not at hand.
    pub(crate) fn and_missing(mut self, name: &str) -> Self {
        let kek = Err(KekError::Read(io::ErrorKind::NotFound.into()));
        self.0.push(Recipient { source: KekSource::File(name.into()), kek });
        self
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Private,
    Any,
}

/// Reads a key from a file of 64 hex digits.
fn read(path: &Path, wanted: Mode) -> Result<Kek, KekError> {
    let mode = fs::metadata(path).map_err(KekError::Read)?.mode() & 0o777;
    if wanted == Mode::Private && mode & 0o077 != 0 {
        return Err(KekError::Mode(mode));
    }
    let text = Zeroizing::new(fs::read(path).map_err(KekError::Read)?);
    let digits = text.strip_suffix(b"\n").unwrap_or(&text);
    let mut key = Zeroizing::new([0; 32]);
    if digits.len() != 64 {
        return Err(KekError::Format);
    }
    match data_encoding::HEXLOWER_PERMISSIVE.decode_mut(digits, key.as_mut_slice()) {
        Ok(_) => Ok(Kek::new(&key)),
        Err(_) => Err(KekError::Format),
    }
}

async fn derive(custody: &dyn KeyCustody, realm: &str) -> Result<Kek, KekError> {
    let context = [b"claviger kek/1\0", realm.as_bytes()].concat();
    let secret = custody.derive(&context).await.map_err(KekError::Custody)?;
    let key = secret.expose().try_into().map_err(|_| KekError::Custody(PluginError::Corrupt("not 32 bytes".into())))?;
    Ok(Kek::new(key))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn key_files_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kek");
        assert!(matches!(read(&path, Mode::Private), Err(KekError::Read(_))));
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
            assert_eq!(read(&path, Mode::Private).is_ok(), good, "{text} {mode:o}");
        }
        fs::write(&path, "00".repeat(32)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o440)).unwrap();
        assert!(read(&path, Mode::Any).is_ok());
    }

    #[test]
    fn a_wrapped_secret_opens_under_its_key_for_its_use() {
        let (one, two) = (Kek::new(&[1; 32]), Kek::new(&[2; 32]));
        let wrapped = one.wrap(b"use", b"secret").unwrap();
        assert_eq!(one.unwrap(b"use", &wrapped).unwrap().as_slice(), b"secret");
        assert!(one.unwrap(b"other", &wrapped).is_err());
        assert!(two.unwrap(b"use", &wrapped).is_err());
        assert_ne!(one.id(), two.id());
        assert_eq!(one.id().to_string().parse(), Ok(one.id()));
        assert!("12".parse::<KekId>().is_err());
        assert!(!format!("{one:?}").contains("01010101"));
    }
}
