//! A state store in memory that goes by a test's clock.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;

use super::StoppedClock;
use crate::{PluginError, StateStore};

/// A [`StateStore`] in memory. It keeps the contract, forgets nothing of its
/// own accord, and lets a test look at what a plugin stored.
pub struct MemoryState {
    clock: StoppedClock,
    values: Mutex<HashMap<String, Entry>>,
}

struct Entry {
    value: Vec<u8>,
    ends: SystemTime,
}

impl MemoryState {
    /// An empty store that goes by `clock`.
    pub fn new(clock: StoppedClock) -> Self {
        Self { clock, values: Mutex::default() }
    }

    /// Everything that is stored and not over, in order of the keys.
    pub fn entries(&self) -> Vec<(String, Vec<u8>)> {
        let values = self.live();
        let mut entries: Vec<_> = values.iter().map(|(key, entry)| (key.clone(), entry.value.clone())).collect();
        entries.sort();
        entries
    }

    /// Stores a value whatever was there, as a test of damaged values needs it.
    pub fn overwrite(&self, key: &str, value: &[u8], lifetime: Duration) {
        let entry = self.entry(value, lifetime);
        self.live().insert(key.to_owned(), entry);
    }

    fn entry(&self, value: &[u8], lifetime: Duration) -> Entry {
        Entry { value: value.to_vec(), ends: self.clock.now() + lifetime }
    }

    /// The values, without those whose lifetime is over.
    fn live(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        values.retain(|_, entry| now < entry.ends);
        values
    }
}

#[async_trait]
impl StateStore for MemoryState {
    async fn put_new(&self, key: &str, value: &[u8], lifetime: Duration) -> Result<bool, PluginError> {
        let entry = self.entry(value, lifetime);
        let mut values = self.live();
        let free = !values.contains_key(key);
        if free {
            values.insert(key.to_owned(), entry);
        }
        Ok(free)
    }

    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, PluginError> {
        Ok(self.live().get(key).map(|entry| entry.value.clone()))
    }

    async fn update(&self, key: &str, expected: &[u8], value: &[u8], lifetime: Duration) -> Result<bool, PluginError> {
        let new = self.entry(value, lifetime);
        match self.live().get_mut(key) {
            Some(entry) if entry.value == expected => {
                *entry = new;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    async fn take(&self, key: &str) -> Result<Option<Vec<u8>>, PluginError> {
        Ok(self.live().remove(key).map(|entry| entry.value))
    }

    async fn health(&self) -> Result<(), PluginError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::testkit;

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn it_keeps_the_contract() {
        let clock = StoppedClock::new();
        testkit::state_store(
            || async { Arc::new(MemoryState::new(clock.clone())) as Arc<dyn StateStore> },
            async |time| clock.pass(time),
        )
        .await;
    }
}
