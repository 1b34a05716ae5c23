//! The embedded user store: one SQLite file, through diesel.
//!
//! # Configuration
//!
//! ```toml
//! [plugin.config]
//! path = "/var/lib/claviger/users.db"  # required, absolute; created with mode 0600, its directory must exist
//! synchronous = "full"                 # or "normal"
//! readers = 2                          # threads that read, 1 to 64
//! busy_timeout_ms = 1000               # how long to wait for another process's lock, at most 60000
//! ```
//!
//! With `synchronous = "full"` every commit is on the disk before it is
//! answered: it survives a power cut. With `"normal"` it has reached the
//! kernel: it survives the death of the process (`kill -9`), but a power cut
//! may take the last moments, counters included.
//!
//! # What it keeps
//!
//! Records are bytes that the host has versioned and sealed; nothing here looks
//! into them. Rows of counters are kept for at least two hours and ten minutes;
//! then, behind the window, they go with the credential's next sign-ons, a few
//! hundred at a time. Beside the file lie `-wal` and `-shm`; a copy of the file
//! alone, taken while a daemon runs, is no backup (`sqlite3 FILE ".backup TO"` is).
//!
//! A second daemon may open the same file on the same machine: SQLite's locks
//! keep it right, and each commit waits for the other's at most
//! `busy_timeout_ms`, then is answered *unavailable*. It gains no speed, and a
//! network file system must not be used.

#![forbid(unsafe_code)]

mod connection;
mod counters;
mod fault;
mod records;
mod schema;
mod worker;

use std::{sync::Arc, time::SystemTime};

use claviger_plugin_api::{
    Context, CounterPosition, CounterUse, InitError, Page, Plugin, PluginError, Put, Record, Scan, UserStore, Verdict,
    Written, async_trait, limits,
};
use diesel::prelude::*;
use serde::Deserialize;

use crate::{connection::OpenFile, worker::Pool};

/// The plugin's table of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Configuration {
    /// The database file, absolute. Its directory must exist.
    pub path: String,
    /// What a commit survives.
    #[serde(default)]
    pub synchronous: Synchronous,
    /// Threads that read, 1 to 64.
    #[serde(default = "default_readers")]
    pub readers: usize,
    /// Milliseconds to wait for a lock of another process, at most 60,000.
    #[serde(default = "default_busy_timeout")]
    pub busy_timeout_ms: u32,
}

/// What a commit survives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Synchronous {
    /// A power cut: every commit waits for the disk.
    #[default]
    Full,
    /// The death of the process; a power cut may take the last commits.
    Normal,
}

impl Configuration {
    /// A configuration with the defaults for everything but the file.
    pub fn new(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            synchronous: Synchronous::default(),
            readers: default_readers(),
            busy_timeout_ms: default_busy_timeout(),
        }
    }

    fn check(&self) -> Result<(), InitError> {
        if !(1..=64).contains(&self.readers) {
            return Err(InitError::Configuration(format!("readers: {} is not within 1 to 64", self.readers)));
        }
        if self.busy_timeout_ms > 60_000 {
            let given = self.busy_timeout_ms;
            return Err(InitError::Configuration(format!("busy_timeout_ms: {given} is more than 60000")));
        }
        Ok(())
    }
}

fn default_readers() -> usize {
    2
}

fn default_busy_timeout() -> u32 {
    1000
}

claviger_plugin_api::export_plugin! {
    name: "store-sqlite",
    provides: [user_store],
    init: init,
}

/// Starts the plugin: opens the file and brings its tables up to date.
pub fn init(context: Context) -> Result<Plugin, InitError> {
    let configuration = context.parse()?;
    Ok(Plugin::new().with_user_store(SqliteStore::open_with_clock(configuration, context.clock)?))
}

/// A user store in one SQLite file. Dropping it finishes what is queued and
/// closes the file.
pub struct SqliteStore {
    // Dropped in this order: the connection that closes last, alone, moves the
    // write-ahead log into the file, and two that close at once each leave that
    // to the other.
    readers: Pool,
    writer: Pool,
    file: OpenFile,
    clock: Clock,
}

