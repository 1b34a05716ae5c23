//! The file in which a terminal keeps its credential.

use std::{
    env,
    path::{Path, PathBuf},
};

use crate::{
    counter,
    credential::Credential,
    durable::{self, Lock},
    error::{Error, Result},
};

/// A credential's file: JSON with mode 0600, replaced as a whole, refused when
/// others could read it. Several processes may use it at once; each change is
/// made under the lock of `FILE.lock`. The methods block.
#[derive(Debug, Clone)]
pub struct CredentialFile {
    path: PathBuf,
}

impl CredentialFile {
    /// `$CLAVIGER_HOME/credential.json`, or `claviger/credential.json` in
    /// `$XDG_CONFIG_HOME` or `~/.config`.
    pub fn default_path() -> Result<PathBuf> {
        default_path(|name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from))
    }

    /// The file at `path`, which may not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the credential.
    pub fn load(&self) -> Result<Credential> {
        self.try_load()?.ok_or_else(|| Error::NotEnrolled { path: self.path.clone() })
    }

    /// Reads the credential; `None` when there is none.
    pub fn try_load(&self) -> Result<Option<Credential>> {
        let Some(bytes) = durable::read(&self.path)? else { return Ok(None) };
        Credential::decode(&bytes).map(Some).map_err(|reason| Error::Damaged { path: self.path.clone(), reason })
    }

    /// Changes the credential; what `change` did is on the disk on return.
    /// Nothing is written when it fails.
    pub fn update<T>(&self, change: impl FnOnce(&mut Credential) -> Result<T>) -> Result<T> {
        let _lock = self.lock()?;
        let mut credential = self.load()?;
        let result = change(&mut credential)?;
        self.store(&credential)?;
        Ok(result)
    }

    /// Stores the credential of a new enrolment, durably. Services and the
    /// counters of the one before it are kept; an existing credential that is
    /// in use is only given up when `replace` says so.
    pub(crate) fn install(&self, mut credential: Credential, replace: bool) -> Result<()> {
        durable::prepare_directory(&self.path)?;
        let _lock = self.lock()?;
        if let Some(before) = self.try_load()? {
            self.may_replace(&before, replace)?;
            credential.counter_reserved = credential.counter_reserved.max(before.counter_reserved);
            if before.realm == credential.realm {
                credential.services = before.services;
            }
        }
        self.store(&credential)
    }

    /// Whether a new enrolment may take the place of `before`.
    pub(crate) fn may_replace(&self, before: &Credential, replace: bool) -> Result<()> {
        if replace || before.is_pending() {
            Ok(())
        } else {
            Err(Error::AlreadyEnrolled { path: self.path.clone(), user: before.user() })
        }
    }

    /// The credential as it is now and a counter that was never given out
    /// before, to this process or another.
    pub fn take_counter(&self) -> Result<(Credential, u64)> {
        let lock = self.lock()?;
        let mut credential = self.load()?;
        let failed = |source| Error::File { action: "count in", path: self.lock_path(), source };
        let taken = counter::take(&lock, &credential.id, credential.counter_reserved).map_err(failed)?;
        if let Some(reserved) = taken.reserve {
            credential.counter_reserved = reserved;
            self.store(&credential)?;
        }
        counter::note(&lock, &credential.id, taken.counter + 1).map_err(failed)?;
        Ok((credential, taken.counter))
    }

    /// Waits for the lock between processes.
    pub(crate) fn lock(&self) -> Result<Lock> {
        Lock::acquire(&self.lock_path()).map_err(|error| match error {
            Error::File { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                Error::NotEnrolled { path: self.path.clone() }
            }
            other => other,
        })
    }

    fn store(&self, credential: &Credential) -> Result<()> {
        let bytes = credential.encode().map_err(|reason| Error::Damaged { path: self.path.clone(), reason })?;
        durable::write(&self.path, &bytes)
    }

    fn lock_path(&self) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(".lock");
        path.into()
    }
}

fn default_path(variable: impl Fn(&str) -> Option<PathBuf>) -> Result<PathBuf> {
    let directory = variable("CLAVIGER_HOME")
        .or_else(|| variable("XDG_CONFIG_HOME").filter(|path| path.is_absolute()).map(|path| path.join("claviger")))
        .or_else(|| variable("HOME").map(|path| path.join(".config/claviger")))
        .ok_or_else(|| Error::Invalid("neither CLAVIGER_HOME nor HOME is set; use `--credential PATH`".into()))?;
    Ok(directory.join("credential.json"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::tests::sample;

    #[test]
    fn the_default_path_follows_the_environment() {
        for (variables, expected) in [
            (&[("CLAVIGER_HOME", "/c"), ("XDG_CONFIG_HOME", "/x"), ("HOME", "/h")][..], "/c/credential.json"),
            (&[("XDG_CONFIG_HOME", "/x"), ("HOME", "/h")], "/x/claviger/credential.json"),
            (&[("XDG_CONFIG_HOME", "x"), ("HOME", "/h")], "/h/.config/claviger/credential.json"),
            (&[("HOME", "/h")], "/h/.config/claviger/credential.json"),
        ] {
            let find = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| PathBuf::from(value));
            assert_eq!(default_path(find).unwrap(), Path::new(expected));
        }
        assert!(default_path(|_| None).is_err());
    }

    #[test]
    fn counters_go_on_where_they_were() {
        let directory = tempfile::tempdir().unwrap();
        let file = CredentialFile::new(directory.path().join("credential.json"));
        assert!(matches!(file.take_counter(), Err(Error::NotEnrolled { .. })));
        file.install(sample(), false).unwrap();
        let counters: Vec<u64> = (0..3 * counter::BLOCK).map(|_| file.take_counter().unwrap().1).collect();
        assert!(counters.is_sorted_by(|a, b| a < b), "{counters:?}");
        // Each counter lies below the durable mark.
        assert!(file.load().unwrap().counter_reserved > *counters.last().unwrap());
    }

    #[test]
    fn a_credential_in_use_is_not_replaced_unasked_and_keeps_services_and_counters() {
        let directory = tempfile::tempdir().unwrap();
        let file = CredentialFile::new(directory.path().join("new/credential.json"));
        file.install(sample(), false).unwrap();
        file.take_counter().unwrap();
        let service = crate::Service::new("shop".parse().unwrap(), "https://shop".parse().unwrap());
        file.update(|credential| {
            credential.pending = None;
            credential.add_service(service)
        })
        .unwrap();
        assert!(matches!(file.install(sample(), false), Err(Error::AlreadyEnrolled { .. })));
        let before = file.load().unwrap().counter_reserved;
        file.install(sample(), true).unwrap();
        let after = file.load().unwrap();
        assert_eq!((after.counter_reserved, after.services.len()), (before, 1));
        assert!(file.take_counter().unwrap().1 > 1);
    }

    #[test]
    fn a_change_that_fails_writes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let file = CredentialFile::new(directory.path().join("credential.json"));
        file.install(sample(), false).unwrap();
        let outcome = file.update(|credential| {
            credential.epoch = 9;
            Err::<(), _>(Error::Invalid("no".into()))
        });
        assert!(outcome.is_err());
        assert_eq!(file.load().unwrap().epoch, 1);
    }
}
