//! The threads that own the sessions, the queue in front of them, and what they
//! do when the module fails.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel},
    },
    thread,
    time::Duration,
};

use claviger_plugin_api::{InitError, PluginError};
use cryptoki::session::Session;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};

use crate::{
    fault::{Fault, Remedy, describe, unavailable},
    module::{Module, Up, lock},
};

/// A queue and the threads that work it off.
pub(crate) struct Pool {
    module: Arc<Module>,
    /// `None` only while it is dropped.
    queue: Option<SyncSender<Box<dyn Job>>>,
    /// Closed when the last thread has ended.
    ended: Mutex<Receiver<()>>,
}

/// What a job works with.
pub(crate) struct Desk<'a> {
    pub(crate) module: &'a Module,
    pub(crate) up: &'a Up,
    pub(crate) session: &'a Session,
}

impl Pool {
    /// Starts the threads. None of them has asked the module anything yet.
    pub(crate) fn start(module: Arc<Module>) -> Result<Self, InitError> {
        let (queue, jobs) = sync_channel(module.configuration.queue);
        let jobs = Arc::new(Mutex::new(jobs));
        let (alive, ended) = channel::<()>();
        for number in 0..module.configuration.threads {
            let (jobs, module, alive) = (jobs.clone(), module.clone(), alive.clone());
            thread::Builder::new()
                .name(format!("pkcs11-{number}"))
                .spawn(move || work_off(&jobs, &module, alive))
                .map_err(|e| InitError::Unavailable(format!("a thread for the module cannot be started: {e}")))?;
        }
        Ok(Self { module, queue: Some(queue), ended: Mutex::new(ended) })
    }

