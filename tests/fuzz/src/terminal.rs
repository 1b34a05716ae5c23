//! The terminal against hostile answers to each of its messages: bytes that
//! nobody sealed, and sealed parts under the right keys that hold anything.
//! What the terminal must make of the latter is computed beside it.

use claviger_protocol::{
    Code, KemId, SuiteId,
    enrolment_code::EnrolmentCode,
    kem,
    message::{
        Binding, Directory, DirectoryMessage, Enrol1, Enrol2, EnrolBox, Envelope, KeyGrant, MAX_NOTE, Note,
        NoteMessage, Refusal, Scope, Uid, reply_head,
    },
    schedule::{self, MessageKey},
    secret::Secret32,
    suite::{Digest, Suite, TAG_LEN},
    terminal::{
        directory, enrol,
        envelope::{Refused, Sender},
        login, rotate,
    },
};

use super::{
    input::Input,
    material::{EPOCH, KEMS, NOW, Random, SUITES, USER, management_key, realm, services, suite, unique_key},
};

/// Sends one message, by the first bytes of the input, and answers with the rest.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let kind = input.byte();
    let id = input.pick(&SUITES);
    let kem = input.pick(&KEMS);
    let case = Case { id, suite: suite(id), kem, sealed: kind & 0x80 != 0 };
    match kind & 3 {
        0 => case.login(&mut input),
        1 => case.rotate(&mut input),
        2 => case.directory(&mut input),
        _ => case.enrol(&mut input),
    }
}

struct Case {
    id: SuiteId,
    suite: &'static dyn Suite,
    kem: KemId,
    /// Whether the answer's sealed parts are made with the right keys.
    sealed: bool,
}

const LIFETIME: u32 = 3600;
const KINDS: [u8; 2] = [1, 3];

impl Case {
    fn login(&self, input: &mut Input<'_>) {
        let mut random = Random::default();
        let (realm, [service, _]) = (realm(), services());
        let (unique_key, management_key) = (unique_key(), management_key());
        let login = login::Login {
            sender: sender(self, &realm, &unique_key, &management_key),
            service: &service,
            binding: Binding::None,
            scope: Scope::default(),
        };
        let session_password = random.secret();
        let bytes = login::LoginRandom {
            nonce: random.bytes(),
            session_password: session_password.clone(),
            kem: random.secret(),
        };
        let (envelope, awaiting) = login::start(self.suite, login, bytes).unwrap();
        let accept = login::Accept { kinds: &KINDS, max_lifetime: LIFETIME };
        if !self.sealed {
            let refused = awaiting.receive(self.suite, input.rest(), accept).map(|_| ()).unwrap_err();
            return assert_unconfirmed(&refused);
        }
        let sent = Sent::new(self, &envelope);
        let note_plain = input.block();
        let grant_plain = input.rest();
        let note = sent.note(note_plain);
        let (share, shared) = self.respond(&envelope, &mut random);
        let head = reply_head(Code::Ok, &random.bytes(), &share, &note);
        let transcript = schedule::transcript(self.suite, &sent.envelope_hash, &head).unwrap();
        let key = schedule::reply_key(self.suite, &session_password, &shared, &transcript).unwrap();
        let reply = append(self, &key, &head, grant_plain, head.clone());

        let granted = KeyGrant::decode(grant_plain)
            .is_ok_and(|grant| grant.audience == service && grant.lifetime <= LIFETIME && KINDS.contains(&grant.kind));
        let noted = fitting_note(note_plain, &note).map(|note| (note.code, *note.service == *service.as_str()));
        let fits = grant_plain.len() <= claviger_protocol::message::MAX_KEY + 512 - TAG_LEN;
        match awaiting.receive(self.suite, &reply, accept) {
            Ok(signed_on) => {
                assert!(granted && noted == Some((Code::Ok, true)));
                assert_eq!(signed_on.grant.encode().unwrap().as_slice(), grant_plain);
            }
            Err(Refused::Sealed(note)) => assert!(noted.is_some_and(|(code, _)| code == note.code && code != Code::Ok)),
            Err(refused) => {
                assert!(!(fits && granted && noted == Some((Code::Ok, true))), "a good reply was refused: {refused}");
            }
        }
    }

    fn rotate(&self, input: &mut Input<'_>) {
        let mut random = Random::default();
        let (realm, unique_key, management_key) = (realm(), unique_key(), management_key());
        let sender = sender(self, &realm, &unique_key, &management_key);
        let started = rotate::start(self.suite, &sender, random.bytes(), &random.secret());
        if self.kem == KemId::None {
            assert!(started.is_err(), "a rotation needs a KEM");
            return;
        }
        let (envelope, awaiting) = started.unwrap();
        if !self.sealed {
            return assert_unconfirmed(&awaiting.receive(self.suite, input.rest()).map(|_| ()).unwrap_err());
        }
        let sent = Sent::new(self, &envelope);
        let (share, shared) = self.respond(&envelope, &mut random);
        let good_share = input.byte() & 1 == 0;
        let mut plain = input.rest().to_vec();
        if let Ok(note) = Note::decode(&plain)
            && good_share
        {
            plain = Note { kem_share: share.clone(), ..note }.encode();
        }
        let note = sent.note(&plain);
        let expected = fitting_note(&plain, &note);
        let good = expected.as_ref().is_some_and(|note| {
            note.code == Code::Ok && note.service.is_empty() && note.epoch == EPOCH + 1 && note.kem_share == share
        });
        match awaiting.receive(self.suite, &note) {
            Ok(rotated) => {
                let expected = expected.unwrap();
                assert!(expected.code == Code::Ok && expected.service.is_empty());
                assert_eq!(rotated.epoch, EPOCH + 1);
                assert!(!rotated.keys.unique_key.ct_eq(rotated.keys.management_key.expose()));
                if good {
                    let (master, hash) = (&sent.master, &sent.envelope_hash);
                    let keys = schedule::rotation::next_keys(self.suite, master, &shared, hash, &note).unwrap();
                    assert!(rotated.keys.unique_key.ct_eq(keys.unique_key.expose()));
                }
            }
            Err(refused) => assert!(!good, "a good note was refused: {refused}"),
        }
    }

