//! Opaque service authentication keys.
//!
//! A key is 256 random bits as 43 characters of base64url, presented as
//! `Authorization: Bearer KEY`. Only its SHA-256 reaches the state store:
//! whoever reads the store can use no key. A key is *pending* until its first
//! valid use and lives for its full lifetime from then on.
//!
//! # Configuration
//!
//! None: lifetimes come with each request (`[service] key_lifetime`,
//! `pending`), and the sessions are kept in the service's state store
//! (`[service] state`). Any key in `[plugin.config]` is refused.
//!
//! # In the state store
//!
//! | key | value | lifetime |
//! | --- | --- | --- |
//! | `ok/` + base64url(SHA-256(key)) | the session: a line of JSON, then the attributes | time pending, then the key's lifetime |
//! | `oi/` + base64url(key id) | the key above, for revocation | the sum of both |

#![forbid(unsafe_code)]

mod issuer;
mod key;
mod stored;

use claviger_plugin_api::{Context, InitError, Plugin};
use serde::Deserialize;

pub use issuer::OpaqueIssuer;

/// The plugin's table of the configuration: it has no keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Configuration {}

claviger_plugin_api::export_plugin! {
    name: "issuer-opaque",
    provides: [issuer],
    init: init,
}

/// Starts the plugin.
///
/// # Errors
/// `Configuration` where the table has a key, or the daemon no state store.
pub fn init(context: Context) -> Result<Plugin, InitError> {
    if !context.configuration.is_null() {
        let Configuration {} = context.parse()?;
    }
    let state = context.state.ok_or_else(|| {
        InitError::Configuration(
            "there is no state store to keep sessions in; set [service] state = \"memory\" or name a plugin".to_owned(),
        )
    })?;
    Ok(Plugin::new().with_issuer(OpaqueIssuer::new(state, context.clock)))
}
