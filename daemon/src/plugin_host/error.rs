//! Why plugins do not load: one line each, saying what to do.

use std::{io, path::PathBuf, time::Duration};

use claviger_plugin_api::{InitError, description::API_VERSION};
use data_encoding::HEXLOWER;

use super::elf::ElfError;

/// Why the daemon cannot go on with its plugins.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PluginHostError {
    /// Required plugins are missing: a line each.
    #[error("required plugins cannot be loaded: {}", .0.join("; "))]
    Required(Vec<String>),
    /// Two plugins have one name.
    #[error("two plugins are named {0}: give one of them another name")]
    DuplicateName(String),
    /// The plugin that is to be the state store is none.
    #[error("plugin {0} is named as the state store, and {1}")]
    NoStateStore(String, &'static str),
}

/// Why one plugin does not load.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PluginLoadError {
    /// The file cannot be read.
    #[error("the file cannot be read: {0}")]
    Read(#[source] io::Error),
    /// The file is larger than any plugin.
    #[error("the file has {0} bytes, more than a plugin may have ({max})", max = super::image::MAX_BYTES)]
    TooLarge(u64),
    /// The file is not a library for this machine.
    #[error("{0}")]
    Elf(#[from] ElfError),
    /// The file is not the one that was pinned.
    #[error(
        "the file's sha256 is {}, and the configuration demands {}",
        HEXLOWER.encode(.found), HEXLOWER.encode(.expected)
    )]
    Sha256 {
        /// The configured pin.
        expected: [u8; 32],
        /// The file's hash.
        found: [u8; 32],
    },
    /// A key of the configuration cannot be used.
    #[error("plugins.trusted_keys: {0}")]
    TrustedKey(String),
    /// Its signature does not let it in.
    #[error("signature {}: {why}", file.display())]
    Signature {
        /// The file of the signature.
        file: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A library, and no plugin.
    #[error("not a Claviger plugin: the library has no section .claviger.plugin")]
    NotAPlugin,
    /// The plugin's description cannot be read.
    #[error("the plugin's description cannot be read: {0}")]
    Description(String),
    /// Built against another major version of the interface.
    #[error(
        "built against plugin API {0}, and this daemon has {API_VERSION}: use a build of the plugin for the same major version"
    )]
    ApiVersion(String),
    /// No memory file could be made of the bytes.
    #[error("the library cannot be copied to a sealed memory file: {0}")]
    MemoryFile(#[source] io::Error),
    /// `dlopen` refused it.
    #[error("the library cannot be loaded: {0}")]
    Open(String),
    /// It has no root, or one of another kind.
    #[error("the plugin's root cannot be used: {0}")]
    Root(String),
    /// The types that cross differ.
    #[error(
        "the plugin's interface differs from that of this daemon ({0}): rebuild it with claviger-plugin-api {API_VERSION}"
    )]
    Layout(String),
    /// `init` refused.
    #[error("{0}")]
    Init(#[from] InitError),
    /// `init` did not end.
    #[error("the plugin did not start within {0:?}")]
    StartDeadline(Duration),
    /// What it delivered is not what it may deliver.
    #[error("the plugin delivered {0}")]
    Component(String),
    /// It does not work. Asked only when it shall replace another version.
    #[error("its {0} says that it cannot work: {1}")]
    Health(&'static str, String),
    /// The host itself failed.
    #[error("the daemon could not load it: {0}")]
    Host(String),
}

/// What a plugin says, in one line of bounded length without control characters.
pub(super) fn one_line(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_LINE).collect();
    line.trim().to_owned()
}

const MAX_LINE: usize = 500;
