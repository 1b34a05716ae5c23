//! Calling cargo, and where things lie in this workspace.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use claviger_testkit::Result;

/// The root of the workspace.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// Where debug builds lie.
pub(crate) fn build_directory() -> PathBuf {
    target_directory().join("debug")
}

/// Where whatever is made goes.
pub(crate) fn target_directory() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// A cargo command in the root of the workspace.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).args(args);
    command
}

/// Runs cargo with its output shown.
pub(crate) fn run(args: &[&str]) -> Result<()> {
    let status = cargo(args).status().map_err(|error| format!("cargo: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("`cargo {}` failed", args.join(" "))) }
}
