//! Keys in custody that no record names: left behind where a daemon ended, or
//! a store went away, between the key and its record. They open nothing and
//! take room, of which a module may have little.

use std::{collections::BTreeSet, sync::Arc};

use claviger_plugin_api::{KeyId, PluginError, Record};

use super::{
    record::{CredentialRecord, EnrolmentRecord, UserRecord},
    repository::{Repository, decode},
    unique_keys::UniqueKeys,
};

/// Finds and destroys them.
pub struct Orphans {
    repository: Repository,
    unique_keys: Arc<UniqueKeys>,
}

/// Why orphans were not destroyed.
#[derive(Debug, thiserror::Error)]
pub enum DestroyError {
    /// Too many for what a failure now and then leaves behind.
    #[error(
        "{orphans} of the {keys} keys of this realm in the module are named by no record: is this the right user store, and is it whole? Nothing was destroyed; `--many` destroys them all the same"
    )]
    Suspicious {
        /// Keys of the realm.
        keys: usize,
        /// Those that no record names.
        orphans: usize,
    },
    /// Store or custody.
    #[error(transparent)]
    Away(#[from] PluginError),
}

/// Orphans that are destroyed however few keys are left.
const FEW: usize = 10;
/// Records and keys of a page.
const PAGE: usize = 1000;

impl Orphans {
    /// Of the realm whose records and keys these are.
    pub fn new(repository: Repository, unique_keys: Arc<UniqueKeys>) -> Self {
        Self { repository, unique_keys }
    }

    /// How many keys the module holds for this realm's users, and those of them
    /// that no record names at this moment. Keys of other realms on the same
    /// token, whose records are elsewhere, are not looked at. A key that is being made has no record yet: only one that is
    /// found twice, some time apart, is an orphan.
    pub async fn find(&self) -> Result<(usize, Vec<KeyId>), PluginError> {
        // The keys first: what is named by a record that comes later is not among them.
        let keys = self.unique_keys.of_users(PAGE).await?;
        let named = if keys.is_empty() { BTreeSet::new() } else { self.named().await? };
        let orphans = keys.iter().copied().filter(|id| !named.contains(id));
        Ok((keys.len(), orphans.collect()))
    }

    /// Destroys those of `ids` that no record names now; how many. Where more
    /// than half of the realm's keys look orphaned, it is more likely that the
    /// records are the wrong ones: then only with `many`.
    pub async fn destroy(&self, ids: &[KeyId], many: bool) -> Result<usize, DestroyError> {
        let (keys, orphans) = self.find().await?;
        if !many && orphans.len() > FEW && orphans.len() > keys / 2 {
            return Err(DestroyError::Suspicious { keys, orphans: orphans.len() });
        }
        let orphans: Vec<KeyId> = orphans.into_iter().filter(|id| ids.contains(id)).collect();
        for page in orphans.chunks(PAGE) {
            self.unique_keys.destroy_now(page).await?;
        }
        Ok(orphans.len())
    }

    /// Fails on a record that does not decode: whatever it names must stay.
    async fn named(&self) -> Result<BTreeSet<KeyId>, PluginError> {
        let mut named = BTreeSet::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.repository.store().list(after.as_deref(), PAGE).await?;
            for record in &page {
                if let Some(credential) = credential(record)? {
                    named.extend(credential.keys_in_custody());
                }
            }
            match page.last() {
                Some(last) if page.len() == PAGE => after = Some(last.key.clone()),
                _ => return Ok(named),
            }
        }
    }
}

fn credential(record: &Record) -> Result<Option<CredentialRecord>, PluginError> {
    let Record { key, version, value, .. } = record;
    Ok(match key.split_once('/') {
        Some(("user", _)) => decode::<UserRecord>(value, key, *version)?.value.credential,
        Some(("enrolment", _)) => {
            decode::<EnrolmentRecord>(value, key, *version)?.value.offer.map(|offer| offer.credential)
        }
        _ => None,
    })
}
