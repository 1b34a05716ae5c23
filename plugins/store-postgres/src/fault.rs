//! What can go wrong with a statement, and what the host is told.

use claviger_plugin_api::PluginError;
use diesel::result::{DatabaseErrorInformation, DatabaseErrorKind, Error};

/// Why a call could not be done.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The server or diesel said so.
    Sql(Error),
    /// A stored row holds what this store never writes.
    Corrupt(String),
    /// Others kept getting in between.
    Contended,
    /// The server answers, and takes no writes.
    ReadOnly,
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
            Fault::Contended => Self::Busy,
            Fault::ReadOnly => read_only(),
        }
    }
}

/// Maps an error of diesel, which hands on the server's text and a few of its
/// codes only. Whatever is not known to be damage is for the host to try again.
fn from_sql(error: &Error) -> PluginError {
    match error {
        Error::DeserializationError(_) => PluginError::Corrupt(one_line(&error.to_string())),
        Error::DatabaseError(DatabaseErrorKind::UnableToSendCommand | DatabaseErrorKind::ClosedConnection, about) => {
            PluginError::Unavailable(format!("the connection to the server broke: {}", described(&**about)))
        }
        Error::DatabaseError(DatabaseErrorKind::ReadOnlyTransaction, _) => read_only(),
        Error::DatabaseError(_, about) if DAMAGE.iter().any(|text| about.message().contains(text)) => {
            PluginError::Corrupt(described(&**about))
        }
        Error::DatabaseError(_, about) => PluginError::Unavailable(described(&**about)),
        other => PluginError::Unavailable(one_line(&other.to_string())),
    }
}

fn read_only() -> PluginError {
    PluginError::Unavailable("the server takes no writes: it is a standby, or set to read only".to_owned())
}

/// Parts of the server's texts for `data_corrupted` and `index_corrupted`.
const DAMAGE: [&str; 6] = [
    "invalid page in block",
    "could not read block",
    "missing chunk number",
    "unexpected chunk",
    "compressed pglz data is corrupt",
    "contains unexpected zero page",
];

fn described(about: &(dyn DatabaseErrorInformation + Send + Sync)) -> String {
    one_line(about.message())
}

/// Texts of a server may have many lines.
pub(crate) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_the_server_become_the_right_errors() {
        type Case = (DatabaseErrorKind, &'static str, fn(&PluginError) -> bool);
        let table: [Case; 6] = [
            (DatabaseErrorKind::Unknown, "invalid page in block 7 of relation base/5/16401", is_corrupt),
            (DatabaseErrorKind::Unknown, "missing chunk number 0 for toast value 1 in pg_toast_2", is_corrupt),
            (DatabaseErrorKind::Unknown, "canceling statement due to statement timeout", is_unavailable),
            (DatabaseErrorKind::Unknown, "sorry, too many clients already", is_unavailable),
            (DatabaseErrorKind::UnableToSendCommand, "connection closed", is_unavailable),
            (DatabaseErrorKind::ReadOnlyTransaction, "cannot execute INSERT", is_unavailable),
        ];
        for (kind, text, expected) in table {
            let told = PluginError::from(Fault::from(Error::DatabaseError(kind, Box::new(text.to_owned()))));
            assert!(expected(&told), "{text}: {told:?}");
        }
    }

    fn is_corrupt(error: &PluginError) -> bool {
        matches!(error, PluginError::Corrupt(_))
    }

    fn is_unavailable(error: &PluginError) -> bool {
        matches!(error, PluginError::Unavailable(_))
    }
}
