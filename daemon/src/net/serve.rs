//! One listener: accepts, does TLS, speaks HTTP/1.1 and HTTP/2, and drains.

use std::{convert::Infallible, future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use http::{Request, Response};
use hyper::{
    body::Incoming,
    rt::{Read, Write},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{
        conn::auto::Builder,
        graceful::{GracefulShutdown, Watcher},
    },
};
use rustls::{ServerConfig, pki_types::CertificateDer};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Notify,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{Body, NetError};

/// Answers the requests of a listener.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Answers one request. Everything in `request` is attacker-controlled;
    /// `peer` was observed by this process.
    async fn handle(&self, request: Request<Incoming>, peer: Peer) -> Response<Body>;
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// Its certificate, whose chain was verified; `None` where none is asked for.
    pub certificate: Option<CertificateDer<'static>>,
    /// Whether the connection is under TLS.
    pub tls: bool,
}

/// A bound listener that does not serve yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    /// Binds the address; port 0 takes a free one. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`NetError::Bind`], when the address is taken or not allowed.
    pub fn bind(address: SocketAddr) -> Result<Self, NetError> {
        let bind = || -> io::Result<Self> {
            let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            let listener = socket.listen(BACKLOG)?;
            let address = listener.local_addr()?;
            Ok(Self { listener, address })
        };
        bind().map_err(|source| NetError::Bind { address, source })
    }

    /// The address it is bound to, with the real port.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` is cancelled, then stops to accept, lets running
    /// requests finish for at most `grace`, and cuts what is left.
    ///
    /// Without `tls` it speaks plain HTTP. Upgraded connections (WebSocket) do
    /// not hold up the drain.
    pub async fn run(
        self,
        tls: Option<Arc<ServerConfig>>,
        handler: Arc<dyn Handler>,
        shutdown: CancellationToken,
        grace: Duration,
    ) {
        let acceptor = tls.map(TlsAcceptor::from);
        let builder = http_builder();
        let graceful = GracefulShutdown::new();
        let cut = CancellationToken::new();
        let _cut_on_return = cut.clone().drop_guard();

        loop {
            let accepted = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    pause_after(&error).await;
                    continue;
                }
            };
            let connection = Connection {
                address,
                builder: builder.clone(),
                handler: handler.clone(),
                watcher: graceful.watcher(),
                shutdown: shutdown.clone(),
            };
            let acceptor = acceptor.clone();
            let cut = cut.clone();
            tokio::spawn(async move {
                tokio::select! {
                    () = connection.serve(stream, acceptor) => {}
                    () = cut.cancelled() => {}
                }
            });
        }

        drop(self.listener);
        let open = graceful.count();
        if tokio::time::timeout(grace, graceful.shutdown()).await.is_err() {
            warn!(listener = %self.address, connections = open, ?grace, "requests still running after the grace period were cut");
        }
    }
}

/// What a connection's task holds.
struct Connection {
    address: SocketAddr,
    builder: Builder<TokioExecutor>,
    handler: Arc<dyn Handler>,
    watcher: Watcher,
    shutdown: CancellationToken,
}

impl Connection {
    async fn serve(self, stream: TcpStream, acceptor: Option<TlsAcceptor>) {
        // Fails only on a connection that is already gone; serving notices that.
        let _ = stream.set_nodelay(true);
        let Some(acceptor) = acceptor else {
            let peer = Peer { address: self.address, certificate: None, tls: false };
            return self.http(stream, peer, None).await;
        };
        let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream));
        let outcome = tokio::select! {
            outcome = handshake => outcome,
            () = self.shutdown.cancelled() => return,
        };
        let stream = match outcome {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return debug!(peer = %self.address, %error, "TLS handshake failed"),
            Err(_) => return debug!(peer = %self.address, "TLS handshake took too long"),
        };
        let (_, session) = stream.get_ref();
        let certificate = session.peer_certificates().and_then(|chain| chain.first()).cloned();
        let http2 = session.alpn_protocol() == Some(b"h2".as_slice());
        let peer = Peer { address: self.address, certificate: certificate.map(CertificateDer::into_owned), tls: true };
        self.http(stream, peer, Some(http2)).await;
    }

    /// `http2` is what ALPN settled; without TLS the first bytes decide.
    async fn http<S>(self, stream: S, peer: Peer, http2: Option<bool>)
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    {
        let builder = match http2 {
            None => self.builder,
            Some(true) => self.builder.http2_only(),
            Some(false) => self.builder.http1_only(),
        };
        let address = self.address;
        let first_request = Arc::new(Notify::new());
        let outcome = tokio::select! {
            outcome = exchange(builder, TokioIo::new(stream), self.handler, peer, first_request.clone(), self.watcher) => outcome,
            () = silence(first_request) => return debug!(peer = %address, "no request came in time"),
        };
        if let Err(error) = outcome {
            debug!(peer = %address, %error, "connection ended");
        }
    }
}

fn exchange<I>(
    builder: Builder<TokioExecutor>,
    io: I,
    handler: Arc<dyn Handler>,
    peer: Peer,
    first_request: Arc<Notify>,
    watcher: Watcher,
) -> impl Future<Output = Result<(), super::BoxError>>
where
    I: Read + Write + Send + Unpin + 'static,
{
    let service = service_fn(move |request| {
        let (handler, peer) = (handler.clone(), peer.clone());
        first_request.notify_one();
        async move { Ok::<_, Infallible>(handler.handle(request, peer).await) }
    });
    watcher.watch(builder.serve_connection_with_upgrades(io, service).into_owned())
}

/// Ends when a connection has not sent a request within the time limit; never
/// ends once it has.
async fn silence(first_request: Arc<Notify>) {
    if tokio::time::timeout(FIRST_REQUEST_TIMEOUT, first_request.notified()).await.is_ok() {
        std::future::pending::<()>().await;
    }
}

/// Errors of `accept` are of one connection, or of the process (too many open
/// files): then it pauses instead of spinning.
async fn pause_after(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    if !matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted) {
        warn!(%error, "cannot accept connections");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn http_builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20))
        .max_concurrent_streams(256)
        .max_header_list_size(MAX_HEAD as u32);
    builder
}

/// Connections the kernel holds for us until they are accepted.
const BACKLOG: u32 = 4096;
/// A TLS handshake takes no longer.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A request head, and the pause between two requests of a connection, take no longer (HTTP/1.1).
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// A new connection sends its first request within this time, whatever it speaks.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(40);
/// Bytes of a request head.
const MAX_HEAD: usize = 64 * 1024;
/// Headers of a request.
const MAX_HEADERS: usize = 128;
