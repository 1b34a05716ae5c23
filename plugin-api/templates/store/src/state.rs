//! All records and counters, in memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use claviger_plugin_api::{
    COUNTER_RETENTION, CounterPosition, CounterUse, Cursor, IndexTerm, Page, Put, Record, Scan, Verdict, Written,
    counter,
};
use minicbor::{Decode, Encode};

/// A change, as it lies in the journal.
#[derive(Debug, Clone, Encode, Decode)]
pub(crate) enum Change {
    /// A record as it is from now on.
    #[n(0)]
    Record {
        #[n(0)]
        key: String,
        #[n(1)]
        version: u64,
        #[cbor(n(2), with = "minicbor::bytes")]
        value: Vec<u8>,
        #[n(3)]
        terms: Vec<(String, String)>,
    },
    /// A record that is gone.
    #[n(1)]
    Deleted {
        #[n(0)]
        key: String,
    },
    /// A counter that was used.
    #[n(2)]
    Used {
        #[cbor(n(0), with = "minicbor::bytes")]
        credential: [u8; 16],
        #[n(1)]
        epoch: u32,
        #[n(2)]
        counter: u64,
        #[cbor(n(3), with = "minicbor::bytes")]
        nonce: [u8; 32],
        /// From when on its retention counts: milliseconds since 1970.
        #[n(4)]
        from_ms: u64,
    },
    /// A credential whose counters are gone.
    #[n(3)]
    Forgotten {
        #[cbor(n(0), with = "minicbor::bytes")]
        credential: [u8; 16],
    },
}

/// The state. What changes it is noted in [`Self::changes`], for the journal.
#[derive(Default)]
pub(crate) struct State {
    records: BTreeMap<String, Stored>,
    /// Term, its value, key of the record.
    index: BTreeSet<(String, String, String)>,
    /// By credential and epoch. The highest row of one is never pruned: it is where the window ends.
    counters: BTreeMap<([u8; 16], u32), BTreeMap<u64, Row>>,
    /// What was changed since the journal has taken the last ones.
    pub(crate) changes: Vec<Change>,
}

struct Stored {
    version: u64,
    value: Vec<u8>,
    terms: Vec<(String, String)>,
}

#[derive(Clone, Copy)]
struct Row {
    nonce: [u8; 32],
    from_ms: u64,
}

/// Rows that one use of a counter may prune.
const PRUNED_AT_ONCE: usize = 128;

impl State {
    pub(crate) fn get(&self, keys: &[String]) -> Vec<Option<Record>> {
        keys.iter().map(|key| self.records.get(key).map(|stored| stored.record(key))).collect()
    }

    pub(crate) fn put(&mut self, put: Put) -> Written {
        let stored = self.version(&put.key);
        if stored != put.expected {
            return Written::Conflict(stored);
        }
        let terms = put.terms.into_iter().map(|term| (term.name, term.value)).collect();
        self.change(Change::Record { key: put.key, version: stored + 1, value: put.value, terms });
        Written::Done(stored + 1)
    }

    pub(crate) fn delete(&mut self, key: &str, expected: u64) -> Written {
        let stored = self.version(key);
        if stored != expected {
            return Written::Conflict(stored);
        }
        if stored > 0 {
            self.change(Change::Deleted { key: key.to_owned() });
        }
        Written::Done(0)
    }

    pub(crate) fn scan(&self, scan: Scan) -> Page {
        let Scan { term, after, limit } = scan;
        let from = match after {
            Some(Cursor { value, key }) => Bound::Excluded((term.clone(), value, key)),
            None => Bound::Included((term.clone(), String::new(), String::new())),
        };
        let mut found = self.index.range((from, Bound::Unbounded)).take_while(|(name, ..)| *name == term).peekable();
        let (mut page, mut last) = (Page::default(), None);
        while page.records.len() < limit
            && let Some((_, value, key)) = found.next()
        {
            page.records.extend(self.records.get(key).map(|stored| stored.record(key)));
            last = Some(Cursor { value: value.clone(), key: key.clone() });
        }
        page.next = found.peek().and(last);
        page
    }

