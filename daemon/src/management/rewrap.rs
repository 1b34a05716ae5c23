//! Passes over the whole store: counting what is sealed under which data key,
//! and sealing everything under the current one.
//!
//! A pass goes page by page, as it is asked for, so that whoever asks sees how
//! far it is. The daemon itself remembers where it stands and what it has
//! seen: whether a data key may go is decided on its own evidence. What breaks
//! off, at either end, loses nothing: secrets that were sealed anew are only
//! read the next time.

use std::{collections::BTreeMap, sync::Arc};

use claviger_plugin_api::{PluginError, Put, Record, Written};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::Mutex;
use tracing::error;

use super::{
    enrolment::{PSK, TAGS},
    keyring::{self, GRACE, Keyring, KeyringError, SOLE_GRACE},
    model::{RewrapEnd, RewrapProgress, SecretCount, UnusedKey},
    realm_keys,
    record::{EnrolmentRecord, SealedKeys, Stored, UserRecord},
    repository::{Repository, decode},
    sealing::{DataKeyId, Place, Unsealable},
};
use crate::clock::{self, Clock};

/// Goes through the store. One pass at a time.
pub struct Rewrap {
    realm: String,
    repository: Repository,
    keyring: Arc<Keyring>,
    clock: Clock,
    pass: Mutex<Option<Pass>>,
}

/// A pass under way.
struct Pass {
    began_ms: u64,
    /// The key of the last record that was read.
    after: Option<String>,
    progress: RewrapProgress,
    /// Records that name a data key, whatever this version makes of them.
    naming: BTreeMap<DataKeyId, u64>,
    /// Something was to be sealed anew.
    wrote: bool,
}

/// A record with what is sealed in it.
enum Holder {
    User(UserRecord),
    Enrolment(EnrolmentRecord),
    RealmSecret(Vec<u8>),
}

/// What became of one record.
#[derive(Default)]
struct Resealed {
    secrets: u64,
    damaged: Option<String>,
}

impl Rewrap {
    /// On top of a store and its ring.
    pub fn new(realm: &str, repository: Repository, keyring: Arc<Keyring>, clock: Clock) -> Self {
        Self { realm: realm.to_owned(), repository, keyring, clock, pass: Mutex::new(None) }
    }

    /// One page of counting, from behind the record `after`.
    pub async fn count(&self, after: Option<&str>) -> Result<SecretCount, PluginError> {
        let records = self.repository.store().list(after, PAGE).await?;
        let mut count = SecretCount { records: records.len() as u64, ..SecretCount::default() };
        for record in &records {
            let mut holder = match Holder::of(record) {
                Ok(Some(holder)) => holder,
                Ok(None) => continue,
                Err(_) => {
                    count.damaged.push(record.key.clone());
                    continue;
                }
            };
            holder.each(&self.realm, &record.key, |_, sealed| {
                let id = DataKeyId::of(sealed).map_or_else(|| "unknown format".into(), |id| id.to_string());
                *count.secrets.entry(id).or_default() += 1;
            });
        }
        count.damaged.truncate(MAX_DAMAGED);
        count.next = records.last().filter(|_| records.len() == PAGE).map(|record| record.key.clone());
        Ok(count)
    }

    /// The next page, of at most `limit` records (1 to 1000), of the pass under
    /// way, or the first one of a new pass. `sole`: no other daemon uses the
    /// store, so data keys need not stay for others.
    pub async fn go_on(&self, sole: bool, limit: usize) -> Result<RewrapProgress, KeyringError> {
        let mut slot = self.pass.lock().await;
        // Also so that the ring is fresh enough to seal for as long as a page takes.
        self.keyring.reload().await?;
        if slot.is_none() {
            self.keyring.wrap_for_recipients().await?;
            if let Some(ms) = self.keyring.settles_in_ms() {
                return Ok(RewrapProgress { begins_in_ms: Some(ms), ..RewrapProgress::default() });
            }
        }
        let pass = slot.get_or_insert_with(|| Pass::begin(self.now_ms()));
        // Where this fails, the next call does the same page again.
        let at_end = self.page(pass, limit.clamp(1, 1000)).await?;
        let mut progress = pass.progress.clone();
        if at_end {
            progress.end = Some(self.conclude(pass, sole).await?);
            *slot = None;
        }
        Ok(progress)
    }

