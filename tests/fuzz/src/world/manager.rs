//! The management server: the protocol's states on records in memory, which
//! stand for durable ones, in the order in which the daemon stores them.

use std::collections::{BTreeMap, HashMap};

use claviger_protocol::{
    Code, KemId, Realm, Secret32, ServiceId, SuiteId,
    enrolment_code::{EnrolmentCode, EnrolmentId},
    management::{
        directory, enrol,
        envelope::{
            Candidate, Clock, Counted, DirectoryInner, Floor, Fresh, Inner, Policy, Received, Refusal, RotateInner,
        },
        login::{self, Granting},
        rotate,
    },
    message::{Answer, Enrol3, EnrolBox, Header, LoginInner, Refusal as Plain, Uid},
};

use super::{
    super::material::{KEMS, SUITES, WINDOW, realm, suite},
    Keys, Moment, Rules, USERS, user_id,
};

/// The server. All of it is durable.
pub struct Manager {
    realm: Realm,
    rules: Rules,
    floor: (SuiteId, KemId),
    /// By user.
    pub users: Vec<User>,
    codes: BTreeMap<EnrolmentId, Enrolment>,
    counters: HashMap<(u64, u32), BTreeMap<u64, [u8; 32]>>,
    made: u64,
    /// Where it dies during the next envelope that gets as far.
    pub crash: Option<Crash>,
}

/// A point between two durable steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// The counter is recorded, pending keys are not yet promoted.
    AfterCounter,
    /// Everything is recorded, the answer is not sent.
    BeforeAnswer,
}

/// A user's record.
#[derive(Default)]
pub struct User {
    /// The credential that is in force.
    pub credential: Option<Record>,
    /// The enrolment code that waits to be used.
    pub code: Option<EnrolmentId>,
}

/// A credential's record.
#[derive(Clone)]
pub struct Record {
    id: u64,
    floor: Floor,
    /// The keys in force.
    pub current: Keys,
    /// Keys of the next epoch that were offered.
    pub pending: Option<Keys>,
    /// Two live copies were seen.
    pub cloned: bool,
    /// What it was suspended for was a counter behind the window, which an
    /// envelope that was held back long enough has as well.
    pub overtaken: bool,
}

struct Enrolment {
    user: usize,
    /// `None` when the code is burnt.
    psk: Option<Secret32>,
    offer: Option<(Record, enrol::PendingEnrolment)>,
}

/// What became of an envelope in steps 6 to 10.
enum Admitted<I> {
    Fresh(Fresh<I>, usize),
    Refused(Box<Refusal>, usize),
    Crashed,
}

impl Manager {
    /// A server without users' credentials, with this policy.
    pub fn new(rules: Rules, floor: (SuiteId, KemId)) -> Self {
        Self {
            realm: realm(),
            rules,
            floor,
            users: (0..USERS).map(|_| User::default()).collect(),
            codes: BTreeMap::new(),
            counters: HashMap::new(),
            made: 0,
            crash: None,
        }
    }

    /// The process dies: what is durable stays.
    pub fn restart(&mut self) {
        if !self.rules.durable_counters {
            self.counters.clear();
        }
    }

    /// An administrator makes a code, which replaces the former.
    pub fn make_code(&mut self, user: usize, code: &EnrolmentCode) {
        self.users[user].code = Some(code.id());
        self.codes.insert(code.id(), Enrolment { user, psk: Some(code.psk()), offer: None });
    }

    /// `decrypt`, asked by `peer`. `None` when the server died.
    pub fn decrypt(&mut self, peer: &ServiceId, bytes: &[u8], moment: &mut Moment<'_>) -> Option<Vec<u8>> {
        match self.login(peer, bytes, moment) {
            Ok(answer) => answer,
            Err(code) => Some(login::refuse(code, bytes)),
        }
    }

