//! From a presented key to a session.

use std::{sync::Arc, time::SystemTime};

use claviger_plugin_api::{KeyIssuer, KeyKind, Presented, Session, Verified};
use data_encoding::HEXLOWER;
use http::{
    HeaderMap, HeaderValue, Response, StatusCode, header,
    request::Parts,
    uri::{Authority, PathAndQuery},
};
use tracing::{debug, warn};

use super::{problem::problem, reachability::Reachability};
use crate::net::{Body, Peer};

/// Judges the keys of one service.
pub(super) struct Verifier {
    service: String,
    issuer: Arc<dyn KeyIssuer>,
    /// The headers by which this issuer's keys are presented; `None` for all.
    key_header: Option<header::HeaderName>,
    challenge: HeaderValue,
    issuer_answers: Reachability,
}

/// Why there is no session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoSession {
    /// No key, or not a good one.
    Unauthorized,
    /// The issuer cannot tell now.
    Unavailable,
}

impl Verifier {
    pub(super) fn new(service: String, issuer: Arc<dyn KeyIssuer>) -> Self {
        let key_header = matches!(issuer.kind(), KeyKind::Opaque | KeyKind::Jwt).then_some(header::AUTHORIZATION);
        // A service id has no character that a quoted string could not hold.
        let challenge = HeaderValue::from_str(&format!("Claviger service=\"{service}\""))
            .unwrap_or(HeaderValue::from_static("Claviger"));
        Self { service, issuer, key_header, challenge, issuer_answers: Reachability::new("the key issuer") }
    }

    /// Judges the key in a request head (attacker-controlled).
    pub(super) async fn verify(&self, head: &Parts, authority: &Authority, peer: &Peer) -> Result<Session, NoSession> {
        let presented = Presented::new(
            self.service.clone(),
            head.method.as_str().to_owned(),
            if peer.tls { "https" } else { "http" }.to_owned(),
            authority.as_str().to_owned(),
            head.uri.path_and_query().map_or("/", PathAndQuery::as_str).to_owned(),
            self.key_headers(&head.headers),
        );
        match self.issuer.verify(&presented).await {
            Ok(Verified::Session(session)) => {
                self.issuer_answers.up();
                self.accept(session)
            }
            Ok(_) => {
                self.issuer_answers.up();
                Err(NoSession::Unauthorized)
            }
            Err(error) => {
                self.issuer_answers.down(&error);
                Err(NoSession::Unavailable)
            }
        }
    }

    /// The answer to a request without a session.
    pub(super) fn refusal(&self, why: NoSession) -> Response<Body> {
        match why {
            NoSession::Unauthorized => {
                let mut response = problem(StatusCode::UNAUTHORIZED, "sign on to this service first");
                response.headers_mut().insert(header::WWW_AUTHENTICATE, self.challenge.clone());
                response
            }
            NoSession::Unavailable => {
                let mut response = problem(StatusCode::SERVICE_UNAVAILABLE, "keys cannot be verified at the moment");
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
                response
            }
        }
    }

    /// What an issuer says is checked where that is cheap.
    fn accept(&self, session: Session) -> Result<Session, NoSession> {
        if session.identity.service != self.service || session.identity.subject.is_empty() {
            warn!("the key issuer gave a session of another service, or of nobody; it was refused");
            return Err(NoSession::Unauthorized);
        }
        if session.expires <= SystemTime::now() {
            return Err(NoSession::Unauthorized);
        }
        if session.first_use {
            metrics::counter!("claviger_sessions_activated_total").increment(1);
            debug!(
                subject = session.identity.subject,
                auth_id = HEXLOWER.encode(&session.identity.auth_id),
                key_id = %session.key_id.escape_ascii(),
                "session active"
            );
        }
        Ok(session)
    }

    fn key_headers(&self, headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
        let copy =
            |(name, value): (&header::HeaderName, &HeaderValue)| (name.as_str().to_owned(), value.as_bytes().to_vec());
        match &self.key_header {
            Some(name) => headers.get_all(name).iter().map(|value| copy((name, value))).collect(),
            None => headers.iter().map(copy).collect(),
        }
    }
}
