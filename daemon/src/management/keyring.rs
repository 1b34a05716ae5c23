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
//! - A ring that is older than the one that was read before is not taken.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
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
    /// The ring went away under a running daemon, or an older one came back.
    #[error("the key ring in the store is gone, or older than it was; if the store was restored, restart the daemon")]
    WentBack,
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
/// The same where one daemon alone uses the store: its requests in progress.
pub const SOLE_GRACE: Duration = Duration::from_secs(10);

/// A ring as it was read, opened.
struct Ring {
    version: u64,
    /// In the order in which they begin to seal.
    keys: Vec<RingKey>,
}

struct RingKey {
    key: DataKey,
    made_ms: u64,
    from_ms: u64,
    wraps: Vec<KekId>,
}

/// The record.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
struct RingRecord {
    #[n(0)]
    keys: Vec<KeyRecord>,
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
            ring: ArcSwap::from_pointee(Ring { version: 0, keys: Vec::new() }),
            read_ms: AtomicU64::new(0),
            reading: Mutex::new(()),
            wanted: Arc::default(),
            ephemeral: DataKey::random().map_err(|_| KeyringError::Library)?,
        });
        if keyring.repository.get::<RingRecord>(KEY).await?.is_none() {
            keyring.make().await?;
        }
        keyring.reload().await?;
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

    /// Reads the ring again. The former one stays where that fails.
    pub async fn reload(&self) -> Result<(), KeyringError> {
        let _reading = self.reading.lock().await;
        let now_ms = self.now_ms();
        let found = self.repository.get::<RingRecord>(KEY).await?;
        let version = self.ring.load().version;
        let found = found.filter(|found| found.version >= version).ok_or(KeyringError::WentBack)?;
        if found.version > version {
            let keys = found.value.keys.iter().map(|record| self.open_key(record)).collect::<Result<Vec<_>, _>>()?;
            let mut ring = Ring { version: found.version, keys };
            ring.keys.sort_by_key(|key| (key.from_ms, key.made_ms));
            self.ring.store(Arc::new(ring));
        }
        self.read_ms.store(now_ms, Ordering::Relaxed);
        Ok(())
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
            record.keys.push(self.new_key(id, settle)?);
            Ok(true)
        });
        changed.await?;
        info!(target: "audit", event = "data_key_made", data_key = %id, "a new data key was made");
        for kek in drop {
            warn!(target: "audit", event = "key_encryption_key_dropped", kek = %kek, "data keys are not wrapped for this key-encryption key any more");
        }
        Ok(id)
    }

    /// Wraps the data keys for recipients that are at hand and not served yet.
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
        let current = self.current_of(&ring).map(|key| (key.from_ms, key.key.id()));
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
        let configured = self.recipients.all().iter().map(|recipient| RecipientView {
            source: Some(recipient.source.to_string()),
            id: recipient.kek.as_ref().ok().map(|kek| kek.id().to_string()),
            problem: recipient.kek.as_ref().err().map(ToString::to_string),
            data_keys: recipient.kek.as_ref().map_or_else(|_| Vec::new(), |kek| opens(kek.id())),
        });
        let mut recipients: Vec<_> = configured.collect();
        let others = ring.others(&self.recipients);
        recipients.extend(others.into_iter().map(|id| RecipientView {
            source: None,
            id: Some(id.to_string()),
            problem: None,
            data_keys: opens(id),
        }));
        KeyRing { recipients, data_keys: data_keys.collect() }
    }

    /// Makes the first ring. Another daemon may be faster: then that one counts.
    async fn make(&self) -> Result<(), KeyringError> {
        self.all_at_hand()?;
        let id = DataKey::random().map_err(|_| KeyringError::Library)?.id();
        let record = RingRecord { keys: vec![self.new_key(id, Duration::ZERO)?] };
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
        self.current_of(ring).ok_or(Unsealable)
    }

    fn current_of<'r>(&self, ring: &'r Ring) -> Option<&'r RingKey> {
        current(&ring.keys, |key| key.from_ms, self.now_ms())
    }

    async fn change(
        &self,
        change: impl FnMut(&mut RingRecord) -> Result<bool, KeyringError>,
    ) -> Result<(), KeyringError> {
        self.repository.change::<RingRecord, _>(KEY, change).await.map_err(|error| match error {
            ChangeError::NotFound => KeyringError::WentBack,
            ChangeError::Refused(error) => error,
            ChangeError::Conflict => KeyringError::Conflict,
            ChangeError::Store(error) => KeyringError::Store(error),
        })?;
        self.reload().await
    }

    fn new_key(&self, id: DataKeyId, settle: Duration) -> Result<KeyRecord, KeyringError> {
        let mut secret = Zeroizing::new([0; 32]);
        aws_lc_rs::rand::fill(secret.as_mut_slice()).map_err(|_| KeyringError::Library)?;
        let made_ms = self.now_ms();
        let from_ms = made_ms + settle.as_millis() as u64;
        let mut record = KeyRecord { id: id.0, made_ms, from_ms, wraps: Vec::new() };
        self.wrap(&mut record, secret.as_slice())?;
        Ok(record)
    }

    /// Wraps every data key for those at hand that have no wrap of it; whether there were any.
    fn wrap_missing(&self, record: &mut RingRecord) -> Result<bool, KeyringError> {
        let mut wrapped = false;
        for key in &mut record.keys {
            let missing = self.recipients.at_hand().any(|kek| key.wraps.iter().all(|wrap| wrap.kek != kek.id().0));
            if missing {
                let secret = self.unwrap(key)?;
                self.wrap(key, &secret)?;
                wrapped = true;
            }
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

    fn open_key(&self, record: &KeyRecord) -> Result<RingKey, KeyringError> {
        let secret = self.unwrap(record)?;
        let id = DataKeyId(record.id);
        let secret = secret.as_slice().try_into().map_err(|_| KeyringError::Library)?;
        Ok(RingKey {
            key: DataKey::new(id, secret),
            made_ms: record.made_ms,
            from_ms: record.from_ms,
            wraps: record.wraps.iter().map(|wrap| KekId(wrap.kek)).collect(),
        })
    }

    fn unwrap(&self, record: &KeyRecord) -> Result<Zeroizing<Vec<u8>>, KeyringError> {
        let mut damaged = None;
        for wrap in &record.wraps {
            let Some(kek) = self.recipients.get(KekId(wrap.kek)) else { continue };
            match kek.unwrap(&record.aad(&self.realm, kek.id()), &wrap.wrapped) {
                Ok(secret) => return Ok(secret),
                Err(Unsealable) => damaged = Some(kek.id()),
            }
        }
        let key = DataKeyId(record.id);
        if let Some(kek) = damaged {
            return Err(KeyringError::Damaged(key, kek));
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

    /// Recipients of data keys that are not among those at hand.
    fn others(&self, recipients: &Recipients) -> Vec<KekId> {
        let mut ids: Vec<KekId> = self.keys.iter().flat_map(|key| key.wraps.iter().copied()).collect();
        ids.sort_unstable();
        ids.dedup();
        ids.retain(|id| recipients.get(*id).is_none());
        ids
    }
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
        keyring.repository.put(KEY, new.version, &changed).await.unwrap();
        assert!(matches!(keyring.reload().await, Err(KeyringError::Damaged(..))));
        store.delete(KEY, new.version + 1).await.unwrap();
        assert!(matches!(keyring.reload().await, Err(KeyringError::WentBack)));
        keyring.repository.create(KEY, &old.value).await.unwrap();
        assert!(matches!(keyring.reload().await, Err(KeyringError::WentBack)));
        assert_eq!(keyring.ids().len(), 2, "what was read last stays");
    }
}
