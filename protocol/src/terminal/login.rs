//! Sign-on as the terminal sees it: [`start`] makes the envelope,
//! [`AwaitReply::receive`] judges the answer (section 5, "T receives").

use crate::{
    Code,
    kem::{KemError, TerminalKey},
    message::{
        Binding, Envelope, Header, KeyGrant, LoginInner, MAGIC, MessageType, Note, NoteMessage, Reply, Scope, Uid,
    },
    names::{Realm, ServiceId},
    registry::{KemId, SuiteId},
    schedule,
    secret::Secret32,
    suite::{Digest, Suite, SuiteError, TAG_LEN},
};

/// One sign-on to be made.
pub struct Login<'a> {
    /// The user's realm.
    pub realm: &'a Realm,
    /// The plain user id, 1 to 128 bytes.
    pub user_id: &'a [u8],
    /// Epoch of the keys.
    pub epoch: u32,
    /// The unique key of that epoch.
    pub unique_key: &'a Secret32,
    /// The management authentication key of that epoch.
    pub management_key: &'a Secret32,
    /// The suite to use; must match the [`Suite`] that is handed in beside this.
    pub suite: SuiteId,
    /// The KEM to use.
    pub kem: KemId,
    /// The service, from the terminal's own table, never from the page it talks to.
    pub service: &'a ServiceId,
    /// A counter that was never used before, and was made durable before this call.
    pub counter: u64,
    /// The terminal's clock plus its offset, in milliseconds since 1970.
    pub time_ms: u64,
    /// What to bind the envelope to.
    pub binding: Binding,
    /// The user's consent.
    pub scope: Scope,
}

/// Fresh random bytes for one sign-on; never used twice, also not on a retry.
pub struct LoginRandom {
    /// The envelope's nonce.
    pub nonce: [u8; 32],
    /// The session password.
    pub session_password: Secret32,
    /// Seed of the ephemeral key.
    pub kem: Secret32,
}

/// Why no envelope could be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// A field is too long for the protocol.
    #[error("a name or the scope is too long for the protocol")]
    TooLong,
    /// The KEM is not offered here.
    #[error("the key agreement is not offered here")]
    Kem(#[from] KemError),
    /// The cipher library failed.
    #[error(transparent)]
    Suite(#[from] SuiteError),
}

/// Makes the envelope and what must be kept until the reply comes.
pub fn start(suite: &dyn Suite, login: Login<'_>, random: LoginRandom) -> Result<(Vec<u8>, AwaitReply), StartError> {
    let (ephemeral, share) = TerminalKey::generate(login.kem, &random.kem)?;
    let header = Header {
        magic: MAGIC,
        kind: MessageType::Login,
        suite: login.suite,
        epoch: login.epoch,
        time_ms: login.time_ms,
        nonce: random.nonce,
        binding: login.binding,
        realm: login.realm.as_str(),
        service: login.service.as_str(),
        uid: Uid::UserId(login.user_id),
        kem: login.kem,
        share: &share,
        extensions: &[],
        critical_extension: false,
    };
    let header = header.encode().map_err(|_| StartError::TooLong)?;
    let master = schedule::master_secret(suite, login.unique_key, login.user_id, &header)?;
    let inner = LoginInner {
        session_password: random.session_password.clone(),
        management_key: login.management_key.clone(),
        counter: login.counter,
        scope: login.scope,
    };
    let inner = inner.encode();
    let mut envelope = Envelope::start(&header, inner.len() + TAG_LEN).map_err(|_| StartError::TooLong)?;
    schedule::envelope_key(suite, &master)?.seal_into(suite, &header, &inner, &mut envelope)?;
    let envelope_hash = schedule::hash(suite, &envelope)?;
    let state = AwaitReply {
        master,
        envelope_hash,
        session_password: random.session_password,
        ephemeral,
        service: login.service.clone(),
    };
    Ok((envelope, state))
}

/// A sign-on under way. Dropping it wipes its secrets.
#[derive(Debug)]
pub struct AwaitReply {
    master: Digest,
    envelope_hash: Digest,
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

/// Why there is no key. The run is over: a retry needs a new envelope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// A status that nobody sealed. It may be forged and must change no stored state.
    #[error("the service answered: {0} (not confirmed by the management server)")]
    Advisory(Code),
    /// The management server says so, in a sealed note.
    #[error("the management server answered: {}", .0.code)]
    Sealed(Box<Note>),
    /// The reply is not one to this envelope, or not acceptable.
    #[error("the reply is not valid: {0}")]
    Invalid(&'static str),
    /// The cipher library failed.
    #[error(transparent)]
    Suite(SuiteError),
}

impl AwaitReply {
    /// Judges a reply (attacker-controlled).
    pub fn receive(self, suite: &dyn Suite, reply: &[u8], accept: Accept<'_>) -> Result<SignedOn, Refused> {
        let reply = Reply::decode(reply).map_err(|_| Refused::Invalid("it is malformed"))?;
        if reply.note.is_empty() {
            return Err(Refused::Advisory(reply.code));
        }
        let note = self.open_note(suite, reply.note)?;
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
        let transcript = schedule::transcript(suite, &self.envelope_hash, reply.head).map_err(Refused::Suite)?;
        let key =
            schedule::reply_key(suite, &self.session_password, shared.expose(), &transcript).map_err(Refused::Suite)?;
        let plain = key.open(suite, reply.head, reply.ciphertext).map_err(|error| match error {
            SuiteError::Rejected => Refused::Invalid("it does not authenticate"),
            other => Refused::Suite(other),
        })?;
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

    fn open_note(&self, suite: &dyn Suite, bytes: &[u8]) -> Result<Note, Refused> {
        let message = NoteMessage::decode(bytes).map_err(|_| Refused::Invalid("the note is malformed"))?;
        let key = schedule::note_key(suite, &self.master, &self.envelope_hash).map_err(Refused::Suite)?;
        let plain =
            key.open(suite, &schedule::note_aad(&self.envelope_hash), message.ciphertext).map_err(
                |error| match error {
                    SuiteError::Rejected => Refused::Invalid("the note does not authenticate"),
                    other => Refused::Suite(other),
                },
            )?;
        Note::decode(&plain).map_err(|_| Refused::Invalid("the note is malformed"))
    }
}
