//! What all envelopes have in common: under which epoch's keys and which name
//! they are sent, what an answer teaches, and when there is another try.

use claviger_protocol::{
    Code, KemId, Secret32,
    message::{Note, Uid},
    terminal::{
        envelope::StartError,
        login::{Refused, Sender},
    },
};

use super::user_id;
use crate::{
    credential::Credential,
    error::{Error, Result},
};

/// The largest clock offset in milliseconds that is stored without the user: 24 h.
pub const MAX_OFFSET_MS: u64 = 24 * 3600 * 1000;

/// What each envelope needs anew; never used twice.
#[derive(Debug)]
pub struct Fresh<R> {
    /// A counter from [`crate::CredentialFile::take_counter`].
    pub counter: u64,
    /// This machine's clock in milliseconds since 1970.
    pub now_ms: u64,
    /// Random bytes.
    pub random: R,
}

/// What an answer has shown, from sealed words of the management server alone.
/// The driver applies it to the credential, durably, before it goes on.
#[derive(Debug, Default)]
pub struct Learnt {
    authenticated: bool,
    clock_offset_ms: Option<i64>,
    /// The unique key of the next epoch, which has become the current one.
    promoted: Option<Secret32>,
    handle: Option<[u8; 16]>,
}

impl Learnt {
    /// Of an E4.
    pub(crate) fn confirmed() -> Self {
        Self { authenticated: true, ..Self::default() }
    }

    /// Whether there is something to store in the credential that was used.
    pub fn is_news(&self, used: &Credential) -> bool {
        self.clock_offset_ms.is_some()
            || self.promoted.is_some()
            || self.handle.is_some()
            || (self.authenticated && used.is_pending())
    }

    /// Changes the credential, which may have changed since it was used.
    pub fn apply(&self, credential: &mut Credential) {
        if self.authenticated {
            credential.pending = None;
        }
        if let Some(offset_ms) = self.clock_offset_ms {
            credential.clock_offset_ms = offset_ms;
        }
        if let Some(handle) = self.handle {
            credential.handle = Some(handle);
        }
        if let Some(unique_key) = &self.promoted {
            credential.promote(unique_key);
        }
    }
}

/// An answer's meaning.
#[derive(Debug)]
pub struct Judged<N> {
    /// To be stored first.
    pub learnt: Learnt,
    /// How it goes on.
    pub next: Result<N>,
}

impl<N> Judged<N> {
    /// Of an answer that teaches nothing.
    pub(super) fn plain(next: Result<N>) -> Self {
        Self { learnt: Learnt::default(), next }
    }
}

/// The tries of one run. All that is forged costs at most a few envelopes.
#[derive(Debug, Clone)]
pub(super) struct Attempts {
    may_correct_clock: bool,
    handle_failed: bool,
    /// Unique keys under which the answer was "authentication failed".
    failed: Vec<Secret32>,
    refusals: u8,
    refused_by: String,
    current_epoch_only: bool,
}

/// Whom an envelope names, and under which keys.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) epoch: u32,
    unique_key: Secret32,
    management_key: Secret32,
    name: Name,
    is_next: bool,
    /// The next epoch's keys did not work in this run.
    pub(super) is_behind: bool,
}

#[derive(Debug)]
enum Name {
    Plain,
    Handle([u8; 16]),
    Sealed(Vec<u8>),
}

impl Attempts {
    /// For envelopes that try the next epoch's keys first, where there are any.
    pub(super) fn newest_first() -> Self {
        Self {
            may_correct_clock: true,
            handle_failed: false,
            failed: Vec::new(),
            refusals: 0,
            refused_by: String::new(),
            current_epoch_only: false,
        }
    }

    /// For a ROTATE, which is allowed under the current epoch alone.
    pub(super) fn current_only() -> Self {
        Self { current_epoch_only: true, ..Self::newest_first() }
    }

