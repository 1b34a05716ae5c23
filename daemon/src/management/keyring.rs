//! The key ring: data keys, which seal the secrets of records, in one record
//! of the user store, each wrapped once for every key-encryption key.
//!
//! So any one key-encryption key opens everything, and changing one rewrites
//! one record. Several daemons on a store follow each other by these rules:
//!
//! - A new data key lies in the record before it is used: it begins to seal at
//!   a time that is written beside it ([`SETTLE`] ahead), when all have read it.
//! - A daemon that has not read the ring for [`LEASE`] seals nothing.
//! - A data key goes only when a pass over the whole store, begun [`GRACE`] after
//!   it ceased to seal, has found nothing under it (`super::rewrap`).
//! - The newest data key authenticates the ring as a whole:
//!   who can write the store, and knows a data key that was dropped, cannot put
//!   it back beside the others.
//! - A ring that is not a later one of the ring that was read before is not
//!   taken, and nothing is sealed until one is.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use aws_lc_rs::hmac;
use claviger_plugin_api::PluginError;
use minicbor::{Decode, Encode};
use tokio::sync::{Mutex, Notify};
use tracing::{error, info, warn};
use zeroize::Zeroizing;

use super::{
    kek::{Kek, KekId, Recipients},
    model::{DataKeyState, DataKeyView, KeyRing, RecipientView},
    record::Stored,
    repository::{ChangeError, Repository},
    sealing::{DataKey, DataKeyId, Place, Seal, Unsealable},
};
use crate::clock::{self, Clock};

/// See the module's documentation.
pub struct Keyring {
    realm: String,
    repository: Repository,
    recipients: Recipients,
    clock: Clock,
    ring: ArcSwap<Ring>,
    /// When the ring was read last, in milliseconds since 1970.
    read_ms: AtomicU64,
    /// The newest data key was made ahead of this daemon's clock, and does not seal yet.
    behind: AtomicBool,
    /// One reading at a time.
    reading: Mutex<()>,
    /// A secret under an unknown data key was seen: read the ring again.
    wanted: Arc<Notify>,
    /// Seals what stands in for records that there are not. It is in no ring,
    /// so no rotation ends it.
    ephemeral: DataKey,
}

/// Why there is no key ring, or why it was not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyringError {
    /// The store.
    #[error("the user store does not answer: {0}")]
    Store(#[from] PluginError),
    /// No recipient at hand opens a data key.
    #[error(
        "no key-encryption key at hand opens data key {key} of this store: it is wrapped for {wrapped}; tried: {tried}. \
         Name one of those it is wrapped for in management.key_encryption_keys"
    )]
    NoRecipient {
        /// The data key.
        key: DataKeyId,
        /// Ids of those it is wrapped for.
        wrapped: String,
        /// What was tried, with ids.
        tried: String,
    },
    /// What a recipient has wrapped does not unwrap.
    #[error("data key {0} does not unwrap under key-encryption key {1}: the key ring in the store was damaged")]
    Damaged(DataKeyId, KekId),
    /// A key-encryption key that would be needed is not at hand.
    #[error("key-encryption key {0} is not at hand: {1}. Mend that, or take it out of management.key_encryption_keys")]
    NotAtHand(String, String),
    /// The ring went away under a running daemon, or one came that does not follow it.
    #[error(
        "the key ring in the store is gone, or does not follow the one that was read before: it was restored, lost by a \
         failover, or put back by somebody; nothing is sealed. If the store was restored, restart the daemon"
    )]
    WentBack,
    /// Something else than a daemon with the newest data key has written the ring.
    #[error(
        "the key ring in the store was changed by somebody who does not have its newest data key, or was damaged: \
         find out who writes to the store, and restore the record"
    )]
    Forged,
    /// This daemon's clock, or that of the daemon that made the newest key, is wrong.
    #[error(
        "the newest data key was made {0} s ahead of this daemon's clock: nothing is sealed until it is due here. Set the \
         clocks of all daemons right"
    )]
    Clock(u64),
    /// The request does not fit the ring.
    #[error("{0}")]
    Refused(String),
    /// Other daemons changed it at each of our attempts.
    #[error("the key ring was changed by somebody else at the same time; try again")]
    Conflict,
    /// The cipher library failed.
    #[error("the cipher library failed")]
    Library,
}

/// How long before it seals a new data key lies in the ring. Daemons read it
/// every five seconds.
pub const SETTLE: Duration = Duration::from_secs(30);
/// How long a daemon goes on to seal without having read the ring.
pub const LEASE: Duration = Duration::from_secs(120);
/// How long after it ceased to seal a data key may go at the earliest: longer
/// than [`LEASE`], and than daemons' clocks may differ.
pub const GRACE: Duration = Duration::from_secs(300);
/// How far ahead of its own clock a daemon takes new data keys for granted. One
/// whose clock is further behind would seal under a former key when others drop it.
pub const MAX_AHEAD: Duration = Duration::from_secs(60);
/// The same as [`GRACE`] where one daemon alone uses the store: the time
/// between two readings of the ring, and its requests in progress.
pub const SOLE_GRACE: Duration = Duration::from_secs(10);

/// A ring as it was read, opened.
struct Ring {
    record: RingRecord,
    /// In the order in which they begin to seal.
    keys: Vec<RingKey>,
}

struct RingKey {
    key: DataKey,
    made_ms: u64,
    from_ms: u64,
    /// Whom it is wrapped for, but for `broken`.
    wraps: Vec<KekId>,
    /// Those at hand whose wrap of it does not open.
    broken: Vec<KekId>,
}

/// The record.
#[derive(Debug, Clone, Default, PartialEq, Encode, Decode)]
struct RingRecord {
    /// In the order in which they begin to seal and were made: the newest is the last.
    #[n(0)]
    keys: Vec<KeyRecord>,
    /// Counts the changes, unlike the store's version also across a restore.
    #[n(1)]
    generation: u64,
    /// HMAC-SHA256 under a key that is derived from the newest data key over all
    /// of the above but what is wrapped, which is authentic by itself.
    #[cbor(n(2), with = "minicbor::bytes")]
    tag: Vec<u8>,
}

