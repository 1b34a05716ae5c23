//! The state store of a single daemon: in memory, bounded, exact in time.
//!
//! Lost at a restart: terminals then sign on again. Several daemons of one
//! service share a state store plugin instead.

use std::{
    collections::{BTreeMap, HashMap, hash_map::RandomState},
    fmt,
    hash::BuildHasher,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use claviger_plugin_api::{PluginError, StateStore, async_trait};
use zeroize::Zeroizing;

/// A [`StateStore`] in memory.
///
/// It never evicts what is still alive, so a flood of challenges cannot end
/// sessions: when its budget is used up, new entries are refused as
/// [`PluginError::Busy`] until old ones expire.
pub struct MemoryState {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    clock: Clock,
}

/// A monotonic clock.
pub type Clock = Arc<dyn Fn() -> Instant + Send + Sync>;

impl MemoryState {
    /// A store with the default budget of 256 MiB.
    pub fn new() -> Self {
        Self::with_budget(DEFAULT_BUDGET)
    }

    /// A store for about `bytes` of keys, values and bookkeeping.
    pub fn with_budget(bytes: usize) -> Self {
        Self::with_clock(bytes, Arc::new(Instant::now))
    }

    /// A store on another clock, which tests may stop.
    pub fn with_clock(bytes: usize, clock: Clock) -> Self {
        let shard = || Mutex::new(Shard { budget: bytes / SHARDS, ..Shard::default() });
        Self { shards: (0..SHARDS).map(|_| shard()).collect(), hasher: RandomState::new(), clock }
    }

    /// Live entries, counted one shard after the other.
    pub fn len(&self) -> usize {
        let now = (self.clock)();
        let count = |shard: &Mutex<Shard>| {
            let mut shard = lock(shard);
            shard.purge(now);
            shard.entries.len()
        };
        self.shards.iter().map(count).sum()
    }

    /// Whether nothing is alive.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The key's shard, cleared of what is over by now.
    fn shard(&self, key: &str) -> Result<(MutexGuard<'_, Shard>, Instant), PluginError> {
        if key.is_empty() || key.len() > MAX_KEY {
            return Err(PluginError::InvalidCall(format!("a key of {} bytes", key.len())));
        }
        let index = self.hasher.hash_one(key) as usize % self.shards.len();
        let mut shard = lock(&self.shards[index]);
        let now = (self.clock)();
        shard.purge(now);
        Ok((shard, now))
    }
}

impl Default for MemoryState {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryState").field("shards", &self.shards.len()).finish_non_exhaustive()
    }
}

// No call waits: every lock is held for a few map operations.
#[async_trait]
impl StateStore for MemoryState {
    async fn put_new(&self, key: &str, value: &[u8], lifetime: Duration) -> Result<bool, PluginError> {
        check_value(value)?;
        let (mut shard, now) = self.shard(key)?;
        if shard.entries.contains_key(key) {
            return Ok(false);
        }
        shard.insert(key, value, now, lifetime)?;
        Ok(true)
    }

    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, PluginError> {
        let (shard, _) = self.shard(key)?;
        Ok(shard.entries.get(key).map(|entry| entry.value.to_vec()))
    }

    async fn update(&self, key: &str, expected: &[u8], value: &[u8], lifetime: Duration) -> Result<bool, PluginError> {
        check_value(value)?;
        let (mut shard, now) = self.shard(key)?;
        if shard.entries.get(key).is_none_or(|entry| *entry.value != *expected) {
            return Ok(false);
        }
        let old = shard.remove(key);
        if let Err(full) = shard.insert(key, value, now, lifetime) {
            // A larger value did not fit: what was there stays as it was.
            if let Some(old) = old {
                shard.restore(key, old);
            }
            return Err(full);
        }
        Ok(true)
    }

    async fn take(&self, key: &str) -> Result<Option<Vec<u8>>, PluginError> {
        let (mut shard, _) = self.shard(key)?;
        Ok(shard.remove(key).map(|entry| entry.value.to_vec()))
    }

    async fn health(&self) -> Result<(), PluginError> {
        Ok(())
    }
}

/// A part of the entries, with an index by the time they end.
#[derive(Default)]
struct Shard {
    entries: HashMap<Arc<str>, Entry>,
    /// (end, serial) -> key; the serial keeps two ends at one instant apart.
    ends: BTreeMap<(Instant, u64), Arc<str>>,
    serial: u64,
    used: usize,
    budget: usize,
}

struct Entry {
    value: Zeroizing<Vec<u8>>,
    end: (Instant, u64),
}

impl Shard {
    /// Forgets every entry whose lifetime is over at `now`.
    fn purge(&mut self, now: Instant) {
        while let Some(first) = self.ends.first_entry() {
            if first.key().0 > now {
                return;
            }
            let key = first.remove();
            if let Some(entry) = self.entries.remove(&key) {
                self.used -= cost(&key, &entry.value);
            }
        }
    }

    fn insert(&mut self, key: &str, value: &[u8], now: Instant, lifetime: Duration) -> Result<(), PluginError> {
        // An end beyond the clock's range is a fault of the caller.
        let end = now.checked_add(lifetime).ok_or_else(|| PluginError::InvalidCall("lifetime too long".into()))?;
        if self.used + cost(key, value) > self.budget {
            return Err(PluginError::Busy);
        }
        self.serial += 1;
        let entry = Entry { value: Zeroizing::new(value.to_vec()), end: (end, self.serial) };
        self.restore(key, entry);
        Ok(())
    }