    /// Whom the next envelope names, under which keys: the first of the next
    /// epoch and the current one that did not fail yet; a handle, then the
    /// sealed user id. Where all have failed, that is the error.
    pub(super) fn identify(&self, credential: &Credential) -> Result<Identity> {
        let untried = |key: &Secret32| !self.failed.iter().any(|failed| failed.ct_eq(key.expose()));
        let next = credential.next.as_ref().filter(|_| !self.current_epoch_only);
        let usable_next = next.filter(|next| untried(&next.unique_key));
        let (epoch, unique_key, management_key) = match usable_next {
            Some(next) => (next.epoch, &next.unique_key, &next.management_key),
            None if untried(&credential.unique_key) => {
                (credential.epoch, &credential.unique_key, &credential.management_key)
            }
            None => return Err(Error::Refused { origin: self.refused_by.clone(), code: Code::AuthFailed }),
        };
        let name = match (&credential.handle, &credential.user_id_key) {
            (Some(handle), _) if !self.handle_failed => Name::Handle(*handle),
            (_, Some(key)) => Name::Sealed(user_id::seal(&credential.realm, &credential.user_id, key)?),
            (_, None) => Name::Plain,
        };
        Ok(Identity {
            epoch,
            unique_key: unique_key.clone(),
            management_key: management_key.clone(),
            name,
            is_next: usable_next.is_some(),
            is_behind: next.is_some() && usable_next.is_none(),
        })
    }

    /// What an OK note about the envelope teaches.
    pub(super) fn accepted(identity: Identity, note: Option<&Note>) -> Learnt {
        let handle = note.filter(|note| note.flags.handle).and_then(|note| note.next_handle[..].try_into().ok());
        Learnt {
            authenticated: true,
            clock_offset_ms: None,
            promoted: identity.is_next.then_some(identity.unique_key),
            handle,
        }
    }

    /// What a refusal means: `Ok` for another try, with what was learnt. Only
    /// what is sealed teaches anything.
    pub(super) fn refused(
        &mut self,
        identity: Identity,
        refused: Refused,
        now_ms: u64,
        origin: &str,
    ) -> (Learnt, Result<()>) {
        let error = match refused {
            Refused::Sealed(note) => return self.denied(note.code, note.server_time_ms, now_ms),
            Refused::Advisory(Code::AuthFailed) if self.refusals < MAX_REFUSALS => {
                self.refusals += 1;
                origin.clone_into(&mut self.refused_by);
                match identity.name {
                    Name::Handle(_) => self.handle_failed = true,
                    Name::Plain | Name::Sealed(_) => self.failed.push(identity.unique_key),
                }
                return (Learnt::default(), Ok(()));
            }
            Refused::Advisory(code) => Error::Refused { origin: origin.to_owned(), code },
            Refused::Invalid(reason) => Error::InvalidReply(reason),
            _ => Error::Crypto("the cipher library failed"),
        };
        (Learnt::default(), Err(error))
    }

    /// What a sealed refusal means. The clock is corrected once.
    pub(super) fn denied(&mut self, code: Code, server_time_ms: u64, now_ms: u64) -> (Learnt, Result<()>) {
        let mut learnt = Learnt { authenticated: true, ..Learnt::default() };
        if code != Code::Skew || !self.may_correct_clock {
            return (learnt, Err(Error::Denied { code }));
        }
        let offset_ms = offset(server_time_ms, now_ms);
        if offset_ms.unsigned_abs() > MAX_OFFSET_MS {
            return (learnt, Err(Error::ClockOff { offset_ms }));
        }
        self.may_correct_clock = false;
        learnt.clock_offset_ms = Some(offset_ms);
        (learnt, Ok(()))
    }
}

impl Identity {
    /// The protocol's sender.
    pub(super) fn sender<'a, R>(&'a self, credential: &'a Credential, kem: KemId, fresh: &Fresh<R>) -> Sender<'a> {
        Sender {
            realm: &credential.realm,
            user_id: &credential.user_id,
            uid: match &self.name {
                Name::Plain => Uid::UserId(&credential.user_id),
                Name::Handle(handle) => Uid::Handle(*handle),
                Name::Sealed(sealed) => Uid::Sealed(sealed),
            },
            epoch: self.epoch,
            unique_key: &self.unique_key,
            management_key: &self.management_key,
            suite: credential.suite,
            kem,
            counter: fresh.counter,
            time_ms: fresh.now_ms.saturating_add_signed(credential.clock_offset_ms),
        }
    }
}

/// The server's clock minus ours in milliseconds, saturating.
pub(crate) fn offset(server_ms: u64, now_ms: u64) -> i64 {
    let distance = i64::try_from(server_ms.abs_diff(now_ms)).unwrap_or(i64::MAX);
    if server_ms >= now_ms { distance } else { -distance }
}

