//! The cipher suites of the protocol's registry that the machine's OpenSSL (3.0 or later) offers.
//!
//! OpenSSL is linked dynamically, so its updates are the system's, and its FIPS provider can do the
//! work. Which suites there are is found out at start: AES-256-GCM-SIV came with OpenSSL 3.2, and a FIPS
//! provider has AES-256-GCM alone. A suite that is missing is not delivered, and a line of the log says so.

#![deny(unsafe_code)]

mod library;
mod suite;
#[expect(unsafe_code, reason = "the functions of OpenSSL that the openssl crate lacks")]
mod sys;

use claviger_plugin_api::{Context, InitError, Plugin, export_plugin};
use tracing::info;

pub use library::{Configuration, Library, Provider};
pub use suite::{Row, Suite};

export_plugin! {
    name: "cipher-openssl",
    provides: [cipher],
    init: start,
}

/// The suites, one row each: number, name, and OpenSSL's names of hash and AEAD.
pub const SUITES: [Row; 5] = [
    Row { id: 0x0001, name: "AES-256-GCM/SHA-256", digest: "SHA2-256", aead: "AES-256-GCM" },
    Row { id: 0x0002, name: "AES-256-GCM-SIV/SHA-256", digest: "SHA2-256", aead: "AES-256-GCM-SIV" },
    Row { id: 0x0003, name: "ChaCha20-Poly1305/SHA-256", digest: "SHA2-256", aead: "ChaCha20-Poly1305" },
    Row { id: 0x0101, name: "AES-256-GCM/SHA-384", digest: "SHA2-384", aead: "AES-256-GCM" },
    Row { id: 0x0102, name: "AES-256-GCM-SIV/SHA-384", digest: "SHA2-384", aead: "AES-256-GCM-SIV" },
];

/// The suites of [`SUITES`] that the library has.
pub fn suites(library: &'static Library) -> Result<Vec<Suite>, InitError> {
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for row in SUITES {
        match Suite::fetch(library, row)? {
            Some(suite) => found.push(suite),
            None => missing.push(row.name),
        }
    }
    let implementation = library.implementation();
    info!(suites = found.len(), missing = missing.join(", "), "cipher suites on {implementation}");
    Ok(found)
}

fn start(context: Context) -> Result<Plugin, InitError> {
    let suites = suites(Library::open(&context.parse()?)?)?;
    Ok(suites.into_iter().fold(Plugin::new(), Plugin::with_suite))
}
