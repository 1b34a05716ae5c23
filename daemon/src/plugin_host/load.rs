//! One plugin, from its configuration to its guarded components.

use std::{collections::HashSet, fs::File, sync::Arc, time::Duration};

use claviger_plugin_api::{
    KeyCustody, KeyIssuer, KeyKind, PluginError, StateStore, UserStore,
    abi::{
        CustodyObject, Delivered, HostObject, IssuerObject, PluginRootRef, StateStoreObject, SuiteObject,
        UserStoreObject,
    },
    description::{API_VERSION, Component, Description},
};
use data_encoding::HEXLOWER;
use tokio::{
    sync::watch,
    time::{Instant, timeout, timeout_at},
};
use zeroize::Zeroizing;

use super::{
    HostServices, PluginConfig, PluginStatus, SuiteStatus, abi,
    error::{PluginLoadError, one_line},
    guard::{GuardedCustody, GuardedIssuer, GuardedStateStore, GuardedSuite, GuardedUserStore, Shared, Tested},
    image::Image,
    self_test,
    services::{InRuntime, PluginServices},
};

/// The guarded components of a plugin.
#[derive(Default)]
pub(super) struct Loaded {
    pub(super) suites: Vec<(u16, Arc<GuardedSuite<SuiteObject>>)>,
    pub(super) user_store: Option<Arc<GuardedUserStore<UserStoreObject>>>,
    pub(super) state_store: Option<Arc<GuardedStateStore<StateStoreObject>>>,
    pub(super) issuer: Option<Arc<GuardedIssuer<IssuerObject>>>,
    pub(super) custody: Option<Arc<GuardedCustody<CustodyObject>>>,
}

impl Loaded {
    pub(super) fn new(config: &PluginConfig, components: Components, changes: watch::Sender<()>) -> Self {
        let shared = Shared::new(config, changes);
        let suite =
            |tested: Arc<Tested<SuiteObject>>| (tested.info.id, Arc::new(GuardedSuite::new(&config.name, tested)));
        let Components { suites, user_store, state_store, issuer, custody } = components;
        Self {
            suites: suites.into_iter().map(suite).collect(),
            user_store: user_store.map(|store| Arc::new(GuardedUserStore::new(&shared, store))),
            state_store: state_store.map(|store| Arc::new(GuardedStateStore::new(&shared, store))),
            issuer: issuer.map(|(kind, issuer)| Arc::new(GuardedIssuer::new(&shared, kind, issuer))),
            custody: custody.map(|custody| Arc::new(GuardedCustody::new(&shared, custody))),
        }
    }
}

/// What a started plugin delivered, checked and not yet guarded.
pub(super) struct Components {
    pub(super) suites: Vec<Arc<Tested<SuiteObject>>>,
    pub(super) user_store: Option<Arc<UserStoreObject>>,
    pub(super) state_store: Option<Arc<StateStoreObject>>,
    pub(super) issuer: Option<(KeyKind, Arc<IssuerObject>)>,
    pub(super) custody: Option<Arc<CustodyObject>>,
}

impl Components {
    /// Asks all of them whether they can work, each within `deadline`.
    pub(super) async fn health(&self, deadline: Duration) -> Result<(), PluginLoadError> {
        let ask = async |component, answer| {
            let answer = timeout(deadline, answer).await.unwrap_or(Err(PluginError::DeadlineExceeded));
            answer.map_err(|error| PluginLoadError::Health(component, one_line(&error.to_string())))
        };
        if let Some(store) = &self.user_store {
            ask("user_store", store.health()).await?;
        }
        if let Some(store) = &self.state_store {
            ask("state_store", store.health()).await?;
        }
        if let Some(custody) = &self.custody {
            ask("custody", custody.health()).await?;
        }
        if let Some((_, issuer)) = &self.issuer {
            ask("issuer", issuer.health()).await?;
        }
        Ok(())
    }
}

/// A file that may be loaded. Nothing of it has run.
pub(super) struct Checked {
    image: Image,
    pub(super) description: Description,
}

/// Reads and checks the file; `status` is filled as far as it comes.
pub(super) async fn read(config: &PluginConfig, status: &mut PluginStatus) -> Result<Checked, PluginLoadError> {
    let (path, trust, pinned) = (config.path.clone(), config.trust.clone(), config.sha256);
    let (image, signature) = blocking(move || {
        let image = Image::read(&path)?;
        let signature = image.signature(&path, &trust);
        Ok((image, signature))
    })
    .await?;
    status.sha256 = Some(HEXLOWER.encode(&image.sha256()));
    if let Some(expected) = pinned.filter(|expected| *expected != image.sha256()) {
        return Err(PluginLoadError::Sha256 { expected, found: image.sha256() });
    }
    let signature = signature?;
    status.signature_comment = signature.comment().map(str::to_owned);
    let admitted = signature.admit(&config.path, &config.trust);
    status.signature = Some(signature);
    admitted?;
    image.check_elf()?;
    let description = image.description()?;
    status.version = Some(one_line(&description.version));
    status.api = Some(one_line(&description.api));
    status.provides.clone_from(&description.provides);
    check_version(&description.api)?;
    Ok(Checked { image, description })
}

impl Checked {
    /// A file that was loaded before.
    pub(super) fn again(image: Image) -> Result<Self, PluginLoadError> {
        let description = image.description()?;
        Ok(Self { image, description })
    }
}

