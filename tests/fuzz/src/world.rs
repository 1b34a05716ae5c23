//! Whole runs: three users, two services and a management server, with the
//! real states of the protocol. The input is a programme for a network that
//! delivers, drops, duplicates, reorders, changes, forges and crosses messages,
//! lets time pass, and kills either side; a kill loses what is not durable.
//! Service 1 is hostile as well: it hands in envelopes that are not its own.
//!
//! What holds at each moment is in [`ledger`]; beside that a terminal always
//! has the keys that are in force, unless it was restored from a backup. When
//! the network has ended its work, each enrolled user must sign on within
//! three attempts, and a rotation must leave both sides with the same keys.
//!
//! Left out, since a network can do them to every terminal: an enrolment code
//! ends after ten wrong MACs, and requests are limited in number. Neither is it
//! held against the protocol that an envelope which is held back until its
//! counter is 64 behind, and comes in time by the clock, suspends its sender
//! (section 5, step 9).

pub mod ledger;
pub mod manager;
pub mod service;
pub mod terminal;

use claviger_protocol::{Code, KemId, Secret32, SuiteId, enrolment_code::EnrolmentCode, service::refusal};

use self::{
    ledger::Ledger,
    manager::{Crash, Manager},
    service::Service,
    terminal::{Durable, Outcome, Request, Terminal},
};
use super::{
    input::Input,
    material::{KEMS, NOW, Random, SUITES, services},
};

/// How many users there are.
pub const USERS: usize = 3;

/// The name of a user.
pub fn user_id(user: usize) -> String {
    format!("user{user}")
}

/// Which rules of the protocol are kept. A test breaks one to see that the
/// properties notice.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// The management server checks that an envelope is for the service that asks (section 5, 4).
    pub service_check: bool,
    /// Counters survive the management server (section 6).
    pub durable_counters: bool,
    /// The management server checks the credential's floors (section 5, 8).
    pub floors: bool,
    /// A terminal keeps its current keys until the next ones have worked (section 7).
    pub keeps_current: bool,
    /// No long-lived key is in what a service gets.
    pub keys_stay: bool,
}

impl Rules {
    /// The protocol.
    pub const ALL: Self =
        Self { service_check: true, durable_counters: true, floors: true, keeps_current: true, keys_stay: true };
}

/// The keys of one epoch.
#[derive(Clone)]
pub struct Keys {
    /// The epoch.
    pub epoch: u32,
    /// The unique key.
    pub unique: Secret32,
    /// The management authentication key.
    pub management: Secret32,
}

impl Keys {
    /// The dummy's.
    fn of_nobody() -> Self {
        Self { epoch: 0, unique: Secret32::new([0; 32]), management: Secret32::new([0; 32]) }
    }

    fn enter(&self, ledger: &mut Ledger) {
        ledger.made_key(&self.unique);
        ledger.made_key(&self.management);
    }

    fn same(&self, other: &Self) -> bool {
        self.epoch == other.epoch
            && self.unique.ct_eq(other.unique.expose())
            && self.management.ct_eq(other.management.expose())
    }
}

/// What every party is handed.
pub struct Moment<'a> {
    /// The time, in milliseconds since 1970.
    pub now: u64,
    /// Fresh random bytes.
    pub random: &'a mut Random,
    /// The properties.
    pub ledger: &'a mut Ledger,
    /// The last run's number.
    pub runs: &'a mut u64,
}

/// Where a terminal's request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// Sign-on at a service.
    Service(usize),
    /// ROTATE at the management server.
    Rotate,
    /// DIRECTORY there.
    Directory,
    /// ENROL there.
    Enrol,
}

/// Which run of which terminal awaits a response.
pub type Awaiting = (usize, u64);

/// A message between a terminal and the others: anybody's to change.
#[derive(Clone)]
struct Packet {
    /// `None` for a response.
    to: Option<Endpoint>,
    awaiting: Awaiting,
    bytes: Vec<u8>,
}

/// A message between a service and the management server, on mutual TLS: it
/// can get lost, or be taken for the answer to another request of that service.
struct Linked {
    service: usize,
    ticket: u64,
    /// Whether it is the answer.
    answer: bool,
    bytes: Vec<u8>,
}

/// What the parties are handed, beside a borrow of the parties.
macro_rules! moment {
    ($world:ident) => {
        Moment { now: $world.now, random: &mut $world.random, ledger: &mut $world.ledger, runs: &mut $world.runs }
    };
}

