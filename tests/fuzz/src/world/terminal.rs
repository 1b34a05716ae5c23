//! A terminal: the protocol's states, and the rules of rotation and enrolment
//! for what it keeps (protocol, sections 7 and 8).

use std::collections::BTreeMap;

use claviger_protocol::{
    Code, KemId, Realm, ServiceId, SuiteId,
    enrolment_code::EnrolmentCode,
    message::{Binding, Scope, Uid},
    terminal::{
        directory, enrol,
        envelope::{Refused, Sender},
        login, rotate,
    },
};

use super::{
    super::material::{realm, suite},
    Endpoint, Keys, Moment, Rules, user_id,
};

/// A terminal of one user.
pub struct Terminal {
    user: usize,
    realm: Realm,
    rules: Rules,
    /// How far its clock is off, in milliseconds.
    skew_ms: i64,
    /// What is on its disk.
    pub durable: Durable,
    runs: BTreeMap<u64, Run>,
    next_counter: u64,
    /// The next envelope is made under the current keys although there are
    /// newer ones, which did not work.
    fall_back: bool,
    /// What the last answer amounted to.
    pub last: Option<Outcome>,
}

/// What survives the terminal's death.
#[derive(Clone, Default)]
pub struct Durable {
    /// Its keys, once it was offered some.
    pub credential: Option<Credential>,
    /// No counter from here on was used.
    reserved: u64,
    offset_ms: i64,
}

/// A credential.
#[derive(Clone)]
pub struct Credential {
    suite: SuiteId,
    kem: KemId,
    /// The keys in force, as far as the terminal knows.
    pub current: Keys,
    /// The next epoch's keys, until they have worked.
    pub pending: Option<Keys>,
    /// E3 and what E4 must prove, until E4 has come.
    pub unconfirmed: Option<(Vec<u8>, [u8; 32])>,
}

/// What an answer amounted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A sign-on.
    SignedOn,
    /// New keys.
    Rotated,
    /// The enrolment is done.
    Enrolled,
    /// A directory.
    Listed,
    /// A refusal that the management server sealed.
    Sealed(Code),
    /// A refusal that nobody sealed, and whether newer keys are to blame.
    Advisory(Code),
    /// Nothing that could be used.
    Invalid,
}

/// A request that leaves the terminal.
pub struct Request {
    /// Names the run that awaits the response.
    pub run: u64,
    /// Where to.
    pub to: Endpoint,
    /// The message.
    pub bytes: Vec<u8>,
}

enum Run {
    Offer { state: enrol::AwaitOffer, suite: SuiteId, kem: KemId },
    Done { e3: Vec<u8> },
    Login { state: login::AwaitReply, envelope: Vec<u8>, epoch: u32 },
    Rotate { state: rotate::AwaitRotation, epoch: u32 },
    Directory { state: directory::AwaitDirectory, epoch: u32 },
}

impl Terminal {
    /// A terminal that was never enrolled.
    pub fn new(user: usize, rules: Rules, skew_ms: i64) -> Self {
        Self {
            user,
            realm: realm(),
            rules,
            skew_ms,
            durable: Durable::default(),
            runs: BTreeMap::new(),
            next_counter: 0,
            fall_back: false,
            last: None,
        }
    }

    /// The machine dies and starts again: only what is durable stays.
    pub fn restart(&mut self) {
        self.runs.clear();
        self.next_counter = self.durable.reserved;
        self.fall_back = false;
    }

    /// Whether the next sign-on would be made under keys that never worked yet.
    pub fn prefers_pending(&self) -> bool {
        !self.fall_back && self.durable.credential.as_ref().is_some_and(|credential| credential.pending.is_some())
    }

    /// Sends E1.
    pub fn enrol(&mut self, code: &EnrolmentCode, suite_id: SuiteId, kem: KemId, moment: &mut Moment<'_>) -> Request {
        let (nonce, seed) = (moment.random.bytes(), moment.random.secret());
        let (bytes, state) = enrol::start(suite(suite_id), suite_id, &self.realm, code, kem, &nonce, &seed).unwrap();
        self.send(Endpoint::Enrol, bytes, Run::Offer { state, suite: suite_id, kem }, moment)
    }

    /// Sends E3, again, where E4 has not come.
    pub fn confirm(&mut self, moment: &mut Moment<'_>) -> Option<Request> {
        let (e3, _) = self.durable.credential.as_ref()?.unconfirmed.clone()?;
        Some(self.send(Endpoint::Enrol, e3.clone(), Run::Done { e3 }, moment))
    }