/// A data key. All but `wraps` is bound to them and never changes.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
struct KeyRecord {
    #[cbor(n(0), with = "minicbor::bytes")]
    id: [u8; 4],
    /// Milliseconds since 1970.
    #[n(1)]
    made_ms: u64,
    /// When it begins to seal, milliseconds since 1970.
    #[n(2)]
    from_ms: u64,
    #[n(3)]
    wraps: Vec<WrapRecord>,
}

/// A data key as one recipient opens it.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
struct WrapRecord {
    #[cbor(n(0), with = "minicbor::bytes")]
    kek: [u8; 8],
    #[cbor(n(1), with = "minicbor::bytes")]
    wrapped: Vec<u8>,
}

impl Stored for RingRecord {
    const INDEX: Option<&'static str> = None;

    fn index_value(&self) -> String {
        String::new()
    }
}

impl Keyring {
    /// Reads and opens the ring, or makes the first one. Warns of what the
    /// operator should mend. Must be called inside a tokio runtime.
    pub async fn load(
        repository: Repository,
        realm: &str,
        recipients: Recipients,
        clock: Clock,
    ) -> Result<Arc<Self>, KeyringError> {
        let keyring = Arc::new(Self {
            realm: realm.to_owned(),
            repository,
            recipients,
            clock,
            ring: ArcSwap::from_pointee(Ring { record: RingRecord::default(), keys: Vec::new() }),
            read_ms: AtomicU64::new(0),
            behind: AtomicBool::new(false),
            reading: Mutex::new(()),
            wanted: Arc::default(),
            ephemeral: DataKey::random().map_err(|_| KeyringError::Library)?,
        });
        if keyring.repository.get::<RingRecord>(KEY).await?.is_none() {
            keyring.make().await?;
        }
        match keyring.reload().await {
            // What it does not seal, it opens.
            Err(error @ KeyringError::Clock(_)) => warn!("{error}"),
            result => result?,
        }
        keyring.advise();
        let (wanted, weak) = (keyring.wanted.clone(), Arc::downgrade(&keyring));
        tokio::spawn(async move {
            loop {
                wanted.notified().await;
                let Some(keyring) = weak.upgrade() else { return };
                warn!("a secret under a data key that is not known here: reading the key ring again");
                if let Err(error) = keyring.reload().await {
                    error!(%error, "the key ring was not read");
                }
                drop(keyring);
                tokio::time::sleep(RELOAD_INTERVAL).await;
            }
        });
        Ok(keyring)
    }

    /// Reads the ring again. The former one stays where that fails, and seals no
    /// more where another one has taken its place that does not follow it.
    pub async fn reload(&self) -> Result<(), KeyringError> {
        let _reading = self.reading.lock().await;
        self.read().await
    }

    /// The work of [`Self::reload`], for who holds the lock.
    async fn read(&self) -> Result<(), KeyringError> {
        let now_ms = self.now_ms();
        let Some(found) = self.repository.get::<RingRecord>(KEY).await? else {
            return Err(self.stop(KeyringError::WentBack));
        };
        // Its version says nothing: after a failover another daemon may write another record under the same one.
        if found.value != self.ring.load().record {
            let ring = self.judge(found.value)?;
            for (key, kek) in ring.keys.iter().flat_map(|key| key.broken.iter().map(move |kek| (key.key.id(), kek))) {
                warn!(target: "audit", event = "data_key_wrap_damaged", data_key = %key, kek = %kek, "what is wrapped for this key-encryption key does not open, others do: run `clavigerd keys rewrap`");
            }
            self.ring.store(Arc::new(ring));
        }
        self.in_time(&self.ring.load(), now_ms)?;
        self.read_ms.store(now_ms, Ordering::Relaxed);
        Ok(())
    }

    /// Whether this daemon knows the time well enough to know which key seals.
    /// Once it was behind only that the newest one is due says that it is not,
    /// for that the time passes does not set a clock right.
    fn in_time(&self, ring: &Ring, now_ms: u64) -> Result<(), KeyringError> {
        let Some(newest) = ring.keys.last() else { return Ok(()) };
        let ahead_ms = newest.made_ms.saturating_sub(now_ms);
        if ahead_ms > MAX_AHEAD.as_millis() as u64 {
            self.behind.store(true, Ordering::Relaxed);
        } else if newest.from_ms <= now_ms {
            self.behind.store(false, Ordering::Relaxed);
        }
        match self.behind.load(Ordering::Relaxed) {
            true => Err(self.stop(KeyringError::Clock(ahead_ms / 1000))),
            false => Ok(()),
        }
    }

    /// Opens a ring as it was found, if it is authentic and follows the one that was read before.
    fn judge(&self, record: RingRecord) -> Result<Ring, KeyringError> {
        let ring = self.open_ring(record).map_err(|error| self.stop(error))?;
        match ring.follows(&self.ring.load()) {
            true => Ok(ring),
            false => Err(self.stop(KeyringError::WentBack)),
        }
    }

    /// Seals nothing more until a ring is read that may be taken: the keys at
    /// hand may be in no ring. A ring that merely does not open is an error of
    /// this daemon's configuration, and then it seals for as long as [`LEASE`].
    fn stop(&self, error: KeyringError) -> KeyringError {
        if matches!(error, KeyringError::WentBack | KeyringError::Forged | KeyringError::Clock(_)) {
            self.read_ms.store(0, Ordering::Relaxed);
        }
        error
    }

    /// Opens a secret.
    pub fn open(&self, place: Place<'_>, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unsealable> {
        let id = DataKeyId::of(sealed).ok_or(Unsealable)?;
        if id == self.ephemeral.id() {
            return self.ephemeral.open(place, sealed);
        }
        let ring = self.ring.load();
        match ring.get(id) {
            Some(found) => found.key.open(place, sealed),
            None => {
                self.wanted.notify_one();
                Err(Unsealable)
            }
        }
    }

    /// Seals a secret under the current data key when another has sealed it; `None` when that one has.
    pub fn reseal(&self, place: Place<'_>, sealed: &[u8]) -> Result<Option<Vec<u8>>, Unsealable> {
        let ring = self.ring.load();
        let current = self.current(&ring)?;
        let id = DataKeyId::of(sealed).ok_or(Unsealable)?;
        if id == current.key.id() {
            return Ok(None);
        }
        let former = ring.get(id).ok_or_else(|| {
            self.wanted.notify_one();
            Unsealable
        })?;
        current.key.reseal(place, &former.key, sealed).map(Some)
    }

