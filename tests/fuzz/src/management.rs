//! The management server against envelopes and enrolment messages: arbitrary
//! ones, good ones that were changed on the way, and such as are sealed under
//! the right key and hostile inside.

use claviger_protocol::{
    Code, SuiteId,
    enrolment_code::EnrolmentCode,
    management::{
        enrol,
        envelope::{self, Authenticated, Candidate, Clock, Counted, DirectoryInner, Floor, Inner, Policy, RotateInner},
        login::{Granting, refuse},
    },
    message::{
        AccountInner, Answer, Binding, DirectoryMessage, Enrol1, Enrol2, Enrol3, EnrolBox, Envelope, Header,
        LoginInner, MAX_NOTE, MessageType, NoteMessage, Scope, Uid,
    },
    schedule,
    suite::{Suite, TAG_LEN},
    terminal::{envelope::Sender, login},
};

use super::{
    input::Input,
    material::{EPOCH, KEMS, NOW, Random, SUITES, USER, WINDOW, management_key, realm, services, suite, unique_key},
};

/// The first byte says what the rest is.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    match input.byte() & 3 {
        0 => arbitrary(input.rest()),
        1 => changed(&mut input),
        2 => sealed(&mut input),
        _ => enrolment(&mut input),
    }
}

/// Nobody can make an envelope without the key.
fn arbitrary(bytes: &[u8]) {
    assert!(!authenticates(bytes));
    let code = Code::from_wire(1 + bytes.first().copied().unwrap_or(0) % 11).unwrap();
    let answer = refuse(code, bytes);
    let answer = Answer::decode(&answer).unwrap();
    assert!(answer.code == code && answer.note.is_empty() && answer.grant.is_none());
}

/// A good envelope of the user, edited as the input says.
fn changed(input: &mut Input<'_>) {
    let (id, kem) = (input.pick(&SUITES), input.pick(&KEMS[..2]));
    let (realm, [service, _]) = (realm(), services());
    let (unique_key, management_key) = (unique_key(), management_key());
    let mut random = Random::default();
    let sender = Sender {
        realm: &realm,
        user_id: USER.as_bytes(),
        uid: Uid::UserId(USER.as_bytes()),
        epoch: EPOCH,
        unique_key: &unique_key,
        management_key: &management_key,
        suite: id,
        kem,
        counter: 1,
        time_ms: NOW,
    };
    let login =
        login::Login { sender, service: &service, binding: Binding::None, scope: Scope::new(["email"]).unwrap() };
    let bytes = login::LoginRandom { nonce: random.bytes(), session_password: random.secret(), kem: random.secret() };
    let (envelope, _) = login::start(suite(id), login, bytes).unwrap();
    let mut edited = envelope.clone();
    while !input.is_empty() {
        let kind = input.byte();
        let at = usize::from(input.byte()).min(edited.len());
        match kind & 3 {
            0 if at < edited.len() => edited[at] ^= input.byte(),
            1 => edited.truncate(at),
            2 => edited.insert(at, input.byte()),
            3 if at < edited.len() => drop(edited.remove(at)),
            _ => {}
        }
    }
    assert_eq!(authenticates(&edited), edited == envelope);
}

/// Whether an envelope of any kind authenticates as the user's.
fn authenticates(bytes: &[u8]) -> bool {
    open::<LoginInner>(bytes).is_ok() || open::<RotateInner>(bytes).is_ok() || open::<DirectoryInner>(bytes).is_ok()
}

/// Steps 2, 3, 6 and 7.
fn open<I: Inner>(bytes: &[u8]) -> Result<Authenticated<I>, Code> {
    let realm = realm();
    let policy = Policy { realm: &realm, suites: &SUITES, kems: &KEMS };
    let received = envelope::receive(bytes, I::KIND, &policy)?;
    let (unique_key, management_key) = (unique_key(), management_key());
    let known = received.uid() == Uid::UserId(USER.as_bytes()) && received.header().epoch == EPOCH;
    let candidate = Candidate { user_id: USER.as_bytes(), management_key: &management_key, known };
    received.open(suite(received.header().suite), &unique_key, candidate)
}

