//! What goes wrong: one line each, which says what to do.

use std::{io, path::PathBuf};

use claviger_plugin_api::PluginError;

use super::file::FileError;
use crate::plugin_host::PluginHostError;

/// Why a realm was not copied, backed up or restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A plugin cannot be loaded.
    #[error(transparent)]
    Plugins(#[from] PluginHostError),
    /// The configuration has no such plugin.
    #[error("there is no plugin `{name}` in the configuration; configured: {configured}")]
    NoPlugin {
        /// What was asked for.
        name: String,
        /// What there is.
        configured: String,
    },
    /// It has a plugin of that name, with no user store in it.
    #[error("plugin {0} has no user store")]
    NoStore(String),
    /// A store does not answer, or not well.
    #[error("the store {store} does not answer: {source}; what was done is kept, run the command again to go on")]
    Store {
        /// The plugin's name.
        store: String,
        /// Its error.
        source: PluginError,
    },
    /// There is nothing to copy: probably the wrong store.
    #[error("{0} holds nothing: is it the right one?")]
    Empty(String),
    /// The target holds another realm.
    #[error(
        "{to} holds another realm than {from}: their secrets differ. A daemon that starts on an empty store makes a \
         new realm in it; empty {to}, or name another store"
    )]
    OtherRealm {
        /// What was to be copied.
        from: String,
        /// Where to.
        to: String,
    },
    /// The target has records that are not those of the origin.
    #[error(
        "{to} is not empty: it has {differing} other and {surplus} further records than {from}, first {key:?}; {advice}"
    )]
    NotEmpty {
        /// What was to be copied.
        from: String,
        /// Where to.
        to: String,
        /// Records that both have and that differ.
        differing: u64,
        /// Records that the target alone has.
        surplus: u64,
        /// The first of either.
        key: String,
        /// What to do.
        advice: &'static str,
    },
    /// The target has a counter that the origin does not agree with.
    #[error(
        "counter {counter} of credential {credential} is in {to} already, and not as in {from}: {to} was served in the \
         meantime. Empty it and copy again"
    )]
    Counter {
        /// What was to be copied.
        from: String,
        /// Where to.
        to: String,
        /// The credential's id in hex.
        credential: String,
        /// The counter.
        counter: u64,
    },
    /// A record changed in the target while it was written.
    #[error("record {key:?} was written into {to} by somebody else at the same time; stop every daemon on it")]
    Conflict {
        /// Where to.
        to: String,
        /// The record.
        key: String,
    },
    /// The comparison at the end found a difference.
    #[error(
        "{to} is not equal to {from} after the copy: {what}. Stop every daemon of the realm and run the command again"
    )]
    Unequal {
        /// What was copied.
        from: String,
        /// Where to.
        to: String,
        /// What differs.
        what: String,
    },
    /// A record that this version cannot read.
    #[error("record {0:?} cannot be read; was it written by a newer version?")]
    Record(String),
    /// A backup.
    #[error("{}: {source}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: FileError,
    },
    /// The realm's own keys were changed while its records were read.
    #[error("the realm's keys were changed during the backup, so not all of it could be opened; make it again")]
    KeysChanged,
    /// The file of a backup that is to be made is there already.
    #[error("{} exists and is not replaced; name another file", .0.display())]
    Exists(PathBuf),
    /// A backup of another realm.
    #[error("{}: a backup of the realm {found:?}, and the configuration is that of {expected:?}", .path.display())]
    Realm {
        /// The file.
        path: PathBuf,
        /// The backup's realm.
        found: String,
        /// The configuration's.
        expected: String,
    },
}

impl Error {
    /// For programs.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Plugins(_) | Self::NoStore(_) => "plugin",
            Self::NoPlugin { .. } => "not-found",
            Self::Store { .. } => "unavailable",
            Self::Empty(_) => "empty",
            Self::OtherRealm { .. } | Self::Realm { .. } => "other-realm",
            Self::NotEmpty { .. } | Self::Counter { .. } => "not-empty",
            Self::Conflict { .. } | Self::KeysChanged => "conflict",
            Self::Unequal { .. } => "unequal",
            Self::Record(_) => "unreadable",
            Self::Exists(_) => "exists",
            Self::File { source, .. } => source.word(),
        }
    }

    pub(super) fn file(path: &std::path::Path, source: impl Into<FileError>) -> Self {
        Self::File { path: path.to_owned(), source: source.into() }
    }

    pub(super) fn io(path: &std::path::Path, source: io::Error) -> Self {
        Self::file(path, source)
    }
}
