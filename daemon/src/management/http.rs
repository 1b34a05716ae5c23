//! The management role over HTTP (protocol, section 14): one handler for
//! terminals, one for services.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use claviger_protocol::{
    CONTENT_TYPE, Code, MAX_ENVELOPE, Realm, ServiceId,
    message::{Held, Refusal},
};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;

use super::{Management, account, enrolment::Answer, reply_processor::NotRegistered};
use crate::net::{
    Body, BodyError, Handler, Peer, SourceLimit, body::with_type, full, read_body, text, tls::peer_uri_sans,
};

/// Serves terminals: enrolment, rotation, their directory.
pub struct TerminalsHandler {
    management: Arc<Management>,
    limit: SourceLimit,
}

impl TerminalsHandler {
    /// Serves `management`, each source within its limit.
    pub fn new(management: Arc<Management>, limit: SourceLimit) -> Self {
        Self { management, limit }
    }
}

/// Serves services over mutual TLS: decryption, and what they relay for terminals.
pub struct ServicesHandler(pub Arc<Management>);

#[async_trait]
impl Handler for TerminalsHandler {
    async fn handle(&self, request: Request<Incoming>, peer: Peer) -> Response<Body> {
        if !self.limit.allows(peer.address.ip()) {
            metrics::counter!("claviger_terminals_limited_total").increment(1);
            return respond(Code::RateLimited, Refusal(Code::RateLimited).encode());
        }
        match request.uri().path() {
            "/idb/v1/enrol" => enrol(&self.management, request).await,
            "/idb/v1/rotate" => account(&self.management, account::Request::Rotate, request).await,
            "/idb/v1/directory" => account(&self.management, account::Request::Directory, request).await,
            "/idb/v1/realm" => realm(&self.management, &request),
            _ => text(
                StatusCode::NOT_FOUND,
                "there is nothing here; terminals use /idb/v1/enrol, rotate, directory and realm\n",
            ),
        }
    }
}

#[async_trait]
impl Handler for ServicesHandler {
    async fn handle(&self, request: Request<Incoming>, peer: Peer) -> Response<Body> {
        let Some(service) = service_of(&peer, self.0.realm()) else {
            return text(StatusCode::FORBIDDEN, "the client certificate names no service of this realm\n");
        };
        if !self.0.key_is_pinned(&service, &peer) {
            return text(StatusCode::FORBIDDEN, "the client certificate is not the one that is registered\n");
        }
        match request.uri().path() {
            "/idb/v1/decrypt" => decrypt(&self.0, &service, request).await,
            path @ ("/idb/v1/rotate" | "/idb/v1/directory") => {
                if !self.0.is_registered(&service) {
                    return text(StatusCode::FORBIDDEN, &format!("{NotRegistered}\n"));
                }
                let rotate = path == "/idb/v1/rotate";
                let kind = if rotate { account::Request::Rotate } else { account::Request::Directory };
                account(&self.0, kind, request).await
            }
            _ => text(
                StatusCode::NOT_FOUND,
                "there is nothing here; services use /idb/v1/decrypt, rotate and directory\n",
            ),
        }
    }
}

async fn enrol(management: &Management, request: Request<Incoming>) -> Response<Body> {
    let message = match accept(request).await {
        Ok(message) => message,
        Err(response) => return response,
    };
    match management.enrolment().handle(&message).await {
        Ok(Answer::Message(answer)) => respond(Code::Ok, answer),
        Ok(Answer::Held) => {
            let mut response = respond(Code::Ok, Held.encode());
            *response.status_mut() = StatusCode::ACCEPTED;
            response
        }
        Err(code) => respond(code, Refusal(code).encode()),
    }
}

async fn account(management: &Management, kind: account::Request, request: Request<Incoming>) -> Response<Body> {
    match accept(request).await {
        Ok(envelope) => {
            let answered = management.account().handle(kind, &envelope).await;
            respond(answered.code, answered.bytes)
        }
        Err(response) => response,
    }
}

async fn decrypt(management: &Management, service: &ServiceId, request: Request<Incoming>) -> Response<Body> {
    let envelope = match accept(request).await {
        Ok(envelope) => envelope,
        Err(response) => return response,
    };
    match management.reply_processor().decrypt(service, &envelope).await {
        // Not copied: wiped when hyper is done with it.
        Ok(answered) => respond(answered.code, Bytes::from_owner(answered.bytes)),
        Err(error) => text(StatusCode::FORBIDDEN, &format!("{error}\n")),
    }
}

fn realm(management: &Management, request: &Request<Incoming>) -> Response<Body> {
    if request.method() != Method::GET {
        return not_allowed("GET");
    }
    with_type(StatusCode::OK, "application/json", management.description().to_string())
}

/// The service that a verified certificate names: its only SAN URI
/// `idb://<realm>/service/<id>` of this realm.
fn service_of(peer: &Peer, realm: &Realm) -> Option<ServiceId> {
    let prefix = format!("idb://{realm}/service/");
    let uris = peer_uri_sans(peer.certificate.as_ref()?);
    let mut ids = uris.iter().filter_map(|uri| uri.strip_prefix(&prefix));
    let id = ids.next()?;
    if ids.next().is_some() {
        return None;
    }
    id.parse().ok()
}

async fn accept(request: Request<Incoming>) -> Result<Bytes, Response<Body>> {
    if request.method() != Method::POST {
        return Err(not_allowed("POST"));
    }
    if request.headers().get(header::CONTENT_TYPE).is_none_or(|value| value != CONTENT_TYPE) {
        let message = format!("the content type must be {CONTENT_TYPE}\n");
        return Err(text(StatusCode::UNSUPPORTED_MEDIA_TYPE, &message));
    }
    read_body(request.into_body(), MAX_ENVELOPE).await.map_err(|error| match error {
        BodyError::TooLarge => text(StatusCode::PAYLOAD_TOO_LARGE, "an envelope has at most 4096 bytes\n"),
        BodyError::Broken => text(StatusCode::BAD_REQUEST, "the body broke off\n"),
    })
}

fn not_allowed(method: &'static str) -> Response<Body> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, &format!("only {method} is served here\n"));
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(method));
    response
}

fn respond(code: Code, bytes: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(bytes));
    *response.status_mut() = StatusCode::from_u16(code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
