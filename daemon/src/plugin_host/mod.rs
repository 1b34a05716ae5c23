//! The plugin host: loads plugins, gives them their services, and hands out
//! their components guarded.
//!
//! - `elf`, `image`: what a file must be before anything of it is loaded, and how the hashed bytes become the loaded ones.
//! - `abi`: the only module of the daemon that names `abi_stable`, and the only one with unsafe code.
//! - `signature`: who vouches for a file.
//! - `load`: one plugin from its configuration to its components.
//! - `reload`: another version in the place of the one that runs.
//! - `services`: what the host gives a plugin (log, metrics, clock, state store).
//! - `guard`: the wrappers around components: measured, bounded, tried again, cut off, distrusted.
//! - [`inspect`]: what a plugin file says of itself, without running it.
//! - [`bare`]: cipher suites without their guard, for conformance tests.
//! - `status`: what the administration API shows of a plugin.
//!
//! A plugin is never unloaded: its threads and its log callsites may outlive
//! whatever the host knows of it.

#[expect(unsafe_code, reason = "dlopen, and the first look at what was opened")]
mod abi;
pub mod bare;
mod elf;
mod error;
mod guard;
mod image;
pub mod inspect;
mod load;
mod reload;
mod self_test;
mod services;
mod signature;
mod status;

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use claviger_plugin_api::{CipherSuite, KeyCustody, KeyIssuer, StateStore, UserStore};
use futures_util::{FutureExt, future::join_all};
use tokio::sync::watch;
use tracing::{error, info, warn};

pub use crate::config::types::PluginConfig;
pub use error::{PluginHostError, PluginLoadError};
pub use reload::{ReloadError, Reloaded};
pub use signature::SignatureStatus;
pub(crate) use signature::is_public_key;
pub use status::{ComponentHealth, FileStatus, PluginState, PluginStatus, SuiteStatus};

use load::{Loaded, Opened};

/// What plugins may ask of the host.
#[derive(Clone)]
pub struct HostServices {
    /// Where the state store lies that plugins get.
    pub state: StateSource,
    /// The clock that plugins get.
    pub clock: Arc<dyn Fn() -> SystemTime + Send + Sync>,
}

impl Default for HostServices {
    /// No state store, and the system's clock.
    fn default() -> Self {
        Self { state: StateSource::None, clock: Arc::new(SystemTime::now) }
    }
}

/// Where the state store for plugins lies.
#[derive(Clone)]
pub enum StateSource {
    /// There is none.
    None,
    /// The daemon's own.
    Store(Arc<dyn StateStore>),
    /// That of the plugin of this name, which is loaded before the others.
    Plugin(String),
}

/// The plugins of this daemon. Dropping it shuts their components down.
pub struct PluginHost {
    plugins: Vec<Entry>,
    /// Which plugin serves a suite: the first one configured.
    suites: HashMap<u16, Arc<dyn CipherSuite>>,
    changes: watch::Sender<()>,
    services: HostServices,
    /// What plugins get, but for the one that it is of.
    state: Option<Arc<dyn StateStore>>,
    reloading: tokio::sync::Mutex<()>,
}

struct Entry {
    name: String,
    running: Mutex<Running>,
    loaded: Option<Loaded>,
}

/// What runs of a plugin: it changes with a reload.
struct Running {
    status: PluginStatus,
    config: PluginConfig,
    /// The library's bytes, when it was loaded.
    memory: Option<Arc<File>>,
}

