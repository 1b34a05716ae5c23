//! HTTPS to servers and services: TLS 1.3 only, X25519MLKEM768 first,
//! HTTP/2 where the server offers it, HTTP/1.1 otherwise.

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

/// A pool of connections with one set of trusted certificates. Clones share it.
#[derive(Clone)]
pub struct Transport(Client<HttpsConnector<HttpConnector>, Body>);

impl Transport {
    /// Trusts the certificates in `ca` (PEM) and no others, or, without it,
    /// those of the system.
    pub fn new(ca: Option<&str>) -> Result<Self> {
        let roots = match ca {
            Some(pem) => roots_from_pem(pem)?,
            None => system_roots()?,
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| Error::Invalid(format!("TLS cannot be set up: {error}")))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(config)
            .https_only()
            .enable_all_versions()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(60))
            .build(connector);
        Ok(Self(client))
    }

    /// Sends a request to an absolute URI and gives the response as it comes;
    /// redirects are not followed. The time is the caller's to bound.
    pub async fn send(&self, request: http::Request<Body>) -> Result<Response<Incoming>> {
        let origin = Origin::of(request.uri())?;
        self.0.request(request).await.map_err(|error| Error::Unreachable { origin, reason: reason(&error) })
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
            let (parts, body) = self.send(request).await?.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await;
            let body = body.map_err(|error| unreachable(reason(error.as_ref())))?.to_bytes();
            let content_type = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
            Ok(core::Response { status: parts.status.as_u16(), content_type: content_type.map(str::to_owned), body })
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

/// Checks certificates (PEM) before they are stored.
pub fn check_ca(pem: &str) -> Result<()> {
    roots_from_pem(pem).map(|_| ())
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(15);
/// More than the largest message of the protocol.
const MAX_ANSWER: usize = 64 * 1024;

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
        return "its certificate is not issued by a trusted authority; name the right one with `--ca FILE`".into();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_certificate_is_refused() {
        for pem in ["", "text", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            assert!(matches!(Transport::new(Some(pem)), Err(Error::Invalid(_))), "{pem}");
        }
    }
}