    fn restore(&mut self, key: &str, entry: Entry) {
        let key: Arc<str> = key.into();
        self.used += cost(&key, &entry.value);
        self.ends.insert(entry.end, key.clone());
        self.entries.insert(key, entry);
    }

    fn remove(&mut self, key: &str) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        self.ends.remove(&entry.end);
        self.used -= cost(key, &entry.value);
        Some(entry)
    }
}

fn cost(key: &str, value: &[u8]) -> usize {
    key.len() + value.len() + ENTRY_OVERHEAD
}

fn check_value(value: &[u8]) -> Result<(), PluginError> {
    match value.len() {
        0..=MAX_VALUE => Ok(()),
        length => Err(PluginError::InvalidCall(format!("a value of {length} bytes"))),
    }
}

/// A panic under the lock is impossible short of running out of memory, and
/// would leave the maps whole.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

const SHARDS: usize = 64;
const DEFAULT_BUDGET: usize = 256 * 1024 * 1024;
const MAX_KEY: usize = 255;
const MAX_VALUE: usize = 32 * 1024;
/// What the maps and allocations of one entry take beside its bytes, roughly.
const ENTRY_OVERHEAD: usize = 192;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// A store on a clock that the test moves, in milliseconds.
    fn stopped(budget: usize) -> (MemoryState, Arc<AtomicU64>) {
        let start = Instant::now();
        let elapsed = Arc::new(AtomicU64::new(0));
        let hand = elapsed.clone();
        let clock = Arc::new(move || start + Duration::from_millis(hand.load(Ordering::SeqCst)));
        (MemoryState::with_clock(budget, clock), elapsed)
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_value_lives_exactly_as_long_as_asked() {
        let (store, clock) = stopped(1 << 20);
        assert!(store.put_new("k", b"v", MINUTE).await.unwrap());
        clock.store(59_999, Ordering::SeqCst);
        assert_eq!(store.get("k").await.unwrap().as_deref(), Some(&b"v"[..]));
        clock.store(60_000, Ordering::SeqCst);
        assert_eq!(store.get("k").await.unwrap(), None);
        assert_eq!(store.take("k").await.unwrap(), None);
        assert!(!store.update("k", b"v", b"w", MINUTE).await.unwrap());
        assert!(store.put_new("k", b"again", MINUTE).await.unwrap());
    }

    #[tokio::test]
    async fn update_replaces_value_and_lifetime_only_of_what_is_expected() {
        let (store, clock) = stopped(1 << 20);
        store.put_new("k", b"1", MINUTE).await.unwrap();
        assert!(!store.put_new("k", b"2", MINUTE).await.unwrap());
        assert!(!store.update("k", b"2", b"3", MINUTE).await.unwrap());
        assert!(!store.update("other", b"", b"3", MINUTE).await.unwrap());
        clock.store(30_000, Ordering::SeqCst);
        assert!(store.update("k", b"1", b"3", MINUTE).await.unwrap());
        clock.store(89_999, Ordering::SeqCst);
        assert_eq!(store.get("k").await.unwrap().as_deref(), Some(&b"3"[..]));
        clock.store(90_000, Ordering::SeqCst);
        assert!(store.is_empty());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn of_many_takers_exactly_one_gets_the_value() {
        let store = Arc::new(MemoryState::new());
        for round in 0..200 {
            let key = format!("challenge {round}");
            store.put_new(&key, b"v", MINUTE).await.unwrap();
            let takers: Vec<_> = (0..8)
                .map(|_| {
                    let (store, key) = (store.clone(), key.clone());
                    tokio::spawn(async move { store.take(&key).await.unwrap().is_some() })
                })
                .collect();
            let mut got = 0;
            for taker in takers {
                got += usize::from(taker.await.unwrap());
            }
            assert_eq!(got, 1);
        }
    }

    #[tokio::test]
    async fn a_full_store_refuses_new_entries_and_keeps_the_old() {
        let (store, clock) = stopped(SHARDS * 4096);
        let value = [0; 1024];
        let mut kept = Vec::new();
        let mut refused = 0;
        for i in 0..1000 {
            match store.put_new(&i.to_string(), &value, MINUTE).await {
                Ok(true) => kept.push(i),
                Err(PluginError::Busy) => refused += 1,
                other => panic!("{other:?}"),
            }
        }
        assert!(refused > 500 && kept.len() > 50, "{refused} refused, {} kept", kept.len());
        for i in &kept {
            assert!(store.get(&i.to_string()).await.unwrap().is_some());
        }
        // A larger value that does not fit leaves the old one.
        let key = kept[0].to_string();
        assert_eq!(store.update(&key, &value, &[1; 8192], MINUTE).await, Err(PluginError::Busy));
        assert_eq!(store.get(&key).await.unwrap().as_deref(), Some(&value[..]));
        clock.store(60_000, Ordering::SeqCst);
        assert!(store.put_new("room again", &value, MINUTE).await.unwrap());
    }

    #[tokio::test]
    async fn broken_calls_are_told_so() {
        let store = MemoryState::new();
        let long = "k".repeat(256);
        assert!(matches!(store.get("").await, Err(PluginError::InvalidCall(_))));
        assert!(matches!(store.get(&long).await, Err(PluginError::InvalidCall(_))));
        assert!(matches!(store.put_new("k", &vec![0; MAX_VALUE + 1], MINUTE).await, Err(PluginError::InvalidCall(_))));
        assert!(matches!(store.put_new("k", b"", Duration::MAX).await, Err(PluginError::InvalidCall(_))));
    }
}
