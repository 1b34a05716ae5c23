//! Who vouches for a plugin: the minisign signature that lies beside its file
//! (`FILE.minisig`), over the very bytes that are hashed and loaded.
//!
//! A signature says whose a file is, and not which: an older file with a good
//! signature is as good. The hash of the configuration (`sha256`) says which.

use std::{
    fmt,
    fs::OpenOptions,
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use data_encoding::BASE64;
use minisign_verify::{PublicKey, Signature};
use rustix::fs::OFlags;
use serde::{Serialize, Serializer};

use super::error::{PluginLoadError, one_line};
use crate::config::types::{PluginTrust, TrustedKey};

/// What a plugin's signature is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignatureStatus {
    /// There is no file `FILE.minisig`.
    None,
    /// Made with a trusted key, over these bytes.
    Trusted {
        /// The key's id, as minisign prints it.
        key: String,
        /// The comment that is signed too: what is no plain text in it is escaped.
        comment: String,
    },
    /// Made with a key that is not trusted, so that nobody looked whether it is good.
    Untrusted {
        /// The id that the signature claims.
        key: String,
    },
    /// Not over these bytes, or no signature at all.
    Bad {
        /// Why, in one line.
        reason: String,
    },
}

impl fmt::Display for SignatureStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Trusted { key, .. } => write!(f, "trusted {key}"),
            Self::Untrusted { key } => write!(f, "untrusted {key}"),
            Self::Bad { .. } => f.write_str("bad"),
        }
    }
}

impl Serialize for SignatureStatus {
    /// As it is displayed.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl SignatureStatus {
    /// Looks at the signature beside `path`, which holds `bytes`. Reads files.
    ///
    /// # Errors
    /// When a trusted key cannot be read: that is no matter of the plugin.
    pub(super) fn of(path: &Path, bytes: &[u8], trust: &PluginTrust) -> Result<Self, PluginLoadError> {
        let keys = trust.trusted_keys.iter().map(trusted).collect::<Result<Vec<_>, _>>();
        let keys = keys.map_err(PluginLoadError::TrustedKey)?;
        Ok(match read(&beside(path)) {
            Ok(text) => judge(&text, bytes, &keys).unwrap_or_else(|reason| Self::Bad { reason: one_line(&reason) }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::None,
            Err(error) => Self::Bad { reason: one_line(&format!("it cannot be read: {error}")) },
        })
    }

    /// Whether a plugin with this signature may be loaded. With no key configured nothing is asked of it.
    pub(super) fn admit(&self, path: &Path, trust: &PluginTrust) -> Result<(), PluginLoadError> {
        let file = beside(path);
        let refuse = |why: String| Err(PluginLoadError::Signature { file: file.clone(), why });
        match self {
            Self::Bad { reason } if !trust.trusted_keys.is_empty() => refuse(reason.clone()),
            Self::Bad { .. } | Self::Untrusted { .. } | Self::None if !trust.require_signature => Ok(()),
            Self::Bad { reason } => refuse(reason.clone()),
            Self::None => refuse("there is no such file, and require_signature demands a signature".to_owned()),
            Self::Untrusted { key } => refuse(format!(
                "made with key {key}, which is not among the trusted_keys, and require_signature is set"
            )),
            Self::Trusted { .. } => Ok(()),
        }
    }

    /// The signed comment of a trusted signature, escaped.
    pub fn comment(&self) -> Option<&str> {
        match self {
            Self::Trusted { comment, .. } => Some(comment),
            _ => None,
        }
    }

    /// What is wrong with a bad one.
    pub fn problem(&self) -> Option<&str> {
        match self {
            Self::Bad { reason } => Some(reason),
            _ => None,
        }
    }
}

/// `FILE.minisig`
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".minisig");
    name.into()
}

fn judge(text: &str, bytes: &[u8], keys: &[(String, PublicKey)]) -> Result<SignatureStatus, String> {
    let malformed = || "it is cut short, or no minisign signature".to_owned();
    let signature = Signature::decode(text).map_err(|_| malformed())?;
    let id = text.lines().nth(1).and_then(key_id).ok_or_else(malformed)?;
    let mut known = keys.iter().filter(|(key, _)| *key == id).map(|(_, key)| key).peekable();
    if known.peek().is_none() {
        return Ok(SignatureStatus::Untrusted { key: id });
    }
    // Ids are chosen at random, and not by us: two keys may have one.
    if !known.any(|key| key.verify(bytes, &signature, true).is_ok()) {
        return Err(format!("it is not a signature of this file by key {id}: copy both anew"));
    }
    let comment = signature.trusted_comment().escape_debug().take(MAX_COMMENT).collect();
    Ok(SignatureStatus::Trusted { key: id, comment })
}

