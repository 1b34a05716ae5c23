//! The user and state store for several daemons: Redis, alone, with Sentinel or as a Cluster.
//!
//! # Configuration
//!
//! ```toml
//! [plugin.config]
//! url = "rediss://redis.example:6379"    # one server; or redis:// without TLS, or unix:///path
//! # sentinel = { urls = ["rediss://a:26379", "rediss://b:26379", "rediss://c:26379"], master = "claviger" }
//! # cluster = ["rediss://a:6379", "rediss://b:6379"]      # some nodes; the others are found
//! username = "claviger"                                   # the default user without it
//! password_file = "/etc/claviger/redis.password"          # read at each new connection
//! ca = "/etc/claviger/redis-ca.pem"                       # for rediss://; the system's without it
//! certificate = "/etc/claviger/redis-client.pem"          # what this store shows, with `key`
//! key = "/etc/claviger/redis-client.key"
//! database = 0                  # a Cluster has 0 only
//! prefix = "claviger"           # what all names begin with
//! shards = 64                   # 1 to 1024; fixed by the first start
//! wait_replicas = 0             # replicas that have a write before it is answered
//! connect_timeout_ms = 1000     # for a connection, 1 to 60000
//! timeout_ms = 1000             # for an answer, 1 to 60000
//! user_store = true             # false: short-lived state only, and no demands on the server
//! check_settings = true         # false: `appendonly` and `maxmemory-policy` are the operator's to check
//! ```
//!
//! Redis 6.2 or later. `sentinel` takes `username` and `password_file` of the
//! Sentinels themselves.
//!
//! # What it keeps
//!
//! Records are bytes that the host has versioned and sealed; nothing here looks
//! into them. Rows of counters are kept for at least two hours and ten minutes;
//! then, behind the window, they are deleted with the credential's next
//! sign-ons, a few hundred at a time. All lies in the server's memory: 60 to
//! 160 bytes for each sign-on of the last two hours.
//!
//! Any number of daemons share the servers: of two that consume the same counter
//! at the same moment, exactly one is told that it is fresh. What must change
//! together lies in one slot and is changed by one script. A batch of counters
//! of several credentials is several scripts: where one of them fails, the batch
//! has no verdicts, and the others' counters are used up.
//!
//! # What survives what
//!
//! An answer always survives the death of the daemon. What it survives at the
//! server is for the server to say:
//!
//! - its death (`kill -9`): `appendonly yes`, which the start demands;
//! - the loss of its machine's power: `appendfsync always`. With `everysec` the
//!   last second may be gone, and the start says so;
//! - a failover: `wait_replicas`, as many as may be lost together. Replication
//!   is asynchronous without it, and a replica that takes over without the last
//!   writes has forgotten those counters. Even with it the guarantee is not as
//!   strict as that of a database with a quorum: Sentinel and Cluster may
//!   promote a replica that did not confirm.
//!
//! A counter that is forgotten lets its envelope be replayed within the clock
//! window. Where that must not be, use a PostgreSQL server, or one Redis with
//! `appendfsync always` and no failover.
//!
//! A server without room refuses writes, and this store answers *full*.

#![forbid(unsafe_code)]

mod configuration;
mod counters;
mod fault;
mod link;
mod merge;
mod names;
mod records;
mod script;
mod server;
mod start;
mod state;

use std::{
    sync::{Arc, mpsc},
    time::{Duration, SystemTime},
};

use claviger_plugin_api::{
    Context, CounterPosition, CounterUse, InitError, Page, Plugin, PluginError, Put, Record, Scan, StateStore,
    UserStore, Verdict, Written, async_trait, limits,
};
use tokio::runtime::Runtime;

pub use configuration::{Configuration, Sentinel};

use crate::{link::Connector, names::Names, server::Server};

claviger_plugin_api::export_plugin! {
    name: "store-redis",
    provides: [user_store, state_store],
    init: init,
}

/// Starts the plugin: asks the servers and checks their settings.
pub fn init(context: Context) -> Result<Plugin, InitError> {
    let configuration: Configuration = context.parse()?;
    let with_users = configuration.user_store;
    let store = RedisStore::open_with_clock(configuration, context.clock)?;
    let handle = store.0.runtime.as_ref().map(|runtime| runtime.handle().clone());
    let plugin = Plugin::new().with_state_store(store.clone());
    let plugin = if with_users { plugin.with_user_store(store) } else { plugin };
    Ok(plugin.with_poll_in(move |poll| {
        let _entered = handle.as_ref().map(tokio::runtime::Handle::enter);
        poll();
    }))
}

/// A user store and a state store on Redis. Its futures need a tokio runtime
/// with timers around them; [`init`] gives them the store's own. Clones are the
/// same store.
#[derive(Clone)]
pub struct RedisStore(Arc<Inner>);

struct Inner {
    server: Arc<Server>,
    names: Names,
    with_users: bool,
    clock: Clock,
    /// Drives the connections. `None` only while it is dropped.
    runtime: Option<Runtime>,
}

