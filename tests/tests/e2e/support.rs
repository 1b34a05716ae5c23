//! What the tests share: the build, and deployments in temporary directories.

use std::{path::PathBuf, process::Command, sync::OnceLock};

use claviger_testkit::{Binaries, Deployment, Layout, Options, Storage, Upstream};
use tempfile::TempDir;

/// A running deployment with its application; everything ends when it is dropped.
pub(crate) struct Running {
    pub(crate) deployment: Deployment,
    pub(crate) upstream: Upstream,
    _directory: TempDir,
}

/// Starts a deployment with its service registered.
pub(crate) fn start(layout: Layout) -> Running {
    start_with(layout, Options::default())
}

/// As [`start`], with further lines for the `[service]` table.
pub(crate) fn start_service(layout: Layout, lines: &str) -> Running {
    start_with(layout, Options { service: lines.to_owned(), ..Options::default() })
}

/// As [`start`], with further lines for the `[management]` table.
pub(crate) fn start_management(layout: Layout, lines: &str) -> Running {
    start_with(layout, Options { management: lines.to_owned(), ..Options::default() })
}

/// As [`start`], on a storage.
pub(crate) fn start_on(layout: Layout, storage: Option<Storage>) -> Running {
    start_with(layout, Options { storage, ..Options::default() })
}

pub(crate) fn start_with(layout: Layout, options: Options) -> Running {
    let directory = tempfile::tempdir().unwrap();
    let upstream = Upstream::start().unwrap();
    let binaries = binaries();
    let mut deployment =
        Deployment::prepare_with(binaries, directory.path(), layout, upstream.address(), options).unwrap();
    deployment.start().unwrap();
    deployment.register_service().unwrap();
    Running { deployment, upstream, _directory: directory }
}

/// The programs of this build, brought up to date once.
pub(crate) fn binaries() -> Binaries {
    static BUILT: OnceLock<Binaries> = OnceLock::new();
    BUILT
        .get_or_init(|| {
            let built = Command::new(env!("CARGO")).args(["build", "--workspace", "--quiet"]).status().unwrap();
            assert!(built.success(), "the workspace does not build");
            Binaries::in_directory(&build_directory()).unwrap()
        })
        .clone()
}

/// Where this build lies: two levels above the test program.
pub(crate) fn build_directory() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(|deps| deps.parent()).unwrap().to_owned()
}

/// The value of a counter in Prometheus text; 0 when it is not there.
pub(crate) fn counter(metrics: &str, name_and_labels: &str) -> f64 {
    let line = metrics.lines().find(|line| line.starts_with(name_and_labels));
    line.and_then(|line| line.rsplit(' ').next()).map_or(0.0, |value| value.parse().unwrap())
}
