//! What is tested: the suites of each plugin, loaded as the daemon loads them, and those of the protocol crate.

use std::{path::Path, process::Command, sync::OnceLock};

use claviger_daemon::{
    plugin_host::{HostServices, PluginConfig, PluginHost},
    suites::PluginSuite,
};
use claviger_protocol::{Suite, SuiteId, aws_lc::AwsLc};

/// The cipher plugins by the names of their folders.
pub(crate) const PLUGINS: [&str; 2] = ["cipher-aws-lc", "cipher-openssl"];

/// The suites that both plugins have, whatever the version of OpenSSL.
pub(crate) const COMMON: [u16; 3] = [0x0001, 0x0003, 0x0101];

/// A plugin of this build, brought up to date once, in a host of its own.
pub(crate) async fn load(plugin: &str) -> PluginHost {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        let built = Command::new(env!("CARGO")).args(["build", "--workspace", "--quiet"]).status().unwrap();
        assert!(built.success(), "the workspace does not build");
    });
    let test = std::env::current_exe().unwrap();
    let directory = test.parent().and_then(Path::parent).unwrap();
    let library = directory.join(format!("libclaviger_{}.so", plugin.replace('-', "_")));
    PluginHost::load(&[PluginConfig::new(plugin, &library)], HostServices::default()).await.unwrap()
}

/// A suite and who computes it.
pub(crate) struct Subject {
    pub(crate) name: String,
    pub(crate) id: u16,
    pub(crate) suite: Box<dyn Suite>,
}

/// All suites of all plugins, and the protocol crate's own, which terminals use.
pub(crate) async fn all() -> Vec<Subject> {
    let mut found = Vec::new();
    for plugin in PLUGINS {
        let host = load(plugin).await;
        let suites = host.suites();
        assert!(COMMON.iter().all(|id| suites.contains(id)), "{plugin}: {suites:?}");
        for id in suites {
            let suite = Box::new(PluginSuite::new(host.suite(id).unwrap()));
            found.push(Subject { name: format!("{plugin} {id:#06x}"), id, suite });
        }
    }
    for id in [0x0001, 0x0002, 0x0003, 0x0101, 0x0102] {
        let suite = Box::new(*AwsLc::suite(SuiteId(id)).unwrap());
        found.push(Subject { name: format!("protocol {id:#06x}"), id, suite });
    }
    found
}
