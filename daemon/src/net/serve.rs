//! One listener: accepts, does TLS, speaks HTTP/1.1 and HTTP/2, and drains.

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use claviger_protocol::Secret32;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
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
use rustls::{ServerConfig, ServerConnection, pki_types::CertificateDer};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{Body, BoxError, NetError};

/// Answers the requests of a listener.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Answers one request. Everything in `request` is attacker-controlled;
    /// `peer` was observed by this process.
    async fn handle(&self, request: Request<Incoming>, peer: Peer) -> Response<Body>;

    /// Whether [`Peer::exporter`] is to be made; asked once for each connection under TLS.
    fn wants_exporter(&self) -> bool {
        false
    }
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
    /// What only the two ends of this very connection know (RFC 9266,
    /// `tls-exporter`); `None` without TLS, or where the handler does not want it.
    pub exporter: Option<Secret32>,
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
        tune(&stream);
        let Some(acceptor) = acceptor else {
            let peer = Peer { address: self.address, certificate: None, tls: false, exporter: None };
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
        let exporter = self.handler.wants_exporter().then(|| exporter(session)).flatten();
        let certificate = certificate.map(CertificateDer::into_owned);
        let peer = Peer { address: self.address, certificate, tls: true, exporter };
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
        let (activity, watched) = watch::channel(Activity::default());
        let outcome = tokio::select! {
            outcome = exchange(builder, TokioIo::new(stream), self.handler, peer, activity, self.watcher) => outcome,
            () = silence(watched, FIRST_REQUEST_TIMEOUT, IDLE_TIMEOUT) => return debug!(peer = %address, "no request came in time"),
        };
        if let Err(error) = outcome {
            debug!(peer = %address, %error, "connection ended");
        }
    }
}

/// The channel binding of a connection whose handshake is over (RFC 9266, section 2).
fn exporter(session: &ServerConnection) -> Option<Secret32> {
    match session.export_keying_material([0; 32], CHANNEL_BINDING, None) {
        Ok(bytes) => Some(Secret32::new(bytes)),
        Err(error) => {
            warn!(%error, "a TLS connection has no channel binding");
            None
        }
    }
}

fn exchange<I>(
    builder: Builder<TokioExecutor>,
    io: I,
    handler: Arc<dyn Handler>,
    peer: Peer,
    activity: watch::Sender<Activity>,
    watcher: Watcher,
) -> impl Future<Output = Result<(), BoxError>>
where
    I: Read + Write + Send + Unpin + 'static,
{
    let service = service_fn(move |request| {
        let (handler, peer) = (handler.clone(), peer.clone());
        let exchange = Exchange::begin(&activity);
        async move {
            let response = handler.handle(request, peer).await;
            Ok::<_, Infallible>(response.map(|body| Counted { body, _exchange: exchange }))
        }
    });
    watcher.watch(builder.serve_connection_with_upgrades(io, service).into_owned())
}

/// The requests of a connection.
#[derive(Default)]
struct Activity {
    /// All that ever began.
    begun: u64,
    /// Those whose answer has not been sent.
    open: usize,
}

/// A request until its answer has been sent.
struct Exchange(watch::Sender<Activity>);

impl Exchange {
    fn begin(activity: &watch::Sender<Activity>) -> Self {
        activity.send_modify(|activity| {
            activity.begun += 1;
            activity.open += 1;
        });
        Self(activity.clone())
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.0.send_modify(|activity| activity.open -= 1);
    }
}

/// The body of an answer, by which its exchange lasts as long as it is sent.
struct Counted {
    body: Body,
    _exchange: Exchange,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Ends when a connection has not sent its first request within `first`, or
/// another one within `idle` after all others were answered: an HTTP/2 client
/// could keep it for ever by answering pings.
async fn silence(mut activity: watch::Receiver<Activity>, first: Duration, idle: Duration) {
    let (mut limit, mut seen) = (first, 0);
    loop {
        let begun = activity.wait_for(|now| now.begun != seen);
        let Ok(begun) = tokio::time::timeout(limit, begun).await.map(|begun| begun.is_ok()) else { return };
        let ended = activity.wait_for(|now| now.open == 0).await.map(|now| now.begun);
        match ended {
            Ok(all) if begun => (limit, seen) = (idle, all),
            // The connection is about to end by itself.
            _ => std::future::pending().await,
        }
    }
}

/// Fails only on a connection that is already gone; serving notices that.
fn tune(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let milliseconds = u32::try_from(SEND_TIMEOUT.as_millis()).unwrap_or(u32::MAX);
    let _ = rustix::net::sockopt::set_tcp_user_timeout(stream, milliseconds);
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
/// Between two requests of a connection lies no more time than this. Longer than
/// our own clients keep an idle connection, so that they never meet its end.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
/// The kernel ends a connection whose peer takes nothing of what is sent for this long.
const SEND_TIMEOUT: Duration = Duration::from_secs(120);
/// Bytes of a request head.
const MAX_HEAD: usize = 64 * 1024;
/// The exporter label of `tls-exporter`.
const CHANNEL_BINDING: &[u8] = b"EXPORTER-Channel-Binding";
/// Headers of a request.
const MAX_HEADERS: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_peer_that_takes_nothing_is_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        tune(&stream);
        assert!(stream.nodelay().unwrap());
        assert_eq!(rustix::net::sockopt::tcp_user_timeout(&stream).unwrap(), 120_000);
    }

    /// Whether a connection that was used in this way is ended within a second.
    async fn is_ended(use_it: impl AsyncFnOnce(&watch::Sender<Activity>) -> Option<Exchange>) -> bool {
        const LIMIT: Duration = Duration::from_millis(50);
        let (activity, watched) = watch::channel(Activity::default());
        let silence = tokio::spawn(silence(watched, LIMIT, LIMIT));
        let open = use_it(&activity).await;
        let ended = tokio::time::timeout(Duration::from_secs(1), silence).await.is_ok();
        drop(open);
        ended
    }

    #[tokio::test]
    async fn a_silent_connection_ends_and_one_that_waits_for_its_answer_does_not() {
        assert!(is_ended(async |_| None).await, "no request at all");
        assert!(!is_ended(async |activity| Some(Exchange::begin(activity))).await, "one that is not answered");
        let brief = async |activity: &watch::Sender<Activity>| {
            drop(Exchange::begin(activity));
            None
        };
        assert!(is_ended(brief).await, "silence after a request that was answered at once");
        let one_of_two = async |activity: &watch::Sender<Activity>| {
            drop(Exchange::begin(activity));
            let open = Exchange::begin(activity);
            tokio::task::yield_now().await;
            drop(Exchange::begin(activity));
            Some(open)
        };
        assert!(!is_ended(one_of_two).await, "one of several that is not answered");
        let busy = async |activity: &watch::Sender<Activity>| {
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_millis(20)).await;
                drop(Exchange::begin(activity));
            }
            Some(Exchange::begin(activity))
        };
        assert!(!is_ended(busy).await, "requests at short intervals");
    }
}
