//! The directory as the terminal sees it (section 14): which services it may
//! reach, and at which origins.

use super::envelope::{Purpose, Refused, Sender, Sent, StartError, invalid, seal};
use crate::{
    kem::TerminalKey,
    message::{AccountInner, Binding, Directory, DirectoryMessage, MessageType},
    schedule,
    secret::Secret32,
    suite::Suite,
};

/// Makes a DIRECTORY. No secret needs a KEM here, so [`crate::KemId::None`]
/// will do. `nonce` and `kem_random` are fresh random bytes.
pub fn start(
    suite: &dyn Suite,
    sender: &Sender<'_>,
    nonce: [u8; 32],
    kem_random: &Secret32,
) -> Result<(Vec<u8>, AwaitDirectory), StartError> {
    let (_, share) = TerminalKey::generate(sender.kem, kem_random)?;
    let inner = AccountInner { management_key: sender.management_key.clone(), counter: sender.counter };
    let purpose = Purpose {
        kind: MessageType::Directory,
        service: "",
        binding: Binding::None,
        nonce,
        share: &share,
        inner: &inner.encode(),
    };
    let (envelope, sent) = seal(suite, sender, &purpose)?;
    Ok((envelope, AwaitDirectory { sent }))
}

/// A DIRECTORY under way.
#[derive(Debug)]
pub struct AwaitDirectory {
    sent: Sent,
}

impl AwaitDirectory {
    /// Judges the answer (attacker-controlled). Its code says whether the
    /// list was granted; [`Refused::Advisory`] is a refusal nobody sealed.
    pub fn receive(self, suite: &dyn Suite, answer: &[u8]) -> Result<Directory, Refused> {
        if let Ok(refusal) = crate::message::Refusal::decode(answer) {
            return Err(Refused::Advisory(refusal.0));
        }
        let message = DirectoryMessage::decode(answer).map_err(|_| Refused::Invalid("it is malformed"))?;
        let Sent { master, envelope_hash } = &self.sent;
        let key = schedule::directory_key(suite, master, envelope_hash).map_err(Refused::Suite)?;
        let plain = key
            .open(suite, &schedule::directory_aad(envelope_hash), message.ciphertext)
            .map_err(|error| invalid(error, "it does not authenticate"))?;
        Directory::decode(&plain).map_err(|_| Refused::Invalid("it is malformed"))
    }
}
