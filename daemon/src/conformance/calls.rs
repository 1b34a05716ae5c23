//! A metrics recorder that keeps how long calls of plugins took, and their outcomes.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use serde::{Deserialize, Serialize};

/// What was recorded in one process.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Calls {
    /// By call, such as `user_store.put`: microseconds.
    pub(super) micros: BTreeMap<String, Vec<u32>>,
    /// By call, then outcome, such as `panicked`: how often.
    pub(super) outcomes: BTreeMap<String, BTreeMap<String, u64>>,
}

/// How long one kind of call took.
#[derive(Debug, Serialize)]
pub struct Latency {
    /// Such as `user_store.put`.
    pub call: String,
    /// How often it was made.
    pub count: usize,
    /// Half of them took at most so many microseconds.
    pub median_us: u32,
    /// All but one in a hundred took at most so many.
    pub p99_us: u32,
    /// The slowest one.
    pub max_us: u32,
}

impl Calls {
    pub(super) fn add(&mut self, other: Self) {
        for (call, micros) in other.micros {
            self.micros.entry(call).or_default().extend(micros);
        }
        for (call, outcomes) in other.outcomes {
            let sums = self.outcomes.entry(call).or_default();
            outcomes.into_iter().for_each(|(outcome, count)| *sums.entry(outcome).or_default() += count);
        }
    }

    /// How many calls had this outcome, by call.
    pub(super) fn with_outcome(&self, outcome: &str) -> Vec<(&str, u64)> {
        let counts = self.outcomes.iter().filter_map(|(call, all)| Some((call.as_str(), *all.get(outcome)?)));
        counts.filter(|(_, count)| *count > 0).collect()
    }

    pub(super) fn latencies(self) -> Vec<Latency> {
        let of = |(call, mut micros): (String, Vec<u32>)| {
            micros.sort_unstable();
            let at = |part: usize| micros.get((micros.len() * part / 100).min(micros.len() - 1)).copied();
            Some(Latency {
                count: micros.len(),
                median_us: at(50)?,
                p99_us: at(99)?,
                max_us: micros.last().copied()?,
                call,
            })
        };
        self.micros.into_iter().filter(|(_, micros)| !micros.is_empty()).filter_map(of).collect()
    }
}

/// The recorder. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct CallRecorder(Arc<Mutex<Recorded>>);

#[derive(Default)]
struct Recorded {
    micros: BTreeMap<String, Arc<Times>>,
    outcomes: BTreeMap<(String, String), Arc<AtomicU64>>,
}

#[derive(Default)]
struct Times(Mutex<Vec<u32>>);

impl HistogramFn for Times {
    fn record(&self, seconds: f64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((seconds * 1e6) as u32);
    }
}

impl CallRecorder {
    /// What was recorded up to now.
    pub(super) fn calls(&self) -> Calls {
        let recorded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut calls = Calls::default();
        for (call, times) in &recorded.micros {
            let times = times.0.lock().unwrap_or_else(PoisonError::into_inner);
            calls.micros.insert(call.clone(), times.clone());
        }
        for ((call, outcome), count) in &recorded.outcomes {
            let count = count.load(Ordering::Relaxed);
            calls.outcomes.entry(call.clone()).or_default().insert(outcome.clone(), count);
        }
        calls
    }
}

fn label(key: &Key, name: &str) -> Option<String> {
    key.labels().find(|label| label.key() == name).map(|label| label.value().to_owned())
}

impl Recorder for CallRecorder {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        match (label(key, "call"), label(key, "outcome")) {
            (Some(call), Some(outcome)) => {
                let mut recorded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                Counter::from_arc(recorded.outcomes.entry((call, outcome)).or_default().clone())
            }
            _ => Counter::noop(),
        }
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        match label(key, "call") {
            Some(call) => {
                let mut recorded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                Histogram::from_arc(recorded.micros.entry(call).or_default().clone())
            }
            None => Histogram::noop(),
        }
    }
}
