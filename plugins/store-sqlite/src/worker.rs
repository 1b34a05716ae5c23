//! The threads that own the connections, and the queues in front of them.
//!
//! One thread writes: it takes whatever has queued up while its last commit was
//! out and gives it one transaction, so that many sign-ons share one commit.
//! Some threads read, beside the writer and each other, as WAL lets them.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    slice,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::{self, JoinHandle},
};

use claviger_plugin_api::{InitError, PluginError};
use diesel::{
    connection::{AnsiTransactionManager, TransactionManager},
    prelude::*,
};
use tokio::sync::oneshot;

use crate::{
    Configuration,
    connection::{Access, open},
    fault::{Fault, from_sql},
};

/// Calls that may wait for a pool; more are answered *busy*.
const QUEUE: usize = 4096;
/// Calls that share one commit, at most.
const GROUP: usize = 512;

/// A queue and the threads that work it off. Dropping it ends the threads
/// after what is queued, and waits for them.
pub(crate) struct Pool {
    /// `None` only while it is dropped.
    queue: Option<SyncSender<Box<dyn Job>>>,
    threads: Vec<JoinHandle<()>>,
    /// Whether the last call failed.
    failing: AtomicBool,
}

impl Pool {
    /// Starts the writer.
    pub(crate) fn writer(configuration: &Arc<Configuration>) -> Result<Self, InitError> {
        let (queue, jobs) = sync_channel(QUEUE);
        let seat = Seat::take(configuration, Access::Write)?;
        let thread = spawn("sqlite-writer".to_owned(), move || write_all(&jobs, seat))?;
        Ok(Self { queue: Some(queue), threads: vec![thread], failing: AtomicBool::new(false) })
    }

    /// Starts the readers, as many as the configuration says.
    pub(crate) fn readers(configuration: &Arc<Configuration>) -> Result<Self, InitError> {
        let (queue, jobs) = sync_channel(QUEUE);
        let jobs = Arc::new(Mutex::new(jobs));
        // Dropping this on an early return ends the threads that did start.
        let mut pool = Self { queue: Some(queue), threads: Vec::new(), failing: AtomicBool::new(false) };
        for number in 0..configuration.readers {
            let (jobs, seat) = (jobs.clone(), Seat::take(configuration, Access::Read)?);
            pool.threads.push(spawn(format!("sqlite-read-{number}"), move || read_all(&jobs, seat))?);
        }
        Ok(pool)
    }

    /// Has `work` done by a thread of the pool. A call that is dropped before
    /// its turn is not done at all.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        work: impl FnMut(&mut SqliteConnection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, PluginError> {
        let (reply, answer) = oneshot::channel();
        let queue = self.queue.as_ref().ok_or_else(stopped)?;
        queue.try_send(Box::new(Task { work, done: None, reply })).map_err(|e| match e {
            TrySendError::Full(_) => PluginError::Busy,
            TrySendError::Disconnected(_) => stopped(),
        })?;
        let answer = answer.await.unwrap_or_else(|_| Err(stopped()));
        self.failing.store(answer.is_err(), Ordering::Relaxed);
        answer
    }

    /// Whether the last call that was answered failed.
    pub(crate) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// Whether all threads are alive.
    pub(crate) fn alive(&self) -> Result<(), PluginError> {
        if self.threads.iter().any(JoinHandle::is_finished) { Err(stopped()) } else { Ok(()) }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.queue = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a database thread had panicked");
            }
        }
    }
}

/// A call in the queue.
trait Job: Send {
    /// Does the work and keeps the result. May run again after a rollback.
    fn run(&mut self, connection: &mut SqliteConnection) -> Result<(), Fault>;

    /// Tells the caller: the result of the last run, or the error.
    fn answer(self: Box<Self>, outcome: Result<(), PluginError>);

    /// Whether nobody waits for the answer any more.
    fn is_abandoned(&self) -> bool;
}

struct Task<W, T> {
    work: W,
    done: Option<T>,
    reply: oneshot::Sender<Result<T, PluginError>>,
}

impl<W, T> Job for Task<W, T>
where
    W: FnMut(&mut SqliteConnection) -> Result<T, Fault> + Send,
    T: Send,
{
    fn run(&mut self, connection: &mut SqliteConnection) -> Result<(), Fault> {
        self.done = Some((self.work)(connection)?);
        Ok(())
    }

    fn answer(self: Box<Self>, outcome: Result<(), PluginError>) {
        let Self { done, reply, .. } = *self;
        // The caller may have gone; the work is done all the same.
        let _ = reply.send(outcome.and_then(|()| done.ok_or_else(stopped)));
    }

    fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }
}

fn write_all(jobs: &Receiver<Box<dyn Job>>, mut seat: Seat) {
    while let Ok(first) = jobs.recv() {
        let mut group = vec![first];
        group.extend(jobs.try_iter().take(GROUP - 1));
        group.retain(|job| !job.is_abandoned());
        seat.work(group, commit);
    }
}

fn read_all(jobs: &Mutex<Receiver<Box<dyn Job>>>, mut seat: Seat) {
    loop {
        // Nothing can panic under this lock, so it is never really poisoned.
        let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = next else { return };
        if !job.is_abandoned() {
            seat.work(vec![job], read);
        }
    }
}

fn read(connection: &mut SqliteConnection, jobs: Vec<Box<dyn Job>>) {
    for mut job in jobs {
        let outcome = job.run(connection).map_err(PluginError::from);
        job.answer(outcome);
    }
}