impl PluginHost {
    /// Loads the plugins in order. One that cannot be loaded is logged in one
    /// line and kept out.
    ///
    /// Metrics go to the recorder that is installed by then. Must be called
    /// inside a tokio runtime; plugins start on its blocking threads.
    ///
    /// # Errors
    /// When a required plugin cannot be loaded, two have one name, or the one
    /// that is to be the state store is none.
    pub async fn load(configs: &[PluginConfig], services: HostServices) -> Result<Self, PluginHostError> {
        guard::describe_metrics();
        check_names(configs)?;
        let changes = watch::Sender::new(());
        let mut state = match &services.state {
            StateSource::Store(store) => Some(store.clone()),
            StateSource::None | StateSource::Plugin(_) => None,
        };
        let state_plugin = match &services.state {
            StateSource::Plugin(name) => Some(name.as_str()),
            _ => None,
        };

        let mut entries: Vec<Option<Entry>> = configs.iter().map(|_| None).collect();
        let first = configs.iter().position(|config| Some(config.name.as_str()) == state_plugin);
        if let (Some(name), None) = (state_plugin, first) {
            return Err(PluginHostError::NoStateStore(name.into(), "no [[plugin]] has that name"));
        }
        let others = (0..configs.len()).filter(|i| Some(*i) != first);
        for i in first.into_iter().chain(others) {
            let entry = Entry::load(&configs[i], state.clone(), &services, changes.clone()).await;
            if let Some(loaded) = entry.loaded.as_ref().filter(|_| Some(i) == first) {
                let store = loaded.state_store.clone();
                let none = || PluginHostError::NoStateStore(configs[i].name.clone(), "delivers no state store");
                state = Some(store.ok_or_else(none)?);
            }
            entries[i] = Some(entry);
        }
        let plugins = entries.into_iter().flatten().collect();
        let reloading = tokio::sync::Mutex::default();
        let host = Self { suites: HashMap::new(), plugins, changes, services, state, reloading }.with_suites();
        match host.missing(configs) {
            missing if missing.is_empty() => Ok(host),
            missing => Err(PluginHostError::Required(missing)),
        }
    }

    /// The suite of that number, from the first plugin configured that has it.
    pub fn suite(&self, id: u16) -> Option<Arc<dyn CipherSuite>> {
        self.suites.get(&id).cloned()
    }

    /// The suite of that number from one plugin.
    pub fn suite_from(&self, plugin: &str, id: u16) -> Option<Arc<dyn CipherSuite>> {
        self.loaded(plugin)?.suites.iter().find(|(found, _)| *found == id).map(|(_, suite)| suite.clone() as _)
    }

    /// The numbers of all suites, ascending.
    pub fn suites(&self) -> Vec<u16> {
        let mut suites: Vec<u16> = self.suites.keys().copied().collect();
        suites.sort_unstable();
        suites
    }

    /// The user store of a plugin.
    pub fn user_store(&self, plugin: &str) -> Option<Arc<dyn UserStore>> {
        Some(self.loaded(plugin)?.user_store.clone()?)
    }

    /// The state store of a plugin.
    pub fn state_store(&self, plugin: &str) -> Option<Arc<dyn StateStore>> {
        Some(self.loaded(plugin)?.state_store.clone()?)
    }

    /// The issuer of a plugin.
    pub fn issuer(&self, plugin: &str) -> Option<Arc<dyn KeyIssuer>> {
        Some(self.loaded(plugin)?.issuer.clone()?)
    }

    /// The key custody of a plugin.
    pub fn custody(&self, plugin: &str) -> Option<Arc<dyn KeyCustody>> {
        Some(self.loaded(plugin)?.custody.clone()?)
    }

    /// All configured plugins in order, those that could not be loaded too.
    pub fn list(&self) -> Vec<PluginStatus> {
        self.plugins.iter().map(|entry| entry.running().status.clone()).collect()
    }

    /// [`list`](Self::list), with what lies at each plugin's path now. Reads the files.
    pub async fn list_with_files(&self) -> Vec<PluginStatus> {
        let mut plugins = self.list();
        for (entry, status) in self.plugins.iter().zip(&mut plugins) {
            let (config, running) = (entry.running().config.clone(), status.sha256.clone());
            let looked = load::blocking(move || Ok(FileStatus::of(&config, running.as_deref()))).await;
            status.file = looked.ok();
        }
        plugins
    }

    /// Puts what `config` says into the place of the plugin of that name, without a call that
    /// fails for it. Its `deadline`, `max_in_flight`, `retries` and `breaker_failures` stay what they
    /// were at the start. Goes on to its end when the caller does not wait for it.
    ///
    /// # Errors
    /// Why not; the version that ran goes on then, but for [`ReloadError::Lost`].
    pub async fn reload(self: &Arc<Self>, config: PluginConfig) -> Result<Reloaded, ReloadError> {
        let host = self.clone();
        let done = tokio::spawn(async move { reload::reload(&host, config).await }).await;
        done.unwrap_or_else(|error| Err(PluginLoadError::Host(error.to_string()).into()))
    }

