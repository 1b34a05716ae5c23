//! The management server's side, with the protocol's own states.

use std::collections::{HashMap, VecDeque};

use claviger_protocol::{
    CONTENT_TYPE, Code, KemId, Secret32, ServiceId, Suite, SuiteId,
    management::{
        directory,
        enrol::{self, PendingEnrolment},
        envelope::{Candidate, Clock, Counted, DirectoryInner, Floor, Fresh, Inner, Received, Refusal, RotateInner},
        login::{self, Granting},
        rotate,
    },
    message::{self, Enrol3, EnrolBox, Held, LoginInner, Uid},
};
use data_encoding::BASE64URL_NOPAD;
use http::StatusCode;
use rustls::crypto::{
    aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_256,
    hpke::{EncapsulatedSecret, Hpke, HpkeKeyPair},
};
use serde_json::json;

use super::{Answer, SUITES, Servers, random, realm_name, response, suite};

#[derive(Default)]
pub(super) struct Management {
    pub(super) codes: HashMap<[u8; 8], (Secret32, Option<PendingEnrolment>)>,
    pub(super) active: Option<Active>,
    counters: HashMap<(u32, u64), [u8; 32]>,
    pub(super) scope: Vec<String>,
    handles: VecDeque<[u8; 16]>,
    user_id_key: Option<HpkeKeyPair>,
}

/// The one user's keys.
#[derive(Clone)]
pub(super) struct Active {
    pub(super) epoch: u32,
    keys: Keys,
    pub(super) next: Option<Keys>,
}

/// Unique and management authentication key.
pub(super) type Keys = (Secret32, Secret32);

/// What the realm is like; the tests change it.
pub(crate) struct Policy {
    pub(crate) kems: Vec<KemId>,
    pub(crate) kem_floor: KemId,
    pub(crate) suite_floor: SuiteId,
    pub(crate) user_id: &'static str,
    pub(crate) private_user_ids: bool,
    /// The OK notes ask for a rotation.
    pub(crate) rotate_required: bool,
    /// Activation waits for an administrator.
    pub(crate) held: bool,
    pub(crate) directory: String,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            kems: KemId::ALL.to_vec(),
            kem_floor: KemId::None,
            suite_floor: SuiteId::AES_256_GCM_SHA256,
            user_id: "alice",
            private_user_ids: false,
            rotate_required: false,
            held: false,
            directory: "[]".into(),
        }
    }
}

/// Why an envelope is refused: with a sealed word where there may be one.
type Rejected = Result<Box<Refusal>, Code>;

impl Servers {
    pub(super) fn realm_info(&self) -> Answer {
        let policy = self.policy.lock().unwrap();
        let suites: Vec<String> = SUITES.iter().map(ToString::to_string).collect();
        let kems: Vec<u8> = policy.kems.iter().map(|kem| kem.to_wire()).collect();
        let mut info = json!({ "realm": realm_name().as_str(), "suites": suites, "kems": kems });
        info["private_user_ids"] = policy.private_user_ids.into();
        if policy.private_user_ids {
            let mut management = self.management.lock().unwrap();
            let pair = management.user_id_key.get_or_insert_with(new_pair);
            info["hpke_public_key"] = BASE64URL_NOPAD.encode(&pair.public_key.0).into();
        }
        Some(response(StatusCode::OK, "application/json", info.to_string()))
    }

    pub(super) fn enrol(&self, body: &[u8]) -> Answer {
        let outcome = if body.get(4) == Some(&0x13) { self.enrol_confirm(body)? } else { self.enrol_offer(body) };
        Some(match outcome {
            Ok(message) if message == Held.encode() => response(StatusCode::ACCEPTED, CONTENT_TYPE, message),
            Ok(message) => response(StatusCode::OK, CONTENT_TYPE, message),
            Err(code) => refusal(code),
        })
    }

    fn enrol_offer(&self, e1: &[u8]) -> Result<Vec<u8>, Code> {
        let policy = self.policy.lock().unwrap();
        let request = enrol::receive(e1, &realm_name(), &SUITES, &policy.kems)?;
        let suite = suite(request.suite());
        let id = request.id();
        let mut management = self.management.lock().unwrap();
        let (psk, known) = match management.codes.get(&id) {
            Some((psk, _)) => (psk.clone(), true),
            None => (Secret32::new([0; 32]), false),
        };
        let details = EnrolBox {
            user_id: policy.user_id.into(),
            epoch: 1,
            suite_floor: policy.suite_floor,
            kem_floor: policy.kem_floor,
            server_time_ms: self.now_ms(),
        };
        let kem_random = Secret32::new(random());
        let (e2, pending) = request.verify(suite, &psk, known)?.offer(suite, &psk, &details, &random(), &kem_random)?;
        self.seen.lock().unwrap().comparison = format!("{:06}", pending.comparison);
        management.codes.insert(id, (psk, Some(pending)));
        Ok(e2)
    }

