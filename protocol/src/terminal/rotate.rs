//! Rotation as the terminal sees it (section 7): [`start`] makes the
//! envelope, [`AwaitRotation::receive`] gives the next epoch's keys, which
//! must be stored durably before their first use, beside the current ones.

use super::envelope::{Purpose, Refused, Sender, Sent, StartError, seal};
use crate::{
    Code,
    kem::TerminalKey,
    message::{AccountInner, Binding, MessageType, Note},
    schedule::rotation::{self, NextKeys},
    secret::Secret32,
    suite::Suite,
};

/// Makes a ROTATE under the current epoch's keys. The sender's KEM must not be
/// none. `nonce` and `kem_random` are fresh random bytes.
pub fn start(
    suite: &dyn Suite,
    sender: &Sender<'_>,
    nonce: [u8; 32],
    kem_random: &Secret32,
) -> Result<(Vec<u8>, AwaitRotation), StartError> {
    let (ephemeral, share) = TerminalKey::generate(sender.kem, kem_random)?;
    start_with(suite, sender, nonce, ephemeral, &share)
}

/// As [`start`], with a key share made already: for test vectors.
#[cfg_attr(not(feature = "vectors"), doc(hidden))]
pub fn start_with(
    suite: &dyn Suite,
    sender: &Sender<'_>,
    nonce: [u8; 32],
    ephemeral: TerminalKey,
    share: &[u8],
) -> Result<(Vec<u8>, AwaitRotation), StartError> {
    let inner = AccountInner { management_key: sender.management_key.clone(), counter: sender.counter };
    let purpose = Purpose {
        kind: MessageType::Rotate,
        service: "",
        binding: Binding::None,
        nonce,
        share,
        inner: &inner.encode(),
    };
    let (envelope, sent) = seal(suite, sender, &purpose)?;
    Ok((envelope, AwaitRotation { sent, ephemeral, epoch: sender.epoch }))
}

/// A rotation under way. Dropping it wipes its secrets.
#[derive(Debug)]
pub struct AwaitRotation {
    sent: Sent,
    ephemeral: TerminalKey,
    epoch: u32,
}

/// Keys of the next epoch, pending until their first successful use.
#[derive(Debug)]
pub struct Rotated {
    /// The keys.
    pub keys: NextKeys,
    /// Their epoch.
    pub epoch: u32,
    /// The management server's note.
    pub note: Note,
}

impl AwaitRotation {
    /// Judges the answer (attacker-controlled): a note.
    pub fn receive(self, suite: &dyn Suite, answer: &[u8]) -> Result<Rotated, Refused> {
        if let Ok(refusal) = crate::message::Refusal::decode(answer) {
            return Err(Refused::Advisory(refusal.0));
        }
        let note = self.sent.open_note(suite, answer)?;
        if note.code != Code::Ok {
            return Err(Refused::Sealed(Box::new(note)));
        }
        if !note.service.is_empty() {
            return Err(Refused::Invalid("the note is not one of a rotation"));
        }
        if self.epoch.checked_add(1) != Some(note.epoch) {
            return Err(Refused::Invalid("the note is for another epoch"));
        }
        let shared = self.ephemeral.agree(&note.kem_share).map_err(|_| Refused::Invalid("the key share"))?;
        let Sent { master, envelope_hash } = &self.sent;
        let keys =
            rotation::next_keys(suite, master, shared.expose(), envelope_hash, answer).map_err(Refused::Suite)?;
        Ok(Rotated { keys, epoch: note.epoch, note })
    }
}
