//! End-to-end tests: real daemons, real plugins, real terminals.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod admin;
mod author;
mod bench;
mod ciphers;
mod faults;
mod hostile_service;
mod hsm;
mod independent_terminal;
mod invariants;
mod keyring;
mod kill;
mod lifecycle;
mod plugins;
mod secrecy;
mod sign_on;
mod stores;
mod support;
mod transfer;
