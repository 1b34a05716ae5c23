//! What the host gives to a plugin: a table of functions for log, metrics and
//! clock, with one [`HostFunctions`] of the host behind it.

use std::time::SystemTime;

use abi_stable::{
    StableAbi,
    prefix_type::PrefixTypeTrait,
    std_types::{RSlice, RStr},
};
use tracing::Level;

use super::{
    object::{Object, catch},
    time::Time,
};

/// The host as one plugin sees it. Calls come from any thread of the plugin.
/// What a plugin says is to be bounded by the implementation.
pub trait HostFunctions: Send + Sync + 'static {
    /// The most verbose level that anybody listens to. Called for each log
    /// call of a plugin, so it should cost next to nothing.
    fn max_level(&self) -> Option<Level>;

    /// A log event. `target` is the plugin's module; `fields` is `name=value` text, or empty.
    fn log(&self, level: Level, target: &str, message: &str, fields: &str);

    /// A counter of that name and labels.
    fn counter(&self, name: &str, labels: &[(&str, &str)]) -> metrics::Counter;

    /// A gauge.
    fn gauge(&self, name: &str, labels: &[(&str, &str)]) -> metrics::Gauge;

    /// A histogram.
    fn histogram(&self, name: &str, labels: &[(&str, &str)]) -> metrics::Histogram;

    /// What a metric is for. `unit` is the name by which `metrics::Unit` knows it, or empty.
    fn describe(&self, name: &str, unit: &str, description: &str);

    /// Now.
    fn now(&self) -> SystemTime;
}

/// A [`HostFunctions`] in the hands of a plugin. Lives as long as the process:
/// a plugin's threads may log at any time.
#[repr(C)]
#[derive(StableAbi, Clone, Copy)]
pub struct HostObject {
    object: Object,
    table: HostTableRef,
}

/// A name and value of a metric's label.
#[repr(C)]
#[derive(StableAbi, Clone, Copy)]
pub struct LabelRef<'a> {
    pub(super) name: RStr<'a>,
    pub(super) value: RStr<'a>,
}

