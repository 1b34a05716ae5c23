//! `cargo xtask vectors`.

use std::{path::PathBuf, process::Command};

use claviger_testkit::Result;

use crate::{
    cargo::{self, build_directory, root},
    packages::{self, BUILD},
};

pub(crate) fn run(files: &[PathBuf]) -> Result<()> {
    packages::ensure(BUILD)?;
    cargo::run(&["build", "--workspace"])?;
    let published = [root().join("protocol/tests/vectors/idb1.json")];
    let files = if files.is_empty() { &published[..] } else { files };
    let status = Command::new(build_directory().join("check-vectors"))
        .arg(build_directory())
        .args(files)
        .status()
        .map_err(|error| format!("check-vectors: {error}"))?;
    if status.success() { Ok(()) } else { Err("not every vector was reproduced".into()) }
}
