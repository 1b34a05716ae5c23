//! Fresh instances of the plugin under test.
//!
//! A library is started once in a process. Each load copies it to a memory file
//! of its own, so each instance is a library of its own, with its own statics.

use std::{
    cell::Cell,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use aws_lc_rs::rand;
use claviger_plugin_api::{
    CipherSuite, KeyCustody, KeyIssuer, StateStore, UserStore,
    testkit::{MemoryState, StoppedClock},
};
use data_encoding::HEXLOWER;
use serde_json::Value;

use super::Plan;
use crate::plugin_host::{HostServices, PluginConfig, PluginHost, PluginState, PluginStatus, StateSource, bare};

/// Makes instances, below a directory that goes with the check.
pub(super) struct Instances<'a> {
    plan: &'a Plan,
    directory: &'a Path,
    made: Cell<u32>,
}

/// What makes an instance another one: where it may put its files, and a name.
struct Place {
    fresh: PathBuf,
    unique: String,
}

impl<'a> Instances<'a> {
    pub(super) fn new(plan: &'a Plan, directory: &'a Path) -> Self {
        Self { plan, directory, made: Cell::new(0) }
    }

    /// A new user store, which is empty.
    pub(super) async fn user_store(&self) -> Arc<dyn UserStore> {
        self.user_store_at(&self.place()).await
    }

    /// What opens one and the same user store each time.
    pub(super) fn one_user_store(&self) -> impl AsyncFn() -> Arc<dyn UserStore> {
        let place = self.place();
        async move || self.user_store_at(&place).await
    }

    async fn user_store_at(&self, place: &Place) -> Arc<dyn UserStore> {
        let host = self.load(place, HostServices::default()).await;
        initialise(&host).await;
        host.user_store(NAME).unwrap_or_else(|| panic!("no user store was delivered"))
    }

    /// A new state store, which is empty.
    pub(super) async fn state_store(&self) -> Arc<dyn StateStore> {
        let host = self.load(&self.place(), HostServices::default()).await;
        host.state_store(NAME).unwrap_or_else(|| panic!("no state store was delivered"))
    }

    /// A new issuer, on a state store in memory and a stopped clock.
    pub(super) async fn issuer(&self) -> (Arc<dyn KeyIssuer>, StoppedClock) {
        let clock = StoppedClock::new();
        let host = self.load(&self.place(), services(&clock)).await;
        (host.issuer(NAME).unwrap_or_else(|| panic!("no issuer was delivered")), clock)
    }

    /// New custody, without keys.
    pub(super) async fn custody(&self) -> Arc<dyn KeyCustody> {
        let host = self.load(&self.place(), HostServices::default()).await;
        host.custody(NAME).unwrap_or_else(|| panic!("no key custody was delivered"))
    }

    /// The suite of that number, without its guard.
    pub(super) fn suite(&self, id: u16) -> Box<dyn CipherSuite> {
        let settings = self.settings(&self.place());
        let suites =
            bare::suites(&self.plan.file, &settings).unwrap_or_else(|error| panic!("it does not load: {error}"));
        let found = suites.into_iter().find(|suite| suite.info().id == id);
        found.unwrap_or_else(|| panic!("suite {id:#06x} was not delivered"))
    }

    /// As the daemon loads it, its custody initialised.
    pub(super) async fn whole(&self) -> (PluginHost, PluginStatus) {
        let host = self.load(&self.place(), services(&StoppedClock::new())).await;
        initialise(&host).await;
        let status = host.list().remove(0);
        (host, status)
    }

    async fn load(&self, place: &Place, services: HostServices) -> PluginHost {
        let config = PluginConfig {
            required: false,
            deadline: self.plan.deadline,
            // A circuit that opens would answer in place of the plugin.
            breaker_failures: 0,
            configuration: self.settings(place),
            ..PluginConfig::new(NAME, &self.plan.file)
        };
        let host = PluginHost::load(&[config], services).await.unwrap_or_else(|error| panic!("{error}"));
        if let PluginState::Failed { reason } = host.list().remove(0).state {
            panic!("it does not load: {reason}");
        }
        host
    }

    fn place(&self) -> Place {
        self.made.set(self.made.get() + 1);
        let mut random = [0; 6];
        rand::fill(&mut random).unwrap_or_else(|_| panic!("no random bytes"));
        let unique = format!("t{}{}", HEXLOWER.encode(&random), self.made.get());
        let place = Place { fresh: self.directory.join(&unique), unique };
        fs::create_dir(&place.fresh).unwrap_or_else(|error| panic!("{}: {error}", place.fresh.display()));
        if let Some(command) = &self.plan.prepare {
            let mut shell = Command::new("/bin/sh");
            shell.arg("-c").arg(command).env("FRESH", &place.fresh).env("UNIQUE", &place.unique);
            let status = shell.status().unwrap_or_else(|error| panic!("--prepare: {error}"));
            assert!(status.success(), "--prepare: {command:?} failed ({status})");
        }
        place
    }

    fn settings(&self, place: &Place) -> Value {
        let mut settings = self.plan.settings.clone();
        fill(&mut settings, &place.fresh.to_string_lossy(), &place.unique);
        settings
    }
}

/// As `clavigerd hsm init` does: what else the plugin delivers may need its custody.
async fn initialise(host: &PluginHost) {
    if let Some(custody) = host.custody(NAME) {
        custody.initialise().await.unwrap_or_else(|error| panic!("its custody cannot be initialised: {error}"));
    }
}

fn services(clock: &StoppedClock) -> HostServices {
    let state: Arc<dyn StateStore> = Arc::new(MemoryState::new(clock.clone()));
    HostServices { state: StateSource::Store(state), clock: clock.shared() }
}

fn fill(value: &mut Value, fresh: &str, unique: &str) {
    match value {
        Value::String(text) => *text = text.replace("{fresh}", fresh).replace("{unique}", unique),
        Value::Array(list) => list.iter_mut().for_each(|one| fill(one, fresh, unique)),
        Value::Object(table) => table.values_mut().for_each(|one| fill(one, fresh, unique)),
        _ => {}
    }
}

/// Under which the plugin is loaded.
const NAME: &str = "plugin-test";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn settings_are_filled_in_at_every_depth() {
        let mut settings = json!({ "path": "{fresh}/a.db", "list": ["{unique}", { "x": "{fresh}{fresh}" }], "n": 1 });
        fill(&mut settings, "/tmp/1", "t1");
        assert_eq!(settings, json!({ "path": "/tmp/1/a.db", "list": ["t1", { "x": "/tmp/1/tmp/1" }], "n": 1 }));
    }
}
