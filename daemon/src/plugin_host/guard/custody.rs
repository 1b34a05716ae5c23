//! The guard of key custody.

use std::sync::Arc;

use async_trait::async_trait;
use claviger_plugin_api::{KeyCustody, KeyId, MAX_TOKEN, MacRequest, PluginError, SecretBytes};

use super::{Call, Guard, Shared, ensure, rising};

pub(in super::super) struct GuardedCustody<C> {
    guard: Guard<C>,
    keep: Call,
    mac: Call,
    destroy: Call,
    keys: Call,
    derive: Call,
    initialise: Call,
    status: Call,
}

impl<C: KeyCustody> GuardedCustody<C> {
    pub(in super::super) fn new(shared: &Shared, custody: Arc<C>) -> Self {
        let guard = Guard::new(shared.clone(), "custody", "custody.health", custody, |custody| custody.health());
        Self {
            keep: guard.write("custody.keep"),
            mac: guard.read("custody.mac"),
            destroy: guard.write("custody.destroy"),
            keys: guard.read("custody.keys"),
            derive: guard.read("custody.derive"),
            initialise: guard.write("custody.initialise"),
            status: guard.read("custody.status"),
            guard,
        }
    }

    /// Where its component can be replaced.
    pub(in super::super) fn guard(&self) -> &Guard<C> {
        &self.guard
    }
}

#[async_trait]
impl<C: KeyCustody> KeyCustody for GuardedCustody<C> {
    async fn keep(&self, id: KeyId, key: SecretBytes) -> Result<Vec<u8>, PluginError> {
        let check = |token: &Vec<u8>| ensure(token.len() <= MAX_TOKEN, || format!("a token of {} bytes", token.len()));
        self.guard.run(&self.keep, |custody| custody.0.keep(id, key.clone()), check).await
    }

    async fn mac(&self, requests: &[MacRequest]) -> Result<Vec<Option<SecretBytes>>, PluginError> {
        let check = |macs: &Vec<Option<SecretBytes>>| {
            ensure(macs.len() == requests.len(), || format!("{} MACs on {} requests", macs.len(), requests.len()))?;
            let lengths = macs.iter().map(|mac| mac.as_ref().map(|mac| mac.expose().len()));
            requests.iter().zip(lengths).try_for_each(|(request, length)| {
                ensure(length.is_none_or(|length| length == request.hash_len), || "a MAC of the wrong length".into())
            })
        };
        self.guard.run(&self.mac, |custody| custody.0.mac(requests), check).await
    }

    async fn destroy(&self, ids: &[KeyId]) -> Result<(), PluginError> {
        self.guard.run(&self.destroy, |custody| custody.0.destroy(ids), |()| Ok(())).await
    }

    async fn keys(&self, after: Option<KeyId>, limit: usize) -> Result<Vec<KeyId>, PluginError> {
        let check = |keys: &Vec<KeyId>| rising(keys.iter().copied(), after, limit);
        self.guard.run(&self.keys, |custody| custody.0.keys(after, limit), check).await
    }

    async fn derive(&self, context: &[u8]) -> Result<SecretBytes, PluginError> {
        let check =
            |secret: &SecretBytes| ensure(secret.expose().len() == 32, || "a secret of the wrong length".into());
        self.guard.run(&self.derive, |custody| custody.0.derive(context), check).await
    }

    async fn initialise(&self) -> Result<String, PluginError> {
        self.guard.run(&self.initialise, |custody| custody.0.initialise(), |_| Ok(())).await
    }

    async fn status(&self) -> Result<String, PluginError> {
        self.guard.run(&self.status, |custody| custody.0.status(), |_| Ok(())).await
    }

    async fn health(&self) -> Result<(), PluginError> {
        self.guard.health().await
    }
}
