//! Requests and answers of the API besides those of `management::model`.

use serde::{Deserialize, Serialize};

use crate::{plugin_host::PluginStatus, telemetry::readiness::Report};

/// How the daemon is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// The realm it is in.
    pub realm: String,
    /// `management`, `service` or both.
    pub roles: Vec<String>,
    /// What works and what does not.
    pub readiness: Report,
}

/// A plugin that was replaced by what its file is now.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reload {
    /// Its name in the configuration.
    pub plugin: String,
    /// What ran before.
    pub before: Version,
    /// What runs now.
    pub now: Version,
    /// Whether the last call of the version before has ended.
    pub drained: bool,
}

/// What tells a version of a plugin from another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// What the plugin calls it.
    pub version: String,
    /// SHA-256 of the file in hex.
    pub sha256: String,
    /// What the file's signature was worth.
    pub signature: String,
}

impl From<&PluginStatus> for Version {
    fn from(status: &PluginStatus) -> Self {
        Self {
            version: status.version.clone().unwrap_or_default(),
            sha256: status.sha256.clone().unwrap_or_default(),
            signature: status.signature.as_ref().map(ToString::to_string).unwrap_or_default(),
        }
    }
}

/// Which page of users is asked for.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PageQuery {
    /// `next` of the page before.
    pub after: Option<String>,
    /// At most this many, 1 to 1000; 100 when absent.
    pub limit: Option<usize>,
}

/// Suspends a user.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Suspend {
    /// Shown to administrators.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Asks for an enrolment code.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CodeRequest {
    /// How long it may be used, in seconds: a minute to 30 days.
    #[serde(default = "one_day")]
    pub valid_seconds: u64,
}

impl Default for CodeRequest {
    fn default() -> Self {
        Self { valid_seconds: one_day() }
    }
}

fn one_day() -> u64 {
    24 * 3600
}

/// What a user reads out from the terminal.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Digits {
    /// Six digits.
    pub digits: String,
}

/// Asks for a new data key.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotateKeys {
    /// Ids of key-encryption keys that shall open nothing any more.
    #[serde(default)]
    pub drop: Vec<String>,
    /// No other daemon uses the store: the new key seals at once.
    #[serde(default)]
    pub sole_daemon: bool,
}

/// From which record on secrets are counted.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CountQuery {
    /// `next` of the page before.
    pub after: Option<String>,
}

/// Asks for the next page of the pass that seals secrets anew.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoOn {
    /// No other daemon uses the store: data keys need not stay for others.
    #[serde(default)]
    pub sole_daemon: bool,
    /// At most this many records, 1 to 1000.
    #[serde(default = "page")]
    pub limit: usize,
}

fn page() -> usize {
    500
}

/// Which keys in custody to destroy, as far as no record names them.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DestroyKeys {
    /// Their ids in hex.
    pub ids: Vec<String>,
    /// Even where most keys of the realm look orphaned.
    #[serde(default)]
    pub many: bool,
}

/// What became of them.
#[derive(Debug, Serialize, Deserialize)]
pub struct Destroyed {
    /// How many were destroyed.
    pub destroyed: usize,
}