    fn login(&mut self, peer: &ServiceId, bytes: &[u8], moment: &mut Moment<'_>) -> Result<Option<Vec<u8>>, Code> {
        let realm = self.realm.clone();
        let mut received = login::receive(bytes, &policy(&realm))?;
        if self.rules.service_check {
            received = received.from_service(peer)?;
        }
        let header = *received.header();
        let suite = suite(header.suite);
        let refused = |refusal: Box<Refusal>, epoch, moment: &mut Moment<'_>| {
            let answer = refusal.answer(suite, moment.now, epoch).unwrap();
            if !Answer::decode(&answer).unwrap().note.is_empty() {
                moment.ledger.noted(bytes);
            }
            Ok(Some(answer))
        };
        let (fresh, user) = match self.admit::<LoginInner>(received, moment)? {
            Admitted::Fresh(fresh, user) => (fresh, user),
            Admitted::Refused(refusal, user) => return refused(refusal, self.epoch(user), moment),
            Admitted::Crashed => return Ok(None),
        };
        let allowed = !self.is_cloned(user) && (user, peer.as_str()) != (2, "wiki.example");
        let authorised = match fresh.decided(allowed) {
            Ok(authorised) => authorised,
            Err(refusal) => return refused(refusal, self.epoch(user), moment),
        };
        moment.ledger.granted(&header, &self.record(user).floor);
        let subject = user_id(user);
        let key = *self.record(user).current.management.expose();
        let granting = Granting {
            auth_id: [7; 16],
            subject: &subject,
            now_ms: moment.now,
            max_session: 60,
            attributes: if self.rules.keys_stay { b"{}" } else { &key },
            epoch: self.epoch(user),
            rotate_required: false,
            next_handle: None,
        };
        let answer = authorised.grant(suite, &granting).unwrap();
        moment.ledger.noted(bytes);
        Ok((!self.dies(Crash::BeforeAnswer)).then(|| answer.to_vec()))
    }

    /// ROTATE. `None` when the server died.
    pub fn rotate(&mut self, bytes: &[u8], moment: &mut Moment<'_>) -> Option<Vec<u8>> {
        let realm = self.realm.clone();
        let answer = rotate::receive(bytes, &policy(&realm)).and_then(|received| {
            let header = *received.header();
            let suite = suite(header.suite);
            let (fresh, user) = match self.admit::<RotateInner>(received, moment)? {
                Admitted::Fresh(fresh, user) => (fresh, user),
                Admitted::Refused(refusal, user) => {
                    return Ok(self.refuse_rotation(refusal, bytes, &header, user, moment));
                }
                Admitted::Crashed => return Ok(None),
            };
            let authorised = match fresh.decided(!self.is_cloned(user)) {
                Ok(authorised) => authorised,
                Err(refusal) => return Ok(self.refuse_rotation(refusal, bytes, &header, user, moment)),
            };
            moment.ledger.granted(&header, &self.record(user).floor);
            let epoch = self.epoch(user) + 1;
            let (note, keys) = authorised.rotate(suite, &moment.random.secret(), moment.now, epoch)?;
            moment.ledger.noted(bytes);
            let keys = Keys { epoch, unique: keys.unique_key, management: keys.management_key };
            keys.enter(moment.ledger);
            self.record_mut(user).pending = Some(keys);
            Ok((!self.dies(Crash::BeforeAnswer)).then_some(note))
        });
        answer.unwrap_or_else(|code| Some(Plain(code).encode()))
    }

    fn refuse_rotation(
        &self,
        refusal: Box<Refusal>,
        bytes: &[u8],
        header: &Header<'_>,
        user: usize,
        moment: &mut Moment<'_>,
    ) -> Option<Vec<u8>> {
        let code = refusal.code();
        let note = refusal.note(suite(header.suite), moment.now, self.epoch(user)).unwrap();
        if note.is_empty() {
            return Some(Plain(code).encode());
        }
        moment.ledger.noted(bytes);
        Some(note)
    }

    /// DIRECTORY. `None` when the server died.
    pub fn directory(&mut self, bytes: &[u8], moment: &mut Moment<'_>) -> Option<Vec<u8>> {
        let realm = self.realm.clone();
        let answer = directory::receive(bytes, &policy(&realm)).and_then(|received| {
            let suite = suite(received.header().suite);
            let judged = match self.admit::<DirectoryInner>(received, moment)? {
                Admitted::Fresh(fresh, user) => fresh.decided(!self.is_cloned(user)),
                Admitted::Refused(refusal, _) => Err(refusal),
                Admitted::Crashed => return Ok(None),
            };
            let answer = match judged {
                Ok(authorised) => authorised.list(suite, moment.now, "[]".into()).unwrap(),
                Err(refusal) => {
                    let code = refusal.code();
                    let answer = refusal.directory(suite, moment.now).unwrap();
                    if answer.is_empty() {
                        return Err(code);
                    }
                    answer
                }
            };
            moment.ledger.noted(bytes);
            Ok((!self.dies(Crash::BeforeAnswer)).then_some(answer))
        });
        answer.unwrap_or_else(|code| Some(Plain(code).encode()))
    }

    /// E1 or E3.
    pub fn enrol(&mut self, bytes: &[u8], moment: &mut Moment<'_>) -> Option<Vec<u8>> {
        let answer = match Enrol3::decode(bytes) {
            Ok(e3) => self.activate(&e3),
            Err(_) => self.offer(bytes, moment),
        };
        let answer = answer.unwrap_or_else(|code| Plain(code).encode());
        (!self.dies(Crash::BeforeAnswer)).then_some(answer)
    }

    fn offer(&mut self, e1: &[u8], moment: &mut Moment<'_>) -> Result<Vec<u8>, Code> {
        let request = enrol::receive(e1, &self.realm, &SUITES, &KEMS)?;
        let suite = suite(request.suite());
        let enrolment = self.codes.get_mut(&request.id()).ok_or(Code::AuthFailed)?;
        let user = enrolment.user;
        let psk = enrolment.psk.clone().ok_or(Code::AuthFailed)?;
        let id = request.id();
        let verified = request.verify(suite, &psk, self.users[user].code == Some(id))?;
        let details = EnrolBox {
            user_id: user_id(user).into(),
            epoch: 1,
            suite_floor: self.floor.0,
            kem_floor: self.floor.1,
            server_time_ms: moment.now,
        };
        let (e2, offered) = verified.offer(suite, &psk, &details, &moment.random.bytes(), &moment.random.secret())?;
        let keys = Keys { epoch: 1, unique: offered.unique_key.clone(), management: offered.management_key.clone() };
        keys.enter(moment.ledger);
        self.made += 1;
        let record = Record {
            id: self.made,
            floor: Floor { hash_len: suite.hash_len(), suite: self.floor.0, kem: self.floor.1 },
            current: keys,
            pending: None,
            cloned: false,
            overtaken: false,
        };
        enrolment.offer = Some((record, offered));
        Ok(e2)
    }

    fn activate(&mut self, e3: &Enrol3) -> Result<Vec<u8>, Code> {
        let enrolment = self.codes.get_mut(&e3.id).ok_or(Code::AuthFailed)?;
        let (record, offered) = enrolment.offer.as_ref().ok_or(Code::AuthFailed)?;
        let e4 = offered.confirm(e3)?;
        let user = &mut self.users[enrolment.user];
        if user.credential.as_ref().is_some_and(|own| own.id == record.id) {
            return Ok(e4);
        }
        if user.code != Some(e3.id) {
            return Err(Code::AuthFailed);
        }
        user.credential = Some(record.clone());
        user.code = None;
        enrolment.psk = None;
        Ok(e4)
    }

    /// Steps 6 to 10.
    fn admit<I: Inner>(&mut self, received: Received<'_>, moment: &mut Moment<'_>) -> Result<Admitted<I>, Code> {
        let header = *received.header();
        let suite = suite(header.suite);
        let found = (0..USERS).find(|user| header.uid == Uid::UserId(user_id(*user).as_bytes()));
        let own = found.and_then(|user| {
            let record = self.users[user].credential.as_ref()?;
            [Some(&record.current), record.pending.as_ref()]
                .into_iter()
                .flatten()
                .find(|keys| keys.epoch == header.epoch)
        });
        let known = own.is_some();
        let keys = own.cloned().unwrap_or_else(Keys::of_nobody);
        let user = found.unwrap_or(0);
        let id = user_id(user);
        let candidate = Candidate { user_id: id.as_bytes(), management_key: &keys.management, known };
        let authenticated = received.open::<I>(suite, &keys.unique, candidate)?;
        let no_floor = Floor { hash_len: suite.hash_len(), suite: SUITES[0], kem: KEMS[0] };
        let floor = if self.rules.floors { self.record(user).floor } else { no_floor };
        let allowed = match authenticated.meets_floor(&floor) {
            Ok(allowed) => allowed,
            Err(refusal) => return Ok(Admitted::Refused(refusal, user)),
        };
        let (epoch, counter, nonce) = allowed.counter();
        let verdict = self.consume(self.record(user).id, epoch, counter, nonce);
        if self.dies(Crash::AfterCounter) {
            return Ok(Admitted::Crashed);
        }
        if verdict == Counted::Fresh {
            let record = self.record_mut(user);
            if let Some(next) = record.pending.take_if(|pending| pending.epoch == epoch) {
                record.current = next;
            }
        }
        let clock = Clock { now_ms: moment.now, window_ms: WINDOW, not_before_ms: 0 };
        Ok(match allowed.counted(verdict, &clock) {
            Ok(fresh) => Admitted::Fresh(fresh, user),
            Err(refusal) if refusal.is_clone() => {
                let record = self.record_mut(user);
                let before = std::mem::replace(&mut record.cloned, true);
                record.overtaken |= verdict == Counted::TooOld;
                Admitted::Refused(if before { refusal.without_note() } else { refusal }, user)
            }
            Err(refusal) => Admitted::Refused(refusal, user),
        })
    }

    fn consume(&mut self, credential: u64, epoch: u32, counter: u64, nonce: [u8; 32]) -> Counted {
        let rows = self.counters.entry((credential, epoch)).or_default();
        let highest = rows.last_key_value().map_or(0, |(highest, _)| *highest);
        if highest >= COUNTERS && counter <= highest - COUNTERS {
            return Counted::TooOld;
        }
        match rows.get(&counter) {
            Some(seen) if *seen == nonce => Counted::SameNonce,
            Some(_) => Counted::OtherNonce,
            None => {
                rows.insert(counter, nonce);
                let oldest = highest.max(counter).saturating_sub(COUNTERS);
                rows.retain(|row, _| *row > oldest || oldest == 0);
                Counted::Fresh
            }
        }
    }

    fn dies(&mut self, point: Crash) -> bool {
        let dies = self.crash.take_if(|crash| *crash == point).is_some();
        if dies {
            self.restart();
        }
        dies
    }

    fn is_cloned(&self, user: usize) -> bool {
        self.record(user).cloned
    }

    fn epoch(&self, user: usize) -> u32 {
        self.record(user).current.epoch
    }

    /// Only for a user whose envelope authenticated.
    fn record(&self, user: usize) -> &Record {
        self.users[user].credential.as_ref().unwrap()
    }

    fn record_mut(&mut self, user: usize) -> &mut Record {
        self.users[user].credential.as_mut().unwrap()
    }
}

/// How far a counter may be behind the highest.
const COUNTERS: u64 = 64;

fn policy(realm: &Realm) -> Policy<'_> {
    Policy { realm, suites: &SUITES, kems: &KEMS }
}
