//! The wrappers around a plugin's components. The roles see only these.
//!
//! Each asynchronous call is counted, timed, and ended at the plugin's
//! deadline; each answer is checked against the contract of its trait. What
//! breaks the contract is [`PluginError::Corrupt`]: an alarm and an
//! *unavailable*, and never a refusal or, worse, a success.
//!
//! Within its deadline a call waits for a place among those in flight, and is
//! tried again where that is safe: after [`PluginError::Busy`], when nothing
//! was done; after [`PluginError::Unavailable`] only where it changes nothing,
//! for a write may have happened. A store or custody that fails again and again
//! is cut off by its [`Breaker`] until it says that it can work.
//!
//! A guard outlives its component, which can be replaced while calls come
//! ([`Guard::swap`], [`Guard::hold`]): the roles notice nothing.
//!
//! A deadline ends a call that waits. One that blocks its thread cannot be
//! ended, which is why the contract forbids it.

mod breaker;
mod cipher;
mod custody;
mod issuer;
mod state_store;
mod user_store;
mod warnings;

use std::{
    future::Future,
    marker::PhantomData,
    pin::Pin,
    sync::{Arc, Weak},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use aws_lc_rs::rand;
use claviger_plugin_api::PluginError;
use metrics::{Counter, Gauge, Histogram, Unit, counter, gauge, histogram};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, watch},
    time::{Instant, sleep, timeout, timeout_at},
};
use tracing::{debug, error, info, warn};

pub(super) use cipher::{GuardedSuite, Tested};
pub(super) use custody::GuardedCustody;
pub(super) use issuer::GuardedIssuer;
pub(super) use state_store::GuardedStateStore;
pub(super) use user_store::GuardedUserStore;

use super::{PluginConfig, error::one_line};
use breaker::Breaker;
use warnings::Warnings;

/// What the guards of one plugin share.
#[derive(Clone)]
pub(super) struct Shared {
    plugin: Arc<str>,
    deadline: Duration,
    max_in_flight: usize,
    retries: u32,
    breaker_failures: u32,
    warnings: Arc<Warnings>,
    /// Told when a circuit opens or closes.
    changes: watch::Sender<()>,
}

impl Shared {
    pub(super) fn new(config: &PluginConfig, changes: watch::Sender<()>) -> Self {
        Self {
            plugin: config.name.as_str().into(),
            deadline: config.deadline,
            max_in_flight: config.max_in_flight,
            retries: config.retries,
            breaker_failures: config.breaker_failures,
            warnings: Arc::default(),
            changes,
        }
    }

    /// For components whose calls are tried once, whatever became of the one before.
    fn limits_only(&self) -> Self {
        Self { retries: 0, breaker_failures: 0, ..self.clone() }
    }
}

/// A component behind its limits.
pub(super) struct Guard<C>(Arc<Inner<C>>);

struct Inner<C> {
    shared: Shared,
    /// Such as `user_store`.
    kind: &'static str,
    /// `None` while it is replaced by one that cannot run beside it: then every place is held.
    component: ArcSwapOption<C>,
    places: Arc<Semaphore>,
    breaker: Breaker,
    circuit_open: Gauge,
    circuit_opened: Counter,
    ask_health: for<'a> fn(&'a C) -> Answer<'a, ()>,
    health: Call,
}

/// A component for the time of one call, with the arguments that outlive it.
struct Lent<'c, 'a: 'c, C>(&'c C, PhantomData<&'a ()>);

/// An answer of a component that is waited for.
type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, PluginError>> + Send + 'a>>;

/// What is known of one call of one plugin.
struct Call {
    name: &'static str,
    /// Whether it may be made again after an answer that leaves open whether it was done.
    repeatable: bool,
    outcomes: [Counter; OUTCOMES.len()],
    seconds: Histogram,
    in_flight: Gauge,
}

impl Call {
    fn new(plugin: &Arc<str>, name: &'static str, repeatable: bool) -> Self {
        let plugin = || plugin.to_string();
        Self {
            name,
            repeatable,
            outcomes: OUTCOMES
                .map(|outcome| counter!(CALLS, "plugin" => plugin(), "call" => name, "outcome" => outcome)),
            seconds: histogram!(SECONDS, "plugin" => plugin(), "call" => name),
            in_flight: gauge!(IN_FLIGHT, "plugin" => plugin(), "call" => name),
        }
    }

