//! Everything in front of the chunks, which carry its hash: what a header says
//! is authentic once the first chunk has opened.

use std::io::{Read, Write};

use aws_lc_rs::{digest, rand};
use minicbor::{Decode, Encode};

use super::{FileError, FileKey};
use crate::management::kek::Recipients;

/// What a backup says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Header {
    /// The realm.
    #[n(0)]
    pub realm: String,
    /// When it was begun, milliseconds since 1970.
    #[n(1)]
    pub made_ms: u64,
    /// Random, to tell files apart.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub id: [u8; 16],
    /// The file key, once for each key-encryption key.
    #[n(3)]
    pub(super) wrapped: Vec<Wrapped>,
    /// The version of the daemon that made it.
    #[n(4)]
    pub version: String,
}

/// The file key, wrapped.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct Wrapped {
    /// Which key-encryption key unwraps it; empty where that has no name.
    #[n(0)]
    pub(super) recipient: String,
    /// Nonce, ciphertext and tag.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub(super) key: Vec<u8>,
}

/// SHA-256 of all bytes in front of the chunks: their associated data.
pub(super) type Binding = [u8; 32];

impl Header {
    /// Writes the header of a new file with a key of its own.
    pub(super) fn write(
        out: &mut impl Write,
        keks: &Recipients,
        realm: &str,
        made_ms: u64,
    ) -> Result<(FileKey, Binding), FileError> {
        let mut id = [0; 16];
        rand::fill(&mut id).map_err(|_| FileError::Library)?;
        let file_key = FileKey::generate()?;
        let header = Self {
            realm: realm.to_owned(),
            made_ms,
            id,
            wrapped: file_key.wrap(keks, realm, &id)?,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let header = minicbor::to_vec(&header).map_err(|error| FileError::Contents(error.to_string()))?;
        let len = u32::try_from(header.len()).map_err(|_| FileError::Library)?;
        let head = [MAGIC, &len.to_be_bytes(), &header].concat();
        out.write_all(&head)?;
        Ok((file_key, bind(&head)))
    }

    /// Reads the header, and unwraps the file key. Nothing of it is authentic yet.
    pub(super) fn read(input: &mut impl Read, keks: &Recipients) -> Result<(Self, FileKey, Binding), FileError> {
        let mut head = vec![0; MAGIC.len()];
        fill(input, &mut head)?;
        if head != MAGIC {
            let family = head.starts_with(FAMILY);
            return Err(if family { FileError::Version } else { FileError::NoBackup });
        }
        let mut len = [0; 4];
        fill(input, &mut len)?;
        let size = u32::from_be_bytes(len) as usize;
        if size > MAX_HEADER {
            return Err(damaged());
        }
        let mut bytes = vec![0; size];
        fill(input, &mut bytes)?;
        let header: Self = minicbor::decode(&bytes).map_err(|_| damaged())?;
        head.extend_from_slice(&len);
        head.extend_from_slice(&bytes);
        match FileKey::unwrap(keks, &header.realm, &header.id, &header.wrapped) {
            Some(key) => Ok((header, key, bind(&head))),
            None => Err(FileError::WrongKey(header.recipients())),
        }
    }

    /// The names of the keys that open it.
    fn recipients(&self) -> String {
        let names: Vec<&str> = self.wrapped.iter().map(|wrapped| wrapped.recipient.as_str()).collect();
        match names.iter().all(|name| name.is_empty()) {
            true => "another one".to_owned(),
            // Not authentic: nothing in it may steer a terminal.
            false => names.join(", ").chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(500).collect(),
        }
    }
}

fn bind(head: &[u8]) -> Binding {
    let mut binding = Binding::default();
    binding.copy_from_slice(digest::digest(&digest::SHA256, head).as_ref());
    binding
}

fn fill(input: &mut impl Read, buffer: &mut [u8]) -> Result<(), FileError> {
    input.read_exact(buffer).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => FileError::NoBackup,
        _ => error.into(),
    })
}

fn damaged() -> FileError {
    FileError::Damaged("header".to_owned())
}

const MAGIC: &[u8] = b"claviger backup 1\n";
/// What backups of all versions begin with.
const FAMILY: &[u8] = b"claviger backup ";
const MAX_HEADER: usize = 64 * 1024;
