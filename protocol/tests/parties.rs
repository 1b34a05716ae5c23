//! The three parties against each other and against a hostile network: the
//! negative set of the protocol's section 12, and the order of the checks.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::HashMap;

use claviger_protocol::{
    Code, KemId, Realm, Secret32, ServiceId, Suite, SuiteId,
    aws_lc::AwsLc,
    enrolment_code::EnrolmentCode,
    management::{
        enrol as m_enrol,
        login::{self as management, Candidate, Clock, Counted, Floor, Granting},
    },
    message::{Answer, Binding, Enrol3, EnrolBox, Envelope, Header, KeyGrant, LoginInner, Reply, Scope, Uid},
    schedule, service,
    suite::TAG_LEN,
    terminal::{
        enrol as t_enrol,
        login::{self as terminal, Accept, AwaitReply, Login, LoginRandom, Refused, Sender},
    },
};
use proptest::prelude::*;
use zeroize::Zeroizing;

const NOW: u64 = 1_760_000_000_000;
const WINDOW: u64 = 120_000;
const SUITES: [SuiteId; 5] = SuiteId::ALL;
const KEMS: [KemId; 3] = KemId::ALL;

/// A management server with one user, its counters in a map.
struct World {
    realm: Realm,
    service: ServiceId,
    suite_id: SuiteId,
    suite: &'static dyn Suite,
    kem: KemId,
    unique_key: Secret32,
    management_key: Secret32,
    counters: HashMap<u64, [u8; 32]>,
    counter: u64,
    allowed: bool,
    suspended: bool,
    floor: Floor,
}

/// What management says: to the service, and (opened by the terminal) to the terminal.
type Codes = (Code, Option<Code>);

impl World {
    fn new(suite_id: SuiteId, kem: KemId) -> Self {
        Self {
            realm: "example".parse().unwrap(),
            service: "shop.example".parse().unwrap(),
            suite_id,
            suite: AwsLc::suite(suite_id).unwrap(),
            kem,
            unique_key: Secret32::new(std::array::from_fn(|i| i as u8)),
            management_key: Secret32::new(std::array::from_fn(|i| 0xc0 ^ i as u8)),
            counters: HashMap::new(),
            counter: 0,
            allowed: true,
            suspended: false,
            floor: Floor {
                hash_len: suite_id.hash_len().unwrap(),
                suite: SuiteId::AES_256_GCM_SHA256,
                kem: KemId::None,
            },
        }
    }

