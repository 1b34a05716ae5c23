//! The gate: what every envelope goes through, whatever it asks for. Resolves
//! the user, opens the envelope, spends its counter, promotes pending keys.
//!
//! The checks and their order are those of
//! `claviger_protocol::management::envelope`; this adds the store.

use std::{sync::Arc, time::Duration};

use claviger_plugin_api::{CounterUse, PluginError, Record, UserStore, Verdict};
use claviger_protocol::{
    Code, KemId, Realm, Secret32, SuiteError, SuiteId,
    management::envelope::{
        Allowed, Candidate, Clock as ProtocolClock, Counted, Fresh, Inner, Policy, Received, Refusal,
    },
    message::Uid,
};
use tracing::warn;

use super::{
    StartError,
    batch::Batcher,
    failure::Arrival,
    keyring::Keyring,
    realm_keys::RealmKeys,
    record::{CredentialRecord, Keys, PendingKeys, SealedKeys, Stored, UserRecord, credential_key, user_key},
    repository::{ChangeError, Repository, decode},
    unique_keys::{MacError, UniqueKeys},
};
use crate::{
    clock::{self, Clock},
    suites::{PluginSuite, Suites},
};

/// What the gate works with.
pub struct Parts {
    /// Its realm.
    pub realm: Realm,
    /// Enabled suites.
    pub suites: Suites,
    /// Enabled KEMs.
    pub kems: Vec<KemId>,
    /// The user store.
    pub repository: Repository,
    /// Opens the keys in records.
    pub keyring: Arc<Keyring>,
    /// Where the unique keys are.
    pub unique_keys: Arc<UniqueKeys>,
    /// Opens handles and private user ids.
    pub realm_keys: Arc<RealmKeys>,
    /// The time.
    pub clock: Clock,
    /// How far a terminal's clock may be off.
    pub clock_window: Duration,
}

/// See the module's documentation.
pub struct Gate {
    parts: Parts,
    reads: Batcher<String, Option<Record>>,
    counters: Batcher<CounterUse, Verdict>,
    /// Stands in for users that are not known: a record like any other, so
    /// that the work is the same.
    dummy: UserRecord,
    dummy_record: Record,
    started_ms: u64,
}

/// An envelope that was let through: authentic, fresh, made just now. Whether
/// its sender may have what it asks for is still to be decided.
pub struct Admitted<'g, I> {
    /// The protocol's proof.
    pub fresh: Fresh<I>,
    /// Who sent it.
    pub sender: Sender<'g>,
}

/// The sender of an authentic envelope.
pub struct Sender<'g> {
    /// The user's record as it was read, or as this sign-on changed it.
    pub user: UserRecord,
    /// Its credential.
    pub credential: CredentialRecord,
    /// The suite of the envelope.
    pub suite: &'g PluginSuite,
    /// When the envelope was judged, in milliseconds since 1970.
    pub now_ms: u64,
}

/// An envelope that was not let through.
pub enum Rejected<'g> {
    /// It did not authenticate, or nothing can be said: one code, no note.
    Plain(Code),
    /// It authenticated: the terminal may learn why not.
    Refused(Box<Refusal>, Box<Sender<'g>>),
}

impl From<Code> for Rejected<'_> {
    fn from(code: Code) -> Self {
        Self::Plain(code)
    }
}

impl Gate {
    /// Starts the batching of store calls. Must be called inside a tokio runtime.
    pub async fn new(parts: Parts) -> Result<Self, StartError> {
        let store = parts.repository.store().clone();
        let reads = Batcher::start("read", 2, move |keys: Vec<String>| read(store.clone(), keys));
        let store = parts.repository.store().clone();
        // One batch at a time: the next one shares the commit that follows.
        let counters = Batcher::start("counter", 1, move |uses: Vec<CounterUse>| consume(store.clone(), uses));
        let dummy = dummy(&parts).await?;
        // A store may have lost its last counters with the machine, so nothing
        // that was made before this start is let through (protocol, section
        // 14). The note tells the terminal the time, and it tries again.
        let started_ms = clock::millis((parts.clock)());
        let dummy_record = Record { key: user_key(&dummy.id), version: 0, value: dummy.to_bytes(), terms: Vec::new() };
        Ok(Self { parts, reads, counters, dummy, dummy_record, started_ms })
    }

