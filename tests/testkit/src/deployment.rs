//! A deployment in a directory: one daemon with both roles, or two over mutual TLS.

use std::{
    any::Any,
    fmt, fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use crate::{Binaries, Process, Result, Terminal, free_port, process::run};

/// The realm of every deployment made here.
pub const REALM: &str = "example";
/// The id of its service.
pub const SERVICE: &str = "shop.example";

/// The plugin of the storage by default.
const SQLITE: &str = "store-sqlite";
/// The files of its key-encryption keys, below its directory.
pub const KEKS: [&str; 2] = ["kek.key", "kek-recovery.key"];

/// Which daemons there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// One daemon with both roles, which call each other in memory.
    AllInOne,
    /// A daemon for each role; the service asks over mutual TLS.
    Split,
    /// A daemon with the management role alone, for services of other deployments.
    Management,
}

/// What may differ from one deployment to the next.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Further lines of the `[management]` table.
    pub management: String,
    /// Further lines of the `[service]` table.
    pub service: String,
    /// Where the management role keeps its users; without it, SQLite in the deployment's directory.
    pub storage: Option<Storage>,
}

/// Where a management role keeps its users, and the server that this needs.
#[derive(Clone)]
pub struct Storage {
    /// Plugins by the names of their folders, each with the lines of its `[plugin.config]`.
    pub plugins: Vec<(String, String)>,
    /// `management.store`: one of the plugins.
    pub store: String,
    /// `management.custody`: one of the plugins.
    pub custody: Option<String>,
    /// Variables of the environment that its daemons need.
    pub environment: Vec<(String, PathBuf)>,
    /// What ends when the last deployment on it is dropped.
    pub server: Arc<dyn Any + Send + Sync>,
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Storage").field("store", &self.store).field("custody", &self.custody).finish_non_exhaustive()
    }
}

/// A deployment: files in a directory, and the daemons that were started.
#[derive(Debug)]
pub struct Deployment {
    binaries: Binaries,
    directory: PathBuf,
    layout: Layout,
    terminals: u16,
    services: u16,
    service: u16,
    telemetry: [u16; 2],
    upstream: SocketAddr,
    options: Options,
    /// The cipher plugins by the names of their folders, in this order.
    ciphers: Vec<&'static str>,
    /// Other daemons that the service asks too.
    also: Vec<SocketAddr>,
    daemons: [Option<Process>; 2],
}

impl Deployment {
    /// Makes authority, keys and configuration below `directory`. Nothing runs yet.
    pub fn prepare(binaries: Binaries, directory: &Path, layout: Layout, upstream: SocketAddr) -> Result<Self> {
        Self::prepare_with(binaries, directory, layout, upstream, Options::default())
    }

    /// As [`Self::prepare`], with options.
    pub fn prepare_with(
        binaries: Binaries,
        directory: &Path,
        layout: Layout,
        upstream: SocketAddr,
        options: Options,
    ) -> Result<Self> {
        let deployment = Self::new(binaries, directory, layout, upstream, options);
        deployment.issue()?;
        deployment.configure()?;
        if deployment.storage().custody.is_some() {
            deployment.admin(&["hsm", "init"])?;
        }
        Ok(deployment)
    }

    /// Another deployment of the same realm, with the same authority, certificates, key-encryption keys
    /// and storage, and files of its own in `directory`.
    ///
    /// The storage must be one that several daemons can share.
    pub fn sibling(&self, directory: &Path, layout: Layout) -> Result<Self> {
        self.sibling_with(directory, layout, self.options.clone())
    }

    /// As [`Self::sibling`], with other options: on another storage, it is the same realm only when
    /// that holds a copy.
    pub fn sibling_with(&self, directory: &Path, layout: Layout, options: Options) -> Result<Self> {
        let sibling = Self::new(self.binaries.clone(), directory, layout, self.upstream, options);
        for shared in ["pki"].into_iter().chain(KEKS) {
            run(Command::new("cp").arg("-a").arg(self.directory.join(shared)).arg(directory))?;
        }
        sibling.configure()?;
        Ok(sibling)
    }

    fn new(binaries: Binaries, directory: &Path, layout: Layout, upstream: SocketAddr, options: Options) -> Self {
        Self {
            binaries,
            directory: directory.to_owned(),
            layout,
            terminals: free_port(),
            services: free_port(),
            service: free_port(),
            telemetry: [free_port(), free_port()],
            upstream,
            options,
            ciphers: vec!["cipher-aws-lc"],
            also: Vec::new(),
            daemons: [None, None],
        }
    }

    /// Has the service ask the management daemon of a sibling too, from its next start on.
    pub fn ask_also(&mut self, sibling: &Self) -> Result<()> {
        self.also.push(sibling.services_address());
        self.configure()
    }

