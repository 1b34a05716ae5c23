//! Opening the database file: whose it is, how it is locked, what is in it.

use std::{
    fs::{self, OpenOptions},
    io::ErrorKind,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use claviger_plugin_api::{InitError, PluginError};
use diesel::{
    connection::SimpleConnection,
    prelude::*,
    sql_query,
    sql_types::{BigInt, Text},
};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use crate::{
    Configuration, Synchronous,
    fault::{Fault, LOCKED, NOT_A_DATABASE},
};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations");
/// `application_id` of the file: "CLVG".
const APPLICATION: i64 = 0x434C_5647;
/// `user_version` after the last migration.
const SCHEMA: i64 = 1;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// The one connection that writes.
    Write,
    /// A connection that SQLite itself keeps from writing.
    Read,
}

/// Makes the file ready: creates it when there is none (0600), refuses what is
/// not this store's, and brings the tables up to date.
pub(crate) fn prepare(configuration: &Configuration) -> Result<(), InitError> {
    let path = configuration.path.as_str();
    create(Path::new(path))?;
    let mut connection = open(configuration, Access::Write).map_err(|text| describe(path, &text))?;
    // Before the first byte is written: the file may be somebody else's.
    check_owner(&mut connection, path)?;
    use_wal(&mut connection, configuration)?;
    // One transaction around all of it: of two daemons that start at once, the
    // second one waits and finds nothing left to do.
    connection
        .immediate_transaction(|connection| {
            connection.run_pending_migrations(MIGRATIONS).map(|_| ()).map_err(diesel::result::Error::QueryBuilderError)
        })
        .map_err(|e| InitError::Failed(format!("{path}: the tables could not be brought up to date: {e}")))
}

/// Opens a connection to a prepared file. The error is one line for people.
pub(crate) fn open(configuration: &Configuration, access: Access) -> Result<SqliteConnection, String> {
    let mut connection = SqliteConnection::establish(&configuration.path).map_err(|e| e.to_string())?;
    let synchronous = match configuration.synchronous {
        Synchronous::Full => "FULL",
        Synchronous::Normal => "NORMAL",
    };
    let query_only = match access {
        Access::Write => "OFF",
        Access::Read => "ON",
    };
    connection
        .batch_execute(&format!(
            "PRAGMA busy_timeout = {busy};
             PRAGMA foreign_keys = ON;
             PRAGMA trusted_schema = OFF;
             PRAGMA synchronous = {synchronous};
             PRAGMA journal_size_limit = {WAL_KEPT};
             PRAGMA query_only = {query_only};",
            busy = configuration.busy_timeout_ms,
        ))
        .map_err(|e| e.to_string())?;
    Ok(connection)
}

/// Bytes to which the write-ahead log is cut back after a burst.
const WAL_KEPT: u32 = 16 * 1024 * 1024;

fn create(path: &Path) -> Result<(), InitError> {
    let shown = path.display();
    if !path.is_absolute() {
        return Err(InitError::Configuration(format!("path: {shown} is not absolute")));
    }
    let directory = path.parent().unwrap_or(Path::new("/"));
    if !directory.is_dir() {
        let directory = directory.display();
        return Err(InitError::Configuration(format!(
            "path: the directory {directory} does not exist; create it, writable by the daemon's user alone"
        )));
    }
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => {
            tracing::warn!(path = %shown, "a new, empty store was made: there was none");
            return Ok(());
        }
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
        Err(e) => return Err(InitError::Unavailable(format!("{shown} cannot be created: {e}"))),
    }
    let metadata = fs::metadata(path).map_err(|e| InitError::Unavailable(format!("{shown} cannot be read: {e}")))?;
    if !metadata.is_file() {
        return Err(InitError::Configuration(format!("path: {shown} is not a file")));
    }
    if metadata.mode() & 0o077 != 0 {
        tracing::warn!(path = %shown, mode = format!("{:03o}", metadata.mode() & 0o777), "the database is open to other users; chmod it to 600");
    }
    Ok(())
}

