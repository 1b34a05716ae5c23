//! The reply processor's checks, in the order of section 5, "M". Each state
//! offers only the next step; what a step proves is the type it returns.
//!
//! [`receive`] (2, 3) → [`Received::from_service`] (4) →
//! [`ForService::open`] (6, 7) → [`Authenticated::meets_floor`] (8) →
//! [`Allowed::counted`] (9, 10) → [`Fresh::decided`] (11) → [`Authorised::grant`] (12).

use zeroize::Zeroizing;

use crate::{
    Code,
    message::{Answer, Envelope, Grant, Header, LoginInner, MessageType, Note, NoteFlags, NoteMessage, Scope, Uid},
    names::{Realm, ServiceId},
    registry::{KemId, SuiteId},
    schedule::{self, MessageKey},
    secret::Secret32,
    service::is_supported,
    suite::{Digest, Suite, SuiteError, TAG_LEN},
};

/// What the management server accepts.
#[derive(Debug, Clone, Copy)]
pub struct Policy<'a> {
    /// Its own realm.
    pub realm: &'a Realm,
    /// Enabled suites.
    pub suites: &'a [SuiteId],
    /// Enabled KEMs.
    pub kems: &'a [KemId],
}

/// The answer for an envelope that did not authenticate: no note, nothing
/// that depends on a user.
pub fn refuse(code: Code, envelope: &[u8]) -> Vec<u8> {
    debug_assert!(code != Code::Ok);
    let hash = hash_of_anything(envelope);
    Answer { code, envelope_hash: hash.as_slice(), grant: None, note: &[] }.encode()
}

/// Steps 2 and 3: strict decoding; version, type, suite, KEM, realm.
/// `envelope` is attacker-controlled.
pub fn receive<'a>(envelope: &'a [u8], policy: &Policy<'_>) -> Result<Received<'a>, Code> {
    let envelope = Envelope::decode(envelope).map_err(|_| Code::Malformed)?;
    let header = &envelope.header;
    if header.kind != MessageType::Login
        || !is_supported(header, policy.suites, policy.kems)
        || header.realm != policy.realm.as_str()
    {
        return Err(Code::Unsupported);
    }
    Ok(Received(envelope))
}

/// A well-formed envelope for this realm.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a>(Envelope<'a>);

impl<'a> Received<'a> {
    /// Step 4: the envelope must be for the service that asks, which is known
    /// from its certificate. A mismatch belongs into the security audit.
    pub fn from_service(self, peer: &ServiceId) -> Result<ForService<'a>, Code> {
        if self.0.header.service == peer.as_str() {
            Ok(ForService { envelope: self.0, service: peer.clone() })
        } else {
            Err(Code::WrongService)
        }
    }

    /// The header; attacker-controlled.
    pub fn header(&self) -> &Header<'a> {
        &self.0.header
    }
}

/// An envelope that the service it names has handed in.
#[derive(Debug, Clone)]
pub struct ForService<'a> {
    envelope: Envelope<'a>,
    service: ServiceId,
}

/// The keys to try, of the user that was resolved, or the realm's dummy.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// The plain user id; for a dummy, the uid as it came.
    pub user_id: &'a [u8],
    /// The management authentication key on record.
    pub management_key: &'a Secret32,
    /// `false` for the dummy, for which the answer is [`Code::AuthFailed`] whatever the envelope holds.
    pub known: bool,
}

impl<'a> ForService<'a> {
    /// Who claims to have sent it.
    pub fn uid(&self) -> Uid<'a> {
        self.envelope.header.uid
    }

    /// The header; attacker-controlled.
    pub fn header(&self) -> &Header<'a> {
        &self.envelope.header
    }

    /// What the unique key's one HMAC is computed over, for a key that is
    /// kept elsewhere. See [`schedule::root_input`].
    pub fn root_input(&self, user_id: &[u8]) -> Vec<u8> {
        schedule::root_input(user_id, self.envelope.header_bytes)
    }

    /// Steps 6 and 7 with a unique key at hand.
    pub fn open(
        self,
        suite: &dyn Suite,
        unique_key: &Secret32,
        candidate: Candidate<'_>,
    ) -> Result<Authenticated, Code> {
        let master =
            schedule::mac(suite, unique_key.expose(), &self.root_input(candidate.user_id)).map_err(unavailable)?;
        self.open_with(suite, master, candidate)
    }

    /// Steps 6 and 7 with the HMAC of [`Self::root_input`] computed already.
    ///
    /// The work is the same whether the user is known, the ciphertext opens
    /// or the management authentication key matches.
    pub fn open_with(self, suite: &dyn Suite, master: Digest, candidate: Candidate<'_>) -> Result<Authenticated, Code> {
        let envelope = &self.envelope;
        let key = schedule::envelope_key(suite, &master).map_err(unavailable)?;
        let envelope_hash = schedule::hash(suite, envelope.bytes).map_err(unavailable)?;
        let mut plain = Zeroizing::new(Vec::new());
        let opened = match key.open_into(suite, envelope.header_bytes, envelope.ciphertext, &mut plain) {
            Ok(()) => true,
            Err(SuiteError::Rejected) => false,
            Err(error) => return Err(unavailable(error)),
        };
        // Where it did not open, `plain` is zeros of the same length, and the
        // same decoding and comparison run over them.
        let inner = LoginInner::decode(&plain);
        let presented = inner.as_ref().map_or(&ZEROS, |inner| inner.management_key.expose());
        let matches = candidate.management_key.ct_eq(presented);
        match inner {
            Ok(inner) if opened & matches & candidate.known => Ok(Authenticated {
                note_key: schedule::note_key(suite, &master, &envelope_hash).map_err(unavailable)?,
                envelope_hash,
                service: self.service,
                suite: envelope.header.suite,
                hash_len: suite.hash_len(),
                kem: envelope.header.kem,
                epoch: envelope.header.epoch,
                nonce: envelope.header.nonce,
                time_ms: envelope.header.time_ms,
                inner,
            }),
            _ => Err(Code::AuthFailed),
        }
    }
}

