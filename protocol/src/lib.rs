//! The IDB1 sign-on protocol without input or output.
//!
//! Nothing in here opens a socket, reads a clock or makes a random number:
//! bytes, the time and randomness go in as arguments, messages and decisions
//! come out. docs/protocol.md has the whole of it.
//!
//! - [`message`]: one wire message per file, strict decoding, one encoding per value.
//! - [`schedule`]: the key schedule, on top of a [`Suite`].
//! - [`kem`]: the key agreement that a terminal may add to an envelope.
//! - [`terminal`], [`service`], [`management`]: each party as a chain of types,
//!   one per state, whose methods run the checks in the protocol's order.
//! - [`code`]: the status codes; [`registry`]: numbers of suites and KEMs;
//!   [`enrolment_code`]: the code a user types once.
//! - [`aws_lc`]: the suites on aws-lc-rs, for parties that need no plugins.

#![forbid(unsafe_code)]

pub mod aws_lc;
pub mod code;
mod codec;
pub mod enrolment_code;
pub mod kem;
pub mod management;
pub mod message;
pub mod names;
pub mod registry;
pub mod schedule;
pub mod secret;
pub mod service;
pub mod suite;
pub mod terminal;
#[cfg(feature = "vectors")]
pub mod vectors;

pub use code::Code;
pub use names::{Realm, ServiceId};
pub use registry::{KemId, SuiteId};
pub use secret::Secret32;
pub use suite::{Digest, Suite, SuiteError};

/// Content type of every protocol message over HTTP (protocol, section 14).
pub const CONTENT_TYPE: &str = "application/vnd.idb1";

/// The largest envelope in bytes; a larger body is refused before it is read whole.
pub const MAX_ENVELOPE: usize = 4096;