/// The functions of the host. New ones are appended, and are optional for newer plugins.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = HostTableRef, prefix_fields = HostTablePrefix)))]
pub struct HostTable {
    max_level: unsafe extern "C" fn(Object) -> u8,
    log: unsafe extern "C" fn(Object, level: u8, target: RStr<'_>, message: RStr<'_>, fields: RStr<'_>),
    register: unsafe extern "C" fn(Object, kind: u8, name: RStr<'_>, labels: RSlice<'_, LabelRef<'_>>) -> Object,
    describe: unsafe extern "C" fn(Object, name: RStr<'_>, unit: RStr<'_>, description: RStr<'_>),
    counter_add: unsafe extern "C" fn(Object, value: u64),
    counter_absolute: unsafe extern "C" fn(Object, value: u64),
    gauge_add: unsafe extern "C" fn(Object, value: f64),
    gauge_set: unsafe extern "C" fn(Object, value: f64),
    histogram_record: unsafe extern "C" fn(Object, value: f64, count: usize),
    #[sabi(last_prefix_field)]
    now: unsafe extern "C" fn(Object) -> Time,
}

/// A metric of the host, in the hands of a plugin.
#[derive(Clone, Copy)]
pub(super) struct Metric {
    object: Object,
    table: HostTableRef,
}

pub(super) const COUNTER: u8 = 1;
pub(super) const GAUGE: u8 = 2;
pub(super) const HISTOGRAM: u8 = 3;

type Host = Box<dyn HostFunctions>;

impl HostObject {
    /// Lends `host` to a plugin, for ever.
    #[must_use]
    pub fn new(host: Box<dyn HostFunctions>) -> Self {
        let table = HostTable {
            max_level,
            log,
            register,
            describe,
            counter_add,
            counter_absolute,
            gauge_add,
            gauge_set,
            histogram_record,
            now,
        };
        Self { object: Object::new(host), table: table.leak_into_prefix() }
    }

    /// 0 is off, 1 is error, 5 is trace.
    pub(super) fn max_level(&self) -> u8 {
        // SAFETY: `object` is what `table` was made for, and lives for ever; so below.
        unsafe { (self.table.max_level())(self.object) }
    }

    pub(super) fn log(&self, level: u8, target: &str, message: &str, fields: &str) {
        // SAFETY: as in `max_level`.
        unsafe { (self.table.log())(self.object, level, target.into(), message.into(), fields.into()) }
    }

    pub(super) fn register(&self, kind: u8, name: &str, labels: &[LabelRef<'_>]) -> Metric {
        // SAFETY: as in `max_level`.
        let object = unsafe { (self.table.register())(self.object, kind, name.into(), labels.into()) };
        Metric { object, table: self.table }
    }

    pub(super) fn describe(&self, name: &str, unit: &str, description: &str) {
        // SAFETY: as in `max_level`.
        unsafe { (self.table.describe())(self.object, name.into(), unit.into(), description.into()) }
    }

    pub(super) fn now(&self) -> SystemTime {
        // SAFETY: as in `max_level`.
        unsafe { (self.table.now())(self.object) }.into()
    }
}

impl Metric {
    pub(super) fn counter_add(&self, value: u64) {
        // SAFETY: the bridge asked `register` for a counter, and metrics live for ever; so below for each kind.
        unsafe { (self.table.counter_add())(self.object, value) }
    }

    pub(super) fn counter_absolute(&self, value: u64) {
        // SAFETY: as in `counter_add`.
        unsafe { (self.table.counter_absolute())(self.object, value) }
    }

    pub(super) fn gauge_add(&self, value: f64) {
        // SAFETY: as in `counter_add`.
        unsafe { (self.table.gauge_add())(self.object, value) }
    }

    pub(super) fn gauge_set(&self, value: f64) {
        // SAFETY: as in `counter_add`.
        unsafe { (self.table.gauge_set())(self.object, value) }
    }

    pub(super) fn histogram_record(&self, value: f64, count: usize) {
        // SAFETY: as in `counter_add`.
        unsafe { (self.table.histogram_record())(self.object, value, count) }
    }
}

// SAFETY of all below: the plugin passes the object of its `HostObject`, or a
// metric that `register` made for the kind, and both live for ever.

unsafe extern "C" fn max_level(object: Object) -> u8 {
    // SAFETY: see above.
    let host = unsafe { object.get::<Host>() };
    catch(|| host.max_level()).flatten().map_or(0, level_to_byte)
}

unsafe extern "C" fn log(object: Object, level: u8, target: RStr<'_>, message: RStr<'_>, fields: RStr<'_>) {
    // SAFETY: see above.
    let host = unsafe { object.get::<Host>() };
    catch(|| host.log(level_from_byte(level), target.as_str(), message.as_str(), fields.as_str()));
}

unsafe extern "C" fn register(object: Object, kind: u8, name: RStr<'_>, labels: RSlice<'_, LabelRef<'_>>) -> Object {
    // SAFETY: see above.
    let host = unsafe { object.get::<Host>() };
    let labels: Vec<(&str, &str)> = labels.iter().map(|label| (label.name.as_str(), label.value.as_str())).collect();
    let name = name.as_str();
    match kind {
        GAUGE => Object::new(catch(|| host.gauge(name, &labels)).unwrap_or_else(metrics::Gauge::noop)),
        HISTOGRAM => Object::new(catch(|| host.histogram(name, &labels)).unwrap_or_else(metrics::Histogram::noop)),
        _ => Object::new(catch(|| host.counter(name, &labels)).unwrap_or_else(metrics::Counter::noop)),
    }
}

unsafe extern "C" fn describe(object: Object, name: RStr<'_>, unit: RStr<'_>, description: RStr<'_>) {
    // SAFETY: see above.
    let host = unsafe { object.get::<Host>() };
    catch(|| host.describe(name.as_str(), unit.as_str(), description.as_str()));
}

unsafe extern "C" fn counter_add(object: Object, value: u64) {
    // SAFETY: see above.
    let counter = unsafe { object.get::<metrics::Counter>() };
    catch(|| counter.increment(value));
}

unsafe extern "C" fn counter_absolute(object: Object, value: u64) {
    // SAFETY: see above.
    let counter = unsafe { object.get::<metrics::Counter>() };
    catch(|| counter.absolute(value));
}

unsafe extern "C" fn gauge_add(object: Object, value: f64) {
    // SAFETY: see above.
    let gauge = unsafe { object.get::<metrics::Gauge>() };
    catch(|| gauge.increment(value));
}

unsafe extern "C" fn gauge_set(object: Object, value: f64) {
    // SAFETY: see above.
    let gauge = unsafe { object.get::<metrics::Gauge>() };
    catch(|| gauge.set(value));
}

unsafe extern "C" fn histogram_record(object: Object, value: f64, count: usize) {
    // SAFETY: see above.
    let histogram = unsafe { object.get::<metrics::Histogram>() };
    catch(|| histogram.record_many(value, count));
}

unsafe extern "C" fn now(object: Object) -> Time {
    // SAFETY: see above.
    let host = unsafe { object.get::<Host>() };
    catch(|| host.now()).unwrap_or_else(SystemTime::now).into()
}

pub(super) fn level_to_byte(level: Level) -> u8 {
    match level {
        Level::ERROR => 1,
        Level::WARN => 2,
        Level::INFO => 3,
        Level::DEBUG => 4,
        Level::TRACE => 5,
    }
}

fn level_from_byte(byte: u8) -> Level {
    match byte {
        0 | 1 => Level::ERROR,
        2 => Level::WARN,
        3 => Level::INFO,
        4 => Level::DEBUG,
        _ => Level::TRACE,
    }
}
