//! The guard of a user store.

use std::sync::Arc;

use async_trait::async_trait;
use claviger_plugin_api::{
    CounterPosition, CounterUse, Cursor, MAX_VALUE, Page, PluginError, Put, Record, Scan, UserStore, Verdict, Written,
};

use super::{Call, Guard, Shared, ensure, rising};

pub(in super::super) struct GuardedUserStore<S> {
    guard: Guard<S>,
    get: Call,
    put: Call,
    delete: Call,
    scan: Call,
    list: Call,
    consume: Call,
    forget_counters: Call,
    counters: Call,
}

impl<S: UserStore> GuardedUserStore<S> {
    pub(in super::super) fn new(shared: &Shared, store: Arc<S>) -> Self {
        let guard = Guard::new(shared.clone(), "user_store", "user_store.health", store, |store| store.health());
        Self {
            get: guard.read("user_store.get"),
            put: guard.write("user_store.put"),
            delete: guard.write("user_store.delete"),
            scan: guard.read("user_store.scan"),
            list: guard.read("user_store.list"),
            consume: guard.write("user_store.consume"),
            forget_counters: guard.write("user_store.forget_counters"),
            counters: guard.read("user_store.counters"),
            guard,
        }
    }

    /// Where its component can be replaced.
    pub(in super::super) fn guard(&self) -> &Guard<S> {
        &self.guard
    }
}

#[async_trait]
impl<S: UserStore> UserStore for GuardedUserStore<S> {
    async fn get(&self, keys: &[String]) -> Result<Vec<Option<Record>>, PluginError> {
        self.guard.run(&self.get, |store| store.0.get(keys), |records| answers(keys, records)).await
    }

    async fn put(&self, put: Put) -> Result<Written, PluginError> {
        let expected = put.expected;
        self.guard
            .run(&self.put, |store| store.0.put(put.clone()), |w| written(w, expected, expected.wrapping_add(1)))
            .await
    }

    async fn delete(&self, key: &str, expected: u64) -> Result<Written, PluginError> {
        self.guard.run(&self.delete, |store| store.0.delete(key, expected), |w| written(w, expected, 0)).await
    }

    async fn scan(&self, scan: Scan) -> Result<Page, PluginError> {
        self.guard.run(&self.scan, |store| store.0.scan(scan.clone()), |found| page(&scan, found)).await
    }

    async fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<Record>, PluginError> {
        let check = |records: &Vec<Record>| {
            rising(records.iter().map(|record| record.key.as_str()), after, limit)?;
            records.iter().try_for_each(record)
        };
        self.guard.run(&self.list, |store| store.0.list(after, limit), check).await
    }

    async fn consume(&self, uses: &[CounterUse]) -> Result<Vec<Verdict>, PluginError> {
        let check = |verdicts: &Vec<Verdict>| {
            ensure(verdicts.len() == uses.len(), || {
                format!("{} verdicts on {} uses of counters", verdicts.len(), uses.len())
            })
        };
        self.guard.run(&self.consume, |store| store.0.consume(uses), check).await
    }

    async fn forget_counters(&self, credential: [u8; 16]) -> Result<(), PluginError> {
        self.guard.run(&self.forget_counters, |store| store.0.forget_counters(credential), |()| Ok(())).await
    }

    async fn counters(&self, after: Option<CounterPosition>, limit: usize) -> Result<Vec<CounterUse>, PluginError> {
        let position =
            |row: &CounterUse| CounterPosition { credential: row.credential, epoch: row.epoch, counter: row.counter };
        let check = |rows: &Vec<CounterUse>| rising(rows.iter().map(position), after, limit);
        self.guard.run(&self.counters, |store| store.0.counters(after, limit), check).await
    }

    async fn health(&self) -> Result<(), PluginError> {
        self.guard.health().await
    }
}

fn answers(keys: &[String], records: &[Option<Record>]) -> Result<(), String> {
    ensure(records.len() == keys.len(), || format!("{} answers on {} keys", records.len(), keys.len()))?;
    keys.iter().zip(records).try_for_each(|(key, found)| match found {
        Some(found) => ensure(found.key == *key, || "a record under another key than asked".into()).and(record(found)),
        None => Ok(()),
    })
}

fn record(record: &Record) -> Result<(), String> {
    ensure(record.version > 0, || "a record of version 0".into())?;
    ensure(record.value.len() <= MAX_VALUE, || format!("a record of {} bytes", record.value.len()))?;
    ensure(record.terms.len() <= MAX_TERMS, || format!("a record with {} terms", record.terms.len()))
}

fn written(written: &Written, expected: u64, then: u64) -> Result<(), String> {
    match *written {
        Written::Done(version) => {
            ensure(version == then, || format!("version {version} after a write, where {then} is due"))
        }
        Written::Conflict(version) => {
            ensure(version != expected, || format!("a conflict with version {version}, which was expected"))
        }
    }
}

fn page(asked: &Scan, page: &Page) -> Result<(), String> {
    ensure(page.records.len() <= asked.limit, || {
        format!("{} records where at most {} were asked", page.records.len(), asked.limit)
    })?;
    page.records.iter().try_for_each(|found| {
        ensure(found.terms.iter().any(|term| term.name == asked.term), || "a record without the term asked".into())
            .and(record(found))
    })?;
    // Otherwise whoever follows the cursors would never come to an end.
    let goes_on = |next: &Cursor| asked.after.as_ref().is_none_or(|after| next > after);
    ensure(page.next.as_ref().is_none_or(goes_on), || "a cursor that does not go on".into())
}

const MAX_TERMS: usize = 8;
