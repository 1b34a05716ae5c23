//! The terminal of Claviger: signs a user on to services with keys that only
//! this terminal and the management server have.
//!
//! ```no_run
//! # async fn example() -> Result<(), claviger_terminal::Error> {
//! use claviger_terminal::{CredentialFile, Terminal};
//!
//! let terminal = Terminal::open(CredentialFile::default_path()?).await?;
//! let session = terminal.sign_on("https://shop.example").await?;
//! let request = http::Request::get("/orders").body(String::new()).expect("a valid request");
//! let response = session.request(request).await?;
//! # Ok(())
//! # }
//! ```
//!
//! - [`terminal`]: [`Terminal`], the asynchronous way in: enrol, open, sign on.
//! - [`session`]: [`Session`], a service as the signed-on user; renews its key by itself.
//! - [`session_cache`]: keys kept on disk between runs of a program.
//! - [`credential`], [`credential_file`]: what a terminal knows, and its file:
//!   private, atomic, shared by several processes without using a counter twice.
//! - [`service`]: the terminal's own table of services; [`origin`]: their origins.
//! - [`link`]: an enrolment code with all that is needed to use it.
//! - [`core`]: the protocol without input or output, for other transports.
//! - [`client`]: HTTPS, TLS 1.3 only.
//! - [`error`]: the one error type; its messages say what to do.
//!
//! The library needs a tokio runtime with time and I/O.

#![forbid(unsafe_code)]

pub mod client;
pub mod core;
mod counter;
pub mod credential;
pub mod credential_file;
mod durable;
mod encoding;
pub mod error;
pub mod link;
pub mod origin;
pub mod service;
pub mod session;
pub mod session_cache;
pub mod terminal;

pub use claviger_protocol::{
    Code, KemId, Realm, ServiceId, SuiteId,
    enrolment_code::{CodeError, EnrolmentCode},
    message::Scope,
};
pub use client::Trust;
pub use credential::{Credential, Naming};
pub use credential_file::CredentialFile;
pub use error::Error;
pub use link::EnrolmentLink;
pub use origin::Origin;
pub use service::{Bind, Service, Source};
pub use session::{Session, SessionKey};
pub use terminal::{EnrolOptions, Rotated, SignOnOptions, Terminal};
