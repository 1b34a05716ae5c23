//! A sign-on: [`SignOn::start`] → [`Step`] → [`Ready::seal`] →
//! [`AwaitReply::receive`] → a key, a new [`Step`] or an error.

use claviger_protocol::{
    Code, ServiceId, Suite,
    message::{Binding, KeyGrant, Scope},
    terminal::login::{self, Accept, Login, LoginRandom, Refused, SignedOn},
};

pub use super::attempt::{Fresh, MAX_OFFSET_MS};
use super::{
    Request, Response,
    attempt::{Attempts, Identity, Judged, start_error},
};
use crate::{
    credential::Credential,
    error::{Error, Result},
    service::Bind,
};

/// The kinds of key that a terminal uses: opaque and JWT bearer keys.
pub const KINDS: [u8; 2] = [1, 2];

/// The longest life of a key in seconds that a terminal accepts.
pub const MAX_LIFETIME: u32 = 24 * 3600;

/// A sign-on to one service.
#[derive(Debug)]
pub struct SignOn {
    service: ServiceId,
    scope: Scope,
    attempts: Attempts,
    bind: Bind,
    /// Whether a service that demands another binding gets it.
    may_change_binding: bool,
}

/// What to do next.
#[derive(Debug)]
pub enum Step {
    /// Ask the service for a challenge.
    Challenge(NeedChallenge),
    /// Open a connection of its own to the service.
    Connection(NeedConnection),
    /// Seal an envelope.
    Seal(Ready),
}

impl SignOn {
    /// Begins a sign-on. `service` comes from the terminal's own table, never
    /// from the server it talks to.
    pub fn start(service: ServiceId, scope: Scope, bind: Bind) -> Step {
        let may_change_binding = bind == Bind::None;
        Self { service, scope, attempts: Attempts::newest_first(), bind, may_change_binding }.step()
    }

    fn step(self) -> Step {
        match self.bind {
            Bind::None => Step::Seal(Ready { run: self, binding: Binding::None }),
            Bind::Challenge => Step::Challenge(NeedChallenge(self)),
            Bind::TlsExporter => Step::Connection(NeedConnection(self)),
        }
    }

    /// The next stronger binding, where it is the terminal's to choose.
    fn strengthen(&mut self) -> bool {
        match self.bind {
            Bind::None if self.may_change_binding => self.bind = Bind::Challenge,
            Bind::Challenge if self.may_change_binding => self.bind = Bind::TlsExporter,
            _ => return false,
        }
        true
    }
}

/// A sign-on that needs a challenge of the service.
#[derive(Debug)]
pub struct NeedChallenge(SignOn);

impl NeedChallenge {
    /// The request to make.
    pub fn request(&self) -> Request {
        Request::get("/idb/v1/challenge")
    }

    /// Takes the challenge. A service that gives none may want the connection
    /// instead. `origin` is for messages.
    pub fn receive(mut self, response: &Response, origin: &str) -> Result<Step> {
        match <[u8; 32]>::try_from(&response.body[..]) {
            Ok(challenge) if response.status == 200 => {
                Ok(Step::Seal(Ready { run: self.0, binding: Binding::Challenge(challenge) }))
            }
            _ if self.0.strengthen() => Ok(self.0.step()),
            _ => Err(Error::NotProtocol { origin: origin.to_owned(), status: response.status }),
        }
    }
}

/// A sign-on that is bound to a TLS connection.
#[derive(Debug)]
pub struct NeedConnection(SignOn);

impl NeedConnection {
    /// Takes the connection's exporter (RFC 9266). The envelope must be sent
    /// over that very connection.
    pub fn connected(self, exporter: [u8; 32]) -> Ready {
        Ready { run: self.0, binding: Binding::TlsExporter(exporter) }
    }
}

/// A sign-on whose envelope can be made.
#[derive(Debug)]
pub struct Ready {
    run: SignOn,
    binding: Binding,
}

impl Ready {
    /// Makes the envelope.
    pub fn seal(self, credential: &Credential, fresh: Fresh<LoginRandom>) -> Result<(Request, AwaitReply)> {
        let suite = super::suite(credential.suite)?;
        let identity = self.run.attempts.identify(credential)?;
        let login = Login {
            sender: identity.sender(credential, credential.kem, &fresh),
            service: &self.run.service,
            binding: self.binding,
            scope: self.run.scope.clone(),
        };
        let (envelope, state) = login::start(suite, login, fresh.random).map_err(start_error)?;
        let awaited = AwaitReply { run: self.run, identity, suite, state };
        Ok((Request::post("/idb/v1/sign-on", envelope), awaited))
    }
}

/// A sign-on whose envelope is sent. Dropping it wipes its secrets.
pub struct AwaitReply {
    run: SignOn,
    identity: Identity,
    suite: &'static dyn Suite,
    state: login::AwaitReply,
}

/// How a sign-on goes on.
#[derive(Debug)]
pub enum Next {
    /// There is a key.
    Granted(Box<Granted>),
    /// Once more, with a new envelope.
    Again(Step),
}

/// A key for the service.
#[derive(Debug)]
pub struct Granted {
    /// The key and what to know of it.
    pub grant: KeyGrant,
    /// The management server asks for new keys soon.
    pub rotate_required: bool,
    /// The epoch under which it was granted.
    pub epoch: u32,
    /// The next epoch's keys did not work: the management server may have
    /// others, so that only another rotation brings both together.
    pub is_behind: bool,
}

impl AwaitReply {
    /// Judges a response. `now_ms` is this machine's clock, `origin` is for messages.
    pub fn receive(self, response: &Response, now_ms: u64, origin: &str) -> Judged<Next> {
        let message = match response.message(origin) {
            Ok(message) => message,
            Err(error) => return Judged::plain(Err(error)),
        };
        let Self { mut run, identity, suite, state } = self;
        let accept = Accept { kinds: &KINDS, max_lifetime: MAX_LIFETIME };
        match state.receive(suite, message, accept) {
            Ok(SignedOn { grant, note }) => {
                let (rotate_required, is_behind) = (note.flags.rotate_required, identity.is_behind);
                let granted = Granted { grant, rotate_required, epoch: identity.epoch, is_behind };
                Judged { learnt: Attempts::accepted(identity, Some(&note)), next: Ok(Next::Granted(Box::new(granted))) }
            }
            Err(Refused::Advisory(Code::BindMismatch)) if run.strengthen() => {
                Judged::plain(Ok(Next::Again(run.step())))
            }
            Err(refused) => {
                let (learnt, again) = run.attempts.refused(identity, refused, now_ms, origin);
                Judged { learnt, next: again.map(|()| Next::Again(run.step())) }
            }
        }
    }
}