    /// Begins a sign-on. `weaken`: with a suite and KEM of its own choice.
    pub fn login(
        &mut self,
        service: (usize, &ServiceId),
        weaken: Option<(SuiteId, KemId)>,
        moment: &mut Moment<'_>,
    ) -> Option<Request> {
        let pending = self.prefers_pending();
        self.fall_back = false;
        let counter = self.take_counter();
        let credential = self.durable.credential.as_ref()?;
        let keys = credential.pending.as_ref().filter(|_| pending).unwrap_or(&credential.current);
        let (suite_id, kem) = weaken.unwrap_or((credential.suite, credential.kem));
        let id = user_id(self.user);
        let login = login::Login {
            sender: self.sender(&id, keys, (suite_id, kem), counter, moment),
            service: service.1,
            binding: Binding::None,
            scope: Scope::default(),
        };
        let random = login::LoginRandom {
            nonce: moment.random.bytes(),
            session_password: moment.random.secret(),
            kem: moment.random.secret(),
        };
        let epoch = keys.epoch;
        let (bytes, state) = login::start(suite(suite_id), login, random).unwrap();
        moment.ledger.started(&bytes, self.user, service.0);
        let run = Run::Login { state, envelope: bytes.clone(), epoch };
        Some(self.send(Endpoint::Service(service.0), bytes, run, moment))
    }

    /// Asks for new keys. Only the newest such request is outstanding.
    pub fn rotate(&mut self, moment: &mut Moment<'_>) -> Option<Request> {
        self.runs.retain(|_, run| !matches!(run, Run::Rotate { .. }));
        let counter = self.take_counter();
        let credential = self.durable.credential.as_ref()?;
        let numbers = (credential.suite, credential.kem.max(KemId::X25519));
        let id = user_id(self.user);
        let sender = self.sender(&id, &credential.current, numbers, counter, moment);
        let (nonce, seed) = (moment.random.bytes(), moment.random.secret());
        let (bytes, state) = rotate::start(suite(credential.suite), &sender, nonce, &seed).unwrap();
        let epoch = credential.current.epoch;
        Some(self.send(Endpoint::Rotate, bytes, Run::Rotate { state, epoch }, moment))
    }

    /// Asks for the directory.
    pub fn directory(&mut self, moment: &mut Moment<'_>) -> Option<Request> {
        let counter = self.take_counter();
        let credential = self.durable.credential.as_ref()?;
        let id = user_id(self.user);
        let sender = self.sender(&id, &credential.current, (credential.suite, KemId::None), counter, moment);
        let (nonce, seed) = (moment.random.bytes(), moment.random.secret());
        let (bytes, state) = directory::start(suite(credential.suite), &sender, nonce, &seed).unwrap();
        let epoch = credential.current.epoch;
        Some(self.send(Endpoint::Directory, bytes, Run::Directory { state, epoch }, moment))
    }

    /// Takes a response for a run, which may be over. May go on with a request.
    pub fn receive(&mut self, run: u64, bytes: &[u8], moment: &mut Moment<'_>) -> Option<Request> {
        let run = self.runs.remove(&run)?;
        let suite = |terminal: &Self| suite(terminal.durable.credential.as_ref().unwrap().suite);
        self.last = Some(match run {
            Run::Offer { state, suite, kem } => {
                if self.take_offer(&state, suite, kem, bytes, moment) {
                    return self.confirm(moment);
                }
                Outcome::Invalid
            }
            Run::Done { e3 } => self.take_confirmation(&e3, bytes),
            Run::Login { state, envelope, epoch } => {
                let accept = login::Accept { kinds: &[1], max_lifetime: 60 };
                let number = claviger_protocol::message::Envelope::decode(&envelope).unwrap().header.suite;
                match state.receive(super::super::material::suite(number), bytes, accept) {
                    Ok(signed_on) => {
                        moment.ledger.signed_on(&envelope, &signed_on.grant.key);
                        self.worked(epoch);
                        Outcome::SignedOn
                    }
                    Err(refused) => self.refused(&refused, epoch, moment),
                }
            }
            Run::Rotate { state, epoch } => match state.receive(suite(self), bytes) {
                Ok(rotated) => self.take_rotation(rotated, epoch),
                Err(refused) => self.refused(&refused, epoch, moment),
            },
            Run::Directory { state, epoch } => match state.receive(suite(self), bytes) {
                Ok(directory) if directory.code == Code::Ok => Outcome::Listed,
                Ok(directory) => Outcome::Sealed(directory.code),
                Err(refused) => self.refused(&refused, epoch, moment),
            },
        });
        None
    }

