//! The management server in other processes: mutual TLS and HTTP/2.
//!
//! Several daemons of one user store are one management server. One is asked;
//! when it gives no answer or says that it is not
//! able to work, the next one is asked from then on. The same
//! envelope goes to a second daemon only when the first one certainly did not
//! get it: otherwise the second would see a replay, and an outage would look
//! like a refusal.

use std::{
    fmt,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use claviger_protocol::{
    CONTENT_TYPE,
    message::{MAX_ATTRIBUTES, MAX_NOTE},
};
use http::{HeaderValue, StatusCode, Uri, header};
use hyper_util::client::legacy;
use tokio::time::{Instant, timeout_at};

use super::{ManagerLink, Relay, Relayed, Unavailable, http::is_protocol, reachability::Reachability};
use crate::{
    config::types::ManagerConfig,
    net::{
        self, NetError,
        client::{HttpsClient, https_client},
        tls::client_config,
    },
};

/// A [`ManagerLink`] over mutual TLS.
///
/// Each daemon must show a certificate of the configured authority with the
/// SAN URI `idb://REALM/manager`; every answer is awaited for 5 s in all.
pub struct RemoteManager {
    daemons: Vec<Daemon>,
    /// Which of them is asked: grows by one whenever that one gave no answer, or cannot work.
    asked: AtomicUsize,
    tls: rustls::ClientConfig,
    client: ArcSwap<HttpsClient>,
    deadline: Duration,
}

/// One daemon with the management role.
struct Daemon {
    decrypt: Uri,
    rotate: Uri,
    directory: Uri,
    answers: Reachability,
}

/// What an envelope asks for.
#[derive(Clone, Copy)]
enum Request {
    Decrypt,
    Relay(Relay),
}

/// Why there is no answer.
enum Failed {
    /// No connection: nothing was sent.
    Unsent(String),
    /// It may have got the envelope.
    Sent(String),
}

impl RemoteManager {
    /// Reads the certificates; connects when it is first used.
    ///
    /// # Errors
    /// A certificate file that cannot be used, or a URL that is not `https://HOST[:PORT]`.
    pub fn new(config: &ManagerConfig, realm: &str) -> Result<Self, NetError> {
        let identity = Some((config.certificate.as_path(), config.private_key.as_path()));
        let tls = client_config(Some(&config.ca), identity, Some(format!("idb://{realm}/manager")))?;
        Ok(Self {
            daemons: config.urls.iter().map(Daemon::new).collect::<Result<_, _>>()?,
            asked: AtomicUsize::new(0),
            client: ArcSwap::from_pointee(https_client(tls.clone())),
            tls,
            deadline: DEADLINE,
        })
    }

    /// Another deadline than 5 s.
    #[cfg(test)]
    pub(super) fn with_deadline(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// Sends an envelope, and gives the answer of at most `limit` bytes, within the deadline.
    async fn ask(&self, request: Request, envelope: Bytes, limit: usize) -> Result<(StatusCode, Vec<u8>), Unavailable> {
        let deadline = Instant::now() + self.deadline;
        let mut last = Unavailable("there is no management server".into());
        for _ in 0..self.daemons.len() {
            let asked = self.asked.load(Ordering::Relaxed);
            let daemon = &self.daemons[asked % self.daemons.len()];
            let exchange = self.exchange(daemon.endpoint(request), envelope.clone(), limit);
            let failed = match timeout_at(deadline, exchange).await {
                Ok(Ok(answer)) => {
                    daemon.answers.up();
                    // It answers, but cannot work: perhaps another one reaches the store.
                    if answer.0 == StatusCode::SERVICE_UNAVAILABLE {
                        self.move_on(asked);
                    }
                    return Ok(answer);
                }
                Ok(Err(failed)) => failed,
                Err(_) => Failed::Sent(format!("no answer within {:?}", self.deadline)),
            };
            metrics::counter!("claviger_manager_failures_total").increment(1);
            daemon.answers.down(&failed);
            self.move_on(asked);
            last = Unavailable(failed.to_string());
            if matches!(failed, Failed::Sent(_)) {
                break;
            }
        }
        Err(last)
    }

    /// From now on the one after `asked` is asked; whoever is first to notice does it for all.
    fn move_on(&self, asked: usize) {
        let _ = self.asked.compare_exchange(asked, asked.wrapping_add(1), Ordering::Relaxed, Ordering::Relaxed);
    }

    async fn exchange(&self, endpoint: &Uri, envelope: Bytes, limit: usize) -> Result<(StatusCode, Vec<u8>), Failed> {
        let mut request = http::Request::post(endpoint.clone()).body(net::full(envelope)).map_err(away)?;
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
        let client = self.client.load_full();
        let response = client.request(request).await.map_err(|error| reason(&error))?;
        let status = response.status();
        if !is_protocol(response.headers()) {
            return Err(away(format_args!("it answered {status} without a protocol message")));
        }
        let answer = net::read_body(response.into_body(), limit).await.map_err(away)?;
        // No copy: these bytes are the only owner's.
        Ok((status, answer.into()))
    }
}

impl Daemon {
    fn new(url: &Uri) -> Result<Self, NetError> {
        let bad_url = |problem: String| NetError::Url { url: url.to_string(), problem };
        let authority = url.authority().filter(|_| url.scheme_str() == Some("https"));
        let authority = authority.ok_or_else(|| bad_url("expected https://HOST[:PORT]".into()))?;
        let endpoint = |path| {
            let uri = Uri::builder().scheme("https").authority(authority.clone()).path_and_query(path);
            uri.build().map_err(|e| bad_url(e.to_string()))
        };
        Ok(Self {
            decrypt: endpoint("/idb/v1/decrypt")?,
            rotate: endpoint(Relay::Rotate.path())?,
            directory: endpoint(Relay::Directory.path())?,
            answers: Reachability::new(format!("the management server {authority}")),
        })
    }

    fn endpoint(&self, request: Request) -> &Uri {
        match request {
            Request::Decrypt => &self.decrypt,
            Request::Relay(Relay::Rotate) => &self.rotate,
            Request::Relay(Relay::Directory) => &self.directory,
        }
    }
}

#[async_trait]
impl ManagerLink for RemoteManager {
    async fn decrypt(&self, envelope: Bytes) -> Result<Vec<u8>, Unavailable> {
        self.ask(Request::Decrypt, envelope, MAX_ANSWER).await.map(|(_, answer)| answer)
    }

    async fn relay(&self, kind: Relay, envelope: Bytes) -> Result<Relayed, Unavailable> {
        let (status, body) = self.ask(Request::Relay(kind), envelope, MAX_RELAYED).await?;
        Ok(Relayed { status: status.as_u16(), body })
    }

    fn drop_connections(&self) {
        self.client.store(std::sync::Arc::new(https_client(self.tls.clone())));
    }
}

fn away(error: impl fmt::Display) -> Failed {
    Failed::Sent(error.to_string())
}

/// The innermost cause is what an operator can act on.
fn reason(error: &legacy::Error) -> Failed {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    if error.is_connect() {
        Failed::Unsent(format!("cannot connect: {cause}"))
    } else {
        Failed::Sent(cause.to_string())
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Unsent(reason) | Self::Sent(reason)) = self;
        f.write_str(reason)
    }
}

const DEADLINE: Duration = Duration::from_secs(5);

/// An answer's fixed fields need less than 512 bytes.
const MAX_ANSWER: usize = 512 + MAX_ATTRIBUTES + MAX_NOTE;

/// A relayed answer; a directory is the longest.
const MAX_RELAYED: usize = 32 * 1024;
