//! What administrators see of a plugin.

use std::path::PathBuf;

use claviger_plugin_api::{PluginError, SuiteInfo, description::Component};
use serde::Serialize;

use super::{
    PluginConfig,
    error::{PluginLoadError, one_line},
    inspect::inspect_with,
    signature::SignatureStatus,
};

/// A configured plugin.
#[derive(Debug, Clone, Serialize)]
pub struct PluginStatus {
    /// The name in the configuration.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// SHA-256 of the file in hex, when it could be read.
    pub sha256: Option<String>,
    /// The plugin's version, when the file says it.
    pub version: Option<String>,
    /// The plugin API it was built against, when the file says it.
    pub api: Option<String>,
    /// The kinds of component it may deliver.
    pub provides: Vec<Component>,
    /// The cipher suites it delivered.
    pub suites: Vec<SuiteStatus>,
    /// What the signature of the file was worth, when it could be read.
    pub signature: Option<SignatureStatus>,
    /// The comment that is signed with it, escaped; of a trusted signature only.
    pub signature_comment: Option<String>,
    /// The file as it is now, where that was asked for.
    pub file: Option<FileStatus>,
    /// Whether it is in use.
    #[serde(flatten)]
    pub state: PluginState,
}

/// The file of a plugin as it is now: what a restart, or `plugin reload`, would find.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileStatus {
    /// Whether it is another one than the plugin that runs.
    pub differs: bool,
    /// SHA-256 of the file in hex.
    pub sha256: Option<String>,
    /// The plugin's version.
    pub version: Option<String>,
    /// What its signature is worth.
    pub signature: Option<SignatureStatus>,
    /// Why it would not be loaded, as far as the file shows.
    pub problem: Option<String>,
}

/// Whether a plugin is in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum PluginState {
    /// It is.
    Loaded,
    /// It is not.
    Failed {
        /// Why, in one line.
        reason: String,
    },
}

/// A cipher suite of a plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SuiteStatus {
    /// Its number, as `0x0001`.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The library behind it.
    pub implementation: String,
}

/// A component's answer to the question whether it can work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ComponentHealth {
    /// The plugin.
    pub plugin: String,
    /// `user_store`, `state_store`, `custody` or `issuer`.
    pub component: &'static str,
    /// Why it cannot, in one line; `None` when it can.
    pub problem: Option<String>,
}

impl PluginStatus {
    /// Of a plugin that is still to be loaded.
    pub(super) fn new(config: &PluginConfig) -> Self {
        Self {
            name: config.name.clone(),
            path: config.path.clone(),
            sha256: None,
            version: None,
            api: None,
            provides: Vec::new(),
            suites: Vec::new(),
            signature: None,
            signature_comment: None,
            file: None,
            state: PluginState::Loaded,
        }
    }

    pub(super) fn fail(&mut self, error: &PluginLoadError) {
        self.suites.clear();
        self.state = PluginState::Failed { reason: one_line(&error.to_string()) };
    }

    /// Name and reason.
    pub(super) fn line(&self) -> String {
        match &self.state {
            PluginState::Loaded => format!("{}: loaded", self.name),
            PluginState::Failed { reason } => format!("{} ({}): {reason}", self.name, self.path.display()),
        }
    }
}

impl FileStatus {
    /// Of the file that `config` names; `running` is the hash of the plugin that runs. Reads it.
    pub(super) fn of(config: &PluginConfig, running: Option<&str>) -> Self {
        match inspect_with(&config.path, &config.trust) {
            Ok(found) => Self {
                differs: running != Some(found.sha256.as_str()),
                sha256: Some(found.sha256),
                version: Some(one_line(&found.description.version)),
                signature: Some(found.signature),
                problem: found.problem,
            },
            Err(error) => Self {
                differs: true,
                sha256: None,
                version: None,
                signature: None,
                problem: Some(one_line(&error.to_string())),
            },
        }
    }
}

impl From<&SuiteInfo> for SuiteStatus {
    fn from(info: &SuiteInfo) -> Self {
        Self {
            id: format!("{:#06x}", info.id),
            name: one_line(&info.name),
            implementation: one_line(&info.implementation),
        }
    }
}

impl ComponentHealth {
    pub(super) fn new(plugin: &str, component: &'static str, answer: Result<(), PluginError>) -> Self {
        let problem = answer.err().map(|error| one_line(&error.to_string()));
        Self { plugin: plugin.to_owned(), component, problem }
    }
}