    /// Reads a page and seals its secrets anew; whether it was the last one.
    async fn page(&self, pass: &mut Pass, limit: usize) -> Result<bool, PluginError> {
        let records = self.repository.store().list(pass.after.as_deref(), limit).await?;
        let (at_end, last) = (records.len() < limit, records.last().map(|record| record.key.clone()));
        let ids = self.keyring.ids();
        let (count, mut secrets) = (records.len() as u64, 0);
        let mut naming: BTreeMap<DataKeyId, u64> = BTreeMap::new();
        let (mut old, mut damaged) = (Vec::new(), Vec::new());
        for record in records {
            if record.key == keyring::KEY {
                continue;
            }
            for id in ids.iter().filter(|id| names(&record.value, **id)) {
                *naming.entry(*id).or_default() += 1;
            }
            let mut holder = match Holder::of(&record) {
                Ok(Some(holder)) => holder,
                Ok(None) => continue,
                // It keeps the data keys that it names, and must not keep the others, too.
                Err(error) => {
                    damaged.push(undecodable(&record, &error));
                    continue;
                }
            };
            let mut stale = false;
            holder.each(&self.realm, &record.key, |place, sealed| {
                secrets += 1;
                let anew = self.keyring.reseal(place, sealed);
                stale |= !matches!(anew, Ok(None));
                pass.wrote |= matches!(anew, Ok(Some(_)));
            });
            if stale {
                old.push(record);
            }
        }
        // Several at a time share a commit of the store.
        let writes = stream::iter(old).map(|record| self.reseal(record)).buffer_unordered(WRITES);
        let resealed: Vec<Resealed> = writes.try_collect().await?;
        for one in resealed {
            pass.progress.resealed += one.secrets;
            pass.progress.damaged.extend(one.damaged);
        }
        pass.progress.damaged.extend(damaged);
        pass.progress.damaged.truncate(MAX_DAMAGED);
        pass.progress.records += count;
        pass.progress.secrets += secrets;
        for (id, records) in naming {
            *pass.naming.entry(id).or_default() += records;
        }
        pass.after = last.or(pass.after.take());
        Ok(at_end)
    }

    /// Seals the secrets of a record anew, if nobody changes it meanwhile, or
    /// those of the record that has taken its place.
    async fn reseal(&self, mut record: Record) -> Result<Resealed, PluginError> {
        let store = self.repository.store();
        loop {
            let mut resealed = Resealed::default();
            let mut holder = match Holder::of(&record) {
                Ok(Some(holder)) => holder,
                Ok(None) => return Ok(resealed),
                Err(error) => {
                    resealed.damaged = Some(undecodable(&record, &error));
                    return Ok(resealed);
                }
            };
            holder.each(&self.realm, &record.key, |place, sealed| match self.keyring.reseal(place, sealed) {
                Ok(Some(anew)) => {
                    *sealed = anew;
                    resealed.secrets += 1;
                }
                Ok(None) => {}
                Err(Unsealable) => resealed.damaged = Some(record.key.clone()),
            });
            if resealed.damaged.is_some() {
                error!(target: "audit", event = "record_tampered", record = record.key, "a secret of a record does not open: the record was exchanged or damaged, or its data key was dropped");
            }
            if resealed.secrets == 0 {
                return Ok(resealed);
            }
            let put = Put {
                key: record.key.clone(),
                expected: record.version,
                value: holder.to_bytes(),
                terms: record.terms.clone(),
            };
            if let Written::Done(_) = store.put(put).await? {
                return Ok(resealed);
            }
            match store.get(std::slice::from_ref(&record.key)).await?.pop().flatten() {
                Some(found) => record = found,
                None => return Ok(Resealed::default()),
            }
        }
    }

