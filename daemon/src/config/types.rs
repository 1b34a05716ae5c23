//! The configuration as the daemon uses it: checked, with its defaults filled in.
//!
//! Every path here is either absolute or relative to the working directory
//! (the loader has resolved it against the file it stands in), every duration
//! lies in the range that the reference names, and every plugin name refers to
//! an entry of [`Config::plugins`]. Nothing here holds a secret: keys are
//! named by the files they lie in.

use std::{fmt, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use http::Uri;

/// The whole configuration of one daemon.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// What this daemon is. At least one is set, and its table is there.
    pub roles: Roles,
    /// The realm: 1 to 64 bytes of `[a-z0-9.-]`.
    pub realm: String,
    /// The daemon's own log.
    pub log: LogConfig,
    /// Metrics and health.
    pub telemetry: TelemetryConfig,
    /// The administration socket.
    pub admin: AdminConfig,
    /// How the daemon ends.
    pub drain: DrainConfig,
    /// Whose plugins are loaded; each of [`Config::plugins`] has it too.
    pub trust: Arc<PluginTrust>,
    /// Plugins, in the order in which they are loaded. Names are unique.
    pub plugins: Vec<PluginConfig>,
    /// `Some` exactly when [`Roles::management`] is set.
    pub management: Option<ManagementConfig>,
    /// `Some` exactly when [`Roles::service`] is set.
    pub service: Option<ServiceConfig>,
}

/// Which roles a daemon has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Roles {
    /// Holds the users, opens envelopes, enrols terminals.
    pub management: bool,
    /// Signs terminals on and guards an upstream.
    pub service: bool,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// A level, or directives such as `info,claviger_daemon::net=debug`.
    pub level: String,
    /// How a line looks.
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Text when standard error is a terminal, JSON otherwise.
    #[default]
    Auto,
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `[telemetry]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TelemetryConfig {
    /// Where `/metrics`, `/livez` and `/readyz` are served in plain HTTP; `None` when off.
    pub listen: Option<SocketAddr>,
}

/// `[admin]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminConfig {
    /// The Unix socket, made with mode 0660.
    pub socket: PathBuf,
    /// Who may use it besides root and the daemon's own uid.
    pub allow_uids: Vec<u32>,
}

/// `[drain]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainConfig {
    /// How long requests in progress may go on after the daemon was asked to stop.
    pub grace: Duration,
}

/// `[plugins]`: whose plugins are loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PluginTrust {
    /// Keys whose signatures count.
    pub trusted_keys: Vec<TrustedKey>,
    /// Whether a plugin without a signature by one of them is kept out.
    pub require_signature: bool,
}

/// A minisign public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TrustedKey {
    /// Its base64 line.
    Key(String),
    /// A file that ends with that line, as `minisign -G` makes it.
    File(PathBuf),
}

/// One `[[plugin]]`
#[derive(Clone, PartialEq)]
pub struct PluginConfig {
    /// By which roles refer to it. Unique: 1 to 64 bytes of `[a-z0-9._-]`.
    pub name: String,
    /// The shared library.
    pub path: PathBuf,
    /// What its SHA-256 must be, when it is pinned.
    pub sha256: Option<[u8; 32]>,
    /// Whose signature it needs: `[plugins]`, the same for all.
    pub trust: Arc<PluginTrust>,
    /// Whether the daemon refuses to start without it.
    pub required: bool,
    /// The longest an asynchronous call may take, with all its tries; one that takes longer counts as unavailable.
    pub deadline: Duration,
    /// Calls of one component that may run at once; further ones wait for a place, within their deadline.
    pub max_in_flight: usize,
    /// How often a call of a store or custody is tried again where that is safe.
    pub retries: u32,
    /// After how many failed calls in a row a store or custody is cut off until its health is good; 0: never.
    pub breaker_failures: u32,
    /// `[plugin.config]`, always an object, handed over as it is.
    pub configuration: serde_json::Value,
}

impl PluginConfig {
    /// A plugin with the defaults for everything that has one.
    pub fn new(name: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            path: path.into(),
            sha256: None,
            trust: Arc::default(),
            required: true,
            deadline: Duration::from_secs(2),
            max_in_flight: 256,
            retries: 2,
            breaker_failures: 5,
            configuration: serde_json::Value::Object(serde_json::Map::new()),
        }
    }
}

impl fmt::Debug for PluginConfig {
    /// Without the plugin's own table, which may hold passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            path,
            sha256: _,
            trust: _,
            required,
            deadline,
            max_in_flight,
            retries,
            breaker_failures,
            configuration: _,
        } = self;
        let mut text = f.debug_struct("PluginConfig");
        text.field("name", name).field("path", path).field("required", required).field("deadline", deadline);
        text.field("max_in_flight", max_in_flight).field("retries", retries);
        text.field("breaker_failures", breaker_failures).finish_non_exhaustive()
    }
}

