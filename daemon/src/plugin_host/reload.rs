//! Another version of a plugin in the place of the one that runs, while calls come.
//!
//! The guards stay, which is what the roles hold; what is behind them is
//! replaced. There are two ways:
//!
//! - Suites and issuers: the new version starts beside the old one, and traffic
//!   moves from one call to the next. The old one ends with its last call.
//! - Stores and custody own what exists once in a process. Two copies of SQLite
//!   in one process do not see each other's locks, and a PKCS#11 module is
//!   initialised once. So calls wait, the old version ends, and then the new one
//!   starts. When it does not, another copy of the old one is started from the
//!   bytes that are kept in memory.
//!
//! All that can be found out without stopping anything is found out first.

use std::{sync::Arc, time::Duration};

use claviger_plugin_api::{
    KeyCustody, KeyIssuer, PluginError, StateStore, UserStore,
    description::{Component, Description},
};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep},
};
use tracing::{error, info};

use super::{
    Entry, PluginConfig, PluginHost, PluginState, PluginStatus, Running,
    error::{PluginLoadError, one_line},
    image::Image,
    load::{self, Checked, Components, Loaded, Opened, release},
};

/// Why a plugin was not replaced. But for [`Lost`](Self::Lost), the version that ran goes on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReloadError {
    /// There is none of that name.
    #[error("this daemon was started without a plugin of that name: restart it to load one")]
    Unknown,
    /// It was not loaded at the start.
    #[error("the plugin was not loaded when the daemon started, and nobody would use it now: restart the daemon")]
    NotLoaded,
    /// One at a time.
    #[error("another plugin is being replaced just now: try again")]
    Busy,
    /// The new version does not load.
    #[error("the new version is not taken, the former one goes on: {0}")]
    Load(#[from] PluginLoadError),
    /// The new version has less than the old one.
    #[error("the new version is not taken, the former one goes on: it lacks {0}, which is in use")]
    Lacks(String),
    /// The old version could not be brought back if the new one failed.
    #[error("the running version does not work ({0}), and could not be brought back: restart the daemon instead")]
    Unhealthy(String),
    /// Its calls do not end.
    #[error("calls of the running version did not end within its deadline, it goes on: try again")]
    InUse,
    /// Neither version runs.
    #[error("NEITHER VERSION RUNS, restart the daemon: {new}; the former one: {old}")]
    Lost {
        /// What became of the new version.
        new: String,
        /// What became of the old one.
        old: String,
    },
}

/// A plugin that was replaced.
#[derive(Debug, Clone)]
pub struct Reloaded {
    /// What ran before.
    pub before: PluginStatus,
    /// What runs now.
    pub now: PluginStatus,
    /// Whether all calls of the old version have ended. Otherwise it ends with the last of them.
    pub drained: bool,
}

/// Replaces the plugin of that name by what `config` says. Not to be cancelled: a store may be stopped.
pub(super) async fn reload(host: &PluginHost, config: PluginConfig) -> Result<Reloaded, ReloadError> {
    let _alone = host.reloading.try_lock().map_err(|_| ReloadError::Busy)?;
    let entry = host.plugins.iter().find(|entry| entry.name == config.name).ok_or(ReloadError::Unknown)?;
    let done = replace(host, entry, config).await;
    if let Err(lost @ ReloadError::Lost { .. }) = &done {
        entry.running().status.state = PluginState::Failed { reason: one_line(&lost.to_string()) };
        host.changes.send_replace(());
    }
    done
}

async fn replace(host: &PluginHost, entry: &Entry, config: PluginConfig) -> Result<Reloaded, ReloadError> {
    let loaded = entry.loaded.as_ref().ok_or(ReloadError::NotLoaded)?;
    let plugin = config.name.as_str();

    let mut status = PluginStatus::new(&config);
    let checked = load::read(&config, &mut status).await?;
    lacking(loaded, &checked.description)?;
    let opened = Opened::load(checked, plugin).await?;
    let begun = Instant::now();
    let stopped = if is_exclusive(loaded) { Some(Stopped::stop(loaded).await?) } else { None };

    let state = host.state_for(plugin);
    let components = match start(&opened, loaded, &config, state.clone(), host).await {
        Ok(components) => components,
        Err(failed) => {
            let Some(stopped) = stopped else { return Err(failed) };
            return Err(stopped.bring_back(host, entry, loaded, state, failed).await);
        }
    };
    status.suites = load::suites(&components);
    status.suites.retain(|suite| loaded.suites.iter().any(|(id, _)| suite.id == format!("{id:#06x}")));
    let retired = install(loaded, components);
    drop(stopped);
    let took = begun.elapsed();

    let deadline = entry.running().config.deadline;
    let drained = end(retired, deadline).await;
    let before = {
        let mut running = entry.running();
        let before = running.status.clone();
        *running = Running { status: status.clone(), config, memory: Some(Arc::new(opened.memory)) };
        before
    };
    host.changes.send_replace(());
    let version = |status: &PluginStatus| status.version.clone().unwrap_or_default();
    info!(plugin = before.name, from = version(&before), to = version(&status), ?took, drained, "plugin replaced");
    Ok(Reloaded { before, now: status, drained })
}

