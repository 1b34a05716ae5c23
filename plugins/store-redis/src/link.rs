//! One connection to one server: opened when it is needed, and anew after it broke.
//!
//! Nothing is ever sent a second time after a connection broke: whether the
//! server had done it cannot be known, and a counter that was recorded the
//! first time would be a replay the second. This is why the client library's
//! own clients for Cluster and Sentinel are not used.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use claviger_plugin_api::{InitError, PluginError};
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, IntoConnectionInfo, Pipeline, RedisConnectionInfo,
    TlsCertificates, Value, aio::MultiplexedConnection, io::tcp::TcpSettings,
};
use rustls::{
    RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{runtime::Handle, sync::Mutex};
use zeroize::Zeroizing;

use crate::{
    Configuration,
    configuration::Address,
    fault::{describe, one_line},
};

/// The wait after a connection could not be opened. It doubles up to the longest.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// A connection that nobody used for so long is asked whether it still is one:
/// servers and firewalls close those that are idle, and the first call would fail.
const IDLE: Duration = Duration::from_secs(1);

/// Opens connections.
pub(crate) struct Connector {
    configuration: Arc<Configuration>,
    certificates: TlsCertificates,
    runtime: Handle,
}

/// Whom a connection is for, which decides about user and password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Party {
    /// A server that takes writes.
    Master,
    /// A Sentinel.
    Sentinel,
}

impl Connector {
    /// Reads the certificates; asks no server. `runtime` drives the connections.
    pub(crate) fn new(configuration: Arc<Configuration>, runtime: Handle) -> Result<Self, InitError> {
        // The client library takes the process's provider. This plugin, a
        // library of its own, may well be the first here to name one.
        let _ = aws_lc_rs::default_provider().install_default();
        let certificates = certificates(&configuration)?;
        Ok(Self { configuration, certificates, runtime })
    }

    /// How long a server may take to answer.
    pub(crate) fn timeout(&self) -> Duration {
        self.configuration.timeout()
    }

    /// How long a connection may take.
    pub(crate) fn connect_timeout(&self) -> Duration {
        self.configuration.connect_timeout()
    }

    /// Opens a connection. What drives it runs on the store's own threads, and
    /// goes on when this future is dropped.
    pub(crate) async fn open(
        self: &Arc<Self>,
        address: &Address,
        party: Party,
    ) -> Result<MultiplexedConnection, PluginError> {
        let (connector, to) = (self.clone(), address.clone());
        let limit = self.connect_timeout();
        let opening = self.runtime.spawn(async move {
            let opened = tokio::time::timeout(limit, connector.open_in_time(&to, party)).await;
            opened.unwrap_or_else(|_| Err(format!("no connection within {} ms", limit.as_millis())))
        });
        let opened = opening.await.unwrap_or_else(|_| Err("the connection was given up".to_owned()));
        opened.map_err(|why| PluginError::Unavailable(format!("{address}: {why}")))
    }

    async fn open_in_time(&self, address: &Address, party: Party) -> Result<MultiplexedConnection, String> {
        let configuration = &*self.configuration;
        let (username, password_file) = match (party, &configuration.sentinel) {
            (Party::Sentinel, Some(sentinel)) => (&sentinel.username, &sentinel.password_file),
            _ => (&configuration.username, &configuration.password_file),
        };
        let mut settings = RedisConnectionInfo::default();
        if party == Party::Master {
            settings = settings.set_db(configuration.database.into());
        }
        if let Some(username) = username {
            settings = settings.set_username(username);
        }
        if let Some(path) = password_file {
            settings = settings.set_password(password(path).await?.as_str());
        }
        let client = self.client(address, settings).map_err(|e| describe(&e))?;
        let timing = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let mut connection =
            client.get_multiplexed_async_connection_with_config(&timing).await.map_err(|e| describe(&e))?;
        // In a Cluster, a replica sends on what it is not for.
        if party == Party::Master && configuration.cluster.is_empty() {
            is_master(&mut connection).await?;
        }
        Ok(connection)
    }

    fn client(&self, address: &Address, settings: RedisConnectionInfo) -> redis::RedisResult<Client> {
        let (address, tls) = match address.clone() {
            Address::Tcp { host, port, tls: false } => (ConnectionAddr::Tcp(host, port), false),
            Address::Tcp { host, port, tls: true } => {
                (ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }, true)
            }
            Address::Unix(path) => (ConnectionAddr::Unix(path), false),
        };
        let tcp = TcpSettings::default().set_nodelay(true).set_user_timeout(self.timeout() + Duration::from_secs(5));
        let info = address.into_connection_info()?.set_redis_settings(settings).set_tcp_settings(tcp);
        if tls { Client::build_with_tls(info, self.certificates.clone()) } else { Client::open(info) }
    }
}

/// A server that has become a replica answers reads from what it had. A user
/// that may not ask finds out at the first write.
async fn is_master(connection: &mut MultiplexedConnection) -> Result<(), String> {
    let role = redis::cmd("ROLE").query_async::<Vec<Value>>(connection).await;
    match role.as_deref() {
        Ok([Value::BulkString(role), ..]) if role != b"master" => {
            Err("it is a replica, which takes no writes; this store needs the master".to_owned())
        }
        Err(error) if error.is_io_error() => Err(describe(error)),
        // While it loads its data, for one.
        Err(error) if error.code() != Some("NOPERM") => Err(describe(error)),
        _ => Ok(()),
    }
}