/// An envelope of a user whose keys fit.
#[derive(Debug)]
pub struct Authenticated {
    note_key: MessageKey,
    envelope_hash: Digest,
    service: ServiceId,
    suite: SuiteId,
    hash_len: usize,
    kem: KemId,
    epoch: u32,
    nonce: [u8; 32],
    time_ms: u64,
    inner: LoginInner,
}

/// What a credential demands at least (section 11).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Floor {
    /// Bytes of the credential's hash: one hash per unique key for its lifetime.
    pub hash_len: usize,
    /// The least suite.
    pub suite: SuiteId,
    /// The least KEM.
    pub kem: KemId,
}

impl Authenticated {
    /// Step 8: suite and KEM are not below the credential's floor. The refusal
    /// has no note, since the envelope is not recorded yet (see [`Refusal`]).
    pub fn meets_floor(self, floor: &Floor) -> Result<Allowed, Box<Refusal>> {
        if self.hash_len == floor.hash_len && self.suite >= floor.suite && self.kem >= floor.kem {
            Ok(Allowed(self))
        } else {
            Err(Refusal::silent(self, Code::Denied))
        }
    }
}

/// An authenticated envelope whose suite and KEM are allowed.
#[derive(Debug)]
pub struct Allowed(Authenticated);

/// The store's verdict on a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// Recorded durably, not seen before.
    Fresh,
    /// Seen before with this nonce: a replay.
    SameNonce,
    /// Seen before with another nonce.
    OtherNonce,
    /// Too far behind the highest counter.
    TooOld,
}

/// The management server's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// Now, in milliseconds since 1970.
    pub now_ms: u64,
    /// `W`, how far a terminal's clock may be off, in milliseconds.
    pub window_ms: u64,
    /// Envelopes made before this time are outside of the window whatever `W`
    /// says: the start after a crash that may have lost counters. 0 for none.
    pub not_before_ms: u64,
}

impl Clock {
    fn admits(&self, time_ms: u64) -> bool {
        self.now_ms.abs_diff(time_ms) <= self.window_ms && time_ms >= self.not_before_ms
    }
}

impl Allowed {
    /// The counter and nonce for step 9, which the store must judge and make durable.
    pub fn counter(&self) -> (u32, u64, [u8; 32]) {
        (self.0.epoch, self.0.inner.counter, self.0.nonce)
    }

    /// Steps 9 and 10: the store's verdict, then the clock, so that a
    /// post-dated envelope is spent. [`Refusal::is_clone`] of the error says
    /// whether the credential must be suspended.
    pub fn counted(self, verdict: Counted, clock: &Clock) -> Result<Fresh, Box<Refusal>> {
        let in_window = clock.admits(self.0.time_ms);
        match verdict {
            Counted::Fresh if in_window => Ok(Fresh(self.0)),
            Counted::Fresh => Err(Refusal::new(self.0, Code::Skew, Code::Skew)),
            Counted::OtherNonce | Counted::TooOld if in_window => Err(Refusal::new(self.0, Code::Denied, Code::Clone)),
            Counted::SameNonce | Counted::OtherNonce | Counted::TooOld => Err(Refusal::silent(self.0, Code::Replay)),
        }
    }
}

/// An authenticated envelope that was never seen before, made just now.
#[derive(Debug)]
pub struct Fresh(Authenticated);

impl Fresh {
    /// Step 11: whether user, group and terminal may use the service.
    pub fn decided(self, allowed: bool) -> Result<Authorised, Box<Refusal>> {
        if allowed { Ok(Authorised(self.0)) } else { Err(Refusal::new(self.0, Code::Denied, Code::Denied)) }
    }
}

/// A sign-on that will be granted.
#[derive(Debug)]
pub struct Authorised(Authenticated);

/// What is granted, beside the session password.
#[derive(Debug, Clone, Copy)]
pub struct Granting<'a> {
    /// Names this sign-on: 16 fresh random bytes.
    pub auth_id: [u8; 16],
    /// The subject for this service, 1 to 255 bytes.
    pub subject: &'a str,
    /// Now, in milliseconds since 1970.
    pub now_ms: u64,
    /// The longest session in seconds.
    pub max_session: u32,
    /// Released attributes: a JSON object of at most 16,384 bytes.
    pub attributes: &'a [u8],
    /// The credential's current epoch.
    pub epoch: u32,
    /// Requests to the terminal.
    pub flags: NoteFlags,
}

