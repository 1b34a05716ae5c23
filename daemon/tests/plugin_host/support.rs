//! Builds plugins, and loads them.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, OnceLock},
    time::Duration,
};

use claviger_daemon::plugin_host::{HostServices, PluginConfig, PluginHost, PluginState};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

pub(crate) const CIPHER: &str = "claviger-cipher-aws-lc";
pub(crate) const SQLITE: &str = "claviger-store-sqlite";
pub(crate) const MISBEHAVING: &str = "claviger-test-misbehaving";
pub(crate) const OTHER_MAJOR: &str = "claviger-test-other-major";

/// The library of a package, built now if it was not yet, in the directory
/// and with the profile of this test.
pub(crate) fn library(package: &'static str) -> PathBuf {
    static BUILT: OnceLock<Mutex<HashMap<&'static str, PathBuf>>> = OnceLock::new();
    let mut built = BUILT.get_or_init(Mutex::default).lock().unwrap();
    built.entry(package).or_insert_with(|| build(package)).clone()
}

fn build(package: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(Path::parent).unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--package", package, "--manifest-path"]);
    cargo.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"));
    cargo.arg("--target-dir").arg(profile.parent().unwrap());
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    assert!(cargo.status().unwrap().success(), "{package} does not build");
    profile.join(format!("lib{}.so", package.replace('-', "_")))
}

pub(crate) fn config(name: &str, path: &Path) -> PluginConfig {
    PluginConfig { required: false, deadline: Duration::from_secs(5), ..PluginConfig::new(name, path) }
}

/// The plugin that does `how` in `call`.
pub(crate) fn misbehaving(name: &str, call: &str, how: &str) -> PluginConfig {
    let mut config = config(name, &library(MISBEHAVING));
    config.configuration = serde_json::json!({ "call": call, "how": how });
    config
}

/// Loads one plugin that is expected to load.
pub(crate) async fn load(config: PluginConfig) -> PluginHost {
    load_with(config, HostServices::default()).await
}

pub(crate) async fn load_with(config: PluginConfig, services: HostServices) -> PluginHost {
    let host = PluginHost::load(&[config], services).await.unwrap();
    assert_eq!(host.list()[0].state, PluginState::Loaded);
    host
}

/// Why a plugin does not load.
pub(crate) async fn reason(config: PluginConfig) -> String {
    let host = PluginHost::load(&[config], HostServices::default()).await.unwrap();
    match host.list().remove(0).state {
        PluginState::Failed { reason } => {
            assert!(!reason.contains('\n') && reason.len() < 600, "not one clear line: {reason}");
            reason
        }
        PluginState::Loaded => panic!("the plugin loaded"),
    }
}

/// The recorder of this process.
pub(crate) fn metrics() -> &'static PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(|| PrometheusBuilder::new().install_recorder().unwrap())
}

/// The value of a metric with all these labels, written as `a="b"`.
pub(crate) fn metric(name: &str, labels: &[&str]) -> Option<f64> {
    let text = metrics().render();
    let line = text.lines().find(|line| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
            && labels.iter().all(|label| line.contains(label))
    })?;
    line.rsplit_once(' ')?.1.parse().ok()
}

/// What was logged so far in this process, as text.
pub(crate) fn log() -> String {
    static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());
    static INSTALLED: OnceLock<()> = OnceLock::new();

    struct Writer;

    impl io::Write for Writer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            LOG.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    INSTALLED.get_or_init(|| {
        tracing_subscriber::fmt().with_ansi(false).with_env_filter("info").with_writer(|| Writer).init();
    });
    String::from_utf8(LOG.lock().unwrap().clone()).unwrap()
}
