//! Where unique keys are kept: sealed in the records, or in the custody of a
//! module that computes with them and never gives them out.
//!
//! A realm may hold both kinds: with custody configured, keys that are made
//! from then on go there, and a user's move with its next rotation.

use std::{future::Future, sync::Arc};

use claviger_plugin_api::{KeyCustody, KeyId, MacRequest, PluginError, SecretBytes};
use claviger_protocol::{Code, Digest, Secret32, Suite, SuiteError, schedule};

use super::{
    batch::Batcher,
    realm_keys::{RealmKeyError, RealmKeys},
    record::{CustodyKey, UniqueKey},
};

/// See the module's documentation.
pub struct UniqueKeys {
    realm_keys: Arc<RealmKeys>,
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
    /// The module answers, and has no such key, or one that it cannot use.
    #[error("its unique key is not in the module, or cannot be used there: another module, or the key was destroyed")]
    Missing,
    /// The same of the key that stands in for those of unknown users.
    #[error("the key that stands in for those of unknown users is not in the module; a restart makes it anew")]
    NoStandIn,
}

/// Why no new key was kept.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// No id could be made for it.
    #[error(transparent)]
    Id(#[from] RealmKeyError),
    /// The custody.
    #[error(transparent)]
    Custody(#[from] PluginError),
}

/// What became of a new key.
#[derive(Debug)]
pub enum Named {
    /// A record names it, and these, which it named before, no more.
    Yes(Vec<KeyId>),
    /// No record names it.
    No(Code),
    /// The store gave no answer: it stays, as a record may name it.
    InDoubt(Code),
}

/// Batches of HMACs that may be out at once: a module in the network works on
/// several, one in software gains nothing.
const PARALLEL: usize = 4;

impl UniqueKeys {
    /// With `custody`, for the keys made from now on. Must be called inside a tokio runtime.
    pub fn new(realm_keys: Arc<RealmKeys>, custody: Option<Arc<dyn KeyCustody>>) -> Self {
        let custody = custody.map(|component| {
            let module = component.clone();
            let macs = Batcher::start("mac", PARALLEL, move |requests: Vec<MacRequest>| {
                let module = module.clone();
                async move { module.mac(&requests).await }
            });
            Custody { component, macs }
        });
        Self { realm_keys, custody }
    }

    /// Takes a new key into keeping and has `store` write it into a record;
    /// then destroys what no record names any more. That comes to its end
    /// whatever becomes of the caller: one that goes away in between would
    /// leave a key behind each time, until the module is full.
    ///
    /// The key is copied once, to where it is wiped: moved by value, each
    /// place that it had, in futures too, would keep it.
    pub async fn keep<F, Stored>(self: &Arc<Self>, key: &Secret32, store: F) -> Result<(), Code>
    where
        F: FnOnce(UniqueKey) -> Stored + Send + 'static,
        Stored: Future<Output = Named> + Send,
    {
        let (keys, key) = (self.clone(), SecretBytes::copy_from(key.expose()));
        let keeping = tokio::spawn(async move { keys.keep_to_the_end(key, store).await });
        keeping.await.unwrap_or(Err(Code::Unavailable))
    }

    async fn keep_to_the_end<F, Stored>(&self, key: SecretBytes, store: F) -> Result<(), Code>
    where
        F: FnOnce(UniqueKey) -> Stored,
        Stored: Future<Output = Named>,
    {
        let id = self.realm_keys.new_key_id().map_err(|error| not_kept(&error.into()))?;
        let key = match self.keep_as(id, key).await {
            Ok(key) => key,
            Err(error) => {
                // It may be in the module all the same, unless that says that it did nothing.
                if !matches!(error, PluginError::Busy | PluginError::Full(_)) {
                    self.destroy(vec![id]).await;
                }
                return Err(not_kept(&error.into()));
            }
        };
        let superfluous = match key {
            UniqueKey::Held(_) => Vec::new(),
            UniqueKey::InCustody(_) => vec![id],
        };
        match store(key).await {
            Named::Yes(former) => {
                self.destroy(former).await;
                Ok(())
            }
            Named::No(code) => {
                self.destroy(superfluous).await;
                Err(code)
            }
            Named::InDoubt(code) => Err(code),
        }
    }

    /// Keeps the key that stands in for those of users that are not known: the
    /// same one for all daemons of the realm, so it is not made twice.
    pub async fn keep_dummy(&self, key: &Secret32) -> Result<UniqueKey, PluginError> {
        self.keep_as(self.realm_keys.dummy_key_id(), SecretBytes::copy_from(key.expose())).await
    }

    async fn keep_as(&self, id: KeyId, key: SecretBytes) -> Result<UniqueKey, PluginError> {
        let Some(custody) = &self.custody else {
            let held = Secret32::from_slice(key.expose());
            let held = held.ok_or_else(|| PluginError::InvalidCall("a unique key has 32 bytes".into()))?;
            return Ok(UniqueKey::Held(held));
        };
        let token = custody.component.keep(id, key).await?;
        Ok(UniqueKey::InCustody(CustodyKey { id, token }))
    }

    /// The only use of a unique key: the master secret of one message.
    /// `input` is attacker-controlled. Where a key is not in custody and
    /// `dummy`, the key of users that are not known, is, that one is used as
    /// well: so time, and a module that is away, tell nothing of who is known.
    pub async fn master_secret(
        &self,
        suite: &dyn Suite,
        key: &UniqueKey,
        dummy: Option<&CustodyKey>,
        input: Vec<u8>,
    ) -> Result<Digest, MacError> {
        match key {
            UniqueKey::Held(key) => {
                if let Some(dummy) = dummy {
                    self.mac(suite, dummy, input.clone()).await?.ok_or(MacError::NoStandIn)?;
                }
                Ok(schedule::mac(suite, key.expose(), &input)?)
            }
            UniqueKey::InCustody(key) => {
                let mac = self.mac(suite, key, input).await?.ok_or(MacError::Missing)?;
                Digest::from_slice(mac.expose()).ok_or(MacError::Suite(SuiteError::Failed))
            }
        }
    }

    async fn mac(&self, suite: &dyn Suite, key: &CustodyKey, input: Vec<u8>) -> Result<Option<SecretBytes>, MacError> {
        let custody = self.custody.as_ref().ok_or(MacError::NoCustody)?;
        let request = MacRequest { key: key.id, token: key.token.clone(), hash_len: suite.hash_len(), message: input };
        Ok(custody.macs.call(request).await?)
    }

    /// Whether the custody can work; good where there is none.
    pub async fn health(&self) -> Result<(), PluginError> {
        match &self.custody {
            Some(custody) => custody.component.health().await,
            None => Ok(()),
        }
    }

    /// The keys in custody that are of this realm, without the dummy; none
    /// where there is no custody.
    pub async fn of_users(&self, page: usize) -> Result<Vec<KeyId>, PluginError> {
        let mut keys = self.all(page).await?;
        keys.retain(|id| self.realm_keys.is_own_key(id) && *id != self.realm_keys.dummy_key_id());
        Ok(keys)
    }

    /// All keys in custody, of whatever realm, read in pages.
    async fn all(&self, page: usize) -> Result<Vec<KeyId>, PluginError> {
        let Some(custody) = &self.custody else { return Ok(Vec::new()) };
        let mut all = Vec::new();
        loop {
            let keys = custody.component.keys(all.last().copied(), page).await?;
            let more = keys.len() == page;
            all.extend(keys);
            if !more {
                return Ok(all);
            }
        }
    }

    /// Destroys keys (at most 1000), or says why not.
    pub async fn destroy_now(&self, keys: &[KeyId]) -> Result<(), PluginError> {
        match &self.custody {
            Some(custody) => custody.component.destroy(keys).await,
            None => Ok(()),
        }
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

fn not_kept(error: &KeepError) -> Code {
    metrics::counter!("claviger_reply_processor_store_failures_total", "step" => "keep").increment(1);
    tracing::warn!(step = "keep", %error, "a new unique key could not be kept");
    Code::Unavailable
}
