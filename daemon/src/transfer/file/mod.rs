//! The format of backups. The whole file is encrypted, since records carry
//! names, mail addresses and groups in clear.
//!
//! ```text
//! "claviger backup 1\n"
//! length of the header, 4 bytes     integers are big-endian
//! header                            CBOR: realm, time, id, the file key wrapped for each key-encryption key
//! chunks                            of 64 KiB of plaintext, the last one shorter or as long; each with a tag of 16 bytes
//! ```
//!
//! The chunks' plaintext is a sequence of entries, each with its length (4
//! bytes) in front: records, rows of counters, and an end with their numbers.
//!
//! - [`Header`], `header`: everything in front of the chunks.
//! - `chunks`: sealing and opening of chunks. None can be changed, left out,
//!   put elsewhere, or taken from another file, and the last one is known as such.
//! - `entry`: what they hold.
//! - `keys`: the file key, and who can unwrap it.
//!
//! Everything in a file is attacker-controlled until its chunk has opened.

mod chunks;
mod entry;
mod header;
mod keys;
#[cfg(test)]
mod tests;

use std::io;

pub(super) use chunks::{Reader, Writer};
pub(super) use entry::Entry;
#[cfg(test)]
pub(super) use entry::{CounterEntry, RecordEntry};
pub use header::Header;
use keys::FileKey;

/// What is wrong with a backup.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The file system.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It does not begin as a backup does.
    #[error("this is no backup of a realm")]
    NoBackup,
    /// It was made by a later version.
    #[error("a backup of a version that this clavigerd does not know; use the one that made it")]
    Version,
    /// No key unwraps the file key.
    #[error(
        "the configured key-encryption key does not open it: it was made under {0}, or its header is damaged; \
         configure that key"
    )]
    WrongKey(String),
    /// It is to be written, and nobody could open it.
    #[error("no key-encryption key is at hand for which it could be encrypted; see management.key_encryption_keys")]
    NoKey,
    /// A byte was changed, or some are missing.
    #[error("it is damaged or incomplete, in the {0}")]
    Damaged(String),
    /// It opens, and what is in it breaks the format.
    #[error("it opens, and its contents are wrong: {0}")]
    Contents(String),
    /// The cipher library failed.
    #[error("the cipher library failed")]
    Library,
}

impl FileError {
    /// For programs.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Io(_) => "io",
            Self::NoBackup | Self::Damaged(_) | Self::Contents(_) => "damaged",
            Self::Version => "version",
            Self::WrongKey(_) => "wrong-key",
            Self::NoKey => "no-key",
            Self::Library => "failed",
        }
    }
}