    fn enrol_confirm(&self, e3: &[u8]) -> Option<Result<Vec<u8>, Code>> {
        self.seen.lock().unwrap().confirmations += 1;
        if let Some(code) = self.faults.lock().unwrap().refuse_e3 {
            return Some(Err(code));
        }
        let Ok(e3) = Enrol3::decode(e3) else { return Some(Err(Code::Malformed)) };
        let mut management = self.management.lock().unwrap();
        let Some(pending) = management.codes.get(&e3.id).and_then(|(_, pending)| pending.clone()) else {
            return Some(Err(Code::AuthFailed));
        };
        let outcome = pending.confirm(&e3);
        if outcome.is_ok() && self.policy.lock().unwrap().held {
            return Some(Ok(Held.encode()));
        }
        if outcome.is_ok() {
            management.active =
                Some(Active { epoch: 1, keys: (pending.unique_key, pending.management_key), next: None });
        }
        if self.faults.lock().unwrap().lose_e4 { None } else { Some(outcome) }
    }

    pub(super) fn rotate(&self, envelope: &[u8]) -> (Code, Vec<u8>) {
        let outcome = self.with_policy(|policy| {
            let received = rotate::receive(envelope, policy).map_err(Err)?;
            let suite = suite(received.header().suite);
            self.seen.lock().unwrap().rotate_kem = Some(received.header().kem);
            let fresh = self.admit::<RotateInner>(received)?;
            let authorised = fresh.decided(!self.faults.lock().unwrap().denied).map_err(Ok)?;
            let mut management = self.management.lock().unwrap();
            let active = management.active.as_mut().unwrap();
            let (note, keys) =
                authorised.rotate(suite, &Secret32::new(random()), self.now_ms(), active.epoch + 1).map_err(Err)?;
            active.next = Some((keys.unique_key, keys.management_key));
            Ok(note)
        });
        match outcome {
            Ok(note) => (Code::Ok, note),
            Err(Err(code)) => (code, message::Refusal(code).encode()),
            Err(Ok(refused)) => {
                let code = refused.code();
                let note = refused.note(suite_of(envelope), self.now_ms(), 1).unwrap();
                (code, if note.is_empty() { message::Refusal(code).encode() } else { note })
            }
        }
    }

    pub(super) fn directory(&self, envelope: &[u8]) -> (Code, Vec<u8>) {
        let outcome = self.with_policy(|policy| {
            let received = directory::receive(envelope, policy).map_err(Err)?;
            let suite = suite(received.header().suite);
            let fresh = self.admit::<DirectoryInner>(received)?;
            let authorised = fresh.decided(!self.faults.lock().unwrap().denied).map_err(Ok)?;
            let json = self.policy.lock().unwrap().directory.clone();
            Ok(authorised.list(suite, self.now_ms(), json).unwrap())
        });
        match outcome {
            Ok(list) => (Code::Ok, list),
            Err(Err(code)) => (code, message::Refusal(code).encode()),
            Err(Ok(refused)) => {
                let code = refused.code();
                let sealed = refused.directory(suite_of(envelope), self.now_ms()).unwrap();
                (code, if sealed.is_empty() { message::Refusal(code).encode() } else { sealed })
            }
        }
    }

    pub(super) fn decrypt(&self, envelope: &[u8], peer: &ServiceId) -> Vec<u8> {
        let outcome = self.with_policy(|policy| {
            let received = login::receive(envelope, policy).and_then(|r| r.from_service(peer)).map_err(Err)?;
            let suite = suite_of(envelope);
            let fresh = self.admit::<LoginInner>(received)?;
            let allowed = !self.faults.lock().unwrap().denied && !self.seen.lock().unwrap().suspended;
            Ok((suite, fresh.decided(allowed).map_err(Ok)?))
        });
        let (suite, authorised) = match outcome {
            Ok(authorised) => authorised,
            Err(Err(code)) => return login::refuse(code, envelope),
            Err(Ok(refused)) => {
                self.seen.lock().unwrap().suspended |= refused.is_clone();
                return refused.answer(suite_of(envelope), self.now_ms(), 1).unwrap();
            }
        };
        let (rotate_required, private) = {
            let policy = self.policy.lock().unwrap();
            (policy.rotate_required, policy.private_user_ids)
        };
        let mut management = self.management.lock().unwrap();
        management.scope = authorised.scope().names().map(str::to_owned).collect();
        let next_handle = private.then(random);
        management.handles.extend(next_handle);
        while management.handles.len() > 2 {
            management.handles.pop_front();
        }
        let granting = Granting {
            auth_id: random(),
            subject: "subject",
            now_ms: self.now_ms(),
            max_session: 3600,
            attributes: b"{}",
            epoch: management.active.as_ref().unwrap().epoch,
            rotate_required,
            next_handle,
        };
        authorised.grant(suite, &granting).unwrap().to_vec()
    }

