//! The guard of a state store.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use claviger_plugin_api::{PluginError, StateStore};

use super::{Call, Guard, Shared, ensure};

pub(in super::super) struct GuardedStateStore<S> {
    guard: Guard<S>,
    put_new: Call,
    get: Call,
    update: Call,
    take: Call,
}

impl<S: StateStore> GuardedStateStore<S> {
    pub(in super::super) fn new(shared: &Shared, store: Arc<S>) -> Self {
        let guard = Guard::new(shared.clone(), "state_store", "state_store.health", store, |store| store.health());
        Self {
            put_new: guard.write("state_store.put_new"),
            get: guard.read("state_store.get"),
            update: guard.write("state_store.update"),
            take: guard.write("state_store.take"),
            guard,
        }
    }

    /// Where its component can be replaced.
    pub(in super::super) fn guard(&self) -> &Guard<S> {
        &self.guard
    }
}

#[async_trait]
impl<S: StateStore> StateStore for GuardedStateStore<S> {
    async fn put_new(&self, key: &str, value: &[u8], lifetime: Duration) -> Result<bool, PluginError> {
        self.guard.run(&self.put_new, |store| store.0.put_new(key, value, lifetime), |_| Ok(())).await
    }

    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, PluginError> {
        self.guard.run(&self.get, |store| store.0.get(key), short_enough).await
    }

    async fn update(&self, key: &str, expected: &[u8], value: &[u8], lifetime: Duration) -> Result<bool, PluginError> {
        self.guard.run(&self.update, |store| store.0.update(key, expected, value, lifetime), |_| Ok(())).await
    }

    async fn take(&self, key: &str) -> Result<Option<Vec<u8>>, PluginError> {
        self.guard.run(&self.take, |store| store.0.take(key), short_enough).await
    }

    async fn health(&self) -> Result<(), PluginError> {
        self.guard.health().await
    }
}

fn short_enough(value: &Option<Vec<u8>>) -> Result<(), String> {
    let len = value.as_ref().map_or(0, Vec::len);
    ensure(len <= MAX_VALUE, || format!("a value of {len} bytes, more than any that was stored"))
}

const MAX_VALUE: usize = 32 * 1024;
