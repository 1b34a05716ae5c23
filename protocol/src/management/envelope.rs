//! The checks that every envelope goes through, in the order of section 5,
//! "M". Each state offers only the next step; what a step proves is the type
//! it returns.
//!
//! [`receive`] (2, 3) → `from_service` of LOGIN (4) → [`Received::open`] (6, 7)
//! → [`Authenticated::meets_floor`] (8) → [`Allowed::counted`] (9, 10) →
//! [`Fresh::decided`] (11) → what the kind of envelope asks for (12).

use zeroize::Zeroizing;

use crate::{
    Code,
    codec::Malformed,
    message::{AccountInner, Envelope, Header, LoginInner, MessageType, Note, NoteFlags, NoteMessage, Uid},
    names::Realm,
    registry::{KemId, SuiteId},
    schedule,
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

/// The inner part of a kind of envelope.
pub trait Inner: Sized {
    /// Which type of envelope carries it.
    const KIND: MessageType;

    /// Decodes the whole of the opened plaintext.
    fn decode(plain: &[u8]) -> Result<Self, Malformed>;

    /// The management authentication key that is presented.
    fn management_key(&self) -> &Secret32;

    /// The terminal's counter.
    fn counter(&self) -> u64;
}

/// Steps 2 and 3: strict decoding; version, type, suite, KEM, realm.
/// `envelope` is attacker-controlled.
pub fn receive<'a>(envelope: &'a [u8], kind: MessageType, policy: &Policy<'_>) -> Result<Received<'a>, Code> {
    let envelope = Envelope::decode(envelope).map_err(|_| Code::Malformed)?;
    let header = &envelope.header;
    if header.kind != kind || !is_supported(header, policy.suites, policy.kems) || header.realm != policy.realm.as_str()
    {
        return Err(Code::Unsupported);
    }
    Ok(Received(envelope))
}

/// A well-formed envelope for this realm.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a>(Envelope<'a>);

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

impl<'a> Received<'a> {
    /// The header; attacker-controlled.
    pub fn header(&self) -> &Header<'a> {
        &self.0.header
    }

    /// Who claims to have sent it.
    pub fn uid(&self) -> Uid<'a> {
        self.0.header.uid
    }

    /// What the unique key's one HMAC is computed over, for a key that is
    /// kept elsewhere. See [`schedule::root_input`].
    pub fn root_input(&self, user_id: &[u8]) -> Vec<u8> {
        schedule::root_input(user_id, self.0.header_bytes)
    }

    /// Steps 6 and 7 with a unique key at hand.
    pub fn open<I: Inner>(
        self,
        suite: &dyn Suite,
        unique_key: &Secret32,
        candidate: Candidate<'_>,
    ) -> Result<Authenticated<I>, Code> {
        let master =
            schedule::mac(suite, unique_key.expose(), &self.root_input(candidate.user_id)).map_err(unavailable)?;
        self.open_with(suite, master, candidate)
    }

    /// Steps 6 and 7 with the HMAC of [`Self::root_input`] computed already.
    ///
    /// The work is the same whether the user is known, the ciphertext opens
    /// or the management authentication key matches.
    pub fn open_with<I: Inner>(
        self,
        suite: &dyn Suite,
        master: Digest,
        candidate: Candidate<'_>,
    ) -> Result<Authenticated<I>, Code> {
        let envelope = &self.0;
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
        let inner = I::decode(&plain);
        let presented = inner.as_ref().map_or(&ZEROS, |inner| inner.management_key().expose());
        let matches = candidate.management_key.ct_eq(presented);
        match inner {
            Ok(inner) if opened & matches & candidate.known => {
                let run = Run {
                    master,
                    envelope_hash,
                    hash_len: suite.hash_len(),
                    suite: envelope.header.suite,
                    kem: envelope.header.kem,
                    share: envelope.header.share.to_vec(),
                    service: envelope.header.service.into(),
                    epoch: envelope.header.epoch,
                    nonce: envelope.header.nonce,
                    time_ms: envelope.header.time_ms,
                };
                Ok(Authenticated { run, inner })
            }
            _ => Err(Code::AuthFailed),
        }
    }
}

/// What is kept of an envelope that authenticated.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) master: Digest,
    pub(super) envelope_hash: Digest,
    hash_len: usize,
    suite: SuiteId,
    pub(super) kem: KemId,
    pub(super) share: Vec<u8>,
    pub(super) service: Box<str>,
    epoch: u32,
    nonce: [u8; 32],
    time_ms: u64,
}

impl Run {
    /// Seals a note. Its key and nonce depend on the envelope alone: at most
    /// once for each (see [`Refusal`]).
    pub(super) fn seal_note(&self, suite: &dyn Suite, note: &Note) -> Result<Vec<u8>, SuiteError> {
        let plain = note.encode();
        let mut out = NoteMessage::start(plain.len() + TAG_LEN);
        let key = schedule::note_key(suite, &self.master, &self.envelope_hash)?;
        key.seal_into(suite, &schedule::note_aad(&self.envelope_hash), &plain, &mut out)?;
        Ok(out)
    }
}

