//! A realm as a whole: from one user store into another, into an encrypted
//! file, and back. For the commands; a daemon that serves uses none of it.
//!
//! - `origin`: where a realm is read from, page by page: a store or a backup.
//! - `compare`: two of them in lock-step: what a copy has still to do, and the proof that it is complete.
//! - [`copy`]: whatever is read, into a store; can be interrupted at any moment and run again.
//! - [`backup`]: a store into a file, and the file as an origin.
//! - `rotation`: has the keys that lay in a backup replaced.
//! - [`mod@file`]: the format of backups.
//! - [`stores`]: the stores of the configuration's plugins.

pub mod backup;
mod compare;
pub mod copy;
mod error;
pub mod file;
mod origin;
mod rotation;
pub mod stores;

pub use error::Error;

/// How far a job is, for whoever waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being done, such as `copying`.
    pub step: &'static str,
    /// Records that went through this step.
    pub records: u64,
    /// Rows of counters that went through this step.
    pub counters: u64,
}

/// Hears of [`Progress`] after each page.
pub type Listener<'a> = &'a dyn Fn(Progress);
