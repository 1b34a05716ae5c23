//! The user store: objects of the module, all of them also in memory.
//!
//! Reads are answered from memory while the module is up. A write is in the
//! module before it is in memory, and in memory before it is answered; where its
//! fate is not known, everything is read anew.

use std::{
    collections::BTreeSet,
    fs::{File, OpenOptions, TryLockError},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use claviger_plugin_api::{
    CounterPosition, CounterUse, Page, PluginError, Put, Record, Scan, UserStore, Verdict, Written, async_trait, limits,
};
use cryptoki::object::ObjectHandle;

use crate::{
    Clock, Token,
    counters::{self, Counters},
    fault::{Fault, unavailable},
    module::{lock, read},
    objects,
    records::{self, Records},
    worker::Desk,
};

/// A user store in a token, as [`Token::user_store`] gives it.
pub struct Store {
    token: Arc<Token>,
    shared: Arc<Shared>,
    clock: Clock,
}

/// Objects that are over and to be destroyed.
pub(crate) type Retired = Vec<ObjectHandle>;

/// What the threads share.
pub(crate) struct Shared {
    memory: RwLock<Memory>,
    lock_file: PathBuf,
    /// The file by whose lock this process is the only one that writes; held
    /// from the first success to the end. Whoever loads holds the mutex.
    alone: Mutex<Option<File>>,
    /// Who writes a record or a credential's counters holds the one for its hash.
    writers: [Mutex<()>; WRITERS],
}

/// All that the module holds.
#[derive(Default)]
pub(crate) struct Memory {
    /// Which look at the objects it stems from, 0 before the first.
    generation: u64,
    pub(crate) records: Records,
    pub(crate) counters: Counters,
}

const WRITERS: usize = 64;

impl Store {
    pub(crate) fn new(token: Arc<Token>, lock_file: PathBuf, clock: Clock) -> Self {
        let shared = Shared {
            memory: RwLock::default(),
            lock_file,
            alone: Mutex::default(),
            writers: [const { Mutex::new(()) }; WRITERS],
        };
        Self { token, shared: Arc::new(shared), clock }
    }

    /// Answers from memory, which is loaded first where that is due.
    async fn read<T: Send + 'static>(
        &self,
        mut look: impl FnMut(&Memory) -> Result<T, PluginError> + Send + 'static,
    ) -> Result<T, PluginError> {
        {
            let memory = self.shared.memory();
            if memory.generation != 0 && memory.generation == self.token.module.live() {
                return look(&memory);
            }
        }
        let shared = self.shared.clone();
        self.token
            .pool
            .call(move |desk| {
                shared.load(desk)?;
                Ok(look(&shared.memory())?)
            })
            .await
    }

    async fn write<T: Send + 'static>(
        &self,
        mut work: impl FnMut(&Desk<'_>, &Shared) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, PluginError> {
        let shared = self.shared.clone();
        self.token.pool.call(move |desk| work(desk, &shared)).await
    }
}

#[async_trait]
impl UserStore for Store {
    async fn get(&self, keys: &[String]) -> Result<Vec<Option<Record>>, PluginError> {
        limits::batch(keys.len())?;
        keys.iter().try_for_each(|key| limits::key(key))?;
        let keys = keys.to_vec();
        self.read(move |memory| keys.iter().map(|key| Ok(memory.records.get(key)?.cloned())).collect()).await
    }

    async fn put(&self, put: Put) -> Result<Written, PluginError> {
        limits::put(&put)?;
        self.write(move |desk, shared| records::put(desk, shared, &put)).await
    }

    async fn delete(&self, key: &str, expected: u64) -> Result<Written, PluginError> {
        limits::key(key)?;
        let key = key.to_owned();
        self.write(move |desk, shared| records::delete(desk, shared, &key, expected)).await
    }

    async fn scan(&self, scan: Scan) -> Result<Page, PluginError> {
        limits::scan(&scan)?;
        self.read(move |memory| memory.records.scan(&scan)).await
    }

    async fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<Record>, PluginError> {
        limits::page(limit)?;
        let after = after.map(str::to_owned);
        self.read(move |memory| memory.records.list(after.as_deref(), limit)).await
    }