    /// Has all daemons load these cipher plugins (names of their folders) in this order, from their next start on.
    pub fn use_ciphers(&mut self, plugins: &[&'static str]) -> Result<()> {
        self.ciphers = plugins.to_vec();
        self.configure()
    }

    /// Starts all daemons and waits until they are ready.
    pub fn start(&mut self) -> Result<()> {
        self.start_daemon(0)?;
        if self.layout == Layout::Split {
            self.start_daemon(1)?;
        }
        Ok(())
    }

    /// Starts the daemon with the management role, or with both.
    pub fn start_management(&mut self) -> Result<()> {
        self.start_daemon(0)
    }

    /// `kill -9` of the daemon with the management role, or with both.
    pub fn kill_management(&mut self) {
        if let Some(daemon) = self.daemons[0].take() {
            daemon.kill();
        }
    }

    /// The management daemon's process.
    pub fn management(&self) -> Result<&Process> {
        self.daemons[0].as_ref().ok_or_else(|| "the management daemon does not run".to_owned())
    }

    /// Ends all daemons with SIGTERM; whether all ended well.
    pub fn stop(&mut self) -> Result<bool> {
        let mut well = true;
        for daemon in self.daemons.iter_mut().rev().filter_map(Option::take) {
            well &= daemon.terminate(Duration::from_secs(30))?;
        }
        Ok(well)
    }

    /// The running daemons.
    pub fn daemons(&mut self) -> impl Iterator<Item = &mut Process> {
        self.daemons.iter_mut().flatten()
    }

    /// Everything that the daemons have logged.
    pub fn logs(&self) -> String {
        self.daemons.iter().flatten().map(Process::log).collect()
    }

    /// A `clavigerd` command that administers this deployment.
    pub fn clavigerd(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.binaries.clavigerd());
        command.arg("--config").arg(self.configuration(0)).args(args);
        command.envs(self.storage().environment);
        command
    }

    /// Runs a `clavigerd` command; its standard output.
    pub fn admin(&self, args: &[&str]) -> Result<String> {
        run(&mut self.clavigerd(args))
    }

    /// Registers the service with its origin, and all attributes released.
    pub fn register_service(&self) -> Result<String> {
        let origin = self.origin();
        let mut args = vec!["service", "add", SERVICE, "--origin", &origin];
        for attribute in ["user", "name", "email", "groups"] {
            args.extend(["--release", attribute]);
        }
        self.admin(&args)
    }

    /// Makes an enrolment code for a user.
    pub fn enrolment_code(&self, user: &str) -> Result<String> {
        let answer = self.admin(&["user", "enrol-code", user, "--json"])?;
        let answer: serde_json::Value = serde_json::from_str(&answer).map_err(|error| format!("{error}: {answer}"))?;
        answer["code"].as_str().map(str::to_owned).ok_or_else(|| format!("no code in {answer}"))
    }

    /// A new terminal with its home below this deployment.
    pub fn terminal(&self, name: &str) -> Terminal {
        Terminal::new(self.binaries.claviger(), &self.directory.join("terminals").join(name))
    }

    /// A user with an enrolled terminal that knows the service.
    pub fn enrolled(&self, user: &str) -> Result<Terminal> {
        self.admin(&["user", "add", user, "--group", "staff"])?;
        let terminal = self.terminal(user);
        terminal.enrol(self, &self.enrolment_code(user)?)?;
        terminal.run(&["services", "add", SERVICE, &self.origin()])?;
        Ok(terminal)
    }

    /// Where terminals enrol.
    pub fn terminals_url(&self) -> String {
        format!("https://localhost:{}", self.terminals)
    }

