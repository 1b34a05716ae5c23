//! `cargo xtask vectors`.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use claviger_testkit::Result;

use crate::{
    cargo::{self, build_directory, root},
    packages::{self, BUILD},
};

pub(crate) fn run(files: &[PathBuf], generate: Option<&Path>) -> Result<()> {
    packages::ensure(BUILD)?;
    cargo::run(&["build", "--workspace"])?;
    let mut command = Command::new(build_directory().join("check-vectors"));
    let vectors = root().join("protocol/tests/vectors");
    match generate {
        Some(file) => command.arg("--generate").arg(file),
        None if files.is_empty() => {
            command.arg(build_directory()).args(["idb1.json", "claviger.json"].map(|name| vectors.join(name)))
        }
        None => command.arg(build_directory()).args(files),
    };
    let status = command.status().map_err(|error| format!("check-vectors: {error}"))?;
    if status.success() { Ok(()) } else { Err("not every vector was reproduced".into()) }
}