    /// Seals what does not outlive this process, such as the keys of a user that there is not.
    pub fn ephemeral(&self) -> &DataKey {
        &self.ephemeral
    }

    /// Adds a data key, wrapped for every recipient, takes the wraps of `drop`
    /// away, and gives the new key's id. It begins to seal after `settle`.
    pub async fn rotate(&self, drop: &[KekId], settle: Duration) -> Result<DataKeyId, KeyringError> {
        for id in drop {
            if self.recipients.get(*id).is_some() {
                let message = format!(
                    "key-encryption key {id} is still in use here: take it out of management.key_encryption_keys and restart first"
                );
                return Err(KeyringError::Refused(message));
            }
        }
        // A configured recipient that is left out would not open what is sealed from now on.
        self.all_at_hand()?;
        let id = DataKey::random().map_err(|_| KeyringError::Library)?.id();
        let changed = self.change(|record| {
            if record.keys.len() >= MAX_KEYS {
                let message = format!("there are {MAX_KEYS} data keys already; run `clavigerd keys rewrap` first");
                return Err(KeyringError::Refused(message));
            }
            let known = |id: &KekId| record.keys.iter().any(|key| key.wraps.iter().any(|wrap| wrap.kek == id.0));
            if let Some(unknown) = drop.iter().find(|id| !known(id)) {
                let message =
                    format!("nothing is wrapped for key-encryption key {unknown}; `clavigerd keys status` lists them");
                return Err(KeyringError::Refused(message));
            }
            self.wrap_missing(record)?;
            for key in &mut record.keys {
                key.wraps.retain(|wrap| !drop.iter().any(|id| id.0 == wrap.kek));
            }
            let key = self.new_key(id, settle, record.keys.last())?;
            record.keys.push(key);
            Ok(true)
        });
        changed.await?;
        info!(target: "audit", event = "data_key_made", data_key = %id, "a new data key was made");
        for kek in drop {
            warn!(target: "audit", event = "key_encryption_key_dropped", kek = %kek, "data keys are not wrapped for this key-encryption key any more");
        }
        Ok(id)
    }

    /// Wraps the data keys for recipients that are at hand and not served yet, or
    /// whose wraps are damaged.
    pub async fn wrap_for_recipients(&self) -> Result<(), KeyringError> {
        self.change(|record| self.wrap_missing(record)).await
    }

    /// Drops data keys which do not seal any more.
    pub async fn remove(&self, ids: &[DataKeyId]) -> Result<(), KeyringError> {
        if ids.is_empty() {
            return Ok(());
        }
        self.change(|record| {
            let current = current(&record.keys, |key| key.from_ms, self.now_ms());
            let current = current.map(|key| (key.from_ms, key.id));
            let former = |key: &KeyRecord| current.is_some_and(|(from_ms, id)| key.from_ms <= from_ms && key.id != id);
            let before = record.keys.len();
            record.keys.retain(|key| !(former(key) && ids.iter().any(|id| id.0 == key.id)));
            Ok(record.keys.len() != before)
        })
        .await?;
        for id in ids {
            info!(target: "audit", event = "data_key_dropped", data_key = %id, "a data key that nothing was sealed under was dropped");
        }
        Ok(())
    }

    /// All data keys, those first that began to seal first.
    pub fn ids(&self) -> Vec<DataKeyId> {
        self.ring.load().keys.iter().map(|key| key.key.id()).collect()
    }

    /// When each former data key ceased to seal, in milliseconds since 1970.
    pub fn retired(&self) -> Vec<(DataKeyId, u64)> {
        let ring = self.ring.load();
        let now_ms = self.now_ms();
        let ended = |pair: &[RingKey]| (pair[1].from_ms <= now_ms).then(|| (pair[0].key.id(), pair[1].from_ms));
        ring.keys.windows(2).filter_map(ended).collect()
    }

    /// How long until the newest data key begins to seal, in milliseconds; `None` when it does.
    pub fn settles_in_ms(&self) -> Option<u64> {
        let newest = self.ring.load().keys.last().map_or(0, |key| key.from_ms);
        newest.checked_sub(self.now_ms()).filter(|ms| *ms > 0)
    }

    /// The ring as administrators see it.
    pub fn view(&self) -> KeyRing {
        let ring = self.ring.load();
        let current = current(&ring.keys, |key| key.from_ms, self.now_ms()).map(|key| (key.from_ms, key.key.id()));
        let data_keys = ring.keys.iter().map(|key| DataKeyView {
            id: key.key.id().to_string(),
            state: match current {
                Some((_, id)) if id == key.key.id() => DataKeyState::Current,
                Some((from_ms, _)) if key.from_ms > from_ms => DataKeyState::Next,
                _ => DataKeyState::Former,
            },
            made: clock::rfc3339(key.made_ms),
            current_from: clock::rfc3339(key.from_ms),
            recipients: key.wraps.iter().map(ToString::to_string).collect(),
        });
        let opens = |id: KekId| -> Vec<String> {
            let keys = ring.keys.iter().filter(|key| key.wraps.contains(&id));
            keys.map(|key| key.key.id().to_string()).collect()
        };
        let broken = |id: KekId| -> Vec<String> {
            let keys = ring.keys.iter().filter(|key| key.broken.contains(&id));
            keys.map(|key| key.key.id().to_string()).collect()
        };
        let configured = self.recipients.all().iter().map(|recipient| RecipientView {
            source: Some(recipient.source.to_string()),
            id: recipient.kek.as_ref().ok().map(|kek| kek.id().to_string()),
            problem: recipient.kek.as_ref().err().map(ToString::to_string),
            data_keys: recipient.kek.as_ref().map_or_else(|_| Vec::new(), |kek| opens(kek.id())),
            damaged: recipient.kek.as_ref().map_or_else(|_| Vec::new(), |kek| broken(kek.id())),
        });
        let mut recipients: Vec<_> = configured.collect();
        let others = ring.others(&self.recipients);
        recipients.extend(others.into_iter().map(|id| RecipientView {
            source: None,
            id: Some(id.to_string()),
            problem: None,
            data_keys: opens(id),
            damaged: Vec::new(),
        }));
        KeyRing { recipients, data_keys: data_keys.collect() }
    }

