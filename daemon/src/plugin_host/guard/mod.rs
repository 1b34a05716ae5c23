//! The wrappers around a plugin's components. The roles see only these.
//!
//! Each asynchronous call is counted, timed, and ended at the plugin's
//! deadline; each answer is checked against the contract of its trait. What
//! breaks the contract is [`PluginError::Corrupt`]: an alarm and an
//! *unavailable*, and never a refusal or, worse, a success.
//!
//! A deadline ends a call that waits. One that blocks its thread cannot be
//! ended, which is why the contract forbids it.

mod cipher;
mod custody;
mod issuer;
mod state_store;
mod user_store;

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use claviger_plugin_api::PluginError;
use metrics::{Counter, Gauge, Histogram, Unit, counter, gauge, histogram};
use tracing::{error, warn};

pub(super) use cipher::GuardedSuite;
pub(super) use custody::GuardedCustody;
pub(super) use issuer::GuardedIssuer;
pub(super) use state_store::GuardedStateStore;
pub(super) use user_store::GuardedUserStore;

use super::error::one_line;

/// What the guards of one plugin share.
#[derive(Clone)]
pub(super) struct Guard {
    plugin: Arc<str>,
    deadline: Duration,
}

/// The metrics of one call of one plugin.
pub(super) struct Call {
    name: &'static str,
    outcomes: [Counter; OUTCOMES.len()],
    seconds: Histogram,
    in_flight: Gauge,
}

impl Guard {
    pub(super) fn new(plugin: &str, deadline: Duration) -> Self {
        Self { plugin: plugin.into(), deadline }
    }

    /// The metrics of a call, such as `user_store.get`.
    fn call(&self, name: &'static str) -> Call {
        let plugin = || self.plugin.to_string();
        Call {
            name,
            outcomes: OUTCOMES
                .map(|outcome| counter!(CALLS, "plugin" => plugin(), "call" => name, "outcome" => outcome)),
            seconds: histogram!(SECONDS, "plugin" => plugin(), "call" => name),
            in_flight: gauge!(IN_FLIGHT, "plugin" => plugin(), "call" => name),
        }
    }

    /// Runs a call and judges its answer by `check`, which says how it breaks the contract.
    async fn run<T>(
        &self,
        call: &Call,
        future: impl Future<Output = Result<T, PluginError>> + Send,
        check: impl FnOnce(&T) -> Result<(), String> + Send,
    ) -> Result<T, PluginError> {
        let measured = Measured::start(call);
        let result = match tokio::time::timeout(self.deadline, future).await {
            Ok(Ok(value)) => match check(&value) {
                Ok(()) => Ok(value),
                Err(fault) => {
                    measured.end(BROKEN);
                    error!(plugin = &*self.plugin, call = call.name, "the plugin broke its contract: {fault}");
                    return Err(PluginError::Corrupt(format!("plugin {}: {fault}", self.plugin)));
                }
            },
            Ok(Err(error)) => Err(tidy(error)),
            Err(_) => Err(PluginError::DeadlineExceeded),
        };
        measured.end(outcome(&result));
        if let Err(error) = &result {
            self.report(call, error);
        }
        result
    }

    fn report(&self, call: &Call, error: &PluginError) {
        let (plugin, call) = (&*self.plugin, call.name);
        match error {
            PluginError::Corrupt(_) | PluginError::Panicked | PluginError::InvalidCall(_) => {
                error!(plugin, call, "plugin call failed: {error}");
            }
            _ => warn!(plugin, call, "plugin call failed: {error}"),
        }
    }
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
        Err(PluginError::Busy) => 2,
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

const OUTCOMES: [&str; 10] = [
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
];
const BROKEN: usize = 7;
const CANCELLED: usize = 8;
const CALLS: &str = "claviger_plugin_calls_total";
const SECONDS: &str = "claviger_plugin_call_seconds";
const IN_FLIGHT: &str = "claviger_plugin_calls_in_flight";
