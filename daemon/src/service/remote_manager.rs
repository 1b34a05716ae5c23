//! The management server in another process: mutual TLS and HTTP/2.

use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use claviger_protocol::{
    CONTENT_TYPE,
    message::{MAX_ATTRIBUTES, MAX_NOTE},
};
use http::{HeaderValue, Request, Uri, header};
use hyper_util::client::legacy;

use super::{ManagerLink, Unavailable, http::is_protocol, reachability::Reachability};
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
        let decrypt = Uri::builder().scheme("https").authority(authority.clone()).path_and_query("/idb/v1/decrypt");
        Ok(Self {
            decrypt: decrypt.build().map_err(|e| bad_url(e.to_string()))?,
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

    async fn exchange(&self, envelope: Bytes) -> Result<Vec<u8>, Unavailable> {
        let mut request = Request::post(self.decrypt.clone()).body(net::full(envelope)).map_err(away)?;
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
        let client = self.client.load_full();
        let response = client.request(request).await.map_err(|error| Unavailable(reason(&error)))?;
        if !is_protocol(response.headers()) {
            return Err(Unavailable(format!("it answered {} without a protocol message", response.status())));
        }
        let answer = net::read_body(response.into_body(), MAX_ANSWER).await.map_err(away)?;
        // No copy: these bytes are the only owner's.
        Ok(answer.into())
    }
}

#[async_trait]
impl ManagerLink for RemoteManager {
    async fn decrypt(&self, envelope: Bytes) -> Result<Vec<u8>, Unavailable> {
        let answer = match tokio::time::timeout(self.deadline, self.exchange(envelope)).await {
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
