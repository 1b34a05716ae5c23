//! Sign-on as the terminal sees it: [`start`] makes the envelope,
//! [`AwaitReply::receive`] judges the answer (section 5, "T receives").

use super::envelope::{Purpose, Sent, invalid, seal};
pub use super::envelope::{Refused, Sender, StartError};
use crate::{
    Code,
    kem::TerminalKey,
    message::{Binding, KeyGrant, LoginInner, MessageType, Note, Reply, Scope},
    names::ServiceId,
    schedule,
    secret::Secret32,
    suite::Suite,
};

/// One sign-on to be made.
#[derive(Debug, Clone)]
pub struct Login<'a> {
    /// The credential and the moment.
    pub sender: Sender<'a>,
    /// The service, from the terminal's own table, never from the page it talks to.
    pub service: &'a ServiceId,
    /// What to bind the envelope to.
    pub binding: Binding,
    /// The user's consent.
    pub scope: Scope,
}

/// Fresh random bytes for one sign-on; never used twice, also not on a retry.
#[derive(Debug)]
pub struct LoginRandom {
    /// The envelope's nonce.
    pub nonce: [u8; 32],
    /// The session password.
    pub session_password: Secret32,
    /// Seed of the ephemeral key.
    pub kem: Secret32,
}

/// Makes the envelope and what must be kept until the reply comes.
pub fn start(suite: &dyn Suite, login: Login<'_>, random: LoginRandom) -> Result<(Vec<u8>, AwaitReply), StartError> {
    let (ephemeral, share) = TerminalKey::generate(login.sender.kem, &random.kem)?;
    start_with(suite, login, random, ephemeral, &share)
}

/// As [`start`], with a key share made already: for test vectors.
#[cfg_attr(not(feature = "vectors"), doc(hidden))]
pub fn start_with(
    suite: &dyn Suite,
    login: Login<'_>,
    random: LoginRandom,
    ephemeral: TerminalKey,
    share: &[u8],
) -> Result<(Vec<u8>, AwaitReply), StartError> {
    let inner = LoginInner {
        session_password: random.session_password.clone(),
        management_key: login.sender.management_key.clone(),
        counter: login.sender.counter,
        scope: login.scope,
    };
    let purpose = Purpose {
        kind: MessageType::Login,
        service: login.service.as_str(),
        binding: login.binding,
        nonce: random.nonce,
        share,
        inner: &inner.encode(),
    };
    let (envelope, sent) = seal(suite, &login.sender, &purpose)?;
    let session_password = random.session_password;
    Ok((envelope, AwaitReply { sent, session_password, ephemeral, service: login.service.clone() }))
}

/// A sign-on under way. Dropping it wipes its secrets.
#[derive(Debug)]
pub struct AwaitReply {
    sent: Sent,
    session_password: Secret32,
    ephemeral: TerminalKey,
    service: ServiceId,
}

/// What the terminal accepts of a reply.
#[derive(Debug, Clone, Copy)]
pub struct Accept<'a> {
    /// The key kinds it can use.
    pub kinds: &'a [u8],
    /// The longest lifetime in seconds.
    pub max_lifetime: u32,
}

/// A sign-on that was granted.
#[derive(Debug)]
pub struct SignedOn {
    /// The service authentication key.
    pub grant: KeyGrant,
    /// The management server's note.
    pub note: Note,
}

impl AwaitReply {
    /// Judges a reply (attacker-controlled).
    pub fn receive(self, suite: &dyn Suite, reply: &[u8], accept: Accept<'_>) -> Result<SignedOn, Refused> {
        let reply = Reply::decode(reply).map_err(|_| Refused::Invalid("it is malformed"))?;
        if reply.note.is_empty() {
            return Err(Refused::Advisory(reply.code));
        }
        let note = self.sent.open_note(suite, reply.note)?;
        if note.code != Code::Ok {
            return Err(Refused::Sealed(Box::new(note)));
        }
        if *note.service != *self.service.as_str() {
            return Err(Refused::Invalid("the note names another service"));
        }
        if reply.code != Code::Ok {
            return Err(Refused::Advisory(reply.code));
        }
        let shared = self.ephemeral.agree(reply.kem_share).map_err(|_| Refused::Invalid("the key share"))?;
        let transcript = schedule::transcript(suite, &self.sent.envelope_hash, reply.head).map_err(Refused::Suite)?;
        let key =
            schedule::reply_key(suite, &self.session_password, shared.expose(), &transcript).map_err(Refused::Suite)?;
        let plain = key
            .open(suite, reply.head, reply.ciphertext)
            .map_err(|error| invalid(error, "it does not authenticate"))?;
        let grant = KeyGrant::decode(&plain).map_err(|_| Refused::Invalid("the key is malformed"))?;
        if grant.audience != self.service {
            return Err(Refused::Invalid("the key is for another service"));
        }
        if grant.lifetime > accept.max_lifetime {
            return Err(Refused::Invalid("the key lives longer than the terminal allows"));
        }
        if !accept.kinds.contains(&grant.kind) {
            return Err(Refused::Invalid("the key is of a kind that the terminal does not use"));
        }
        Ok(SignedOn { grant, note })
    }
}