/// A library in this process that was not started yet.
pub(super) struct Opened {
    root: PluginRootRef,
    description: Description,
    /// What was loaded: for another copy of it.
    pub(super) memory: File,
    /// When it must have started.
    end: Instant,
}

impl Opened {
    /// Loads the library. Its constructors run.
    pub(super) async fn load(checked: Checked, name: &str) -> Result<Self, PluginLoadError> {
        let end = Instant::now() + START_DEADLINE;
        let (name, Checked { image, description }) = (name.to_owned(), checked);
        let opened = timeout_at(end, blocking(move || abi::open(image, &name))).await;
        let (root, memory) = opened.map_err(|_| PluginLoadError::StartDeadline(START_DEADLINE))??;
        Ok(Self { root, description, memory, end })
    }

    /// Starts the plugin and checks what it delivers: once for each copy of the library.
    pub(super) async fn start(
        &self,
        config: &PluginConfig,
        state: Option<Arc<dyn StateStore>>,
        services: &HostServices,
    ) -> Result<Components, PluginLoadError> {
        let host: Box<PluginServices> = Box::new(PluginServices::new(&config.name, services.clock.clone()));
        let runtime = tokio::runtime::Handle::current();
        let state = state.map(|state| Arc::new(InRuntime::new(state, runtime)) as Arc<dyn StateStore>);
        let (root, name) = (self.root, config.name.clone());
        let configuration = Zeroizing::new(config.configuration.to_string());
        let start = blocking(move || Ok(root.start(HostObject::new(host), &name, &configuration, state)?));
        let delivered = timeout_at(self.end, start).await;
        let delivered = delivered.map_err(|_| PluginLoadError::StartDeadline(START_DEADLINE))??;
        checked(&self.description, delivered)
    }
}

/// Does away with what may block while it ends. `false` when that takes too long; it goes on all the same.
pub(super) async fn release<T: Send + 'static>(components: T) -> bool {
    timeout(START_DEADLINE, tokio::task::spawn_blocking(move || drop(components))).await.is_ok()
}

/// The version rule: the same major version. What an older minor version
/// lacks is optional, what a newer one has more is not called.
pub(super) fn check_version(api: &str) -> Result<(), PluginLoadError> {
    let major = |version: &str| version.split_once('.').and_then(|(major, _)| major.parse::<u32>().ok());
    match major(api) {
        Some(found) if Some(found) == major(API_VERSION) => Ok(()),
        _ => Err(PluginLoadError::ApiVersion(one_line(api))),
    }
}

/// Takes what the plugin delivered, as far as it may deliver it.
fn checked(description: &Description, delivered: Delivered) -> Result<Components, PluginLoadError> {
    let kinds = [
        (Component::Cipher, !delivered.suites.is_empty()),
        (Component::UserStore, delivered.user_store.is_some()),
        (Component::StateStore, delivered.state_store.is_some()),
        (Component::Issuer, delivered.issuer.is_some()),
        (Component::Custody, delivered.custody.is_some()),
    ];
    if let Some((kind, _)) = kinds.iter().find(|(kind, here)| *here && !description.provides.contains(kind)) {
        return Err(PluginLoadError::Component(format!("a {kind}, which its description does not name")));
    }
    if kinds.iter().all(|(_, here)| !here) {
        return Err(PluginLoadError::Component("no component".into()));
    }

    let mut suites = Vec::new();
    let mut ids = HashSet::new();
    for suite in delivered.suites {
        let info = self_test::check(&suite).map_err(PluginLoadError::Component)?;
        if !ids.insert(info.id) {
            return Err(PluginLoadError::Component(format!("suite {:#06x} twice", info.id)));
        }
        suites.push(Arc::new(Tested { info, suite }));
    }
    let issuer = delivered.issuer.map(|issuer| {
        let kind = KeyKind::from_wire(issuer.kind_byte())
            .ok_or_else(|| PluginLoadError::Component(format!("an issuer of unknown kind {}", issuer.kind_byte())))?;
        Ok::<_, PluginLoadError>((kind, Arc::new(issuer)))
    });
    Ok(Components {
        suites,
        user_store: delivered.user_store.map(Arc::new),
        state_store: delivered.state_store.map(Arc::new),
        issuer: issuer.transpose()?,
        custody: delivered.custody.map(Arc::new),
    })
}

/// What administrators see of these suites.
pub(super) fn suites(components: &Components) -> Vec<SuiteStatus> {
    components.suites.iter().map(|tested| SuiteStatus::from(&tested.info)).collect()
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PluginLoadError> + Send + 'static,
) -> Result<T, PluginLoadError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(PluginLoadError::Host(error.to_string())))
}

/// How long `dlopen` and `init` may take. A plugin that hangs there keeps one
/// blocking thread for ever, and the daemon goes on without it.
pub(super) const START_DEADLINE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_decides() {
        for (api, good) in [
            (API_VERSION, true),
            ("1.0.0", true),
            ("1.99.7", true),
            ("0.9.0", false),
            ("2.0.0", false),
            ("11.0.0", false),
            ("1", false),
            ("", false),
            ("x.1", false),
        ] {
            assert_eq!(check_version(api).is_ok(), good, "{api}");
        }
    }
}
