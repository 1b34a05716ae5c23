//! The user store for several daemons: a PostgreSQL server, through diesel-async.
//!
//! # Configuration
//!
//! ```toml
//! [plugin.config]
//! url = "postgres://claviger@db.example:5432/claviger"    # required
//! password_file = "/etc/claviger/postgres.password"       # read at each new connection
//! tls = "verify"                # or "require" (any certificate) or "disable" (same machine)
//! ca = "/etc/claviger/postgres-ca.pem"                    # for "verify"; the system's without it
//! pool = 8                      # connections, 1 to 256
//! connect_timeout_ms = 1000     # for a connection, 1 to 60000
//! statement_timeout_ms = 1000   # for a statement, 1 to 60000
//! schema = "public"             # must exist; the tables in it are named claviger_*
//! ```
//!
//! # What it keeps
//!
//! Records are bytes that the host has versioned and sealed; nothing here looks
//! into them. Rows of counters are kept for at least two hours and ten minutes;
//! then, behind the window, they are deleted in the background after the
//! credential's next sign-ons, a few hundred at a time.
//!
//! Any number of daemons share one database: of two that consume the same
//! counter at the same moment, exactly one is told that it is fresh. Answers are
//! given after the server's commit. Whether that outlives the *loss* of the
//! server is for its replication to say (`synchronous_standby_names`): a standby
//! that takes over without the last commits has forgotten those counters.
//!
//! A connection keeps settings and prepared statements: put no pooler in between
//! that shares it by transaction.

#![forbid(unsafe_code)]

mod configuration;
mod connection;
mod counters;
mod fault;
mod migrate;
mod records;
mod statement;
mod tls;

use std::{
    sync::{Arc, mpsc},
    time::SystemTime,
};

use claviger_plugin_api::{
    Context, CounterPosition, CounterUse, InitError, Page, Plugin, PluginError, Put, Record, Scan, UserStore, Verdict,
    Written, async_trait, limits,
};
use diesel::sql_types::Bool;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use tokio::{runtime::Runtime, sync::mpsc as queue};

use crate::{
    connection::{Connector, Pool},
    counters::Due,
    fault::Fault,
    statement::Statement,
};
pub use configuration::{Configuration, Tls};

claviger_plugin_api::export_plugin! {
    name: "store-postgres",
    provides: [user_store],
    init: init,
}

/// Starts the plugin: asks the server and brings the tables up to date.
pub fn init(context: Context) -> Result<Plugin, InitError> {
    let configuration = context.parse()?;
    let store = PostgresStore::open_with_clock(configuration, context.clock)?;
    let handle = store.runtime.as_ref().map(|runtime| runtime.handle().clone());
    Ok(Plugin::new().with_user_store(store).with_poll_in(move |poll| {
        let _entered = handle.as_ref().map(tokio::runtime::Handle::enter);
        poll();
    }))
}

/// A user store on a PostgreSQL server. Its futures need a tokio runtime with
/// timers around them; [`init`] gives them the store's own.
pub struct PostgresStore {
    pool: Pool,
    clock: Clock,
    due: queue::Sender<Due>,
    /// Drives the connections. `None` only while it is dropped.
    runtime: Option<Runtime>,
}

/// Tells when a counter was used, to the second.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// Prunes that may wait. One that finds no room comes again with the
/// credential's next block.
const PRUNES: usize = 1024;

/// Whether the server takes no writes.
const READ_ONLY: &str = "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean";

