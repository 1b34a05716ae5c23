//! Writes whole files or none, with their mode set before any byte is in them.

use std::{
    fs::{self, File, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::Path,
};

use super::PkiError;

/// Whether a file that is there is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overwrite {
    /// Refused; the text says what to do instead.
    Refuse(&'static str),
    /// Replaced in one step.
    Replace,
}

/// Writes `bytes` beside `path` and moves them there in one step; durable when it returns.
pub(super) fn write(path: &Path, bytes: &[u8], mode: u32, overwrite: Overwrite) -> Result<(), PkiError> {
    let failed = |source: io::Error| PkiError::Io { path: path.to_owned(), source };
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let mut file = tempfile::Builder::new()
        .prefix(".new-")
        .permissions(Permissions::from_mode(0o600))
        .tempfile_in(directory)
        .map_err(failed)?;
    // The umask may have taken bits away, never added any.
    file.as_file().set_permissions(Permissions::from_mode(mode)).map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    match overwrite {
        Overwrite::Replace => file.persist(path).map_err(|e| failed(e.error))?,
        Overwrite::Refuse(advice) => file.persist_noclobber(path).map_err(|e| match e.error.kind() {
            io::ErrorKind::AlreadyExists => PkiError::Exists { path: path.to_owned(), advice },
            _ => failed(e.error),
        })?,
    };
    File::open(directory).and_then(|d| d.sync_all()).map_err(failed)
}

/// Makes a directory that only its owner may enter, if there is none.
pub(super) fn private_directory(path: &Path) -> Result<(), PkiError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| PkiError::Io { path: path.to_owned(), source })
}
