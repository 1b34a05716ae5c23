//! HTTPS to servers and services: TLS 1.3 only, X25519MLKEM768 first,
//! HTTP/2 where the server offers it, HTTP/1.1 otherwise.

mod connection;
mod pin;

use std::{error::Error as StdError, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Response, header};
use http_body_util::{BodyExt, Full, Limited, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

pub use self::connection::Connection;
use self::pin::PinnedKey;
use crate::{
    core,
    error::{Error, Result},
    origin::Origin,
};

/// The error of a request's body.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// A request's body.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// A body of bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Whose word a server's certificate is taken on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Trust {
    /// The authorities that this system trusts.
    System,
    /// These certificates (PEM), and no others.
    Ca(String),
    /// The server's own public key: SHA-256 of its SubjectPublicKeyInfo.
    Pin([u8; 32]),
}

impl Trust {
    /// In the certificates named, or those of the system.
    pub fn of(ca: Option<&str>) -> Self {
        ca.map_or(Self::System, |pem| Self::Ca(pem.to_owned()))
    }
}

/// A pool of connections with one [`Trust`]. Clones share it.
#[derive(Clone)]
pub struct Transport {
    client: Client<HttpsConnector<HttpConnector>, Body>,
    /// For connections outside of the pool, which speak HTTP/1.1.
    tls: Arc<ClientConfig>,
}

impl Transport {
    /// Opens nothing yet.
    pub fn new(trust: &Trust) -> Result<Self> {
        let config = tls_config(trust)?;
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(config.clone())
            .https_only()
            .enable_all_versions()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(60))
            .build(connector);
        let mut tls = config;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { client, tls: Arc::new(tls) })
    }

    /// Opens a connection for one message that is bound to it.
    pub async fn connect(&self, origin: &Origin) -> Result<Connection> {
        Connection::open(Arc::clone(&self.tls), origin).await
    }

    /// Sends a request to an absolute URI and gives the response as it comes;
    /// redirects are not followed. The time is the caller's to bound.
    pub async fn send(&self, request: http::Request<Body>) -> Result<Response<Incoming>> {
        let origin = Origin::of(request.uri())?;
        self.client.request(request).await.map_err(|error| Error::Unreachable { origin, reason: reason(&error) })
    }

    /// Sends a protocol message, and collects the answer. Bounded in time (15 s) and size.
    pub async fn exchange(&self, origin: &Origin, request: core::Request) -> Result<core::Response> {
        let mut builder = http::Request::builder().method(request.method).uri(origin.uri(request.path)?);
        if let Some(content_type) = request.content_type {
            builder = builder.header(header::CONTENT_TYPE, content_type);
        }
        let request = builder
            .body(full(request.body))
            .map_err(|error| Error::Invalid(format!("the request cannot be made: {error}")))?;
        let unreachable = |reason: String| Error::Unreachable { origin: origin.clone(), reason };
        let exchange = async {
            let response = self.send(request).await?;
            collect(origin, response).await
        };
        let timed_out = |_| unreachable(format!("no answer within {} s", EXCHANGE_TIMEOUT.as_secs()));
        tokio::time::timeout(EXCHANGE_TIMEOUT, exchange).await.map_err(timed_out)?
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Transport")
    }
}

/// The whole of an answer, of at most [`MAX_ANSWER`] bytes.
async fn collect(origin: &Origin, response: Response<Incoming>) -> Result<core::Response> {
    let (parts, body) = response.into_parts();
    let body = Limited::new(body, MAX_ANSWER).collect().await;
    let unreachable = |reason: String| Error::Unreachable { origin: origin.clone(), reason };
    let body = body.map_err(|error| unreachable(reason(error.as_ref())))?.to_bytes();
    let content_type = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    Ok(core::Response { status: parts.status.as_u16(), content_type: content_type.map(str::to_owned), body })
}

/// Checks certificates (PEM) before they are stored.
pub fn check_ca(pem: &str) -> Result<()> {
    roots_from_pem(pem).map(|_| ())
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(15);
/// More than the largest message of the protocol.
const MAX_ANSWER: usize = 64 * 1024;

fn tls_config(trust: &Trust) -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| Error::Invalid(format!("TLS cannot be set up: {error}")))?;
    let builder = match trust {
        Trust::System => builder.with_root_certificates(system_roots()?),
        Trust::Ca(pem) => builder.with_root_certificates(roots_from_pem(pem)?),
        Trust::Pin(spki) => {
            let verifier = PinnedKey { spki: *spki, provider };
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
        }
    };
    Ok(builder.with_no_client_auth())
}

fn roots_from_pem(pem: &str) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        certificate
            .map_err(|error| error.to_string())
            .and_then(|certificate| roots.add(certificate).map_err(|error| error.to_string()))
            .map_err(|error| Error::Invalid(format!("the trusted certificates are not valid: {error}")))?;
    }
    if roots.is_empty() {
        return Err(Error::Invalid("the file of trusted certificates has no PEM block CERTIFICATE".into()));
    }
    Ok(roots)
}

fn system_roots() -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(Error::Invalid(
            "this system has no trusted certificates; name those of the server with `--ca FILE`".into(),
        ));
    }
    Ok(roots)
}

/// The innermost cause: what a user can act on.
fn reason(error: &(dyn StdError + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    let text = error.to_string();
    // The second: an authority of the same name with another key, such as one made anew.
    if text.contains("UnknownIssuer") || text.contains("BadSignature") {
        return "its certificate is not issued by a trusted authority; name the right one with `claviger enrol --ca FILE`, or for one service with `claviger services add ID ORIGIN --ca FILE`".into();
    }
    if text.contains("ApplicationVerificationFailure") {
        return "its public key is not the one of the enrolment link; ask your administrator for a new link".into();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_certificate_is_refused() {
        for pem in ["", "text", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            assert!(matches!(Transport::new(&Trust::of(Some(pem))), Err(Error::Invalid(_))), "{pem}");
        }
    }
}