    /// Makes the first ring. Another daemon may be faster: then that one counts.
    async fn make(&self) -> Result<(), KeyringError> {
        self.all_at_hand()?;
        let id = DataKey::random().map_err(|_| KeyringError::Library)?.id();
        let keys = vec![self.new_key(id, Duration::ZERO, None)?];
        let mut record = RingRecord { keys, generation: 1, tag: Vec::new() };
        self.sign(&mut record)?;
        if self.repository.create(KEY, &record).await? {
            info!(target: "audit", event = "data_key_made", data_key = %id, "the key ring was made");
        }
        Ok(())
    }

    /// What the operator should know at start.
    fn advise(&self) {
        for recipient in self.recipients.all() {
            if let Err(error) = &recipient.kek {
                warn!(source = %recipient.source, %error, "a key-encryption key is not at hand; the others do, but do not lose them, too");
            }
        }
        let mut ids: Vec<KekId> = self.recipients.at_hand().map(Kek::id).collect();
        ids.sort_unstable();
        if ids.windows(2).any(|pair| pair[0] == pair[1]) {
            warn!("management.key_encryption_keys names one key twice: a copy is not a second key");
        }
        ids.dedup();
        if self.recipients.all().len() == 1 {
            warn!(
                "there is one key-encryption key: with it all users would be lost. Make another with `clavigerd keys init`, \
                 name it in management.key_encryption_keys, restart, and run `clavigerd keys rewrap`"
            );
        }
        let ring = self.ring.load();
        for id in ids.iter().filter(|id| ring.keys.iter().any(|key| !key.wraps.contains(id))) {
            warn!(kek = %id, "data keys are not wrapped for this key-encryption key yet; run `clavigerd keys rewrap`");
        }
        for id in ring.others(&self.recipients) {
            if self.recipients.all().iter().all(|recipient| recipient.kek.is_ok()) {
                warn!(kek = %id, "data keys are wrapped for a key-encryption key that is not configured; `clavigerd keys rotate --drop` ends that");
            }
        }
    }

    fn all_at_hand(&self) -> Result<(), KeyringError> {
        for recipient in self.recipients.all() {
            if let Err(error) = &recipient.kek {
                return Err(KeyringError::NotAtHand(recipient.source.to_string(), error.to_string()));
            }
        }
        Ok(())
    }

    /// The data key that seals, as long as the ring was read lately.
    fn current<'r>(&self, ring: &'r Ring) -> Result<&'r RingKey, Unsealable> {
        // Either way: a clock that jumped says nothing about when that was.
        if self.now_ms().abs_diff(self.read_ms.load(Ordering::Relaxed)) > LEASE.as_millis() as u64 {
            self.wanted.notify_one();
            return Err(Unsealable);
        }
        // Not before it was seen that the key that is due is still in the ring.
        let at_ms = self.read_ms.load(Ordering::Relaxed).min(self.now_ms());
        current(&ring.keys, |key| key.from_ms, at_ms).ok_or(Unsealable)
    }

    async fn change(
        &self,
        mut change: impl FnMut(&mut RingRecord) -> Result<bool, KeyringError>,
    ) -> Result<(), KeyringError> {
        // What is found is not older than what this daemon has read, as nothing reads in between.
        let _reading = self.reading.lock().await;
        let change = |record: &mut RingRecord| {
            // Nothing is signed that would not be taken.
            self.in_time(&self.judge(record.clone())?, self.now_ms())?;
            let changed = change(record)?;
            if changed {
                record.generation += 1;
                self.sign(record)?;
            }
            Ok(changed)
        };
        self.repository.change::<RingRecord, _>(KEY, change).await.map_err(|error| match error {
            ChangeError::NotFound => self.stop(KeyringError::WentBack),
            ChangeError::Refused(error) => error,
            ChangeError::Conflict => KeyringError::Conflict,
            ChangeError::Store(error) => KeyringError::Store(error),
        })?;
        self.read().await
    }

    /// A key behind `newest`, even where the clock went back.
    fn new_key(&self, id: DataKeyId, settle: Duration, newest: Option<&KeyRecord>) -> Result<KeyRecord, KeyringError> {
        let mut secret = Zeroizing::new([0; 32]);
        aws_lc_rs::rand::fill(secret.as_mut_slice()).map_err(|_| KeyringError::Library)?;
        let now_ms = self.now_ms();
        let made_ms = newest.map_or(now_ms, |newest| now_ms.max(newest.made_ms + 1));
        let from_ms = newest.map_or(0, |newest| newest.from_ms).max(now_ms + settle.as_millis() as u64);
        let mut record = KeyRecord { id: id.0, made_ms, from_ms, wraps: Vec::new() };
        self.wrap(&mut record, secret.as_slice())?;
        Ok(record)
    }

    /// Wraps every data key for those at hand that have no wrap of it that opens; whether there were any.
    fn wrap_missing(&self, record: &mut RingRecord) -> Result<bool, KeyringError> {
        let mut wrapped = false;
        for key in &mut record.keys {
            let (secret, broken) = self.unwrap(key)?;
            key.wraps.retain(|wrap| !broken.iter().any(|id| id.0 == wrap.kek));
            let good = key.wraps.len();
            self.wrap(key, &secret)?;
            wrapped |= key.wraps.len() > good;
        }
        Ok(wrapped)
    }

    fn wrap(&self, record: &mut KeyRecord, secret: &[u8]) -> Result<(), KeyringError> {
        for kek in self.recipients.at_hand() {
            let id = kek.id();
            if record.wraps.iter().all(|wrap| wrap.kek != id.0) {
                let wrapped = kek.wrap(&record.aad(&self.realm, id), secret).map_err(|_| KeyringError::Library)?;
                record.wraps.push(WrapRecord { kek: id.0, wrapped });
            }
        }
        Ok(())
    }

    fn open_ring(&self, record: RingRecord) -> Result<Ring, KeyringError> {
        let mut keys = Vec::with_capacity(record.keys.len());
        let mut newest = None;
        for key in &record.keys {
            let (secret, broken) = self.unwrap(key)?;
            let good = |id: &KekId| !broken.contains(id);
            keys.push(RingKey {
                key: DataKey::new(DataKeyId(key.id), secret.as_slice().try_into().map_err(|_| KeyringError::Library)?),
                made_ms: key.made_ms,
                from_ms: key.from_ms,
                wraps: key.wraps.iter().map(|wrap| KekId(wrap.kek)).filter(good).collect(),
                broken,
            });
            newest = Some(secret);
        }
        // The one that signs must be the newest: the order is not only a matter of the tag.
        let ascends = keys.windows(2).all(|pair| pair[0].order() < pair[1].order());
        let authentic = newest.is_some_and(|secret| record.is_authentic(&self.realm, &secret));
        if ascends && authentic { Ok(Ring { record, keys }) } else { Err(KeyringError::Forged) }
    }

    /// Makes the tag of a ring that was changed.
    fn sign(&self, record: &mut RingRecord) -> Result<(), KeyringError> {
        let newest = record.keys.last().ok_or(KeyringError::Library)?;
        let (secret, _) = self.unwrap(newest)?;
        record.tag = hmac::sign(&tag_key(&secret), &record.message(&self.realm)).as_ref().to_vec();
        Ok(())
    }

    /// The key, and those at hand whose wrap does not open: every one is tried, or
    /// a damaged one would be noticed when it is the last.
    fn unwrap(&self, record: &KeyRecord) -> Result<(Zeroizing<Vec<u8>>, Vec<KekId>), KeyringError> {
        let (mut found, mut broken) = (None, Vec::new());
        for wrap in &record.wraps {
            let Some(kek) = self.recipients.get(KekId(wrap.kek)) else { continue };
            match kek.unwrap(&record.aad(&self.realm, kek.id()), &wrap.wrapped) {
                Ok(secret) => found = Some(secret),
                Err(Unsealable) => broken.push(kek.id()),
            }
        }
        if let Some(secret) = found {
            return Ok((secret, broken));
        }
        let key = DataKeyId(record.id);
        if let Some(kek) = broken.first() {
            return Err(KeyringError::Damaged(key, *kek));
        }
        let tried = self.recipients.all().iter().map(|recipient| match &recipient.kek {
            Ok(kek) => format!("{} ({})", kek.id(), recipient.source),
            Err(error) => format!("{}: {error}", recipient.source),
        });
        let wrapped = record.wraps.iter().map(|wrap| KekId(wrap.kek).to_string());
        Err(KeyringError::NoRecipient { key, wrapped: listed(wrapped), tried: listed(tried) })
    }

    fn now_ms(&self) -> u64 {
        clock::millis((self.clock)())
    }
}

