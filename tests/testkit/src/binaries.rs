//! Where the built programs and plugins lie.

use std::path::{Path, PathBuf};

use crate::Result;

/// The programs and plugins of one build.
#[derive(Debug, Clone)]
pub struct Binaries {
    directory: PathBuf,
}

impl Binaries {
    /// Those in a directory such as `target/debug`; fails naming what is missing.
    pub fn in_directory(directory: &Path) -> Result<Self> {
        let binaries = Self { directory: directory.to_owned() };
        let plugins = ["cipher-aws-lc", "store-sqlite", "issuer-opaque"].map(|name| binaries.plugin(name));
        for file in [binaries.clavigerd(), binaries.claviger()].iter().chain(&plugins) {
            if !file.is_file() {
                return Err(format!("{} is missing; run `cargo build` first", file.display()));
            }
        }
        Ok(binaries)
    }

    /// The daemon.
    pub fn clavigerd(&self) -> PathBuf {
        self.directory.join("clavigerd")
    }

    /// The terminal's command.
    pub fn claviger(&self) -> PathBuf {
        self.directory.join("claviger")
    }

    /// A plugin's shared library, by the name of its folder.
    pub fn plugin(&self, name: &str) -> PathBuf {
        self.directory.join(format!("libclaviger_{}.so", name.replace('-', "_")))
    }
}
