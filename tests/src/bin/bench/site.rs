//! One store with its users: the daemon that runs on it, and the server that
//! it needs.

use std::{
    any::Any,
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Arc,
    time::Instant,
};

use claviger_servers::{POSTGRES_PASSWORD, Postgres, Redis};
use claviger_testkit::{Binaries, Deployment, Layout, Options, Storage};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::population::Population;

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Store {
    Sqlite,
    Postgres,
    Redis,
    RedisEverysec,
}

impl Store {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
            Self::Redis => "redis",
            Self::RedisEverysec => "redis-everysec",
        }
    }

    /// The plugin's folder.
    pub(crate) fn plugin(self) -> &'static str {
        match self {
            Self::Sqlite => "store-sqlite",
            Self::Postgres => "store-postgres",
            Self::Redis | Self::RedisEverysec => "store-redis",
        }
    }

    /// Further lines of the plugin's table while a realm is copied there: each
    /// connection commits one record at a time, and waits for the disk.
    fn transfer(self) -> &'static str {
        if self == Self::Postgres { "\npool = 64" } else { "" }
    }

    /// What is set beside the defaults of the store, and of its server.
    pub(crate) fn settings(self) -> &'static str {
        match self {
            Self::Sqlite => "synchronous = \"full\" (the default)",
            Self::Postgres => POSTGRES,
            Self::Redis => "appendonly yes\nappendfsync always\nsave \"\"",
            Self::RedisEverysec => "appendonly yes\nappendfsync everysec\nsave \"\"",
        }
    }
}

/// The server's own defaults are for the smallest machine. Each commit is on
/// the disk (`fsync` and `synchronous_commit` are on by default).
const POSTGRES: &str = "shared_buffers = 256MB\nmax_wal_size = 2GB";

/// The server of a site.
enum Server {
    Postgres(Arc<Postgres>, String),
    Redis(Arc<Redis>),
}

/// One store with all users of a population. All of it ends when this is dropped.
pub(crate) struct Site {
    pub(crate) store: Store,
    pub(crate) population: Arc<Population>,
    pub(crate) deployment: Deployment,
    server: Option<Server>,
    _directory: TempDir,
}

/// How the users came into a store.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Filled {
    store: Store,
    users: u32,
    /// By `clavigerd store migrate`; otherwise by the plugin's `put`.
    migrated: bool,
    records: u64,
    seconds: f64,
    records_per_second: f64,
    /// Bytes of the store's files, tables or memory, by name.
    bytes: Vec<(String, u64)>,
}

impl Site {
    /// A new realm on SQLite, with its users.
    pub(crate) fn new(binaries: &Binaries, users: u32) -> Result<(Self, Filled), String> {
        let (store, directory) = (Store::Sqlite, directory()?);
        let upstream = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
        let mut deployment =
            Deployment::prepare_with(binaries.clone(), directory.path(), Layout::Management, upstream, options(None))?;
        deployment.start()?;
        deployment.register_service()?;
        deployment.stop()?;
        let population = Arc::new(Population::new(users)?);
        let started = Instant::now();
        runtime()?.block_on(population.seed(&deployment.configuration(0)))?;
        let seconds = started.elapsed().as_secs_f64();
        let site = Self { store, population, deployment, server: None, _directory: directory };
        let filled = site.filled(false, u64::from(users) * 2, seconds)?;
        Ok((site, filled))
    }

    /// The same realm on another store.
    pub(crate) fn copy(&self, store: Store) -> Result<(Self, Filled), String> {
        let (server, storage) = start(store)?;
        let directory = directory()?;
        let deployment = self.deployment.sibling_with(directory.path(), Layout::Management, options(Some(&storage)))?;
        // Both stores are in the configuration of this one, which never serves.
        let (both, from) = (tempfile::tempdir().map_err(text)?, self.database());
        let mut plugins = storage.plugins.clone();
        plugins.iter_mut().for_each(|(_, config)| config.push_str(store.transfer()));
        plugins.push((self.store.plugin().into(), format!("path = \"{}\"", from.display())));
        let storage = Storage { plugins, ..storage };
        let transfer = self.deployment.sibling_with(both.path(), Layout::Management, options(Some(&storage)))?;
        let arguments = ["store", "migrate", "--from", self.store.plugin(), "--to", store.plugin(), "--json"];
        let answer = transfer.admin(&arguments)?;
        let answer: Migrated = serde_json::from_str(&answer).map_err(|error| format!("{error}: {answer}"))?;
        if !answer.verified {
            return Err("the copy was not verified".into());
        }
        let site = Self { store, population: self.population.clone(), deployment, server, _directory: directory };
        site.settle();
        let filled = site.filled(true, answer.records, answer.seconds)?;
        Ok((site, filled))
    }