/// Stores and custody that were stopped. Calls wait for their places until this is dropped.
struct Stopped {
    _held: Vec<OwnedSemaphorePermit>,
}

impl Stopped {
    /// Ends the stores and the custody of a plugin, when their calls have ended.
    async fn stop(loaded: &Loaded) -> Result<Self, ReloadError> {
        healthy(loaded).await.map_err(|error| ReloadError::Unhealthy(one_line(&error.to_string())))?;
        let mut held = Vec::new();
        if let Some(store) = &loaded.user_store {
            held.push(store.guard().hold().await.ok_or(ReloadError::InUse)?);
        }
        if let Some(store) = &loaded.state_store {
            held.push(store.guard().hold().await.ok_or(ReloadError::InUse)?);
        }
        if let Some(custody) = &loaded.custody {
            held.push(custody.guard().hold().await.ok_or(ReloadError::InUse)?);
        }
        let mut retired: Vec<Box<dyn Retired>> = Vec::new();
        retired.extend(loaded.user_store.as_ref().and_then(|store| store.guard().swap(None)).map(boxed));
        retired.extend(loaded.state_store.as_ref().and_then(|store| store.guard().swap(None)).map(boxed));
        retired.extend(loaded.custody.as_ref().and_then(|custody| custody.guard().swap(None)).map(boxed));
        // Nobody holds a place, so at most a question for its health is on its way.
        if !end(retired, load::START_DEADLINE).await {
            let new = "it was not started".to_owned();
            return Err(ReloadError::Lost { new, old: "it does not end".to_owned() });
        }
        Ok(Self { _held: held })
    }

    /// Starts the old version again after the new one failed; tells what to report.
    async fn bring_back(
        self,
        host: &PluginHost,
        entry: &Entry,
        loaded: &Loaded,
        state: Option<Arc<dyn StateStore>>,
        failed: ReloadError,
    ) -> ReloadError {
        let lost = |old: String| {
            error!(plugin = entry.name, "neither version of the plugin runs: {failed}; the former one: {old}");
            ReloadError::Lost { new: failed.to_string(), old }
        };
        if matches!(failed, ReloadError::Load(PluginLoadError::StartDeadline(_))) {
            return lost("it may not start beside one that is still starting".to_owned());
        }
        let (config, memory) = {
            let running = entry.running();
            (running.config.clone(), running.memory.clone())
        };
        let Some(memory) = memory else { return lost("its bytes are not kept".to_owned()) };
        let again = async {
            let checked = load::blocking(move || Checked::again(Image::again(&memory)?)).await?;
            let opened = Opened::load(checked, &config.name).await?;
            let components = opened.start(&config, state, &host.services).await?;
            Ok::<_, PluginLoadError>((components, opened.memory))
        };
        match again.await {
            Ok((components, memory)) => {
                entry.running().memory = Some(Arc::new(memory));
                let retired = install(loaded, components);
                drop(self);
                end(retired, config.deadline).await;
                failed
            }
            Err(error) => lost(error.to_string()),
        }
    }
}

async fn start(
    opened: &Opened,
    loaded: &Loaded,
    config: &PluginConfig,
    state: Option<Arc<dyn StateStore>>,
    host: &PluginHost,
) -> Result<Components, ReloadError> {
    let components = opened.start(config, state, &host.services).await?;
    let fits = match fits(loaded, &components) {
        Ok(()) => components.health(config.deadline).await.map_err(ReloadError::Load),
        lacks => lacks,
    };
    match fits {
        Ok(()) => Ok(components),
        // It must have ended before the old version may be started again.
        Err(_) if !release(components).await => {
            Err(ReloadError::Load(PluginLoadError::StartDeadline(load::START_DEADLINE)))
        }
        Err(error) => Err(error),
    }
}

/// Whether a second one could not run beside it.
fn is_exclusive(loaded: &Loaded) -> bool {
    loaded.user_store.is_some() || loaded.state_store.is_some() || loaded.custody.is_some()
}

