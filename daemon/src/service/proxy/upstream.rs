//! Connections to the upstream.

use std::time::Duration;

use http::{
    HeaderValue, Request, Response, Uri, Version, header,
    uri::{Authority, PathAndQuery, Scheme},
};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use tokio::{net::TcpStream, sync::Mutex};

use crate::net::{Body, BoxError, client::CONNECT_TIMEOUT};

/// The guarded server.
pub(super) struct Upstream {
    authority: Authority,
    http1: Client<HttpConnector, Body>,
    http2: Option<Http2>,
}

/// Why there is no response. Everything but a timeout is a bad gateway.
#[derive(Debug, thiserror::Error)]
pub(super) enum UpstreamError {
    #[error("cannot connect: {0}")]
    Connect(BoxError),
    #[error("no response: {0}")]
    Exchange(BoxError),
}

impl Upstream {
    /// An upstream at `authority`, spoken to in HTTP/1.1, or in HTTP/2 without asking.
    pub(super) fn new(authority: Authority, http2: bool) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let http1 = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .http1_max_headers(256)
            .set_host(false)
            .build(connector);
        Self { authority, http1, http2: http2.then(Http2::default) }
    }

    /// Sends a request whose `Host` is set and whose URI gives the path; an
    /// upgrade always goes over HTTP/1.1.
    pub(super) async fn send(
        &self,
        mut request: Request<Body>,
        upgrade: bool,
    ) -> Result<Response<Incoming>, UpstreamError> {
        let path = request.uri().path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
        match &self.http2 {
            Some(http2) if !upgrade => {
                let host = request.headers_mut().remove(header::HOST);
                let authority = host.and_then(|h| Authority::try_from(h.as_bytes()).ok());
                *request.uri_mut() = absolute(authority.unwrap_or(self.authority.clone()), path)?;
                *request.version_mut() = Version::HTTP_2;
                http2.send(&self.authority, request).await
            }
            _ => {
                *request.uri_mut() = absolute(self.authority.clone(), path)?;
                *request.version_mut() = Version::HTTP_11;
                if request.headers().contains_key(header::TE) {
                    request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("te"));
                }
                self.http1.request(request).await.map_err(|error| {
                    if error.is_connect() {
                        UpstreamError::Connect(error.into())
                    } else {
                        UpstreamError::Exchange(error.into())
                    }
                })
            }
        }
    }
}

/// One shared HTTP/2 connection. The pooled client cannot be used here: it
/// would put the upstream's own name into `:authority`.
#[derive(Default)]
struct Http2 {
    connection: Mutex<Option<http2::SendRequest<Body>>>,
}

impl Http2 {
    async fn send(&self, upstream: &Authority, request: Request<Body>) -> Result<Response<Incoming>, UpstreamError> {
        let mut sender = self.sender(upstream).await?;
        sender.ready().await.map_err(|e| UpstreamError::Connect(e.into()))?;
        sender.send_request(request).await.map_err(|e| UpstreamError::Exchange(e.into()))
    }

    /// The live connection, or a new one. The lock is held while connecting, so
    /// that many requests wait for one connection instead of making many.
    async fn sender(&self, upstream: &Authority) -> Result<http2::SendRequest<Body>, UpstreamError> {
        let mut connection = self.connection.lock().await;
        if let Some(sender) = connection.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        let address = (upstream.host().trim_matches(['[', ']']), upstream.port_u16().unwrap_or(80));
        let connect = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder
                .timer(TokioTimer::new())
                .keep_alive_interval(Duration::from_secs(20))
                .keep_alive_timeout(Duration::from_secs(10))
                .adaptive_window(true);
            Ok::<_, BoxError>(builder.handshake(TokioIo::new(stream)).await?)
        };
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, connect).await;
        let (sender, driver) =
            connected.map_err(|e| UpstreamError::Connect(e.into()))?.map_err(UpstreamError::Connect)?;
        // Its error reaches every request in flight.
        tokio::spawn(driver);
        *connection = Some(sender.clone());
        Ok(sender)
    }
}

fn absolute(authority: Authority, path: PathAndQuery) -> Result<Uri, UpstreamError> {
    Uri::builder()
        .scheme(Scheme::HTTP)
        .authority(authority)
        .path_and_query(path)
        .build()
        .map_err(|e| UpstreamError::Exchange(e.into()))
}

/// Shorter than the idle time of common servers (5 s), so that a request
/// seldom meets a connection that is being closed.
const IDLE: Duration = Duration::from_secs(4);
