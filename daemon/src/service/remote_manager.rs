//! The management server in another process: mutual TLS and HTTP/2.

use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use claviger_protocol::{
    CONTENT_TYPE,
    message::{MAX_ATTRIBUTES, MAX_NOTE},
};
use http::{HeaderValue, Request, StatusCode, Uri, header};
use hyper_util::client::legacy;

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
/// The server must show a certificate of the configured authority with the
/// SAN URI `idb://REALM/manager`; every answer is awaited for 5 s.
pub struct RemoteManager {
    decrypt: Uri,
    rotate: Uri,
    directory: Uri,
    tls: rustls::ClientConfig,
    client: ArcSwap<HttpsClient>,
    deadline: Duration,
    answers: Reachability,
}

impl RemoteManager {
    /// Reads the certificates; connects when it is first used.
    ///
    /// # Errors
    /// A certificate file that cannot be used, or a URL that is not `https://HOST[:PORT]`.
    pub fn new(config: &ManagerConfig, realm: &str) -> Result<Self, NetError> {
        let identity = Some((config.certificate.as_path(), config.private_key.as_path()));
        let tls = client_config(Some(&config.ca), identity, Some(format!("idb://{realm}/manager")))?;
        let bad_url = |problem: String| NetError::Url { url: config.url.to_string(), problem };
        let authority = config.url.authority().filter(|_| config.url.scheme_str() == Some("https"));
        let authority = authority.ok_or_else(|| bad_url("expected https://HOST[:PORT]".into()))?;
        let endpoint = |path| {
            let uri = Uri::builder().scheme("https").authority(authority.clone()).path_and_query(path);
            uri.build().map_err(|e| bad_url(e.to_string()))
        };
        Ok(Self {
            decrypt: endpoint("/idb/v1/decrypt")?,
            rotate: endpoint(Relay::Rotate.path())?,
            directory: endpoint(Relay::Directory.path())?,
            client: ArcSwap::from_pointee(https_client(tls.clone())),
            tls,
            deadline: DEADLINE,
            answers: Reachability::new("the management server"),
        })
    }

    /// Another deadline than 5 s.
    #[cfg(test)]
    pub(super) fn with_deadline(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// Sends an envelope, and gives the answer of at most `limit` bytes, within the deadline.
    async fn ask(&self, endpoint: &Uri, envelope: Bytes, limit: usize) -> Result<(StatusCode, Vec<u8>), Unavailable> {
        let answer = match tokio::time::timeout(self.deadline, self.exchange(endpoint, envelope, limit)).await {
            Ok(answer) => answer,
            Err(_) => Err(Unavailable(format!("no answer within {:?}", self.deadline))),
        };
        match &answer {
            Ok(_) => self.answers.up(),
            Err(error) => {
                metrics::counter!("claviger_manager_failures_total").increment(1);
                self.answers.down(&error.0);
            }
        }
        answer
    }

    async fn exchange(
        &self,
        endpoint: &Uri,
        envelope: Bytes,
        limit: usize,
    ) -> Result<(StatusCode, Vec<u8>), Unavailable> {
        let mut request = Request::post(endpoint.clone()).body(net::full(envelope)).map_err(away)?;
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
        let client = self.client.load_full();
        let response = client.request(request).await.map_err(|error| Unavailable(reason(&error)))?;
        let status = response.status();
        if !is_protocol(response.headers()) {
            return Err(Unavailable(format!("it answered {status} without a protocol message")));
        }
        let answer = net::read_body(response.into_body(), limit).await.map_err(away)?;
        // No copy: these bytes are the only owner's.
        Ok((status, answer.into()))
    }
}

#[async_trait]
impl ManagerLink for RemoteManager {
    async fn decrypt(&self, envelope: Bytes) -> Result<Vec<u8>, Unavailable> {
        self.ask(&self.decrypt, envelope, MAX_ANSWER).await.map(|(_, answer)| answer)
    }

    async fn relay(&self, kind: Relay, envelope: Bytes) -> Result<Relayed, Unavailable> {
        let endpoint = match kind {
            Relay::Rotate => &self.rotate,
            Relay::Directory => &self.directory,
        };
        let (status, body) = self.ask(endpoint, envelope, MAX_RELAYED).await?;
        Ok(Relayed { status: status.as_u16(), body })
    }

    fn drop_connections(&self) {
        self.client.store(std::sync::Arc::new(https_client(self.tls.clone())));
    }
}

fn away(error: impl std::fmt::Display) -> Unavailable {
    Unavailable(error.to_string())
}

/// The innermost cause is what an operator can act on.
fn reason(error: &legacy::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    if error.is_connect() { format!("cannot connect: {cause}") } else { cause.to_string() }
}

const DEADLINE: Duration = Duration::from_secs(5);

/// An answer's fixed fields need less than 512 bytes.
const MAX_ANSWER: usize = 512 + MAX_ATTRIBUTES + MAX_NOTE;

/// A relayed answer; a directory is the longest.
const MAX_RELAYED: usize = 32 * 1024;
