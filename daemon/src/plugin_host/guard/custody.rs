//! The guard of key custody.

use async_trait::async_trait;
use claviger_plugin_api::{KeyCustody, KeyId, MAX_TOKEN, MacRequest, PluginError, SecretBytes};

use super::{Call, Guard, ensure, rising};

pub(in super::super) struct GuardedCustody<C> {
    guard: Guard,
    custody: C,
    keep: Call,
    mac: Call,
    destroy: Call,
    keys: Call,
    derive: Call,
    initialise: Call,
    status: Call,
    health: Call,
}

impl<C: KeyCustody> GuardedCustody<C> {
    pub(in super::super) fn new(guard: Guard, custody: C) -> Self {
        Self {
            keep: guard.call("custody.keep"),
            mac: guard.call("custody.mac"),
            destroy: guard.call("custody.destroy"),
            keys: guard.call("custody.keys"),
            derive: guard.call("custody.derive"),
            initialise: guard.call("custody.initialise"),
            status: guard.call("custody.status"),
            health: guard.call("custody.health"),
            guard,
            custody,
        }
    }
}

#[async_trait]
impl<C: KeyCustody> KeyCustody for GuardedCustody<C> {
    async fn keep(&self, id: KeyId, key: SecretBytes) -> Result<Vec<u8>, PluginError> {
        let check = |token: &Vec<u8>| ensure(token.len() <= MAX_TOKEN, || format!("a token of {} bytes", token.len()));
        self.guard.run(&self.keep, self.custody.keep(id, key), check).await
    }

    async fn mac(&self, requests: &[MacRequest]) -> Result<Vec<Option<SecretBytes>>, PluginError> {
        let check = |macs: &Vec<Option<SecretBytes>>| {
            ensure(macs.len() == requests.len(), || format!("{} MACs on {} requests", macs.len(), requests.len()))?;
            let lengths = macs.iter().map(|mac| mac.as_ref().map(|mac| mac.expose().len()));
            requests.iter().zip(lengths).try_for_each(|(request, length)| {
                ensure(length.is_none_or(|length| length == request.hash_len), || "a MAC of the wrong length".into())
            })
        };
        self.guard.run(&self.mac, self.custody.mac(requests), check).await
    }

    async fn destroy(&self, ids: &[KeyId]) -> Result<(), PluginError> {
        self.guard.run(&self.destroy, self.custody.destroy(ids), |()| Ok(())).await
    }

    async fn keys(&self, after: Option<KeyId>, limit: usize) -> Result<Vec<KeyId>, PluginError> {
        let check = |keys: &Vec<KeyId>| rising(keys.iter().copied(), after, limit);
        self.guard.run(&self.keys, self.custody.keys(after, limit), check).await
    }

    async fn derive(&self, context: &[u8]) -> Result<SecretBytes, PluginError> {
        let check =
            |secret: &SecretBytes| ensure(secret.expose().len() == 32, || "a secret of the wrong length".into());
        self.guard.run(&self.derive, self.custody.derive(context), check).await
    }

    async fn initialise(&self) -> Result<String, PluginError> {
        self.guard.run(&self.initialise, self.custody.initialise(), |_| Ok(())).await
    }

    async fn status(&self) -> Result<String, PluginError> {
        self.guard.run(&self.status, self.custody.status(), |_| Ok(())).await
    }

    async fn health(&self) -> Result<(), PluginError> {
        self.guard.run(&self.health, self.custody.health(), |()| Ok(())).await
    }
}
