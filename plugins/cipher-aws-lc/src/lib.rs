//! All cipher suites of the protocol's registry, on aws-lc-rs.
//!
//! It has no configuration; any key in its table is refused.

#![forbid(unsafe_code)]

mod suite;

use aws_lc_rs::{aead, digest, hmac};
use claviger_plugin_api::{Context, InitError, Plugin, export_plugin};

pub use suite::{Row, Suite};

export_plugin! {
    name: "cipher-aws-lc",
    provides: [cipher],
    init: start,
}

/// The suites, one row each: number, name, hash, HMAC and AEAD.
pub const SUITES: [Row; 5] = [
    Row {
        id: 0x0001,
        name: "AES-256-GCM/SHA-256",
        digest: &digest::SHA256,
        hmac: hmac::HMAC_SHA256,
        aead: &aead::AES_256_GCM,
    },
    Row {
        id: 0x0002,
        name: "AES-256-GCM-SIV/SHA-256",
        digest: &digest::SHA256,
        hmac: hmac::HMAC_SHA256,
        aead: &aead::AES_256_GCM_SIV,
    },
    Row {
        id: 0x0003,
        name: "ChaCha20-Poly1305/SHA-256",
        digest: &digest::SHA256,
        hmac: hmac::HMAC_SHA256,
        aead: &aead::CHACHA20_POLY1305,
    },
    Row {
        id: 0x0101,
        name: "AES-256-GCM/SHA-384",
        digest: &digest::SHA384,
        hmac: hmac::HMAC_SHA384,
        aead: &aead::AES_256_GCM,
    },
    Row {
        id: 0x0102,
        name: "AES-256-GCM-SIV/SHA-384",
        digest: &digest::SHA384,
        hmac: hmac::HMAC_SHA384,
        aead: &aead::AES_256_GCM_SIV,
    },
];

fn start(context: Context) -> Result<Plugin, InitError> {
    if context.configuration.as_object().is_some_and(|table| !table.is_empty()) {
        return Err(InitError::Configuration("cipher-aws-lc takes no settings; remove its config table".into()));
    }
    Ok(SUITES.into_iter().fold(Plugin::new(), |plugin, row| plugin.with_suite(Suite::new(row))))
}