impl Seal for Keyring {
    fn seal(&self, place: Place<'_>, secret: &[u8]) -> Result<Vec<u8>, Unsealable> {
        self.current(&self.ring.load())?.key.seal(place, secret)
    }
}

impl Drop for Keyring {
    fn drop(&mut self) {
        self.wanted.notify_one(); // its reader ends
    }
}

impl Ring {
    fn get(&self, id: DataKeyId) -> Option<&RingKey> {
        self.keys.iter().find(|key| key.key.id() == id)
    }

    /// Whether this one may take the place of `former`: it is the same, or a
    /// later one that has the newest key of that and no key that had gone.
    fn follows(&self, former: &Self) -> bool {
        let Some(newest) = former.keys.last() else { return true };
        if self.record.generation == former.record.generation {
            return self.record.tag == former.record.tag;
        }
        let was_there = |key: &RingKey| former.keys.iter().any(|one| one.order() == key.order());
        self.record.generation > former.record.generation
            && self.keys.iter().any(|key| key.order() == newest.order())
            && self.keys.iter().all(|key| was_there(key) || key.order() > newest.order())
    }

    /// Recipients of data keys that are not among those at hand.
    fn others(&self, recipients: &Recipients) -> Vec<KekId> {
        let mut ids: Vec<KekId> = self.keys.iter().flat_map(|key| key.wraps.iter().copied()).collect();
        ids.sort_unstable();
        ids.dedup();
        ids.retain(|id| recipients.get(*id).is_none());
        ids
    }
}

impl RingKey {
    /// Keys are never made with the same one.
    fn order(&self) -> (u64, u64, DataKeyId) {
        (self.from_ms, self.made_ms, self.key.id())
    }
}

impl RingRecord {
    /// Whether the data key of that secret, its newest, has made the tag.
    fn is_authentic(&self, realm: &str, newest: &[u8]) -> bool {
        hmac::verify(&tag_key(newest), &self.message(realm), &self.tag).is_ok()
    }

    /// What the tag stands for.
    fn message(&self, realm: &str) -> Vec<u8> {
        let mut out = b"claviger key ring tag 1".to_vec();
        out.extend_from_slice(&(realm.len() as u32).to_be_bytes());
        out.extend_from_slice(realm.as_bytes());
        out.extend_from_slice(&self.generation.to_be_bytes());
        out.extend_from_slice(&(self.keys.len() as u32).to_be_bytes());
        for key in &self.keys {
            out.extend_from_slice(&key.id);
            out.extend_from_slice(&key.made_ms.to_be_bytes());
            out.extend_from_slice(&key.from_ms.to_be_bytes());
            out.extend_from_slice(&(key.wraps.len() as u32).to_be_bytes());
            key.wraps.iter().for_each(|wrap| out.extend_from_slice(&wrap.kek));
        }
        out
    }
}

/// Derived from a data key, which is used for nothing else but to seal.
fn tag_key(data_key: &[u8]) -> hmac::Key {
    let data_key = hmac::Key::new(hmac::HMAC_SHA256, data_key);
    let mut key = Zeroizing::new([0; 32]);
    key.copy_from_slice(hmac::sign(&data_key, b"claviger key ring tag key 1").as_ref());
    hmac::Key::new(hmac::HMAC_SHA256, key.as_slice())
}

impl KeyRecord {
    fn aad(&self, realm: &str, kek: KekId) -> Vec<u8> {
        let mut out = b"claviger key ring 1".to_vec();
        out.extend_from_slice(&(realm.len() as u32).to_be_bytes());
        out.extend_from_slice(realm.as_bytes());
        out.extend_from_slice(&kek.0);
        out.extend_from_slice(&self.id);
        out.extend_from_slice(&self.made_ms.to_be_bytes());
        out.extend_from_slice(&self.from_ms.to_be_bytes());
        out
    }
}

/// The last key that has begun to seal; the first of all where the clock says that none has.
fn current<K>(keys: &[K], from_ms: impl Fn(&K) -> u64, now_ms: u64) -> Option<&K> {
    let begun = keys.iter().filter(|key| from_ms(key) <= now_ms).max_by_key(|key| from_ms(key));
    begun.or_else(|| keys.iter().min_by_key(|key| from_ms(key)))
}