async fn password(path: &Path) -> Result<Zeroizing<String>, String> {
    let read = tokio::fs::read_to_string(path).await;
    let mut password = Zeroizing::new(read.map_err(|e| format!("password_file {}: {e}", path.display()))?);
    let len = password.trim_end_matches(['\n', '\r']).len();
    password.truncate(len);
    if password.is_empty() { Err(format!("password_file {}: it is empty", path.display())) } else { Ok(password) }
}

/// Read here once, so that what is wrong with a file is said with its name.
fn certificates(configuration: &Configuration) -> Result<TlsCertificates, InitError> {
    let read = |key: &str, path: &Path| {
        std::fs::read(path).map_err(|e| InitError::Configuration(format!("{key}: {}: {e}", path.display())))
    };
    let refused = |key: &str, path: &Path, why: &dyn std::fmt::Display| {
        InitError::Configuration(format!("{key}: {}: {}", path.display(), one_line(&why.to_string())))
    };
    let mut found = TlsCertificates { client_tls: None, root_cert: None };
    if let Some(path) = &configuration.ca {
        let pem = read("ca", path)?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.map_err(|e| refused("ca", path, &e))?;
            roots.add(certificate).map_err(|e| refused("ca", path, &e))?;
        }
        if roots.is_empty() {
            return Err(refused("ca", path, &"no certificate in it"));
        }
        found.root_cert = Some(pem);
    }
    if let (Some(path), Some(key_path)) = (&configuration.certificate, &configuration.key) {
        let (client_cert, client_key) = (read("certificate", path)?, read("key", key_path)?);
        if !matches!(CertificateDer::pem_slice_iter(&client_cert).next(), Some(Ok(_))) {
            return Err(refused("certificate", path, &"no certificate in it"));
        }
        PrivateKeyDer::from_pem_slice(&client_key).map_err(|e| refused("key", key_path, &e))?;
        found.client_tls = Some(ClientTlsConfig { client_cert, client_key });
    }
    Ok(found)
}

/// A connection to one server, shared by all calls: what they send at once
/// goes out together.
pub(crate) struct Link {
    connector: Arc<Connector>,
    address: Address,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// And when it was last taken.
    connection: Option<(MultiplexedConnection, Instant)>,
    /// Counts the connections, so that a call ends no later one than its own.
    number: u64,
    pause: Option<Pause>,
}

/// Why there is no connection, and for how long nobody asks again.
struct Pause {
    until: Instant,
    length: Duration,
    why: PluginError,
}

impl Link {
    pub(crate) fn new(connector: Arc<Connector>, address: Address) -> Self {
        Self { connector, address, state: Mutex::default() }
    }

    /// Sends a pipeline and gives its answers, errors of the server among them.
    ///
    /// # Errors
    /// `Unavailable` where the connection broke or no answer came in time.
    pub(crate) async fn send(&self, pipeline: &Pipeline) -> Result<Vec<Value>, PluginError> {
        let (number, mut connection) = self.connected().await?;
        let (count, limit) = (pipeline.len(), self.connector.timeout());
        let why = match tokio::time::timeout(limit, connection.send_packed_commands(pipeline, 0, count)).await {
            Ok(Ok(answers)) if answers.len() == count => return Ok(answers),
            Ok(Ok(answers)) => format!("{} answers to {count} commands", answers.len()),
            Ok(Err(error)) => format!("the connection broke: {}", describe(&error)),
            Err(_) => format!("no answer within {} ms", limit.as_millis()),
        };
        let mut state = self.state.lock().await;
        if state.number == number {
            state.connection = None;
        }
        Err(PluginError::Unavailable(format!("{}: {why}", self.address)))
    }

    async fn connected(&self) -> Result<(u64, MultiplexedConnection), PluginError> {
        // Held while a connection is opened: the others wait for that one.
        let mut state = self.state.lock().await;
        if let Some((mut connection, used)) = state.connection.take()
            && (used.elapsed() < IDLE || self.is_alive(&mut connection).await)
        {
            state.connection = Some((connection.clone(), Instant::now()));
            return Ok((state.number, connection));
        }
        if let Some(pause) = state.pause.as_ref().filter(|pause| Instant::now() < pause.until) {
            return Err(pause.why.clone());
        }
        match self.connector.open(&self.address, Party::Master).await {
            Ok(connection) => {
                state.number += 1;
                state.connection = Some((connection.clone(), Instant::now()));
                state.pause = None;
                Ok((state.number, connection))
            }
            Err(why) => {
                let length = state.pause.as_ref().map_or(PAUSE, |pause| (pause.length * 2).min(LONGEST_PAUSE));
                state.pause = Some(Pause { until: Instant::now() + length, length, why: why.clone() });
                Err(why)
            }
        }
    }

    async fn is_alive(&self, connection: &mut MultiplexedConnection) -> bool {
        let ping = redis::cmd("PING");
        // Whatever it answers, it does.
        let answer = tokio::time::timeout(self.connector.timeout(), connection.send_packed_command(&ping)).await;
        answer.is_ok_and(|answer| answer.is_ok())
    }
}