pub(super) fn start_error(error: StartError) -> Error {
    match error {
        StartError::TooLong => Error::Invalid("the attributes to share are too many for the protocol".into()),
        StartError::Kem(_) => {
            Error::Crypto("the credential's key agreement is not offered by this version; update claviger")
        }
        StartError::Suite(_) => Error::Crypto("the cipher library failed"),
    }
}

/// Handle, next epoch, current epoch, and once more for keys that another
/// process rotated meanwhile.
const MAX_REFUSALS: u8 = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::{NextEpoch, tests::sample};

    fn next(epoch: u32, byte: u8) -> NextEpoch {
        NextEpoch { epoch, unique_key: Secret32::new([byte; 32]), management_key: Secret32::new([byte; 32]) }
    }

    fn fails(attempts: &mut Attempts, identity: Identity) -> bool {
        let (learnt, again) = attempts.refused(identity, Refused::Advisory(Code::AuthFailed), 0, "https://a");
        assert!(!learnt.is_news(&sample()), "an advisory teaches nothing");
        again.is_ok()
    }

    #[test]
    fn the_newest_keys_first_then_the_current_ones_then_the_end() {
        let mut credential = sample();
        credential.next = Some(next(2, 9));
        credential.handle = Some([7; 16]);
        credential.user_id_key = Some(user_id::tests::public_key());
        let mut attempts = Attempts::newest_first();
        let mut seen = Vec::new();
        while let Ok(identity) = attempts.identify(&credential) {
            let name = match identity.name {
                Name::Plain => "plain",
                Name::Handle(_) => "handle",
                Name::Sealed(_) => "sealed",
            };
            seen.push((identity.epoch, name, identity.is_behind));
            assert!(fails(&mut attempts, identity));
        }
        assert_eq!(seen, [(2, "handle", false), (2, "sealed", false), (1, "sealed", true)]);
        assert!(matches!(attempts.identify(&credential), Err(Error::Refused { code: Code::AuthFailed, .. })));
        // Keys that came meanwhile are tried, but not for ever.
        credential.next = Some(next(2, 10));
        let identity = attempts.identify(&credential).unwrap();
        assert!(fails(&mut attempts, identity));
        credential.next = Some(next(2, 11));
        let identity = attempts.identify(&credential).unwrap();
        assert!(!fails(&mut attempts, identity));
    }

    #[test]
    fn a_rotate_goes_under_the_current_epoch_alone() {
        let mut credential = sample();
        credential.next = Some(next(2, 9));
        let mut attempts = Attempts::current_only();
        let identity = attempts.identify(&credential).unwrap();
        assert_eq!((identity.epoch, identity.is_next, identity.is_behind), (1, false, false));
        assert!(fails(&mut attempts, identity));
        assert!(attempts.identify(&credential).is_err());
    }

    #[test]
    fn only_an_ok_under_the_next_epoch_promotes_it_and_only_those_keys() {
        let mut credential = sample();
        credential.next = Some(next(2, 9));
        let mut attempts = Attempts::newest_first();
        let (learnt, _) = attempts.denied(Code::Denied, 0, 0);
        learnt.apply(&mut credential);
        assert_eq!((credential.epoch, credential.pending_epoch()), (1, Some(2)));
        let identity = attempts.identify(&credential).unwrap();
        let learnt = Attempts::accepted(identity, None);
        let mut replaced = credential.clone();
        replaced.next = Some(next(2, 10));
        learnt.apply(&mut replaced);
        assert_eq!((replaced.epoch, replaced.pending_epoch()), (1, Some(2)));
        learnt.apply(&mut credential);
        assert_eq!((credential.epoch, credential.pending_epoch()), (2, None));
        assert_eq!(credential.unique_key.expose(), &[9; 32]);
        learnt.apply(&mut credential);
        assert_eq!(credential.epoch, 2);
    }

    #[test]
    fn offsets_do_not_overflow() {
        for (server, now, expected) in
            [(5, 3, 2), (3, 5, -2), (0, 0, 0), (u64::MAX, 0, i64::MAX), (0, u64::MAX, -i64::MAX)]
        {
            assert_eq!(offset(server, now), expected);
        }
    }
}
