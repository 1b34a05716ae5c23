//! Inside the plugin: `tracing`, `metrics` and panics, sent to the host.

use std::{
    collections::HashMap,
    fmt::{self, Write as _},
    panic::PanicHookInfo,
    sync::{Arc, PoisonError, RwLock},
};

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
    span,
    subscriber::Interest,
};

use super::host::{COUNTER, GAUGE, HISTOGRAM, HostObject, LabelRef, Metric, level_to_byte};

/// Installs all three in this library. They are this copy's own statics, so
/// neither the host nor another plugin is concerned.
pub(super) fn install(host: HostObject) {
    // Both fail when the plugin, or a library in it, was there first; its own choice then stands.
    let _ = tracing::subscriber::set_global_default(HostLog(host));
    let _ = metrics::set_global_recorder(HostMetrics { host, known: RwLock::default() });
    std::panic::set_hook(Box::new(move |panic| report(host, panic)));
}

fn report(host: HostObject, panic: &PanicHookInfo<'_>) {
    let message = panic.payload_as_str().unwrap_or("a panic without a message");
    let place = panic.location().map(|location| format!("at={location}")).unwrap_or_default();
    host.log(1, "panic", &format!("the plugin panicked: {message}"), &place);
}

/// Events go to the host; spans do not cross, and are not kept.
struct HostLog(HostObject);

impl Subscriber for HostLog {
    /// The host's level may change at any time, so each event asks.
    fn register_callsite(&self, _: &'static tracing::Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.is_event() && level_to_byte(*metadata.level()) <= self.0.max_level()
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::TRACE)
    }

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        let metadata = event.metadata();
        self.0.log(level_to_byte(*metadata.level()), metadata.target(), &text.message, &text.fields);
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string does not fail.
        if field.name() == "message" {
            let _ = write!(self.message, "{value:?}");
        } else {
            let space = if self.fields.is_empty() { "" } else { " " };
            let _ = write!(self.fields, "{space}{}={value:?}", field.name());
        }
    }
}

/// Metrics are registered with the host once each, and kept.
struct HostMetrics {
    host: HostObject,
    /// A map for each kind: with the kind in the key, each look would copy the labels.
    known: RwLock<[HashMap<Key, Arc<HostMetric>>; KINDS]>,
}

impl HostMetrics {
    fn metric(&self, kind: u8, key: &Key) -> Arc<HostMetric> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let of_kind = usize::from(kind) % KINDS;
        let found = known[of_kind].get(key).cloned();
        drop(known);
        found.unwrap_or_else(|| {
            let labels: Vec<LabelRef<'_>> =
                key.labels().map(|l| LabelRef { name: l.key().into(), value: l.value().into() }).collect();
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            let new = || Arc::new(HostMetric(self.host.register(kind, key.name(), &labels)));
            known[of_kind].entry(key.clone()).or_insert_with(new).clone()
        })
    }

    fn describe(&self, key: &KeyName, unit: Option<Unit>, description: &SharedString) {
        self.host.describe(key.as_str(), unit.as_ref().map_or("", Unit::as_str), description);
    }
}

impl Recorder for HostMetrics {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.describe(&key, unit, &description);
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.describe(&key, unit, &description);
    }

    fn describe_histogram(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.describe(&key, unit, &description);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.metric(COUNTER, key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.metric(GAUGE, key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.metric(HISTOGRAM, key))
    }
}

/// Counters, gauges and histograms.
const KINDS: usize = 3;

struct HostMetric(Metric);

impl CounterFn for HostMetric {
    fn increment(&self, value: u64) {
        self.0.counter_add(value);
    }

    fn absolute(&self, value: u64) {
        self.0.counter_absolute(value);
    }
}

impl GaugeFn for HostMetric {
    fn increment(&self, value: f64) {
        self.0.gauge_add(value);
    }

    fn decrement(&self, value: f64) {
        self.0.gauge_add(-value);
    }

    fn set(&self, value: f64) {
        self.0.gauge_set(value);
    }
}

impl HistogramFn for HostMetric {
    fn record(&self, value: f64) {
        self.0.histogram_record(value, 1);
    }

    fn record_many(&self, value: f64, count: usize) {
        self.0.histogram_record(value, count);
    }
}
