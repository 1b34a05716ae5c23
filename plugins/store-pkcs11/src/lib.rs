//! Key custody in a PKCS#11 module (an HSM), and a user store in it for small realms.
//!
//! # Configuration
//!
//! ```toml
//! [plugin.config]
//! module = "/usr/lib/vendor/libpkcs11.so"       # required, absolute
//! token = "claviger"                            # required: the token's label
//! pin_file = "/etc/claviger/hsm.pin"            # mode 0600; or pin_credential = "NAME" (systemd)
//! mode = "objects"                              # required; or "derived"
//! prefix = "claviger"                           # what labels of objects begin with
//! max_keys = 2000                               # with mode = "objects", 1 to 100000
//! threads = 2                                   # with a session each, 1 to 64
//! queue = 1024                                  # calls that wait, 1 to 65536
//! deadline_ms = 1500                            # for a call, 10 to 60000
//! lock_file = "/var/lib/claviger/hsm.lock"      # keeps records in the module too
//! ```
//!
//! # What it keeps
//!
//! With `mode = "objects"` a unique key is an object of the module: it enters
//! once and cannot be read again. With `mode = "derived"` it is sealed under a
//! key that the module derives from its master key, and the host stores it; for
//! each use it is opened **in the memory of the daemon**. Either way the master
//! key is made in the module by `clavigerd hsm init` and never leaves it.
//!
//! With `lock_file` records and counters lie in the module as well. PKCS#11
//! knows no conditional write: one process alone may write them, by the lock of
//! that file. A network HSM has no such lock for processes on several machines.
//!
//! # Faults
//!
//! A module that is away at start, or goes away, is reached again by itself;
//! meanwhile all calls are answered *unavailable*. The PIN is tried once, and
//! after a refusal never again before a restart.

#![forbid(unsafe_code)]

mod chunk;
mod configuration;
mod counters;
mod custody;
mod fault;
mod module;
mod objects;
mod record;
mod records;
mod sealed;
mod store;
mod worker;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use claviger_plugin_api::{Context, InitError, Plugin};
use tokio::runtime::Runtime;

use crate::{module::Module, worker::Pool};
pub use configuration::{Configuration, Mode};
pub use custody::Custody;
pub use store::Store;

claviger_plugin_api::export_plugin! {
    name: "store-pkcs11",
    provides: [user_store, custody],
    init: init,
}

/// Starts the plugin. The module may be away.
pub fn init(context: Context) -> Result<Plugin, InitError> {
    let configuration = context.parse()?;
    let token = Token::open_with_clock(configuration, context.clock)?;
    let handle = token.runtime.as_ref().map(|runtime| runtime.handle().clone());
    let mut plugin = Plugin::new().with_custody(token.custody());
    if let Some(store) = token.user_store() {
        plugin = plugin.with_user_store(store);
    }
    Ok(plugin.with_poll_in(move |poll| {
        let _entered = handle.as_ref().map(tokio::runtime::Handle::enter);
        poll();
    }))
}

/// A token of a PKCS#11 module, and what it serves as. The futures of its
/// components need a tokio runtime with timers around them; [`init`] gives them
/// the token's own. When the last component is dropped, the threads end after
/// what is queued, and the module is finalised.
///
/// One of these for each module and process: a module is initialised for the
/// process, and another one that recovers would take it from this.
pub struct Token {
    pub(crate) configuration: Arc<Configuration>,
    pub(crate) module: Arc<Module>,
    pub(crate) pool: Pool,
    clock: Clock,
    /// For its timers. `None` only while it is dropped.
    runtime: Option<Runtime>,
}

/// Tells when a counter was used, to the second.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// How long the start waits for the module's first answer.
const FIRST_ANSWER: Duration = Duration::from_secs(20);

impl Token {
    /// Reads the PIN, starts the threads, and logs in. Blocks meanwhile, for 20
    /// seconds at most. A module that is away is only logged.
    ///
    /// # Errors
    /// `Configuration` for a wrong value, `Unavailable` where the PIN cannot be read.
    pub fn open(configuration: Configuration) -> Result<Arc<Self>, InitError> {
        Self::open_with_clock(configuration, Arc::new(SystemTime::now))
    }

    /// [`open`](Self::open) with another clock, by which counters are kept for
    /// [`COUNTER_RETENTION`](claviger_plugin_api::COUNTER_RETENTION).
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub fn open_with_clock(configuration: Configuration, clock: Clock) -> Result<Arc<Self>, InitError> {
        configuration.check()?;
        let pin = configuration.pin()?;
        let configuration = Arc::new(configuration);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("store-pkcs11")
            .enable_time()
            .build()
            .map_err(|e| InitError::Unavailable(format!("no threads for the module: {e}")))?;
        let module = Arc::new(Module::new(configuration.clone(), pin));
        let pool = Pool::start(module.clone())?;
        match pool.call_blocking(FIRST_ANSWER, |desk| Ok(desk.up.is_initialised())) {
            Some(Ok(true)) => {}
            Some(Ok(false)) => tracing::warn!("{}", module::NOT_INITIALISED),
            Some(Err(error)) => tracing::warn!(%error, "the PKCS#11 token is away; it is tried again"),
            None => tracing::warn!("the PKCS#11 module has not answered yet"),
        }
        Ok(Arc::new(Self { configuration, module, pool, clock, runtime: Some(runtime) }))
    }

    /// The token as key custody.
    pub fn custody(self: &Arc<Self>) -> Custody {
        Custody::new(self.clone())
    }

    /// The token as a user store; `None` without `lock_file`. To be asked for once.
    pub fn user_store(self: &Arc<Self>) -> Option<Store> {
        let lock_file = self.configuration.lock_file.clone()?;
        Some(Store::new(self.clone(), lock_file, self.clock.clone()))
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Waits for nobody: whoever drops this may be in a runtime.
            runtime.shutdown_background();
        }
    }
}
