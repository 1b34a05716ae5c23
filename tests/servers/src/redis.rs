//! Servers of Debian's packages `redis-server` and `redis-sentinel`: one alone,
//! a master and its replica with Sentinels, a Cluster.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc, LazyLock, Mutex, Weak,
        atomic::{AtomicU32, Ordering},
    },
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How long a server or a failover may take, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A Redis server, or a Sentinel, and its directory.
pub struct Redis {
    directory: TempDir,
    port: u16,
    tls: Option<TlsFiles>,
    program: &'static str,
    process: Mutex<Child>,
    prefixes: AtomicU32,
}

/// The PEM files of a server with TLS.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The authority, for both sides.
    pub ca: PathBuf,
    /// The server's certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Redis {
    /// The server that the tests of this binary share while any of them runs,
    /// each under a [`prefix`](Self::prefix) of its own.
    pub fn shared() -> Arc<Self> {
        static SHARED: LazyLock<Mutex<Weak<Redis>>> = LazyLock::new(Mutex::default);
        let mut shared = SHARED.lock().unwrap();
        shared.upgrade().unwrap_or_else(|| {
            let server = Arc::new(Self::start(""));
            *shared = Arc::downgrade(&server);
            server
        })
    }

    /// A server of its own that keeps what it answered (`appendfsync always`),
    /// with further lines of `redis.conf`, which may say otherwise.
    pub fn start(settings: &str) -> Self {
        Self::run("redis-server", None, &format!("{DURABLE}{settings}"))
    }

    /// A server that speaks TLS alone, and wants a certificate of the same
    /// authority from its clients.
    pub fn start_with_tls(files: TlsFiles) -> Self {
        Self::run("redis-server", Some(files), DURABLE)
    }

    fn run(program: &'static str, tls: Option<TlsFiles>, settings: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let port = free_port();
        let listen = match &tls {
            None => format!("port {port}\n"),
            Some(TlsFiles { ca, certificate, key }) => format!(
                "port 0\ntls-port {port}\ntls-ca-cert-file {}\ntls-cert-file {}\ntls-key-file {}\n",
                ca.display(),
                certificate.display(),
                key.display()
            ),
        };
        let common = format!("bind 127.0.0.1\ndaemonize no\nlogfile log\ndir {}\n", directory.path().display());
        fs::write(directory.path().join("redis.conf"), format!("{common}{listen}{settings}")).unwrap();
        let process = Mutex::new(spawn(program, directory.path()));
        let server = Self { directory, port, tls, program, process, prefixes: AtomicU32::new(0) };
        server.wait();
        server
    }

    /// A prefix for names that no other test of this server has.
    pub fn prefix(&self) -> String {
        format!("test{}", self.prefixes.fetch_add(1, Ordering::Relaxed))
    }

    /// Its url.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "rediss" } else { "redis" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its process.
    pub fn process_id(&self) -> u32 {
        self.process.lock().unwrap().id()
    }

    /// Its directory, for what tests put there.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Runs a command with `redis-cli`; its answer.
    pub fn cli(&self, arguments: &[&str]) -> String {
        let output = self.try_cli(arguments);
        let text = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        assert!(output.status.success(), "{arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    fn try_cli(&self, arguments: &[&str]) -> Output {
        let mut cli = Command::new("redis-cli");
        cli.args(["-e", "--no-auth-warning", "-p", &self.port.to_string()]).stdin(Stdio::null());
        if let Some(TlsFiles { ca, certificate, key }) = &self.tls {
            cli.arg("--tls").arg("--cacert").arg(ca).arg("--cert").arg(certificate).arg("--key").arg(key);
        }
        cli.args(arguments).output().expect("apt-get install redis-tools")
    }

    /// `kill -9`.
    pub fn kill(&self) {
        let mut process = self.process.lock().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// Starts it again after [`kill`](Self::kill), and waits until it has loaded its data.
    pub fn restart(&self) {
        *self.process.lock().unwrap() = spawn(self.program, self.directory.path());
        self.wait();
    }

    /// It stands still and answers nothing (`SIGSTOP`).
    pub fn stop(&self) {
        self.signal(Signal::STOP);
    }

    /// It goes on after [`stop`](Self::stop).
    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.lock().unwrap();
        kill_process(Pid::from_child(&process), signal).unwrap();
    }

    fn wait(&self) {
        wait_for("the server", || self.try_cli(&["PING"]).stdout.starts_with(b"PONG"));
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let process = self.process.get_mut().unwrap();
        let _ = process.kill();
        let _ = process.wait();
    }
}

/// A master, its replica, and three Sentinels that know them as [`MASTER`](Self::MASTER).
pub struct RedisSentinel {
    /// The master first; a failover does not change their order.
    pub servers: [Redis; 2],
    /// Those who watch.
    pub sentinels: [Redis; 3],
}

impl RedisSentinel {
    /// The master's name.
    pub const MASTER: &str = "claviger";

    /// Starts them and waits until they know one another.
    pub fn start() -> Self {
        let master = Redis::start("");
        let replica = Redis::start(&format!("replicaof 127.0.0.1 {}\n", master.port));
        wait_for("the replica", || replica.cli(&["INFO", "replication"]).contains("master_link_status:up"));
        let watch = format!(
            "sentinel monitor {name} 127.0.0.1 {} 2\nsentinel down-after-milliseconds {name} 1000\n\
             sentinel failover-timeout {name} 5000\n",
            master.port,
            name = Self::MASTER,
        );
        let sentinels = [0; 3].map(|_| Redis::run("redis-sentinel", None, &watch));
        for sentinel in &sentinels {
            wait_for("the Sentinels", || {
                let about = sentinel.cli(&["INFO", "sentinel"]);
                about.contains("status=ok") && about.contains("slaves=1,sentinels=3")
            });
        }
        Self { servers: [master, replica], sentinels }
    }

    /// The Sentinels' urls.
    pub fn urls(&self) -> Vec<String> {
        self.sentinels.iter().map(Redis::url).collect()
    }
}

/// A Cluster of three masters.
pub struct RedisCluster {
    /// Its nodes.
    pub nodes: [Redis; 3],
}

impl RedisCluster {
    /// Starts it and waits until it has all slots.
    pub fn start() -> Self {
        let settings = "cluster-enabled yes\ncluster-node-timeout 2000\n";
        let nodes = [0; 3].map(|_| Redis::start(&format!("{settings}cluster-port {}\n", free_port())));
        let addresses: Vec<String> = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        let mut create = vec!["--cluster", "create"];
        create.extend(addresses.iter().map(String::as_str));
        create.push("--cluster-yes");
        nodes[0].cli(&create);
        for node in &nodes {
            wait_for("the Cluster", || {
                let about = node.cli(&["CLUSTER", "INFO"]);
                about.contains("cluster_state:ok") && about.contains("cluster_known_nodes:3")
            });
        }
        Self { nodes }
    }

    /// The nodes' urls.
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(Redis::url).collect()
    }
}

/// What a user store needs.
const DURABLE: &str = "appendonly yes\nappendfsync always\nmaxmemory-policy noeviction\nsave \"\"\n";

fn spawn(program: &str, directory: &Path) -> Child {
    let mut server = Command::new(program);
    server.arg(directory.join("redis.conf")).current_dir(directory);
    server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    server.spawn().unwrap_or_else(|error| panic!("apt-get install {program}: {error}"))
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// # Panics
/// Where `what` is not ready after a long time.
fn wait_for(what: &str, ready: impl Fn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !ready() {
        assert!(Instant::now() < until, "{what} is not ready");
        sleep(Duration::from_millis(50));
    }
}