/// Tells when a counter was used, to the second.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

impl RedisStore {
    /// Connects and checks the servers. Blocks meanwhile. Counters are kept by
    /// the system's clock.
    ///
    /// # Errors
    /// `Configuration` for a wrong value, settings of a server with which
    /// answers would not be durable, and another number of shards; `Unavailable`
    /// where a server does not let this store in; `Failed` for data of a newer
    /// version, and where a part of the data is gone.
    pub fn open(configuration: Configuration) -> Result<Self, InitError> {
        Self::open_with_clock(configuration, Arc::new(SystemTime::now))
    }

    /// [`open`](Self::open) with another clock, by which counters are kept for
    /// [`COUNTER_RETENTION`](claviger_plugin_api::COUNTER_RETENTION). While it
    /// is set back they are kept longer. Lifetimes of the state store go by the
    /// servers' clocks.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub fn open_with_clock(configuration: Configuration, clock: Clock) -> Result<Self, InitError> {
        let servers = configuration.check()?;
        let configuration = Arc::new(configuration);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("store-redis")
            .enable_all()
            .build()
            .map_err(|e| InitError::Unavailable(format!("no threads for the store: {e}")))?;
        let handle = runtime.handle().clone();
        let connector = Connector::new(configuration.clone(), handle.clone())?;
        let server = Arc::new(Server::new(connector, servers, configuration.wait_replicas));
        let names = Names::new(&configuration.prefix, configuration.shards);
        let with_users = configuration.user_store;
        let store = Self(Arc::new(Inner { server, names, with_users, clock, runtime: Some(runtime) }));
        // On the store's own threads: the caller's may be in a runtime, where
        // waiting for a future is not allowed.
        let (sender, receiver) = mpsc::sync_channel(1);
        let (server, names) = (store.0.server.clone(), store.0.names.clone());
        handle.spawn(async move {
            let _ = sender.send(start::prepare(&server, &names, &configuration).await);
        });
        receiver.recv().map_err(|_| InitError::Failed("the start was given up".to_owned()))??;
        Ok(store)
    }

    async fn healthy(&self) -> Result<(), PluginError> {
        let Inner { server, names, with_users, .. } = &*self.0;
        if *with_users {
            start::health(server, names).await
        } else {
            state::get(server, names, "health").await.map(drop)
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Waits for nobody: whoever drops this may be in a runtime.
            runtime.shutdown_background();
        }
    }
}

#[async_trait]
impl UserStore for RedisStore {
    async fn get(&self, keys: &[String]) -> Result<Vec<Option<Record>>, PluginError> {
        limits::batch(keys.len())?;
        keys.iter().try_for_each(|key| limits::key(key))?;
        records::get(&self.0.server, &self.0.names, keys).await
    }

    async fn put(&self, put: Put) -> Result<Written, PluginError> {
        limits::put(&put)?;
        records::put(&self.0.server, &self.0.names, &put).await
    }

    async fn delete(&self, key: &str, expected: u64) -> Result<Written, PluginError> {
        limits::key(key)?;
        records::delete(&self.0.server, &self.0.names, key, expected).await
    }

    async fn scan(&self, scan: Scan) -> Result<Page, PluginError> {
        limits::scan(&scan)?;
        records::scan(&self.0.server, &self.0.names, &scan).await
    }

    async fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<Record>, PluginError> {
        limits::page(limit)?;
        records::list(&self.0.server, &self.0.names, after, limit).await
    }

    async fn consume(&self, uses: &[CounterUse]) -> Result<Vec<Verdict>, PluginError> {
        limits::batch(uses.len())?;
        counters::consume(&self.0.server, &self.0.names, uses, (self.0.clock)()).await
    }

    async fn forget_counters(&self, credential: [u8; 16]) -> Result<(), PluginError> {
        counters::forget(&self.0.server, &self.0.names, &credential).await
    }

    async fn counters(&self, after: Option<CounterPosition>, limit: usize) -> Result<Vec<CounterUse>, PluginError> {
        limits::page(limit)?;
        counters::list(&self.0.server, &self.0.names, after, limit).await
    }

    async fn health(&self) -> Result<(), PluginError> {
        self.healthy().await
    }
}

#[async_trait]
impl StateStore for RedisStore {
    async fn put_new(&self, key: &str, value: &[u8], lifetime: Duration) -> Result<bool, PluginError> {
        state::put_new(&self.0.server, &self.0.names, key, value, lifetime).await
    }

    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, PluginError> {
        state::get(&self.0.server, &self.0.names, key).await
    }

    async fn update(&self, key: &str, expected: &[u8], value: &[u8], lifetime: Duration) -> Result<bool, PluginError> {
        state::update(&self.0.server, &self.0.names, key, expected, value, lifetime).await
    }

    async fn take(&self, key: &str) -> Result<Option<Vec<u8>>, PluginError> {
        state::take(&self.0.server, &self.0.names, key).await
    }

    async fn health(&self) -> Result<(), PluginError> {
        self.healthy().await
    }
}
