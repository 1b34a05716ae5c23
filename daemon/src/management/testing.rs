//! What the tests of this module run against: a user store in memory whose
//! calls can be made to fail or to wait, and a management role on it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, UNIX_EPOCH},
};

use async_trait::async_trait;
use aws_lc_rs::hmac;
use claviger_plugin_api::{
    CounterPosition, CounterUse, KeyCustody, KeyId, MacRequest, Page, PluginError, Put, Record, Scan, SecretBytes,
    UserStore, Verdict, Written,
};
use tokio::sync::oneshot;

use super::{
    Management,
    kek::{Kek, Recipients},
};
use crate::{
    clock::{self, Clock},
    config::types::{ManagementConfig, ManagementLimits, TerminalsListener},
    net::testing::Authority,
    service::testing::suites,
    suites::Suites,
};

pub(super) const REALM: &str = "example";

/// Credential, epoch, counter.
type Counter = ([u8; 16], u32, u64);

/// A user store in memory.
pub(super) struct MemoryStore {
    records: Mutex<BTreeMap<String, Record>>,
    counters: Mutex<HashMap<Counter, [u8; 32]>>,
    /// Writes until one fails; a large number for none.
    pub(super) writes_left: AtomicUsize,
    /// The next scan waits for it after it has read.
    pub(super) hold: Mutex<Option<oneshot::Receiver<()>>>,
}

impl MemoryStore {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            records: Mutex::default(),
            counters: Mutex::default(),
            writes_left: AtomicUsize::new(usize::MAX),
            hold: Mutex::default(),
        })
    }

    fn write(&self) -> Result<(), PluginError> {
        let left = self.writes_left.fetch_sub(1, Ordering::SeqCst);
        if left == 0 {
            self.writes_left.store(usize::MAX, Ordering::SeqCst);
            return Err(PluginError::Unavailable("by the test".into()));
        }
        Ok(())
    }
}

#[async_trait]
impl UserStore for MemoryStore {
    async fn get(&self, keys: &[String]) -> Result<Vec<Option<Record>>, PluginError> {
        let records = self.records.lock().unwrap();
        Ok(keys.iter().map(|key| records.get(key).cloned()).collect())
    }

    async fn put(&self, put: Put) -> Result<Written, PluginError> {
        self.write()?;
        let mut records = self.records.lock().unwrap();
        let version = records.get(&put.key).map_or(0, |record| record.version);
        if version != put.expected {
            return Ok(Written::Conflict(version));
        }
        let record = Record { key: put.key.clone(), version: version + 1, value: put.value, terms: put.terms };
        records.insert(put.key, record);
        Ok(Written::Done(version + 1))
    }

    async fn delete(&self, key: &str, expected: u64) -> Result<Written, PluginError> {
        self.write()?;
        let mut records = self.records.lock().unwrap();
        let version = records.get(key).map_or(0, |record| record.version);
        if version != expected {
            return Ok(Written::Conflict(version));
        }
        records.remove(key);
        Ok(Written::Done(0))
    }

    async fn scan(&self, scan: Scan) -> Result<Page, PluginError> {
        let records = {
            let records = self.records.lock().unwrap();
            let listed = records.values().filter(|record| record.terms.iter().any(|term| term.name == scan.term));
            listed.cloned().collect()
        };
        let hold = self.hold.lock().unwrap().take();
        if let Some(hold) = hold {
            hold.await.unwrap();
        }
        Ok(Page { records, next: None })
    }

    async fn consume(&self, uses: &[CounterUse]) -> Result<Vec<Verdict>, PluginError> {
        let mut counters = self.counters.lock().unwrap();
        let mut judge = |one: &CounterUse| {
            let key = (one.credential, one.epoch, one.counter);
            match counters.insert(key, one.nonce) {
                None => Verdict::Fresh,
                Some(nonce) if nonce == one.nonce => Verdict::SameNonce,
                Some(nonce) => {
                    counters.insert(key, nonce);
                    Verdict::OtherNonce
                }
            }
        };
        Ok(uses.iter().map(&mut judge).collect())
    }

    async fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<Record>, PluginError> {
        let records = self.records.lock().unwrap();
        let behind = records.values().filter(|record| after.is_none_or(|after| record.key.as_str() > after));
        Ok(behind.take(limit).cloned().collect())
    }

    async fn counters(&self, after: Option<CounterPosition>, limit: usize) -> Result<Vec<CounterUse>, PluginError> {
        let counters = self.counters.lock().unwrap();
        let rows = counters.iter().map(|(&(credential, epoch, counter), &nonce)| CounterUse {
            credential,
            epoch,
            counter,
            nonce,
            time_ms: 0,
        });
        let mut rows: Vec<CounterUse> = rows.collect();
        rows.sort_by_key(|row| (row.credential, row.epoch, row.counter));
        let after = after.map(|after| (after.credential, after.epoch, after.counter));
        rows.retain(|row| after.is_none_or(|after| (row.credential, row.epoch, row.counter) > after));
        rows.truncate(limit);
        Ok(rows)
    }

    async fn forget_counters(&self, credential: [u8; 16]) -> Result<(), PluginError> {
        self.counters.lock().unwrap().retain(|key, _| key.0 != credential);
        Ok(())
    }

