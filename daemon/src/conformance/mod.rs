//! The conformance suites on a built plugin: `clavigerd plugin test`.
//!
//! Each check runs in a process of its own: the plugin may end that one, hang
//! in it, or leave it in any state, and the others do not notice.
//!
//! - `parent`: starts the processes, limits their time, gathers a [`Report`].
//! - `child`: makes one check.
//! - `checks`: which checks there are, by the components that a plugin delivers.
//! - `instances`: fresh instances of the plugin, with settings of their own.
//! - `calls`: how long each call took, and what became of it.

mod calls;
mod checks;
mod child;
mod instances;
mod parent;

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

pub use child::run_child;
pub use parent::{TestError, run};

/// What is to be tested, and how.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    /// The built library.
    pub file: PathBuf,
    /// The plugin's settings, a JSON object. In its strings `{fresh}` stands for
    /// a new, empty directory and `{unique}` for a new name of `[a-z0-9]`: others
    /// for each instance.
    pub settings: serde_json::Value,
    /// A shell command that is run before each instance is made, with both in
    /// the environment as `FRESH` and `UNIQUE`.
    pub prepare: Option<String>,
    /// The longest that one call may take.
    pub deadline: Duration,
    /// The longest that one check may take.
    pub timeout: Duration,
    /// Checks whose name contains one of these; all where there is none.
    pub filter: Vec<String>,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The library.
    pub file: PathBuf,
    /// Its SHA-256 in hex.
    pub sha256: String,
    /// The plugin's own name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// How many checks passed.
    pub passed: usize,
    /// How many did not.
    pub failed: usize,
    /// All that were made, in order.
    pub checks: Vec<Outcome>,
    /// How long calls took, over all checks.
    pub calls: Vec<calls::Latency>,
}

/// What became of a check.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Its name, such as `user_store.records.sizes_are_checked`.
    pub name: String,
    /// Whether it passed.
    pub ok: bool,
    /// How long it took.
    pub seconds: f64,
    /// Where it failed: what was expected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Where it failed: the last lines of what plugin and host have logged.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
}

/// The check that all others need: does the daemon take the plugin?
const LOAD: &str = "load";
