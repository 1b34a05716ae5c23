//! The bytes of a plugin: read once, hashed, and loaded from a memory file
//! that nobody can change any more.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, Write},
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    path::Path,
};

use aws_lc_rs::digest::{SHA256, digest};
use claviger_plugin_api::description::{Description, SECTION};
use rustix::{
    fs::{MemfdFlags, OFlags, SealFlags, fcntl_add_seals, memfd_create},
    io::Errno,
};

use super::{elf, error::PluginLoadError, signature::SignatureStatus};
use crate::config::types::PluginTrust;

/// The largest plugin in bytes.
pub(super) const MAX_BYTES: u64 = 256 * 1024 * 1024;

/// A plugin file in memory.
pub(super) struct Image {
    bytes: Vec<u8>,
    sha256: [u8; 32],
}

impl Image {
    /// Reads the file. A file that grows or changes meanwhile does no harm:
    /// what was read is what is hashed, checked and loaded.
    pub(super) fn read(path: &Path) -> Result<Self, PluginLoadError> {
        // Without NONBLOCK, opening a named pipe waits for somebody to write to it.
        let nonblock = OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(nonblock).open(path).map_err(PluginLoadError::Read)?;
        let metadata = file.metadata().map_err(PluginLoadError::Read)?;
        if !metadata.is_file() {
            return Err(PluginLoadError::Read(io::Error::other("not a regular file")));
        }
        let mut bytes = Vec::new();
        file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(PluginLoadError::Read)?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(PluginLoadError::TooLarge(metadata.len()));
        }
        Ok(Self::new(bytes))
    }

    /// The bytes that were loaded before, from their memory file.
    pub(super) fn again(mut file: &File) -> Result<Self, PluginLoadError> {
        let mut read = || {
            file.rewind()?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).map(|_| bytes)
        };
        read().map(Self::new).map_err(PluginLoadError::MemoryFile)
    }

    fn new(bytes: Vec<u8>) -> Self {
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(digest(&SHA256, &bytes).as_ref());
        Self { bytes, sha256 }
    }

    /// What the signature beside `path` is worth for these bytes. Reads files.
    pub(super) fn signature(&self, path: &Path, trust: &PluginTrust) -> Result<SignatureStatus, PluginLoadError> {
        SignatureStatus::of(path, &self.bytes, trust)
    }

    pub(super) fn sha256(&self) -> [u8; 32] {
        self.sha256
    }

    pub(super) fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Whether the file is a library for this machine.
    pub(super) fn check_elf(&self) -> Result<(), PluginLoadError> {
        Ok(elf::check(&self.bytes)?)
    }

    /// What the plugin says of itself.
    pub(super) fn description(&self) -> Result<Description, PluginLoadError> {
        let text = elf::section(&self.bytes, SECTION)?.ok_or(PluginLoadError::NotAPlugin)?;
        serde_json::from_slice(text).map_err(|error| PluginLoadError::Description(error.to_string()))
    }

    /// The same bytes as a sealed memory file, for `dlopen`.
    pub(super) fn into_memory_file(self, name: &str) -> Result<OwnedFd, PluginLoadError> {
        let make = || -> io::Result<OwnedFd> {
            let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
            // Linux before 6.3 does not know the flag, and needs none.
            let fd = match memfd_create(name, flags | MemfdFlags::EXEC) {
                Err(Errno::INVAL) => memfd_create(name, flags)?,
                made => made?,
            };
            let mut file = File::from(fd);
            file.write_all(&self.bytes)?;
            fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
            Ok(file.into())
        };
        make().map_err(PluginLoadError::MemoryFile)
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn what_is_no_file_is_refused_without_waiting() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe.so");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).unwrap();
        for path in [pipe.as_path(), directory.path(), Path::new("/dev/zero")] {
            match Image::read(path) {
                Err(PluginLoadError::Read(error)) => assert_eq!(error.to_string(), "not a regular file"),
                other => panic!("{}: {:?}", path.display(), other.map(|image| image.len())),
            }
        }
    }
}
