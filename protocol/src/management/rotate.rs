//! ROTATE at the management server (section 7): new keys for the next epoch.

use super::envelope::{self, Authorised, Policy, Received, RotateInner};
use crate::{
    Code,
    kem::{self, KemError},
    message::{MessageType, Note, NoteFlags},
    schedule::rotation::{self, NextKeys},
    secret::Secret32,
    suite::Suite,
};

/// Steps 2 and 3. `envelope` is attacker-controlled.
pub fn receive<'a>(envelope: &'a [u8], policy: &Policy<'_>) -> Result<Received<'a>, Code> {
    envelope::receive(envelope, MessageType::Rotate, policy)
}

impl Authorised<RotateInner> {
    /// Step 12: the note that answers, and the next epoch's keys, which must
    /// be stored durably as pending before the note leaves. `next_epoch` is
    /// the epoch they are for; `kem_random` 32 fresh random bytes.
    pub fn rotate(
        self,
        suite: &dyn Suite,
        kem_random: &Secret32,
        now_ms: u64,
        next_epoch: u32,
    ) -> Result<(Vec<u8>, NextKeys), Code> {
        let (share, shared) = kem::respond(self.run.kem, &self.run.share, kem_random).map_err(|error| match error {
            KemError::InvalidShare => Code::Malformed,
            KemError::Failed => Code::Unavailable,
        })?;
        self.rotate_with(suite, &share, shared.expose(), now_ms, next_epoch)
    }

    /// As [`Self::rotate`], with share and shared secret made already: for test vectors.
    #[cfg_attr(not(feature = "vectors"), doc(hidden))]
    pub fn rotate_with(
        self,
        suite: &dyn Suite,
        share: &[u8],
        shared: &[u8],
        now_ms: u64,
        next_epoch: u32,
    ) -> Result<(Vec<u8>, NextKeys), Code> {
        let note = Note {
            code: Code::Ok,
            server_time_ms: now_ms,
            epoch: next_epoch,
            flags: NoteFlags::default(),
            service: "".into(),
            next_handle: Vec::new(),
            kem_share: share.to_vec(),
        };
        let run = self.run;
        let made = run.seal_note(suite, &note).and_then(|note| {
            let keys = rotation::next_keys(suite, &run.master, shared, &run.envelope_hash, &note)?;
            Ok((note, keys))
        });
        made.map_err(|_| Code::Unavailable)
    }
}
