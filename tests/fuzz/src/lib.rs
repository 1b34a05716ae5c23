//! What is fuzzed, as ordinary functions of the input's bytes: the same bytes
//! give the same run (but for the ML-KEM keys, which aws-lc-rs makes itself).
//! A property that does not hold is a panic.
//!
//! - [`messages`]: each decoder; what it takes is encoded to the same bytes.
//! - [`texts`]: what people and files write: enrolment codes, names, vectors.
//! - [`terminal`], [`service`], [`management`]: one party against hostile
//!   answers or envelopes, also such as are sealed under the right keys.
//! - [`world`]: several users, two services and a management server on a
//!   network that does what the input says.
//!
//! The targets for libFuzzer are one line each, in `fuzz_targets`. This library
//! does not need it: `tests/tests/fuzz_corpus.rs` includes these files to replay
//! the corpus in an ordinary test.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a panic is how a target reports a violated property")]

pub mod input;
pub mod management;
pub mod material;
pub mod messages;
pub mod service;
pub mod terminal;
pub mod texts;
pub mod world;

/// A target: a name, and what to call with the input.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 6] = [
    ("messages", messages::run),
    ("texts", texts::run),
    ("terminal", terminal::run),
    ("service", service::run),
    ("management", management::run),
    ("world", world::run),
];