    fn sender(&self, counter: u64, time_ms: u64) -> Sender<'_> {
        Sender {
            realm: &self.realm,
            user_id: b"alice",
            uid: Uid::UserId(b"alice"),
            epoch: 1,
            unique_key: &self.unique_key,
            management_key: &self.management_key,
            suite: self.suite_id,
            kem: self.kem,
            counter,
            time_ms,
        }
    }

    fn envelope(&mut self) -> (Vec<u8>, AwaitReply) {
        self.counter += 1;
        self.envelope_with(self.counter, NOW, self.counter as u8)
    }

    fn envelope_with(&self, counter: u64, time_ms: u64, nonce: u8) -> (Vec<u8>, AwaitReply) {
        let login = Login {
            sender: self.sender(counter, time_ms),
            service: &self.service,
            binding: Binding::None,
            scope: Scope::new(["email"]).unwrap(),
        };
        let random = LoginRandom {
            nonce: [nonce; 32],
            session_password: Secret32::new([nonce ^ 0xff; 32]),
            kem: Secret32::new([nonce | 1; 32]),
        };
        terminal::start(self.suite, login, random).unwrap()
    }

    /// The reply processor, as a service of that name sees it.
    fn answer(&mut self, envelope: &[u8], service: &ServiceId) -> Zeroizing<Vec<u8>> {
        self.process(envelope, service).unwrap_or_else(|code| Zeroizing::new(management::refuse(code, envelope)))
    }

    fn process(&mut self, envelope: &[u8], service: &ServiceId) -> Result<Zeroizing<Vec<u8>>, Code> {
        let policy = management::Policy { realm: &self.realm, suites: &[self.suite_id], kems: &[self.kem] };
        let received = management::receive(envelope, &policy)?.from_service(service)?;
        let candidate = Candidate { user_id: b"alice", management_key: &self.management_key, known: true };
        let authenticated = received.open::<LoginInner>(self.suite, &self.unique_key, candidate)?;
        let (suite, now) = (self.suite, NOW);
        let refused = |refusal: Box<management::Refusal>| Ok(refusal.answer(suite, now, 1).unwrap().into());
        let allowed = match authenticated.meets_floor(&self.floor) {
            Ok(allowed) => allowed,
            Err(refusal) => return refused(refusal),
        };
        let (_, counter, nonce) = allowed.counter();
        let max = self.counters.keys().max().copied().unwrap_or(0);
        let verdict = match self.counters.get(&counter) {
            Some(seen) if *seen == nonce => Counted::SameNonce,
            Some(_) => Counted::OtherNonce,
            None if max > 64 && counter <= max - 64 => Counted::TooOld,
            None => {
                self.counters.insert(counter, nonce);
                Counted::Fresh
            }
        };
        let clock = Clock { now_ms: NOW, window_ms: WINDOW, not_before_ms: 0 };
        let fresh = match allowed.counted(verdict, &clock) {
            Ok(fresh) => fresh,
            Err(refusal) if refusal.is_clone() && self.suspended => return refused(refusal.without_note()),
            Err(refusal) => {
                self.suspended |= refusal.is_clone();
                return refused(refusal);
            }
        };
        match fresh.decided(self.allowed) {
            Err(refusal) => refused(refusal),
            Ok(authorised) => {
                let granting = Granting {
                    auth_id: [7; 16],
                    subject: "subject",
                    now_ms: NOW,
                    max_session: 60,
                    attributes: b"{}",
                    epoch: 1,
                    rotate_required: false,
                    next_handle: None,
                };
                Ok(authorised.grant(self.suite, &granting).unwrap())
            }
        }
    }

    /// A whole run; `attack` may change each message on its way.
    fn run(&mut self, envelope: &[u8]) -> Vec<u8> {
        let service_id = self.service.clone();
        let realm = self.realm.clone();
        let (suites, kems) = ([self.suite_id], [self.kem]);
        let policy = service::Policy { service: &service_id, realm: &realm, suites: &suites, kems: &kems };
        let nonce = [9; 32];
        let bound = service::receive(envelope, &policy).and_then(|r| r.bound(service::BindingCheck::NotRequired));
        let bound = match bound {
            Ok(bound) => bound,
            Err(code) => return service::refusal(code, &nonce, &[]),
        };
        let awaiting = bound.await_answer(self.suite).unwrap();
        let answer = self.answer(bound.forward(), &service_id);
        match awaiting.receive(&answer).unwrap() {
            service::Answered::Refused { code, note } => service::refusal(code, &nonce, note),
            service::Answered::Granted(granted) => {
                granted.reply(self.suite, &key_grant(&service_id), &nonce, &Secret32::new([5; 32])).unwrap()
            }
        }
    }

    /// The codes of a run, as service and terminal see them.
    fn codes(&mut self, envelope: &[u8], awaiting: AwaitReply) -> Codes {
        let reply = self.run(envelope);
        let to_service = Reply::decode(&reply).unwrap().code;
        let to_terminal = match awaiting.receive(self.suite, &reply, ACCEPT) {
            Ok(signed_on) => Some(signed_on.note.code),
            Err(Refused::Sealed(note)) => Some(note.code),
            Err(_) => None,
        };
        (to_service, to_terminal)
    }
}

const ACCEPT: Accept<'_> = Accept { kinds: &[1], max_lifetime: 3600 };

fn key_grant(service: &ServiceId) -> KeyGrant {
    KeyGrant {
        kind: 1,
        lifetime: 60,
        key_id: vec![1; 16],
        key: Zeroizing::new(b"the service authentication key".to_vec()),
        audience: service.clone(),
    }
}

/// Each bit of a short message; of a long one (with ML-KEM shares) one bit of each third byte.
fn bits(message: &[u8]) -> impl Iterator<Item = usize> + use<> {
    let long = message.len() > 600;
    (0..message.len() * 8).filter(move |bit| !long || (bit / 8 % 3 == 0 && bit % 8 == bit / 24 % 8))
}

fn worlds() -> impl Iterator<Item = World> {
    SUITES.into_iter().flat_map(|suite| KEMS.into_iter().map(move |kem| World::new(suite, kem)))
}