/// Runs a group of writes in one transaction and answers after its commit.
/// When one of them fails, they are run again one by one, so that it takes
/// none of the others along.
fn commit(connection: &mut SqliteConnection, mut group: Vec<Box<dyn Job>>) {
    match transact(connection, &mut group) {
        Err(Stopped::Job(_)) if group.len() > 1 => {
            for mut job in group {
                let outcome = transact(connection, slice::from_mut(&mut job));
                job.answer(outcome.map_err(PluginError::from));
            }
        }
        outcome => {
            let outcome = outcome.map_err(PluginError::from);
            for job in group {
                job.answer(outcome.clone());
            }
        }
    }
}

fn transact(connection: &mut SqliteConnection, jobs: &mut [Box<dyn Job>]) -> Result<(), Stopped> {
    if jobs.is_empty() {
        return Ok(());
    }
    // Immediate: the lock is waited for once, at the beginning, and what is
    // read inside cannot be changed by another process before it is written.
    connection.immediate_transaction(|connection| {
        jobs.iter_mut().try_for_each(|job| job.run(connection).map_err(Stopped::Job))
    })
}

/// Where a transaction stopped.
enum Stopped {
    /// In one of its jobs.
    Job(Fault),
    /// At its beginning or its commit.
    Around(diesel::result::Error),
}

impl From<diesel::result::Error> for Stopped {
    fn from(error: diesel::result::Error) -> Self {
        Self::Around(error)
    }
}

impl From<Stopped> for PluginError {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Job(fault) => fault.into(),
            Stopped::Around(error) => from_sql(&error),
        }
    }
}

/// A thread's connection, opened anew when it broke.
struct Seat {
    configuration: Arc<Configuration>,
    access: Access,
    connection: Option<SqliteConnection>,
}

impl Seat {
    fn take(configuration: &Arc<Configuration>, access: Access) -> Result<Self, InitError> {
        let connection = open(configuration, access)
            .map_err(|text| InitError::Unavailable(format!("{} cannot be opened: {text}", configuration.path)))?;
        Ok(Self { configuration: configuration.clone(), access, connection: Some(connection) })
    }

    /// Hands the jobs and the connection to `run`. A panic in there costs the
    /// jobs (their callers are told) and the connection, not the thread.
    fn work(&mut self, jobs: Vec<Box<dyn Job>>, run: fn(&mut SqliteConnection, Vec<Box<dyn Job>>)) {
        let mut connection = match self.connection.take().map_or_else(|| open(&self.configuration, self.access), Ok) {
            Ok(connection) => connection,
            Err(text) => {
                let error = PluginError::Unavailable(format!("{} cannot be opened: {text}", self.configuration.path));
                return jobs.into_iter().for_each(|job| job.answer(Err(error.clone())));
            }
        };
        let survived = catch_unwind(AssertUnwindSafe(|| run(&mut connection, jobs))).is_ok();
        if survived && !AnsiTransactionManager::is_broken_transaction_manager(&mut connection) {
            self.connection = Some(connection);
        } else {
            tracing::error!(path = self.configuration.path, "a database connection broke and is opened anew");
            // Closing a connection in such a state may panic once more.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(connection)));
        }
    }
}

fn spawn(name: String, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, InitError> {
    thread::Builder::new()
        .name(name)
        .spawn(body)
        .map_err(|e| InitError::Unavailable(format!("a database thread cannot be started: {e}")))
}

fn stopped() -> PluginError {
    PluginError::Unavailable("the database thread stopped".to_owned())
}

#[cfg(test)]
mod tests {
    use claviger_plugin_api::Written;

    use super::*;
    use crate::{connection::prepare, counters, records};

    fn configuration(directory: &tempfile::TempDir) -> Arc<Configuration> {
        let configuration = Configuration::new(directory.path().join("users.db").to_str().unwrap());
        prepare(&configuration).unwrap();
        Arc::new(configuration)
    }

    #[tokio::test]
    async fn a_panic_costs_its_call_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let configuration = configuration(&directory);
        for pool in [Pool::writer(&configuration).unwrap(), Pool::readers(&configuration).unwrap()] {
            for _ in 0..3 {
                let answer = pool.call(|_| -> Result<(), Fault> { panic!("by the test") }).await;
                assert!(matches!(answer, Err(PluginError::Unavailable(_))), "{answer:?}");
                pool.alive().unwrap();
                assert_eq!(pool.call(|connection| records::get(connection, &["k".to_owned()])).await, Ok(vec![None]));
            }
        }
    }

    #[tokio::test]
    async fn what_a_failed_call_wrote_is_undone() {
        let directory = tempfile::tempdir().unwrap();
        let pool = Pool::writer(&configuration(&directory)).unwrap();
        let put = claviger_plugin_api::Put { key: "k".to_owned(), expected: 0, value: vec![1], terms: Vec::new() };
        let again = put.clone();
        let answer = pool
            .call(move |connection| {
                records::put(connection, &put)?;
                counters::forget(connection, &[0; 16])?;
                Err::<(), _>(Fault::Corrupt("by the test".to_owned()))
            })
            .await;
        assert_eq!(answer, Err(PluginError::Corrupt("by the test".to_owned())));
        assert_eq!(pool.call(move |connection| records::put(connection, &again)).await, Ok(Written::Done(1)));
    }

    #[tokio::test]
    async fn readers_cannot_write() {
        let directory = tempfile::tempdir().unwrap();
        let pool = Pool::readers(&configuration(&directory)).unwrap();
        let answer = pool.call(|connection| counters::forget(connection, &[0; 16])).await;
        assert!(matches!(answer, Err(PluginError::Unavailable(_))), "{answer:?}");
    }
}
