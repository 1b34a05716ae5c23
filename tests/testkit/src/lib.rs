//! Real deployments of Claviger in one directory, for the quick start and the
//! end-to-end tests.
//!
//! - [`Binaries`]: what was built.
//! - [`Deployment`]: an authority, configuration files, and the daemons that run on them.
//! - [`Storage`]: which store they use, and its server.
//! - [`Terminal`]: a home for the `claviger` command.
//! - [`Upstream`]: a sample application that answers with the headers it received.
//! - [`Process`]: a child that ends with its owner; [`free_port`].

#![forbid(unsafe_code)]

mod binaries;
mod deployment;
mod ports;
mod process;
mod terminal;
mod upstream;

pub use binaries::Binaries;
pub use deployment::{Deployment, KEKS, Layout, Options, REALM, SERVICE, Storage};
pub use ports::free_port;
pub use process::{Process, run, run_with_input};
pub use terminal::Terminal;
pub use upstream::{Seen, Upstream};

/// A failure, told in one line.
pub type Result<T> = std::result::Result<T, String>;
