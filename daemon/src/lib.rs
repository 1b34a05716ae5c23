//! clavigerd, the identity broker.
//!
//! - [`app`]: puts the daemon together from its configuration, runs and drains it.
//! - [`config`]: the files of etc/, checked, with file and line for every problem.
//! - [`plugin_host`]: loads plugins and guards what they deliver.
//! - [`management`]: the management role: reply processor, enrolment, users, services.
//! - [`service`]: the service role: sign-on, verification of keys, reverse proxy.
//! - [`net`]: TLS, listeners, the HTTPS client.
//! - [`admin`], [`cli`]: the administration socket and the command line.
//! - [`telemetry`]: logs, metrics, health.
//! - [`pki`]: development certificates.
//! - [`transfer`]: a realm from one store into another, into an encrypted backup, and back.
//! - [`conformance`]: the conformance suites on a built plugin, each check in a process of its own.
//! - [`suites`], [`state`], [`clock`]: cipher suites of a role, the state store in memory, the time.
//!
//! `management` and `service` do not know each other: where one process has
//! both roles, [`app`] hands one to the other.

#![deny(unsafe_code)]

pub mod admin;
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod conformance;
pub mod management;
pub mod net;
pub mod pki;
pub mod plugin_host;
pub mod service;
pub mod state;
pub mod suites;
pub mod telemetry;
pub mod transfer;
