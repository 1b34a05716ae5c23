//! What the host gives a plugin: log, metrics, clock and state store.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use claviger_plugin_api::{PluginError, StateStore, abi::HostFunctions};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Level as MetricLevel, Metadata as MetricMetadata, Unit};
use tokio::runtime::Handle;
use tracing::{
    Event, Level, Metadata,
    callsite::{self, Callsite, Identifier},
    dispatcher,
    field::{FieldSet, Value},
    level_filters::LevelFilter,
    metadata::Kind,
    subscriber::Interest,
};

/// The host as one plugin sees it.
pub(super) struct PluginServices {
    plugin: Arc<str>,
    clock: Arc<dyn Fn() -> SystemTime + Send + Sync>,
    callsites: [&'static PluginCallsite; 5],
    metrics: AtomicUsize,
}

impl PluginServices {
    pub(super) fn new(plugin: &str, clock: Arc<dyn Fn() -> SystemTime + Send + Sync>) -> Self {
        // A callsite lives for ever, as its library does. There are five for each start of a plugin, whatever it logs.
        let target: &'static str = format!("plugin::{plugin}").leak();
        let callsites = LEVELS.map(|level| PluginCallsite::register(target, level));
        Self { plugin: plugin.into(), clock, callsites, metrics: AtomicUsize::new(0) }
    }

    /// The key of a metric, with the plugin's name; `None` when the plugin has enough of them.
    fn key(&self, name: &str, labels: &[(&str, &str)]) -> Option<Key> {
        let count = self.metrics.fetch_add(1, Ordering::Relaxed);
        if count == MAX_METRICS {
            tracing::warn!(plugin = &*self.plugin, "the plugin has {MAX_METRICS} metrics; further ones are dropped");
        }
        if count >= MAX_METRICS {
            return None;
        }
        let labels = labels.iter().filter(|(name, _)| *name != "plugin");
        let mut labels: Vec<Label> = labels.map(|(n, v)| Label::new((*n).to_owned(), (*v).to_owned())).collect();
        labels.push(Label::new("plugin", self.plugin.to_string()));
        Some(Key::from_parts(metric_name(name), labels))
    }
}

impl HostFunctions for PluginServices {
    fn max_level(&self) -> Option<Level> {
        LevelFilter::current().into_level()
    }

    fn log(&self, level: Level, target: &str, message: &str, fields: &str) {
        let callsite = self.callsites.iter().find(|callsite| *callsite.metadata().level() == level);
        if let Some(callsite) = callsite {
            callsite.log(&self.plugin, shorten(target), shorten(message), shorten(fields));
        }
    }

    fn counter(&self, name: &str, labels: &[(&str, &str)]) -> Counter {
        let key = self.key(name, labels);
        key.map_or_else(Counter::noop, |key| metrics::with_recorder(|r| r.register_counter(&key, &METRIC_METADATA)))
    }

    fn gauge(&self, name: &str, labels: &[(&str, &str)]) -> Gauge {
        let key = self.key(name, labels);
        key.map_or_else(Gauge::noop, |key| metrics::with_recorder(|r| r.register_gauge(&key, &METRIC_METADATA)))
    }

    fn histogram(&self, name: &str, labels: &[(&str, &str)]) -> Histogram {
        let key = self.key(name, labels);
        key.map_or_else(Histogram::noop, |key| metrics::with_recorder(|r| r.register_histogram(&key, &METRIC_METADATA)))
    }

    fn describe(&self, name: &str, unit: &str, description: &str) {
        let (name, unit, text) = (metric_name(name), Unit::from_string(unit), shorten(description).to_owned());
        // The kind does not reach the text that is exported.
        metrics::with_recorder(|recorder| recorder.describe_counter(KeyName::from(name), unit, text.into()));
    }

