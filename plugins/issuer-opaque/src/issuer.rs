//! Issuing, verifying and revoking.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use claviger_plugin_api::{
    IssueRequest, IssuedKey, KeyIssuer, KeyKind, PluginError, Presented, StateStore, Verified, async_trait,
};

use crate::{
    key::{Key, SLOT, index_slot, random_id},
    stored::{Stored, later},
};

/// The issuer. All its state is in the state store, so any number of daemons
/// that share one also share its keys.
pub struct OpaqueIssuer {
    state: Arc<dyn StateStore>,
    clock: Arc<dyn Fn() -> SystemTime + Send + Sync>,
}

impl OpaqueIssuer {
    /// An issuer that keeps its sessions in `state` and goes by `clock`.
    pub fn new(state: Arc<dyn StateStore>, clock: Arc<dyn Fn() -> SystemTime + Send + Sync>) -> Self {
        Self { state, clock }
    }
}

#[async_trait]
impl KeyIssuer for OpaqueIssuer {
    fn kind(&self) -> KeyKind {
        KeyKind::Opaque
    }

    async fn issue(&self, request: IssueRequest) -> Result<IssuedKey, PluginError> {
        let IssueRequest { identity, lifetime, pending, .. } = request;
        let lifetime = Duration::from_secs(lifetime.as_secs());
        if lifetime.is_zero() || pending.is_zero() {
            return Err(PluginError::InvalidCall(
                "a key needs a lifetime of a second and some time pending".to_owned(),
            ));
        }
        let longest = pending
            .checked_add(lifetime)
            .ok_or_else(|| PluginError::InvalidCall("a lifetime beyond all time".to_owned()))?;
        let (key, id) = (Key::random()?, random_id()?);
        let slot = key.slot();
        let stored = Stored::pending(identity, id, later((self.clock)(), pending)?, lifetime).encode()?;

        // The index first: no key may live that cannot be revoked. It outlives
        // the key, and alone it opens nothing.
        self.store_new(&index_slot(&id), slot.as_bytes(), longest).await?;
        self.store_new(&slot, &stored, pending).await?;
        Ok(IssuedKey::new(KeyKind::Opaque, id.to_vec(), key.text(), lifetime))
    }

    async fn verify(&self, presented: &Presented) -> Result<Verified, PluginError> {
        // Only the slot lives across the awaits; the key is wiped before them.
        let Some(slot) = Key::presented(presented).map(|key| key.slot()) else { return Ok(Verified::Absent) };
        // After a lost race the session is active or gone, so the second round
        // decides. The bound guards against a store that breaks its contract.
        for _ in 0..3 {
            let Some(bytes) = self.state.get(&slot).await? else { return Ok(Verified::Refused) };
            let (stored, now) = (Stored::decode(&bytes)?, (self.clock)());
            if !stored.is_good(&presented.service, now) {
                return Ok(Verified::Refused);
            }
            let Some((active, lifetime)) = stored.activated(now)? else {
                return Ok(Verified::Session(stored.into_session(false)));
            };
            if self.state.update(&slot, &bytes, &active.encode()?, lifetime).await? {
                return Ok(Verified::Session(active.into_session(true)));
            }
        }
        Err(PluginError::Unavailable("the state store does not update a session".to_owned()))
    }

    async fn revoke(&self, key_id: &[u8]) -> Result<bool, PluginError> {
        let Ok(id) = key_id.try_into() else { return Ok(false) };
        let index = index_slot(id);
        let Some(slot) = self.state.get(&index).await? else { return Ok(false) };
        let slot = String::from_utf8(slot)
            .ok()
            .filter(|slot| slot.starts_with(SLOT))
            .ok_or_else(|| PluginError::Corrupt("the index entry of a key cannot be read".to_owned()))?;
        // The key before its index entry: what fails halfway can be repeated.
        let ended = self.state.take(&slot).await?.is_some();
        self.state.take(&index).await?;
        Ok(ended)
    }

    async fn published(&self) -> Result<Option<String>, PluginError> {
        Ok(None)
    }

    async fn health(&self) -> Result<(), PluginError> {
        self.state.health().await
    }
}

impl OpaqueIssuer {
    async fn store_new(&self, key: &str, value: &[u8], lifetime: Duration) -> Result<(), PluginError> {
        if self.state.put_new(key, value, lifetime).await? {
            return Ok(());
        }
        // 128 random bits do not repeat by themselves.
        Err(PluginError::Unavailable("the random generator repeats itself".to_owned()))
    }
}
