//! What a plugin file is, without running anything of it.

use std::path::{Path, PathBuf};

use claviger_plugin_api::description::Description;
use data_encoding::HEXLOWER;
use serde::Serialize;

use super::{error::PluginLoadError, image::Image, load::check_version, signature::SignatureStatus};
use crate::config::types::PluginTrust;

/// What is known of a plugin file.
#[derive(Debug, Clone, Serialize)]
pub struct PluginDescription {
    /// The file.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
    /// Its SHA-256 in hex, for the `sha256` of the configuration.
    pub sha256: String,
    /// What the signature beside it is worth.
    pub signature: SignatureStatus,
    /// The comment that is signed with it, escaped; of a trusted signature only.
    pub signature_comment: Option<String>,
    /// What the plugin says of itself.
    #[serde(flatten)]
    pub description: Description,
    /// Why this daemon would not load it, as far as the file shows.
    pub problem: Option<String>,
}

/// Reads what the file says of itself. `dlopen` would run its constructors;
/// this runs nothing.
///
/// # Errors
/// When the file cannot be read, or is no plugin.
pub fn inspect(path: &Path) -> Result<PluginDescription, PluginLoadError> {
    inspect_with(path, &PluginTrust::default())
}

/// As [`inspect`], for a daemon that trusts these keys.
///
/// # Errors
/// As those of [`inspect`], and when a trusted key cannot be read.
pub fn inspect_with(path: &Path, trust: &PluginTrust) -> Result<PluginDescription, PluginLoadError> {
    let image = Image::read(path)?;
    image.check_elf()?;
    let description = image.description()?;
    let signature = image.signature(path, trust)?;
    let problem = check_version(&description.api).and(signature.admit(path, trust));
    Ok(PluginDescription {
        path: path.to_owned(),
        size: image.len(),
        sha256: HEXLOWER.encode(&image.sha256()),
        signature_comment: signature.comment().map(str::to_owned),
        signature,
        description,
        problem: problem.err().map(|error| error.to_string()),
    })
}