    fn now(&self) -> SystemTime {
        (self.clock)()
    }
}

/// A log callsite of one plugin and level, so that a filter such as
/// `plugin::store-sqlite=debug` finds it.
struct PluginCallsite {
    metadata: OnceLock<Metadata<'static>>,
    target: &'static str,
    level: Level,
}

impl PluginCallsite {
    fn register(target: &'static str, level: Level) -> &'static Self {
        let callsite: &'static Self = Box::leak(Box::new(Self { metadata: OnceLock::new(), target, level }));
        callsite.metadata.get_or_init(|| callsite.make_metadata());
        callsite::register(callsite);
        callsite
    }

    fn make_metadata(&'static self) -> Metadata<'static> {
        let fields = FieldSet::new(FIELDS, Identifier(self));
        Metadata::new("plugin event", self.target, self.level, None, None, None, fields, Kind::EVENT)
    }

    fn log(&'static self, plugin: &str, module: &str, message: &str, fields: &str) {
        let metadata = self.metadata();
        dispatcher::get_default(|dispatch| {
            if dispatch.enabled(metadata) {
                let fields = (!fields.is_empty()).then_some(&fields as &dyn Value);
                let values = [Some(&message as &dyn Value), Some(&plugin), Some(&module), fields];
                dispatch.event(&Event::new(metadata, &metadata.fields().value_set_all(&values)));
            }
        });
    }
}

impl Callsite for PluginCallsite {
    fn set_interest(&self, _: Interest) {}

    fn metadata(&self) -> &Metadata<'_> {
        // Only `register` makes callsites, and it fills this before anybody sees them.
        self.metadata.get().expect("the callsite is filled when it is made")
    }
}

/// A state store of the host that is polled from a plugin's threads too:
/// there the host's runtime must be entered for it.
pub(super) struct InRuntime {
    store: Arc<dyn StateStore>,
    runtime: Handle,
}

impl InRuntime {
    pub(super) fn new(store: Arc<dyn StateStore>, runtime: Handle) -> Self {
        Self { store, runtime }
    }

    fn enter<F: Future + Unpin>(&self, future: F) -> Entered<'_, F> {
        Entered { runtime: &self.runtime, future }
    }
}

#[async_trait]
impl StateStore for InRuntime {
    async fn put_new(&self, key: &str, value: &[u8], lifetime: Duration) -> Result<bool, PluginError> {
        self.enter(self.store.put_new(key, value, lifetime)).await
    }

    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, PluginError> {
        self.enter(self.store.get(key)).await
    }

    async fn update(&self, key: &str, expected: &[u8], value: &[u8], lifetime: Duration) -> Result<bool, PluginError> {
        self.enter(self.store.update(key, expected, value, lifetime)).await
    }

    async fn take(&self, key: &str) -> Result<Option<Vec<u8>>, PluginError> {
        self.enter(self.store.take(key)).await
    }

    async fn health(&self) -> Result<(), PluginError> {
        self.enter(self.store.health()).await
    }
}

struct Entered<'a, F> {
    runtime: &'a Handle,
    future: F,
}

impl<F: Future + Unpin> Future for Entered<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let _entered = self.runtime.enter();
        Pin::new(&mut self.future).poll(context)
    }
}

/// All metrics of the daemon carry its name in front.
fn metric_name(name: &str) -> String {
    let name = shorten(name);
    if name.starts_with("claviger_") { name.to_owned() } else { format!("claviger_{name}") }
}

/// At most [`MAX_TEXT`] bytes, cut between characters.
fn shorten(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_TEXT)]
}

const LEVELS: [Level; 5] = [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE];
const FIELDS: &[&str] = &["message", "plugin", "module", "fields"];
const METRIC_METADATA: MetricMetadata<'static> = MetricMetadata::new("plugin", MetricLevel::INFO, None);
/// The most metrics of one plugin, each label value counted.
const MAX_METRICS: usize = 1000;
/// The most bytes of a plugin's text in a log line.
const MAX_TEXT: usize = 4096;