    /// Where services ask, in a split deployment.
    pub fn services_address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.services))
    }

    /// The service's origin.
    pub fn origin(&self) -> String {
        format!("https://localhost:{}", self.service)
    }

    /// Where metrics of the management daemon are served.
    pub fn telemetry(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.telemetry[0]))
    }

    /// The daemon's metrics.
    pub fn metrics(&self) -> Result<String> {
        get(self.telemetry(), "/metrics").map(|(_, body)| body)
    }

    /// What the management daemon says of its readiness: the status and the body of `/readyz`.
    pub fn readiness(&self) -> Result<(u16, String)> {
        get(self.telemetry(), "/readyz")
    }

    /// The authority's certificate.
    pub fn ca(&self) -> PathBuf {
        self.directory.join("pki/ca.pem")
    }

    /// Everything lies below here.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The programs in use.
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// The configuration file of the daemon with the management role (0) or of the service (1).
    pub fn configuration(&self, daemon: usize) -> PathBuf {
        self.directory.join(["clavigerd.toml", "service.toml"][daemon])
    }

    fn start_daemon(&mut self, at: usize) -> Result<()> {
        let name = ["clavigerd", "clavigerd (service)"][at];
        let mut command = Command::new(self.binaries.clavigerd());
        command.arg("--config").arg(self.configuration(at)).arg("run");
        command.envs(self.storage().environment);
        let log = self.directory.join(["clavigerd.log", "service.log"][at]);
        let mut daemon = Process::start(name, &mut command, &log)?;
        let telemetry = SocketAddr::from(([127, 0, 0, 1], self.telemetry[at]));
        daemon.wait_until("/readyz", || get(telemetry, "/readyz").is_ok_and(|(status, _)| status == 200))?;
        self.daemons[at] = Some(daemon);
        Ok(())
    }

    fn issue(&self) -> Result<()> {
        let pki = self.directory.join("pki").display().to_string();
        let local = ["--dns", "localhost", "--ip", "127.0.0.1"];
        let clavigerd = |args: &[&str]| run(Command::new(self.binaries.clavigerd()).args(args));
        clavigerd(&["pki", "init", &pki, "--realm", REALM])?;
        clavigerd(&[&["pki", "issue", &pki, "server", "terminals"][..], &local].concat())?;
        clavigerd(&[&["pki", "issue", &pki, "manager"][..], &local].concat())?;
        clavigerd(&[&["pki", "issue", &pki, "service", SERVICE][..], &local].concat())?;
        for kek in KEKS {
            clavigerd(&["keys", "init", &self.directory.join(kek).display().to_string()])?;
        }
        Ok(())
    }

    fn configure(&self) -> Result<()> {
        let roles = match self.layout {
            Layout::AllInOne => r#"roles = ["management", "service"]"#,
            Layout::Split | Layout::Management => r#"roles = ["management"]"#,
        };
        let mut main = format!("{roles}\n{}", self.common(0));
        main += &self.management_section();
        match self.layout {
            Layout::AllInOne => main += &self.service_section(),
            Layout::Management => main += &self.services_section(),
            Layout::Split => {
                main += &self.services_section();
                let mut service = format!("roles = [\"service\"]\n{}", self.common(1));
                service += &self.service_section();
                service += &self.manager_section();
                self.write("service.toml", &service)?;
            }
        }
        self.write("clavigerd.toml", &main)
    }

    fn common(&self, daemon: usize) -> String {
        let mut text = format!(
            r#"realm = "{REALM}"

[telemetry]
listen = "127.0.0.1:{}"

[admin]
socket = "admin{daemon}.sock"
"#,
            self.telemetry[daemon]
        );
        text.extend(self.ciphers.iter().map(|name| self.plugin(name, "")));
        if daemon == 0 {
            for (name, config) in &self.storage().plugins {
                text += &self.plugin(name, config);
            }
        }
        if daemon == 1 || self.layout == Layout::AllInOne {
            text += &self.plugin("issuer-opaque", "");
        }
        text
    }

    fn plugin(&self, name: &str, config: &str) -> String {
        let path = self.binaries.plugin(name);
        let table = format!("\n[[plugin]]\nname = \"{name}\"\npath = \"{}\"\n", path.display());
        if config.is_empty() { table } else { format!("{table}[plugin.config]\n{config}\n") }
    }

    fn storage(&self) -> Storage {
        self.options.storage.clone().unwrap_or_else(|| Storage {
            plugins: vec![(SQLITE.into(), format!("path = \"{}\"", self.directory.join("users.db").display()))],
            store: SQLITE.into(),
            custody: None,
            environment: Vec::new(),
            server: Arc::new(()),
        })
    }

    fn management_section(&self) -> String {
        let storage = self.storage();
        let custody = storage.custody.map(|name| format!("custody = \"{name}\"")).unwrap_or_default();
        format!(
            r#"
[management]
store = "{}"
{custody}
key_encryption_keys = ["kek.key", "kek-recovery.key"]
{}

[management.terminals]
listen = "127.0.0.1:{}"
certificate = "pki/terminals.pem"
private_key = "pki/terminals.key"
"#,
            storage.store, self.options.management, self.terminals
        )
    }

    fn services_section(&self) -> String {
        format!(
            r#"
[management.services]
listen = "127.0.0.1:{}"
certificate = "pki/manager.pem"
private_key = "pki/manager.key"
client_ca = "pki/ca.pem"
"#,
            self.services
        )
    }

    fn service_section(&self) -> String {
        format!(
            r#"
[service]
id = "{SERVICE}"
listen = "127.0.0.1:{}"
certificate = "pki/{SERVICE}.pem"
private_key = "pki/{SERVICE}.key"
issuer = "issuer-opaque"
upstream = "http://{}"
{}
"#,
            self.service, self.upstream, self.options.service
        )
    }

    fn manager_section(&self) -> String {
        let daemons = [self.services_address()].into_iter().chain(self.also.iter().copied());
        let urls: Vec<_> = daemons.map(|address| format!("\"https://{address}\"")).collect();
        format!(
            r#"
[service.manager]
url = [{}]
ca = "pki/ca.pem"
certificate = "pki/{SERVICE}.pem"
private_key = "pki/{SERVICE}.key"
"#,
            urls.join(", ")
        )
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        fs::write(self.directory.join(name), text).map_err(|error| format!("{name}: {error}"))
    }
}

/// A plain GET of a telemetry page: status and body.
pub(crate) fn get(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let failed = |error: std::io::Error| format!("http://{address}{path}: {error}");
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).map_err(failed)?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).map_err(failed)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").map_err(failed)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(failed)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or("no status")?;
    Ok((status, body.to_owned()))
}