    /// The policy for steps 2 and 3.
    pub fn policy(&self) -> Policy<'_> {
        Policy { realm: &self.parts.realm, suites: self.parts.suites.ids(), kems: &self.parts.kems }
    }

    /// The suites, also for their random numbers.
    pub fn suites(&self) -> &Suites {
        &self.parts.suites
    }

    /// The store.
    pub fn repository(&self) -> &Repository {
        &self.parts.repository
    }

    /// The realm's own keys.
    pub fn realm_keys(&self) -> &RealmKeys {
        &self.parts.realm_keys
    }

    /// Where the unique keys are.
    pub fn unique_keys(&self) -> &Arc<UniqueKeys> {
        &self.parts.unique_keys
    }

    /// Seals the keys of a credential for its record.
    pub fn seal(&self, keys: &Keys, user: &str, epoch: u32) -> Result<SealedKeys, Code> {
        keys.seal(&*self.parts.keyring, self.parts.realm.as_str(), user, epoch).map_err(|_| Code::Unavailable)
    }

    /// Steps 6 to 10. What does not authenticate is answered at a time that
    /// says nothing of what was looked up meanwhile.
    pub async fn admit<I: Inner>(&self, received: Received<'_>) -> Result<Admitted<'_, I>, Rejected<'_>> {
        let arrival = Arrival::now();
        let outcome = self.judge(received).await;
        if let Err(Rejected::Plain(Code::AuthFailed)) = outcome {
            arrival.hold_failure().await;
        }
        outcome
    }

    async fn judge<I: Inner>(&self, received: Received<'_>) -> Result<Admitted<'_, I>, Rejected<'_>> {
        let suite = self.parts.suites.get(received.header().suite).ok_or(Code::Unsupported)?;
        // 6: resolve, or go on with the dummy.
        let found = self.find(received.uid()).await?;
        let resolved = self.resolve(found.as_ref(), received.header().epoch)?;
        let Resolved { user, credential, keys, known } = resolved;
        // 7
        let user_id = if known { user.id.as_bytes() } else { plain_id(received.uid()) };
        let candidate = Candidate { user_id, management_key: &keys.management, known };
        let input = received.root_input(user_id);
        let dummy = self.dummy.credential.as_ref().and_then(|dummy| dummy.keys.custody.as_ref());
        let master = self.parts.unique_keys.master_secret(suite, &keys.unique, dummy, input).await;
        let master = master.map_err(|error| no_master_secret(&user.id, &error))?;
        let authenticated = received.open_with::<I>(suite, master, candidate)?;
        let sender = Sender { user, credential, suite, now_ms: clock::millis((self.parts.clock)()) };
        // 8
        let allowed = match authenticated.meets_floor(&sender.credential.floor()) {
            Ok(allowed) => allowed,
            Err(refusal) => return Err(Rejected::Refused(refusal, Box::new(sender))),
        };
        self.count(allowed, sender).await
    }

    /// Steps 9 and 10.
    async fn count<'g, I: Inner>(
        &self,
        allowed: Allowed<I>,
        mut sender: Sender<'g>,
    ) -> Result<Admitted<'g, I>, Rejected<'g>> {
        let (epoch, counter, nonce) = allowed.counter();
        let used = CounterUse { credential: sender.credential.id, epoch, counter, nonce, time_ms: allowed.time_ms() };
        let verdict = self.counters.call(used).await.map_err(|error| away("counter", &error))?;
        let clock = ProtocolClock {
            now_ms: sender.now_ms,
            window_ms: self.parts.clock_window.as_millis() as u64,
            // A clock that was set back since then says nothing about crashes.
            not_before_ms: if sender.now_ms >= self.started_ms { self.started_ms } else { 0 },
        };
        if verdict == Verdict::Fresh
            && let Some(used) = sender.credential.pending.clone().filter(|pending| pending.epoch == epoch)
        {
            self.promote(&mut sender, &used).await?;
        }
        match allowed.counted(counted(verdict), &clock) {
            Ok(fresh) => Ok(Admitted { fresh, sender }),
            Err(refusal)
                if refusal.is_clone() && !self.suspend_clone(&sender.user.id, sender.credential.id).await? =>
            {
                Err(Rejected::Refused(refusal.without_note(), Box::new(sender)))
            }
            Err(refusal) => Err(Rejected::Refused(refusal, Box::new(sender))),
        }
    }

    /// The record that a uid (attacker-controlled) stands for.
    async fn find(&self, uid: Uid<'_>) -> Result<Option<Record>, Code> {
        let id = match uid {
            Uid::UserId(id) => std::str::from_utf8(id).ok().map(str::to_owned),
            Uid::Sealed(sealed) => self.parts.realm_keys.open_user_id(sealed),
            Uid::Handle(handle) => match self.parts.realm_keys.open_handle(&handle) {
                Some(number) => {
                    let record = self.read(credential_key(&number)).await?;
                    record.and_then(|record| String::from_utf8(record.value).ok())
                }
                None => None,
            },
        };
        match id {
            Some(id) => self.read(user_key(&id)).await,
            None => Ok(None),
        }
    }

    async fn read(&self, key: String) -> Result<Option<Record>, Code> {
        self.reads.call(key).await.map_err(|error| away("read", &error))
    }

    /// Opens the keys of a user's record for an epoch. For a user that is not
    /// known, has no credential or not that epoch, the same work is done with
    /// the dummy, and it is not `known`.
    pub(super) fn resolve(&self, record: Option<&Record>, epoch: u32) -> Result<Resolved, Code> {
        let Record { key, version, value, .. } = record.unwrap_or(&self.dummy_record);
        let user = decode::<UserRecord>(value, key, *version).map_err(|error| away("read", &error))?.value;
        if *key != user_key(&user.id) {
            tracing::error!(target: "audit", event = "record_tampered", user = key.strip_prefix("user/"), "the record of another user stands in the place of this one's");
            return Err(Code::Unavailable);
        }
        let dummy = self.dummy.credential.as_ref().ok_or(Code::Unavailable)?;
        let own = user.credential.as_ref().filter(|credential| credential.has_epoch(epoch));
        let (owner, credential) = own.map_or((&self.dummy.id, dummy), |own| (&user.id, own));
        let keys = Keys::open(&self.parts.keyring, self.parts.realm.as_str(), owner, credential, epoch).map_err(|_| {
            tracing::error!(target: "audit", event = "record_tampered", user = owner, "the keys of a user's record do not open: the record was exchanged or damaged, or its data key was dropped");
            Code::Unavailable
        })?;
        let known = own.is_some() && record.is_some();
        let credential = credential.clone();
        Ok(Resolved { user, credential, keys, known })
    }

    /// The first use of the next epoch's keys makes them the current ones. It
    /// is stored before anything is answered; where it cannot be, the terminal
    /// keeps both and tries again. It goes on when whoever asked gives up
    /// waiting: the former key is destroyed all the same.
    async fn promote(&self, sender: &mut Sender<'_>, used: &PendingKeys) -> Result<(), Code> {
        let (repository, unique_keys) = (self.parts.repository.clone(), self.parts.unique_keys.clone());
        let (key, credential, used) = (user_key(&sender.user.id), sender.credential.id, used.clone());
        let promoting = tokio::spawn(async move { promote(&repository, &unique_keys, &key, credential, &used).await });
        let user = promoting.await.unwrap_or(Err(Code::Unavailable))?;
        sender.credential = user.credential.clone().ok_or(Code::Unavailable)?;
        sender.user = user;
        Ok(())
    }

    /// Two live copies of a credential were seen: it is kept out from here
    /// on. Whether this call did it: `false` when it was kept out already, or
    /// when a new enrolment has taken its place in the meantime. A suspension
    /// that cannot be stored is *unavailable*.
    ///
    /// It goes on when the service that asked gives up waiting.
    pub(super) async fn suspend_clone(&self, id: &str, credential: [u8; 16]) -> Result<bool, Code> {
        let (repository, id) = (self.parts.repository.clone(), id.to_owned());
        let suspending = tokio::spawn(async move { suspend_clone(&repository, &id, credential).await });
        suspending.await.unwrap_or(Err(Code::Unavailable))
    }
}