    fn may_follow(&self, error: &PluginError) -> bool {
        match error {
            PluginError::Busy => true,
            PluginError::Unavailable(_) => self.repeatable,
            _ => false,
        }
    }
}

impl<C: Send + Sync + 'static> Guard<C> {
    /// Guards a component of a kind such as `user_store`; `ask_health` is its `health`.
    fn new(
        shared: Shared,
        kind: &'static str,
        health: &'static str,
        component: Arc<C>,
        ask_health: for<'a> fn(&'a C) -> Answer<'a, ()>,
    ) -> Self {
        let plugin = || shared.plugin.to_string();
        let circuit_open = gauge!(CIRCUIT_OPEN, "plugin" => plugin(), "component" => kind);
        circuit_open.set(0.0);
        Self(Arc::new(Inner {
            places: Arc::new(Semaphore::new(shared.max_in_flight)),
            breaker: Breaker::new(shared.breaker_failures),
            circuit_open,
            circuit_opened: counter!(CIRCUIT_OPENED, "plugin" => plugin(), "component" => kind),
            health: Call::new(&shared.plugin, health, true),
            shared,
            kind,
            component: ArcSwapOption::new(Some(component)),
            ask_health,
        }))
    }

    /// Gives calls from now on to `component`, and the one before back; calls
    /// that are on their way end with that one.
    pub(super) fn swap(&self, component: Option<Arc<C>>) -> Option<Arc<C>> {
        self.0.component.swap(component)
    }

    /// Waits for the calls on their way and has all others wait, until what is
    /// returned is dropped. `None` when they do not end within the deadline.
    pub(super) async fn hold(&self) -> Option<OwnedSemaphorePermit> {
        let shared = &self.0.shared;
        // No configuration has more than fits.
        let all = u32::try_from(shared.max_in_flight).unwrap_or(u32::MAX);
        let held = timeout(shared.deadline, self.0.places.clone().acquire_many_owned(all)).await;
        held.ok()?.ok()
    }

    /// A call that changes nothing, such as `user_store.get`.
    fn read(&self, name: &'static str) -> Call {
        Call::new(&self.0.shared.plugin, name, true)
    }

    /// A call that changes something, such as `user_store.put`.
    fn write(&self, name: &'static str) -> Call {
        Call::new(&self.0.shared.plugin, name, false)
    }

    async fn health(&self) -> Result<(), PluginError> {
        let inner = &*self.0;
        self.run(&inner.health, |component| (inner.ask_health)(component.0), |()| Ok(())).await
    }

    /// Makes a call by `ask`, as often as need be, and judges its answer by
    /// `check`, which says how it breaks the contract.
    async fn run<'a, T: Send>(
        &self,
        call: &Call,
        ask: impl for<'c> Fn(Lent<'c, 'a, C>) -> Answer<'c, T> + Send + Sync,
        check: impl FnOnce(&T) -> Result<(), String> + Send,
    ) -> Result<T, PluginError> {
        let inner = &*self.0;
        inner.breaker.admit().inspect_err(|_| call.outcomes[REFUSED].increment(1))?;
        let measured = Measured::start(call);
        let end = measured.start + inner.shared.deadline;
        let _place = match inner.place(call, end).await {
            Ok(place) => place,
            Err(error) => {
                measured.end(if matches!(error, PluginError::Busy) { BUSY } else { REFUSED });
                return Err(error);
            }
        };
        let result = inner.tries(call, end, ask).await;
        if let Ok(value) = &result
            && let Err(fault) = check(value)
        {
            measured.end(BROKEN);
            let plugin = &*inner.shared.plugin;
            error!(plugin, call = call.name, "the plugin broke its contract: {fault}");
            return Err(PluginError::Corrupt(format!("plugin {plugin}: {fault}")));
        }
        measured.end(outcome(&result));
        match &result {
            Ok(_) => inner.breaker.succeeded(),
            Err(error) => self.failure(call, error),
        }
        result
    }

    #[cold]
    fn failure(&self, call: &Call, error: &PluginError) {
        let inner = &*self.0;
        let plugin = &*inner.shared.plugin;
        match error {
            PluginError::Corrupt(_) | PluginError::Panicked | PluginError::InvalidCall(_) => {
                error!(plugin, call = call.name, "plugin call failed: {error}");
            }
            _ => inner.warn(call, &error.to_string()),
        }
        if is_away(error) && inner.breaker.failed(error) {
            inner.circuit_open.set(1.0);
            inner.circuit_opened.increment(1);
            let component = inner.kind;
            warn!(plugin, component, "circuit open, calls are answered unavailable until its health is good: {error}");
            inner.shared.changes.send_replace(());
            tokio::spawn(probe(Arc::downgrade(&self.0)));
        }
    }
}

