//! `POST /idb/v1/sign-on`: the protocol's section 5, "S", in its order.

use std::{
    sync::Arc,
    time::{Duration, Instant, UNIX_EPOCH},
};

use bytes::Bytes;
use claviger_plugin_api::{Identity, IssueRequest, IssuedKey, KeyIssuer};
use claviger_protocol::{
    Code, KemId, Realm, Secret32, ServiceId,
    message::{Binding, KeyGrant},
    service::{self, Answered, BindingCheck, Granted, Policy, ReplyError},
};
use tracing::{debug, warn};
use zeroize::Zeroizing;

use super::{ManagerLink, challenge::Challenges, user_limit::UserLimit};
use crate::{
    config::types::Binding as Demanded,
    net::Peer,
    net::SourceLimit,
    suites::{PluginSuite, Suites},
};

/// Signs terminals on to one service.
pub(super) struct SignOn {
    pub(super) service: ServiceId,
    pub(super) realm: Realm,
    /// Allowed suites, at least one; the first one's generator makes nonces.
    pub(super) suites: Suites,
    pub(super) kems: Vec<KemId>,
    pub(super) demanded: Demanded,
    pub(super) key_lifetime: Duration,
    pub(super) pending: Duration,
    pub(super) limit: Arc<SourceLimit>,
    pub(super) user_limit: UserLimit,
    pub(super) challenges: Arc<Challenges>,
    pub(super) issuer: Arc<dyn KeyIssuer>,
    pub(super) manager: Arc<dyn ManagerLink>,
}

/// What the terminal gets.
pub(super) struct Outcome {
    pub(super) code: Code,
    /// The message of section 3.4; empty only when not even a nonce can be made.
    pub(super) reply: Vec<u8>,
}

/// A refusal: the code, and the management server's note for the terminal.
struct Refusal {
    code: Code,
    note: Vec<u8>,
}

impl From<Code> for Refusal {
    fn from(code: Code) -> Self {
        Self { code, note: Vec::new() }
    }
}

impl SignOn {
    /// Answers an envelope (attacker-controlled, at most 4,096 bytes) that came from `peer`.
    pub(super) async fn answer(&self, envelope: Bytes, peer: &Peer) -> Outcome {
        let start = Instant::now();
        let outcome = match self.run(&envelope, peer).await {
            Ok(reply) => Outcome { code: Code::Ok, reply },
            Err(refusal) => self.refuse(refusal),
        };
        metrics::counter!("claviger_sign_on_total", "status" => outcome.code.name()).increment(1);
        metrics::histogram!("claviger_sign_on_seconds").record(start.elapsed().as_secs_f64());
        outcome
    }

    async fn run(&self, envelope: &Bytes, peer: &Peer) -> Result<Vec<u8>, Refusal> {
        // Steps 1 to 4.
        let policy = Policy { service: &self.service, realm: &self.realm, suites: self.suites.ids(), kems: &self.kems };
        let received = service::receive(envelope, &policy)?;
        let header = received.header();
        let suite = self.suites.get(header.suite).ok_or(Code::Unsupported)?;
        // Step 5.
        let check = self.check_binding(&header.binding, peer).await?;
        let uid = header.uid;
        let bound = received.bound(check)?;
        // Step 6.
        if !self.limit.allows(peer.address.ip()) || !self.user_limit.allows(&uid) {
            return Err(Code::RateLimited.into());
        }
        // Step 7.
        let awaited = bound.await_answer(suite).map_err(|_| Code::Unavailable)?;
        let answer = self.manager.decrypt(envelope.clone()).await.map_err(|error| {
            debug!(%error, "sign-on without an answer");
            Code::Unavailable
        })?;
        let answer = Zeroizing::new(answer);
        // Steps 8 and 9.
        let granted = match awaited.receive(&answer) {
            Ok(Answered::Granted(granted)) => granted,
            Ok(Answered::Refused { code, note }) => return Err(Refusal { code, note: note.to_vec() }),
            Err(mismatch) => {
                warn!("{mismatch}; its connections are dropped");
                self.manager.drop_connections();
                return Err(Code::Unavailable.into());
            }
        };
        // Step 10.
        let key = self.issue(&granted).await?;
        self.reply(granted, key, suite)
    }

