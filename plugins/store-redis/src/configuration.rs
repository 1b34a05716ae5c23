//! The plugin's table of the configuration.

use std::{collections::BTreeSet, fmt, path::PathBuf, time::Duration};

use claviger_plugin_api::InitError;
use serde::Deserialize;

/// The plugin's table of the configuration. Exactly one of `url`, `sentinel`
/// and `cluster` says where the servers are.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Configuration {
    /// One server: `redis://host:port`, `rediss://host:port` (TLS) or
    /// `unix:///path`. The port may be left out: 6379.
    #[serde(default)]
    pub url: Option<String>,
    /// A master that Sentinels watch.
    #[serde(default)]
    pub sentinel: Option<Sentinel>,
    /// Some nodes of a Cluster, by which the others are found. As `url`, all
    /// with TLS or none.
    #[serde(default)]
    pub cluster: Vec<String>,
    /// The user at the servers; without it the default user.
    #[serde(default)]
    pub username: Option<String>,
    /// A file that holds the user's password, read at each new connection; a
    /// line break at its end does not count.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// PEM file of the authorities that are trusted; the system's without it.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// PEM file of the certificate that is shown to the servers.
    #[serde(default)]
    pub certificate: Option<PathBuf>,
    /// PEM file of the certificate's key.
    #[serde(default)]
    pub key: Option<PathBuf>,
    /// The number of the database; a Cluster has 0 only.
    #[serde(default)]
    pub database: u16,
    /// What the name of every key begins with.
    #[serde(default = "default_prefix")]
    pub prefix: String,
    /// Over how many parts the data are spread, 1 to 1024. Fixed by the first start.
    #[serde(default = "default_shards")]
    pub shards: u16,
    /// Replicas that must have a write of the user store before it is answered.
    #[serde(default)]
    pub wait_replicas: u16,
    /// Milliseconds for a new connection, 1 to 60,000.
    #[serde(default = "default_timeout")]
    pub connect_timeout_ms: u32,
    /// Milliseconds for an answer, 1 to 60,000.
    #[serde(default = "default_timeout")]
    pub timeout_ms: u32,
    /// Whether the user store is offered. Without it nothing is asked of the
    /// server's persistence.
    #[serde(default = "default_true")]
    pub user_store: bool,
    /// Whether the start asks the servers for the settings that the user store
    /// needs. Without it they are the operator's to check.
    #[serde(default = "default_true")]
    pub check_settings: bool,
}

/// A master that Sentinels watch.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sentinel {
    /// The Sentinels, as `url` (port 26379). With `rediss://` the master is
    /// spoken to in TLS as well.
    pub urls: Vec<String>,
    /// The name under which they know the master.
    pub master: String,
    /// The user at the Sentinels; without it the default user.
    #[serde(default)]
    pub username: Option<String>,
    /// A file that holds the password at the Sentinels.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
}

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Address {
    Tcp { host: String, port: u16, tls: bool },
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port, .. } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// The servers, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Servers {
    One(Address),
    Watched { sentinels: Vec<Address>, master: String },
    Cluster(Vec<Address>),
}

impl Configuration {
    /// A configuration with the defaults for everything, and no server yet.
    pub fn new() -> Self {
        Self {
            url: None,
            sentinel: None,
            cluster: Vec::new(),
            username: None,
            password_file: None,
            ca: None,
            certificate: None,
            key: None,
            database: 0,
            prefix: default_prefix(),
            shards: default_shards(),
            wait_replicas: 0,
            connect_timeout_ms: default_timeout(),
            timeout_ms: default_timeout(),
            user_store: true,
            check_settings: true,
        }
    }

