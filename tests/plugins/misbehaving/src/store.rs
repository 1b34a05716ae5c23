//! A user store and a state store in memory. Good enough for one caller.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use claviger_plugin_api::{
    CounterPosition, CounterUse, Cursor, IndexTerm, Page, PluginError, Put, Record, Scan, StateStore, UserStore,
    Verdict, Written, async_trait,
};

use crate::Plan;

pub(crate) struct Users {
    plan: Plan,
    records: Mutex<BTreeMap<String, Record>>,
}

impl Users {
    pub(crate) fn new(plan: Plan) -> Self {
        Self { plan, records: Mutex::default() }
    }

    fn records(&self) -> MutexGuard<'_, BTreeMap<String, Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl UserStore for Users {
    async fn get(&self, keys: &[String]) -> Result<Vec<Option<Record>>, PluginError> {
        let lie = self.plan.call("user_store.get").await?;
        let mut found: Vec<_> = keys.iter().map(|key| self.records().get(key).cloned()).collect();
        if lie {
            found.reverse();
        }
        Ok(found)
    }

    async fn put(&self, put: Put) -> Result<Written, PluginError> {
        let lie = self.plan.call("user_store.put").await?;
        let version = self.records().get(&put.key).map_or(0, |record| record.version);
        if version != put.expected {
            return Ok(Written::Conflict(version));
        }
        let version = version + 1 + u64::from(lie);
        self.records().insert(put.key.clone(), Record { key: put.key, version, value: put.value, terms: put.terms });
        Ok(Written::Done(version))
    }

    async fn delete(&self, key: &str, expected: u64) -> Result<Written, PluginError> {
        let lie = self.plan.call("user_store.delete").await?;
        let version = self.records().get(key).map_or(0, |record| record.version);
        if version != expected || lie {
            return Ok(Written::Conflict(version));
        }
        self.records().remove(key);
        Ok(Written::Done(0))
    }

    async fn scan(&self, scan: Scan) -> Result<Page, PluginError> {
        let lie = self.plan.call("user_store.scan").await?;
        let position =
            |record: &Record, term: &IndexTerm| Cursor { value: term.value.clone(), key: record.key.clone() };
        let records = self.records();
        let mut found: Vec<(Cursor, Record)> = records
            .values()
            .filter_map(|r| Some((position(r, r.terms.iter().find(|t| t.name == scan.term)?), r.clone())))
            .filter(|(at, _)| scan.after.as_ref().is_none_or(|after| at > after))
            .collect();
        found.sort_by(|a, b| a.0.cmp(&b.0));
        let more = found.len() > scan.limit;
        if !lie {
            found.truncate(scan.limit);
        }
        let next = found.last().filter(|_| more).map(|(at, _)| at.clone());
        Ok(Page { records: found.into_iter().map(|(_, record)| record).collect(), next })
    }

    async fn consume(&self, uses: &[CounterUse]) -> Result<Vec<Verdict>, PluginError> {
        let lie = self.plan.call("user_store.consume").await?;
        let mut verdicts: Vec<Verdict> = uses
            .iter()
            .map(|u| match u.counter {
                0 => Verdict::TooOld,
                1 => Verdict::SameNonce,
                2 => Verdict::OtherNonce,
                _ => Verdict::Fresh,
            })
            .collect();
        verdicts.truncate(uses.len() - usize::from(lie));
        Ok(verdicts)
    }

    async fn forget_counters(&self, _credential: [u8; 16]) -> Result<(), PluginError> {
        self.plan.call("user_store.forget_counters").await.map(|_| ())
    }

    async fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<Record>, PluginError> {
        let lie = self.plan.call("user_store.list").await?;
        let records = self.records();
        let behind = records.values().filter(|record| after.is_none_or(|after| record.key.as_str() > after));
        let mut found: Vec<Record> = behind.take(limit).cloned().collect();
        if lie {
            found.reverse();
        }
        Ok(found)
    }

    async fn counters(&self, _after: Option<CounterPosition>, _limit: usize) -> Result<Vec<CounterUse>, PluginError> {
        self.plan.call("user_store.counters").await?;
        Ok(Vec::new())
    }

    async fn health(&self) -> Result<(), PluginError> {
        self.plan.call("user_store.health").await.map(|_| ())
    }
}

impl Drop for Users {
    fn drop(&mut self) {
        self.plan.panic_in("drop");
    }
}

pub(crate) struct States {
    plan: Plan,
    values: Mutex<BTreeMap<String, Vec<u8>>>,
}

impl States {
    pub(crate) fn new(plan: Plan) -> Self {
        Self { plan, values: Mutex::default() }
    }

    fn values(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl StateStore for States {
    async fn put_new(&self, key: &str, value: &[u8], _lifetime: Duration) -> Result<bool, PluginError> {
        self.plan.call("state_store.put_new").await?;
        let mut values = self.values();
        let new = !values.contains_key(key);
        if new {
            values.insert(key.into(), value.into());
        }
        Ok(new)
    }

    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, PluginError> {
        if self.plan.call("state_store.get").await? {
            return Ok(Some(vec![0; 32 * 1024 + 1]));
        }
        Ok(self.values().get(key).cloned())
    }

    async fn update(&self, key: &str, expected: &[u8], value: &[u8], _lifetime: Duration) -> Result<bool, PluginError> {
        self.plan.call("state_store.update").await?;
        let mut values = self.values();
        let same = values.get(key).is_some_and(|found| found == expected);
        if same {
            values.insert(key.into(), value.into());
        }
        Ok(same)
    }

    async fn take(&self, key: &str) -> Result<Option<Vec<u8>>, PluginError> {
        self.plan.call("state_store.take").await?;
        Ok(self.values().remove(key))
    }

    async fn health(&self) -> Result<(), PluginError> {
        self.plan.call("state_store.health").await?;
        Ok(())
    }
}

impl Drop for States {
    fn drop(&mut self) {
        self.plan.panic_in("drop");
    }
}