/// A header and an inner part from the input, under the right key; then every
/// check, with the store's verdict, clock and policy from the input as well.
fn sealed(input: &mut Input<'_>) {
    let choices = input.byte();
    let verdict = input.pick(&[Counted::Fresh, Counted::SameNonce, Counted::OtherNonce, Counted::TooOld]);
    let floor = Floor { hash_len: input.pick(&[32, 48]), suite: input.pick(&SUITES), kem: input.pick(&KEMS) };
    let header_bytes = input.block();
    let mut inner = input.rest().to_vec();
    let Ok(header) = Header::decode(header_bytes) else { return };
    if !SUITES.contains(&header.suite) {
        return;
    }
    let management_key = management_key();
    let key_at = if header.kind == MessageType::Login { 32 } else { 0 };
    if let Some(place) = inner.get_mut(key_at..key_at + 32)
        && choices & 1 == 0
    {
        place.copy_from_slice(management_key.expose());
    }
    let suite = suite(header.suite);
    let master = schedule::master_secret(suite, &unique_key(), USER.as_bytes(), header_bytes).unwrap();
    let Ok(mut bytes) = Envelope::start(header_bytes, inner.len() + TAG_LEN) else { return };
    schedule::envelope_key(suite, &master).unwrap().seal_into(suite, header_bytes, &inner, &mut bytes).unwrap();

    let step = Step { suite, header, bytes: &bytes, verdict, floor, choices };
    let matches = inner.get(key_at..key_at + 32).is_some_and(|key| management_key.ct_eq(key.try_into().unwrap()));
    match header.kind {
        MessageType::Login => step.login(matches && LoginInner::decode(&inner).is_ok()),
        MessageType::Rotate => step.rotate(matches && AccountInner::decode(&inner).is_ok()),
        MessageType::Directory => step.directory(matches && AccountInner::decode(&inner).is_ok()),
    }
}

/// A sealed envelope and what the store, the clock and policy say of it.
struct Step<'a> {
    suite: &'static dyn Suite,
    header: Header<'a>,
    bytes: &'a [u8],
    verdict: Counted,
    floor: Floor,
    choices: u8,
}

/// What came of the steps up to 11.
type Judged<I> = Result<envelope::Authorised<I>, Box<envelope::Refusal>>;