    pub(crate) fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms.into())
    }

    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms.into())
    }

    /// Checks everything that needs no server and no file.
    pub(crate) fn check(&self) -> Result<Servers, InitError> {
        for (name, value) in [("connect_timeout_ms", self.connect_timeout_ms), ("timeout_ms", self.timeout_ms)] {
            require((1..=60_000).contains(&value), || format!("{name}: {value} is not within 1 to 60000"))?;
        }
        require((1..=1024).contains(&self.shards), || format!("shards: {} is not within 1 to 1024", self.shards))?;
        require(is_plain(&self.prefix), || {
            format!("prefix: {:?} is not 1 to 64 of a to z, A to Z, 0 to 9, '.', '_', ':' and '-'", self.prefix)
        })?;
        require(self.username.is_none() || self.password_file.is_some(), || {
            "username: a user needs a password; name its file in password_file".to_owned()
        })?;
        require(self.certificate.is_some() == self.key.is_some(), || {
            "certificate, key: one is of no use without the other".to_owned()
        })?;
        require(self.user_store || self.wait_replicas == 0, || {
            "wait_replicas: it is for the user store, which user_store = false takes away".to_owned()
        })?;
        let servers = self.servers()?;
        let tls = match &servers {
            Servers::One(address) => matches!(address, Address::Tcp { tls: true, .. }),
            Servers::Watched { sentinels: all, .. } | Servers::Cluster(all) => same_tls(all)?,
        };
        require(tls || (self.ca.is_none() && self.certificate.is_none()), || {
            "ca, certificate: they are for TLS; write rediss:// for redis://".to_owned()
        })?;
        Ok(servers)
    }

    fn servers(&self) -> Result<Servers, InitError> {
        match (&self.url, &self.sentinel, self.cluster.as_slice()) {
            (Some(url), None, []) => Ok(Servers::One(address("url", url, 6379)?)),
            (None, Some(sentinel), []) => {
                require(!sentinel.urls.is_empty(), || "sentinel.urls: no Sentinel in it".to_owned())?;
                require(!sentinel.master.is_empty(), || "sentinel.master: it is empty".to_owned())?;
                require(sentinel.username.is_none() || sentinel.password_file.is_some(), || {
                    "sentinel.username: a user needs a password; name its file in sentinel.password_file".to_owned()
                })?;
                let sentinels = addresses("sentinel.urls", &sentinel.urls, 26379)?;
                Ok(Servers::Watched { sentinels, master: sentinel.master.clone() })
            }
            (None, None, urls @ [_, ..]) => {
                require(self.database == 0, || "database: a Cluster has 0 only".to_owned())?;
                Ok(Servers::Cluster(addresses("cluster", urls, 6379)?))
            }
            _ => Err(InitError::Configuration(
                "expected one of url, sentinel and cluster, such as url = \"redis://127.0.0.1:6379\"".to_owned(),
            )),
        }
    }
}

impl Default for Configuration {
    fn default() -> Self {
        Self::new()
    }
}

fn addresses(key: &str, urls: &[String], port: u16) -> Result<Vec<Address>, InitError> {
    let all = urls.iter().map(|url| address(key, url, port)).collect::<Result<Vec<_>, _>>()?;
    require(all.iter().all(|address| matches!(address, Address::Tcp { .. })), || {
        format!("{key}: a Unix socket is for one server")
    })?;
    Ok(all)
}

fn same_tls(all: &[Address]) -> Result<bool, InitError> {
    let kinds: BTreeSet<bool> = all.iter().map(|address| matches!(address, Address::Tcp { tls: true, .. })).collect();
    require(kinds.len() == 1, || "redis:// and rediss:// are mixed; use one for all servers".to_owned())?;
    Ok(kinds.contains(&true))
}

/// Never shows the url itself: somebody may have put a password into it.
fn address(key: &str, url: &str, default_port: u16) -> Result<Address, InitError> {
    let wrong = |why: &str| InitError::Configuration(format!("{key}: {why}"));
    if let Some(path) = url.strip_prefix("unix://") {
        return if path.starts_with('/') {
            Ok(Address::Unix(PathBuf::from(path)))
        } else {
            Err(wrong("expected unix:///path of the socket"))
        };
    }
    let (tls, rest) = match (url.strip_prefix("redis://"), url.strip_prefix("rediss://")) {
        (Some(rest), _) => (false, rest),
        (_, Some(rest)) => (true, rest),
        _ => return Err(wrong("expected redis://host:port, rediss://host:port or unix:///path")),
    };
    if rest.contains('@') {
        return Err(wrong("a url holds no user and no password here; use username and password_file"));
    }
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains(['/', '?', '#']) {
        return Err(wrong("expected nothing behind host:port; the database has a key of its own"));
    }
    let (host, port) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => (host, port.strip_prefix(':').or(port.is_empty().then_some(""))),
        None => rest.rsplit_once(':').map_or((rest, Some("")), |(host, port)| (host, Some(port))),
    };
    let port = match port {
        Some("") => Some(default_port),
        Some(port) => port.parse().ok(),
        None => None,
    };
    match port {
        Some(port) if port > 0 && !host.is_empty() => Ok(Address::Tcp { host: host.to_owned(), port, tls }),
        _ => Err(wrong("expected host:port behind the scheme")),
    }
}

/// Braces would move the part of a name that decides about its slot.
fn is_plain(prefix: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
    (1..=64).contains(&prefix.len()) && prefix.bytes().all(plain)
}

fn require(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), InitError> {
    if holds { Ok(()) } else { Err(InitError::Configuration(otherwise())) }
}

fn default_prefix() -> String {
    "claviger".to_owned()
}

fn default_shards() -> u16 {
    64
}

fn default_timeout() -> u32 {
    1000
}

fn default_true() -> bool {
    true
}
