//! The guard of an issuer.

use std::sync::Arc;

use async_trait::async_trait;
use claviger_plugin_api::{IssueRequest, IssuedKey, KeyIssuer, KeyKind, PluginError, Presented, Session, Verified};

use super::{Call, Guard, Shared, ensure};

pub(in super::super) struct GuardedIssuer<I> {
    guard: Guard<I>,
    kind: KeyKind,
    issue: Call,
    verify: Call,
    revoke: Call,
    published: Call,
}

impl<I: KeyIssuer> GuardedIssuer<I> {
    pub(in super::super) fn new(shared: &Shared, kind: KeyKind, issuer: Arc<I>) -> Self {
        let guard = Guard::new(shared.limits_only(), "issuer", "issuer.health", issuer, |issuer| issuer.health());
        Self {
            issue: guard.write("issuer.issue"),
            verify: guard.read("issuer.verify"),
            revoke: guard.write("issuer.revoke"),
            published: guard.read("issuer.published"),
            guard,
            kind,
        }
    }

    /// Where its component can be replaced.
    pub(in super::super) fn guard(&self) -> &Guard<I> {
        &self.guard
    }
}

#[async_trait]
impl<I: KeyIssuer> KeyIssuer for GuardedIssuer<I> {
    fn kind(&self) -> KeyKind {
        self.kind
    }

    async fn issue(&self, request: IssueRequest) -> Result<IssuedKey, PluginError> {
        let (kind, asked) = (self.kind, request.lifetime);
        let check = move |issued: &IssuedKey| {
            ensure(issued.kind == kind, || format!("a key of kind {:?} from an issuer of {kind:?}", issued.kind))?;
            ensure(issued.lifetime <= asked, || format!("a key that lives for {:?}", issued.lifetime))?;
            ensure(issued.lifetime.as_secs() > 0, || "a key without a lifetime".into())?;
            key_id(&issued.key_id)?;
            key(kind, issued.key.expose())
        };
        self.guard.run(&self.issue, |issuer| issuer.0.issue(request.clone()), check).await
    }

    async fn verify(&self, presented: &Presented) -> Result<Verified, PluginError> {
        let check = |verified: &Verified| match verified {
            Verified::Session(found) => session(presented, found),
            _ => Ok(()),
        };
        self.guard.run(&self.verify, |issuer| issuer.0.verify(presented), check).await
    }

    async fn revoke(&self, key_id: &[u8]) -> Result<bool, PluginError> {
        self.guard.run(&self.revoke, |issuer| issuer.0.revoke(key_id), |_| Ok(())).await
    }

    async fn published(&self) -> Result<Option<String>, PluginError> {
        let check = |text: &Option<String>| {
            let len = text.as_ref().map_or(0, String::len);
            ensure(len <= MAX_PUBLISHED, || format!("{len} bytes to publish"))
        };
        self.guard.run(&self.published, |issuer| issuer.0.published(), check).await
    }

    async fn health(&self) -> Result<(), PluginError> {
        self.guard.health().await
    }
}

/// The reply of the protocol (section 3.4) carries the name behind a length of one byte.
fn key_id(key_id: &[u8]) -> Result<(), String> {
    ensure((1..=64).contains(&key_id.len()), || format!("a key whose name has {} bytes", key_id.len()))
}

fn key(kind: KeyKind, key: &[u8]) -> Result<(), String> {
    ensure((1..=MAX_KEY).contains(&key.len()), || format!("a key of {} bytes", key.len()))?;
    match kind {
        KeyKind::Mac => ensure(key.len() == 32, || format!("a MAC key of {} bytes", key.len())),
        // It goes into an `Authorization` header.
        _ => ensure(key.iter().all(u8::is_ascii_graphic), || "a key that is not printable ASCII".into()),
    }
}

fn session(presented: &Presented, session: &Session) -> Result<(), String> {
    key_id(&session.key_id)?;
    let identity = &session.identity;
    ensure(identity.service == presented.service, || "a session of another service".into())?;
    ensure((1..=255).contains(&identity.subject.len()), || "a session without a subject".into())?;
    ensure(identity.attributes.len() <= MAX_ATTRIBUTES, || {
        format!("a session with {} bytes of attributes", identity.attributes.len())
    })
}

const MAX_KEY: usize = 16 * 1024;
const MAX_ATTRIBUTES: usize = 16 * 1024;
const MAX_PUBLISHED: usize = 1024 * 1024;
