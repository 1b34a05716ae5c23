//! The client of the administration API: one connection a call.

use std::{
    fmt::Write,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

use super::{
    api::{CodeRequest, DestroyKeys, Destroyed, Digits, GoOn, Reload, RotateKeys, Status, Suspend},
    problem::Problem,
};
use crate::management::model::{
    EnrolmentCode, KeyRing, NewUser, OrphanedKeys, RewrapProgress, Rotated, SecretCount, Service, User, UserPage,
};

/// Why a call gave no answer, or a refusal.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody listens at the socket, or this user may not open it.
    #[error("cannot reach the daemon at {}: {source}", socket.display())]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The daemon refused.
    #[error("{}", .0.detail)]
    Refused(Problem),
    /// The connection broke, or the answer makes no sense: perhaps the daemon is of another version.
    #[error("no proper answer from the daemon: {0}")]
    Broken(String),
}

/// Speaks to one daemon.
#[derive(Debug, Clone)]
pub struct AdminClient {
    socket: PathBuf,
}

impl AdminClient {
    /// For the daemon at `socket`; nothing is opened yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// How the daemon is.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.read(Method::GET, "/v1/status", NONE).await
    }

    /// Its plugins, each an object.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn plugins(&self) -> Result<Vec<serde_json::Value>, ClientError> {
        self.read(Method::GET, "/v1/plugins", NONE).await
    }

    /// Replaces a plugin by what its file is now.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn reload_plugin(&self, name: &str) -> Result<Reload, ClientError> {
        let path = format!("/v1/plugins/{}/reload", encoded(name));
        let bytes = self.call_within(RELOAD_DEADLINE, Method::POST, &path, NONE).await?;
        serde_json::from_slice(&bytes).map_err(broken)
    }

    /// A page of users.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn users(&self, after: Option<&str>, limit: usize) -> Result<UserPage, ClientError> {
        let after = after.map(|id| format!("&after={}", encoded(id))).unwrap_or_default();
        self.read(Method::GET, &format!("/v1/users?limit={limit}{after}"), NONE).await
    }

    /// One user.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn user(&self, id: &str) -> Result<User, ClientError> {
        self.read(Method::GET, &format!("/v1/users/{}", encoded(id)), NONE).await
    }

    /// Adds a user.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn add_user(&self, user: &NewUser) -> Result<User, ClientError> {
        self.read(Method::POST, "/v1/users", Some(user)).await
    }

    /// Keeps a user from signing on.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn suspend_user(&self, id: &str, reason: Option<String>) -> Result<User, ClientError> {
        self.read(Method::POST, &format!("/v1/users/{}/suspend", encoded(id)), Some(&Suspend { reason })).await
    }

    /// Ends a suspension.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn confirm_enrolment(&self, id: &str, digits: String) -> Result<User, ClientError> {
        self.read(Method::POST, &format!("/v1/users/{}/confirm-enrolment", encoded(id)), Some(&Digits { digits })).await
    }

    /// Has a user's keys rotated after its next sign-on.
    pub async fn require_rotation(&self, id: &str) -> Result<User, ClientError> {
        self.read(Method::POST, &format!("/v1/users/{}/require-rotation", encoded(id)), NONE).await
    }

    /// Lets a user in again.
    pub async fn resume_user(&self, id: &str) -> Result<User, ClientError> {
        self.read(Method::POST, &format!("/v1/users/{}/resume", encoded(id)), NONE).await
    }

    /// Deletes a user and all keys.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn delete_user(&self, id: &str) -> Result<(), ClientError> {
        self.call(Method::DELETE, &format!("/v1/users/{}", encoded(id)), NONE).await.map(|_| ())
    }

    /// Makes an enrolment code, which replaces an earlier one.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn enrolment_code(&self, id: &str, valid: Duration) -> Result<EnrolmentCode, ClientError> {
        let request = CodeRequest { valid_seconds: valid.as_secs() };
        self.read(Method::POST, &format!("/v1/users/{}/enrolment-code", encoded(id)), Some(&request)).await
    }

    /// All services.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn services(&self) -> Result<Vec<Service>, ClientError> {
        self.read(Method::GET, "/v1/services", NONE).await
    }

    /// Registers a service.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn add_service(&self, service: &Service) -> Result<Service, ClientError> {
        self.read(Method::POST, "/v1/services", Some(service)).await
    }

    /// Removes a service.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn remove_service(&self, id: &str) -> Result<(), ClientError> {
        self.call(Method::DELETE, &format!("/v1/services/{}", encoded(id)), NONE).await.map(|_| ())
    }

    /// The key ring.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn key_ring(&self) -> Result<KeyRing, ClientError> {
        self.read(Method::GET, "/v1/keys", NONE).await
    }

    /// Makes a new data key.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn rotate_keys(&self, request: &RotateKeys) -> Result<Rotated, ClientError> {
        self.read(Method::POST, "/v1/keys/rotate", Some(request)).await
    }

    /// A page of counted secrets.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn count_secrets(&self, after: Option<&str>) -> Result<SecretCount, ClientError> {
        let after = after.map(|key| format!("?after={}", encoded(key))).unwrap_or_default();
        self.read(Method::GET, &format!("/v1/keys/secrets{after}"), NONE).await
    }

    /// Goes on with the pass that seals secrets anew, or begins one.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn rewrap(&self, request: &GoOn) -> Result<RewrapProgress, ClientError> {
        self.read(Method::POST, "/v1/keys/rewrap", Some(request)).await
    }

    /// Keys in custody that no record names.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn orphaned_keys(&self) -> Result<OrphanedKeys, ClientError> {
        self.read(Method::GET, "/v1/keys/orphans", NONE).await
    }

    /// Destroys those of some keys in custody that no record names.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn destroy_orphaned_keys(&self, request: &DestroyKeys) -> Result<Destroyed, ClientError> {
        self.read(Method::POST, "/v1/keys/orphans/destroy", Some(request)).await
    }

    async fn read<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, ClientError> {
        let bytes = self.call(method, path, body).await?;
        serde_json::from_slice(&bytes).map_err(broken)
    }

    async fn call(&self, method: Method, path: &str, body: Option<&impl Serialize>) -> Result<Bytes, ClientError> {
        self.call_within(DEADLINE, method, path, body).await
    }

    async fn call_within(
        &self,
        deadline: Duration,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Bytes, ClientError> {
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "clavigerd");
        let body = match body {
            None => Bytes::new(),
            Some(body) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                serde_json::to_vec(body).map_err(broken)?.into()
            }
        };
        let request = request.body(Full::new(body)).map_err(broken)?;
        let (status, bytes) = match tokio::time::timeout(deadline, self.exchange(request)).await {
            Ok(answer) => answer?,
            Err(_) => return Err(broken(format!("nothing within {} s", deadline.as_secs()))),
        };
        if status.is_success() {
            return Ok(bytes);
        }
        Err(match serde_json::from_slice(&bytes) {
            Ok(problem) => ClientError::Refused(problem),
            Err(_) => broken(format!("HTTP status {status}")),
        })
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), ClientError> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| ClientError::Unreachable { socket: self.socket.clone(), source })?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let connection = tokio::spawn(connection);
        let answer: Response<Incoming> = sender.send_request(request).await.map_err(broken)?;
        let status = answer.status();
        let bytes = Limited::new(answer.into_body(), ANSWER_LIMIT).collect().await.map_err(broken)?.to_bytes();
        connection.abort();
        Ok((status, bytes))
    }
}

fn broken(error: impl ToString) -> ClientError {
    ClientError::Broken(error.to_string())
}

/// A user or service id as one segment of a path, or as a value of a query.
fn encoded(id: &str) -> String {
    id.bytes().fold(String::with_capacity(id.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-_~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail. Dots too: an id may be `..`.
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

const NONE: Option<&()> = None;
const DEADLINE: Duration = Duration::from_secs(30);
/// A plugin may take a minute to start, and one to end.
const RELOAD_DEADLINE: Duration = Duration::from_secs(300);
const ANSWER_LIMIT: usize = 16 * 1024 * 1024;
