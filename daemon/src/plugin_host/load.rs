//! One plugin, from its configuration to its guarded components.

use std::{collections::HashSet, sync::Arc, time::Duration};

use claviger_plugin_api::{
    CipherSuite, KeyCustody, KeyIssuer, KeyKind, StateStore, UserStore,
    abi::{Delivered, HostObject},
    description::{API_VERSION, Component, Description},
};
use data_encoding::HEXLOWER;
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::{
    HostServices, PluginConfig, PluginStatus, SuiteStatus, abi,
    error::{PluginLoadError, one_line},
    guard::{GuardedCustody, GuardedIssuer, GuardedStateStore, GuardedSuite, GuardedUserStore, Shared},
    image::Image,
    self_test,
    services::{InRuntime, PluginServices},
};

/// The guarded components of a plugin.
#[derive(Default)]
pub(super) struct Loaded {
    pub(super) suites: Vec<(u16, Arc<dyn CipherSuite>)>,
    pub(super) user_store: Option<Arc<dyn UserStore>>,
    pub(super) state_store: Option<Arc<dyn StateStore>>,
    pub(super) issuer: Option<Arc<dyn KeyIssuer>>,
    pub(super) custody: Option<Arc<dyn KeyCustody>>,
}

/// Loads and starts a plugin; `status` is filled as far as it comes.
pub(super) async fn load(
    config: &PluginConfig,
    state: Option<Arc<dyn StateStore>>,
    services: &HostServices,
    changes: watch::Sender<()>,
    status: &mut PluginStatus,
) -> Result<Loaded, PluginLoadError> {
    let path = config.path.clone();
    let image = blocking(move || Image::read(&path)).await?;
    status.sha256 = Some(HEXLOWER.encode(&image.sha256()));
    if let Some(expected) = config.sha256.filter(|expected| *expected != image.sha256()) {
        return Err(PluginLoadError::Sha256 { expected, found: image.sha256() });
    }
    image.check_elf()?;
    let description = image.description()?;
    status.version = Some(one_line(&description.version));
    status.api = Some(one_line(&description.api));
    status.provides.clone_from(&description.provides);
    check_version(&description.api)?;

    let host: Box<PluginServices> = Box::new(PluginServices::new(&config.name, services.clock.clone()));
    let runtime = tokio::runtime::Handle::current();
    let state = state.map(|state| Arc::new(InRuntime::new(state, runtime)) as Arc<dyn StateStore>);
    let name = config.name.clone();
    let configuration = Zeroizing::new(config.configuration.to_string());
    let start = blocking(move || {
        let root = abi::open(image, &name)?;
        Ok(root.start(HostObject::new(host), &name, &configuration, state)?)
    });
    let delivered = tokio::time::timeout(START_DEADLINE, start).await;
    let delivered = delivered.map_err(|_| PluginLoadError::StartDeadline(START_DEADLINE))??;
    guarded(config, &description, delivered, changes, status)
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
fn guarded(
    config: &PluginConfig,
    description: &Description,
    delivered: Delivered,
    changes: watch::Sender<()>,
    status: &mut PluginStatus,
) -> Result<Loaded, PluginLoadError> {
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

    let mut loaded = Loaded::default();
    let mut ids = HashSet::new();
    for suite in delivered.suites {
        let info = self_test::check(&suite).map_err(PluginLoadError::Component)?;
        if !ids.insert(info.id) {
            return Err(PluginLoadError::Component(format!("suite {:#06x} twice", info.id)));
        }
        status.suites.push(SuiteStatus::from(&info));
        loaded.suites.push((info.id, Arc::new(GuardedSuite::new(&config.name, info, suite))));
    }
    let shared = Shared::new(config, changes);
    if let Some(store) = delivered.user_store {
        loaded.user_store = Some(Arc::new(GuardedUserStore::new(&shared, store)));
    }
    if let Some(store) = delivered.state_store {
        loaded.state_store = Some(Arc::new(GuardedStateStore::new(&shared, store)));
    }
    if let Some(custody) = delivered.custody {
        loaded.custody = Some(Arc::new(GuardedCustody::new(&shared, custody)));
    }
    if let Some(issuer) = delivered.issuer {
        let kind = KeyKind::from_wire(issuer.kind_byte())
            .ok_or_else(|| PluginLoadError::Component(format!("an issuer of unknown kind {}", issuer.kind_byte())))?;
        loaded.issuer = Some(Arc::new(GuardedIssuer::new(&shared, kind, issuer)));
    }
    Ok(loaded)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PluginLoadError> + Send + 'static,
) -> Result<T, PluginLoadError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(PluginLoadError::Host(error.to_string())))
}

/// How long `dlopen` and `init` may take. A plugin that hangs there keeps one
/// blocking thread for ever, and the daemon goes on without it.
const START_DEADLINE: Duration = Duration::from_secs(60);

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
