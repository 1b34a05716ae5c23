//! What a plugin is to the host: a name, a context at start, and components.

use std::{sync::Arc, time::SystemTime};

use serde::de::DeserializeOwned;

use crate::{CipherSuite, InitError, KeyCustody, KeyIssuer, StateStore, UserStore};

/// What the host gives a plugin when it starts it.
///
/// Logs and metrics need nothing from here: inside a plugin `tracing` and
/// `metrics` work as everywhere and reach the host.
pub struct Context {
    /// The name under which the configuration loads this plugin.
    pub name: String,
    /// The plugin's own table of the configuration, as JSON.
    pub configuration: serde_json::Value,
    /// The state store of the service role, where the daemon has one.
    pub state: Option<Arc<dyn StateStore>>,
    /// The host's clock. Tests may stop it.
    pub clock: Arc<dyn Fn() -> SystemTime + Send + Sync>,
}

impl Context {
    /// Reads the plugin's configuration into its own type. Unknown keys should
    /// be refused by it (`#[serde(deny_unknown_fields)]`).
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, InitError> {
        serde_json::from_value(self.configuration.clone()).map_err(|e| InitError::Configuration(e.to_string()))
    }

    /// Now, by the host's clock.
    pub fn now(&self) -> SystemTime {
        (self.clock)()
    }
}

/// See [`Plugin::with_poll_in`].
pub(crate) type PollIn = Arc<dyn Fn(&mut dyn FnMut()) + Send + Sync>;

/// The components of a started plugin. Dropping it shuts the plugin down.
#[derive(Default)]
pub struct Plugin {
    /// Cipher suites, each with a registry id of its own.
    pub suites: Vec<Box<dyn CipherSuite>>,
    /// A user store.
    pub user_store: Option<Box<dyn UserStore>>,
    /// A state store.
    pub state_store: Option<Box<dyn StateStore>>,
    /// An issuer of service authentication keys.
    pub issuer: Option<Box<dyn KeyIssuer>>,
    /// Custody of unique keys.
    pub custody: Option<Box<dyn KeyCustody>>,
    /// See [`Self::with_poll_in`].
    pub(crate) poll_in: Option<PollIn>,
}

impl Plugin {
    /// A plugin without components yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a cipher suite.
    #[must_use]
    pub fn with_suite(mut self, suite: impl CipherSuite) -> Self {
        self.suites.push(Box::new(suite));
        self
    }

    /// Sets the user store.
    #[must_use]
    pub fn with_user_store(mut self, store: impl UserStore) -> Self {
        self.user_store = Some(Box::new(store));
        self
    }

    /// Sets the state store.
    #[must_use]
    pub fn with_state_store(mut self, store: impl StateStore) -> Self {
        self.state_store = Some(Box::new(store));
        self
    }

    /// Sets the issuer.
    #[must_use]
    pub fn with_issuer(mut self, issuer: impl KeyIssuer) -> Self {
        self.issuer = Some(Box::new(issuer));
        self
    }

    /// Sets the key custody.
    #[must_use]
    pub fn with_custody(mut self, custody: impl KeyCustody) -> Self {
        self.custody = Some(Box::new(custody));
        self
    }

    /// Runs each poll of this plugin's futures inside `enter`, which calls
    /// its argument exactly once.
    ///
    /// The host polls a plugin's futures on its own threads, where no runtime
    /// of the plugin can be seen. A plugin whose futures need one (timers,
    /// sockets, `tokio::spawn`) owns it and enters it here, which costs some
    /// 25 ns where a spawn on it would cost some 5 µs:
    ///
    /// ```ignore
    /// let handle = runtime.handle().clone();
    /// plugin.with_poll_in(move |poll| {
    ///     let _entered = handle.enter();
    ///     poll();
    /// })
    /// ```
    ///
    /// Blocking work is no reason for it: `handle.spawn_blocking(..)` on the
    /// plugin's own handle can be awaited anywhere.
    #[must_use]
    pub fn with_poll_in(mut self, enter: impl Fn(&mut dyn FnMut()) + Send + Sync + 'static) -> Self {
        self.poll_in = Some(Arc::new(enter));
        self
    }
}
