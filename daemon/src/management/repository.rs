//! Records in the user store: reading, and changing them only if nobody else
//! did in between.

use std::sync::Arc;

use claviger_plugin_api::{Cursor, PluginError, Put, Scan, UserStore, Written};

use super::record::{CredentialRecord, Stored, credential_key};

/// Typed access to the store.
#[derive(Clone)]
pub struct Repository {
    store: Arc<dyn UserStore>,
}

/// A record with the version it was read at.
#[derive(Debug, Clone, PartialEq)]
pub struct Versioned<T> {
    /// The record.
    pub value: T,
    /// Its version in the store.
    pub version: u64,
}

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError<E> {
    /// There is no such record.
    #[error("there is no such record")]
    NotFound,
    /// The change itself refused.
    #[error("{0}")]
    Refused(E),
    /// Others changed it at each of our attempts.
    #[error("changed by somebody else at the same time")]
    Conflict,
    /// The store.
    #[error(transparent)]
    Store(#[from] PluginError),
}

impl Repository {
    /// On top of a store.
    pub fn new(store: Arc<dyn UserStore>) -> Self {
        Self { store }
    }

    /// The store itself.
    pub fn store(&self) -> &Arc<dyn UserStore> {
        &self.store
    }

    /// Reads one record.
    pub async fn get<T: Stored>(&self, key: &str) -> Result<Option<Versioned<T>>, PluginError> {
        let keys = [key.to_owned()];
        let found = self.store.get(&keys).await?.pop().flatten();
        found.map(|record| decode(&record.value, &record.key, record.version)).transpose()
    }

    /// Writes a new record; `false` when there is one already.
    pub async fn create<T: Stored>(&self, key: &str, value: &T) -> Result<bool, PluginError> {
        self.put(key, 0, value).await
    }

    /// Writes a record if it still has the version; `false` when it has another.
    pub async fn put<T: Stored>(&self, key: &str, expected: u64, value: &T) -> Result<bool, PluginError> {
        let put = Put { key: key.to_owned(), expected, value: value.to_bytes(), terms: value.terms() };
        Ok(matches!(self.store.put(put).await?, Written::Done(_)))
    }

    /// Reads, changes and writes, again when somebody else was faster. When
    /// `change` says `false` nothing needs to be written.
    pub async fn change<T: Stored, E>(
        &self,
        key: &str,
        mut change: impl FnMut(&mut T) -> Result<bool, E>,
    ) -> Result<T, ChangeError<E>> {
        for _ in 0..ATTEMPTS {
            let Some(mut found) = self.get::<T>(key).await? else { return Err(ChangeError::NotFound) };
            let write = change(&mut found.value).map_err(ChangeError::Refused)?;
            if !write || self.put(key, found.version, &found.value).await? {
                return Ok(found.value);
            }
        }
        Err(ChangeError::Conflict)
    }

    /// Deletes a record, whatever its version; `None` when there was none.
    pub async fn remove<T: Stored>(&self, key: &str) -> Result<Option<T>, ChangeError<()>> {
        for _ in 0..ATTEMPTS {
            let Some(found) = self.get::<T>(key).await? else { return Ok(None) };
            if let Written::Done(_) = self.store.delete(key, found.version).await? {
                return Ok(Some(found.value));
            }
        }
        Err(ChangeError::Conflict)
    }

    /// Makes a credential's number lead to its user.
    pub async fn index_credential(&self, credential: &CredentialRecord, user: &str) -> Result<(), PluginError> {
        let key = credential_key(&credential.number());
        let put = Put { key, expected: 0, value: user.as_bytes().to_vec(), terms: Vec::new() };
        self.store.put(put).await.map(|_| ()) // a conflict: it was made before
    }

    /// Forgets the counters and the number of a credential that is gone.
    pub async fn forget_credential(&self, credential: &CredentialRecord) -> Result<(), PluginError> {
        self.store.forget_counters(credential.id).await?;
        let key = credential_key(&credential.number());
        let found = self.store.get(std::slice::from_ref(&key)).await?.pop().flatten();
        if let Some(found) = found {
            self.store.delete(&key, found.version).await?;
        }
        Ok(())
    }

    /// One page of an index; the cursor of the next page where there is one.
    pub async fn page<T: Stored>(
        &self,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<(Vec<T>, Option<Cursor>), PluginError> {
        let term = T::INDEX.unwrap_or_default().to_owned();
        let page = self.store.scan(Scan { term, after, limit }).await?;
        let records = page
            .records
            .iter()
            .map(|record| decode::<T>(&record.value, &record.key, record.version).map(|found| found.value))
            .collect::<Result<_, _>>()?;
        Ok((records, page.next))
    }

    /// Key and version of up to `limit` records whose index value is below `value`.
    pub async fn before<T: Stored>(&self, value: &str, limit: usize) -> Result<Vec<(String, u64)>, PluginError> {
        let term = T::INDEX.unwrap_or_default().to_owned();
        let page = self.store.scan(Scan { term: term.clone(), after: None, limit }).await?;
        let below = page
            .records
            .into_iter()
            .filter(|record| record.terms.iter().any(|index| index.name == term && index.value.as_str() < value));
        Ok(below.map(|record| (record.key, record.version)).collect())
    }

    /// All records of an index.
    pub async fn all<T: Stored>(&self) -> Result<Vec<T>, PluginError> {
        let mut all = Vec::new();
        let mut after = None;
        loop {
            let (records, next) = self.page(after, 500).await?;
            all.extend(records);
            match next {
                Some(next) => after = Some(next),
                None => return Ok(all),
            }
        }
    }
}

/// Decodes a stored record.
pub(super) fn decode<T: Stored>(bytes: &[u8], key: &str, version: u64) -> Result<Versioned<T>, PluginError> {
    T::from_bytes(bytes)
        .map(|value| Versioned { value, version })
        .map_err(|error| PluginError::Corrupt(format!("record {key}: {error}")))
}

const ATTEMPTS: usize = 16;
