//! A sign-on: [`SignOn::start`] → [`Step`] → [`Ready::seal`] →
//! [`AwaitReply::receive`] → a key, a new [`Step`] or an error.

use claviger_protocol::{
    Code, ServiceId, Suite,
    message::{Binding, KeyGrant, Scope},
    terminal::login::{self, Accept, Login, LoginRandom, Refused, SignedOn},
};

use super::{Request, Response};
use crate::{
    credential::Credential,
    error::{Error, Result},
};

/// The kinds of key that a terminal uses: opaque and JWT bearer keys.
pub const KINDS: [u8; 2] = [1, 2];

/// The longest life of a key in seconds that a terminal accepts.
pub const MAX_LIFETIME: u32 = 24 * 3600;

/// The largest clock offset in milliseconds that is stored without the user: 24 h.
pub const MAX_OFFSET_MS: u64 = 24 * 3600 * 1000;

/// A sign-on to one service.
#[derive(Debug, Clone)]
pub struct SignOn {
    service: ServiceId,
    scope: Scope,
    /// Whether the clock may be corrected, or was already.
    may_correct_clock: bool,
    /// Whether the service is known to want its challenge in the envelope.
    bound: bool,
}

/// What to do next.
#[derive(Debug)]
pub enum Step {
    /// Ask the service for a challenge.
    Challenge(NeedChallenge),
    /// Seal an envelope.
    Seal(Ready),
}

impl SignOn {
    /// Begins a sign-on. `service` comes from the terminal's own table, never
    /// from the server it talks to.
    pub fn start(service: ServiceId, scope: Scope) -> Step {
        Self { service, scope, may_correct_clock: true, bound: false }.step()
    }

    fn step(self) -> Step {
        if self.bound {
            Step::Challenge(NeedChallenge(self))
        } else {
            Step::Seal(Ready { run: self, binding: Binding::None })
        }
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

    /// Takes the challenge. `origin` is for messages.
    pub fn receive(self, response: &Response, origin: &str) -> Result<Ready> {
        let challenge = <[u8; 32]>::try_from(&response.body[..]).ok().filter(|_| response.status == 200);
        let challenge =
            challenge.ok_or_else(|| Error::NotProtocol { origin: origin.to_owned(), status: response.status })?;
        Ok(Ready { run: self.0, binding: Binding::Challenge(challenge) })
    }
}

/// A sign-on whose envelope can be made.
#[derive(Debug)]
pub struct Ready {
    run: SignOn,
    binding: Binding,
}

/// What each envelope needs anew; never used twice.
pub struct Fresh {
    /// A counter from [`crate::CredentialFile::take_counter`].
    pub counter: u64,
    /// This machine's clock in milliseconds since 1970.
    pub now_ms: u64,
    /// Random bytes.
    pub random: LoginRandom,
}

impl Ready {
    /// Makes the envelope.
    pub fn seal(self, credential: &Credential, fresh: Fresh) -> Result<(Request, AwaitReply)> {
        let suite = super::suite(credential.suite)?;
        let login = Login {
            realm: &credential.realm,
            user_id: &credential.user_id,
            epoch: credential.epoch,
            unique_key: &credential.unique_key,
            management_key: &credential.management_key,
            suite: credential.suite,
            kem: credential.kem,
            service: &self.run.service,
            counter: fresh.counter,
            time_ms: fresh.now_ms.saturating_add_signed(credential.clock_offset_ms),
            binding: self.binding,
            scope: self.run.scope.clone(),
        };
        let (envelope, state) = login::start(suite, login, fresh.random).map_err(start_error)?;
        let awaited = AwaitReply { run: self.run, was_bound: self.binding != Binding::None, suite, state };
        Ok((Request::post("/idb/v1/sign-on", envelope), awaited))
    }
}

/// A sign-on whose envelope is sent. Dropping it wipes its secrets.
pub struct AwaitReply {
    run: SignOn,
    was_bound: bool,
    suite: &'static dyn Suite,
    state: login::AwaitReply,
}

/// What a reply means. The driver stores what was learnt, durably, before it
/// goes on with `next`.
#[derive(Debug)]
pub struct Judged {
    /// The management server has shown that it has this credential's keys.
    pub authenticated: bool,
    /// The new clock offset in milliseconds to store.
    pub clock_offset_ms: Option<i64>,
    /// How it goes on.
    pub next: Result<Next>,
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
}

impl AwaitReply {
    /// Judges a response. `now_ms` is this machine's clock, `origin` is for messages.
    pub fn receive(self, response: &Response, now_ms: u64, origin: &str) -> Judged {
        let plain = |next| Judged { authenticated: false, clock_offset_ms: None, next };
        let message = match response.message(origin) {
            Ok(message) => message,
            Err(error) => return plain(Err(error)),
        };
        let mut run = self.run;
        let accept = Accept { kinds: &KINDS, max_lifetime: MAX_LIFETIME };
        match self.state.receive(self.suite, message, accept) {
            Ok(SignedOn { grant, note }) => {
                let granted = Granted { grant, rotate_required: note.flags.rotate_required };
                Judged { authenticated: true, clock_offset_ms: None, next: Ok(Next::Granted(Box::new(granted))) }
            }
            Err(Refused::Sealed(note)) => {
                let sealed = |clock_offset_ms, next| Judged { authenticated: true, clock_offset_ms, next };
                if note.code != Code::Skew || !run.may_correct_clock {
                    return sealed(None, Err(Error::Denied { code: note.code }));
                }
                let offset_ms = offset(note.server_time_ms, now_ms);
                if offset_ms.unsigned_abs() > MAX_OFFSET_MS {
                    return sealed(None, Err(Error::ClockOff { offset_ms }));
                }
                run.may_correct_clock = false;
                sealed(Some(offset_ms), Ok(Next::Again(run.step())))
            }
            Err(Refused::Advisory(Code::BindMismatch)) if !self.was_bound => {
                run.bound = true;
                plain(Ok(Next::Again(run.step())))
            }
            Err(Refused::Advisory(code)) => plain(Err(Error::Refused { origin: origin.to_owned(), code })),
            Err(Refused::Invalid(reason)) => plain(Err(Error::InvalidReply(reason))),
            Err(_) => plain(Err(Error::Crypto("the cipher library failed"))),
        }
    }
}

/// The server's clock minus ours in milliseconds, saturating.
pub(crate) fn offset(server_ms: u64, now_ms: u64) -> i64 {
    let distance = i64::try_from(server_ms.abs_diff(now_ms)).unwrap_or(i64::MAX);
    if server_ms >= now_ms { distance } else { -distance }
}

fn start_error(error: login::StartError) -> Error {
    match error {
        login::StartError::TooLong => Error::Invalid("the attributes to share are too many for the protocol".into()),
        login::StartError::Kem(_) => {
            Error::Crypto("the credential's key agreement is not offered by this version; update claviger")
        }
        login::StartError::Suite(_) => Error::Crypto("the cipher library failed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_do_not_overflow() {
        for (server, now, expected) in
            [(5, 3, 2), (3, 5, -2), (0, 0, 0), (u64::MAX, 0, i64::MAX), (0, u64::MAX, -i64::MAX)]
        {
            assert_eq!(offset(server, now), expected);
        }
    }
}
