//! A service against arbitrary envelopes and answers, and answers that carry
//! the right `H(E)` and anything else.

use claviger_protocol::{
    Code, KemId, SuiteId,
    message::{Answer, Binding, Envelope, KeyGrant, Reply},
    schedule,
    service::{self, Answered, BindingCheck, Policy, ReplyError},
};

use super::{
    input::Input,
    material::{KEMS, Random, SUITES, realm, services, suite},
};

/// The first byte is the policy, the second the binding; then the envelope and
/// the answer.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let policy_byte = usize::from(input.byte());
    let check = input.pick(&CHECKS);
    let envelope = input.block();
    let answer = input.rest();

    let (realm, [service_id, _]) = (realm(), services());
    let suites: &[SuiteId] = if policy_byte & 1 == 0 { &SUITES } else { &SUITES[..1] };
    let kems: &[KemId] = if policy_byte & 2 == 0 { &KEMS } else { &KEMS[..1] };
    let policy = Policy { service: &service_id, realm: &realm, suites, kems };
    let decoded = Envelope::decode(envelope);
    let received = match service::receive(envelope, &policy) {
        Ok(received) => received,
        Err(code) => {
            assert_eq!(code == Code::Malformed, decoded.map_or(true, |e| e.header.kind as u8 != 1), "{code}");
            return refuse(code);
        }
    };
    let header = *received.header();
    assert!(header.service == service_id.as_str() && header.realm == realm.as_str());
    assert!(suites.contains(&header.suite) && kems.contains(&header.kem));
    let holds = matches!(
        (header.binding, check),
        (Binding::None, BindingCheck::NotRequired)
            | (Binding::Challenge(_), BindingCheck::OwnChallenge)
            | (Binding::TlsExporter(_), BindingCheck::ThisConnection)
    );
    let bound = match received.bound(check) {
        Ok(bound) => bound,
        Err(code) => {
            assert!(!holds && code == Code::BindMismatch);
            return refuse(code);
        }
    };
    assert!(holds);
    assert_eq!(bound.forward(), envelope, "the envelope is forwarded unchanged");
    let suite = suite(header.suite);

    // As it came: it answers another envelope, but for a hash that was found by chance.
    let hash = schedule::hash(suite, envelope).unwrap();
    let awaiting = bound.await_answer(suite).unwrap();
    let own = Answer::decode(answer).is_ok_and(|answer| answer.envelope_hash == hash.as_slice());
    assert_eq!(awaiting.receive(answer).is_ok(), own);

    // And the same about this envelope.
    let Ok(decoded) = Answer::decode(answer) else { return };
    let (code, note) = (decoded.code, decoded.note);
    let answer = Answer { envelope_hash: hash.as_slice(), ..decoded }.encode();
    let awaiting = bound.await_answer(suite).unwrap();
    let mut random = Random::default();
    match awaiting.receive(&answer).unwrap() {
        Answered::Refused { code: refused, note: passed_on } => {
            assert!(refused == code && code != Code::Ok && passed_on == note);
            let reply = service::refusal(code, &random.bytes(), note);
            assert_eq!(Reply::decode(&reply).unwrap().note, note);
        }
        Answered::Granted(granted) => {
            assert_eq!(code, Code::Ok);
            let grant = KeyGrant {
                kind: 1,
                lifetime: 60,
                key_id: vec![1; 16],
                key: random.bytes().to_vec().into(),
                audience: service_id,
            };
            match granted.reply(suite, &grant, &random.bytes(), &random.secret()) {
                Ok(reply) => {
                    let reply = Reply::decode(&reply).unwrap();
                    assert!(reply.code == Code::Ok && reply.note == note);
                    assert_eq!(reply.kem_share.len(), header.kem.peer_share_len());
                }
                Err(error) => assert!(error == ReplyError::Share && header.kem != KemId::None),
            }
        }
    }
}

const CHECKS: [BindingCheck; 4] =
    [BindingCheck::NotRequired, BindingCheck::OwnChallenge, BindingCheck::ThisConnection, BindingCheck::Failed];

fn refuse(code: Code) {
    assert_ne!(code, Code::Ok);
    let reply = service::refusal(code, &[9; 32], &[]);
    assert_eq!(Reply::decode(&reply).unwrap().code, code);
}