    /// Has `work` done by a thread. It may run again after the module failed,
    /// but never after [`Fault::InDoubt`]. A call that is dropped before its turn is
    /// not done at all; one that is dropped later is done to its end.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        work: impl FnMut(&Desk<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, PluginError> {
        self.call_within(self.module.configuration.deadline(), work).await
    }

    /// [`call`](Self::call) with a deadline of its own. A call of the module
    /// that hangs cannot be ended: its thread is lost until it returns.
    pub(crate) async fn call_within<T: Send + 'static>(
        &self,
        deadline: Duration,
        work: impl FnMut(&Desk<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, PluginError> {
        let at = Instant::now() + deadline;
        let answer = self.submit(work)?;
        match timeout_at(at, answer).await {
            Ok(answer) => answer.unwrap_or_else(|_| Err(stopped())),
            Err(_) => Err(unavailable(format!("the module has not answered within {} ms", deadline.as_millis()))),
        }
    }

    /// [`call`](Self::call) for who may block; `None` when it takes too long.
    pub(crate) fn call_blocking<T: Send + 'static>(
        &self,
        patience: Duration,
        work: impl FnMut(&Desk<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Option<Result<T, PluginError>> {
        let (reply, answer) = sync_channel(1);
        let task = Task { work, done: None, reply: Some(Reply::Blocking(reply)) };
        match self.enqueue(Box::new(task)) {
            Ok(()) => answer.recv_timeout(patience).ok(),
            Err(error) => Some(Err(error)),
        }
    }

    fn submit<T: Send + 'static>(
        &self,
        work: impl FnMut(&Desk<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<oneshot::Receiver<Result<T, PluginError>>, PluginError> {
        let (reply, answer) = oneshot::channel();
        self.enqueue(Box::new(Task { work, done: None, reply: Some(Reply::Async(reply)) }))?;
        Ok(answer)
    }

    fn enqueue(&self, job: Box<dyn Job>) -> Result<(), PluginError> {
        self.queue.as_ref().ok_or_else(stopped)?.try_send(job).map_err(|e| match e {
            TrySendError::Full(_) => PluginError::Busy,
            TrySendError::Disconnected(_) => stopped(),
        })
    }
}

impl Drop for Pool {
    /// Waits for what is queued, but not for a call that hangs in the module.
    fn drop(&mut self) {
        self.queue = None;
        let patience = self.module.configuration.deadline() + GRACE;
        match lock(&self.ended).recv_timeout(patience) {
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => self.module.shut_down(),
            _ => tracing::warn!("a call hangs in the PKCS#11 module; the module is left as it is"),
        }
    }
}

/// How much longer than a call's deadline the end of the threads is waited for.
const GRACE: Duration = Duration::from_secs(1);
/// Runs of one job, at most: after a new session, a refresh, a reconnect.
const RUNS: u32 = 4;

/// A call in the queue.
trait Job: Send {
    /// Does the work and keeps the result.
    fn run(&mut self, desk: &Desk<'_>) -> Result<(), Fault>;

    /// Tells the caller: the result of the last run, or the error.
    fn answer(self: Box<Self>, outcome: Result<(), PluginError>);

    /// Whether nobody waits for the answer any more.
    fn is_abandoned(&self) -> bool;
}

struct Task<W, T> {
    work: W,
    done: Option<T>,
    reply: Option<Reply<T>>,
}

enum Reply<T> {
    Async(oneshot::Sender<Result<T, PluginError>>),
    Blocking(SyncSender<Result<T, PluginError>>),
}

impl<W, T> Job for Task<W, T>
where
    W: FnMut(&Desk<'_>) -> Result<T, Fault> + Send,
    T: Send,
{
    fn run(&mut self, desk: &Desk<'_>) -> Result<(), Fault> {
        self.done = Some((self.work)(desk)?);
        Ok(())
    }

    fn answer(self: Box<Self>, outcome: Result<(), PluginError>) {
        let Self { done, reply, .. } = *self;
        let result = outcome.and_then(|()| done.ok_or_else(stopped));
        // The caller may have gone; the work is done all the same.
        match reply {
            Some(Reply::Async(reply)) => drop(reply.send(result)),
            Some(Reply::Blocking(reply)) => drop(reply.send(result)),
            None => {}
        }
    }

    fn is_abandoned(&self) -> bool {
        matches!(&self.reply, Some(Reply::Async(reply)) if reply.is_closed())
    }
}

/// `alive` is dropped with the thread.
fn work_off(jobs: &Mutex<Receiver<Box<dyn Job>>>, module: &Module, alive: Sender<()>) {
    let mut seat = Seat { session: None };
    loop {
        let next = lock(jobs).recv();
        let Ok(mut job) = next else { break };
        if job.is_abandoned() {
            continue;
        }
        // A panic costs the job (its caller is told) and the session, not the thread.
        match catch_unwind(AssertUnwindSafe(|| seat.serve(module, &mut *job))) {
            Ok(outcome) => job.answer(outcome),
            Err(_) => {
                tracing::error!("a call of the PKCS#11 store panicked");
                seat.session = None;
                job.answer(Err(stopped()));
            }
        }
    }
    seat.session = None;
    drop(alive);
}

/// A thread's session, and the initialisation of the module that it belongs to.
struct Seat {
    session: Option<(u64, Session)>,
}

impl Seat {
    /// Runs a job, and again after what stopped it was repaired.
    fn serve(&mut self, module: &Module, job: &mut dyn Job) -> Result<(), PluginError> {
        let (mut refreshed, mut last) = (false, String::new());
        for _ in 0..RUNS {
            let entered = module.enter()?;
            let Some(up) = entered.up() else { continue };
            let generation = up.generation;
            let fault = match self.run(module, up, job) {
                Ok(()) => return Ok(()),
                Err(fault) => fault,
            };
            let (error, in_doubt) = match fault {
                Fault::Answer(error) => return Err(error),
                Fault::Lost(text) => {
                    drop(entered);
                    last = text;
                    if refreshed {
                        module.reconnect(generation);
                    } else {
                        module.refresh(generation);
                    }
                    refreshed = true;
                    continue;
                }
                Fault::Module(error) => (error, false),
                Fault::InDoubt(error) => (error, true),
            };
            // Whatever failed may have left an operation behind.
            self.close(up);
            drop(entered);
            last = describe(&error);
            let remedy = Remedy::of(&error);
            tracing::debug!(error = last, ?remedy, in_doubt, "the PKCS#11 module failed a call");
            match remedy {
                Remedy::Reconnect => module.reconnect(generation),
                Remedy::Refuse => module.refuse(&error),
                Remedy::Refresh if refreshed => module.reconnect(generation),
                Remedy::Refresh => module.refresh(generation),
                // What was written, if it was, must be seen from here on.
                Remedy::Session | Remedy::None | Remedy::Full if in_doubt => module.refresh(generation),
                Remedy::Session => {}
                Remedy::Full => return Err(PluginError::Full(format!("the token has no room: {last}"))),
                Remedy::None => return Err(unavailable(last)),
            }
            refreshed |= remedy == Remedy::Refresh;
            if in_doubt {
                return Err(unavailable(format!("{last}; whether it was written is not known")));
            }
        }
        Err(unavailable(last))
    }

    fn run(&mut self, module: &Module, up: &Up, job: &mut dyn Job) -> Result<(), Fault> {
        let session = match self.session.take() {
            Some((initialisation, session)) if initialisation == up.initialisation => session,
            _ => up.open_session()?,
        };
        let (_, session) = self.session.insert((up.initialisation, session));
        job.run(&Desk { module, up, session })
    }

    /// Closes the session, unless its number is another's by now.
    fn close(&mut self, up: &Up) {
        if let Some((initialisation, session)) = self.session.take()
            && initialisation == up.initialisation
        {
            // It may be gone, which is as good.
            let _ = session.close();
        }
    }
}

fn stopped() -> PluginError {
    unavailable("the module's thread stopped")
}
