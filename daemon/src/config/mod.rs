//! The configuration: files and environment in, a checked [`Config`] out.
//!
//! - `layer`: reads files and variables, and remembers where each key stands.
//! - `reader`: asks tables for their keys and collects what is wrong.
//! - `values`: parsers of single values.
//! - `sections`: the keys, ranges and defaults of each table.
//! - `problem`: what is wrong, drawn at its place.
//! - [`types`]: the result.

mod layer;
mod problem;
mod reader;
mod sections;
#[cfg(test)]
mod tests;
pub mod types;
mod values;

use std::path::{Path, PathBuf};

pub use layer::ENVIRONMENT_PREFIX;
pub use problem::{ConfigError, Problem};
pub use types::*;
pub use values::parse_duration;

use config::{ConfigBuilder, builder::DefaultState};
use layer::Layers;
use reader::{Context, Table};

type Builder = ConfigBuilder<DefaultState>;

/// Where the configuration is when nobody says otherwise.
pub const DEFAULT_PATH: &str = "/etc/claviger";

/// Where the administration socket is when the configuration does not say otherwise.
pub const DEFAULT_SOCKET: &str = "/run/claviger/admin.sock";

/// Reads FILE, or all `*.toml` of a directory in the order of their names,
/// then the variables `CLAVIGER__...` of this process. Later values win;
/// the `[[plugin]]` tables of all files are put one after the other.
///
/// # Errors
/// All problems at once, each with its file, line and column where it has one.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    load_with(path, std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))))
}

/// The files that [`load`] reads, in its order.
///
/// # Errors
/// When there are none, or the directory cannot be read.
pub fn files(path: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    layer::files(path).map_err(|problem| ConfigError::new(vec![problem]))
}

/// [`load`] with the variables as an argument.
///
/// # Errors
/// As [`load`].
pub fn load_with(path: &Path, variables: impl IntoIterator<Item = (String, String)>) -> Result<Config, ConfigError> {
    let mut layers = Layers::default();
    for file in files(path)? {
        layers.add_file(&file);
    }
    layers.add_environment(variables);
    let unreadable = layers.unreadable;
    let builder = layers.layers.iter().cloned().fold(Builder::default(), Builder::add_source);
    let context = Context::new(layers.index, layers.problems);
    let result = match builder.build() {
        Ok(_) if unreadable => None,
        Ok(merged) => Table::root(&context, &merged.cache, sections::config),
        Err(e) => {
            context.report(Problem::new(format!("cannot merge the configuration: {e}")));
            None
        }
    };
    match (context.into_problems(), result) {
        (problems, Some(config)) if problems.is_empty() => Ok(config),
        (problems, _) if problems.is_empty() => {
            Err(ConfigError::new(vec![Problem::new("the configuration is incomplete")]))
        }
        (problems, _) => Err(ConfigError::new(problems)),
    }
}
