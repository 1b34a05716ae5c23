//! LOGIN at the management server: what the reply processor runs for a
//! service. The checks are in [`super::envelope`]; this adds step 4 (the
//! service that asks is the one the envelope is for) and step 12 (the answer
//! with the session password).

use zeroize::Zeroizing;

use super::envelope::{self, Authorised, Received};
pub use super::envelope::{Candidate, Clock, Counted, Floor, Policy, Refusal};
use crate::{
    Code,
    message::{Answer, Grant, LoginInner, MessageType, Note, NoteFlags, Scope},
    names::ServiceId,
    suite::{Digest, Suite, SuiteError},
};

/// The answer for an envelope that did not authenticate: no note, nothing
/// that depends on a user.
pub fn refuse(code: Code, envelope: &[u8]) -> Vec<u8> {
    debug_assert!(code != Code::Ok);
    let hash = hash_of_anything(envelope);
    Answer { code, envelope_hash: hash.as_slice(), grant: None, note: &[] }.encode()
}

/// Steps 2 and 3. `envelope` is attacker-controlled.
pub fn receive<'a>(envelope: &'a [u8], policy: &Policy<'_>) -> Result<Received<'a>, Code> {
    envelope::receive(envelope, MessageType::Login, policy)
}

impl Received<'_> {
    /// Step 4: the envelope must be for the service that asks, which is known
    /// from its certificate. A mismatch belongs into the security audit.
    pub fn from_service(self, peer: &ServiceId) -> Result<Self, Code> {
        if self.header().service == peer.as_str() { Ok(self) } else { Err(Code::WrongService) }
    }
}

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
    /// Whether the terminal should rotate its keys soon.
    pub rotate_required: bool,
    /// The terminal's next handle, where it is to have one.
    pub next_handle: Option<[u8; 16]>,
}

impl Authorised<LoginInner> {
    /// The user's consent, to be met with policy.
    pub fn scope(&self) -> &Scope {
        &self.inner.scope
    }

    /// Step 12: the answer. It holds the session password.
    pub fn grant(self, suite: &dyn Suite, granting: &Granting<'_>) -> Result<Zeroizing<Vec<u8>>, SuiteError> {
        let note = Note {
            code: Code::Ok,
            server_time_ms: granting.now_ms,
            epoch: granting.epoch,
            flags: NoteFlags { rotate_required: granting.rotate_required, handle: granting.next_handle.is_some() },
            service: self.run.service.clone(),
            next_handle: granting.next_handle.map(|handle| handle.to_vec()).unwrap_or_default(),
            kem_share: Vec::new(),
        };
        let note = self.run.seal_note(suite, &note)?;
        let grant = Grant {
            session_password: self.inner.session_password.clone(),
            auth_id: granting.auth_id,
            subject: granting.subject,
            auth_time_ms: granting.now_ms,
            max_session: granting.max_session,
            attributes: granting.attributes,
        };
        let envelope_hash = self.run.envelope_hash.as_slice();
        let answer = Answer { code: Code::Ok, envelope_hash, grant: Some(grant), note: &note };
        Ok(Zeroizing::new(answer.encode()))
    }
}

impl Refusal {
    /// The answer to the service, with the note where there may be one.
    pub fn answer(self: Box<Self>, suite: &dyn Suite, now_ms: u64, epoch: u32) -> Result<Vec<u8>, SuiteError> {
        let (code, envelope_hash) = (self.code(), self.run.envelope_hash.clone());
        let note = self.note(suite, now_ms, epoch)?;
        Ok(Answer { code, envelope_hash: envelope_hash.as_slice(), grant: None, note: &note }.encode())
    }
}

/// `H(E)` for bytes that may be no envelope at all: the hash of the suite that
/// they name, where there is one, and SHA-256 otherwise.
fn hash_of_anything(envelope: &[u8]) -> Digest {
    let sha384 = matches!(envelope.get(8..10), Some([1, 1 | 2]));
    let algorithm = if sha384 { &aws_lc_rs::digest::SHA384 } else { &aws_lc_rs::digest::SHA256 };
    Digest::from_slice(aws_lc_rs::digest::digest(algorithm, envelope).as_ref()).unwrap_or_else(|| Digest::zeroed(32))
}
