//! What a plugin says through `tracing` and `metrics` reaches the host.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use claviger_daemon::plugin_host::{HostServices, StateSource};
use claviger_plugin_api::{Identity, IssueRequest, PluginError, StateStore};

use crate::support::{load, load_with, log, metric, metrics, misbehaving};

#[tokio::test]
async fn logs_and_metrics_of_a_plugin_carry_its_name() {
    metrics();
    log();
    load(misbehaving("talks", "", "panic")).await;
    let log = log();
    let line = log.lines().find(|line| line.contains("plugin::talks")).unwrap();
    for part in ["INFO", "starting", "plugin=\"talks\"", "module=\"claviger_test_misbehaving\"", "answer=42"] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    assert!(!log.contains("polled"), "a level that is off got through");
    assert_eq!(metric("claviger_test_starts", &["plugin=\"talks\""]), Some(2.0));
    assert_eq!(metric("claviger_test_gauge", &["plugin=\"talks\"", "kind=\"a\""]), Some(1.5));
}

/// A state store that needs the runtime of the host.
struct Sleepy;

#[async_trait]
impl StateStore for Sleepy {
    async fn put_new(&self, _: &str, _: &[u8], _: Duration) -> Result<bool, PluginError> {
        tokio::time::sleep(Duration::from_millis(5)).await;
        Ok(true)
    }

    async fn get(&self, _: &str) -> Result<Option<Vec<u8>>, PluginError> {
        Ok(None)
    }

    async fn update(&self, _: &str, _: &[u8], _: &[u8], _: Duration) -> Result<bool, PluginError> {
        Ok(false)
    }

    async fn take(&self, _: &str) -> Result<Option<Vec<u8>>, PluginError> {
        Ok(None)
    }

    async fn health(&self) -> Result<(), PluginError> {
        Ok(())
    }
}

#[tokio::test]
async fn the_state_store_of_the_host_works_in_a_plugin() {
    let services = HostServices { state: StateSource::Store(Arc::new(Sleepy)), ..HostServices::default() };
    let host = load_with(misbehaving("sleepy", "", "panic"), services).await;
    let identity = Identity::new("s".into(), "bob".into(), [0; 16], std::time::UNIX_EPOCH, "{}".into());
    let request = IssueRequest::new(identity, Duration::from_secs(1), Duration::from_secs(1));
    let issued = host.issuer("sleepy").unwrap().issue(request).await.unwrap();
    assert_eq!(issued.key.expose(), b"bob");
}