impl<C> Inner<C> {
    /// It may be missing for a probe, which holds no place, and for ever where none could be started any more.
    fn component(&self) -> Result<Arc<C>, PluginError> {
        let none = || PluginError::Unavailable("it was stopped to be replaced, and does not run".into());
        self.component.load_full().ok_or_else(none)
    }

    /// A place among the calls in flight: *busy* when none becomes free until `end`.
    async fn place(&self, call: &Call, end: Instant) -> Result<SemaphorePermit<'_>, PluginError> {
        if let Ok(place) = self.places.try_acquire() {
            return Ok(place);
        }
        // The semaphore is never closed.
        let Ok(Ok(place)) = timeout_at(end, self.places.acquire()).await else {
            self.warn(call, &format!("all {} places (max_in_flight) are taken", self.shared.max_in_flight));
            return Err(PluginError::Busy);
        };
        // It may have opened meanwhile.
        self.breaker.admit().map(|()| place)
    }

    async fn tries<'a, T>(
        &self,
        call: &Call,
        end: Instant,
        ask: impl for<'c> Fn(Lent<'c, 'a, C>) -> Answer<'c, T>,
    ) -> Result<T, PluginError> {
        let component = self.component()?;
        // Why the last try failed, where that says more than that the next one found no time.
        let mut reason = None;
        for retry in 0.. {
            let Ok(answer) = timeout_at(end, ask(Lent(&component, PhantomData))).await else { break };
            let error = match answer {
                Ok(value) => return Ok(value),
                Err(error) => tidy(error),
            };
            let pause = jitter(FIRST_BACKOFF * 2_u32.saturating_pow(retry));
            let again = retry < self.shared.retries && call.may_follow(&error);
            if !again || self.breaker.is_open() || Instant::now() + pause >= end {
                return Err(error);
            }
            counter!(RETRIES, "plugin" => self.shared.plugin.to_string(), "call" => call.name).increment(1);
            sleep(pause).await;
            reason = matches!(error, PluginError::Unavailable(_)).then_some(error);
        }
        Err(reason.unwrap_or(PluginError::DeadlineExceeded))
    }

    fn warn(&self, call: &Call, text: &str) {
        if let Some(left_out) = self.shared.warnings.admit() {
            let (plugin, call, left_out) = (&*self.shared.plugin, call.name, (left_out > 0).then_some(left_out));
            warn!(plugin, call, left_out, "plugin call failed: {text}");
        }
    }

    /// One question for its health, past the circuit and the places.
    async fn probe(&self) -> Result<(), PluginError> {
        let measured = Measured::start(&self.health);
        let end = measured.start + self.shared.deadline;
        let answer = match self.component() {
            Ok(component) => timeout_at(end, (self.ask_health)(&component)).await,
            Err(none) => Ok(Err(none)),
        };
        let answer = answer.unwrap_or(Err(PluginError::DeadlineExceeded)).map_err(tidy);
        measured.end(outcome(&answer));
        answer
    }
}

/// Asks a component whose circuit is open for its health until that is good.
/// Ends with the component too.
async fn probe<C>(guarded: Weak<Inner<C>>) {
    while let Some(pause) = guarded.upgrade().map(|inner| inner.breaker.pause()) {
        sleep(pause).await;
        let Some(inner) = guarded.upgrade() else { return };
        let (plugin, component) = (&*inner.shared.plugin, inner.kind);
        match inner.probe().await {
            Ok(()) => {
                let refused = inner.breaker.close();
                inner.circuit_open.set(0.0);
                info!(plugin, component, refused, "circuit closed: its health is good again");
                inner.shared.changes.send_replace(());
                return;
            }
            Err(error) => {
                debug!(plugin, component, "circuit stays open: {error}");
                inner.breaker.stays_open(&error);
            }
        }
    }
}

/// Whether an error says that the component as a whole does not work. *Corrupt*
/// and a broken contract do not: they are alarms about single data, and must not
/// take from all users what is damaged for one. *Busy*, *full* and *invalid
/// call* are answers of a component that works.
fn is_away(error: &PluginError) -> bool {
    matches!(error, PluginError::Unavailable(_) | PluginError::DeadlineExceeded | PluginError::Panicked)
}