/// An envelope of a user whose keys fit.
#[derive(Debug)]
pub struct Authenticated<I> {
    run: Run,
    inner: I,
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

impl<I: Inner> Authenticated<I> {
    /// Step 8: suite and KEM are not below the credential's floor. The refusal
    /// has no note, since the envelope is not recorded yet (see [`Refusal`]).
    /// A DIRECTORY moves no secret that a KEM could protect: its KEM is not judged.
    pub fn meets_floor(self, floor: &Floor) -> Result<Allowed<I>, Box<Refusal>> {
        let kem = self.run.kem >= floor.kem || I::KIND == MessageType::Directory;
        if self.run.hash_len == floor.hash_len && self.run.suite >= floor.suite && kem {
            Ok(Allowed(self))
        } else {
            Err(Refusal::silent(self.run, Code::Denied))
        }
    }
}

/// An authenticated envelope whose suite and KEM are allowed.
#[derive(Debug)]
pub struct Allowed<I>(Authenticated<I>);

/// The store's verdict on a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// Recorded durably, not seen before.
    Fresh,
    /// Seen before with this nonce: a replay.
    SameNonce,
    /// Seen before with another nonce.
    OtherNonce,
    /// Not seen, and too far behind the highest counter.
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

impl<I: Inner> Allowed<I> {
    /// The counter and nonce for step 9, which the store must judge and make durable.
    pub fn counter(&self) -> (u32, u64, [u8; 32]) {
        (self.0.run.epoch, self.0.inner.counter(), self.0.run.nonce)
    }

    /// When the envelope says it was made, in milliseconds since 1970.
    pub fn time_ms(&self) -> u64 {
        self.0.run.time_ms
    }

    /// Steps 9 and 10: the store's verdict, then the clock, so that a
    /// post-dated envelope is spent. [`Refusal::is_clone`] of the error says
    /// whether the credential must be suspended.
    pub fn counted(self, verdict: Counted, clock: &Clock) -> Result<Fresh<I>, Box<Refusal>> {
        let in_window = clock.admits(self.0.run.time_ms);
        let run = self.0.run;
        match verdict {
            Counted::Fresh if in_window => Ok(Fresh(Authenticated { run, inner: self.0.inner })),
            Counted::Fresh => Err(Refusal::new(run, Code::Skew, Code::Skew)),
            Counted::OtherNonce | Counted::TooOld if in_window => Err(Refusal::new(run, Code::Denied, Code::Clone)),
            Counted::SameNonce | Counted::OtherNonce | Counted::TooOld => Err(Refusal::silent(run, Code::Replay)),
        }
    }
}

/// An authenticated envelope that was never seen before, made just now.
#[derive(Debug)]
pub struct Fresh<I>(Authenticated<I>);

impl<I: Inner> Fresh<I> {
    /// Step 11: whether user, group and terminal may have what they ask for.
    pub fn decided(self, allowed: bool) -> Result<Authorised<I>, Box<Refusal>> {
        let Authenticated { run, inner } = self.0;
        if allowed { Ok(Authorised { run, inner }) } else { Err(Refusal::new(run, Code::Denied, Code::Denied)) }
    }
}

/// An envelope whose request will be granted: each kind has its own step 12.
#[derive(Debug)]
pub struct Authorised<I> {
    pub(super) run: Run,
    pub(super) inner: I,
}

/// An authenticated envelope that is refused: a service learns one code, the
/// terminal the reason.
///
/// The note's key and nonce depend on the envelope alone, so a note is sealed
/// at most once for each envelope: after the counter was recorded as fresh, or
/// when the refusal suspends the user. Any other refusal could be provoked
/// again with the same bytes by whoever holds them, and two notes under one
/// key would let them forge a third. Those carry no note: what the terminal
/// learns then is advisory, and it starts a new run.
#[derive(Debug)]
pub struct Refusal {
    pub(super) run: Run,
    to_service: Code,
    to_terminal: Code,
    has_note: bool,
}

impl Refusal {
    fn new(run: Run, to_service: Code, to_terminal: Code) -> Box<Self> {
        Box::new(Self { run, to_service, to_terminal, has_note: true })
    }

    fn silent(run: Run, code: Code) -> Box<Self> {
        Box::new(Self { run, to_service: code, to_terminal: code, has_note: false })
    }

    /// What a service learns.
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

    /// Whether the terminal may be told the reason under seal.
    pub(super) fn has_note(&self) -> bool {
        self.has_note
    }

    /// The sealed note; empty where there must be none. `now_ms` in
    /// milliseconds since 1970, `epoch` the credential's current one. Takes
    /// the refusal, since a note is sealed once.
    pub fn note(self: Box<Self>, suite: &dyn Suite, now_ms: u64, epoch: u32) -> Result<Vec<u8>, SuiteError> {
        if !self.has_note {
            return Ok(Vec::new());
        }
        let note = Note {
            code: self.to_terminal,
            server_time_ms: now_ms,
            epoch,
            flags: NoteFlags::default(),
            service: "".into(),
            next_handle: Vec::new(),
            kem_share: Vec::new(),
        };
        self.run.seal_note(suite, &note)
    }
}

impl Inner for LoginInner {
    const KIND: MessageType = MessageType::Login;

    fn decode(plain: &[u8]) -> Result<Self, Malformed> {
        Self::decode(plain)
    }

    fn management_key(&self) -> &Secret32 {
        &self.management_key
    }

    fn counter(&self) -> u64 {
        self.counter
    }
}

/// The inner part of a ROTATE.
#[derive(Debug)]
pub struct RotateInner(AccountInner);

/// The inner part of a DIRECTORY.
#[derive(Debug)]
pub struct DirectoryInner(AccountInner);

macro_rules! account_inner {
    ($name:ident, $kind:ident) => {
        impl Inner for $name {
            const KIND: MessageType = MessageType::$kind;

            fn decode(plain: &[u8]) -> Result<Self, Malformed> {
                AccountInner::decode(plain).map(Self)
            }

            fn management_key(&self) -> &Secret32 {
                &self.0.management_key
            }

            fn counter(&self) -> u64 {
                self.0.counter
            }
        }
    };
}

account_inner!(RotateInner, Rotate);
account_inner!(DirectoryInner, Directory);

const ZEROS: [u8; 32] = [0; 32];

fn unavailable(_: SuiteError) -> Code {
    Code::Unavailable
}
