//! One connection whose TLS exporter is known before a message is sent over it.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::Full;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{CONNECT_TIMEOUT, EXCHANGE_TIMEOUT, collect, reason};
use crate::{
    core,
    error::{Error, Result},
    origin::Origin,
};

/// A connection of its own, for one message.
pub struct Connection {
    origin: Origin,
    exporter: [u8; 32],
    sender: SendRequest<Full<Bytes>>,
}

impl Connection {
    pub(super) async fn open(tls: Arc<ClientConfig>, origin: &Origin) -> Result<Self> {
        let unreachable = |reason: String| Error::Unreachable { origin: origin.clone(), reason };
        let opened = tokio::time::timeout(CONNECT_TIMEOUT, handshake(tls, origin)).await;
        let (exporter, sender) = opened
            .map_err(|_| unreachable(format!("no connection within {} s", CONNECT_TIMEOUT.as_secs())))?
            .map_err(|error| unreachable(reason(error.as_ref())))?;
        Ok(Self { origin: origin.clone(), exporter, sender })
    }

    /// The channel binding of RFC 9266.
    pub fn exporter(&self) -> [u8; 32] {
        self.exporter
    }

    /// Sends the message over this very connection, and collects the answer.
    /// Bounded in time and size as [`super::Transport::exchange`].
    pub async fn exchange(mut self, request: core::Request) -> Result<core::Response> {
        let mut builder =
            Request::builder().method(request.method).uri(request.path).header(header::HOST, self.origin.authority());
        if let Some(content_type) = request.content_type {
            builder = builder.header(header::CONTENT_TYPE, content_type);
        }
        let message = builder
            .body(Full::new(request.body))
            .map_err(|error| Error::Invalid(format!("the request cannot be made: {error}")))?;
        let unreachable = |reason: String| Error::Unreachable { origin: self.origin.clone(), reason };
        let exchange = async {
            let response = self.sender.send_request(message).await.map_err(|error| unreachable(reason(&error)))?;
            collect(&self.origin, response).await
        };
        let timed_out = |_| unreachable(format!("no answer within {} s", EXCHANGE_TIMEOUT.as_secs()));
        tokio::time::timeout(EXCHANGE_TIMEOUT, exchange).await.map_err(timed_out)?
    }
}

type Opened = ([u8; 32], SendRequest<Full<Bytes>>);

async fn handshake(tls: Arc<ClientConfig>, origin: &Origin) -> std::result::Result<Opened, super::BoxError> {
    let (host, port) = origin.host_and_port();
    let name = ServerName::try_from(host.to_owned())?;
    let tcp = TcpStream::connect((host, port)).await?;
    tcp.set_nodelay(true)?;
    let stream = TlsConnector::from(tls).connect(name, tcp).await?;
    let exporter = stream.get_ref().1.export_keying_material([0; 32], b"EXPORTER-Channel-Binding", None)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends when the sender is dropped.
    tokio::spawn(connection);
    Ok((exporter, sender))
}