/// Runs the programme of the input under the protocol's rules.
pub fn run(data: &[u8]) {
    run_with(Rules::ALL, data);
}

/// The same under other rules. How many users signed on in the end.
pub fn run_with(rules: Rules, data: &[u8]) -> usize {
    let mut input = Input::new(data);
    let mut world = World::new(rules, &mut input);
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            break;
        }
        world.step(&mut input);
        world.check_keys();
    }
    (0..USERS).filter(|user| world.end(*user)).count()
}

const MAX_STEPS: usize = 400;
const MAX_PACKETS: usize = 64;

struct World {
    now: u64,
    random: Random,
    ledger: Ledger,
    runs: u64,
    manager: Manager,
    services: [Service; 2],
    terminals: Vec<Terminal>,
    codes: [Option<EnrolmentCode>; USERS],
    backups: [Option<Durable>; USERS],
    /// Users with a terminal that was restored from a backup.
    restored: [bool; USERS],
    choices: [(SuiteId, KemId); USERS],
    wire: Vec<Packet>,
    link: Vec<Linked>,
}

impl World {
    fn new(rules: Rules, input: &mut Input<'_>) -> Self {
        let floor = (input.pick(&SUITES[..2]), input.pick(&KEMS[..2]));
        let [first, second] = services();
        let choices = std::array::from_fn(|_| {
            let choice = input.byte();
            let suite = SUITES[usize::from(choice & 15) % SUITES.len()];
            // ML-KEM costs most of the time, so it is rare.
            let kem = KEMS[match choice >> 4 {
                0..6 => 0,
                6..14 => 1,
                _ => 2,
            }];
            (suite.max(floor.0), kem.max(floor.1))
        });
        let terminals = (0..USERS).map(|user| {
            let skew = i64::from(input.byte() as i8) * 300_000;
            Terminal::new(user, rules, skew)
        });
        Self {
            now: NOW,
            random: Random::default(),
            ledger: Ledger::default(),
            runs: 0,
            manager: Manager::new(rules, floor),
            services: [Service::new(0, first), Service::new(1, second)],
            terminals: terminals.collect(),
            codes: Default::default(),
            backups: Default::default(),
            restored: [false; USERS],
            choices,
            wire: Vec::new(),
            link: Vec::new(),
        }
    }

    /// One step of the programme: an operation and a byte that says on what.
    fn step(&mut self, input: &mut Input<'_>) {
        let operation = input.byte() % 24;
        let on = usize::from(input.byte());
        let user = on % USERS;
        match operation {
            0 => self.now += 1000 * [1, 30, 119, 121, 3600, 86_400][on % 6],
            1 => self.make_code(user),
            2 => self.enrol(user),
            3 => {
                let request = self.terminal(user, Terminal::confirm);
                self.send(user, request);
            }
            4 | 5 => self.login(user, on / USERS % 2, None),
            6 => {
                let weaker = (SUITES[on / USERS % SUITES.len()], KEMS[on / 16 % 2]);
                self.login(user, 0, Some(weaker));
            }
            7 => {
                let request = self.terminal(user, Terminal::rotate);
                self.send(user, request);
            }
            8 => {
                let request = self.terminal(user, Terminal::directory);
                self.send(user, request);
            }
            9 | 10 => self.deliver(on),
            11 => self.settle(),
            12 => drop(self.packet(on)),
            13 => {
                if let Some(packet) = self.packet(on) {
                    self.push(packet.clone());
                    self.push(packet);
                }
            }
            14 => {
                if let Some(mut packet) = self.packet(on) {
                    let at = usize::from(input.u16()) % packet.bytes.len().max(1);
                    if let Some(byte) = packet.bytes.get_mut(at) {
                        *byte ^= input.byte();
                    }
                    self.push(packet);
                }
            }
            15 => self.cross(on, input),
            16 => {
                if let Some(packet) = self.packet(on) {
                    let code = Code::ALL[1 + usize::from(input.byte()) % 11];
                    let bytes = match packet.to {
                        Some(Endpoint::Service(_)) => refusal(code, &[0; 32], &[]),
                        _ => claviger_protocol::message::Refusal(code).encode(),
                    };
                    self.push(Packet { to: None, bytes, ..packet });
                }
            }
            17 => self.terminals[user].restart(),
            18 => self.services[on % 2].restart(),
            19 => match on % 3 {
                0 => self.manager.restart(),
                1 => self.manager.crash = Some(Crash::AfterCounter),
                _ => self.manager.crash = Some(Crash::BeforeAnswer),
            },
            20 => self.hand_in(on),
            21 => self.deliver_link(on, input),
            22 => self.backups[user] = Some(self.terminals[user].durable.clone()),
            _ => self.restore(user),
        }
    }