#[test]
fn a_sign_on_gives_the_terminal_the_key_and_nobody_the_management_key() {
    for mut world in worlds() {
        let (envelope, awaiting) = world.envelope();
        let reply = world.run(&envelope);
        let signed_on = awaiting.receive(world.suite, &reply, ACCEPT).unwrap();
        assert_eq!(signed_on.grant.key.as_slice(), b"the service authentication key");
        assert_eq!(&*signed_on.note.service, "shop.example");
        // A_u is in no byte that reaches the service.
        let service = world.service.clone();
        let (envelope, _) = world.envelope();
        let answer = world.answer(&envelope, &service);
        for bytes in [envelope.as_slice(), answer.as_slice(), reply.as_slice()] {
            assert!(!bytes.windows(32).any(|window| window == world.management_key.expose()));
        }
    }
}

#[test]
fn each_flipped_bit_of_an_envelope_is_refused_without_a_note() {
    for mut world in worlds() {
        let service = world.service.clone();
        let (envelope, _) = world.envelope();
        let header_len = usize::from(u16::from_be_bytes([envelope[0], envelope[1]]));
        for bit in bits(&envelope) {
            let mut flipped = envelope.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let answer = world.answer(&flipped, &service);
            let answer = Answer::decode(&answer).unwrap();
            assert!(answer.note.is_empty() && answer.grant.is_none());
            let at = (bit / 8).wrapping_sub(2);
            let allowed: &[Code] = match at {
                usize::MAX | 0xffff_ffff_ffff_fffe => &[Code::Malformed],
                at if at >= header_len + 2 => &[Code::AuthFailed],
                at if at >= header_len => &[Code::Malformed],
                0..4 => &[Code::Unsupported],
                20..52 => &[Code::AuthFailed],
                _ => &[Code::AuthFailed, Code::Malformed, Code::Unsupported, Code::WrongService],
            };
            assert!(allowed.contains(&answer.code), "byte {at}: {}", answer.code);
        }
        assert!(world.counters.is_empty(), "nothing of this may spend a counter");
    }
}

#[test]
fn each_truncation_and_a_trailing_byte_are_malformed() {
    for mut world in worlds() {
        let service = world.service.clone();
        let (envelope, _) = world.envelope();
        let longer = [envelope.as_slice(), &[0]].concat();
        let candidates = (0..envelope.len()).map(|len| &envelope[..len]).chain([longer.as_slice()]);
        for candidate in candidates {
            let answer = world.answer(candidate, &service);
            assert_eq!(Answer::decode(&answer).unwrap().code, Code::Malformed, "{} bytes", candidate.len());
        }
    }
}

#[test]
fn refusals_without_a_note_have_one_size() {
    let mut world = World::new(SUITES[0], KemId::None);
    let service = world.service.clone();
    let (envelope, _) = world.envelope();
    let mut tampered = envelope.clone();
    *tampered.last_mut().unwrap() ^= 1;
    let other: ServiceId = "evil.example".parse().unwrap();
    let sizes: Vec<_> =
        [world.answer(&tampered, &service), world.answer(&envelope[1..], &service), world.answer(&envelope, &other)]
            .iter()
            .map(|answer| answer.len())
            .collect();
    assert!(sizes.iter().all(|size| *size == sizes[0]), "{sizes:?}");
}

#[test]
fn a_service_gets_nothing_from_anothers_envelope() {
    for mut world in worlds() {
        let (envelope, _) = world.envelope();
        let evil: ServiceId = "evil.example".parse().unwrap();
        let answer = world.answer(&envelope, &evil);
        assert_eq!(Answer::decode(&answer).unwrap().code, Code::WrongService);
        // And with its own id written into the header, it does not authenticate.
        let decoded = Envelope::decode(&envelope).unwrap();
        let header = Header { service: "evil.example", ..decoded.header }.encode().unwrap();
        let mut forged = Envelope::start(&header, decoded.ciphertext.len()).unwrap();
        forged.extend_from_slice(decoded.ciphertext);
        let answer = world.answer(&forged, &evil);
        assert_eq!(Answer::decode(&answer).unwrap().code, Code::AuthFailed);
    }
}