/// `[management]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManagementConfig {
    /// The plugin that holds the users.
    pub store: String,
    /// The plugin in whose custody unique keys are; `None`: sealed in the records.
    pub custody: Option<String>,
    /// Enabled suites by registry id, at least one, none twice; new enrolments get the first.
    pub suites: Vec<u16>,
    /// Enabled key exchanges by registry id, at least one, none twice.
    pub kems: Vec<u8>,
    /// Where key-encryption keys lie, at least one, none twice. Each opens everything.
    pub key_encryption_keys: Vec<KekSource>,
    /// The lowest suite that an enrolled terminal may ever use.
    pub enrolment_suite_floor: u16,
    /// The lowest key exchange that an enrolled terminal may ever use.
    pub enrolment_kem_floor: u8,
    /// How far a terminal's clock may be off, either way.
    pub clock_window: Duration,
    /// The longest session a service may grant. Whole seconds.
    pub max_session: Duration,
    /// How old keys may become before the terminal is told to rotate them.
    pub rotate_after: Duration,
    /// Whether terminals name their user to services by handles and sealed user ids only.
    pub private_user_ids: bool,
    /// Whether an administrator confirms each enrolment by comparing six digits.
    pub confirm_enrolments: bool,
    /// `[management.terminals]`, where terminals enrol.
    pub terminals: TerminalsListener,
    /// `[management.services]`, where services of other daemons ask; `None` when the only service is in this process.
    pub services: Option<ServicesListener>,
    /// `[management.limits]`
    pub limits: ManagementLimits,
}

/// Where a key-encryption key lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KekSource {
    /// A file of 32 bytes as 64 hex digits, mode 0600.
    File(PathBuf),
    /// Such a file among the credentials that systemd hands over: its name in `$CREDENTIALS_DIRECTORY`.
    Credential(String),
    /// Derived by the module of a plugin with key custody.
    Custody(String),
}

impl fmt::Display for KekSource {
    /// As it is configured.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Credential(name) => write!(f, "credential:{name}"),
            Self::Custody(plugin) => write!(f, "custody:{plugin}"),
        }
    }
}

/// `[management.terminals]`: TLS for everybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TerminalsListener {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// PEM file, the server's certificate first and then its chain.
    pub certificate: PathBuf,
    /// PEM file of its private key.
    pub private_key: PathBuf,
    /// How terminals reach it, for enrolment links: `https://HOST[:PORT]`. Made
    /// of the certificate's first name and the port when it is not given.
    pub url: Option<Uri>,
}

/// `[management.services]`: mutual TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicesListener {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// PEM file, the server's certificate first and then its chain; SAN URI `idb://<realm>/manager`.
    pub certificate: PathBuf,
    /// PEM file of its private key.
    pub private_key: PathBuf,
    /// PEM file of the authorities whose client certificates are accepted.
    pub client_ca: PathBuf,
}

/// `[management.limits]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ManagementLimits {
    /// Decryption requests a second of each service, at least 1.
    pub per_service_per_second: u32,
    /// Requests of terminals a second from each source address, at least 1.
    pub per_source_per_second: u32,
    /// How many of them may come at once, at least 1.
    pub per_source_burst: u32,
}

/// `[service]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceConfig {
    /// Service id: 1 to 128 bytes of `[a-z0-9.-]`.
    pub id: String,
    /// Address to listen on.
    pub listen: SocketAddr,
    /// PEM file, the server's certificate first and then its chain.
    pub certificate: PathBuf,
    /// PEM file of its private key.
    pub private_key: PathBuf,
    /// The plugin that issues service authentication keys.
    pub issuer: String,
    /// Where issued keys, pending sessions and challenges lie.
    pub state: StateChoice,
    /// How long an issued key lives. Whole seconds.
    pub key_lifetime: Duration,
    /// How long a terminal has to take up a key. Whole seconds.
    pub pending: Duration,
    /// Suites allowed here by registry id, at least one, none twice.
    pub suites: Vec<u16>,
    /// Key exchanges allowed here by registry id, at least one, none twice.
    pub kems: Vec<u8>,
    /// To what an envelope must be bound.
    pub binding: Binding,
    /// The guarded server: `http://HOST[:PORT]`, without path or query.
    pub upstream: Uri,
    /// Whether the upstream is spoken to in HTTP/2 without asking (h2c, prior knowledge).
    pub upstream_http2: bool,
    /// `[service.limits]`
    pub limits: ServiceLimits,
    /// `[service.manager]`; `None` exactly when this process has the management role too.
    pub manager: Option<ManagerConfig>,
}

/// Where the service role keeps what several daemons may share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateChoice {
    /// In this process; gone when it ends.
    Memory,
    /// In the plugin of this name.
    Plugin(String),
}

/// To what a sign-on envelope must be bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding {
    /// Nothing is demanded.
    None,
    /// A challenge that this service gave out, or the TLS connection.
    Challenge,
    /// The TLS connection on which it comes (RFC 9266).
    TlsExporter,
}

/// `[service.limits]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServiceLimits {
    /// Sign-ons a second of each source address, at least 1.
    pub per_source_per_second: u32,
    /// How many may come at once, at least 1.
    pub per_source_burst: u32,
    /// Sign-ons a second of each user, wherever from, at least 1.
    pub per_user_per_second: u32,
    /// How many of one user may come at once, at least 1.
    pub per_user_burst: u32,
}

/// `[service.manager]`: where the management server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManagerConfig {
    /// `https://HOST[:PORT]`, without path or query, of each daemon that is the management
    /// server; at least one. All of them have the same user store.
    pub urls: Vec<Uri>,
    /// PEM file of the authorities that sign the manager's certificate.
    pub ca: PathBuf,
    /// PEM file of this service's client certificate; SAN URI `idb://<realm>/service/<id>`.
    pub certificate: PathBuf,
    /// PEM file of its private key.
    pub private_key: PathBuf,
}
