//! An issuer that keeps its keys in the host's state store. Not for use: the
//! key is the name of the key.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use claviger_plugin_api::{
    Identity, IssueRequest, IssuedKey, KeyIssuer, KeyKind, PluginError, Presented, SecretBytes, Session, StateStore,
    Verified, async_trait,
};

use crate::Plan;

pub(crate) struct Issuer {
    plan: Plan,
    state: Option<Arc<dyn StateStore>>,
}

impl Issuer {
    pub(crate) fn new(plan: Plan, state: Option<Arc<dyn StateStore>>) -> Self {
        Self { plan, state }
    }

    fn state(&self) -> Result<&Arc<dyn StateStore>, PluginError> {
        self.state.as_ref().ok_or_else(|| PluginError::Unavailable("there is no state store".into()))
    }
}

#[async_trait]
impl KeyIssuer for Issuer {
    fn kind(&self) -> KeyKind {
        self.plan.panic_in("issuer.kind");
        KeyKind::Opaque
    }

    async fn issue(&self, request: IssueRequest) -> Result<IssuedKey, PluginError> {
        let lie = self.plan.call("issuer.issue").await?;
        let subject = request.identity.subject.as_bytes();
        self.state()?.put_new(&request.identity.subject, subject, request.pending).await?;
        let key: &[u8] = if lie { b"" } else { subject };
        Ok(IssuedKey::new(KeyKind::Opaque, subject.to_vec(), SecretBytes::copy_from(key), request.lifetime))
    }

    async fn verify(&self, presented: &Presented) -> Result<Verified, PluginError> {
        let lie = self.plan.call("issuer.verify").await?;
        let Some(key) = presented.single_header("authorization") else { return Ok(Verified::Absent) };
        let key = String::from_utf8_lossy(key).into_owned();
        let Some(subject) = self.state()?.get(&key).await? else { return Ok(Verified::Refused) };
        let subject = String::from_utf8_lossy(&subject).into_owned();
        let service = if lie { "another".into() } else { presented.service.clone() };
        let identity = Identity::new(service, subject, [7; 16], UNIX_EPOCH + Duration::new(1, 2), "{}".into());
        let expires = SystemTime::now() + Duration::from_secs(60);
        Ok(Verified::Session(Session::new(identity, key.into_bytes(), expires, true)))
    }

    async fn revoke(&self, key_id: &[u8]) -> Result<bool, PluginError> {
        self.plan.call("issuer.revoke").await?;
        let key = String::from_utf8_lossy(key_id);
        Ok(self.state()?.take(&key).await?.is_some())
    }

    async fn published(&self) -> Result<Option<String>, PluginError> {
        let lie = self.plan.call("issuer.published").await?;
        Ok(Some("x".repeat(if lie { 1024 * 1024 + 1 } else { 1 })))
    }

    async fn health(&self) -> Result<(), PluginError> {
        self.plan.call("issuer.health").await?;
        Ok(())
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.plan.panic_in("drop");
    }
}