    /// Drops the data keys that this pass has shown to be of no use.
    async fn conclude(&self, pass: &Pass, sole: bool) -> Result<RewrapEnd, KeyringError> {
        let grace_ms = if sole { SOLE_GRACE } else { GRACE }.as_millis() as u64;
        let mut end = RewrapEnd { clean: !pass.wrote, ..RewrapEnd::default() };
        let mut unneeded = Vec::new();
        for (id, retired_ms) in self.keyring.retired() {
            let from_ms = retired_ms + grace_ms;
            if pass.naming.contains_key(&id) {
                end.in_use.push(id.to_string());
            } else if end.clean && from_ms <= pass.began_ms {
                unneeded.push(id);
            } else {
                let in_ms = from_ms.saturating_sub(self.now_ms());
                end.unused.push(UnusedKey { id: id.to_string(), in_ms, from: clock::rfc3339(from_ms) });
            }
        }
        self.keyring.remove(&unneeded).await?;
        end.dropped = unneeded.iter().map(ToString::to_string).collect();
        Ok(end)
    }

    fn now_ms(&self) -> u64 {
        clock::millis((self.clock)())
    }
}

impl Pass {
    fn begin(began_ms: u64) -> Self {
        let (progress, naming) = (RewrapProgress::default(), BTreeMap::new());
        Self { began_ms, after: None, progress, naming, wrote: false }
    }
}

impl Holder {
    /// `None` for records without secrets, and for kinds that this version
    /// does not know: what these hold keeps its data key by [`names`].
    fn of(record: &Record) -> Result<Option<Self>, PluginError> {
        let Record { key, version, value, .. } = record;
        Ok(match key.split_once('/') {
            Some(("user", _)) => Some(Self::User(decode(value, key, *version)?.value)),
            Some(("enrolment", _)) => Some(Self::Enrolment(decode(value, key, *version)?.value)),
            _ if key == realm_keys::KEY => Some(Self::RealmSecret(value.clone())),
            _ => None,
        })
    }

    /// Every sealed secret with its place.
    fn each(&mut self, realm: &str, record_key: &str, mut visit: impl FnMut(Place<'_>, &mut Vec<u8>)) {
        match self {
            Self::User(user) => {
                let Some(credential) = &mut user.credential else { return };
                keys(&mut credential.keys, realm, &user.id, credential.epoch, &mut visit);
                if let Some(pending) = &mut credential.pending {
                    keys(&mut pending.keys, realm, &user.id, pending.epoch, &mut visit);
                }
            }
            Self::Enrolment(enrolment) => {
                let owner = record_key.split_once('/').map_or("", |(_, id)| id);
                let place = |kind| Place { realm, kind, owner, epoch: 0 };
                if let Some(psk) = &mut enrolment.psk {
                    visit(place(PSK), psk);
                }
                if let Some(offer) = &mut enrolment.offer {
                    visit(place(TAGS), &mut offer.tags);
                    let credential = &mut offer.credential;
                    // Erased once they are the user's.
                    if !credential.keys.is_erased() {
                        keys(&mut credential.keys, realm, &enrolment.user, credential.epoch, &mut visit);
                    }
                }
            }
            Self::RealmSecret(secret) => visit(realm_keys::place(realm), secret),
        }
    }

    fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::User(user) => user.to_bytes(),
            Self::Enrolment(enrolment) => enrolment.to_bytes(),
            Self::RealmSecret(secret) => secret.clone(),
        }
    }
}

