//! Which request goes where.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;

use claviger_protocol::{CONTENT_TYPE, Code, MAX_ENVELOPE};

use super::{Relay, ServiceRole, head, problem::problem};
use crate::net::{Body, BodyError, Peer, body::with_type, read_body};

impl ServiceRole {
    /// The protocol endpoints are answered here; everything else needs a key
    /// and goes to the upstream.
    pub(super) async fn route(&self, request: Request<Incoming>, peer: &Peer) -> Response<Body> {
        let authority = match head::authority(&request) {
            Ok(authority) => authority,
            Err(bad) => return problem(bad.status, bad.detail),
        };
        match request.uri().path() {
            "/idb/v1/sign-on" => self.sign_on(request, peer).await,
            "/idb/v1/challenge" => self.challenge(request.method(), peer).await,
            path => {
                if let Some(kind) = Relay::from_path(path) {
                    return self.relay(kind, request, peer).await;
                }
                let (head, body) = request.into_parts();
                match self.verifier.verify(&head, &authority, peer).await {
                    Ok(session) => {
                        let request = Request::from_parts(head, body);
                        self.proxy.forward(request, &authority, peer, &session).await
                    }
                    Err(why) => self.verifier.refusal(why),
                }
            }
        }
    }

    async fn sign_on(&self, request: Request<Incoming>, peer: &Peer) -> Response<Body> {
        if let Some(response) = refuse_head(&request) {
            return response;
        }
        let envelope = match read_envelope(request).await {
            Ok(envelope) => envelope,
            Err(response) => return response,
        };
        let outcome = self.sign_on.answer(envelope, peer).await;
        protocol_answer(outcome.code.http_status(), outcome.reply)
    }

    async fn relay(&self, kind: Relay, request: Request<Incoming>, peer: &Peer) -> Response<Body> {
        if let Some(response) = refuse_head(&request) {
            return response;
        }
        let relayed = if self.limit.allows(peer.address.ip()) {
            match read_envelope(request).await {
                Ok(envelope) => self.relays.answer(kind, envelope).await,
                Err(response) => return response,
            }
        } else {
            self.relays.refuse(kind, Code::RateLimited)
        };
        protocol_answer(relayed.status, relayed.body)
    }

    async fn challenge(&self, method: &Method, peer: &Peer) -> Response<Body> {
        if method != Method::GET {
            return wrong_method("GET");
        }
        if !self.limit.allows(peer.address.ip()) {
            return retry_later(problem(StatusCode::TOO_MANY_REQUESTS, "too many requests from this address"));
        }
        match self.challenges.give().await {
            Ok(challenge) => protocol_answer(200, challenge.to_vec()),
            Err(_) => retry_later(problem(StatusCode::SERVICE_UNAVAILABLE, "no challenge can be given at the moment")),
        }
    }
}

/// The answer to what cannot be an envelope, for its head alone.
fn refuse_head(request: &Request<Incoming>) -> Option<Response<Body>> {
    if request.method() != Method::POST {
        return Some(wrong_method("POST"));
    }
    let refusal = || problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, "expected application/vnd.idb1");
    (!is_protocol(request.headers())).then(refusal)
}

async fn read_envelope(request: Request<Incoming>) -> Result<Bytes, Response<Body>> {
    read_body(request.into_body(), MAX_ENVELOPE).await.map_err(|error| match error {
        BodyError::TooLarge => problem(StatusCode::PAYLOAD_TOO_LARGE, "an envelope has at most 4096 bytes"),
        BodyError::Broken => problem(StatusCode::BAD_REQUEST, "the body broke off"),
    })
}

/// Whether the content type is the protocol's; parameters do not matter.
pub(super) fn is_protocol(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return false };
    let essence = value.as_bytes().split(|b| *b == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(CONTENT_TYPE.as_bytes())
}

fn protocol_answer(status: u16, bytes: Vec<u8>) -> Response<Body> {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = with_type(status, CONTENT_TYPE, bytes);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        return retry_later(response);
    }
    response
}

fn wrong_method(allowed: &'static str) -> Response<Body> {
    let mut response = problem(StatusCode::METHOD_NOT_ALLOWED, "this endpoint has another method");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    response
}

fn retry_later(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}
