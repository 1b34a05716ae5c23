//! The management role over HTTP (protocol, section 14): one handler for
//! terminals, one for services.

use std::sync::Arc;

use async_trait::async_trait;
use claviger_protocol::{CONTENT_TYPE, Code, MAX_ENVELOPE, Realm, ServiceId, message::Refusal};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;

use super::Management;
use crate::net::{Body, BodyError, Handler, Peer, full, read_body, text, tls::peer_uri_sans};

/// Serves terminals: enrolment.
pub struct TerminalsHandler(pub Arc<Management>);

/// Serves services over mutual TLS: decryption.
pub struct ServicesHandler(pub Arc<Management>);

#[async_trait]
impl Handler for TerminalsHandler {
    async fn handle(&self, request: Request<Incoming>, _: Peer) -> Response<Body> {
        if request.uri().path() != "/idb/v1/enrol" {
            return text(StatusCode::NOT_FOUND, "there is nothing here; terminals use /idb/v1/enrol\n");
        }
        let message = match accept(request).await {
            Ok(message) => message,
            Err(response) => return response,
        };
        match self.0.enrolment().handle(&message).await {
            Ok(answer) => respond(Code::Ok, answer),
            Err(code) => respond(code, Refusal(code).encode()),
        }
    }
}

#[async_trait]
impl Handler for ServicesHandler {
    async fn handle(&self, request: Request<Incoming>, peer: Peer) -> Response<Body> {
        if request.uri().path() != "/idb/v1/decrypt" {
            return text(StatusCode::NOT_FOUND, "there is nothing here; services use /idb/v1/decrypt\n");
        }
        let Some(service) = service_of(&peer, self.0.realm()) else {
            return text(StatusCode::FORBIDDEN, "the client certificate names no service of this realm\n");
        };
        if !self.0.key_is_pinned(&service, &peer) {
            return text(StatusCode::FORBIDDEN, "the client certificate is not the one that is registered\n");
        }
        let envelope = match accept(request).await {
            Ok(envelope) => envelope,
            Err(response) => return response,
        };
        match self.0.reply_processor().decrypt(&service, &envelope).await {
            Ok(answered) => respond(answered.code, answered.bytes.to_vec()),
            Err(error) => text(StatusCode::FORBIDDEN, &format!("{error}\n")),
        }
    }
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

async fn accept(request: Request<Incoming>) -> Result<bytes::Bytes, Response<Body>> {
    if request.method() != Method::POST {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only POST is served here\n");
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
        return Err(response);
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

fn respond(code: Code, bytes: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(full(bytes));
    *response.status_mut() = StatusCode::from_u16(code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
