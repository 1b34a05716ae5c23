//! The reply processor: opens envelopes for services and answers with the
//! session password, or an error. The hot path.
//!
//! What every envelope goes through is in [`super::gate`]; this adds the
//! service that asks, policy, the answer, the audit and the metrics.

use std::{
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use claviger_protocol::{
    Code, ServiceId,
    management::login::{self, Granting},
    message::LoginInner,
};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use tracing::{debug, warn};
use zeroize::Zeroizing;

use super::{
    gate::{Admitted, Gate, Rejected, Sender},
    record::{ServiceRecord, UserRecord},
    registry::ServiceRegistry,
};

/// What is granted, as the configuration says.
#[derive(Debug, Clone, Copy)]
pub struct GrantPolicy {
    /// The longest session a service may grant.
    pub max_session: Duration,
    /// Keys older than this are to be rotated.
    pub rotate_after: Duration,
    /// Whether terminals are given handles.
    pub private_user_ids: bool,
    /// Decryption requests a second of each service.
    pub per_service_per_second: NonZeroU32,
}

/// See the module's documentation.
pub struct ReplyProcessor {
    gate: Arc<Gate>,
    registry: Arc<ServiceRegistry>,
    policy: GrantPolicy,
    limiter: DefaultKeyedRateLimiter<ServiceId>,
}

/// The peer is not a registered service: HTTP 403, no protocol answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this service is not registered")]
pub struct NotRegistered;

/// An answer of section 3.2, and its status for HTTP and the metrics.
#[derive(Debug)]
pub struct Answered {
    /// The message; may hold a session password.
    pub bytes: Zeroizing<Vec<u8>>,
    /// What the service learns.
    pub code: Code,
}

impl ReplyProcessor {
    /// On top of the gate and the registry.
    pub fn new(gate: Arc<Gate>, registry: Arc<ServiceRegistry>, policy: GrantPolicy) -> Self {
        // Keyed by registered services only, so it does not grow without bound.
        let limiter = RateLimiter::keyed(Quota::per_second(policy.per_service_per_second));
        Self { gate, registry, policy, limiter }
    }

    /// Answers a decryption request of `service`, which is known by its
    /// certificate, or by the configuration of this process. `envelope` is
    /// attacker-controlled. Never fails: what is wrong is in the answer.
    pub async fn decrypt(&self, service: &ServiceId, envelope: &[u8]) -> Result<Answered, NotRegistered> {
        let started = Instant::now();
        let in_flight = InFlight::start();
        let outcome = self.answer(service, envelope).await;
        drop(in_flight);
        metrics::histogram!("claviger_reply_processor_seconds").record(started.elapsed().as_secs_f64());
        let reason = match &outcome {
            Ok((_, reason)) => reason.name(),
            Err(NotRegistered) => "not_registered",
        };
        metrics::counter!("claviger_reply_processor_requests_total", "outcome" => reason).increment(1);
        let (answered, _) = outcome?;
        Ok(answered)
    }

    /// The answer, and the reason that only terminal, audit and metrics learn.
    async fn answer(&self, service: &ServiceId, envelope: &[u8]) -> Result<(Answered, Code), NotRegistered> {
        let Some(registered) = self.registry.get(service.as_str()) else {
            warn!(target: "audit", event = "service_not_registered", service = service.as_str(), "a service that is not registered asked for a decryption");
            return Err(NotRegistered);
        };
        Ok(self.run(service, &registered, envelope).await.unwrap_or_else(|code| {
            let bytes = Zeroizing::new(login::refuse(code, envelope));
            (Answered { bytes, code }, code)
        }))
    }

    async fn run(
        &self,
        service: &ServiceId,
        registered: &ServiceRecord,
        envelope: &[u8],
    ) -> Result<(Answered, Code), Code> {
        // 2, 3, 4
        let received = login::receive(envelope, &self.gate.policy())?.from_service(service).inspect_err(|code| {
            if *code == Code::WrongService {
                warn!(target: "audit", event = "relayed_envelope", service = service.as_str(), "a service handed in an envelope that is meant for another service");
            }
        })?;
        // 5
        if self.limiter.check_key(service).is_err() {
            return Err(Code::RateLimited);
        }
        // 6 to 10
        let Admitted { fresh, sender } = match self.gate.admit::<LoginInner>(received).await {
            Ok(admitted) => admitted,
            Err(Rejected::Plain(code)) => return Err(code),
            Err(Rejected::Refused(refusal, sender)) => return refused(refusal, &sender, service),
        };
        // 11
        let allowed = !sender.user.is_kept_out() && registered.admits(&sender.user);
        let authorised = match fresh.decided(allowed) {
            Ok(authorised) => authorised,
            Err(refusal) => return refused(refusal, &sender, service),
        };
        // 12
        let attributes = released(&sender.user, registered, authorised.scope().names());
        let credential = &sender.credential;
        let granting = Granting {
            auth_id: self.gate.suites().random_array().map_err(|_| Code::Unavailable)?,
            subject: &self.gate.realm_keys().subject(service.as_str(), &sender.user.id),
            now_ms: sender.now_ms,
            max_session: u32::try_from(self.policy.max_session.as_secs()).unwrap_or(u32::MAX),
            attributes: attributes.as_bytes(),
            epoch: credential.epoch,
            rotate_required: self.rotation_is_due(&sender),
            next_handle: match self.policy.private_user_ids {
                true => Some(self.gate.realm_keys().handle(&credential.number()).ok_or(Code::Unavailable)?),
                false => None,
            },
        };
        let bytes = authorised.grant(sender.suite, &granting).map_err(|_| Code::Unavailable)?;
        debug!(user = sender.user.id, service = service.as_str(), "sign-on granted");
        Ok((Answered { bytes, code: Code::Ok }, Code::Ok))
    }

    fn rotation_is_due(&self, sender: &Sender<'_>) -> bool {
        let age = sender.now_ms.saturating_sub(sender.credential.keys_made_ms);
        sender.credential.rotate_required || u128::from(age) > self.policy.rotate_after.as_millis()
    }
}

/// Counts a request for as long as it is worked on, also when it is given up.
struct InFlight(metrics::Gauge);

impl InFlight {
    fn start() -> Self {
        let gauge = metrics::gauge!("claviger_reply_processor_in_flight");
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

fn refused(refusal: Box<login::Refusal>, sender: &Sender<'_>, service: &ServiceId) -> Result<(Answered, Code), Code> {
    let (code, reason) = (refusal.code(), refusal.reason());
    tracing::info!(
        target: "audit",
        event = "sign_on_refused",
        user = sender.user.id,
        service = service.as_str(),
        reason = reason.name(),
        "an authenticated sign-on was refused"
    );
    let bytes = refusal.answer(sender.suite, sender.now_ms, sender.credential.epoch).map_err(|_| Code::Unavailable)?;
    Ok((Answered { bytes: Zeroizing::new(bytes), code }, reason))
}

/// What the user consents to and policy allows, as a JSON object.
fn released<'a>(user: &UserRecord, service: &ServiceRecord, scope: impl Iterator<Item = &'a str>) -> String {
    let mut attributes = serde_json::Map::new();
    for name in scope.filter(|name| service.release.iter().any(|allowed| allowed == name)) {
        let value = match name {
            "user" => Some(user.id.as_str().into()),
            "name" => user.name.as_deref().map(Into::into),
            "email" => user.email.as_deref().map(Into::into),
            "groups" => Some(user.groups.as_slice().into()),
            _ => None,
        };
        if let Some(value) = value {
            attributes.insert(name.to_owned(), value);
        }
    }
    serde_json::Value::Object(attributes).to_string()
}