    /// Asks every store, custody and issuer whether it can work: all at once, each within its deadline.
    pub async fn health(&self) -> Vec<ComponentHealth> {
        let loaded = self.plugins.iter().filter_map(|entry| Some((&entry.name, entry.loaded.as_ref()?)));
        let mut questions = Vec::new();
        for (plugin, loaded) in loaded {
            let answer = move |component| move |answer| ComponentHealth::new(plugin, component, answer);
            questions.extend(loaded.user_store.as_ref().map(|store| store.health().map(answer("user_store")).boxed()));
            questions
                .extend(loaded.state_store.as_ref().map(|store| store.health().map(answer("state_store")).boxed()));
            questions.extend(loaded.custody.as_ref().map(|custody| custody.health().map(answer("custody")).boxed()));
            questions.extend(loaded.issuer.as_ref().map(|issuer| issuer.health().map(answer("issuer")).boxed()));
        }
        join_all(questions).await
    }

    /// Changes each time when a component is cut off because its calls fail,
    /// and when it is let back in: the moment to ask for [`health`](Self::health) anew.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    fn loaded(&self, plugin: &str) -> Option<&Loaded> {
        self.plugins.iter().find(|entry| entry.name == plugin)?.loaded.as_ref()
    }

    /// The state store for a plugin that is started: as it was at the start, not its own.
    fn state_for(&self, plugin: &str) -> Option<Arc<dyn StateStore>> {
        match &self.services.state {
            StateSource::Plugin(name) if name == plugin => None,
            _ => self.state.clone(),
        }
    }

    fn with_suites(mut self) -> Self {
        let mut owner: HashMap<u16, &str> = HashMap::new();
        for entry in &self.plugins {
            for (id, suite) in entry.loaded.iter().flat_map(|loaded| &loaded.suites) {
                if let Some(first) = owner.get(id) {
                    warn!(
                        plugin = entry.name,
                        "suite {id:#06x} is served by plugin {first}, which is configured first"
                    );
                } else {
                    owner.insert(*id, &entry.name);
                    self.suites.insert(*id, suite.clone());
                }
            }
        }
        self
    }

    fn missing(&self, configs: &[PluginConfig]) -> Vec<String> {
        let both = self.plugins.iter().zip(configs);
        both.filter(|(entry, config)| config.required && entry.loaded.is_none())
            .map(|(entry, _)| entry.running().status.line())
            .collect()
    }
}

impl Entry {
    async fn load(
        config: &PluginConfig,
        state: Option<Arc<dyn StateStore>>,
        services: &HostServices,
        changes: watch::Sender<()>,
    ) -> Self {
        let mut status = PluginStatus::new(config);
        let loaded = match Self::start(config, state, services, changes, &mut status).await {
            Ok(loaded) => {
                let version = status.version.as_deref().unwrap_or_default();
                info!(plugin = config.name, path = %config.path.display(), version, "plugin loaded");
                Some(loaded)
            }
            Err(error) => {
                error!(plugin = config.name, path = %config.path.display(), "plugin not loaded: {error}");
                status.fail(&error);
                None
            }
        };
        let (loaded, memory) = loaded.unzip();
        let running = Running { status, config: config.clone(), memory: memory.map(Arc::new) };
        Self { name: config.name.clone(), running: Mutex::new(running), loaded }
    }

    async fn start(
        config: &PluginConfig,
        state: Option<Arc<dyn StateStore>>,
        services: &HostServices,
        changes: watch::Sender<()>,
        status: &mut PluginStatus,
    ) -> Result<(Loaded, File), PluginLoadError> {
        let checked = load::read(config, status).await?;
        let opened = Opened::load(checked, &config.name).await?;
        let components = opened.start(config, state, services).await?;
        status.suites = load::suites(&components);
        Ok((Loaded::new(config, components, changes), opened.memory))
    }

    /// Each change of it leaves it whole.
    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check_names(configs: &[PluginConfig]) -> Result<(), PluginHostError> {
    let mut names = HashSet::new();
    match configs.iter().find(|config| !names.insert(config.name.as_str())) {
        Some(twice) => Err(PluginHostError::DuplicateName(twice.name.clone())),
        None => Ok(()),
    }
}