fn listed(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}

/// The key of the record.
pub const KEY: &str = "key ring";
/// More than this many data keys are a sign that nobody runs `keys rewrap`. They fit into a record.
const MAX_KEYS: usize = 16;
/// How often the ring is read at most for secrets under unknown data keys.
const RELOAD_INTERVAL: Duration = Duration::from_secs(1);

#[cfg(test)]
impl Keyring {
    /// A ring on its own, for tests of what is sealed.
    pub(super) async fn on(store: Arc<dyn claviger_plugin_api::UserStore>) -> Arc<Self> {
        let recipients = Recipients::of([Kek::new(&[7; 32])]);
        Self::load(Repository::new(store), "example", recipients, clock::system()).await.unwrap()
    }
}

#[cfg(test)]
mod tests {
    use claviger_plugin_api::UserStore;

    use super::*;
    use crate::management::testing::{MemoryStore, TestClock};

    const PLACE: Place<'_> = Place { realm: "example", kind: "keys", owner: "alice", epoch: 1 };

    fn kek(number: u8) -> Kek {
        Kek::new(&[number; 32])
    }

    async fn load<const N: usize>(
        store: &Arc<MemoryStore>,
        clock: &TestClock,
        keks: [u8; N],
    ) -> Result<Arc<Keyring>, KeyringError> {
        let recipients = Recipients::of(keks.map(kek));
        Keyring::load(Repository::new(store.clone()), "example", recipients, clock.clock()).await
    }

    #[tokio::test]
    async fn any_one_recipient_opens_everything() {
        let (store, clock) = (MemoryStore::new(), TestClock::new());
        let sealed = load(&store, &clock, [1, 2]).await.unwrap().seal(PLACE, b"secret").unwrap();
        for number in [1, 2] {
            let keyring = load(&store, &clock, [number]).await.unwrap();
            assert_eq!(keyring.open(PLACE, &sealed).unwrap().as_slice(), b"secret");
            assert!(keyring.open(Place { owner: "bob", ..PLACE }, &sealed).is_err());
        }
        let error = load(&store, &clock, [3]).await.err().unwrap().to_string();
        for number in [1, 2, 3] {
            assert!(error.contains(&kek(number).id().to_string()), "{error}");
        }
    }

    #[tokio::test]
    async fn a_recipient_that_is_configured_later_opens_after_it_was_served() {
        let (store, clock) = (MemoryStore::new(), TestClock::new());
        load(&store, &clock, [1]).await.unwrap();
        let keyring = load(&store, &clock, [1, 2]).await.unwrap();
        assert!(load(&store, &clock, [2]).await.is_err());
        keyring.wrap_for_recipients().await.unwrap();
        load(&store, &clock, [2]).await.unwrap();
    }

    #[tokio::test]
    async fn a_missing_recipient_lets_the_daemon_start_and_no_key_be_made() {
        let (store, clock) = (MemoryStore::new(), TestClock::new());
        let missing = || Recipients::of([kek(1)]).and_missing("/gone");
        let repository = Repository::new(store.clone());
        let first = Keyring::load(repository.clone(), "example", missing(), clock.clock()).await;
        assert!(first.err().unwrap().to_string().contains("/gone"), "the first ring is for all");
        load(&store, &clock, [1, 2]).await.unwrap();
        let keyring = Keyring::load(repository, "example", missing(), clock.clock()).await.unwrap();
        let refused = keyring.rotate(&[], SETTLE).await.unwrap_err();
        assert!(matches!(refused, KeyringError::NotAtHand(..)), "{refused}");
    }