    /// Where its server is: the process that started all others.
    pub(crate) fn server(&self) -> Option<u32> {
        Some(match self.server.as_ref()? {
            Server::Postgres(server, _) => server.process_id(),
            Server::Redis(server) => server.process_id(),
        })
    }

    /// Does now what the server would do at some time after so much was
    /// written, so that it is not measured with the sign-ons.
    fn settle(&self) {
        if let Some(Server::Postgres(server, database)) = &self.server {
            server.sql(database, "VACUUM (ANALYZE)");
            server.sql(database, "CHECKPOINT");
        }
    }

    fn database(&self) -> std::path::PathBuf {
        self.deployment.directory().join("users.db")
    }

    fn filled(&self, migrated: bool, records: u64, seconds: f64) -> Result<Filled, String> {
        let bytes = match &self.server {
            None => vec![("file".to_owned(), fs::metadata(self.database()).map_err(text)?.len())],
            Some(Server::Postgres(server, database)) => numbers(&server.sql(database, SIZES), '|')?,
            Some(Server::Redis(server)) => {
                let info = server.cli(&["info", "memory"]);
                let used = info.lines().filter(|line| line.starts_with("used_memory:")).collect::<Vec<_>>().join("\n");
                numbers(&used, ':')?
            }
        };
        Ok(Filled {
            store: self.store,
            users: self.population.count(),
            migrated,
            records,
            seconds,
            records_per_second: records as f64 / seconds,
            bytes,
        })
    }
}

impl Filled {
    pub(crate) fn print(&self) {
        let bytes: Vec<_> = self.bytes.iter().map(|(name, bytes)| format!("{name} {} MiB", bytes >> 20)).collect();
        println!(
            "{} users on {}: {} in {:.1} s ({:.0} records/s); {}",
            self.users,
            self.store.name(),
            if self.migrated { "copied and verified by `clavigerd store migrate`" } else { "made" },
            self.seconds,
            self.records_per_second,
            bytes.join(", ")
        );
    }
}

/// What of `clavigerd store migrate --json` is of interest.
#[derive(Deserialize)]
struct Migrated {
    records: u64,
    seconds: f64,
    verified: bool,
}

/// Tables and indexes of the store.
const SIZES: &str = "SELECT relname, pg_relation_size(oid) FROM pg_class
    WHERE relname LIKE 'claviger%' AND relkind IN ('r', 'i') AND pg_relation_size(oid) > 0 ORDER BY relname";

fn numbers(text: &str, separator: char) -> Result<Vec<(String, u64)>, String> {
    let pair = |line: &str| {
        let (name, number) = line.split_once(separator)?;
        Some((name.to_owned(), number.trim().parse().ok()?))
    };
    text.lines().map(|line| pair(line).ok_or_else(|| format!("not a size: {line}"))).collect()
}

fn options(storage: Option<&Storage>) -> Options {
    Options {
        management: "limits.per_service_per_second = 10000000".into(),
        storage: storage.cloned(),
        ..Options::default()
    }
}

/// A server with an empty store on it.
fn start(store: Store) -> Result<(Option<Server>, Storage), String> {
    let (server, held, config): (_, Arc<dyn Any + Send + Sync>, _) = match store {
        Store::Sqlite => return Err("a realm begins on sqlite, and is copied from there".into()),
        Store::Postgres => {
            let server = Arc::new(Postgres::start(store.settings()));
            let (database, password) = (server.database(), server.directory().join("client.password"));
            secret(&password, POSTGRES_PASSWORD)?;
            let config = format!(
                "url = \"postgres://claviger@127.0.0.1:{}/{database}\"\npassword_file = \"{}\"\ntls = \"disable\"",
                server.port(),
                password.display()
            );
            (Server::Postgres(server.clone(), database), server, config)
        }
        Store::Redis | Store::RedisEverysec => {
            let server = Arc::new(Redis::start(store.settings()));
            let config = format!("url = \"{}\"", server.url());
            (Server::Redis(server.clone()), server, config)
        }
    };
    let plugins = vec![(store.plugin().to_owned(), config)];
    Ok((
        Some(server),
        Storage { plugins, store: store.plugin().into(), custody: None, environment: Vec::new(), server: held },
    ))
}

fn secret(path: &Path, text: &str) -> Result<(), String> {
    let written = fs::write(path, text).and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o600)));
    written.map_err(|error| format!("{}: {error}", path.display()))
}

fn directory() -> Result<TempDir, String> {
    tempfile::tempdir().map_err(text)
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, String> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(text)
}
