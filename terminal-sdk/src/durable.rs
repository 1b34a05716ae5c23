//! Private files: readable by their owner alone, and replaced as a whole.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, OFlags, flock};
use zeroize::Zeroizing;

use crate::error::{Error, Result};

/// Reads a private file; `None` when there is none. Refused when others may
/// read or change it, and when it is a symbolic link.
pub(crate) fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(NO_FOLLOW);
    let mut file = match options.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::file("read", path)(error)),
    };
    let metadata = file.metadata().map_err(Error::file("read", path))?;
    if !metadata.is_file() || metadata.len() > MAX_FILE {
        return Err(Error::Damaged { path: path.into(), reason: "it is not a file of at most 1 MiB".into() });
    }
    check_private(path, &metadata)?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(metadata.len() as usize + 1));
    file.read_to_end(&mut bytes).map_err(Error::file("read", path))?;
    Ok(Some(bytes))
}

/// Replaces a private file as a whole: after a crash it has the old content
/// or the new one. On return the new one is on the disk. The caller holds the
/// [`Lock`] of the directory's credential.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let directory = directory_of(path);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = directory.join(name);
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Error::file("remove", temporary)(error)),
        _ => {}
    }
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(&directory)?.sync_all()
    })();
    written.map_err(|error| {
        let _ = fs::remove_file(&temporary);
        Error::file("write", path)(error)
    })
}

/// Makes the directory of `path` with mode 0700. An existing one must not be
/// writable by others, who could put a file of theirs in the place of ours.
pub(crate) fn prepare_directory(path: &Path) -> Result<()> {
    let directory = directory_of(path);
    DirBuilder::new().recursive(true).mode(0o700).create(&directory).map_err(Error::file("create", &directory))?;
    let mode = fs::metadata(&directory).map_err(Error::file("read", &directory))?.mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(Error::Exposed { path: directory, open_to: "written by others", mode, fix: "go-w" });
    }
    Ok(())
}

/// An exclusive lock between processes, until it is dropped or the process ends.
pub(crate) struct Lock(File);

impl Lock {
    /// Waits for the lock on `path`, which is made when it is missing.
    pub(crate) fn acquire(path: &Path) -> Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(NO_FOLLOW);
        let file = options.open(path).map_err(Error::file("lock", path))?;
        let metadata = file.metadata().map_err(Error::file("lock", path))?;
        if metadata.mode() & 0o077 != 0 {
            // It holds no secret, but a counter that others must not change.
            file.set_permissions(Permissions::from_mode(0o600)).map_err(Error::file("lock", path))?;
        }
        loop {
            match flock(&file, FlockOperation::LockExclusive) {
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(Error::file("lock", path)(error.into())),
                Ok(()) => return Ok(Self(file)),
            }
        }
    }

    /// The lock's file, which has room for a few bytes that need not survive a power cut.
    pub(crate) fn file(&self) -> &File {
        &self.0
    }
}

const MAX_FILE: u64 = 1024 * 1024;
const NO_FOLLOW: i32 = OFlags::NOFOLLOW.union(OFlags::CLOEXEC).bits() as i32;

fn directory_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn check_private(path: &Path, metadata: &fs::Metadata) -> Result<()> {
    let mode = metadata.mode() & 0o7777;
    let fail = |open_to, fix| Err(Error::Exposed { path: path.into(), open_to, mode, fix });
    if mode & 0o077 != 0 {
        return fail("read or changed by others", "600");
    }
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(Error::Damaged { path: path.into(), reason: "it belongs to another user of this machine".into() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_files_are_private_and_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b/file");
        assert!(read(&path).unwrap().is_none());
        prepare_directory(&path).unwrap();
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
        for content in [b"first".as_slice(), b"2"] {
            write(&path, content).unwrap();
            assert_eq!(read(&path).unwrap().unwrap().as_slice(), content);
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        }
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn files_that_others_could_reach_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        write(&path, b"secret").unwrap();
        for mode in [0o604, 0o640, 0o622] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let error = read(&path).unwrap_err();
            assert!(matches!(error, Error::Exposed { .. }), "{error}");
            assert!(error.to_string().contains("chmod 600"), "{error}");
        }
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink(&path, directory.path().join("link")).unwrap();
        assert!(read(&directory.path().join("link")).is_err());
        fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(prepare_directory(&path), Err(Error::Exposed { .. })));
    }
}