    async fn consume(&self, uses: &[CounterUse]) -> Result<Vec<Verdict>, PluginError> {
        limits::batch(uses.len())?;
        let (uses, clock) = (uses.to_vec(), self.clock.clone());
        self.write(move |desk, shared| counters::consume(desk, shared, &uses, clock())).await
    }

    async fn forget_counters(&self, credential: [u8; 16]) -> Result<(), PluginError> {
        self.write(move |desk, shared| counters::forget(desk, shared, &credential)).await
    }

    async fn counters(&self, after: Option<CounterPosition>, limit: usize) -> Result<Vec<CounterUse>, PluginError> {
        limits::page(limit)?;
        self.read(move |memory| memory.counters.list(after, limit)).await
    }

    async fn health(&self) -> Result<(), PluginError> {
        self.write(|desk, shared| {
            shared.load(desk)?;
            desk.up.prove(desk.session)?;
            // The session may write; whether the token lets it:
            if desk.up.client().get_token_info(desk.up.slot)?.write_protected() {
                return Err(Fault::Answer(unavailable("the token is write-protected")));
            }
            Ok(())
        })
        .await
    }
}

impl Shared {
    pub(crate) fn memory(&self) -> RwLockReadGuard<'_, Memory> {
        read(&self.memory)
    }

    pub(crate) fn memory_mut(&self) -> RwLockWriteGuard<'_, Memory> {
        self.memory.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads all objects, unless that was done since the module's last look at
    /// them, and destroys what is over. Nobody writes meanwhile: who does has
    /// been here before.
    pub(crate) fn load(&self, desk: &Desk<'_>) -> Result<(), Fault> {
        let is_loaded = || self.memory().generation == desk.up.generation;
        if is_loaded() {
            return Ok(());
        }
        let mut alone = lock(&self.alone);
        if is_loaded() {
            return Ok(());
        }
        desk.up.prove(desk.session)?;
        if alone.is_none() {
            *alone = Some(self.lock_file()?);
        }
        let (session, names) = (desk.session, &desk.module.names);
        let mut found = Memory { generation: desk.up.generation, ..Memory::default() };
        for object in objects::find(session, &names.all_data())? {
            let (label, value) = objects::data_of(session, object)?;
            let Some(name) = names.name_in(&label).filter(|name| *name != "canary") else { continue };
            if !found.records.found(name, &value, object) && !found.counters.found(name, &value, object) {
                tracing::warn!(name, "an object of the token is none that this version knows");
            }
        }
        // A token that lost its storage meanwhile has shown less than there is.
        desk.up.prove(session)?;
        let old: Retired = [found.records.take_old(), found.counters.take_old()].concat();
        let left = retire(desk, old);
        if !left.is_empty() {
            let count = left.len();
            return Err(Fault::Answer(unavailable(format!("{count} objects of the token cannot be destroyed"))));
        }
        *self.memory_mut() = found;
        Ok(())
    }

    /// Keeps others from writing what has this name.
    pub(crate) fn only(&self, name: &[u8]) -> MutexGuard<'_, ()> {
        lock(&self.writers[writer(name)])
    }

    /// [`only`](Self::only) for many names, in an order in which nobody waits for ever.
    pub(crate) fn only_all<'a>(&self, names: impl Iterator<Item = &'a [u8]>) -> Vec<MutexGuard<'_, ()>> {
        let writers: BTreeSet<usize> = names.map(writer).collect();
        writers.into_iter().map(|writer| lock(&self.writers[writer])).collect()
    }

    fn lock_file(&self) -> Result<File, PluginError> {
        let shown = self.lock_file.display();
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&self.lock_file);
        let file = file.map_err(|e| unavailable(format!("lock_file: {shown} cannot be opened: {e}")))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(unavailable(format!(
                "lock_file: another process holds {shown}, and only one may keep a user store in a token; \
                 stop the other one"
            ))),
            Err(TryLockError::Error(e)) => Err(unavailable(format!("lock_file: {shown} cannot be locked: {e}"))),
        }
    }
}

/// Destroys objects that are over: those that are left.
pub(crate) fn retire(desk: &Desk<'_>, old: Retired) -> Retired {
    old.into_iter().filter(|object| desk.destroy(*object).is_err()).collect()
}

/// Records have their names in hex, credentials are random bytes.
fn writer(name: &[u8]) -> usize {
    name.iter().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte))) % WRITERS
}
