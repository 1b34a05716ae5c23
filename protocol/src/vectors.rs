//! The test vector format and its checker.