    async fn health(&self) -> Result<(), PluginError> {
        Ok(())
    }
}

/// Custody in memory.
#[derive(Default)]
pub(super) struct MemoryCustody {
    pub(super) keys: Mutex<BTreeMap<KeyId, SecretBytes>>,
    /// Whether it answers nothing but *unavailable*.
    pub(super) away: AtomicBool,
    /// The next call that keeps keys waits for it at its end, or one that destroys some at its beginning.
    pub(super) hold: Mutex<Option<oneshot::Receiver<()>>>,
}

impl MemoryCustody {
    fn keys(&self) -> Result<MutexGuard<'_, BTreeMap<KeyId, SecretBytes>>, PluginError> {
        match self.away.load(Ordering::SeqCst) {
            true => Err(PluginError::Unavailable("by the test".into())),
            false => Ok(self.keys.lock().unwrap()),
        }
    }

    async fn held(&self) {
        let hold = self.hold.lock().unwrap().take();
        if let Some(hold) = hold {
            hold.await.unwrap();
        }
    }
}

#[async_trait]
impl KeyCustody for MemoryCustody {
    async fn keep(&self, id: KeyId, key: SecretBytes) -> Result<Vec<u8>, PluginError> {
        self.keys()?.insert(id, key);
        self.held().await;
        Ok(vec![1, 2, 3])
    }

    async fn mac(&self, requests: &[MacRequest]) -> Result<Vec<Option<SecretBytes>>, PluginError> {
        let keys = self.keys()?;
        let mac = |request: &MacRequest| {
            assert_eq!((&request.token[..], request.hash_len), (&[1, 2, 3][..], 32));
            let key = hmac::Key::new(hmac::HMAC_SHA256, keys.get(&request.key)?.expose());
            Some(SecretBytes::copy_from(hmac::sign(&key, &request.message).as_ref()))
        };
        Ok(requests.iter().map(mac).collect())
    }

    async fn destroy(&self, ids: &[KeyId]) -> Result<(), PluginError> {
        self.held().await;
        self.keys()?.retain(|id, _| !ids.contains(id));
        Ok(())
    }

    async fn keys(&self, after: Option<KeyId>, limit: usize) -> Result<Vec<KeyId>, PluginError> {
        let keys = Self::keys(self)?;
        Ok(keys.keys().copied().filter(|id| after.is_none_or(|after| *id > after)).take(limit).collect())
    }

    async fn derive(&self, context: &[u8]) -> Result<SecretBytes, PluginError> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"the module's own");
        Ok(SecretBytes::copy_from(hmac::sign(&key, context).as_ref()))
    }

    async fn initialise(&self) -> Result<String, PluginError> {
        Ok(String::new())
    }

    async fn status(&self) -> Result<String, PluginError> {
        Ok("{}".into())
    }

    async fn health(&self) -> Result<(), PluginError> {
        Self::keys(self).map(|_| ())
    }
}

/// A clock that stands until it is told to go on.
pub(super) struct TestClock(Arc<AtomicU64>);

impl TestClock {
    pub(super) fn new() -> Self {
        Self(Arc::new(AtomicU64::new(1_800_000_000_000)))
    }

    pub(super) fn clock(&self) -> Clock {
        let now_ms = self.0.clone();
        Arc::new(move || UNIX_EPOCH + Duration::from_millis(now_ms.load(Ordering::SeqCst)))
    }

    pub(super) fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_millis() as u64, Ordering::SeqCst);
    }
}

/// A management role on `store`.
pub(super) async fn management(store: Arc<MemoryStore>) -> Arc<Management> {
    with_custody(store, None).await
}

/// A management role on `store` whose unique keys are in `custody`.
pub(super) async fn with_custody(store: Arc<MemoryStore>, custody: Option<Arc<dyn KeyCustody>>) -> Arc<Management> {
    let authority = Authority::new();
    let identity = authority.issue("terminals", &[]);
    let config = ManagementConfig {
        store: "test".into(),
        custody: None,
        suites: vec![1, 3],
        kems: vec![0, 1],
        key_encryption_keys: Vec::new(),
        enrolment_suite_floor: 1,
        enrolment_kem_floor: 0,
        clock_window: Duration::from_secs(120),
        max_session: Duration::from_secs(3600),
        rotate_after: Duration::from_secs(90 * 86_400),
        private_user_ids: false,
        confirm_enrolments: false,
        terminals: TerminalsListener {
            listen: "127.0.0.1:0".parse().unwrap(),
            certificate: identity.certificate,
            private_key: identity.key,
            url: Some("https://manager.example".parse().unwrap()),
        },
        services: None,
        limits: ManagementLimits { per_service_per_second: 1000, per_source_per_second: 1000, per_source_burst: 1000 },
    };
    let recipients = Recipients::of([Kek::new(&[7; 32])]);
    let offered = suites();
    let find = |id| offered.iter().find(|suite| suite.info().id == id).cloned();
    let suites = Suites::new(&config.suites, find).unwrap();
    let realm = REALM.parse().unwrap();
    Management::start(realm, &config, suites, store, custody, recipients, clock::system()).await.unwrap()
}