impl Step<'_> {
    fn login(&self, good: bool) {
        let Some(judged) = self.judge::<LoginInner>(good) else { return };
        let answer = match judged {
            Err(refusal) => refusal.answer(self.suite, NOW, EPOCH).unwrap().into(),
            Ok(authorised) => {
                let granting = Granting {
                    auth_id: [7; 16],
                    subject: "subject",
                    now_ms: NOW,
                    max_session: 60,
                    attributes: b"{}",
                    epoch: EPOCH,
                    rotate_required: self.choices & 16 != 0,
                    next_handle: (self.choices & 32 != 0).then_some([3; 16]),
                };
                authorised.grant(self.suite, &granting).unwrap()
            }
        };
        let answer = Answer::decode(&answer).unwrap();
        assert_eq!(answer.envelope_hash, schedule::hash(self.suite, self.bytes).unwrap().as_slice());
        assert_eq!(answer.grant.is_some(), self.is_allowed());
        self.check_note(answer.note, |note| NoteMessage::decode(note).is_ok());
    }

    fn rotate(&self, good: bool) {
        let Some(judged) = self.judge::<RotateInner>(good) else { return };
        let note = match judged {
            Err(refusal) => refusal.note(self.suite, NOW, EPOCH).unwrap(),
            // A share that is not a point or key of the KEM.
            Ok(authorised) => match authorised.rotate(self.suite, &Random::default().secret(), NOW, EPOCH + 1) {
                Ok((note, _)) => note,
                Err(code) => return assert_eq!(code, Code::Malformed),
            },
        };
        self.check_note(&note, |note| note.len() <= MAX_NOTE && NoteMessage::decode(note).is_ok());
    }

    fn directory(&self, good: bool) {
        let Some(judged) = self.judge::<DirectoryInner>(good) else { return };
        let answer = match judged {
            Err(refusal) => refusal.directory(self.suite, NOW).unwrap(),
            Ok(authorised) => authorised.list(self.suite, NOW, "[]".into()).unwrap(),
        };
        self.check_note(&answer, |answer| DirectoryMessage::decode(answer).is_ok());
    }

    /// All steps up to 11, each compared with what it must say. `None` when
    /// the envelope is not let in.
    fn judge<I: Inner>(&self, good: bool) -> Option<Judged<I>> {
        let authenticated = open::<I>(self.bytes);
        let header = &self.header;
        let served = header.is_this_version() && !header.critical_extension && header.realm == realm().as_str();
        let known = header.uid == Uid::UserId(USER.as_bytes()) && header.epoch == EPOCH;
        assert_eq!(authenticated.is_ok(), served && known && good);
        let authenticated = authenticated.ok()?;
        let allowed = match authenticated.meets_floor(&self.floor) {
            Ok(allowed) => allowed,
            Err(refusal) => {
                assert!(!self.meets_floor() && refusal.code() == Code::Denied);
                return Some(Err(refusal));
            }
        };
        assert!(self.meets_floor());
        let clock = Clock { now_ms: NOW, window_ms: WINDOW, not_before_ms: 0 };
        let fresh = match allowed.counted(self.verdict, &clock) {
            Ok(fresh) => fresh,
            Err(refusal) => {
                assert!(self.verdict != Counted::Fresh || !self.in_window());
                assert_eq!(refusal.is_clone(), self.is_clone());
                return Some(Err(refusal));
            }
        };
        assert!(self.verdict == Counted::Fresh && self.in_window());
        Some(fresh.decided(self.choices & 2 == 0))
    }

    fn meets_floor(&self) -> bool {
        let kem = self.header.kem >= self.floor.kem || self.header.kind == MessageType::Directory;
        self.suite.hash_len() == self.floor.hash_len && self.header.suite >= self.floor.suite && kem
    }

    fn in_window(&self) -> bool {
        self.header.time_ms.abs_diff(NOW) <= WINDOW
    }

    fn is_clone(&self) -> bool {
        matches!(self.verdict, Counted::OtherNonce | Counted::TooOld) && self.in_window()
    }

    fn is_allowed(&self) -> bool {
        self.meets_floor() && self.verdict == Counted::Fresh && self.in_window() && self.choices & 2 == 0
    }

    /// A note there is only behind the counter, or for a clone.
    fn check_note(&self, note: &[u8], decodes: impl Fn(&[u8]) -> bool) {
        let expected = self.meets_floor() && (self.verdict == Counted::Fresh || self.is_clone());
        assert_eq!(!note.is_empty(), expected);
        assert!(note.is_empty() || decodes(note));
    }
}

/// E1 from the input as it is and with the right MAC, then E3.
fn enrolment(input: &mut Input<'_>) {
    let code = EnrolmentCode::new([7; 16]);
    let known = input.byte() & 1 == 0;
    let mut e1 = input.block().to_vec();
    let realm = realm();
    let verify = |e1: &[u8]| {
        let request = enrol::receive(e1, &realm, &SUITES, &KEMS)?;
        request.verify(suite(request.suite()), &code.psk(), known).map(|_| ())
    };
    assert!(verify(&e1).is_err(), "nobody knows the code");
    let Ok(decoded) = Enrol1::decode(&e1) else { return };
    let Some(id) = SUITES.into_iter().find(|id: &SuiteId| *id == decoded.suite) else { return };
    let suite = suite(id);
    let tag = schedule::enrolment::request_tag(suite, &code.psk(), decoded.body).unwrap();
    let body = decoded.body.len();
    e1[body..].copy_from_slice(&tag);
    let decoded = Enrol1::decode(&e1).unwrap();
    assert_eq!(verify(&e1).is_ok(), known && decoded.realm == realm.as_str());
    let Ok(request) = enrol::receive(&e1, &realm, &SUITES, &KEMS) else { return };
    let Ok(verified) = request.verify(suite, &code.psk(), known) else { return };
    let details =
        EnrolBox { user_id: USER.into(), epoch: 1, suite_floor: SUITES[0], kem_floor: KEMS[0], server_time_ms: NOW };
    let mut random = Random::default();
    match verified.offer(suite, &code.psk(), &details, &random.bytes(), &random.secret()) {
        Ok((e2, pending)) => {
            assert_eq!(Enrol2::decode(&e2).unwrap().share.len(), decoded.kem.peer_share_len());
            if let Ok(e3) = Enrol3::decode(input.rest()) {
                assert_eq!(pending.confirm(&e3).unwrap_err(), Code::AuthFailed);
            }
        }
        Err(code) => assert_eq!(code, Code::Malformed),
    }
}
