//! Records: each version an object of its own, which never changes. The next
//! version is made before the last one is destroyed; the highest one holds.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    ops::Bound,
};

use claviger_plugin_api::{Cursor, Page, PluginError, Put, Record, Scan, Written};
use cryptoki::object::ObjectHandle;

use crate::{
    fault::Fault,
    objects,
    record::{Damaged, decode, encode, key_name},
    store::{Retired, Shared, retire},
    worker::Desk,
};

/// The records of the module, in memory.
#[derive(Default)]
pub(crate) struct Records {
    by_key: BTreeMap<String, Stored>,
    /// By name of the term: value and record key.
    terms: HashMap<String, BTreeSet<(String, String)>>,
    /// Names of the keys of which an object cannot be read.
    damaged: HashSet<String>,
}

struct Stored {
    record: Record,
    object: ObjectHandle,
    /// Versions that are over.
    old: Retired,
}

/// What the name of a record's object begins with.
const NAME: &str = "record:";

fn name(record: &Record) -> String {
    format!("{NAME}{}:{}", key_name(&record.key), record.version)
}

/// Writes a record.
pub(crate) fn put(desk: &Desk<'_>, shared: &Shared, put: &Put) -> Result<Written, Fault> {
    shared.load(desk)?;
    let _one = shared.only(key_name(&put.key).as_bytes());
    let stored = shared.memory().records.version(&put.key)?;
    if stored != put.expected {
        return Ok(Written::Conflict(stored));
    }
    let version = stored.checked_add(1).ok_or_else(|| corrupt(&put.key))?;
    let record = Record { key: put.key.clone(), version, value: put.value.clone(), terms: put.terms.clone() };
    let object = objects::create_data(desk.session, &desk.module.names, &name(&record), encode(&record))?;
    shared.memory_mut().records.insert(record, object);
    // From here on it is written, whatever becomes of the version before.
    let old = shared.memory_mut().records.by_key.get_mut(&put.key).map(|stored| std::mem::take(&mut stored.old));
    let left = retire(desk, old.unwrap_or_default());
    if let (false, Some(stored)) = (left.is_empty(), shared.memory_mut().records.by_key.get_mut(&put.key)) {
        stored.old = left;
    }
    Ok(Written::Done(version))
}

/// Deletes a record: what is over first, lest it came back.
pub(crate) fn delete(desk: &Desk<'_>, shared: &Shared, key: &str, expected: u64) -> Result<Written, Fault> {
    shared.load(desk)?;
    let _one = shared.only(key_name(key).as_bytes());
    let stored = shared.memory().records.version(key)?;
    if stored != expected || stored == 0 {
        return Ok(if stored == expected { Written::Done(0) } else { Written::Conflict(stored) });
    }
    let doomed = shared.memory().records.by_key.get(key).map(|stored| (stored.old.clone(), stored.object));
    if let Some((old, object)) = doomed {
        old.into_iter().chain([object]).try_for_each(|object| desk.destroy(object))?;
    }
    shared.memory_mut().records.remove(key);
    Ok(Written::Done(0))
}

impl Records {
    /// Takes an object that was found; `name` follows the prefix in its label.
    /// `false` where it is none of these.
    pub(crate) fn found(&mut self, name: &str, value: &[u8], object: ObjectHandle) -> bool {
        let Some(rest) = name.strip_prefix(NAME) else { return false };
        match decode(value) {
            Ok(record) if self::name(&record) == name => self.insert(record, object),
            Ok(_) | Err(Damaged) => {
                tracing::error!(name, "an object of a record is damaged");
                self.damaged.insert(rest.split(':').next().unwrap_or_default().to_owned());
            }
        }
        true
    }

    /// Whatever is over, taken out.
    pub(crate) fn take_old(&mut self) -> Retired {
        self.by_key.values_mut().flat_map(|stored| std::mem::take(&mut stored.old)).collect()
    }

    /// The stored version, 0 where there is no record.
    fn version(&self, key: &str) -> Result<u64, PluginError> {
        Ok(self.get(key)?.map_or(0, |record| record.version))
    }

    pub(crate) fn get(&self, key: &str) -> Result<Option<&Record>, PluginError> {
        // No hash of each key while there is no damage.
        if !self.damaged.is_empty() && self.damaged.contains(&key_name(key)) {
            return Err(corrupt(key));
        }
        Ok(self.by_key.get(key).map(|stored| &stored.record))
    }

    pub(crate) fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<Record>, PluginError> {
        self.check_all()?;
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let found = self.by_key.range::<str, _>((from, Bound::Unbounded));
        Ok(found.take(limit).map(|(_, stored)| stored.record.clone()).collect())
    }

    pub(crate) fn scan(&self, scan: &Scan) -> Result<Page, PluginError> {
        self.check_all()?;
        let Some(index) = self.terms.get(&scan.term) else { return Ok(Page::default()) };
        let from = match &scan.after {
            Some(after) => Bound::Excluded((after.value.clone(), after.key.clone())),
            None => Bound::Unbounded,
        };
        let mut entries = index.range((from, Bound::Unbounded));
        let (mut records, mut last) = (Vec::new(), None);
        for (value, key) in entries.by_ref().take(scan.limit) {
            records.extend(self.by_key.get(key).map(|stored| stored.record.clone()));
            last = Some(Cursor { value: value.clone(), key: key.clone() });
        }
        Ok(Page { records, next: last.filter(|_| entries.next().is_some()) })
    }

    /// Takes a record unless a higher version is there.
    fn insert(&mut self, record: Record, object: ObjectHandle) {
        let mut old = Retired::new();
        if let Some(stored) = self.by_key.get_mut(&record.key) {
            if stored.record.version >= record.version {
                stored.old.push(object);
                return;
            }
            old = std::mem::take(&mut stored.old);
            old.push(stored.object);
            self.remove(&record.key);
        }
        for term in &record.terms {
            let index = self.terms.entry(term.name.clone()).or_default();
            index.insert((term.value.clone(), record.key.clone()));
        }
        self.by_key.insert(record.key.clone(), Stored { record, object, old });
    }

    fn remove(&mut self, key: &str) {
        let Some(Stored { record, .. }) = self.by_key.remove(key) else { return };
        for term in record.terms {
            if let Some(index) = self.terms.get_mut(&term.name) {
                index.remove(&(term.value, record.key.clone()));
                if index.is_empty() {
                    self.terms.remove(&term.name);
                }
            }
        }
    }

    fn check_all(&self) -> Result<(), PluginError> {
        match self.damaged.len() {
            0 => Ok(()),
            count => Err(PluginError::Corrupt(format!("the objects of {count} records in the token are damaged"))),
        }
    }
}

fn corrupt(key: &str) -> PluginError {
    PluginError::Corrupt(format!("an object of record {key:?} in the token is damaged"))
}