    fn directory(&self, input: &mut Input<'_>) {
        let mut random = Random::default();
        let (realm, unique_key, management_key) = (realm(), unique_key(), management_key());
        let sender = sender(self, &realm, &unique_key, &management_key);
        let (envelope, awaiting) = directory::start(self.suite, &sender, random.bytes(), &random.secret()).unwrap();
        if !self.sealed {
            return assert_unconfirmed(&awaiting.receive(self.suite, input.rest()).map(|_| ()).unwrap_err());
        }
        let sent = Sent::new(self, &envelope);
        let plain = input.rest();
        let key = schedule::directory_key(self.suite, &sent.master, &sent.envelope_hash).unwrap();
        let mut answer = DirectoryMessage::start(plain.len() + TAG_LEN);
        key.seal_into(self.suite, &schedule::directory_aad(&sent.envelope_hash), plain, &mut answer).unwrap();
        assert_eq!(awaiting.receive(self.suite, &answer).ok(), Directory::decode(plain).ok());
    }

    fn enrol(&self, input: &mut Input<'_>) {
        let mut random = Random::default();
        let (realm, code) = (realm(), EnrolmentCode::new([7; 16]));
        let (nonce, seed) = (random.bytes(), random.secret());
        let (e1, awaiting) = enrol::start(self.suite, self.id, &realm, &code, self.kem, &nonce, &seed).unwrap();
        if !self.sealed {
            assert!(awaiting.receive(self.suite, input.rest()).is_err());
            return;
        }
        let decoded = Enrol1::decode(&e1).unwrap();
        let (share, shared) = kem::respond(self.kem, decoded.share, &random.secret()).unwrap();
        let details = input.block();
        let body = Enrol2::body(&random.bytes(), &share);
        let hash = schedule::hash(self.suite, &e1).unwrap();
        let secrets =
            schedule::enrolment::Secrets::derive(self.suite, &code.psk(), shared.expose(), &hash, &body).unwrap();
        let key = secrets.box_key(self.suite).unwrap();
        let e2 = append(self, &key, &body, details, body.clone());
        match awaiting.receive(self.suite, &e2) {
            Ok((offered, done)) => {
                assert_eq!(offered.details.encode(), details);
                assert!(offered.comparison < 1_000_000);
                // Nobody knows what E4 will be but the management server.
                assert!(done.receive(input.rest()).is_err());
            }
            Err(error) => assert!(details.len() > 1024 - TAG_LEN || EnrolBox::decode(details).is_err(), "{error}"),
        }
    }

    fn respond(&self, envelope: &[u8], random: &mut Random) -> (Vec<u8>, Vec<u8>) {
        let share = Envelope::decode(envelope).unwrap().header.share;
        let (share, shared) = kem::respond(self.kem, share, &random.secret()).unwrap();
        (share, shared.expose().to_vec())
    }
}

/// What the management server knows of an envelope.
struct Sent {
    suite: &'static dyn Suite,
    master: Digest,
    envelope_hash: Digest,
}

impl Sent {
    fn new(case: &Case, envelope: &[u8]) -> Self {
        let header = Envelope::decode(envelope).unwrap().header_bytes;
        let master = schedule::master_secret(case.suite, &unique_key(), USER.as_bytes(), header).unwrap();
        Self { suite: case.suite, master, envelope_hash: schedule::hash(case.suite, envelope).unwrap() }
    }

    fn note(&self, plain: &[u8]) -> Vec<u8> {
        let key = schedule::note_key(self.suite, &self.master, &self.envelope_hash).unwrap();
        let mut note = NoteMessage::start(plain.len() + TAG_LEN);
        key.seal_into(self.suite, &schedule::note_aad(&self.envelope_hash), plain, &mut note).unwrap();
        note
    }
}

fn sender<'a>(
    case: &Case,
    realm: &'a claviger_protocol::Realm,
    unique_key: &'a Secret32,
    management_key: &'a Secret32,
) -> Sender<'a> {
    Sender {
        realm,
        user_id: USER.as_bytes(),
        uid: Uid::UserId(USER.as_bytes()),
        epoch: EPOCH,
        unique_key,
        management_key,
        suite: case.id,
        kem: case.kem,
        counter: 1,
        time_ms: NOW,
    }
}

/// `before ‖ v16(sealed plain)`.
fn append(case: &Case, key: &MessageKey, aad: &[u8], plain: &[u8], mut before: Vec<u8>) -> Vec<u8> {
    before.extend_from_slice(&((plain.len() + TAG_LEN) as u16).to_be_bytes());
    key.seal_into(case.suite, aad, plain, &mut before).unwrap();
    before
}

/// The note that the terminal must find in a message, if any.
fn fitting_note(plain: &[u8], message: &[u8]) -> Option<Note> {
    Note::decode(plain).ok().filter(|_| message.len() <= MAX_NOTE)
}

/// Bytes that nobody sealed may be a code, which the terminal takes for what it is.
fn assert_unconfirmed(refused: &Refused) {
    match refused {
        Refused::Advisory(code) => assert!(Refusal::decode(&Refusal(*code).encode()).is_ok()),
        Refused::Invalid(_) => {}
        other => panic!("an answer that nobody sealed was taken: {other}"),
    }
}
