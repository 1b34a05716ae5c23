//! The guard of a state store.

use std::time::Duration;

use async_trait::async_trait;
use claviger_plugin_api::{PluginError, StateStore};

use super::{Call, Guard, ensure};

pub(in super::super) struct GuardedStateStore<S> {
    guard: Guard,
    store: S,
    put_new: Call,
    get: Call,
    update: Call,
    take: Call,
    health: Call,
}

impl<S: StateStore> GuardedStateStore<S> {
    pub(in super::super) fn new(guard: Guard, store: S) -> Self {
        Self {
            put_new: guard.call("state_store.put_new"),
            get: guard.call("state_store.get"),
            update: guard.call("state_store.update"),
            take: guard.call("state_store.take"),
            health: guard.call("state_store.health"),
            guard,
            store,
        }
    }
}

#[async_trait]
impl<S: StateStore> StateStore for GuardedStateStore<S> {
    async fn put_new(&self, key: &str, value: &[u8], lifetime: Duration) -> Result<bool, PluginError> {
        self.guard.run(&self.put_new, self.store.put_new(key, value, lifetime), |_| Ok(())).await
    }

    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, PluginError> {
        self.guard.run(&self.get, self.store.get(key), short_enough).await
    }

    async fn update(&self, key: &str, expected: &[u8], value: &[u8], lifetime: Duration) -> Result<bool, PluginError> {
        self.guard.run(&self.update, self.store.update(key, expected, value, lifetime), |_| Ok(())).await
    }

    async fn take(&self, key: &str) -> Result<Option<Vec<u8>>, PluginError> {
        self.guard.run(&self.take, self.store.take(key), short_enough).await
    }

    async fn health(&self) -> Result<(), PluginError> {
        self.guard.run(&self.health, self.store.health(), |()| Ok(())).await
    }
}

fn short_enough(value: &Option<Vec<u8>>) -> Result<(), String> {
    let len = value.as_ref().map_or(0, Vec::len);
    ensure(len <= MAX_VALUE, || format!("a value of {len} bytes, more than any that was stored"))
}

const MAX_VALUE: usize = 32 * 1024;
