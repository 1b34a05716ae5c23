//! A stream of entries in sealed chunks (the STREAM construction: Hoang,
//! Reyhanitabar, Rogaway and Vizár, 2015), with AES-256-GCM-SIV.
//!
//! The nonce of a chunk is its number (8 bytes), three zero bytes, and whether
//! it is the last one. So a chunk opens at its own place only, and a file that
//! ends early does not open to its end. The file key is used for one file, and
//! the hash of all that stands in front of the chunks is associated data.

use std::io::{BufRead, Write};

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use super::{Entry, FileError, FileKey, Header, header::Binding};
use crate::management::kek::Recipients;

/// Bytes of plaintext in every chunk but the last.
pub(in super::super) const CHUNK: usize = 64 * 1024;
/// Bytes of a tag.
pub(in super::super) const TAG: usize = 16;
/// The largest entry: a record with everything at its limit takes some 68 KiB.
const MAX_ENTRY: usize = 256 * 1024;

/// Seals one chunk after the other.
struct Sealer {
    key: LessSafeKey,
    binding: Binding,
    /// The number of the next chunk.
    number: u64,
}

impl Sealer {
    fn new(key: &FileKey, binding: Binding) -> Result<Self, FileError> {
        let key = UnboundKey::new(&AES_256_GCM_SIV, key.expose()).map_err(|_| FileError::Library)?;
        Ok(Self { key: LessSafeKey::new(key), binding, number: 0 })
    }

    fn seal(&mut self, chunk: &mut Vec<u8>, last: bool) -> Result<(), FileError> {
        let (nonce, aad) = (self.nonce(last), Aad::from(self.binding));
        self.key.seal_in_place_append_tag(nonce, aad, chunk).map_err(|_| FileError::Library)?;
        self.number += 1;
        Ok(())
    }

    fn open(&mut self, chunk: &mut Vec<u8>, last: bool) -> Result<(), FileError> {
        let (nonce, aad) = (self.nonce(last), Aad::from(self.binding));
        let opened = self.key.open_in_place(nonce, aad, chunk);
        let len = opened.map_err(|_| FileError::Damaged(format!("chunk number {}", self.number)))?.len();
        chunk.truncate(len);
        self.number += 1;
        Ok(())
    }

    fn nonce(&self, last: bool) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        nonce[..8].copy_from_slice(&self.number.to_be_bytes());
        nonce[NONCE_LEN - 1] = last.into();
        Nonce::assume_unique_for_key(nonce)
    }
}

/// Writes a backup.
pub(in super::super) struct Writer<W> {
    out: W,
    sealer: Sealer,
    /// Plaintext of the next chunk, and of what follows.
    buffer: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Writes the header of a new file.
    pub(in super::super) fn new(mut out: W, keks: &Recipients, realm: &str, made_ms: u64) -> Result<Self, FileError> {
        let (key, binding) = Header::write(&mut out, keks, realm, made_ms)?;
        Ok(Self { out, sealer: Sealer::new(&key, binding)?, buffer: Vec::with_capacity(2 * CHUNK) })
    }

    /// Adds an entry.
    pub(in super::super) fn write(&mut self, entry: &Entry) -> Result<(), FileError> {
        let bytes = minicbor::to_vec(entry).map_err(|error| FileError::Contents(error.to_string()))?;
        let len = u32::try_from(bytes.len()).ok().filter(|len| *len as usize <= MAX_ENTRY);
        let len = len.ok_or_else(|| FileError::Contents(format!("an entry of {} bytes", bytes.len())))?;
        self.buffer.extend_from_slice(&len.to_be_bytes());
        self.buffer.extend_from_slice(&bytes);
        // More than a chunk: what is last must not be empty.
        while self.buffer.len() > CHUNK {
            let rest = self.buffer.split_off(CHUNK);
            let mut chunk = std::mem::replace(&mut self.buffer, rest);
            self.put(&mut chunk, false)?;
        }
        Ok(())
    }

    /// Writes the last chunk, and all of it out.
    pub(in super::super) fn finish(mut self) -> Result<(), FileError> {
        let mut chunk = std::mem::take(&mut self.buffer);
        self.put(&mut chunk, true)?;
        Ok(self.out.flush()?)
    }

    fn put(&mut self, chunk: &mut Vec<u8>, last: bool) -> Result<(), FileError> {
        self.sealer.seal(chunk, last)?;
        Ok(self.out.write_all(chunk)?)
    }
}

/// Reads a backup. What it gives is authentic, and comes from its place.
pub(in super::super) struct Reader<R> {
    input: R,
    sealer: Sealer,
    header: Header,
    /// Plaintext that was not given out yet, from `at` on.
    buffer: Vec<u8>,
    at: usize,
    ended: bool,
}

impl<R: BufRead> Reader<R> {
    /// Reads the header and the first chunk, which makes the header authentic.
    pub(in super::super) fn new(mut input: R, keks: &Recipients) -> Result<Self, FileError> {
        let (header, key, binding) = Header::read(&mut input, keks)?;
        let sealer = Sealer::new(&key, binding)?;
        let mut reader = Self { input, sealer, header, buffer: Vec::new(), at: 0, ended: false };
        reader.more()?;
        Ok(reader)
    }

    /// What the file says of itself.
    pub(in super::super) fn header(&self) -> &Header {
        &self.header
    }

    /// The next entry; `None` at the end of the file.
    pub(in super::super) fn next(&mut self) -> Result<Option<Entry>, FileError> {
        while self.left() < 4 {
            if self.ended {
                return match self.left() {
                    0 => Ok(None),
                    _ => Err(FileError::Contents("an entry is cut off".to_owned())),
                };
            }
            self.more()?;
        }
        let mut len = [0; 4];
        len.copy_from_slice(&self.buffer[self.at..self.at + 4]);
        let len = u32::from_be_bytes(len) as usize;
        if len > MAX_ENTRY {
            return Err(FileError::Contents(format!("an entry of {len} bytes")));
        }
        while self.left() < 4 + len {
            if self.ended {
                return Err(FileError::Contents("an entry is cut off".to_owned()));
            }
            self.more()?;
        }
        let bytes = &self.buffer[self.at + 4..self.at + 4 + len];
        let entry = minicbor::decode(bytes).map_err(|error| FileError::Contents(error.to_string()))?;
        self.at += 4 + len;
        Ok(Some(entry))
    }

    fn left(&self) -> usize {
        self.buffer.len() - self.at
    }

    /// Opens the next chunk.
    fn more(&mut self) -> Result<(), FileError> {
        let mut chunk = vec![0; CHUNK + TAG];
        let mut len = 0;
        while len < chunk.len() {
            match std::io::Read::read(&mut self.input, &mut chunk[len..]) {
                Ok(0) => break,
                Ok(read) => len += read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        chunk.truncate(len);
        let last = self.input.fill_buf()?.is_empty();
        self.sealer.open(&mut chunk, last)?;
        self.buffer.drain(..self.at);
        self.at = 0;
        self.buffer.append(&mut chunk);
        self.ended = last;
        Ok(())
    }
}