    /// The management server forgets its handles, as after a restore.
    pub(crate) fn forget_handles(&self) {
        self.management.lock().unwrap().handles.clear();
    }

    /// It has another key for user ids.
    pub(crate) fn change_user_id_key(&self) {
        self.management.lock().unwrap().user_id_key = Some(new_pair());
    }

    fn with_policy<T>(&self, work: impl FnOnce(&login::Policy<'_>) -> T) -> T {
        let kems = self.policy.lock().unwrap().kems.clone();
        work(&login::Policy { realm: &realm_name(), suites: &SUITES, kems: &kems })
    }

    /// Steps 6 to 10.
    fn admit<I: Inner>(&self, received: Received<'_>) -> Result<Fresh<I>, Rejected> {
        let suite = suite(received.header().suite);
        let epoch = received.header().epoch;
        let mut management = self.management.lock().unwrap();
        let user_id = self.policy.lock().unwrap().user_id.as_bytes();
        let (name, resolved) = match received.uid() {
            Uid::UserId(id) => ("plain", id == user_id),
            Uid::Handle(handle) => ("handle", management.handles.contains(&handle)),
            Uid::Sealed(sealed) => ("sealed", management.open(sealed).is_some_and(|id| id == user_id)),
        };
        self.seen.lock().unwrap().names.push(name);
        let dummy = (Secret32::new([0; 32]), Secret32::new([0; 32]));
        let keys = management.active.as_ref().and_then(|active| match epoch {
            e if e == active.epoch => Some(active.keys.clone()),
            e if e == active.epoch + 1 => active.next.clone(),
            _ => None,
        });
        let known = resolved && keys.is_some();
        let (unique_key, management_key) = keys.unwrap_or(dummy);
        let candidate = Candidate { user_id, management_key: &management_key, known };
        let authenticated = received.open::<I>(suite, &unique_key, candidate).map_err(Err)?;
        let kem = self.policy.lock().unwrap().kem_floor;
        let floor = Floor { hash_len: suite.hash_len(), suite: SuiteId::AES_256_GCM_SHA256, kem };
        let allowed = authenticated.meets_floor(&floor).map_err(Ok)?;
        let (_, counter, nonce) = allowed.counter();
        let highest = management.counters.keys().map(|(_, counter)| *counter).max().unwrap_or(0);
        let verdict = match management.counters.get(&(epoch, counter)) {
            Some(known) if *known == nonce => Counted::SameNonce,
            Some(_) => Counted::OtherNonce,
            None if counter + 64 <= highest => Counted::TooOld,
            None => Counted::Fresh,
        };
        management.counters.insert((epoch, counter), nonce);
        if let Some(active) = &mut management.active
            && verdict == Counted::Fresh
            && epoch == active.epoch + 1
            && let Some(keys) = active.next.take()
        {
            *active = Active { epoch, keys, next: None };
        }
        let clock = Clock { now_ms: self.now_ms(), window_ms: 120_000, not_before_ms: 0 };
        allowed.counted(verdict, &clock).map_err(Ok)
    }
}

impl Management {
    fn open(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        let hpke: &dyn Hpke = DH_KEM_X25519_HKDF_SHA256_AES_256;
        let secret_key = &self.user_id_key.as_ref()?.private_key;
        let share = EncapsulatedSecret(sealed[..32].to_vec());
        let padded = hpke.open(&share, b"IDB1 uid\0example", &[], &sealed[32..], secret_key).ok()?;
        let len = padded.iter().rposition(|byte| *byte != 0)? + 1;
        Some(padded[..len].to_vec())
    }
}

/// The suite that an envelope names.
fn suite_of(envelope: &[u8]) -> &'static dyn Suite {
    suite(SuiteId(u16::from_be_bytes([envelope[8], envelope[9]])))
}

fn refusal(code: Code) -> http::Response<http_body_util::Full<bytes::Bytes>> {
    response(StatusCode::from_u16(code.http_status()).unwrap(), CONTENT_TYPE, message::Refusal(code).encode())
}

fn new_pair() -> HpkeKeyPair {
    let (public_key, private_key) = DH_KEM_X25519_HKDF_SHA256_AES_256.generate_key_pair().unwrap();
    HpkeKeyPair { public_key, private_key }
}
