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
        let binaries = Self::for_management(directory, &["store-sqlite", "issuer-opaque"])?;
        require(&binaries.claviger())?;
        Ok(binaries)
    }

    /// Those in a directory, of which a daemon with the management role, a cipher plugin and the
    /// named plugins are enough.
    pub fn for_management(directory: &Path, plugins: &[&str]) -> Result<Self> {
        let binaries = Self { directory: directory.to_owned() };
        require(&binaries.clavigerd())?;
        [&["cipher-aws-lc"], plugins].concat().iter().try_for_each(|name| require(&binaries.plugin(name)))?;
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

fn require(file: &Path) -> Result<()> {
    if file.is_file() { Ok(()) } else { Err(format!("{} is missing; run `cargo build` first", file.display())) }
}
