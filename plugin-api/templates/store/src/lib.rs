//! A user store in one journal file, for one daemon.
//!
//! - `state`: all records and counters, in memory; decides what a call does.
//! - `journal`: the file: changes in the order in which they were made.
//! - `store`: the thread that owns both, and the trait in front of it.
//!
//! Calls that wait at the same time share one write and one synchronisation of
//! the disk. An answer is given when that is done.

#![forbid(unsafe_code)]

mod journal;
mod state;
mod store;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use claviger_plugin_api::{Context, InitError, Plugin, export_plugin};
use serde::Deserialize;

pub use store::Store;

export_plugin! {
    name: env!("CARGO_PKG_NAME"),
    provides: [user_store],
    init: init,
}

/// The plugin's settings.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Configuration {
    /// The journal. Made if there is none; its directory must be there.
    path: PathBuf,
}

fn init(context: Context) -> Result<Plugin, InitError> {
    let Configuration { path } = context.parse()?;
    if path.is_relative() {
        return Err(InitError::Configuration("path: must be absolute".to_owned()));
    }
    let store = Store::open(&path, context.clock)?;
    tracing::info!(path = %path.display(), "journal opened");
    Ok(Plugin::new().with_user_store(store))
}
