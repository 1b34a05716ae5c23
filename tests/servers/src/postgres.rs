//! A PostgreSQL server of Debian's package.

use std::{
    fs,
    net::TcpListener,
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, LazyLock, Mutex, Weak,
        atomic::{AtomicU32, Ordering},
    },
    thread::sleep,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::thaw;

/// The superuser's password.
pub const POSTGRES_PASSWORD: &str = "a password of the test";

/// A server and its directory.
pub struct Postgres {
    directory: TempDir,
    port: u16,
    process: Mutex<Child>,
    databases: AtomicU32,
}

impl Postgres {
    /// The server that the tests of this binary share while any of them runs.
    pub fn shared() -> Arc<Self> {
        static SHARED: LazyLock<Mutex<Weak<Postgres>>> = LazyLock::new(Mutex::default);
        let mut shared = SHARED.lock().unwrap();
        shared.upgrade().unwrap_or_else(|| {
            let server = Arc::new(Self::start(""));
            *shared = Arc::downgrade(&server);
            server
        })
    }

    /// A server of its own, with further lines of `postgresql.conf`.
    pub fn start(settings: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (data, password) = (directory.path().join("data"), directory.path().join("password"));
        fs::write(&password, POSTGRES_PASSWORD).unwrap();
        if let Some((uid, gid)) = server_user() {
            chown(directory.path(), Some(uid), Some(gid)).unwrap();
            chown(&password, Some(uid), Some(gid)).unwrap();
        }
        let mut initdb = command("initdb", directory.path());
        initdb.args([
            "--no-sync",
            "--auth=scram-sha-256",
            "--username=claviger",
            "--encoding=UTF8",
            "--locale=C",
            "--wal-segsize=1",
        ]);
        initdb.arg("-D").arg(&data).arg(format!("--pwfile={}", password.display()));
        let output = initdb.output().unwrap();
        assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let settings = format!(
            "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = '{}'\n\
             shared_buffers = 16MB\nmax_connections = 100\nlc_messages = 'C'\n{settings}",
            directory.path().display()
        );
        fs::write(data.join("postgresql.conf"), settings).unwrap();
        let process = Mutex::new(run(directory.path()));
        let server = Self { directory, port, process, databases: AtomicU32::new(0) };
        server.wait();
        server
    }

    /// `kill -9` of the server and, as its shared memory goes, of all its parts.
    pub fn kill(&self) {
        let mut process = self.process.lock().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// Starts it again after [`kill`](Self::kill).
    pub fn restart(&self) {
        // The parts of the killed one notice it and end; until then the server
        // refuses to start.
        let patience = Instant::now() + Duration::from_secs(30);
        loop {
            let mut process = run(self.directory.path());
            while process.try_wait().unwrap().is_none() {
                if self.answers() {
                    *self.process.lock().unwrap() = process;
                    return;
                }
                sleep(Duration::from_millis(50));
            }
            assert!(Instant::now() < patience, "the server does not start again");
            sleep(Duration::from_millis(100));
        }
    }

    /// A new, empty database: its name.
    pub fn database(&self) -> String {
        let name = format!("test{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.sql("postgres", &format!("CREATE DATABASE {name}"));
        name
    }

    /// The server's url with this password.
    pub fn url(&self, database: &str, password: &str) -> String {
        let password = password.replace(' ', "%20");
        format!("postgres://claviger:{password}@127.0.0.1:{}/{database}", self.port)
    }

    /// Runs SQL with `psql`; its answer.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        let mut psql = command("psql", self.directory.path());
        let output = psql
            .args(["--no-psqlrc", "-qAtX", "-v", "ON_ERROR_STOP=1", "-c", sql])
            .arg(self.url(database, POSTGRES_PASSWORD));
        let output = output.output().unwrap();
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// A database as `pg_dump` writes it.
    pub fn dump(&self, database: &str) -> String {
        let mut dump = command("pg_dump", self.directory.path());
        let output = dump.arg("--inserts").arg(self.url(database, POSTGRES_PASSWORD)).output().unwrap();
        assert!(output.status.success(), "pg_dump: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The directory of the socket and of what tests put there.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Its process.
    pub fn process_id(&self) -> u32 {
        self.process.lock().unwrap().id()
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    fn wait(&self) {
        let patience = Instant::now() + Duration::from_secs(30);
        while !self.answers() {
            assert!(Instant::now() < patience, "the server does not answer");
            sleep(Duration::from_millis(50));
        }
    }

    fn answers(&self) -> bool {
        let mut ready = command("pg_isready", self.directory.path());
        let ready = ready.args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()]);
        ready.status().unwrap().success()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let process = self.process.get_mut().unwrap();
        thaw(process.id()); // its parts notice that it ends, unless they are frozen
        let _ = process.kill();
        let _ = process.wait();
    }
}

/// Gives a file to the server's user, readable by it alone.
pub fn give(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    if let Some((uid, gid)) = server_user() {
        chown(path, Some(uid), Some(gid)).unwrap();
    }
}

fn run(directory: &Path) -> Child {
    let log = fs::OpenOptions::new().create(true).append(true).open(directory.join("log")).unwrap();
    let mut server = command("postgres", directory);
    server.arg("-D").arg(directory.join("data")).stdout(Stdio::null()).stderr(log).spawn().unwrap()
}

/// A program of the server's package, run as its user.
fn command(program: &str, directory: &Path) -> Command {
    let mut command = Command::new(binaries().join(program));
    command.current_dir(directory).stdin(Stdio::null()).env("LC_ALL", "C");
    if let Some((uid, gid)) = server_user() {
        command.uid(uid).gid(gid);
    }
    command
}

fn binaries() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").expect("apt-get install postgresql");
    let found = versions.map(|version| version.unwrap().path().join("bin"));
    found.filter(|bin| bin.join("postgres").exists()).max().expect("apt-get install postgresql")
}

/// The server refuses to run as root: then whose it is, `nobody`'s.
fn server_user() -> Option<(u32, u32)> {
    rustix::process::geteuid().is_root().then_some((65534, 65534))
}
