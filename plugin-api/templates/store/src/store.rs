//! The thread that owns state and journal, and the trait in front of it.

use std::{
    path::Path,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{SystemTime, UNIX_EPOCH},
};

use claviger_plugin_api::{
    CounterPosition, CounterUse, InitError, Page, PluginError, Put, Record, Scan, UserStore, Verdict, Written,
    async_trait, limits,
};
use tokio::sync::oneshot;

use crate::{journal::Journal, state::State};

/// Calls that may wait for the thread; further ones are answered `Busy`.
const QUEUE: usize = 4096;
/// Calls that share a commit at most.
const BATCH: usize = 256;

/// Does its part on the state. What it returns is called when all that was changed is durable, or is not.
type Job = Box<dyn FnOnce(&mut State) -> Box<dyn FnOnce(Result<(), PluginError>)> + Send>;

/// The store. Dropping it ends its thread, and so frees the file.
pub struct Store {
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
    clock: Arc<dyn Fn() -> SystemTime + Send + Sync>,
}

impl Store {
    /// Opens the journal, or makes it.
    ///
    /// # Errors
    /// When another process has it, it cannot be read, or it is damaged.
    pub fn open(path: &Path, clock: Arc<dyn Fn() -> SystemTime + Send + Sync>) -> Result<Self, InitError> {
        let (journal, state) = Journal::open(path, millis(clock()))?;
        let (jobs, queue) = sync_channel(QUEUE);
        let thread = thread::Builder::new().name("journal".to_owned()).spawn(move || run(&queue, state, journal));
        let thread = thread.map_err(|error| InitError::Failed(format!("no thread: {error}")))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread), clock })
    }

    /// Has something done on the state. A call that is dropped meanwhile is done all the same, as a whole.
    async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut State) -> T + Send + 'static,
    ) -> Result<T, PluginError> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |state| {
            let done = work(state);
            // Whoever asked may have gone away.
            Box::new(move |committed| drop(answer.send(committed.map(|()| done))))
        });
        let ended = || PluginError::Unavailable("the journal's thread has ended".to_owned());
        self.jobs.as_ref().ok_or_else(ended)?.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => PluginError::Busy,
            TrySendError::Disconnected(_) => ended(),
        })?;
        answered.await.unwrap_or_else(|_| Err(ended()))
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Until the store is dropped. Once a commit has failed nobody knows what the
/// file holds, so nothing is answered any more until it is opened anew.
fn run(queue: &Receiver<Job>, mut state: State, mut journal: Journal) {
    let mut broken = None;
    while let Ok(first) = queue.recv() {
        let jobs = std::iter::once(first).chain(queue.try_iter()).take(BATCH);
        let answers: Vec<_> = jobs.map(|job| job(&mut state)).collect();
        let changes = std::mem::take(&mut state.changes);
        if broken.is_none()
            && !changes.is_empty()
            && let Err(error) = journal.commit(&changes)
        {
            tracing::error!(%error, "the journal cannot be written");
            broken = Some(format!("the journal could not be written ({error}); make room and restart the daemon"));
        }
        for answer in answers {
            answer(broken.clone().map_or(Ok(()), |text| Err(PluginError::Unavailable(text))));
        }
    }
}

#[async_trait]
impl UserStore for Store {
    async fn get(&self, keys: &[String]) -> Result<Vec<Option<Record>>, PluginError> {
        limits::batch(keys.len())?;
        keys.iter().try_for_each(|key| limits::key(key))?;
        let keys = keys.to_vec();
        self.ask(move |state| state.get(&keys)).await
    }

    async fn put(&self, put: Put) -> Result<Written, PluginError> {
        limits::put(&put)?;
        self.ask(move |state| state.put(put)).await
    }

    async fn delete(&self, key: &str, expected: u64) -> Result<Written, PluginError> {
        limits::key(key)?;
        let key = key.to_owned();
        self.ask(move |state| state.delete(&key, expected)).await
    }

    async fn scan(&self, scan: Scan) -> Result<Page, PluginError> {
        limits::scan(&scan)?;
        self.ask(move |state| state.scan(scan)).await
    }

    async fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<Record>, PluginError> {
        limits::page(limit)?;
        let after = after.map(str::to_owned);
        self.ask(move |state| state.list(after.as_deref(), limit)).await
    }

    async fn consume(&self, uses: &[CounterUse]) -> Result<Vec<Verdict>, PluginError> {
        limits::batch(uses.len())?;
        let (uses, now_ms) = (uses.to_vec(), millis((self.clock)()));
        self.ask(move |state| uses.iter().map(|one| state.consume(one, now_ms)).collect()).await
    }

    async fn forget_counters(&self, credential: [u8; 16]) -> Result<(), PluginError> {
        self.ask(move |state| state.forget_counters(credential)).await
    }

    async fn counters(&self, after: Option<CounterPosition>, limit: usize) -> Result<Vec<CounterUse>, PluginError> {
        limits::page(limit)?;
        self.ask(move |state| state.counters(after, limit)).await
    }

    /// Goes through the thread, so a journal that cannot be written shows here too.
    async fn health(&self) -> Result<(), PluginError> {
        self.ask(|_| ()).await
    }
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
