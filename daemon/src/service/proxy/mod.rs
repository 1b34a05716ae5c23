//! The reverse proxy: passes requests of a session to the upstream, with the
//! identity in headers that nobody else can set.
//!
//! - `headers`: what crosses the proxy, and what does not.
//! - `identity`: the `Remote-*` headers.
//! - `upstream`: connections to the guarded server.
//! - `upload`: the request body, streamed.
//! - `upgrade`: WebSocket tunnels (HTTP/1.1; RFC 8441 is not offered).

mod headers;
mod identity;
#[cfg(test)]
mod tests;
mod upgrade;
mod upload;
mod upstream;

use std::time::{Duration, Instant};

use claviger_plugin_api::Session;
use http::{
    HeaderValue, Request, Response, StatusCode, Version, header,
    uri::{Authority, Scheme},
};
use http_body_util::BodyExt;
use hyper::{body::Incoming, upgrade::OnUpgrade};
use tracing::debug;

use self::{
    upload::{Progress, Upload},
    upstream::{Upstream, UpstreamError},
};
use super::{problem::problem, reachability::Reachability};
use crate::net::{Body, BoxError, Peer};

/// A reverse proxy to one upstream.
pub(super) struct Proxy {
    upstream: Upstream,
    first_byte: Duration,
    answers: Reachability,
}

impl Proxy {
    pub(super) fn new(upstream: Authority, http2: bool) -> Self {
        Self {
            upstream: Upstream::new(upstream, http2),
            first_byte: FIRST_BYTE,
            answers: Reachability::new("the upstream"),
        }
    }

    /// Another limit for the time in which the upstream must begin to answer.
    #[cfg(test)]
    fn with_first_byte(self, first_byte: Duration) -> Self {
        Self { first_byte, ..self }
    }

    /// Passes one request on. `authority` is what the client asked for, checked;
    /// `session` is whose key it presented, verified.
    pub(super) async fn forward(
        &self,
        request: Request<Incoming>,
        authority: &Authority,
        peer: &Peer,
        session: &Session,
    ) -> Response<Body> {
        let start = Instant::now();
        let response = self.exchange(request, authority, peer, session).await;
        metrics::counter!("claviger_proxy_requests_total", "status_class" => class(response.status())).increment(1);
        metrics::histogram!("claviger_proxy_seconds").record(start.elapsed().as_secs_f64());
        response
    }

    async fn exchange(
        &self,
        mut request: Request<Incoming>,
        authority: &Authority,
        peer: &Peer,
        session: &Session,
    ) -> Response<Body> {
        let hop = headers::hop(request.version(), request.headers());
        let client_upgrade = hop.websocket.then(|| hyper::upgrade::on(&mut request));
        let scheme = if peer.tls { Scheme::HTTPS } else { Scheme::HTTP };

        let (mut head, body) = request.into_parts();
        headers::strip_request(&mut head.headers);
        headers::add_forwarding(&mut head.headers, peer.address, authority, &scheme, head.version);
        identity::add_identity(&mut head.headers, session);
        if hop.websocket {
            head.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            head.headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        } else if hop.trailers {
            head.headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }

        let progress = Progress::new();
        let body = Upload::new(body, progress.clone()).boxed_unsync();
        // What a client's connection carries is no matter of the upstream's.
        head.extensions.clear();
        let sent = self.upstream.send(Request::from_parts(head, body), hop.websocket);
        match progress.limit(self.first_byte, sent).await {
            Ok(Ok(response)) => {
                self.answers.up();
                respond(response, client_upgrade, session)
            }
            Ok(Err(error)) => {
                match error {
                    UpstreamError::Connect(_) => self.answers.down(&error),
                    UpstreamError::Exchange(_) => debug!(%error, "no answer of the upstream"),
                }
                problem(StatusCode::BAD_GATEWAY, "the upstream server cannot be reached")
            }
            Err(_) => problem(StatusCode::GATEWAY_TIMEOUT, "the upstream server did not answer in time"),
        }
    }
}

/// What the client gets of the upstream's answer.
fn respond(mut response: Response<Incoming>, client: Option<OnUpgrade>, session: &Session) -> Response<Body> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some(client) = client else {
            return problem(StatusCode::BAD_GATEWAY, "the upstream server switched protocols without being asked");
        };
        upgrade::tunnel(client, hyper::upgrade::on(&mut response), session.expires);
        let (mut head, _) = response.into_parts();
        headers::strip_hop_by_hop(&mut head.headers);
        head.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        head.headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        return Response::from_parts(head, crate::net::empty());
    }
    let (mut head, body) = response.into_parts();
    headers::strip_hop_by_hop(&mut head.headers);
    head.version = Version::HTTP_11;
    head.extensions.clear();
    Response::from_parts(head, body.map_err(BoxError::from).boxed_unsync())
}

fn class(status: StatusCode) -> &'static str {
    match status.as_u16() / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    }
}

/// How long nothing may move before the upstream begins to answer.
const FIRST_BYTE: Duration = Duration::from_secs(60);