impl PostgresStore {
    /// Connects and makes the tables ready. Blocks meanwhile. Counters are kept
    /// by the system's clock.
    ///
    /// # Errors
    /// `Configuration` for a wrong value or schema, `Unavailable` where the
    /// server does not let this store in, and `Failed` for tables of a newer
    /// version or rights that do not suffice.
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
        let configuration = Arc::new(configuration);
        let connector = Arc::new(Connector::new(configuration.clone())?);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("store-postgres")
            .enable_all()
            .build()
            .map_err(|e| InitError::Unavailable(format!("no threads for the store: {e}")))?;
        let pool = Pool::new(connector.clone(), runtime.handle().clone())?;
        let (due, dues) = queue::channel(PRUNES);
        let store = Self { pool: pool.clone(), clock: clock.clone(), due, runtime: Some(runtime) };
        store.block_on(async move { migrate::prepare(&connector, &configuration.schema).await })??;
        store.spawn(prune_all(pool, dues, clock));
        Ok(store)
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        if let Some(runtime) = &self.runtime {
            runtime.spawn(work);
        }
    }

    /// Waits for work on the store's own threads: the caller's may be in a
    /// runtime, where waiting for a future is not allowed.
    fn block_on<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Result<T, InitError> {
        let (sender, receiver) = mpsc::sync_channel(1);
        self.spawn(async move {
            let _ = sender.send(work.await);
        });
        receiver.recv().map_err(|_| InitError::Failed("the start was given up".to_owned()))
    }
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Waits for nobody: whoever drops this may be in a runtime.
            runtime.shutdown_background();
        }
    }
}

/// Works off what has become due for pruning, one after the other, until the
/// store is dropped.
async fn prune_all(pool: Pool, mut dues: queue::Receiver<Due>, clock: Clock) {
    while let Some(due) = dues.recv().await {
        let pruned = match pool.lease().await {
            Ok(lease) => {
                let now = clock();
                lease.call(async move |connection| counters::prune(connection, due, now).await).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = pruned {
            tracing::debug!(%error, "counters could not be pruned; their next block tries again");
        }
    }
}

#[async_trait]
impl UserStore for PostgresStore {
    async fn get(&self, keys: &[String]) -> Result<Vec<Option<Record>>, PluginError> {
        limits::batch(keys.len())?;
        keys.iter().try_for_each(|key| limits::key(key))?;
        let lease = self.pool.lease().await?;
        lease.call(async |connection| records::get(connection, keys).await).await
    }

    async fn put(&self, put: Put) -> Result<Written, PluginError> {
        limits::put(&put)?;
        let lease = self.pool.lease().await?;
        lease.call(async |connection| records::put(connection, &put).await).await
    }

    async fn delete(&self, key: &str, expected: u64) -> Result<Written, PluginError> {
        limits::key(key)?;
        let lease = self.pool.lease().await?;
        lease.call(async |connection| records::delete(connection, key, expected).await).await
    }

    async fn scan(&self, scan: Scan) -> Result<Page, PluginError> {
        limits::scan(&scan)?;
        let lease = self.pool.lease().await?;
        lease.call(async |connection| records::scan(connection, &scan).await).await
    }

    async fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<Record>, PluginError> {
        limits::page(limit)?;
        let lease = self.pool.lease().await?;
        lease.call(async |connection| records::list(connection, after, limit).await).await
    }

    async fn consume(&self, uses: &[CounterUse]) -> Result<Vec<Verdict>, PluginError> {
        limits::batch(uses.len())?;
        let lease = self.pool.lease().await?;
        let now = (self.clock)();
        let consumed = lease.call(async |connection| counters::consume(connection, uses, now).await).await?;
        for due in consumed.due {
            // Full: see `PRUNES`.
            let _ = self.due.try_send(due);
        }
        Ok(consumed.verdicts)
    }

    async fn forget_counters(&self, credential: [u8; 16]) -> Result<(), PluginError> {
        let lease = self.pool.lease().await?;
        lease.call(async |connection| counters::forget(connection, &credential).await).await
    }

    async fn counters(&self, after: Option<CounterPosition>, limit: usize) -> Result<Vec<CounterUse>, PluginError> {
        limits::page(limit)?;
        let lease = self.pool.lease().await?;
        lease.call(async |connection| counters::list(connection, after, limit).await).await
    }

    async fn health(&self) -> Result<(), PluginError> {
        let lease = self.pool.lease().await?;
        let probe = Statement::<Bool>::new(READ_ONLY);
        // A connection to a standby is given up with the error: the next one may lead to the new primary.
        let ask = async |connection: &mut AsyncPgConnection| match probe.get_result::<bool>(connection).await? {
            false => Ok(()),
            true => Err(Fault::ReadOnly),
        };
        lease.call(ask).await
    }
}
