//! What can go wrong inside a job, and what the host is told.

use claviger_plugin_api::PluginError;
use diesel::result::Error;

/// Why a job could not be done.
#[derive(Debug)]
pub(crate) enum Fault {
    /// SQLite or diesel said so.
    Sql(Error),
    /// A stored row holds what this store never writes.
    Corrupt(String),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Sql(error)
    }
}

impl From<Fault> for PluginError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Sql(error) => from_sql(&error),
            Fault::Corrupt(what) => Self::Corrupt(what),
        }
    }
}

/// Maps an error of diesel. Diesel hands on SQLite's text but not its code;
/// the texts of `SQLITE_CORRUPT` and `SQLITE_NOTADB` are fixed, and whatever
/// else SQLite says (busy, full, I/O) is for the host to try again.
pub(crate) fn from_sql(error: &Error) -> PluginError {
    let text = error.to_string();
    if matches!(error, Error::DeserializationError(_)) || text.contains("malformed") || text.contains(NOT_A_DATABASE) {
        PluginError::Corrupt(text)
    } else if text.contains(LOCKED) {
        PluginError::Unavailable(format!("{text}: another process has held the file for longer than busy_timeout_ms"))
    } else {
        PluginError::Unavailable(text)
    }
}

/// SQLite's text for `SQLITE_BUSY`.
pub(crate) const LOCKED: &str = "database is locked";
/// SQLite's text for `SQLITE_NOTADB`.
pub(crate) const NOT_A_DATABASE: &str = "file is not a database";

#[cfg(test)]
mod tests {
    use diesel::result::DatabaseErrorKind;

    use super::*;

    #[test]
    fn sqlite_texts_become_the_right_errors() {
        type Case = (&'static str, fn(&PluginError) -> bool);
        let table: [Case; 5] = [
            ("database disk image is malformed", |e| matches!(e, PluginError::Corrupt(_))),
            ("file is not a database", |e| matches!(e, PluginError::Corrupt(_))),
            ("database is locked", |e| matches!(e, PluginError::Unavailable(t) if t.contains("busy_timeout_ms"))),
            ("database or disk is full", |e| matches!(e, PluginError::Unavailable(_))),
            ("disk I/O error", |e| matches!(e, PluginError::Unavailable(_))),
        ];
        for (text, expected) in table {
            let error = Error::DatabaseError(DatabaseErrorKind::Unknown, Box::new(text.to_owned()));
            let told = PluginError::from(Fault::from(error));
            assert!(expected(&told), "{text}: {told:?}");
        }
    }
}
