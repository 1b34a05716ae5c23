//! DIRECTORY at the management server (section 14): which services a user may
//! reach, and where they are.

use super::envelope::{self, Authorised, DirectoryInner, Policy, Received, Refusal};
use crate::{
    Code,
    message::{Directory, DirectoryMessage, MessageType},
    schedule,
    suite::{Suite, SuiteError, TAG_LEN},
};

/// Steps 2 and 3. `envelope` is attacker-controlled.
pub fn receive<'a>(envelope: &'a [u8], policy: &Policy<'_>) -> Result<Received<'a>, Code> {
    envelope::receive(envelope, MessageType::Directory, policy)
}

impl Authorised<DirectoryInner> {
    /// Step 12: the sealed directory. `json` is an array of `{service,
    /// origins[], name}` of at most 16,384 bytes.
    pub fn list(self, suite: &dyn Suite, now_ms: u64, json: String) -> Result<Vec<u8>, SuiteError> {
        seal(suite, &self.run, &Directory { code: Code::Ok, server_time_ms: now_ms, json })
    }
}

impl Refusal {
    /// The refusal of a DIRECTORY, sealed; empty where there must be none.
    pub fn directory(self: Box<Self>, suite: &dyn Suite, now_ms: u64) -> Result<Vec<u8>, SuiteError> {
        if !self.has_note() {
            return Ok(Vec::new());
        }
        seal(suite, &self.run, &Directory { code: self.reason(), server_time_ms: now_ms, json: "[]".into() })
    }
}

fn seal(suite: &dyn Suite, run: &envelope::Run, directory: &Directory) -> Result<Vec<u8>, SuiteError> {
    let plain = directory.encode().map_err(|_| SuiteError::Failed)?;
    let mut out = DirectoryMessage::start(plain.len() + TAG_LEN);
    let key = schedule::directory_key(suite, &run.master, &run.envelope_hash)?;
    key.seal_into(suite, &schedule::directory_aad(&run.envelope_hash), &plain, &mut out)?;
    Ok(out)
}
