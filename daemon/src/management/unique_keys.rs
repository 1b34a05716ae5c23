//! Where unique keys are kept: sealed in the records, or in the custody of a
//! module that computes with them and never gives them out.
//!
//! A realm may hold both kinds: with custody configured, keys that are made
//! from then on go there, and a user's move with its next rotation.

use std::sync::Arc;

use claviger_plugin_api::{KeyCustody, KeyId, MacRequest, PluginError, SecretBytes};
use claviger_protocol::{Digest, Secret32, Suite, SuiteError, schedule};

use super::{
    batch::Batcher,
    record::{CustodyKey, UniqueKey},
};

/// See the module's documentation.
pub struct UniqueKeys {
    custody: Option<Custody>,
}

struct Custody {
    component: Arc<dyn KeyCustody>,
    macs: Batcher<MacRequest, Option<SecretBytes>>,
}

/// Why the one HMAC of an envelope could not be computed. Never a statement about the envelope.
#[derive(Debug, thiserror::Error)]
pub enum MacError {
    /// The cipher plugin.
    #[error("the cipher plugin failed")]
    Suite(#[from] SuiteError),
    /// The custody.
    #[error(transparent)]
    Custody(#[from] PluginError),
    /// The record names a key in custody, and the configuration names no custody.
    #[error("its unique key is in custody, and `management.custody` is not set")]
    NoCustody,
    /// The module answers, and has no such key.
    #[error("its unique key is not in the module: another module, or the key was destroyed there")]
    Missing,
}

/// Batches of HMACs that may be out at once: a module in the network works on
/// several, one in software gains nothing.
const PARALLEL: usize = 4;

impl UniqueKeys {
    /// With `custody`, for the keys made from now on. Must be called inside a tokio runtime.
    pub fn new(custody: Option<Arc<dyn KeyCustody>>) -> Self {
        let custody = custody.map(|component| {
            let module = component.clone();
            let macs = Batcher::start("mac", PARALLEL, move |requests: Vec<MacRequest>| {
                let module = module.clone();
                async move { module.mac(&requests).await }
            });
            Custody { component, macs }
        });
        Self { custody }
    }

    /// Whether the custody answers, where there is one.
    pub async fn health(&self) -> Result<(), PluginError> {
        match &self.custody {
            Some(custody) => custody.component.health().await,
            None => Ok(()),
        }
    }

    /// Takes a new key into keeping, under an id that nothing else has. The
    /// caller stores what comes back, or has it [destroyed](Self::destroy).
    pub async fn keep(&self, id: KeyId, key: &Secret32) -> Result<UniqueKey, PluginError> {
        let Some(custody) = &self.custody else { return Ok(UniqueKey::Held(key.clone())) };
        let token = custody.component.keep(id, SecretBytes::copy_from(key.expose())).await?;
        Ok(UniqueKey::InCustody(CustodyKey { id, token }))
    }

    /// The only use of a unique key: the master secret of one message.
    /// `input` is attacker-controlled.
    pub async fn master_secret(&self, suite: &dyn Suite, key: &UniqueKey, input: Vec<u8>) -> Result<Digest, MacError> {
        let key = match key {
            UniqueKey::Held(key) => return Ok(schedule::mac(suite, key.expose(), &input)?),
            UniqueKey::InCustody(key) => key,
        };
        let custody = self.custody.as_ref().ok_or(MacError::NoCustody)?;
        let request = MacRequest { key: key.id, token: key.token.clone(), hash_len: suite.hash_len(), message: input };
        let mac = custody.macs.call(request).await?.ok_or(MacError::Missing)?;
        Digest::from_slice(mac.expose()).ok_or(MacError::Suite(SuiteError::Failed))
    }

    /// Destroys keys that no record names any more. One that cannot be
    /// destroyed now is left behind: nobody can use it, it only takes room.
    pub async fn destroy(&self, keys: Vec<KeyId>) {
        if keys.is_empty() {
            return;
        }
        let count = keys.len();
        let destroyed = match &self.custody {
            Some(custody) => custody.component.destroy(&keys).await.map_err(MacError::from),
            None => Err(MacError::NoCustody),
        };
        if let Err(error) = destroyed {
            tracing::warn!(count, %error, "unique keys that are not used any more were left behind in the module");
        }
    }
}