/// Tells when a counter was used, to the second. It is asked on the thread that writes.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

impl SqliteStore {
    /// Opens the file, or creates it, and starts the threads. Blocks meanwhile.
    /// Counters are kept by the system's clock.
    ///
    /// # Errors
    /// `Configuration` for a wrong path, number or file of another program,
    /// `Unavailable` where the file cannot be opened or locked, and `Failed`
    /// for a damaged file or one of a newer version.
    pub fn open(configuration: Configuration) -> Result<Self, InitError> {
        Self::open_with_clock(configuration, Arc::new(SystemTime::now))
    }

    /// [`open`](Self::open) with another clock, by which counters are kept for
    /// [`COUNTER_RETENTION`](claviger_plugin_api::COUNTER_RETENTION). While it
    /// is set back they are kept longer.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub fn open_with_clock(configuration: Configuration, clock: Clock) -> Result<Self, InitError> {
        configuration.check()?;
        connection::prepare(&configuration)?;
        let file = OpenFile::at(&configuration.path)?;
        let configuration = Arc::new(configuration);
        Ok(Self { readers: Pool::readers(&configuration)?, writer: Pool::writer(&configuration)?, file, clock })
    }
}

#[async_trait]
impl UserStore for SqliteStore {
    async fn get(&self, keys: &[String]) -> Result<Vec<Option<Record>>, PluginError> {
        limits::batch(keys.len())?;
        keys.iter().try_for_each(|key| limits::key(key))?;
        let keys = keys.to_vec();
        self.readers.call(move |connection| records::get(connection, &keys)).await
    }

    async fn put(&self, put: Put) -> Result<Written, PluginError> {
        limits::put(&put)?;
        self.writer.call(move |connection| records::put(connection, &put)).await
    }

    async fn delete(&self, key: &str, expected: u64) -> Result<Written, PluginError> {
        limits::key(key)?;
        let key = key.to_owned();
        self.writer.call(move |connection| records::delete(connection, &key, expected)).await
    }

    async fn scan(&self, scan: Scan) -> Result<Page, PluginError> {
        limits::scan(&scan)?;
        self.readers.call(move |connection| records::scan(connection, &scan)).await
    }

    async fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<Record>, PluginError> {
        limits::page(limit)?;
        let after = after.map(str::to_owned);
        self.readers.call(move |connection| records::list(connection, after.as_deref(), limit)).await
    }

    async fn consume(&self, uses: &[CounterUse]) -> Result<Vec<Verdict>, PluginError> {
        limits::batch(uses.len())?;
        let (uses, clock) = (uses.to_vec(), self.clock.clone());
        self.writer.call(move |connection| counters::consume(connection, &uses, clock())).await
    }

    async fn forget_counters(&self, credential: [u8; 16]) -> Result<(), PluginError> {
        self.writer.call(move |connection| counters::forget(connection, &credential)).await
    }

    async fn counters(&self, after: Option<CounterPosition>, limit: usize) -> Result<Vec<CounterUse>, PluginError> {
        limits::page(limit)?;
        self.readers.call(move |connection| counters::list(connection, after, limit)).await
    }

    async fn health(&self) -> Result<(), PluginError> {
        self.writer.alive()?;
        let file = self.file.clone();
        let read = move |connection: &mut SqliteConnection| {
            schema::records::table.select(schema::records::version).first::<i64>(connection).optional()?;
            Ok(file.is_in_place())
        };
        self.readers.call(read).await??;
        // The transaction around it takes the lock, and writes nothing. When a
        // write has failed, one more must show that it would not now.
        let failing = self.writer.is_failing();
        let write =
            move |connection: &mut SqliteConnection| if failing { connection::rewrite(connection) } else { Ok(()) };
        self.writer.call(write).await
    }
}
