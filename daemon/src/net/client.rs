//! A pooled HTTPS client, HTTP/2 where the server speaks it.

use std::time::Duration;

use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::ClientConfig;

use super::Body;

/// A pooled client that speaks https only.
pub type HttpsClient = Client<HttpsConnector<HttpConnector>, Body>;

/// A client on a configuration of [`super::tls::client_config`].
///
/// Connections are kept for 90 s; HTTP/2 connections are pinged while in use,
/// so a peer that went away is noticed within seconds.
pub fn https_client(mut tls: ClientConfig) -> HttpsClient {
    tls.alpn_protocols.clear();
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    tcp.set_keepalive(Some(Duration::from_secs(30)));
    let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_all_versions();
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .timer(TokioTimer::new())
        .pool_idle_timeout(Duration::from_secs(90))
        .http2_keep_alive_interval(Duration::from_secs(10))
        .http2_keep_alive_timeout(Duration::from_secs(5))
        .build(connector.wrap_connector(tcp))
}

/// How long a TCP connection may take to come up.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
