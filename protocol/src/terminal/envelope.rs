//! What every envelope of a terminal is made of.

use crate::{
    kem::KemError,
    message::{Binding, Envelope, Header, MAGIC, MessageType, Note, NoteMessage, Uid},
    names::Realm,
    registry::{KemId, SuiteId},
    schedule,
    secret::Secret32,
    suite::{Digest, Suite, SuiteError, TAG_LEN},
};

/// The credential and the moment: what an envelope says of its sender.
#[derive(Debug, Clone, Copy)]
pub struct Sender<'a> {
    /// The user's realm.
    pub realm: &'a Realm,
    /// The plain user id, 1 to 128 bytes: part of the key derivation whatever `uid` shows.
    pub user_id: &'a [u8],
    /// How the header names the user.
    pub uid: Uid<'a>,
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
    /// A counter that was never used before, and was made durable before this call.
    pub counter: u64,
    /// The terminal's clock plus its offset, in milliseconds since 1970.
    pub time_ms: u64,
}

/// Why no envelope could be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// A field is too long for the protocol.
    #[error("a name or the scope is too long for the protocol")]
    TooLong,
    /// The key agreement failed.
    #[error(transparent)]
    Kem(#[from] KemError),
    /// The cipher library failed.
    #[error(transparent)]
    Suite(#[from] SuiteError),
}

/// Why an answer to an envelope was not taken. The run is over: a retry needs
/// a new envelope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// A status that nobody sealed. It may be forged and must change no stored state.
    #[error("the server answered: {0} (not confirmed by the management server)")]
    Advisory(crate::Code),
    /// The management server says so, in a sealed note.
    #[error("the management server answered: {}", .0.code)]
    Sealed(Box<Note>),
    /// The answer is not one to this envelope, or not acceptable.
    #[error("the answer is not valid: {0}")]
    Invalid(&'static str),
    /// The cipher library failed.
    #[error(transparent)]
    Suite(SuiteError),
}

/// An envelope under way: what opens the management server's words about it.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) master: Digest,
    pub(super) envelope_hash: Digest,
}

/// What an envelope is for.
pub(super) struct Purpose<'a> {
    pub(super) kind: MessageType,
    pub(super) service: &'a str,
    pub(super) binding: Binding,
    pub(super) nonce: [u8; 32],
    pub(super) share: &'a [u8],
    pub(super) inner: &'a [u8],
}

/// Seals an envelope.
pub(super) fn seal(
    suite: &dyn Suite,
    sender: &Sender<'_>,
    purpose: &Purpose<'_>,
) -> Result<(Vec<u8>, Sent), StartError> {
    let header = Header {
        magic: MAGIC,
        kind: purpose.kind,
        suite: sender.suite,
        epoch: sender.epoch,
        time_ms: sender.time_ms,
        nonce: purpose.nonce,
        binding: purpose.binding,
        realm: sender.realm.as_str(),
        service: purpose.service,
        uid: sender.uid,
        kem: sender.kem,
        share: purpose.share,
        extensions: &[],
        critical_extension: false,
    };
    let header = header.encode().map_err(|_| StartError::TooLong)?;
    let master = schedule::master_secret(suite, sender.unique_key, sender.user_id, &header)?;
    let mut envelope = Envelope::start(&header, purpose.inner.len() + TAG_LEN).map_err(|_| StartError::TooLong)?;
    schedule::envelope_key(suite, &master)?.seal_into(suite, &header, purpose.inner, &mut envelope)?;
    let envelope_hash = schedule::hash(suite, &envelope)?;
    Ok((envelope, Sent { master, envelope_hash }))
}

impl Sent {
    /// Opens a note (attacker-controlled) about this envelope.
    pub(super) fn open_note(&self, suite: &dyn Suite, bytes: &[u8]) -> Result<Note, Refused> {
        let message = NoteMessage::decode(bytes).map_err(|_| Refused::Invalid("the note is malformed"))?;
        let key = schedule::note_key(suite, &self.master, &self.envelope_hash).map_err(Refused::Suite)?;
        let plain = key
            .open(suite, &schedule::note_aad(&self.envelope_hash), message.ciphertext)
            .map_err(|error| invalid(error, "the note does not authenticate"))?;
        Note::decode(&plain).map_err(|_| Refused::Invalid("the note is malformed"))
    }
}

/// What a ciphertext that does not open means.
pub(super) fn invalid(error: SuiteError, what: &'static str) -> Refused {
    match error {
        SuiteError::Rejected => Refused::Invalid(what),
        other => Refused::Suite(other),
    }
}