fn keys(keys: &mut SealedKeys, realm: &str, user: &str, epoch: u32, visit: &mut impl FnMut(Place<'_>, &mut Vec<u8>)) {
    let place = keys.place(realm, user, epoch);
    visit(place, &mut keys.sealed);
}

/// Tells of a record that cannot be read; its key.
fn undecodable(record: &Record, error: &PluginError) -> String {
    error!(target: "audit", event = "record_tampered", record = record.key, %error, "a record cannot be read: it was exchanged or damaged");
    record.key.clone()
}

/// Whether a record holds anything that begins like a secret under that data
/// key. It asks nothing of the record's kind, so a secret that [`Holder`] does
/// not know of keeps its data key, too; five other bytes rarely look like it,
/// and then a key stays for no reason.
fn names(value: &[u8], id: DataKeyId) -> bool {
    let head = id.head();
    value.windows(head.len()).any(|window| window == head)
}

/// Records of a page that is counted.
const PAGE: usize = 1000;
/// Writes at a time.
const WRITES: usize = 16;
const MAX_DAMAGED: usize = 20;

#[cfg(test)]
mod tests {
    use std::{sync::atomic::Ordering, time::Duration};

    use claviger_plugin_api::UserStore;
    use claviger_protocol::Secret32;

    use super::*;
    use crate::management::{
        kek::{Kek, Recipients},
        record::{CredentialRecord, Keys, OfferRecord, PendingKeys, UniqueKey, enrolment_key, user_key},
        sealing::Seal,
        testing::{MemoryStore, REALM, TestClock},
    };

    const USERS: usize = 20;
    /// Two for each user, three of the enrolment.
    const SECRETS: u64 = 2 * USERS as u64 + 3;

    struct World {
        store: Arc<MemoryStore>,
        clock: TestClock,
        repository: Repository,
        keyring: Arc<Keyring>,
        rewrap: Rewrap,
    }

    impl World {
        async fn new() -> Self {
            let (store, clock) = (MemoryStore::new(), TestClock::new());
            let repository = Repository::new(store.clone());
            let recipients = Recipients::of([Kek::new(&[1; 32])]);
            let keyring = Keyring::load(repository.clone(), REALM, recipients, clock.clock()).await.unwrap();
            let rewrap = Rewrap::new(REALM, repository.clone(), keyring.clone(), clock.clock());
            let world = Self { store, clock, repository, keyring, rewrap };
            for number in 0..USERS {
                let user = world.user(&format!("user{number}"));
                assert!(world.repository.create(&user_key(&user.id), &user).await.unwrap());
            }
            let place = |kind| Place { realm: REALM, kind, owner: "0505050505050505", epoch: 0 };
            let credential = world.user("user0").credential.unwrap();
            let enrolment = EnrolmentRecord {
                user: "user0".into(),
                expires_ms: u64::MAX,
                bad_macs: 0,
                psk: Some(world.keyring.seal(place(PSK), b"psk").unwrap()),
                offer: Some(OfferRecord {
                    credential: CredentialRecord { pending: None, ..credential },
                    tags: world.keyring.seal(place(TAGS), b"tags").unwrap(),
                    comparison: 0,
                }),
                held: false,
                confirmed: false,
            };
            assert!(world.repository.create(&enrolment_key(&[5; 8]), &enrolment).await.unwrap());
            world
        }

        fn keys(&self, id: &str, epoch: u32) -> SealedKeys {
            let keys = Keys { unique: UniqueKey::Held(Secret32::new([1; 32])), management: Secret32::new([2; 32]) };
            keys.seal(&*self.keyring, REALM, id, epoch).unwrap()
        }

        fn user(&self, id: &str) -> UserRecord {
            UserRecord {
                id: id.into(),
                suspended: None,
                name: None,
                email: None,
                groups: Vec::new(),
                created_ms: 0,
                credential: Some(CredentialRecord {
                    id: [1; 16],
                    epoch: 1,
                    hash_len: 32,
                    suite_floor: 1,
                    kem_floor: 0,
                    keys: self.keys(id, 1),
                    enrolled_ms: 0,
                    cloned: false,
                    keys_made_ms: 0,
                    rotate_required: false,
                    pending: Some(PendingKeys { epoch: 2, keys: self.keys(id, 2), made_ms: 0 }),
                }),
                enrolment: None,
            }
        }

        /// A new data key that seals from now on; the former one.
        async fn rotate(&self) -> (String, String) {
            let former = self.keyring.ids()[0].to_string();
            (former, self.keyring.rotate(&[], Duration::ZERO).await.unwrap().to_string())
        }

        async fn pass(&self) -> RewrapProgress {
            loop {
                let progress = self.rewrap.go_on(false, 3).await.unwrap();
                if progress.end.is_some() {
                    return progress;
                }
            }
        }

        async fn count(&self) -> Vec<(String, u64)> {
            self.rewrap.count(None).await.unwrap().secrets.into_iter().collect()
        }
    }

    #[tokio::test]
    async fn everything_is_sealed_anew_and_opens_and_the_former_key_goes_in_its_time() {
        let world = World::new().await;
        let (former, current) = world.rotate().await;
        assert_eq!(world.count().await, [(former.clone(), SECRETS)]);
        world.clock.advance(GRACE);
        let first = world.pass().await;
        let end = first.end.unwrap();
        assert_eq!((first.secrets, first.resealed, end.clean, end.in_use.len()), (SECRETS, SECRETS, false, 1));
        assert_eq!(world.count().await, [(current.clone(), SECRETS)]);
        let second = world.pass().await;
        let end = second.end.unwrap();
        assert_eq!((second.resealed, end.clean, end.dropped), (0, true, vec![former]));
        assert_eq!(world.keyring.view().data_keys.len(), 1);
        for number in 0..USERS {
            let id = format!("user{number}");
            let user = world.repository.get::<UserRecord>(&user_key(&id)).await.unwrap().unwrap().value;
            for epoch in [1, 2] {
                Keys::open(&world.keyring, REALM, &id, user.credential.as_ref().unwrap(), epoch).unwrap();
            }
        }
        assert_eq!(world.pass().await.resealed, 0, "nothing is left to do");
    }

    #[tokio::test]
    async fn a_former_key_stays_until_every_daemon_must_have_left_it() {
        let world = World::new().await;
        let (former, _) = world.rotate().await;
        world.pass().await;
        world.clock.advance(GRACE - Duration::from_millis(1));
        // This pass begins too early, whenever it ends.
        world.rewrap.go_on(false, 3).await.unwrap();
        world.clock.advance(GRACE);
        let end = world.pass().await.end.unwrap();
        assert_eq!((end.clean, end.dropped.len(), end.unused[0].id.as_str()), (true, 0, former.as_str()));
        assert_eq!(world.pass().await.end.unwrap().dropped, [former]);
    }

    #[tokio::test]
    async fn a_pass_waits_for_the_new_key_to_seal() {
        let world = World::new().await;
        world.keyring.rotate(&[], keyring::SETTLE).await.unwrap();
        let progress = world.rewrap.go_on(false, 100).await.unwrap();
        assert_eq!(progress.begins_in_ms, Some(keyring::SETTLE.as_millis() as u64));
        assert!(progress.end.is_none());
    }

    #[tokio::test]
    async fn a_pass_that_breaks_off_goes_on() {
        let world = World::new().await;
        let (former, current) = world.rotate().await;
        world.clock.advance(GRACE);
        world.store.writes_left.store(7, Ordering::SeqCst);
        let broken = async {
            loop {
                if let Err(error) = world.rewrap.go_on(false, 3).await {
                    return error;
                }
            }
        };
        assert!(matches!(broken.await, KeyringError::Store(_)));
        let under =
            |count: &[(String, u64)], id: &str| count.iter().find(|(found, _)| found == id).map_or(0, |one| one.1);
        let count = world.count().await;
        assert!(under(&count, &former) > 0 && under(&count, &current) > 0, "{count:?}");
        // In another daemon, too.
        let other = Rewrap::new(REALM, world.repository.clone(), world.keyring.clone(), world.clock.clock());
        while other.go_on(false, 5).await.unwrap().end.is_none() {}
        assert_eq!(world.count().await, [(current, SECRETS)]);
        world.pass().await;
        assert_eq!(world.pass().await.end.unwrap().dropped, [former]);
    }

    #[tokio::test]
    async fn what_a_pass_cannot_seal_anew_keeps_its_key() {
        let world = World::new().await;
        // A kind of record of a later version, and a user with another's keys.
        let unknown = world.keyring.seal(Place { realm: REALM, kind: "later", owner: "", epoch: 0 }, b"x").unwrap();
        let value = [b"later ".as_slice(), &unknown].concat();
        let put = Put { key: "later/1".into(), expected: 0, value, terms: Vec::new() };
        world.store.put(put).await.unwrap();
        let mut swapped = world.user("user1");
        swapped.id = "swapped".into();
        world.repository.create(&user_key("swapped"), &swapped).await.unwrap();
        let (former, _) = world.rotate().await;
        world.clock.advance(GRACE);
        world.pass().await;
        let progress = world.pass().await;
        let end = progress.end.unwrap();
        assert_eq!((end.clean, end.dropped.len(), end.in_use), (true, 0, vec![former.clone()]));
        assert_eq!(progress.damaged, ["user/swapped"]);
        for key in ["later/1", "user/swapped"] {
            assert!(world.pass().await.end.unwrap().dropped.is_empty(), "{key}");
            let version = world.store.get(&[key.to_owned()]).await.unwrap()[0].as_ref().unwrap().version;
            world.store.delete(key, version).await.unwrap();
        }
        assert_eq!(world.pass().await.end.unwrap().dropped, [former]);
    }

    #[tokio::test]
    async fn a_record_that_cannot_be_read_is_named_and_stops_nothing() {
        let world = World::new().await;
        let secret = world.keyring.seal(Place { realm: REALM, kind: "", owner: "", epoch: 0 }, b"x").unwrap();
        // The one has a secret in it, the other has not.
        for (key, value) in [("user/cut", secret), ("enrolment/cut", b"rubbish".to_vec())] {
            let put = Put { key: key.into(), expected: 0, value, terms: Vec::new() };
            world.store.put(put).await.unwrap();
        }
        let (former, current) = world.rotate().await;
        let count = world.rewrap.count(None).await.unwrap();
        assert_eq!(count.damaged, ["enrolment/cut", "user/cut"]);
        assert_eq!(count.secrets[&former], SECRETS);
        world.clock.advance(GRACE);
        let first = world.pass().await;
        assert_eq!((first.resealed, first.damaged), (SECRETS, vec!["enrolment/cut".to_owned(), "user/cut".to_owned()]));
        assert_eq!(world.count().await, [(current, SECRETS)]);
        let end = world.pass().await.end.unwrap();
        assert_eq!((end.clean, end.dropped.len(), end.in_use), (true, 0, vec![former.clone()]));
        let version = world.store.get(&["user/cut".to_owned()]).await.unwrap()[0].as_ref().unwrap().version;
        world.store.delete("user/cut", version).await.unwrap();
        let progress = world.pass().await;
        assert_eq!((progress.end.unwrap().dropped, progress.damaged.len()), (vec![former], 1));
    }

    #[tokio::test]
    async fn pending_keys_that_were_sealed_anew_are_promoted() {
        let world = World::new().await;
        let used = world.user("user0").credential.unwrap().pending.unwrap();
        let key = user_key("user0");
        let before = world.repository.get::<UserRecord>(&key).await.unwrap().unwrap().value.credential.unwrap();
        world.rotate().await;
        world.pass().await;
        let mut credential = world.repository.get::<UserRecord>(&key).await.unwrap().unwrap().value.credential.unwrap();
        assert_ne!(before.pending, credential.pending);
        assert!(!credential.promote(&used), "other keys of that epoch");
        assert!(credential.promote(&before.pending.unwrap()));
        Keys::open(&world.keyring, REALM, "user0", &credential, 2).unwrap();
    }
}
