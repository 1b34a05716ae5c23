//! Issuers of service authentication keys.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use crate::{error::PluginError, secret::SecretBytes};

/// How the terminal uses a key: byte `kind` of the reply, section 3.4 of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum KeyKind {
    /// The key is ASCII text, sent as `Authorization: Bearer KEY`.
    Opaque = 1,
    /// A JWT, sent as `Authorization: Bearer KEY`.
    Jwt = 2,
    /// 32 bytes that sign requests (RFC 9421, `hmac-sha256`).
    Mac = 3,
}

impl KeyKind {
    /// From the wire byte.
    pub fn from_wire(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Opaque,
            2 => Self::Jwt,
            3 => Self::Mac,
            _ => return None,
        })
    }
}

/// Who signed on, as the management server said it. Not attacker-controlled.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Identity {
    /// The service the key is for.
    pub service: String,
    /// The subject, pairwise for this service unless policy says otherwise.
    pub subject: String,
    /// The sign-on, by which it can be revoked.
    pub auth_id: [u8; 16],
    /// When the user was authenticated.
    pub auth_time: SystemTime,
    /// Released attributes: a JSON object, at most 16,384 bytes.
    pub attributes: String,
}

impl Identity {
    /// Puts an identity together.
    pub fn new(service: String, subject: String, auth_id: [u8; 16], auth_time: SystemTime, attributes: String) -> Self {
        Self { service, subject, auth_id, auth_time, attributes }
    }
}

/// A request for a key.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct IssueRequest {
    /// Who signed on, and to what.
    pub identity: Identity,
    /// How long the key is to live once it has been used, at most.
    pub lifetime: Duration,
    /// How long an unused key may wait for its first use.
    pub pending: Duration,
}

impl IssueRequest {
    /// Puts a request together.
    pub fn new(identity: Identity, lifetime: Duration, pending: Duration) -> Self {
        Self { identity, lifetime, pending }
    }
}

/// A key that was issued.
#[derive(Debug)]
#[non_exhaustive]
pub struct IssuedKey {
    /// How it is used.
    pub kind: KeyKind,
    /// Its public name, 1 to 64 bytes; safe to log.
    pub key_id: Vec<u8>,
    /// The key: 1 to 16,384 bytes.
    pub key: SecretBytes,
    /// How long it lives, in whole seconds; at most what was asked for.
    pub lifetime: Duration,
}

impl IssuedKey {
    /// Puts a key together.
    pub fn new(kind: KeyKind, key_id: Vec<u8>, key: SecretBytes, lifetime: Duration) -> Self {
        Self { kind, key_id, key, lifetime }
    }
}

/// The head of a request that presents a key. Every field is attacker-controlled.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Presented {
    /// The service it was presented to (the host's own configuration).
    pub service: String,
    /// Request method.
    pub method: String,
    /// `https` or `http`.
    pub scheme: String,
    /// Host and port as the client named them.
    pub authority: String,
    /// Path and query.
    pub target: String,
    /// Headers in order, names in lower case.
    pub headers: Vec<(String, Vec<u8>)>,
}

impl Presented {
    /// Puts a request head together.
    pub fn new(
        service: String,
        method: String,
        scheme: String,
        authority: String,
        target: String,
        headers: Vec<(String, Vec<u8>)>,
    ) -> Self {
        Self { service, method, scheme, authority, target, headers }
    }

    /// The value of the only header of that name (lower case); `None` when
    /// there is none, or more than one.
    pub fn single_header(&self, name: &str) -> Option<&[u8]> {
        let mut found = self.headers.iter().filter(|(n, _)| n == name);
        let (_, value) = found.next()?;
        found.next().is_none().then_some(value.as_slice())
    }
}

/// The answer to a presented key. A refusal is a value, never an error.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verified {
    /// The key is good.
    Session(Session),
    /// The request presents no key of this issuer's form.
    Absent,
    /// A key was presented and is not good: unknown, expired, revoked, for another service.
    Refused,
}

/// The session that a key stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Session {
    /// Who signed on.
    pub identity: Identity,
    /// Public name of the key.
    pub key_id: Vec<u8>,
    /// When the key ends.
    pub expires: SystemTime,
    /// Whether this was the key's first valid use: the session just became active.
    pub first_use: bool,
}

impl Session {
    /// Puts a session together.
    pub fn new(identity: Identity, key_id: Vec<u8>, expires: SystemTime, first_use: bool) -> Self {
        Self { identity, key_id, expires, first_use }
    }
}

/// An issuer of service authentication keys.
#[async_trait]
pub trait KeyIssuer: Send + Sync + 'static {
    /// Which kind of key it issues.
    fn kind(&self) -> KeyKind;

    /// Issues a key. It is *pending* until its first valid use.
    async fn issue(&self, request: IssueRequest) -> Result<IssuedKey, PluginError>;

    /// Judges a presented key. On the hot path of every request.
    async fn verify(&self, presented: &Presented) -> Result<Verified, PluginError>;

    /// Ends a key by its public name; `false` when it is not known.
    async fn revoke(&self, key_id: &[u8]) -> Result<bool, PluginError>;

    /// What the issuer publishes (a JWKS document), if anything.
    async fn published(&self) -> Result<Option<String>, PluginError>;

    /// A cheap proof that the issuer can work.
    async fn health(&self) -> Result<(), PluginError>;
}