/// Writes what is there already, as a proof that writing works.
pub(crate) fn rewrite(connection: &mut SqliteConnection) -> Result<(), Fault> {
    Ok(connection.batch_execute(&format!("PRAGMA user_version = {SCHEMA}"))?)
}

/// Which file is open: SQLite goes on with one that was moved away or
/// deleted, and all that is written into it is gone with the process.
#[derive(Debug, Clone)]
pub(crate) struct OpenFile {
    path: String,
    /// Device and inode.
    identity: (u64, u64),
}

impl OpenFile {
    pub(crate) fn at(path: &str) -> Result<Self, InitError> {
        let metadata = fs::metadata(path).map_err(|e| InitError::Unavailable(format!("{path} cannot be read: {e}")))?;
        Ok(Self { path: path.to_owned(), identity: (metadata.dev(), metadata.ino()) })
    }

    /// Whether the path still leads to it.
    pub(crate) fn is_in_place(&self) -> Result<(), PluginError> {
        let path = &self.path;
        match fs::metadata(path) {
            Ok(metadata) if (metadata.dev(), metadata.ino()) == self.identity => Ok(()),
            Ok(_) => Err(PluginError::Unavailable(format!(
                "{path} is not the file that is open: it was replaced under the daemon; restart the daemon"
            ))),
            Err(e) => Err(PluginError::Unavailable(format!(
                "{path} is open and not there any more ({e}): put it back, or stop the daemon and restore a backup"
            ))),
        }
    }
}

#[derive(QueryableByName)]
struct Header {
    #[diesel(sql_type = BigInt)]
    application: i64,
    #[diesel(sql_type = BigInt)]
    schema: i64,
    #[diesel(sql_type = BigInt)]
    objects: i64,
}

fn check_owner(connection: &mut SqliteConnection, path: &str) -> Result<(), InitError> {
    let header: Header = sql_query(
        "SELECT (SELECT application_id FROM pragma_application_id) AS application,
                (SELECT user_version FROM pragma_user_version) AS schema,
                (SELECT count(*) FROM sqlite_schema) AS objects",
    )
    .get_result(connection)
    .map_err(|e| describe(path, &e.to_string()))?;
    match header {
        Header { application: 0, schema: 0, objects: 0 } => Ok(()),
        Header { application: APPLICATION, schema, .. } if schema > SCHEMA => Err(InitError::Failed(format!(
            "{path} was written by a newer version of this store (schema {schema}, this one knows {SCHEMA}); \
             install that version or restore a backup"
        ))),
        Header { application: APPLICATION, .. } => Ok(()),
        _ => Err(InitError::Configuration(format!(
            "path: {path} is the database of another program; name a file of its own"
        ))),
    }
}

#[derive(QueryableByName)]
struct Journal {
    #[diesel(sql_type = Text)]
    journal_mode: String,
}

/// Switches to the write-ahead log, for good. SQLite does not wait for a lock
/// here (two that wait for each other would), so this asks again.
fn use_wal(connection: &mut SqliteConnection, configuration: &Configuration) -> Result<(), InitError> {
    let path = configuration.path.as_str();
    let patience = Instant::now() + Duration::from_millis(configuration.busy_timeout_ms.into());
    let journal: Journal = loop {
        match sql_query("PRAGMA journal_mode = WAL").get_result(connection) {
            Ok(journal) => break journal,
            Err(e) if e.to_string().contains(LOCKED) && Instant::now() < patience => sleep(Duration::from_millis(5)),
            Err(e) => return Err(describe(path, &e.to_string())),
        }
    };
    if journal.journal_mode == "wal" {
        return Ok(());
    }
    Err(InitError::Failed(format!(
        "{path}: SQLite cannot keep a write-ahead log here (journal mode {}); use a local file system",
        journal.journal_mode
    )))
}

fn describe(path: &str, text: &str) -> InitError {
    if text.contains(NOT_A_DATABASE) {
        InitError::Configuration(format!("path: {path} is not an SQLite database"))
    } else if text.contains("malformed") {
        InitError::Failed(format!("{path} is damaged ({text}); restore a backup"))
    } else {
        InitError::Unavailable(format!("{path} cannot be opened: {text}"))
    }
}
