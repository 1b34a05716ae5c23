//! The reply processor: opens envelopes for services and answers with the
//! session password, or an error.
//!
//! The checks and their order are those of `claviger_protocol::management::login`;
//! this adds the store, the registry, policy, the audit and the metrics.

use std::{
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use claviger_plugin_api::{CounterUse, PluginError, Record, UserStore, Verdict};
use claviger_protocol::{
    Code, Realm, Secret32, ServiceId, Suite,
    management::login::{self, Candidate, Clock as ProtocolClock, Counted, Granting},
    message::{NoteFlags, Uid},
};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use tracing::{debug, warn};
use zeroize::Zeroizing;

use super::{
    batch::Batcher,
    record::{CredentialRecord, Keys, ServiceRecord, Stored, UserRecord, user_key},
    registry::ServiceRegistry,
    repository::{ChangeError, Repository, decode},
    sealing::KeyEncryptionKey,
    subject::Subjects,
};
use crate::{
    clock::{self, Clock},
    suites::{PluginSuite, Suites},
};

/// What the reply processor works with.
pub struct Parts {
    /// Its realm.
    pub realm: Realm,
    /// Enabled suites.
    pub suites: Suites,
    /// Enabled KEMs.
    pub kems: Vec<claviger_protocol::KemId>,
    /// The user store.
    pub repository: Repository,
    /// The registered services.
    pub registry: Arc<ServiceRegistry>,
    /// Opens the keys in records.
    pub kek: Arc<KeyEncryptionKey>,
    /// Names users to services.
    pub subjects: Subjects,
    /// The time.
    pub clock: Clock,
    /// How far a terminal's clock may be off.
    pub clock_window: Duration,
    /// The longest session a service may grant.
    pub max_session: Duration,
    /// Decryption requests a second of each service.
    pub per_service_per_second: NonZeroU32,
}

/// See the module's documentation.
pub struct ReplyProcessor {
    parts: Parts,
    reads: Batcher<String, Option<Record>>,
    counters: Batcher<CounterUse, Verdict>,
    limiter: DefaultKeyedRateLimiter<ServiceId>,
    dummy: Dummy,
    started_ms: u64,
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
    /// Starts the batching of store calls. Must be called inside a tokio runtime.
    pub fn new(parts: Parts) -> Result<Self, claviger_protocol::SuiteError> {
        let store = parts.repository.store().clone();
        let reads = Batcher::start("read", 2, move |keys: Vec<String>| read(store.clone(), keys));
        let store = parts.repository.store().clone();
        // One batch at a time: the next one shares the commit that follows.
        let counters = Batcher::start("counter", 1, move |uses: Vec<CounterUse>| consume(store.clone(), uses));
        let dummy = Dummy::new(&parts)?;
        let limiter = RateLimiter::keyed(Quota::per_second(parts.per_service_per_second));
        // A store may have lost its last counters with the machine, so nothing
        // that was made before this start is let through (protocol, section
        // 14). The note tells the terminal the time, and it tries again.
        let started_ms = clock::millis((parts.clock)());
        Ok(Self { parts, reads, counters, limiter, dummy, started_ms })
    }

    /// Answers a decryption request of `service`, which is known by its
    /// certificate, or by the configuration of this process. `envelope` is
    /// attacker-controlled. Never fails: what is wrong is in the answer.
    pub async fn decrypt(&self, service: &ServiceId, envelope: &[u8]) -> Result<Answered, NotRegistered> {
        let started = Instant::now();
        metrics::gauge!("claviger_reply_processor_in_flight").increment(1.0);
        let outcome = self.answer(service, envelope).await;
        metrics::gauge!("claviger_reply_processor_in_flight").decrement(1.0);
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
        let Some(registered) = self.parts.registry.get(service.as_str()) else {
            warn!(target: "audit", event = "service_not_registered", service = service.as_str(), "a service that is not registered asked for a decryption");
            return Err(NotRegistered);
        };
        Ok(match self.run(service, &registered, envelope).await {
            Ok(Outcome { bytes, code, reason }) => (Answered { bytes, code }, reason),
            Err(code) => {
                let bytes = Zeroizing::new(login::refuse(code, envelope));
                (Answered { bytes, code }, code)
            }
        })
    }

    async fn run(&self, service: &ServiceId, registered: &ServiceRecord, envelope: &[u8]) -> Result<Outcome, Code> {
        let parts = &self.parts;
        let policy = login::Policy { realm: &parts.realm, suites: parts.suites.ids(), kems: &parts.kems };
        let received = login::receive(envelope, &policy)?;
        let received = received.from_service(service).inspect_err(|_| {
            warn!(
                target: "audit",
                event = "relayed_envelope",
                service = service.as_str(),
                "a service handed in an envelope that is meant for another service"
            );
        })?;
        if self.limiter.check_key(service).is_err() {
            return Err(Code::RateLimited);
        }
        let suite = parts.suites.get(received.header().suite).ok_or(Code::Unsupported)?;

        // 6: resolve, or go on with the dummy.
        let uid = received.uid();
        let user = match user_id(&uid) {
            Some(id) => self.reads.call(user_key(id)).await.map_err(|error| away("read", &error))?,
            None => None,
        };
        let resolved = self.resolve(user.as_ref())?;
        let epoch = received.header().epoch;
        let known = resolved.as_ref().filter(|resolved| resolved.epoch() == epoch);
        let keys = known.map_or(&self.dummy.keys, |resolved| &resolved.keys);
        let id: &[u8] = match uid {
            Uid::UserId(id) => id,
            Uid::Handle(_) | Uid::Sealed(_) => &[0; 16],
        };
        let candidate = Candidate { user_id: id, management_key: &keys.management, known: known.is_some() };

        // 7
        let authenticated = received.open(suite, &keys.unique, candidate)?;
        let Some(resolved) = resolved else { return Err(Code::AuthFailed) };
        let user = &resolved.user;
        let now_ms = clock::millis((parts.clock)());
        let refuse = |refusal: Box<login::Refusal>| refused(refusal, suite, service, &resolved, now_ms);

        // 8
        let allowed = match authenticated.meets_floor(&resolved.floor()) {
            Ok(allowed) => allowed,
            Err(refusal) => return refuse(refusal),
        };
        // 9 and 10
        let (epoch, counter, nonce) = allowed.counter();
        let used = CounterUse { credential: resolved.credential, epoch, counter, nonce };
        let verdict = self.counters.call(used).await.map_err(|error| away("counter", &error))?;
        let clock = ProtocolClock { now_ms, window_ms: parts.clock_window.as_millis() as u64, not_before_ms: 0 };
        let fresh = match allowed.counted(counted(verdict), &clock) {
            Ok(fresh) => fresh,
            Err(refusal) if refusal.is_clone() && !self.suspend_clone(&user.id, resolved.credential).await? => {
                return refuse(refusal.without_note());
            }
            Err(refusal) => return refuse(refusal),
        };
        // 11
        let authorised = match fresh.decided(may_use(user, registered)) {
            Ok(authorised) => authorised,
            Err(refusal) => return refuse(refusal),
        };
        // 12
        let attributes = released(user, registered, authorised.scope().names());
        let auth_id = parts.suites.random_array().map_err(|_| Code::Unavailable)?;
        let granting = Granting {
            auth_id,
            subject: &parts.subjects.pairwise(service.as_str(), &user.id),
            now_ms,
            max_session: u32::try_from(parts.max_session.as_secs()).unwrap_or(u32::MAX),
            attributes: attributes.as_bytes(),
            epoch: resolved.epoch(),
            flags: NoteFlags::default(),
        };
        let bytes = authorised.grant(suite, &granting).map_err(|_| Code::Unavailable)?;
        debug!(user = user.id, service = service.as_str(), "sign-on granted");
        Ok(Outcome { bytes, code: Code::Ok, reason: Code::Ok })
    }

    /// Opens the keys of a user's record. For a user that there is not, or
    /// that has no credential, the dummy's are opened, so that the time is the
    /// same, and the answer is `None`.
    fn resolve(&self, found: Option<&Record>) -> Result<Option<Resolved>, Code> {
        let record = found.unwrap_or(&self.dummy.record);
        let user = decode::<UserRecord>(&record.value, &record.key, record.version)
            .map_err(|error| away("read", &error))?
            .value;
        let (owner, credential) = match &user.credential {
            Some(credential) => (user.id.as_str(), credential),
            None => (Dummy::USER, &self.dummy.credential),
        };
        let keys = Keys::open(&self.parts.kek, self.parts.realm.as_str(), owner, credential).map_err(|_| {
            tracing::error!(target: "audit", event = "record_tampered", user = user.id, "the keys of a user's record do not open: wrong key-encryption key, or the record was exchanged");
            Code::Unavailable
        })?;
        if found.is_none() || user.credential.is_none() {
            return Ok(None);
        }
        Ok(Some(Resolved { credential: credential.id, keys, user }))
    }

    /// Two live copies of a credential were seen: it is kept out from here
    /// on. Whether this call did it: `false` when it was kept out already, or
    /// when a new enrolment has taken its place in the meantime. A suspension
    /// that cannot be stored is *unavailable*.
    async fn suspend_clone(&self, id: &str, credential: [u8; 16]) -> Result<bool, Code> {
        let mut suspended = false;
        let change = |user: &mut UserRecord| {
            let seen_twice = user.credential.as_mut().filter(|own| own.id == credential && !own.cloned);
            suspended = seen_twice.map(|own| own.cloned = true).is_some();
            Ok::<_, ()>(suspended)
        };
        match self.parts.repository.change(&user_key(id), change).await {
            Ok(_) => {}
            Err(ChangeError::NotFound) => return Ok(false),
            Err(error) => {
                tracing::error!(user = id, error = %format_args!("{error:?}"), "the user could not be suspended");
                return Err(Code::Unavailable);
            }
        }
        if suspended {
            metrics::counter!("claviger_reply_processor_clones_total").increment(1);
            warn!(target: "audit", event = "clone_detected", user = id, "two live copies of a credential: the user is suspended until it enrols again");
        }
        Ok(suspended)
    }
}

struct Outcome {
    bytes: Zeroizing<Vec<u8>>,
    code: Code,
    reason: Code,
}

/// What is worked on when there is no such user, or none with a credential.
struct Dummy {
    /// Tried when the envelope's epoch is another one, too.
    keys: Keys,
    credential: CredentialRecord,
    record: Record,
}

impl Dummy {
    const USER: &str = "nobody";

    fn new(parts: &Parts) -> Result<Self, claviger_protocol::SuiteError> {
        let keys = Keys {
            unique: Secret32::new(parts.suites.random_array()?),
            management: Secret32::new(parts.suites.random_array()?),
        };
        let sealed = keys.seal(&parts.kek, parts.realm.as_str(), Self::USER, 1);
        let credential = CredentialRecord {
            id: [0; 16],
            epoch: 1,
            hash_len: 32,
            suite_floor: 1,
            kem_floor: 0,
            keys: sealed.map_err(|_| claviger_protocol::SuiteError::Failed)?,
            enrolled_ms: 0,
            cloned: false,
        };
        let user = UserRecord {
            id: Self::USER.to_owned(),
            suspended: None,
            name: None,
            email: None,
            groups: Vec::new(),
            created_ms: 0,
            credential: Some(credential.clone()),
            enrolment: None,
        };
        let record = Record { key: user_key(Self::USER), version: 1, value: user.to_bytes(), terms: Vec::new() };
        Ok(Self { keys, credential, record })
    }
}

/// A user with a credential whose keys are open.
struct Resolved {
    user: UserRecord,
    credential: [u8; 16],
    keys: Keys,
}

impl Resolved {
    fn epoch(&self) -> u32 {
        self.user.credential.as_ref().map_or(0, |credential| credential.epoch)
    }

    fn floor(&self) -> login::Floor {
        self.user.credential.as_ref().map_or(
            login::Floor {
                hash_len: 32,
                suite: claviger_protocol::SuiteId(u16::MAX),
                kem: claviger_protocol::KemId::X25519MlKem768,
            },
            super::record::CredentialRecord::floor,
        )
    }
}

fn refused(
    refusal: Box<login::Refusal>,
    suite: &PluginSuite,
    service: &ServiceId,
    resolved: &Resolved,
    now_ms: u64,
) -> Result<Outcome, Code> {
    let suite: &dyn Suite = suite;
    tracing::info!(
        target: "audit",
        event = "sign_on_refused",
        user = resolved.user.id,
        service = service.as_str(),
        reason = refusal.reason().name(),
        "an authenticated sign-on was refused"
    );
    let (code, reason) = (refusal.code(), refusal.reason());
    let bytes = refusal.answer(suite, now_ms, resolved.epoch()).map_err(|_| Code::Unavailable)?;
    Ok(Outcome { bytes: Zeroizing::new(bytes), code, reason })
}

/// Step 11: state of the user, and the service's groups.
fn may_use(user: &UserRecord, service: &ServiceRecord) -> bool {
    !user.is_kept_out()
        && (service.allow_groups.is_empty() || user.groups.iter().any(|group| service.allow_groups.contains(group)))
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

/// The plain user id, where the envelope carries one that can be a record's.
fn user_id<'a>(uid: &Uid<'a>) -> Option<&'a str> {
    match uid {
        Uid::UserId(id) => std::str::from_utf8(id).ok(),
        Uid::Handle(_) | Uid::Sealed(_) => None,
    }
}

fn counted(verdict: Verdict) -> Counted {
    match verdict {
        Verdict::Fresh => Counted::Fresh,
        Verdict::SameNonce => Counted::SameNonce,
        Verdict::OtherNonce => Counted::OtherNonce,
        Verdict::TooOld => Counted::TooOld,
    }
}

/// A store that gives no answer is *unavailable*, never *denied*.
fn away(step: &'static str, error: &PluginError) -> Code {
    metrics::counter!("claviger_reply_processor_store_failures_total", "step" => step).increment(1);
    warn!(step, %error, "the user store gave no answer");
    Code::Unavailable
}

async fn read(store: Arc<dyn UserStore>, keys: Vec<String>) -> Result<Vec<Option<Record>>, PluginError> {
    store.get(&keys).await
}

async fn consume(store: Arc<dyn UserStore>, uses: Vec<CounterUse>) -> Result<Vec<Verdict>, PluginError> {
    store.consume(&uses).await
}
