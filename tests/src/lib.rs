//! What the programs that measure have in common.

#![forbid(unsafe_code)]

pub mod envelope;
pub mod random;