/// The id of a key or signature in its base64 line, as minisign prints it.
fn key_id(line: &str) -> Option<String> {
    let bytes = BASE64.decode(line.as_bytes()).ok()?;
    let id = bytes.get(2..10)?.try_into().ok()?;
    Some(format!("{:X}", u64::from_le_bytes(id)))
}

fn trusted(key: &TrustedKey) -> Result<(String, PublicKey), String> {
    let parse = |line: &str| Some((key_id(line)?, PublicKey::from_base64(line).ok()?));
    match key {
        TrustedKey::Key(line) => parse(line).ok_or_else(|| format!("{line}: not a minisign public key")),
        TrustedKey::File(path) => {
            let text = read(path).map_err(|error| format!("{}: {error}", path.display()))?;
            let line = text.lines().rfind(|line| !line.trim().is_empty()).and_then(|line| parse(line.trim()));
            line.ok_or_else(|| format!("{}: no minisign public key", path.display()))
        }
    }
}

/// Whether `line` is a minisign public key.
pub(crate) fn is_public_key(line: &str) -> bool {
    key_id(line).is_some() && PublicKey::from_base64(line).is_ok()
}

/// A small text file; anything else is an error.
fn read(path: &Path) -> io::Result<String> {
    // Without NONBLOCK, opening a named pipe waits for somebody to write to it.
    let nonblock = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(nonblock).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut text = String::new();
    if file.take(MAX_FILE + 1).read_to_string(&mut text)? as u64 > MAX_FILE {
        return Err(io::Error::other("larger than any signature or key"));
    }
    Ok(text)
}

/// More than minisign's own limits for both comments.
const MAX_FILE: u64 = 16 * 1024;
/// Characters of a comment that are shown.
const MAX_COMMENT: usize = 500;

#[cfg(test)]
mod tests {
    use super::*;

    /// Those of the documentation of minisign-verify.
    const KEY: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
    const SIGNATURE: &str = "untrusted comment: signature from minisign secret key\n\
        RUQf6LRCGA9i559r3g7V1qNyJDApGip8MfqcadIgT9CuhV3EMhHoN1mGTkUidF/z7SrlQgXdy8ofjb7bNJJylDOocrCo8KLzZwo=\n\
        trusted comment: timestamp:1633700835\tfile:test\tprehashed\n\
        wLMDjy9FLAuxZ3q4NlEvkgtyhrr0gtTu6KC4KBJdITbbOeAi1zBIYo0v4iTgt8jJpIidRJnp94ABQkJAgAooBQ==\n";

    #[test]
    fn no_changed_byte_of_a_signature_is_taken() {
        let keys = [trusted(&TrustedKey::Key(KEY.to_owned())).unwrap()];
        let good = judge(SIGNATURE, b"test", &keys);
        let comment = "timestamp:1633700835\\tfile:test\\tprehashed".to_owned();
        assert_eq!(good, Ok(SignatureStatus::Trusted { key: "E7620F1842B4E81F".to_owned(), comment }));
        assert_eq!(
            judge(SIGNATURE, b"test", &[]),
            Ok(SignatureStatus::Untrusted { key: "E7620F1842B4E81F".to_owned() })
        );
        assert!(judge(SIGNATURE, b"Test", &keys).is_err());

        // The first line is signed by nobody.
        let signed = SIGNATURE.find('\n').unwrap() + 1;
        for at in signed..SIGNATURE.trim_end().len() {
            let mut changed = SIGNATURE.as_bytes().to_vec();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let judged = judge(std::str::from_utf8(&changed).unwrap(), b"test", &keys);
            assert!(!matches!(judged, Ok(SignatureStatus::Trusted { .. })), "byte {at}: {judged:?}");
        }
        for len in 0..SIGNATURE.trim_end().len() {
            assert!(judge(&SIGNATURE[..len], b"test", &keys).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        assert!(is_public_key(KEY));
        for line in ["", "RW", &KEY[..55], &KEY.replace("RWQ", "RWA").replace('f', "!"), "keys/minisign.pub"] {
            assert!(!is_public_key(line), "{line}");
        }
    }
}