    /// What is known of the binding: a challenge is spent here, whatever comes
    /// after. What an envelope says it is bound to is checked also where no
    /// binding is demanded.
    async fn check_binding(&self, binding: &Binding, peer: &Peer) -> Result<BindingCheck, Code> {
        Ok(match (binding, self.demanded) {
            (Binding::None, Demanded::None) => BindingCheck::NotRequired,
            // A challenge is good on any connection, also on that of somebody in between.
            (Binding::None, _) | (Binding::Challenge(_), Demanded::TlsExporter) => BindingCheck::Failed,
            (Binding::Challenge(challenge), _) => match self.challenges.spend(challenge).await {
                Ok(true) => BindingCheck::OwnChallenge,
                Ok(false) => BindingCheck::Failed,
                Err(_) => return Err(Code::Unavailable),
            },
            (Binding::TlsExporter(exporter), _) => match &peer.exporter {
                Some(own) if own.ct_eq(exporter) => BindingCheck::ThisConnection,
                _ => BindingCheck::Failed,
            },
        })
    }

    /// A key for the subject that the management server named, no longer than it allows.
    async fn issue(&self, granted: &Granted<'_, '_>) -> Result<IssuedKey, Code> {
        let attributes = std::str::from_utf8(granted.attributes).map_err(|_| {
            warn!("the management server's attributes are not text");
            Code::Unavailable
        })?;
        let auth_time = UNIX_EPOCH.checked_add(Duration::from_millis(granted.auth_time_ms)).unwrap_or(UNIX_EPOCH);
        let identity = Identity::new(
            self.service.as_str().to_owned(),
            granted.subject.to_owned(),
            granted.auth_id,
            auth_time,
            attributes.to_owned(),
        );
        let lifetime = self.key_lifetime.min(Duration::from_secs(granted.max_session.into()));
        if lifetime.is_zero() {
            return Err(Code::Denied);
        }
        let request = IssueRequest::new(identity, lifetime, self.pending);
        let key = self.issuer.issue(request).await.map_err(|error| {
            warn!(%error, "no key was issued");
            Code::Unavailable
        })?;
        let valid = key.kind == self.issuer.kind()
            && (1..=64).contains(&key.key_id.len())
            && !key.key.expose().is_empty()
            && (Duration::from_secs(1)..=lifetime).contains(&key.lifetime);
        if !valid {
            warn!("the key issuer broke its contract (kind, name, key or lifetime); its key was not used");
            return Err(Code::Unavailable);
        }
        Ok(key)
    }

    fn reply(&self, granted: Granted<'_, '_>, key: IssuedKey, suite: &PluginSuite) -> Result<Vec<u8>, Refusal> {
        let grant = KeyGrant {
            kind: key.kind as u8,
            lifetime: u32::try_from(key.lifetime.as_secs()).unwrap_or(u32::MAX),
            key_id: key.key_id,
            key: Zeroizing::new(key.key.expose().to_vec()),
            audience: self.service.clone(),
        };
        let random = || self.suites.random_array().map_err(|_| Code::Unavailable);
        let (nonce, kem_random) = (random()?, Secret32::new(random()?));
        granted.reply(suite, &grant, &nonce, &kem_random).map_err(|error| {
            let code = if error == ReplyError::Share { Code::Malformed } else { Code::Unavailable };
            debug!(%error, "no reply");
            code.into()
        })
    }

    fn refuse(&self, Refusal { code, note }: Refusal) -> Outcome {
        match self.suites.random_array() {
            Ok(nonce) => Outcome { code, reply: service::refusal(code, &nonce, &note) },
            Err(_) => Outcome { code: Code::Unavailable, reply: Vec::new() },
        }
    }
}
