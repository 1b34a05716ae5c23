//! The socket of the administration API: who may use it, and its life.

use std::{
    fs, io,
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt},
        net::UnixStream as StdUnixStream,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::{
        Request, State,
        connect_info::{ConnectInfo, Connected},
    },
    middleware::{self, Next},
    response::{IntoResponse, Response},
    serve::IncomingStream,
};
use http::StatusCode;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use super::{problem::Problem, routes};
use crate::{
    config::{AdminConfig, Roles},
    management::Management,
    plugin_host::PluginHost,
    telemetry::readiness::Readiness,
};

/// What the API is about.
pub struct AdminState {
    /// The management role; a daemon without it answers 404 for users and services.
    pub management: Option<Arc<Management>>,
    /// The plugins.
    pub plugins: Arc<PluginHost>,
    /// What works.
    pub readiness: Readiness,
    /// The roles of this daemon.
    pub roles: Roles,
    /// Its realm.
    pub realm: String,
    /// Where its configuration is read again for a plugin that is replaced.
    pub configuration: PathBuf,
    /// When it started.
    pub started: Instant,
}

/// Why the socket cannot be had. Each is one line for the operator.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminServerError {
    /// Another process answers there.
    #[error("admin.socket {}: another daemon listens there", .0.display())]
    Taken(PathBuf),
    /// Something that is no socket lies there.
    #[error("admin.socket {}: this is not a socket; remove it or name another path", .0.display())]
    NotASocket(PathBuf),
    /// The system refused.
    #[error("admin.socket {}: {source}", path.display())]
    Io {
        /// The socket or its directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A bound socket that does not serve yet.
#[derive(Debug)]
pub struct AdminServer {
    listener: UnixListener,
    path: PathBuf,
    /// What tells the socket from another one of that name.
    file: FileIdentity,
    allow_uids: Vec<u32>,
}

impl AdminServer {
    /// Makes the socket with mode 0660, and its directory with mode 0750 if there is none. A socket
    /// that nobody listens at is replaced. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When another daemon listens there, or the path cannot be used.
    pub fn bind(config: &AdminConfig) -> Result<Self, AdminServerError> {
        let path = config.socket.clone();
        let failed = |source| AdminServerError::Io { path: path.clone(), source };
        if let Some(parent) = path.parent().filter(|p| *p != Path::new("")) {
            fs::DirBuilder::new().recursive(true).mode(0o750).create(parent).map_err(failed)?;
        }
        clear(&path)?;
        // Whoever gets in before the mode is set is still told by its credentials.
        let listener = UnixListener::bind(&path).map_err(failed)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o660)).map_err(failed)?;
        let file = identity(&path).map_err(failed)?;
        Ok(Self { listener, path, file, allow_uids: config.allow_uids.clone() })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Serves until `stop`, then for at most five seconds more what was begun, and removes the socket.
    pub async fn run(self, state: Arc<AdminState>, stop: CancellationToken) {
        let mut allowed = self.allow_uids;
        allowed.extend([0, rustix::process::geteuid().as_raw()]);
        let app = routes::router(state)
            .layer(middleware::from_fn_with_state(Arc::<[u32]>::from(allowed), admit))
            .into_make_service_with_connect_info::<Caller>();
        let ending = stop.clone();
        let served = axum::serve(self.listener, app).with_graceful_shutdown(async move { ending.cancelled().await });
        let overtime = async {
            stop.cancelled().await;
            tokio::time::sleep(Duration::from_secs(5)).await;
        };
        tokio::select! {
            result = served.into_future() => if let Err(e) = result {
                tracing::error!(error = %e, "the administration socket failed");
            },
            () = overtime => tracing::warn!("an administration request was cut off"),
        }
        // While this daemon was ending, its successor may have put its own socket there.
        if identity(&self.path).is_ok_and(|file| file == self.file)
            && let Err(e) = fs::remove_file(&self.path)
        {
            tracing::debug!(error = %e, "the administration socket was removed by somebody else");
        }
    }
}

/// Who is at the other end, as the kernel says. `uid` is `u32::MAX`, which is nobody, when it does not say.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller {
    pub(super) uid: u32,
    pub(super) pid: i32,
}

impl Caller {
    /// Whether this is root or the daemon's own user, and not only one of `admin.allow_uids`.
    pub(super) fn is_operator(self) -> bool {
        self.may(&[0, rustix::process::geteuid().as_raw()])
    }

    /// Nobody is never allowed, whatever the list says.
    fn may(self, allowed: &[u32]) -> bool {
        self.uid != u32::MAX && allowed.contains(&self.uid)
    }
}

impl Connected<IncomingStream<'_, UnixListener>> for Caller {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        match stream.io().peer_cred() {
            Ok(peer) => Self { uid: peer.uid(), pid: peer.pid().unwrap_or(0) },
            Err(_) => Self { uid: u32::MAX, pid: 0 },
        }
    }
}

/// Lets in those who may, and hands their identity on.
async fn admit(
    State(allowed): State<Arc<[u32]>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    mut request: Request,
    next: Next,
) -> Response {
    if !caller.may(&allowed) {
        tracing::warn!(target: "audit", uid = caller.uid, pid = caller.pid, path = request.uri().path(), "not allowed");
        let detail = format!("uid {} is not root, the daemon's user, or in admin.allow_uids", caller.uid);
        return Problem::new(StatusCode::FORBIDDEN, "forbidden", detail).into_response();
    }
    request.extensions_mut().insert(caller);
    next.run(request).await
}