async fn promote(
    repository: &Repository,
    unique_keys: &UniqueKeys,
    key: &str,
    credential: [u8; 16],
    used: &PendingKeys,
) -> Result<UserRecord, Code> {
    let mut former = Vec::new();
    let changed = repository.change(key, |user: &mut UserRecord| {
        let credential = user.credential.as_mut().filter(|own| own.id == credential).ok_or(())?;
        former = credential.keys.custody.iter().map(|key| key.id).collect();
        let promoted = credential.promote(used);
        if !promoted {
            former.clear();
        }
        // Promoted by another use of the same keys: nothing to do. Any
        // other keys of that epoch are not those of this envelope.
        let current = promoted || (credential.epoch == used.epoch && credential.keys.are(&used.keys));
        if current { Ok(promoted) } else { Err(()) }
    });
    match changed.await {
        Ok(user) => {
            metrics::counter!("claviger_rotations_total").increment(1);
            unique_keys.destroy(former).await;
            Ok(user)
        }
        // A newer rotation or enrolment has taken their place.
        Err(ChangeError::NotFound | ChangeError::Refused(())) => Err(Code::AuthFailed),
        Err(ChangeError::Conflict) => Err(Code::Unavailable),
        Err(ChangeError::Store(error)) => Err(away("promote", &error)),
    }
}

