//! The service's side: sign-on with the protocol's own states, and an application behind it.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use bytes::Bytes;
use claviger_protocol::{
    Code, KemId, Secret32, ServiceId,
    message::{Binding, KeyGrant},
    service::{self, Answered, BindingCheck},
};
use data_encoding::HEXLOWER;
use http::{Response, StatusCode, header};
use http_body_util::Full;
use zeroize::Zeroizing;

use super::{Demand, SERVICE, SUITES, Servers, random, realm_name, response, suite};

#[derive(Default)]
pub(super) struct ServiceState {
    pub(super) keys: HashMap<String, Instant>,
    pub(super) challenges: HashSet<[u8; 32]>,
}

impl Servers {
    /// The service's own content, for users who have signed on.
    pub(super) fn application(&self, parts: &http::request::Parts, body: &Bytes) -> Response<Full<Bytes>> {
        let authorization = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let key = authorization.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        let live = self.service.lock().unwrap().keys.get(key).is_some_and(|until| *until > Instant::now());
        if !live {
            let mut refused = response(StatusCode::UNAUTHORIZED, "text/plain", "sign on first");
            refused.headers_mut().insert(header::WWW_AUTHENTICATE, "Claviger".parse().unwrap());
            return refused;
        }
        let text = String::from_utf8_lossy(body).into_owned();
        let line = format!("{} {}", parts.method, parts.uri.path());
        self.seen.lock().unwrap().requests.push((line.clone(), text.clone()));
        response(StatusCode::OK, "text/plain", format!("{line}: {text}"))
    }

    pub(super) fn sign_on(&self, envelope: &[u8], exporter: [u8; 32]) -> (Code, Vec<u8>) {
        if let Some(code) = self.faults.lock().unwrap().advisory {
            return (code, service::refusal(code, &random(), &[]));
        }
        let (code, mut reply) = match self.service_side(envelope, exporter) {
            Ok(outcome) => outcome,
            Err(code) => (code, service::refusal(code, &random(), &[])),
        };
        let faults = self.faults.lock().unwrap();
        if let Some(tamper) = faults.tamper {
            tamper(&mut reply);
        }
        let mut seen = self.seen.lock().unwrap();
        let first = seen.first_reply.get_or_insert_with(|| reply.clone());
        if faults.old_reply { (code, first.clone()) } else { (code, reply) }
    }

    fn service_side(&self, envelope: &[u8], exporter: [u8; 32]) -> Result<(Code, Vec<u8>), Code> {
        let id: ServiceId = SERVICE.parse().unwrap();
        let realm = realm_name();
        let policy = service::Policy { service: &id, realm: &realm, suites: &SUITES, kems: &KemId::ALL };
        let received = service::receive(envelope, &policy)?;
        let suite = suite(received.header().suite);
        let demand = self.faults.lock().unwrap().bind;
        let check = match received.header().binding {
            Binding::None if demand == Demand::Nothing => BindingCheck::NotRequired,
            Binding::Challenge(challenge) if demand != Demand::TlsExporter => {
                let own = self.service.lock().unwrap().challenges.remove(&challenge);
                if own { BindingCheck::OwnChallenge } else { BindingCheck::Failed }
            }
            Binding::TlsExporter(bytes) if bytes == exporter => BindingCheck::ThisConnection,
            _ => BindingCheck::Failed,
        };
        self.seen(|seen| {
            seen.kems.push(received.header().kem);
            seen.bindings.push(match received.header().binding {
                Binding::None => "none",
                Binding::Challenge(_) => "challenge",
                Binding::TlsExporter(_) => "tls-exporter",
            });
        });
        let bound = received.bound(check)?;
        let awaited = bound.await_answer(suite).unwrap();
        let answer = self.decrypt(bound.forward(), &id);
        match awaited.receive(&answer).unwrap() {
            Answered::Refused { code, note } => Ok((code, service::refusal(code, &random(), note))),
            Answered::Granted(granted) => {
                let lifetime = match self.faults.lock().unwrap().lifetime {
                    0 => 3600,
                    seconds => seconds,
                };
                let key = HEXLOWER.encode(&random::<32>());
                let until = Instant::now() + Duration::from_secs(lifetime.into());
                self.service.lock().unwrap().keys.insert(key.clone(), until);
                let grant = KeyGrant {
                    kind: 1,
                    lifetime,
                    key_id: b"key".to_vec(),
                    key: Zeroizing::new(key.into_bytes()),
                    audience: id.clone(),
                };
                let kem_random = Secret32::new(random());
                Ok((Code::Ok, granted.reply(suite, &grant, &random(), &kem_random).unwrap()))
            }
        }
    }
}