    fn make_code(&mut self, user: usize) {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&self.random.bytes()[..16]);
        let code = EnrolmentCode::new(bytes);
        self.manager.make_code(user, &code);
        self.codes[user] = Some(code);
    }

    fn enrol(&mut self, user: usize) {
        let (suite, kem) = self.choices[user];
        let Some(code) = self.codes[user].clone() else { return };
        let request = self.terminal(user, |terminal, moment| terminal.enrol(&code, suite, kem, moment));
        self.send(user, Some(request));
    }

    fn login(&mut self, user: usize, service: usize, weaken: Option<(SuiteId, KemId)>) {
        let id = self.services[service].id.clone();
        let request = self.terminal(user, |terminal, moment| terminal.login((service, &id), weaken, moment));
        self.send(user, request);
    }

    /// A message is taken for another one's: a request goes to another
    /// endpoint, a response to another run.
    fn cross(&mut self, on: usize, input: &mut Input<'_>) {
        let Some(mut packet) = self.packet(on) else { return };
        match &mut packet.to {
            Some(to) => {
                *to = input.pick(&[
                    Endpoint::Service(0),
                    Endpoint::Service(1),
                    Endpoint::Rotate,
                    Endpoint::Directory,
                    Endpoint::Enrol,
                ]);
            }
            None => {
                let other = usize::from(input.byte()) % self.wire.len().max(1);
                if let Some(other) = self.wire.get_mut(other) {
                    std::mem::swap(&mut packet.awaiting, &mut other.awaiting);
                }
            }
        }
        self.push(packet);
    }

    /// Service 1 asks the management server for the session password of an
    /// envelope that came to it, or that it came by.
    fn hand_in(&mut self, on: usize) {
        let packet = self.wire.get(on % self.wire.len().max(1)).filter(|packet| packet.to.is_some());
        let Some(bytes) = packet.map(|packet| packet.bytes.clone()) else { return };
        let Self { manager, services, .. } = self;
        let mut moment = moment!(self);
        if let Some(answer) = manager.decrypt(&services[1].id, &bytes, &mut moment) {
            services[1].look_into(&bytes, &answer, &mut moment);
        }
    }

    fn restore(&mut self, user: usize) {
        let Some(backup) = self.backups[user].clone() else { return };
        self.terminals[user].durable = backup;
        self.terminals[user].restart();
        self.restored[user] = true;
    }

    fn terminal<T>(&mut self, user: usize, act: impl FnOnce(&mut Terminal, &mut Moment<'_>) -> T) -> T {
        let mut moment = moment!(self);
        act(&mut self.terminals[user], &mut moment)
    }

    fn send(&mut self, user: usize, request: Option<Request>) {
        if let Some(Request { run, to, bytes }) = request {
            self.push(Packet { to: Some(to), awaiting: (user, run), bytes });
        }
    }

    fn push(&mut self, packet: Packet) {
        self.ledger.in_clear(&packet.bytes);
        if self.wire.len() < MAX_PACKETS {
            self.wire.push(packet);
        }
    }

    fn packet(&mut self, on: usize) -> Option<Packet> {
        (!self.wire.is_empty()).then(|| self.wire.remove(on % self.wire.len()))
    }

    fn deliver(&mut self, on: usize) {
        let Some(Packet { to, awaiting, bytes }) = self.packet(on) else { return };
        let (user, run) = awaiting;
        let Some(to) = to else {
            let next = self.terminal(user, |terminal, moment| terminal.receive(run, &bytes, moment));
            return self.send(user, next);
        };
        let Self { manager, services, .. } = self;
        let mut moment = moment!(self);
        let response = match to {
            Endpoint::Service(service) => match services[service].receive(awaiting, &bytes, &mut moment) {
                Ok(ticket) => {
                    self.link.push(Linked { service, ticket, answer: false, bytes });
                    return;
                }
                Err(refusal) => Some(refusal),
            },
            Endpoint::Rotate => manager.rotate(&bytes, &mut moment),
            Endpoint::Directory => manager.directory(&bytes, &mut moment),
            Endpoint::Enrol => manager.enrol(&bytes, &mut moment),
        };
        if let Some(bytes) = response {
            self.push(Packet { to: None, awaiting, bytes });
        }
    }

    /// Delivers, loses or crosses a message between a service and the
    /// management server.
    fn deliver_link(&mut self, on: usize, input: &mut Input<'_>) {
        if self.link.is_empty() {
            return;
        }
        let mut message = self.link.remove(on % self.link.len());
        match input.byte() % 4 {
            0 => return,
            1 => {
                let same = |other: &&mut Linked| other.answer == message.answer && other.service == message.service;
                if let Some(other) = self.link.iter_mut().find(same) {
                    std::mem::swap(&mut other.ticket, &mut message.ticket);
                }
            }
            _ => {}
        }
        self.take_link(message);
    }

    fn take_link(&mut self, message: Linked) {
        let Self { manager, services, .. } = self;
        let mut moment = moment!(self);
        let service = &mut services[message.service];
        if message.answer {
            if let Some((awaiting, bytes)) = service.answered(message.ticket, &message.bytes, &mut moment) {
                self.push(Packet { to: None, awaiting, bytes });
            }
        } else if let Some(bytes) = manager.decrypt(&service.id, &message.bytes, &mut moment) {
            self.ledger.in_clear(&bytes);
            self.link.push(Linked { answer: true, bytes, ..message });
        }
    }

    /// Delivers whatever is under way, in order.
    fn settle(&mut self) {
        for _ in 0..8 * MAX_PACKETS {
            if !self.link.is_empty() {
                let message = self.link.remove(0);
                self.take_link(message);
            } else if !self.wire.is_empty() {
                self.deliver(0);
            } else {
                return;
            }
        }
    }

    /// A terminal has the keys in force, and is suspended only for a reason.
    fn check_keys(&self) {
        for (user, terminal) in self.terminals.iter().enumerate() {
            let Some(record) = &self.manager.users[user].credential else { continue };
            if self.restored[user] {
                continue;
            }
            assert!(!record.cloned || record.overtaken, "suspended as a clone, and there was none");
            if let Some(own) = &terminal.durable.credential
                && own.unconfirmed.is_none()
            {
                let held = [Some(&own.current), own.pending.as_ref()];
                let held = held.into_iter().flatten().any(|keys| keys.same(&record.current));
                assert!(held, "the terminal does not have the keys in force");
            }
        }
    }

    /// After the last step nothing is lost or forged any more. Whether the
    /// user was one who must be able to sign on.
    fn end(&mut self, user: usize) -> bool {
        self.wire.clear();
        self.link.clear();
        self.manager.crash = None;
        let suspended = self.manager.users[user].credential.as_ref().is_some_and(|record| record.cloned);
        if self.restored[user] || suspended || self.terminals[user].durable.credential.is_none() {
            return false;
        }
        assert!((0..3).any(|_| self.attempt(user)), "locked out: {:?}", self.terminals[user].last);
        let request = self.terminal(user, Terminal::rotate);
        self.send(user, request);
        self.settle();
        assert_eq!(self.terminals[user].last, Some(Outcome::Rotated), "no rotation");
        assert!(self.attempt(user), "no sign-on after a rotation: {:?}", self.terminals[user].last);
        let (Some(own), Some(record)) =
            (&self.terminals[user].durable.credential, &self.manager.users[user].credential)
        else {
            panic!("a credential is gone")
        };
        assert!(own.current.same(&record.current), "the sides have different keys after a rotation");
        assert!(own.pending.is_none() && record.pending.is_none(), "a rotation is not over");
        true
    }

    /// A sign-on as the terminal SDK makes it: first the end of the enrolment;
    /// then with the newest keys, with those before them where these do not
    /// work, and once more where the clock was wrong.
    fn attempt(&mut self, user: usize) -> bool {
        let request = self.terminal(user, Terminal::confirm);
        self.send(user, request);
        self.settle();
        let unconfirmed = self.terminals[user].durable.credential.as_ref().is_some_and(|own| own.unconfirmed.is_some());
        if unconfirmed {
            // The user types the code again.
            self.enrol(user);
            self.settle();
        }
        let (mut may_fall_back, mut may_correct) = (self.terminals[user].prefers_pending(), true);
        loop {
            self.login(user, 0, None);
            self.settle();
            match self.terminals[user].last {
                Some(Outcome::SignedOn) => return true,
                Some(Outcome::Advisory(Code::AuthFailed)) if may_fall_back => may_fall_back = false,
                Some(Outcome::Sealed(Code::Skew)) if may_correct => may_correct = false,
                _ => return false,
            }
        }
    }
}