async fn suspend_clone(repository: &Repository, id: &str, credential: [u8; 16]) -> Result<bool, Code> {
    let mut suspended = false;
    let change = |user: &mut UserRecord| {
        let seen_twice = user.credential.as_mut().filter(|own| own.id == credential && !own.cloned);
        suspended = seen_twice.map(|own| own.cloned = true).is_some();
        Ok::<_, ()>(suspended)
    };
    match repository.change(&user_key(id), change).await {
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

/// A user's record with the keys to try.
pub(super) struct Resolved {
    user: UserRecord,
    credential: CredentialRecord,
    keys: Keys,
    pub(super) known: bool,
}

/// A user that nobody can be, with random keys: the unique key lies where
/// those of users do.
async fn dummy(parts: &Parts) -> Result<UserRecord, StartError> {
    let unique = Secret32::new(parts.suites.random_array()?);
    let keys = Keys {
        unique: parts.unique_keys.keep_dummy(&unique).await.map_err(StartError::Custody)?,
        management: Secret32::new(parts.suites.random_array()?),
    };
    let id = "nobody at all".to_owned(); // user ids have no white space
    let sealed = keys.seal(parts.keyring.ephemeral(), parts.realm.as_str(), &id, 0).map_err(|_| SuiteError::Failed)?;
    let credential = CredentialRecord {
        id: parts.suites.random_array()?,
        epoch: 0,
        hash_len: 32,
        suite_floor: SuiteId::AES_256_GCM_SHA256.0,
        kem_floor: 0,
        keys: sealed,
        enrolled_ms: 0,
        keys_made_ms: 0,
        rotate_required: false,
        pending: None,
        cloned: false,
    };
    Ok(UserRecord {
        id,
        suspended: None,
        name: Some("nobody".into()),
        email: None,
        groups: vec!["none".into()],
        created_ms: 0,
        credential: Some(credential),
        enrolment: None,
    })
}

/// What goes into the key derivation for a user that is not known.
fn plain_id(uid: Uid<'_>) -> &[u8] {
    match uid {
        Uid::UserId(id) => id,
        Uid::Handle(_) | Uid::Sealed(_) => b"nobody",
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

/// What becomes of an envelope whose key cannot be used now.
fn no_master_secret(user: &str, error: &MacError) -> Code {
    match error {
        MacError::Custody(error) => {
            metrics::counter!("claviger_reply_processor_store_failures_total", "step" => "mac").increment(1);
            warn!(step = "mac", %error, "the key custody gave no answer");
        }
        MacError::Suite(_) => {}
        MacError::NoStandIn => tracing::error!("no user can be served: {error}"),
        MacError::NoCustody | MacError::Missing => {
            tracing::error!(target: "audit", event = "custody_key_missing", user, "the user cannot be served: {error}");
        }
    }
    Code::Unavailable
}

/// A store that gives no answer is *unavailable*, never *denied*.
pub(super) fn away(step: &'static str, error: &PluginError) -> Code {
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