impl Authorised {
    /// The user's consent, to be met with policy.
    pub fn scope(&self) -> &Scope {
        &self.0.inner.scope
    }

    /// Step 12: the answer. It holds the session password.
    pub fn grant(self, suite: &dyn Suite, granting: &Granting<'_>) -> Result<Zeroizing<Vec<u8>>, SuiteError> {
        let note = Note {
            code: Code::Ok,
            server_time_ms: granting.now_ms,
            epoch: granting.epoch,
            flags: granting.flags,
            service: self.0.service.as_str().into(),
            next_handle: Vec::new(),
            kem_share: Vec::new(),
        };
        let note = seal_note(suite, &self.0, &note)?;
        let grant = Grant {
            session_password: self.0.inner.session_password.clone(),
            auth_id: granting.auth_id,
            subject: granting.subject,
            auth_time_ms: granting.now_ms,
            max_session: granting.max_session,
            attributes: granting.attributes,
        };
        let answer =
            Answer { code: Code::Ok, envelope_hash: self.0.envelope_hash.as_slice(), grant: Some(grant), note: &note };
        Ok(Zeroizing::new(answer.encode()))
    }
}

/// An authenticated envelope that is refused: the service learns one code,
/// the terminal the reason.
///
/// The note's key and nonce depend on the envelope alone, so a note is sealed
/// at most once for each envelope: after the counter was recorded as fresh, or
/// when the refusal suspends the user. Any other refusal could be provoked
/// again with the same bytes by the service that holds them, and two notes
/// under one key would let it forge a third. Those carry no note: what the
/// terminal learns then is advisory, and it starts a new run.
#[derive(Debug)]
pub struct Refusal {
    authenticated: Authenticated,
    to_service: Code,
    to_terminal: Code,
    has_note: bool,
}

impl Refusal {
    fn new(authenticated: Authenticated, to_service: Code, to_terminal: Code) -> Box<Self> {
        Box::new(Self { authenticated, to_service, to_terminal, has_note: true })
    }

    fn silent(authenticated: Authenticated, code: Code) -> Box<Self> {
        Box::new(Self { authenticated, to_service: code, to_terminal: code, has_note: false })
    }

    /// What the service learns.
    pub fn code(&self) -> Code {
        self.to_service
    }

    /// The reason, for the note, the audit and the metrics.
    pub fn reason(&self) -> Code {
        self.to_terminal
    }

    /// Two live copies of the credential were seen: it must be suspended. The
    /// one answer that suspends it carries the note; when it was suspended
    /// already, call [`Self::without_note`].
    pub fn is_clone(&self) -> bool {
        self.to_terminal == Code::Clone
    }

    /// The same refusal without its note.
    #[must_use]
    pub fn without_note(mut self: Box<Self>) -> Box<Self> {
        self.has_note = false;
        self
    }

    /// The answer. `now_ms` in milliseconds since 1970, `epoch` the
    /// credential's. Takes the refusal, since a note is sealed once.
    pub fn answer(self: Box<Self>, suite: &dyn Suite, now_ms: u64, epoch: u32) -> Result<Vec<u8>, SuiteError> {
        let note = Note {
            code: self.to_terminal,
            server_time_ms: now_ms,
            epoch,
            flags: NoteFlags::default(),
            service: "".into(),
            next_handle: Vec::new(),
            kem_share: Vec::new(),
        };
        let note = if self.has_note { seal_note(suite, &self.authenticated, &note)? } else { Vec::new() };
        let envelope_hash = self.authenticated.envelope_hash.as_slice();
        Ok(Answer { code: self.to_service, envelope_hash, grant: None, note: &note }.encode())
    }
}

const ZEROS: [u8; 32] = [0; 32];

fn seal_note(suite: &dyn Suite, authenticated: &Authenticated, note: &Note) -> Result<Vec<u8>, SuiteError> {
    let plain = note.encode();
    let mut out = NoteMessage::start(plain.len() + TAG_LEN);
    let aad = schedule::note_aad(&authenticated.envelope_hash);
    authenticated.note_key.seal_into(suite, &aad, &plain, &mut out)?;
    Ok(out)
}

fn unavailable(_: SuiteError) -> Code {
    Code::Unavailable
}

/// `H(E)` for bytes that may be no envelope at all: the hash of the suite that
/// they name, where there is one, and SHA-256 otherwise.
fn hash_of_anything(envelope: &[u8]) -> Digest {
    let sha384 = matches!(envelope.get(8..10), Some([1, 1 | 2]));
    let algorithm = if sha384 { &aws_lc_rs::digest::SHA384 } else { &aws_lc_rs::digest::SHA256 };
    Digest::from_slice(aws_lc_rs::digest::digest(algorithm, envelope).as_ref()).unwrap_or_else(|| Digest::zeroed(32))
}
