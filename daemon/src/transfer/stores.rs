//! The user stores of a configuration's plugins, without the rest of the daemon.

use std::{sync::Arc, time::Duration};

use claviger_plugin_api::{PluginError, UserStore};
use tokio::time::{Instant, sleep};

use super::Error;
use crate::{
    config::types::{Config, PluginConfig},
    plugin_host::{HostServices, PluginHost},
};

/// A user store with its name.
#[derive(Clone)]
pub struct Store {
    name: String,
    store: Arc<dyn UserStore>,
}

impl Store {
    /// For a store that is open already.
    pub fn new(name: &str, store: Arc<dyn UserStore>) -> Self {
        Self { name: name.to_owned(), store }
    }

    /// The plugin's name in the configuration.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A call, made again for up to half a minute while the store is busy or
    /// away. So one that is told to have failed may have been carried out.
    pub(super) async fn call<T>(
        &self,
        call: impl AsyncFn(&dyn UserStore) -> Result<T, PluginError>,
    ) -> Result<T, Error> {
        let deadline = Instant::now() + AWAY;
        loop {
            match call(&*self.store).await {
                Ok(answer) => return Ok(answer),
                Err(PluginError::Busy | PluginError::Unavailable(_) | PluginError::DeadlineExceeded)
                    if Instant::now() < deadline =>
                {
                    sleep(Duration::from_millis(50)).await;
                }
                Err(source) => return Err(Error::Store { store: self.name.clone(), source }),
            }
        }
    }
}

/// Loads the plugins of these names, and no others, and gives their user
/// stores in the same order. They end with the host. Must be called inside a
/// tokio runtime.
///
/// # Errors
/// When there is no such plugin, it cannot be loaded, or it has no user store.
pub async fn open<const N: usize>(config: &Config, names: [&str; N]) -> Result<(PluginHost, [Store; N]), Error> {
    let host = load(config, names).await?;
    let mut stores = Vec::new();
    for name in names {
        let store = host.user_store(name).ok_or_else(|| Error::NoStore(name.to_owned()))?;
        stores.push(Store { name: name.to_owned(), store });
    }
    // One store for each name.
    let stores = stores.try_into().map_err(|_| Error::NoStore(names.join(", ")))?;
    Ok((host, stores))
}

/// Loads the plugins of these names, and no others. Must be called inside a
/// tokio runtime.
///
/// # Errors
/// When there is no such plugin, or it cannot be loaded.
pub async fn load<'a>(config: &Config, names: impl IntoIterator<Item = &'a str>) -> Result<PluginHost, Error> {
    let mut wanted = Vec::new();
    for name in names {
        let found = config.plugins.iter().find(|plugin| plugin.name == name).ok_or_else(|| Error::NoPlugin {
            name: name.to_owned(),
            configured: config.plugins.iter().map(|plugin| plugin.name.as_str()).collect::<Vec<_>>().join(", "),
        })?;
        if !wanted.contains(&found) {
            wanted.push(found);
        }
    }
    let configs: Vec<_> = wanted.into_iter().map(plugin).collect();
    Ok(PluginHost::load(&configs, HostServices::default()).await?)
}

/// Required, and with patience: nobody waits for a sign-on here.
fn plugin(plugin: &PluginConfig) -> PluginConfig {
    PluginConfig { required: true, deadline: plugin.deadline.max(PATIENCE), ..plugin.clone() }
}

/// For one call.
const PATIENCE: Duration = Duration::from_secs(60);
/// For a store that does not answer.
const AWAY: Duration = Duration::from_secs(30);