    pub(crate) fn list(&self, after: Option<&str>, limit: usize) -> Vec<Record> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let found = self.records.range::<str, _>((from, Bound::Unbounded));
        found.take(limit).map(|(key, stored)| stored.record(key)).collect()
    }

    /// Judges one use, and records it if it is fresh.
    pub(crate) fn consume(&mut self, one: &CounterUse, now_ms: u64) -> Verdict {
        let place = (one.credential, one.epoch);
        let rows = self.counters.get(&place);
        if let Some(row) = rows.and_then(|rows| rows.get(&one.counter)) {
            return if row.nonce == one.nonce { Verdict::SameNonce } else { Verdict::OtherNonce };
        }
        let max = rows.and_then(|rows| rows.last_key_value()).map(|(max, _)| *max);
        if max.and_then(counter::too_old).is_some_and(|line| one.counter <= line) {
            return Verdict::TooOld;
        }
        let CounterUse { credential, epoch, counter, nonce, time_ms } = *one;
        self.change(Change::Used { credential, epoch, counter, nonce, from_ms: time_ms.max(now_ms) });
        if max.is_some_and(|max| counter::enters_new_block(counter, max)) {
            self.prune(place, now_ms, PRUNED_AT_ONCE);
        }
        Verdict::Fresh
    }

    pub(crate) fn forget_counters(&mut self, credential: [u8; 16]) {
        if self.counters.range((credential, 0)..=(credential, u32::MAX)).next().is_some() {
            self.change(Change::Forgotten { credential });
        }
    }

    pub(crate) fn counters(&self, after: Option<CounterPosition>, limit: usize) -> Vec<CounterUse> {
        let first = after.map_or(([0; 16], 0), |after| (after.credential, after.epoch));
        let rows = self.counters.range(first..).flat_map(|(&(credential, epoch), rows)| {
            let behind = after.filter(|after| (after.credential, after.epoch) == (credential, epoch));
            let from = behind.map_or(Bound::Unbounded, |after| Bound::Excluded(after.counter));
            rows.range((from, Bound::Unbounded)).map(move |(counter, row)| CounterUse {
                credential,
                epoch,
                counter: *counter,
                nonce: row.nonce,
                time_ms: row.from_ms,
            })
        });
        rows.take(limit).collect()
    }

    /// Makes a change, and does not note it: that of a journal that is read.
    pub(crate) fn apply(&mut self, change: Change) {
        match change {
            Change::Record { key, version, value, terms } => {
                self.remove(&key);
                self.index.extend(terms.iter().map(|(name, value)| (name.clone(), value.clone(), key.clone())));
                self.records.insert(key, Stored { version, value, terms });
            }
            Change::Deleted { key } => self.remove(&key),
            Change::Used { credential, epoch, counter, nonce, from_ms } => {
                self.counters.entry((credential, epoch)).or_default().insert(counter, Row { nonce, from_ms });
            }
            Change::Forgotten { credential } => self.counters.retain(|(of, _), _| *of != credential),
        }
    }

    /// The shortest list of changes that makes this state, without rows that need not be kept.
    pub(crate) fn shortest(&mut self, now_ms: u64) -> Vec<Change> {
        let places: Vec<_> = self.counters.keys().copied().collect();
        places.into_iter().for_each(|place| self.prune(place, now_ms, usize::MAX));
        let records = self.records.iter().map(|(key, stored)| Change::Record {
            key: key.clone(),
            version: stored.version,
            value: stored.value.clone(),
            terms: stored.terms.clone(),
        });
        let rows = self.counters(None, usize::MAX).into_iter().map(|one| Change::Used {
            credential: one.credential,
            epoch: one.epoch,
            counter: one.counter,
            nonce: one.nonce,
            from_ms: one.time_ms,
        });
        records.chain(rows).collect()
    }

    fn change(&mut self, change: Change) {
        self.changes.push(change.clone());
        self.apply(change);
    }

    fn version(&self, key: &str) -> u64 {
        self.records.get(key).map_or(0, |stored| stored.version)
    }

    fn remove(&mut self, key: &str) {
        let Some(stored) = self.records.remove(key) else { return };
        for (name, value) in stored.terms {
            self.index.remove(&(name, value, key.to_owned()));
        }
    }

    /// Drops rows that are both below the window and older than they must get. The journal keeps them until
    /// it is written anew.
    fn prune(&mut self, place: ([u8; 16], u32), now_ms: u64, most: usize) {
        let Some(rows) = self.counters.get_mut(&place) else { return };
        let Some(line) = rows.last_key_value().and_then(|(max, _)| counter::too_old(*max)) else { return };
        let retention = u64::try_from(COUNTER_RETENTION.as_millis()).unwrap_or(u64::MAX);
        let old = |row: &Row| row.from_ms.saturating_add(retention) < now_ms;
        let gone: Vec<u64> =
            rows.range(..=line).filter(|(_, row)| old(row)).take(most).map(|(counter, _)| *counter).collect();
        for counter in gone {
            rows.remove(&counter);
        }
    }
}

impl Stored {
    fn record(&self, key: &str) -> Record {
        let terms = self.terms.iter().map(|(name, value)| IndexTerm { name: name.clone(), value: value.clone() });
        Record { key: key.to_owned(), version: self.version, value: self.value.clone(), terms: terms.collect() }
    }
}