#[test]
fn a_wrong_management_key_fails_like_a_wrong_unique_key() {
    for mut world in worlds() {
        let service = world.service.clone();
        let (envelope, _) = world.envelope();
        let decoded = Envelope::decode(&envelope).unwrap();
        // Re-sealed with the right unique key and one bit of A_u flipped.
        let header = decoded.header_bytes;
        let master = schedule::master_secret(world.suite, &world.unique_key, b"alice", header).unwrap();
        let mut wrong = *world.management_key.expose();
        wrong[31] ^= 1;
        let inner = LoginInner {
            session_password: Secret32::new([3; 32]),
            management_key: Secret32::new(wrong),
            counter: 1,
            scope: Scope::default(),
        };
        let inner = inner.encode();
        let mut resealed = Envelope::start(header, inner.len() + TAG_LEN).unwrap();
        let key = schedule::envelope_key(world.suite, &master).unwrap();
        key.seal_into(world.suite, header, &inner, &mut resealed).unwrap();
        let wrong_management_key = world.answer(&resealed, &service);
        world.unique_key = Secret32::new([8; 32]);
        let wrong_unique_key = world.answer(&resealed, &service);
        assert_eq!(Answer::decode(&wrong_management_key).unwrap().code, Code::AuthFailed);
        assert_eq!(wrong_management_key, wrong_unique_key);
    }
}

#[test]
fn counters_and_clock_are_judged_in_the_protocols_order() {
    let cases: [(&str, u64, u64, u8, Codes); 8] = [
        ("resent", 100, NOW, 1, (Code::Replay, None)),
        ("resent and late", 100, NOW - WINDOW - 1, 1, (Code::Replay, None)),
        ("a counter used with another nonce", 100, NOW, 2, (Code::Denied, Some(Code::Clone))),
        ("the same, out of the window", 100, NOW - WINDOW - 1, 2, (Code::Replay, None)),
        ("far behind", 36, NOW, 3, (Code::Denied, Some(Code::Clone))),
        ("just inside the counter window", 37, NOW, 3, (Code::Ok, Some(Code::Ok))),
        ("late", 101, NOW - WINDOW - 1, 3, (Code::Skew, Some(Code::Skew))),
        ("early", 102, NOW + WINDOW + 1, 3, (Code::Skew, Some(Code::Skew))),
    ];
    for (what, counter, time, nonce, expected) in cases {
        let mut world = World::new(SUITES[0], KemId::None);
        let (first, awaiting) = world.envelope_with(100, NOW, 1);
        assert_eq!(world.codes(&first, awaiting), (Code::Ok, Some(Code::Ok)));
        let (second, awaiting) = world.envelope_with(counter, time, nonce);
        assert_eq!(world.codes(&second, awaiting), expected, "{what}");
        if expected.0 == Code::Skew {
            assert!(world.counters.contains_key(&counter), "a post-dated envelope is spent");
        }
    }
}

#[test]
fn an_answered_envelope_is_a_replay_however_many_came_after_it() {
    let mut world = World::new(SUITES[0], KemId::None);
    let (first, awaiting) = world.envelope_with(100, NOW, 1);
    assert_eq!(world.codes(&first, awaiting), (Code::Ok, Some(Code::Ok)));
    for counter in 101..=165 {
        let (newer, awaiting) = world.envelope_with(counter, NOW, 1);
        assert_eq!(world.codes(&newer, awaiting), (Code::Ok, Some(Code::Ok)));
    }
    let (resent, awaiting) = world.envelope_with(100, NOW, 1);
    assert_eq!(resent, first);
    assert_eq!(world.codes(&resent, awaiting), (Code::Replay, None));
    assert!(!world.suspended, "a service that sends an envelope again suspends nobody");
}

#[test]
fn floors_and_policy_deny() {
    type Change = fn(&mut World);
    let cases: [(&str, Option<Code>, Change); 4] = [
        ("policy", Some(Code::Denied), |world| world.allowed = false),
        ("suite floor", None, |world| world.floor.suite = SuiteId::CHACHA20_POLY1305_SHA256),
        ("kem floor", None, |world| world.floor.kem = KemId::X25519),
        ("hash of the credential", None, |world| world.floor.hash_len = 48),
    ];
    for (what, to_terminal, change) in cases {
        let mut world = World::new(SuiteId::AES_256_GCM_SHA256, KemId::None);
        change(&mut world);
        let (envelope, awaiting) = world.envelope();
        assert_eq!(world.codes(&envelope, awaiting), (Code::Denied, to_terminal), "{what}");
    }
}

