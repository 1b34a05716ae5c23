//! The cipher plugins and the key agreement against evidence from elsewhere, and against each other.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod cavp;
mod cross;
mod kem;
mod subjects;
mod wycheproof;
