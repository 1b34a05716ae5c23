//! The daemon as a whole: builds the roles from the configuration, starts
//! their listeners, and drains them when it is told to end.

use std::{io, mem, net::SocketAddr, path::Path, sync::Arc, time::Duration, time::Instant};

use async_trait::async_trait;
use bytes::Bytes;
use claviger_plugin_api::{KeyIssuer, StateStore};
use claviger_protocol::{Realm, ServiceId};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    admin::{AdminServer, AdminServerError, AdminState},
    clock,
    config::types::{Config, ManagementConfig, ServiceConfig, StateChoice},
    management::{
        self, Management, NotReady, account,
        http::{ServicesHandler, TerminalsHandler},
        kek::Recipients,
    },
    net::{Handler, NetError, Server, SourceLimit, tls::server_config},
    plugin_host::{HostServices, PluginHost, PluginHostError, StateSource},
    service::{self, ManagerLink, Relay, Relayed, RemoteManager, ServiceRole, Unavailable},
    state::MemoryState,
    suites::{SuiteMissing, Suites},
    telemetry::{
        http::TelemetryHandler,
        logs::{self, LogError},
        metrics::Metrics,
        readiness::{Readiness, ReadyFlag},
        systemd,
    },
};

/// Why the daemon did not start: one line for the operator.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The metrics.
    #[error("metrics: {0}")]
    Metrics(String),
    /// A required plugin.
    #[error(transparent)]
    Plugins(#[from] PluginHostError),
    /// A plugin that a role needs has not what the role needs.
    #[error("plugin {plugin} has no {needed}, which {role} needs")]
    Component {
        /// Its name in the configuration.
        plugin: String,
        /// What it should have.
        needed: &'static str,
        /// Who needs it.
        role: &'static str,
    },
    /// A configured suite that nobody serves.
    #[error("{role}: {source}")]
    Suite {
        /// Who needs it.
        role: &'static str,
        /// Which one.
        source: SuiteMissing,
    },
    /// The management role.
    #[error("management: {0}")]
    Management(#[from] management::StartError),
    /// The service role.
    #[error(transparent)]
    Service(#[from] service::BuildError),
    /// A listener or its certificates.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The administration socket.
    #[error(transparent)]
    Admin(#[from] AdminServerError),
    /// The system.
    #[error("signals: {0}")]
    Signals(#[from] io::Error),
    /// A name that the configuration let pass.
    #[error("{0}")]
    Name(String),
}

/// Runs the daemon until SIGTERM or SIGINT, then drains it. `config` was read
/// from `path`, where plugins that are replaced are looked up again.
pub async fn run(config: Config, path: &Path) -> Result<(), Error> {
    logs::init(&config.log)?;
    // Another part of the process may have installed it: that is the same one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let metrics = Metrics::install().map_err(|error| Error::Metrics(error.to_string()))?;
    let app = App::build(config, path, metrics).await?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let running = app.start();
    systemd::notify(systemd::READY);
    tokio::select! {
        _ = terminate.recv() => info!("SIGTERM: draining"),
        _ = interrupt.recv() => info!("SIGINT: draining"),
    }
    systemd::notify(systemd::STOPPING);
    tokio::select! {
        () = running.drain() => info!("drained"),
        _ = terminate.recv() => warn!("a second signal: ending at once"),
        _ = interrupt.recv() => warn!("a second signal: ending at once"),
    }
    Ok(())
}

/// Everything built and bound, nothing served yet.
struct App {
    grace: Duration,
    readiness: Readiness,
    plugins: Arc<PluginHost>,
    management: Option<ManagementRole>,
    service: Option<ReadyFlag>,
    listeners: Vec<Listener>,
    telemetry: Option<Listener>,
    metrics: Metrics,
    admin: (AdminServer, Arc<AdminState>),
}

struct Listener {
    what: &'static str,
    server: Server,
    tls: Option<Arc<rustls::ServerConfig>>,
    handler: Arc<dyn Handler>,
}

impl App {
    async fn build(config: Config, path: &Path, metrics: Metrics) -> Result<Self, Error> {
        let readiness = Readiness::new();
        let realm: Realm = config.realm.parse().map_err(Error::Name)?;
        let memory: Arc<dyn StateStore> = Arc::new(MemoryState::new());
        let source = match config.service.as_ref().map(|service| &service.state) {
            None => StateSource::None,
            Some(StateChoice::Memory) => StateSource::Store(memory.clone()),
            Some(StateChoice::Plugin(name)) => StateSource::Plugin(name.clone()),
        };
        let services = HostServices { state: source, clock: clock::system() };
        let plugins = Arc::new(PluginHost::load(&config.plugins, services).await?);

        let mut listeners = Vec::new();
        let management = match &config.management {
            None => None,
            Some(section) => {
                let role = build_management(&realm, section, &plugins).await?;
                listeners.extend(management_listeners(section, &role)?);
                let flag = readiness.register("management");
                let (store, custody) = (section.store.clone(), section.custody.clone());
                Some(ManagementRole { role, store, custody, flag })
            }
        };
        let service = match &config.service {
            None => None,
            Some(section) => {
                let role = management.as_ref().map(|management| &management.role);
                listeners.push(service_listener(&realm, section, &plugins, memory, role)?);
                Some(readiness.register("service"))
            }
        };
        let telemetry = match config.telemetry.listen {
            None => None,
            Some(address) => Some(Listener::bind(
                "telemetry",
                address,
                None,
                Arc::new(TelemetryHandler::new(metrics.clone(), readiness.clone())),
            )?),
        };
        let state = AdminState {
            management: management.as_ref().map(|management| management.role.clone()),
            plugins: plugins.clone(),
            readiness: readiness.clone(),
            roles: config.roles,
            realm: config.realm.clone(),
            configuration: path.to_owned(),
            started: Instant::now(),
        };
        let admin = (AdminServer::bind(&config.admin)?, Arc::new(state));
        let grace = config.drain.grace;
        Ok(Self { grace, readiness, plugins, management, service, listeners, telemetry, metrics, admin })
    }

    fn start(self) -> Running {
        let stop = CancellationToken::new();
        let end = CancellationToken::new();
        let mut serving = JoinSet::new();
        let mut background = JoinSet::new();
        for listener in self.listeners {
            serving.spawn(listener.run(stop.clone(), self.grace));
        }
        let (admin, state) = self.admin;
        info!(socket = %admin.path().display(), "administration");
        serving.spawn(admin.run(state, stop.clone()));
        if let Some(telemetry) = self.telemetry {
            background.spawn(telemetry.run(end.clone(), Duration::from_secs(1)));
        }
        background.spawn(self.metrics.upkeep(end.clone()));
        if let Some(management) = self.management {
            background.spawn(management.watch(self.plugins.clone(), end.clone()));
        }
        if let Some(flag) = self.service {
            background.spawn(watch_service(flag, self.plugins, end.clone()));
        }
        Running { readiness: self.readiness, stop, end, serving, background, grace: self.grace }
    }
}

impl Listener {
    fn bind(
        what: &'static str,
        address: SocketAddr,
        tls: Option<Arc<rustls::ServerConfig>>,
        handler: Arc<dyn Handler>,
    ) -> Result<Self, NetError> {
        Ok(Self { what, server: Server::bind(address)?, tls, handler })
    }

    async fn run(self, stop: CancellationToken, grace: Duration) {
        info!(listener = self.what, address = %self.server.local_addr(), "listening");
        self.server.run(self.tls, self.handler, stop, grace).await;
    }
}

/// A daemon that serves.
struct Running {
    readiness: Readiness,
    stop: CancellationToken,
    end: CancellationToken,
    serving: JoinSet<()>,
    background: JoinSet<()>,
    grace: Duration,
}

impl Running {
    /// Stops to accept, lets running requests finish, and ends telemetry last.
    async fn drain(mut self) {
        self.readiness.drain();
        self.stop.cancel();
        let finished = async { while self.serving.join_next().await.is_some() {} };
        if tokio::time::timeout(self.grace + Duration::from_secs(2), finished).await.is_err() {
            warn!("listeners did not end within the grace period");
        }
        self.end.cancel();
        let ended = async { while self.background.join_next().await.is_some() {} };
        if tokio::time::timeout(Duration::from_secs(2), ended).await.is_err() {
            warn!("background tasks did not end");
        }
    }
}

/// The management role of this daemon.
struct ManagementRole {
    role: Arc<Management>,
    /// The plugin that holds its users.
    store: String,
    /// The plugin that keeps unique keys, where there is one.
    custody: Option<String>,
    flag: ReadyFlag,
}

impl ManagementRole {
    /// Why it is not ready, with the plugin's name where it is one's fault.
    fn reason(&self, error: &NotReady) -> String {
        let plugin = match error {
            NotReady::Custody(_) => self.custody.as_ref(),
            NotReady::Store(_) | NotReady::Keyring(_) => Some(&self.store),
        };
        plugin.map_or_else(|| error.to_string(), |plugin| format!("plugin {plugin}: {error}"))
    }

    /// Keeps the service registry as it stands in the store, and with it the flag.
    async fn watch(self, plugins: Arc<PluginHost>, end: CancellationToken) {
        let mut changes = plugins.changes();
        loop {
            match self.role.refresh().await {
                Ok(()) => self.flag.ready(),
                Err(error) => self.flag.set(false, &self.reason(&error)),
            }
            if !next_look(&mut changes, &end).await {
                return;
            }
        }
    }
}

/// Asks what the service role needs for its health, and sets its flag.
async fn watch_service(flag: ReadyFlag, plugins: Arc<PluginHost>, end: CancellationToken) {
    let mut changes = plugins.changes();
    loop {
        let health = plugins.health().await;
        let needed = health.iter().filter(|health| !matches!(health.component, "user_store" | "custody"));
        match needed.filter_map(|health| health.problem.as_ref().map(|problem| (health, problem))).next() {
            None => flag.ready(),
            Some((health, problem)) => flag.set(false, &format!("plugin {}: {problem}", health.plugin)),
        }
        if !next_look(&mut changes, &end).await {
            return;
        }
    }
}

/// Waits for the next look at health and registry: at once when a component was
/// cut off or let back in. `false` at the end.
async fn next_look(changes: &mut watch::Receiver<()>, end: &CancellationToken) -> bool {
    tokio::select! {
        () = end.cancelled() => false,
        changed = changes.changed() => changed.is_ok(),
        () = tokio::time::sleep(HEALTH_INTERVAL) => true,
    }
}

/// How often health and registry are looked at.
const HEALTH_INTERVAL: Duration = Duration::from_secs(5);

async fn build_management(
    realm: &Realm,
    section: &ManagementConfig,
    plugins: &PluginHost,
) -> Result<Arc<Management>, Error> {
    let suites = Suites::new(&section.suites, |id| plugins.suite(id))
        .map_err(|source| Error::Suite { role: "management", source })?;
    let store = plugins.user_store(&section.store).ok_or_else(|| Error::Component {
        plugin: section.store.clone(),
        needed: "user store",
        role: "management",
    })?;
    let custody = match &section.custody {
        None => None,
        Some(name) => Some(plugins.custody(name).ok_or_else(|| Error::Component {
            plugin: name.clone(),
            needed: "key custody",
            role: "management",
        })?),
    };
    let modules = |plugin: &str| plugins.custody(plugin);
    let recipients = Recipients::open(&section.key_encryption_keys, realm.as_str(), modules).await;
    Ok(Management::start(realm.clone(), section, suites, store, custody, recipients, clock::system()).await?)
}

fn management_listeners(section: &ManagementConfig, role: &Arc<Management>) -> Result<Vec<Listener>, Error> {
    let terminals = &section.terminals;
    let tls = server_config(&terminals.certificate, &terminals.private_key, None)?;
    let limit = SourceLimit::new(section.limits.per_source_per_second, section.limits.per_source_burst);
    let handler = Arc::new(TerminalsHandler::new(role.clone(), limit));
    let mut listeners = vec![Listener::bind("management.terminals", terminals.listen, Some(tls), handler)?];
    if let Some(services) = &section.services {
        let tls = server_config(&services.certificate, &services.private_key, Some(&services.client_ca))?;
        let handler = Arc::new(ServicesHandler(role.clone()));
        listeners.push(Listener::bind("management.services", services.listen, Some(tls), handler)?);
    }
    Ok(listeners)
}

fn service_listener(
    realm: &Realm,
    section: &ServiceConfig,
    plugins: &PluginHost,
    memory: Arc<dyn StateStore>,
    management: Option<&Arc<Management>>,
) -> Result<Listener, Error> {
    let issuer: Arc<dyn KeyIssuer> = plugins.issuer(&section.issuer).ok_or_else(|| Error::Component {
        plugin: section.issuer.clone(),
        needed: "issuer",
        role: "service",
    })?;
    let state = match &section.state {
        StateChoice::Memory => memory,
        StateChoice::Plugin(name) => plugins.state_store(name).ok_or_else(|| Error::Component {
            plugin: name.clone(),
            needed: "state store",
            role: "service",
        })?,
    };
    let manager: Arc<dyn ManagerLink> = match (management, &section.manager) {
        (Some(role), _) => {
            let service = section.id.parse().map_err(Error::Name)?;
            Arc::new(LocalManager { management: role.clone(), service })
        }
        (None, Some(manager)) => Arc::new(RemoteManager::new(manager, realm.as_str())?),
        (None, None) => return Err(Error::Name("[service.manager] is missing".into())),
    };
    let suites: Vec<_> = section.suites.iter().filter_map(|id| plugins.suite(*id)).collect();
    let role = ServiceRole::build(section, realm.as_str(), &suites, issuer, state, manager)?;
    let tls = server_config(&section.certificate, &section.private_key, None)?;
    Ok(Listener::bind("service", section.listen, Some(tls), role)?)
}

/// The management role of this process, called in memory. The service id is
/// that of the configuration, in the place of a certificate's.
struct LocalManager {
    management: Arc<Management>,
    service: ServiceId,
}

#[async_trait]
impl ManagerLink for LocalManager {
    async fn decrypt(&self, envelope: Bytes) -> Result<Vec<u8>, Unavailable> {
        match self.management.reply_processor().decrypt(&self.service, &envelope).await {
            // Moved, not copied: the service role wipes it.
            Ok(mut answered) => Ok(mem::take(&mut *answered.bytes)),
            Err(error) => Err(Unavailable(format!(
                "{error}; register it with `clavigerd service add {} --origin https://...`",
                self.service
            ))),
        }
    }

    async fn relay(&self, kind: Relay, envelope: Bytes) -> Result<Relayed, Unavailable> {
        let request = match kind {
            Relay::Rotate => account::Request::Rotate,
            Relay::Directory => account::Request::Directory,
        };
        let answered = self.management.account().handle(request, &envelope).await;
        Ok(Relayed { status: answered.code.http_status(), body: answered.bytes })
    }
}