/// Device, inode and time of making: an inode's number may be used again.
type FileIdentity = (u64, u64, i64, i64);

fn identity(path: &Path) -> io::Result<FileIdentity> {
    fs::symlink_metadata(path).map(|found| (found.dev(), found.ino(), found.mtime(), found.mtime_nsec()))
}

/// Removes a socket that nobody listens at.
fn clear(path: &Path) -> Result<(), AdminServerError> {
    let failed = |source| AdminServerError::Io { path: path.to_owned(), source };
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed(e)),
    };
    if !metadata.file_type().is_socket() {
        return Err(AdminServerError::NotASocket(path.to_owned()));
    }
    match StdUnixStream::connect(path) {
        Ok(_) => Err(AdminServerError::Taken(path.to_owned())),
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(failed),
        Err(e) => Err(failed(e)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener as StdUnixListener;

    use super::*;
    use crate::{
        admin::{AdminClient, ClientError},
        plugin_host::HostServices,
    };

    fn config(socket: &Path) -> AdminConfig {
        AdminConfig { socket: socket.to_owned(), allow_uids: Vec::new() }
    }

    /// A daemon without the management role and without plugins.
    async fn state() -> Arc<AdminState> {
        let readiness = Readiness::new();
        readiness.register("service").ready();
        Arc::new(AdminState {
            management: None,
            plugins: Arc::new(PluginHost::load(&[], HostServices::default()).await.unwrap()),
            readiness,
            roles: Roles { management: false, service: true },
            realm: "example".into(),
            configuration: "/nonexistent".into(),
            started: Instant::now(),
        })
    }

    #[tokio::test]
    async fn a_call_gets_its_answer_or_a_refusal_with_a_word() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("run/admin.sock");
        let server = AdminServer::bind(&config(&socket)).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&socket), mode(&directory.path().join("run"))), (0o660, 0o750));
        let stop = CancellationToken::new();
        let serving = tokio::spawn(server.run(state().await, stop.clone()));

        let client = AdminClient::new(&socket);
        let status = client.status().await.unwrap();
        assert_eq!(
            (status.realm.as_str(), status.roles, status.readiness.ready),
            ("example", vec!["service".into()], true)
        );
        assert!(client.plugins().await.unwrap().is_empty());
        match client.user("../a b/%").await {
            Err(ClientError::Refused(problem)) => assert_eq!((problem.status, problem.word()), (404, "no-management")),
            other => panic!("{other:?}"),
        }
        assert!(matches!(AdminServer::bind(&config(&socket)), Err(AdminServerError::Taken(_))));

        stop.cancel();
        serving.await.unwrap();
        assert!(!socket.exists(), "the socket is left behind");
        assert!(matches!(client.status().await, Err(ClientError::Unreachable { .. })));
    }

    #[tokio::test]
    async fn what_is_no_proper_request_is_a_problem_document() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("admin.sock");
        let server = AdminServer::bind(&config(&socket)).unwrap();
        tokio::spawn(server.run(state().await, CancellationToken::new()));
        for (request, status, word) in [
            ("GET /v2/users", 404, "no-such-path"),
            ("PUT /v1/users", 405, "method-not-allowed"),
            ("GET /v1/users?limit=x", 400, "malformed"),
            ("GET /v1/users?colour=red", 400, "malformed"),
            ("GET /v1/users?limit=0", 422, "invalid"),
            ("POST /v1/users", 415, "malformed"),
        ] {
            let mut stream = tokio::net::UnixStream::connect(&socket).await.unwrap();
            let text = format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
            stream.write_all(text.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            let problem: Problem = serde_json::from_str(body).unwrap_or_else(|e| panic!("{request}: {e} in {answer}"));
            assert_eq!((problem.status, problem.word()), (status, word), "{request}");
            assert!(head.contains(&format!(" {status} ")) && head.contains("application/problem+json"), "{head}");
        }
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_file_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("admin.sock");
        drop(StdUnixListener::bind(&socket).unwrap());
        assert!(socket.exists());
        drop(AdminServer::bind(&config(&socket)).unwrap());
        fs::remove_file(&socket).unwrap();
        fs::write(&socket, "precious").unwrap();
        assert!(matches!(AdminServer::bind(&config(&socket)), Err(AdminServerError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&socket).unwrap(), "precious");
    }

    #[tokio::test]
    async fn the_socket_of_a_successor_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("admin.sock");
        let server = AdminServer::bind(&config(&socket)).unwrap();
        let stop = CancellationToken::new();
        let serving = tokio::spawn(server.run(state().await, stop.clone()));
        fs::rename(&socket, directory.path().join("old.sock")).unwrap();
        let _successor = AdminServer::bind(&config(&socket)).unwrap();
        stop.cancel();
        serving.await.unwrap();
        assert!(socket.exists(), "the successor's socket is gone");
    }

    #[test]
    fn nobody_but_the_named_is_allowed() {
        let caller = |uid| Caller { uid, pid: 1 };
        let allowed = [1000, 0, 500];
        assert!(caller(0).may(&allowed) && caller(1000).may(&allowed) && caller(500).may(&allowed));
        assert!(!caller(1001).may(&allowed));
        assert!(!caller(u32::MAX).may(&[u32::MAX]));
        let own = rustix::process::geteuid().as_raw();
        assert!(caller(0).is_operator() && caller(own).is_operator());
        assert!(!caller(own + 1).is_operator() && !caller(u32::MAX).is_operator());
    }
}