    /// Stores what E2 offers, in the place of what there was.
    fn take_offer(
        &mut self,
        state: &enrol::AwaitOffer,
        suite_id: SuiteId,
        kem: KemId,
        e2: &[u8],
        moment: &mut Moment<'_>,
    ) -> bool {
        let Ok((offered, done)) = state.receive(suite(suite_id), e2) else { return false };
        if suite_id < offered.details.suite_floor {
            return false;
        }
        let keys =
            Keys { epoch: offered.details.epoch, unique: offered.unique_key, management: offered.management_key };
        keys.enter(moment.ledger);
        self.durable.credential = Some(Credential {
            suite: suite_id,
            kem: kem.max(offered.details.kem_floor),
            current: keys,
            pending: None,
            unconfirmed: Some((offered.confirm, *done.expected())),
        });
        // What is under way belongs to the keys that are gone.
        self.runs.clear();
        self.fall_back = false;
        true
    }

    fn take_confirmation(&mut self, e3: &[u8], e4: &[u8]) -> Outcome {
        let Some(credential) = &mut self.durable.credential else { return Outcome::Invalid };
        match &credential.unconfirmed {
            Some((own, expected)) if own == e3 && enrol::AwaitDone::resume(*expected).receive(e4).is_ok() => {
                credential.unconfirmed = None;
                Outcome::Enrolled
            }
            _ => Outcome::Invalid,
        }
    }

    fn take_rotation(&mut self, rotated: rotate::Rotated, epoch: u32) -> Outcome {
        let Some(credential) = &mut self.durable.credential else { return Outcome::Invalid };
        if credential.current.epoch != epoch {
            return Outcome::Invalid;
        }
        let keys =
            Keys { epoch: rotated.epoch, unique: rotated.keys.unique_key, management: rotated.keys.management_key };
        if self.rules.keeps_current {
            credential.pending = Some(keys);
        } else {
            credential.current = keys;
        }
        Outcome::Rotated
    }

    /// An OK note under this epoch: the one before it is erased.
    fn worked(&mut self, epoch: u32) {
        if let Some(credential) = &mut self.durable.credential
            && let Some(next) = credential.pending.take_if(|pending| pending.epoch == epoch)
        {
            credential.current = next;
        }
    }

    fn refused(&mut self, refused: &Refused, epoch: u32, moment: &Moment<'_>) -> Outcome {
        match refused {
            Refused::Sealed(note) => {
                if note.code == Code::Skew {
                    let offset = note.server_time_ms as i64 - (moment.now as i64 + self.skew_ms);
                    if offset.abs() <= DAY_MS {
                        self.durable.offset_ms = offset;
                    }
                }
                Outcome::Sealed(note.code)
            }
            Refused::Advisory(code) => {
                let pending = self.durable.credential.as_ref().and_then(|credential| credential.pending.as_ref());
                self.fall_back = *code == Code::AuthFailed && pending.is_some_and(|pending| pending.epoch == epoch);
                Outcome::Advisory(*code)
            }
            Refused::Invalid(_) => Outcome::Invalid,
            other => panic!("{other}"),
        }
    }

    fn send(&mut self, to: Endpoint, bytes: Vec<u8>, run: Run, moment: &mut Moment<'_>) -> Request {
        *moment.runs += 1;
        self.runs.insert(*moment.runs, run);
        Request { run: *moment.runs, to, bytes }
    }

    /// A counter that was never used, its block's end on disk before.
    fn take_counter(&mut self) -> u64 {
        if self.next_counter >= self.durable.reserved {
            self.durable.reserved = self.next_counter + BLOCK;
        }
        self.next_counter += 1;
        self.next_counter
    }

    fn sender<'a>(
        &'a self,
        id: &'a str,
        keys: &'a Keys,
        (suite, kem): (SuiteId, KemId),
        counter: u64,
        moment: &Moment<'_>,
    ) -> Sender<'a> {
        Sender {
            realm: &self.realm,
            user_id: id.as_bytes(),
            uid: Uid::UserId(id.as_bytes()),
            epoch: keys.epoch,
            unique_key: &keys.unique,
            management_key: &keys.management,
            suite,
            kem,
            counter,
            time_ms: (moment.now as i64 + self.skew_ms + self.durable.offset_ms) as u64,
        }
    }
}

/// Counters that are reserved at a time, as the terminal SDK does.
const BLOCK: u64 = 32;
const DAY_MS: i64 = 24 * 3600 * 1000;
