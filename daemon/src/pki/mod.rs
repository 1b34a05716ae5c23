//! A small certificate authority for one realm, and key files.
//!
//! It is enough for trying things out, for tests and for small sites; larger
//! ones have their own authority, which needs to set the same names:
//! `idb://<realm>/manager` and `idb://<realm>/service/<id>`.
//!
//! - [`authority`]: makes the authority and issues certificates.
//! - [`keys`]: makes key-encryption keys.
//! - `files`: writes whole files or none.

pub mod authority;
mod files;
pub mod keys;

pub use authority::{Earlier, Issued, Request, Subject};

use std::{io, path::PathBuf};

/// Why a key or certificate was not made. Each is one line for the operator.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PkiError {
    /// The file is there, and replacing it would lose a key.
    #[error("{} exists already; {advice}", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
        /// What to do instead.
        advice: &'static str,
    },
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The directory does not hold an authority.
    #[error("{} holds no authority: {problem}; make one with `clavigerd pki init`", directory.display())]
    NoAuthority {
        /// The directory.
        directory: PathBuf,
        /// What is missing or wrong.
        problem: String,
    },
    /// A name or number of the request is not allowed.
    #[error("{0}")]
    Invalid(String),
    /// The cryptographic library refused.
    #[error("cannot make the certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The system gives no random bytes.
    #[error("no random bytes")]
    Random,
}