#[test]
fn no_envelope_gets_two_notes() {
    // A service that sends the same bytes again and again, in every situation:
    // granted, late, denied, below the floor, a clone. Two notes for one
    // envelope would share a key and a nonce.
    type Change = fn(&mut World);
    let changes: [Change; 4] = [
        |_| {},
        |world| world.allowed = false,
        |world| world.floor.kem = KemId::X25519,
        |world| {
            world.counters.insert(100, [0; 32]);
        },
    ];
    for change in changes {
        for time in [NOW, NOW - WINDOW - 1] {
            let mut world = World::new(SUITES[0], KemId::None);
            let service = world.service.clone();
            change(&mut world);
            let (envelope, _) = world.envelope_with(100, time, 1);
            let notes: Vec<_> = (0..3)
                .map(|_| Answer::decode(&world.answer(&envelope, &service)).unwrap().note.to_vec())
                .filter(|note| !note.is_empty())
                .collect();
            assert!(notes.len() <= 1, "{} notes", notes.len());
        }
    }
}

#[test]
fn an_answer_to_another_envelope_is_not_taken() {
    let mut world = World::new(SUITES[0], KemId::X25519);
    let service_id = world.service.clone();
    let realm = world.realm.clone();
    let policy = service::Policy { service: &service_id, realm: &realm, suites: &SUITES, kems: &KEMS };
    let (first, _) = world.envelope();
    let (second, _) = world.envelope();
    let bound = service::receive(&first, &policy).unwrap().bound(service::BindingCheck::NotRequired).unwrap();
    let awaiting = bound.await_answer(world.suite).unwrap();
    let other = world.answer(&second, &service_id);
    assert!(awaiting.receive(&other).is_err());
}

#[test]
fn bindings_must_match_their_kind() {
    use service::BindingCheck::{Failed, NotRequired, OwnChallenge, ThisConnection};
    let world = World::new(SUITES[0], KemId::None);
    let policy = service::Policy { service: &world.service, realm: &world.realm, suites: &SUITES, kems: &KEMS };
    for (binding, good) in [
        (Binding::None, NotRequired),
        (Binding::Challenge([1; 32]), OwnChallenge),
        (Binding::TlsExporter([1; 32]), ThisConnection),
    ] {
        let (plain, _) = world.envelope_with(1, NOW, 1);
        let decoded = Envelope::decode(&plain).unwrap();
        let header = Header { binding, ..decoded.header }.encode().unwrap();
        let mut envelope = Envelope::start(&header, decoded.ciphertext.len()).unwrap();
        envelope.extend_from_slice(decoded.ciphertext);
        for check in [NotRequired, OwnChallenge, ThisConnection, Failed] {
            let bound = service::receive(&envelope, &policy).unwrap().bound(check);
            assert_eq!(bound.map(|_| ()), if check == good { Ok(()) } else { Err(Code::BindMismatch) });
        }
    }
}

#[test]
fn a_terminal_takes_no_reply_that_was_changed_or_meant_for_another_run() {
    for mut world in worlds() {
        let (envelope, _) = world.envelope();
        let reply = world.run(&envelope);
        // The same envelope again, from the terminal's own state, for each flipped bit.
        for bit in bits(&reply) {
            let (_, awaiting) = world.envelope_with(world.counter, NOW, world.counter as u8);
            let mut flipped = reply.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(awaiting.receive(world.suite, &flipped, ACCEPT).is_err(), "bit {bit}");
        }
        let (_, another) = world.envelope();
        assert!(matches!(another.receive(world.suite, &reply, ACCEPT), Err(Refused::Invalid(_))));
        // Local limits.
        for accept in [Accept { kinds: &[2, 3], ..ACCEPT }, Accept { max_lifetime: 59, ..ACCEPT }] {
            let (_, awaiting) = world.envelope_with(1, NOW, 1);
            assert!(matches!(awaiting.receive(world.suite, &reply, accept), Err(Refused::Invalid(_))));
        }
    }
}