    #[tokio::test]
    async fn a_new_data_key_seals_when_every_daemon_has_had_time_to_read_it() {
        let (store, clock) = (MemoryStore::new(), TestClock::new());
        let (one, two) = (load(&store, &clock, [1]).await.unwrap(), load(&store, &clock, [1]).await.unwrap());
        let made = one.rotate(&[], SETTLE).await.unwrap();
        let sealer = |keyring: &Keyring| DataKeyId::of(&keyring.seal(PLACE, b"").unwrap()).unwrap();
        assert_ne!(sealer(&one), made);
        assert_eq!(one.settles_in_ms(), Some(SETTLE.as_millis() as u64));
        clock.advance(SETTLE);
        assert_ne!(sealer(&one), made, "it was in the ring when that was read, and may have been lost since");
        one.reload().await.unwrap();
        assert_eq!((sealer(&one), one.settles_in_ms()), (made, None));
        // One that has not read it yet does so for the first secret it cannot open.
        let sealed = one.seal(PLACE, b"secret").unwrap();
        assert_ne!(sealer(&two), made);
        assert!(two.open(PLACE, &sealed).is_err());
        let opens = async {
            while two.open(PLACE, &sealed).is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), opens).await.unwrap();
        assert_eq!(sealer(&two), made);
    }

    #[tokio::test]
    async fn a_daemon_that_has_lost_sight_of_the_ring_opens_and_does_not_seal() {
        let (store, clock) = (MemoryStore::new(), TestClock::new());
        let keyring = load(&store, &clock, [1]).await.unwrap();
        let sealed = keyring.seal(PLACE, b"secret").unwrap();
        clock.advance(LEASE + Duration::from_secs(1));
        assert!(keyring.seal(PLACE, b"secret").is_err());
        assert!(keyring.open(PLACE, &sealed).is_ok());
        keyring.reload().await.unwrap();
        assert!(keyring.seal(PLACE, b"secret").is_ok());
        assert!(keyring.ephemeral().seal(PLACE, b"secret").is_ok_and(|sealed| keyring.open(PLACE, &sealed).is_ok()));
    }

    #[tokio::test]
    async fn a_recipient_that_was_dropped_opens_nothing() {
        let (store, clock) = (MemoryStore::new(), TestClock::new());
        let both = load(&store, &clock, [1, 2]).await.unwrap();
        assert!(matches!(both.rotate(&[kek(2).id()], SETTLE).await, Err(KeyringError::Refused(_))), "it is in use");
        let one = load(&store, &clock, [1]).await.unwrap();
        assert!(matches!(one.rotate(&[kek(3).id()], SETTLE).await, Err(KeyringError::Refused(_))), "unknown");
        // One that is merely not configured keeps what it had.
        one.rotate(&[], SETTLE).await.unwrap();
        assert_eq!(one.view().recipients.iter().map(|one| one.data_keys.len()).collect::<Vec<_>>(), [2, 1]);
        one.rotate(&[kek(2).id()], SETTLE).await.unwrap();
        assert_eq!(one.view().recipients.len(), 1);
        assert!(load(&store, &clock, [2]).await.is_err());
    }

    #[tokio::test]
    async fn a_data_key_that_seals_is_never_dropped() {
        let (store, clock) = (MemoryStore::new(), TestClock::new());
        let keyring = load(&store, &clock, [1]).await.unwrap();
        let first = keyring.ids()[0];
        let second = keyring.rotate(&[], SETTLE).await.unwrap();
        keyring.remove(&[first, second]).await.unwrap();
        assert_eq!(keyring.ids(), [first, second], "one seals, one will");
        clock.advance(SETTLE);
        keyring.remove(&[first, second]).await.unwrap();
        assert_eq!(keyring.ids(), [second]);
    }

    #[tokio::test]
    async fn a_ring_that_was_changed_or_went_back_is_not_taken() {
        let (store, clock) = (MemoryStore::new(), TestClock::new());
        let keyring = load(&store, &clock, [1]).await.unwrap();
        let old = keyring.repository.get::<RingRecord>(KEY).await.unwrap().unwrap();
        keyring.rotate(&[], SETTLE).await.unwrap();
        // Whoever can write the store would have the new key seal at another time.
        let new = keyring.repository.get::<RingRecord>(KEY).await.unwrap().unwrap();
        let mut changed = new.value.clone();
        changed.keys[1].from_ms += 1;
        put(&store, &changed).await;
        assert!(matches!(keyring.reload().await, Err(KeyringError::Damaged(..))));
        store.delete(KEY, new.version + 1).await.unwrap();
        assert!(matches!(keyring.reload().await, Err(KeyringError::WentBack)));
        assert!(keyring.seal(PLACE, b"secret").is_err(), "its keys are in no ring");
        put(&store, &old.value).await;
        assert!(matches!(keyring.reload().await, Err(KeyringError::WentBack)));
        assert!(matches!(keyring.rotate(&[], SETTLE).await, Err(KeyringError::WentBack)));
        assert_eq!(keyring.ids().len(), 2, "what was read last stays");
        put(&store, &new.value).await;
        keyring.reload().await.unwrap();
        assert!(keyring.seal(PLACE, b"secret").is_ok(), "it came back");
    }

    /// Writes the record, whatever version it has.
    async fn put(store: &Arc<MemoryStore>, record: &RingRecord) {
        let repository = Repository::new(store.clone());
        let version = repository.get::<RingRecord>(KEY).await.unwrap().map_or(0, |found| found.version);
        assert!(repository.put(KEY, version, record).await.unwrap());
    }

    async fn ring(store: &Arc<MemoryStore>) -> RingRecord {
        Repository::new(store.clone()).get(KEY).await.unwrap().unwrap().value
    }

    #[tokio::test]
    async fn a_data_key_that_was_dropped_cannot_be_put_back() {
        let (store, clock) = (MemoryStore::new(), TestClock::new());
        load(&store, &clock, [1, 2]).await.unwrap();
        let old = ring(&store).await;
        let keyring = load(&store, &clock, [2]).await.unwrap();
        keyring.rotate(&[kek(1).id()], SETTLE).await.unwrap();
        clock.advance(SETTLE);
        keyring.remove(&keyring.ids()[..1]).await.unwrap();
        let new = ring(&store).await;
        // Whoever has found key-encryption key 1, and the old ring, has the first data key.
        let mut secret = None;
        if let Some(wrap) = old.keys[0].wraps.iter().find(|wrap| wrap.kek == kek(1).id().0) {
            secret = kek(1).unwrap(&old.keys[0].aad("example", kek(1).id()), &wrap.wrapped).ok();
        }
        let secret = secret.unwrap();
        let forge = |keys: &[&KeyRecord], generation, sign: bool| {
            let keys = keys.iter().map(|key| (*key).clone()).collect();
            let mut record = RingRecord { keys, generation, tag: new.tag.clone() };
            if sign {
                record.tag = hmac::sign(&tag_key(&secret), &record.message("example")).as_ref().to_vec();
            }
            record
        };
        let (first, second) = (&old.keys[0], &new.keys[0]);
        for (record, starts) in [
            (forge(&[first, second], new.generation, false), false),
            (forge(&[first, second], new.generation + 1, false), false),
            (forge(&[first, second], new.generation + 1, true), false),
            (forge(&[second, first], new.generation + 1, true), false),
            (forge(&[second], new.generation + 1, false), false),
            // An old ring as a whole, with what its data key can sign: only who has read a newer one knows.
            (forge(&[first], new.generation + 1, true), true),
        ] {
            put(&store, &record).await;
            let refused = keyring.reload().await.unwrap_err();
            let expected = if starts { KeyringError::WentBack } else { KeyringError::Forged };
            assert_eq!(refused.to_string(), expected.to_string());
            assert!(keyring.seal(PLACE, b"secret").is_err());
            assert!(keyring.wrap_for_recipients().await.is_err(), "it signs nothing of the kind");
            assert_eq!(load(&store, &clock, [2]).await.is_ok(), starts, "{record:?}");
        }
        put(&store, &new).await;
        keyring.reload().await.unwrap();
        load(&store, &clock, [2]).await.unwrap();
        let one = forge(&[second], new.generation, false);
        assert_eq!(one, new, "what the tag is over");
        let other = Repository::new(store.clone());
        let realm = Keyring::load(other, "other", Recipients::of([kek(2)]), clock.clock()).await;
        assert!(realm.is_err(), "of another realm");
    }

    #[tokio::test]
    async fn a_key_that_had_gone_is_not_taken_from_whoever_can_sign() {
        let (store, clock) = (MemoryStore::new(), TestClock::new());
        let keyring = load(&store, &clock, [1]).await.unwrap();
        let first = ring(&store).await.keys[0].clone();
        keyring.rotate(&[], SETTLE).await.unwrap();
        clock.advance(SETTLE);
        keyring.remove(&keyring.ids()[..1]).await.unwrap();
        let good = ring(&store).await;
        let mut record = good.clone();
        record.keys.insert(0, first);
        record.generation += 1;
        keyring.sign(&mut record).unwrap();
        put(&store, &record).await;
        assert!(matches!(keyring.reload().await, Err(KeyringError::WentBack)));
        // Neither is one without the newest key.
        let mut record = good.clone();
        record.generation += 1;
        record.keys = vec![keyring.new_key(DataKeyId([9; 4]), SETTLE, good.keys.last()).unwrap()];
        keyring.sign(&mut record).unwrap();
        put(&store, &record).await;
        assert!(matches!(keyring.reload().await, Err(KeyringError::WentBack)));
        record.keys.insert(0, good.keys[0].clone());
        keyring.sign(&mut record).unwrap();
        put(&store, &record).await;
        keyring.reload().await.unwrap();
    }

    #[tokio::test]
    async fn a_key_that_a_failover_has_lost_does_not_seal() {
        let (store, clock) = (MemoryStore::new(), TestClock::new());
        let (one, two) = (load(&store, &clock, [1]).await.unwrap(), load(&store, &clock, [1]).await.unwrap());
        let before = Repository::new(store.clone()).get::<RingRecord>(KEY).await.unwrap().unwrap();
        let lost = one.rotate(&[], SETTLE).await.unwrap();
        // The new primary has not got it, and gives the next change the same version.
        store.delete(KEY, before.version + 1).await.unwrap();
        put(&store, &before.value).await;
        let kept = two.rotate(&[], SETTLE).await.unwrap();
        let now = Repository::new(store.clone()).get::<RingRecord>(KEY).await.unwrap().unwrap();
        assert_eq!((now.version, now.value.generation), (before.version + 1, before.value.generation + 1));
        clock.advance(SETTLE);
        let sealer = DataKeyId::of(&one.seal(PLACE, b"secret").unwrap()).unwrap();
        assert!(![lost, kept].contains(&sealer), "it has not seen its key in the ring since that is due");
        assert!(matches!(one.reload().await, Err(KeyringError::WentBack)));
        assert!(one.seal(PLACE, b"secret").is_err());
        two.reload().await.unwrap();
        assert_eq!(DataKeyId::of(&two.seal(PLACE, b"secret").unwrap()), Some(kept));
    }

    #[tokio::test]
    async fn a_new_key_is_the_newest_even_where_the_clock_went_back() {
        let (store, ahead, behind) = (MemoryStore::new(), TestClock::new(), TestClock::new());
        ahead.advance(Duration::from_secs(30));
        load(&store, &ahead, [1]).await.unwrap();
        let keyring = load(&store, &behind, [1]).await.unwrap();
        let made = keyring.rotate(&[], Duration::ZERO).await.unwrap();
        assert_eq!(keyring.ids().last(), Some(&made));
        load(&store, &behind, [1]).await.unwrap();
    }

    #[tokio::test]
    async fn a_damaged_wrap_is_seen_while_others_open_and_made_anew() {
        let (store, clock) = (MemoryStore::new(), TestClock::new());
        let keyring = load(&store, &clock, [1, 2]).await.unwrap();
        let key = keyring.ids()[0].to_string();
        let damaged = || -> Vec<(Vec<String>, Vec<String>)> {
            keyring.view().recipients.into_iter().map(|one| (one.data_keys, one.damaged)).collect()
        };
        for number in [0, 1] {
            let mut record = ring(&store).await;
            record.keys[0].wraps[number].wrapped[20] ^= 1;
            let kek = KekId(record.keys[0].wraps[number].kek);
            put(&store, &record).await;
            keyring.reload().await.unwrap();
            let mut expected = [(vec![key.clone()], vec![]), (vec![key.clone()], vec![])];
            let at = keyring.recipients.all().iter().position(|one| one.kek.as_ref().unwrap().id() == kek).unwrap();
            expected[at] = (vec![], vec![key.clone()]);
            assert_eq!(damaged(), expected);
            assert!(!keyring.view().data_keys[0].recipients.contains(&kek.to_string()));
            keyring.wrap_for_recipients().await.unwrap();
            assert!(damaged().iter().all(|(opens, damaged)| opens.len() == 1 && damaged.is_empty()));
        }
        for number in [1, 2] {
            load(&store, &clock, [number]).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_daemon_whose_clock_is_far_behind_opens_and_does_not_seal() {
        let (store, right, behind) = (MemoryStore::new(), TestClock::new(), TestClock::new());
        let (one, two) = (load(&store, &right, [1]).await.unwrap(), load(&store, &behind, [1]).await.unwrap());
        let sealed = one.seal(PLACE, b"secret").unwrap();
        right.advance(GRACE);
        one.rotate(&[], SETTLE).await.unwrap();
        assert!(matches!(two.reload().await, Err(KeyringError::Clock(300))));
        assert!(two.seal(PLACE, b"secret").is_err());
        assert!(matches!(two.rotate(&[], SETTLE).await, Err(KeyringError::Clock(300))));
        // It still is that far behind.
        right.advance(GRACE - MAX_AHEAD);
        behind.advance(GRACE - MAX_AHEAD);
        assert!(two.reload().await.is_err());
        assert!(two.seal(PLACE, b"secret").is_err());
        let two = load(&store, &TestClock::new(), [1]).await.unwrap();
        assert_eq!(two.open(PLACE, &sealed).unwrap().as_slice(), b"secret", "it starts");
        assert!(two.seal(PLACE, b"secret").is_err());
        // Less than that says nothing.
        let late = TestClock::new();
        late.advance(GRACE - MAX_AHEAD);
        assert!(load(&store, &late, [1]).await.unwrap().seal(PLACE, b"secret").is_ok());
    }

    #[tokio::test]
    async fn a_daemon_whose_clock_was_set_right_seals_again() {
        let (store, right, behind) = (MemoryStore::new(), TestClock::new(), TestClock::new());
        let (one, two) = (load(&store, &right, [1]).await.unwrap(), load(&store, &behind, [1]).await.unwrap());
        right.advance(GRACE);
        let made = one.rotate(&[], SETTLE).await.unwrap();
        assert!(two.reload().await.is_err());
        behind.advance(GRACE + SETTLE);
        two.reload().await.unwrap();
        assert_eq!(DataKeyId::of(&two.seal(PLACE, b"secret").unwrap()), Some(made));
    }
}