/// A random part of a time.
fn jitter(time: Duration) -> Duration {
    let mut bytes = [0; 4];
    // A generator that fails leaves the whole time.
    let part = rand::fill(&mut bytes).map_or(1.0, |()| f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX));
    time.mul_f64(part)
}

/// A call on its way; one that is dropped before its end was cancelled.
struct Measured<'a> {
    call: &'a Call,
    start: Instant,
    outcome: usize,
}

impl<'a> Measured<'a> {
    fn start(call: &'a Call) -> Self {
        call.in_flight.increment(1);
        Self { call, start: Instant::now(), outcome: CANCELLED }
    }

    fn end(mut self, outcome: usize) {
        self.outcome = outcome;
    }
}

impl Drop for Measured<'_> {
    fn drop(&mut self) {
        self.call.in_flight.decrement(1);
        self.call.seconds.record(self.start.elapsed());
        self.call.outcomes[self.outcome].increment(1);
    }
}

/// Says what the metrics of this module are for.
pub(super) fn describe_metrics() {
    metrics::describe_counter!(CALLS, "Calls of plugins by outcome (cipher calls: failures only)");
    metrics::describe_histogram!(SECONDS, Unit::Seconds, "How long calls of plugins took");
    metrics::describe_gauge!(IN_FLIGHT, "Calls of plugins that have not ended");
    metrics::describe_counter!(RETRIES, "Tries of calls of plugins after their first one");
    metrics::describe_gauge!(CIRCUIT_OPEN, "Whether calls of a component are answered without asking it");
    metrics::describe_counter!(CIRCUIT_OPENED, "How often a component was cut off because its calls failed");
}

/// Makes the message of a plugin fit for a log.
fn tidy(error: PluginError) -> PluginError {
    match error {
        PluginError::Unavailable(text) => PluginError::Unavailable(one_line(&text)),
        PluginError::Corrupt(text) => PluginError::Corrupt(one_line(&text)),
        PluginError::Full(text) => PluginError::Full(one_line(&text)),
        PluginError::InvalidCall(text) => PluginError::InvalidCall(one_line(&text)),
        other => other,
    }
}

fn outcome<T>(result: &Result<T, PluginError>) -> usize {
    match result {
        Ok(_) => 0,
        Err(PluginError::Busy) => BUSY,
        Err(PluginError::Corrupt(_)) => 3,
        Err(PluginError::InvalidCall(_)) => 4,
        Err(PluginError::DeadlineExceeded) => 5,
        Err(PluginError::Panicked) => 6,
        Err(PluginError::Full(_)) => 9,
        // `Unavailable`, and what a later version of the interface may add.
        Err(_) => 1,
    }
}

/// Whether `condition` holds; otherwise the fault.
fn ensure(condition: bool, fault: impl FnOnce() -> String) -> Result<(), String> {
    if condition { Ok(()) } else { Err(fault()) }
}

/// Whoever follows a listing comes to an end: it rises from behind `after`.
fn rising<T: PartialOrd>(found: impl Iterator<Item = T>, after: Option<T>, limit: usize) -> Result<(), String> {
    let (mut last, mut count) = (after, 0);
    for one in found {
        ensure(last.as_ref().is_none_or(|last| one > *last), || "a listing out of order".into())?;
        (last, count) = (Some(one), count + 1);
    }
    ensure(count <= limit, || format!("{count} entries where at most {limit} were asked"))
}

const OUTCOMES: [&str; 11] = [
    "ok",
    "unavailable",
    "busy",
    "corrupt",
    "invalid_call",
    "deadline",
    "panicked",
    "broken_contract",
    "cancelled",
    "full",
    "circuit_open",
];
const BUSY: usize = 2;
const BROKEN: usize = 7;
const CANCELLED: usize = 8;
const REFUSED: usize = 10;
const CALLS: &str = "claviger_plugin_calls_total";
const SECONDS: &str = "claviger_plugin_call_seconds";
const IN_FLIGHT: &str = "claviger_plugin_calls_in_flight";
const RETRIES: &str = "claviger_plugin_retries_total";
const CIRCUIT_OPEN: &str = "claviger_plugin_circuit_open";
const CIRCUIT_OPENED: &str = "claviger_plugin_circuit_opened_total";
/// The most that a call waits before its second try; twice that before its third, and so on.
const FIRST_BACKOFF: Duration = Duration::from_millis(10);
