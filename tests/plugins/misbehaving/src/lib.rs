//! A plugin with every kind of component, each call of which can be told to
//! misbehave: `{"call": "user_store.get", "how": "panic"}`, or all calls of a
//! component: `{"call": "user_store", "how": "hang"}`; `times` and `file` say for
//! how long. Without that it behaves, and keeps what it is given in memory.

mod cipher;
mod issuer;
mod store;

use std::{
    future::poll_fn,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::Poll,
    time::Duration,
};

use claviger_plugin_api::{Context, InitError, Plugin, PluginError, export_plugin};
use serde::Deserialize;

export_plugin! {
    name: "misbehaving",
    provides: [cipher, user_store, state_store, issuer],
    init: start,
}

/// What goes wrong where.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// `init`, `drop`, `cipher.seal`, `user_store.get` and so on.
    call: String,
    how: How,
    /// How many calls; all of them when it is 0.
    times: u32,
    /// Only while this file is there.
    file: Option<PathBuf>,
    /// The number of the suite; `0xff01` when it is 0.
    suite: u16,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum How {
    #[default]
    Panic,
    /// After the future was pending once.
    PanicLater,
    /// In the destructor of a future that is never ready.
    PanicDropped,
    /// A panic whose payload panics when it is dropped.
    PanicTwice,
    /// Never ready.
    Hang,
    /// An answer against the contract.
    Lie,
    /// An error.
    Fail,
    /// As if a queue were full.
    Busy,
    /// Blocks its thread, against the contract, while `file` is there.
    Block,
    /// Ends the whole process.
    Abort,
}

/// The settings in the hands of the components.
#[derive(Clone)]
pub(crate) struct Plan {
    settings: Arc<Settings>,
    /// Calls that `times` is about.
    count: Arc<AtomicU32>,
}

impl Plan {
    /// Misbehaves if `call` is to; `true` when the answer is to be a lie.
    /// Counts such calls in the metric `test_calls`.
    pub(crate) async fn call(&self, call: &str) -> Result<bool, PluginError> {
        let settings = &*self.settings;
        let rest = call.strip_prefix(&settings.call).filter(|_| !settings.call.is_empty());
        if !rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.')) {
            return Ok(false);
        }
        metrics::counter!("test_calls").increment(1);
        let over = settings.times > 0 && self.count.fetch_add(1, Ordering::Relaxed) >= settings.times;
        if over || settings.file.as_ref().is_some_and(|file| !file.exists()) {
            return Ok(false);
        }
        match settings.how {
            How::Lie => return Ok(true),
            How::Fail => return Err(PluginError::Unavailable("two\nlines".into())),
            How::Busy => return Err(PluginError::Busy),
            How::Block => {
                while settings.file.as_ref().is_some_and(|file| file.exists()) {
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
            How::Abort => std::process::abort(),
            How::Panic => panic!("told to panic in {call}"),
            How::PanicTwice => std::panic::panic_any(PanicsWhenDropped),
            How::PanicLater => {
                let mut polled = false;
                poll_fn(|context| {
                    assert!(!polled, "told to panic in {call}, later");
                    polled = true;
                    context.waker().wake_by_ref();
                    Poll::Pending::<()>
                })
                .await;
            }
            How::Hang => std::future::pending().await,
            How::PanicDropped => {
                let _held = PanicsWhenDropped;
                std::future::pending::<()>().await;
            }
        }
        Ok(false)
    }

    pub(crate) fn lies(&self, call: &str) -> bool {
        self.settings.call == call && self.settings.how == How::Lie
    }

    pub(crate) fn suite(&self) -> u16 {
        if self.settings.suite == 0 { 0xff01 } else { self.settings.suite }
    }

    /// The same for calls without a future.
    pub(crate) fn panic_in(&self, call: &str) {
        assert!(self.settings.call != call || self.settings.how == How::Lie, "told to panic in {call}");
    }
}

struct PanicsWhenDropped;

impl Drop for PanicsWhenDropped {
    fn drop(&mut self) {
        panic!("told to panic when dropped");
    }
}

fn start(context: Context) -> Result<Plugin, InitError> {
    let plan = Plan { settings: Arc::new(context.parse()?), count: Arc::default() };
    plan.panic_in("init");
    tracing::info!(answer = 42, "starting");
    metrics::counter!("test_starts").increment(2);
    metrics::gauge!("test_gauge", "kind" => "a").set(1.5);
    Ok(Plugin::new()
        .with_suite(cipher::Suite(plan.clone()))
        .with_user_store(store::Users::new(plan.clone()))
        .with_state_store(store::States::new(plan.clone()))
        .with_issuer(issuer::Issuer::new(plan, context.state))
        .with_poll_in(|poll| {
            tracing::trace!("polled");
            poll();
        }))
}

/// What `dlopen` runs, and `inspect` must not: it leaves a mark.
#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = {
    extern "C" fn constructor() {
        let mark = format!("claviger-misbehaving-ran-{}", std::process::id());
        let _ = std::fs::write(std::env::temp_dir().join(mark), b"");
    }
    constructor
};
