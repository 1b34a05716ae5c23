//! The network under every listener and every outgoing call.
//!
//! - [`tls`]: TLS 1.3 configurations of servers and clients, and what a certificate says about its owner.
//! - [`serve`]: one listener with HTTP/1.1 and HTTP/2, time limits and a graceful drain.
//! - [`client`]: a pooled HTTPS client.
//! - [`source_limit`]: how often one source may ask.
//! - [`body`]: the body type of all answers, and reading a bounded request body.

pub mod body;
pub mod client;
pub mod serve;
pub mod source_limit;
pub mod tls;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use body::{Body, BodyError, BoxError, empty, full, read_body, text};
pub use serve::{Handler, Peer, Server};
pub use source_limit::SourceLimit;

use std::{io, net::SocketAddr, path::PathBuf};

/// Why a listener or a client could not be set up. Each is one line for the operator.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// The address is taken, or may not be used.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address of the configuration.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A PEM file is missing, unreadable, or holds nothing of the wanted kind.
    #[error("{}: {problem}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Certificate and key are readable and still do not make a working identity.
    #[error("TLS with {}: {problem}", path.display())]
    Tls {
        /// The certificate (or authority) file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A URL of the configuration is not one this client can use.
    #[error("{url}: {problem}")]
    Url {
        /// The URL as configured.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
}