#[test]
fn codes_that_nobody_sealed_are_advisory() {
    for code in Code::ALL.into_iter().filter(|code| *code != Code::Ok) {
        let mut world = World::new(SUITES[0], KemId::None);
        let (_, awaiting) = world.envelope();
        let forged = service::refusal(code, &[1; 32], &[]);
        assert_eq!(awaiting.receive(world.suite, &forged, ACCEPT).unwrap_err(), Refused::Advisory(code));
    }
}

#[test]
fn an_enrolment_gives_both_sides_the_same_keys() {
    for world in worlds() {
        let code = EnrolmentCode::new([7; 16]);
        let start = |seed: u8| {
            let random = Secret32::new([seed; 32]);
            t_enrol::start(world.suite, world.suite_id, &world.realm, &code, world.kem, &[seed; 32], &random).unwrap()
        };
        let details = EnrolBox {
            user_id: b"alice".to_vec(),
            epoch: 1,
            suite_floor: SUITES[0],
            kem_floor: KemId::None,
            server_time_ms: NOW,
        };
        let (e1, awaiting) = start(3);
        let request = m_enrol::receive(&e1, &world.realm, &SUITES, &KEMS).unwrap();
        assert_eq!(request.verify(world.suite, &Secret32::new([0; 32]), true).unwrap_err(), Code::AuthFailed);
        assert_eq!(request.verify(world.suite, &code.psk(), false).unwrap_err(), Code::AuthFailed);
        let verified = request.verify(world.suite, &code.psk(), true).unwrap();
        let random = Secret32::new([5; 32]);
        let (e2, pending) = verified.offer(world.suite, &code.psk(), &details, &[6; 32], &random).unwrap();
        let (offered, done) = awaiting.receive(world.suite, &e2).unwrap();
        assert_eq!(offered.details, details);
        assert!(pending.unique_key.ct_eq(offered.unique_key.expose()));
        assert!(pending.management_key.ct_eq(offered.management_key.expose()));
        assert!(!pending.management_key.ct_eq(offered.unique_key.expose()));
        let e3 = Enrol3::decode(&offered.confirm).unwrap();
        let e4 = pending.confirm(&e3).unwrap();
        assert_eq!(pending.confirm(&e3).unwrap(), e4, "the same E3 gives the same E4");
        done.receive(&e4).unwrap();

        // Every changed bit of every message is noticed.
        for bit in bits(&e1) {
            let mut bad = e1.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let verified = m_enrol::receive(&bad, &world.realm, &SUITES, &KEMS)
                .and_then(|request| request.verify(world.suite, &code.psk(), true));
            assert!(verified.is_err(), "E1, bit {bit}");
        }
        for bit in bits(&e2) {
            let mut bad = e2.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            // The top bit of an X25519 share is ignored (RFC 7748), and the share is under the MAC all the same.
            assert!(awaiting.receive(world.suite, &bad).is_err(), "E2, bit {bit}");
        }
        for at in 13..45 {
            let mut bad = offered.confirm.clone();
            bad[at] ^= 1;
            assert!(pending.confirm(&Enrol3::decode(&bad).unwrap()).is_err(), "E3, byte {at}");
        }
        for at in 0..e4.len() {
            let mut bad = e4.clone();
            bad[at] ^= 1;
            assert!(done.receive(&bad).is_err(), "E4, byte {at}");
        }
        // An offer made for another E1 of the same code.
        let (_, other) = start(4);
        assert!(other.receive(world.suite, &e2).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_party_panics_on_rubbish(bytes in proptest::collection::vec(any::<u8>(), 0..600), cut in 0..223usize, len in 1..40usize) {
        let mut world = World::new(SUITES[0], KemId::None);
        let service = world.service.clone();
        let (mut spliced, awaiting) = world.envelope();
        let end = (cut + len).min(spliced.len());
        let start = cut.min(end);
        spliced.splice(start..end, bytes.iter().copied().take(len));
        for candidate in [&bytes, &spliced] {
            let answer = world.answer(candidate, &service);
            Answer::decode(&answer).unwrap();
            let _ = m_enrol::receive(candidate, &world.realm, &SUITES, &KEMS);
            let _ = Enrol3::decode(candidate);
        }
        prop_assert!(awaiting.receive(world.suite, &bytes, ACCEPT).is_err());
    }
}