/// Whether the file names all kinds that are in use.
fn lacking(loaded: &Loaded, description: &Description) -> Result<(), ReloadError> {
    let kinds = [
        (Component::Cipher, !loaded.suites.is_empty()),
        (Component::UserStore, loaded.user_store.is_some()),
        (Component::StateStore, loaded.state_store.is_some()),
        (Component::Issuer, loaded.issuer.is_some()),
        (Component::Custody, loaded.custody.is_some()),
    ];
    match kinds.iter().find(|(kind, used)| *used && !description.provides.contains(kind)) {
        Some((kind, _)) => Err(ReloadError::Lacks(format!("the component {kind}"))),
        None => Ok(()),
    }
}

/// Whether what it delivered can stand for all that is in use.
fn fits(loaded: &Loaded, new: &Components) -> Result<(), ReloadError> {
    use claviger_plugin_api::CipherSuite;

    let lacks = |what: String| Err(ReloadError::Lacks(what));
    for (id, suite) in &loaded.suites {
        let hash_len = suite.info().hash_len;
        if !new.suites.iter().any(|tested| tested.info.id == *id && tested.info.hash_len == hash_len) {
            return lacks(format!("suite {id:#06x}"));
        }
    }
    let kinds = [
        ("user_store", loaded.user_store.is_some(), new.user_store.is_some()),
        ("state_store", loaded.state_store.is_some(), new.state_store.is_some()),
        ("issuer", loaded.issuer.is_some(), new.issuer.is_some()),
        ("custody", loaded.custody.is_some(), new.custody.is_some()),
    ];
    if let Some((kind, ..)) = kinds.iter().find(|(_, used, here)| *used && !here) {
        return lacks(format!("the component {kind}"));
    }
    match (&loaded.issuer, &new.issuer) {
        (Some(old), Some((kind, _))) if old.kind() != *kind => lacks(format!("an issuer of {:?} keys", old.kind())),
        _ => Ok(()),
    }
}

async fn healthy(loaded: &Loaded) -> Result<(), PluginError> {
    if let Some(store) = &loaded.user_store {
        store.health().await?;
    }
    if let Some(store) = &loaded.state_store {
        store.health().await?;
    }
    if let Some(custody) = &loaded.custody {
        custody.health().await?;
    }
    Ok(())
}

/// Moves the traffic to `new`, which fits; what nobody uses is left out. What was behind the guards comes back.
fn install(loaded: &Loaded, new: Components) -> Vec<Box<dyn Retired>> {
    let mut retired: Vec<Box<dyn Retired>> = Vec::new();
    for tested in new.suites {
        if let Some((_, suite)) = loaded.suites.iter().find(|(id, _)| *id == tested.info.id) {
            retired.push(boxed(suite.swap(tested)));
        }
    }
    if let (Some(guarded), Some(store)) = (&loaded.user_store, new.user_store) {
        retired.extend(guarded.guard().swap(Some(store)).map(boxed));
    }
    if let (Some(guarded), Some(store)) = (&loaded.state_store, new.state_store) {
        retired.extend(guarded.guard().swap(Some(store)).map(boxed));
    }
    if let (Some(guarded), Some(custody)) = (&loaded.custody, new.custody) {
        retired.extend(guarded.guard().swap(Some(custody)).map(boxed));
    }
    if let (Some(guarded), Some((_, issuer))) = (&loaded.issuer, new.issuer) {
        retired.extend(guarded.guard().swap(Some(issuer)).map(boxed));
    }
    retired
}

/// A component that gets no new calls.
trait Retired: Send {
    /// Whether a call is on its way in it.
    fn is_in_use(&self) -> bool;
}

impl<T: Send + Sync> Retired for Arc<T> {
    fn is_in_use(&self) -> bool {
        Self::strong_count(self) > 1
    }
}

fn boxed<T: Send + Sync + 'static>(component: Arc<T>) -> Box<dyn Retired> {
    Box::new(component)
}

/// Waits until the last calls have ended, for `limit` at most, and drops the components where that may
/// block. Whether all of them have ended; what has not ends with its last call.
async fn end(retired: Vec<Box<dyn Retired>>, limit: Duration) -> bool {
    let until = Instant::now() + limit;
    while retired.iter().any(|component| component.is_in_use()) && Instant::now() < until {
        sleep(DRAIN_INTERVAL).await;
    }
    let in_use = retired.iter().any(|component| component.is_in_use());
    release(retired).await && !in_use
}

const DRAIN_INTERVAL: Duration = Duration::from_millis(2);
