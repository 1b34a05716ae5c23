//! The plugin's table of the configuration.

use std::{fmt, net::IpAddr, path::PathBuf, str::FromStr, time::Duration};

use claviger_plugin_api::InitError;
use serde::Deserialize;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};

use crate::fault::one_line;

/// The plugin's table of the configuration.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Configuration {
    /// `postgres://user@host:port/database`; several hosts are separated by
    /// commas, and the one that takes writes is used. A password in it works
    /// and is better kept in `password_file`.
    pub url: String,
    /// A file that holds the password, read at each new connection; a line
    /// break at its end does not count.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// How the connection to the server is protected.
    #[serde(default)]
    pub tls: Tls,
    /// PEM file of the authorities that `tls = "verify"` trusts; the system's without it.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// Connections at most, 1 to 256.
    #[serde(default = "default_pool")]
    pub pool: usize,
    /// Milliseconds for a new connection, and for a free one of the pool; 1 to 60,000.
    #[serde(default = "default_timeout")]
    pub connect_timeout_ms: u32,
    /// Milliseconds for one statement, 1 to 60,000.
    #[serde(default = "default_timeout")]
    pub statement_timeout_ms: u32,
    /// The schema that holds the tables; it must exist.
    #[serde(default = "default_schema")]
    pub schema: String,
}

/// How the connection to the server is protected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tls {
    /// TLS, and the server's certificate must be good for its name.
    #[default]
    Verify,
    /// TLS with any certificate: nobody can listen, but somebody in between
    /// can pretend to be the server.
    Require,
    /// None. For a server on the same machine.
    Disable,
}

impl Configuration {
    /// A configuration with the defaults for everything but the server.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            password_file: None,
            tls: Tls::default(),
            ca: None,
            pool: default_pool(),
            connect_timeout_ms: default_timeout(),
            statement_timeout_ms: default_timeout(),
            schema: default_schema(),
        }
    }

    pub(crate) fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms.into())
    }

    pub(crate) fn statement_timeout(&self) -> Duration {
        Duration::from_millis(self.statement_timeout_ms.into())
    }

    /// Checks everything that needs no server, and gives what the client library needs.
    pub(crate) fn check(&self) -> Result<tokio_postgres::Config, InitError> {
        require((1..=256).contains(&self.pool), || format!("pool: {} is not within 1 to 256", self.pool))?;
        for (name, value) in
            [("connect_timeout_ms", self.connect_timeout_ms), ("statement_timeout_ms", self.statement_timeout_ms)]
        {
            require((1..=60_000).contains(&value), || format!("{name}: {value} is not within 1 to 60000"))?;
        }
        require(is_plain_name(&self.schema), || {
            format!("schema: {:?} is not a plain name (a to z, 0 to 9 and _, at most 63)", self.schema)
        })?;
        require(self.ca.is_none() || self.tls == Tls::Verify, || {
            "ca: only tls = \"verify\" looks at certificates".to_owned()
        })?;
        self.client()
    }

    fn client(&self) -> Result<tokio_postgres::Config, InitError> {
        require(["postgres://", "postgresql://"].iter().any(|scheme| self.url.starts_with(scheme)), || {
            "url: expected postgres://user@host:port/database".to_owned()
        })?;
        for key in ["sslmode", "sslnegotiation", "options", "target_session_attrs"] {
            // The library's own ways around `tls` and the session's settings.
            let query = self.url.split_once('?').map_or("", |(_, query)| query);
            require(!query.split('&').any(|pair| pair.split('=').next() == Some(key)), || {
                format!("url: {key} is not for the url; this plugin sets it")
            })?;
        }
        let mut client = tokio_postgres::Config::from_str(&self.url).map_err(|e| {
            // Never the url itself: it may hold a password.
            InitError::Configuration(format!("url: {}", one_line(&describe(&e))))
        })?;
        require(!client.get_hosts().is_empty(), || "url: no host in it".to_owned())?;
        require(client.get_user().is_some(), || "url: no user in it".to_owned())?;
        require(client.get_password().is_none() || self.password_file.is_none(), || {
            "password_file: the url holds a password already; take it out there".to_owned()
        })?;
        let sockets = client.get_hosts().iter().any(|host| matches!(host, Host::Unix(_)));
        require(self.tls == Tls::Disable || !sockets, || {
            "tls: a Unix socket carries no TLS; set tls = \"disable\"".to_owned()
        })?;
        if self.tls == Tls::Disable && client.get_hosts().iter().any(is_remote) {
            tracing::warn!("tls = \"disable\": passwords aside, all goes over the network in the clear");
        }
        client
            .ssl_mode(if self.tls == Tls::Disable { SslMode::Disable } else { SslMode::Require })
            // A standby answers reads and refuses writes: never connect to one.
            .target_session_attrs(TargetSessionAttrs::ReadWrite)
            .connect_timeout(self.connect_timeout())
            .keepalives_idle(Duration::from_secs(15))
            .keepalives_interval(Duration::from_secs(5))
            .keepalives_retries(3)
            .tcp_user_timeout(self.statement_timeout() + Duration::from_secs(5));
        if client.get_application_name().is_none() {
            client.application_name("claviger");
        }
        Ok(client)
    }
}

/// The url may hold a password.
impl fmt::Debug for Configuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Configuration")
            .field("url", &"(not shown)")
            .field("password_file", &self.password_file)
            .field("tls", &self.tls)
            .field("ca", &self.ca)
            .field("pool", &self.pool)
            .field("connect_timeout_ms", &self.connect_timeout_ms)
            .field("statement_timeout_ms", &self.statement_timeout_ms)
            .field("schema", &self.schema)
            .finish()
    }
}

/// A name that needs no quotes and means the same with them.
fn is_plain_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    (1..=63).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with(|first: char| first.is_ascii_digit())
}

fn is_remote(host: &Host) -> bool {
    match host {
        Host::Unix(_) => false,
        Host::Tcp(name) => name != "localhost" && !name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()),
    }
}

/// An error of the client library with its causes, on one line.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let (mut text, mut source) = (error.to_string(), error.source());
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    one_line(&text)
}

fn require(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), InitError> {
    if holds { Ok(()) } else { Err(InitError::Configuration(otherwise())) }
}

fn default_pool() -> usize {
    8
}

fn default_timeout() -> u32 {
    1000
}

fn default_schema() -> String {
    "public".to_owned()
}
