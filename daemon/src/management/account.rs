//! What terminals ask for themselves: new keys (ROTATE) and the services they
//! may reach (DIRECTORY). Their envelopes come directly, or through a service
//! that cannot read them.

use std::{sync::Arc, time::Instant};

use claviger_protocol::{
    Code, Secret32,
    management::{
        directory,
        envelope::{DirectoryInner, RotateInner},
        rotate,
    },
    message::{MAX_DIRECTORY, Refusal},
};
use serde_json::json;
use tracing::info;

use super::{
    gate::{Admitted, Gate, Rejected, away},
    record::{Keys, PendingKeys, UserRecord, user_key},
    registry::ServiceRegistry,
    repository::ChangeError,
    unique_keys::Named,
};

/// What a terminal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// New keys (protocol, section 7).
    Rotate,
    /// Which services it may reach (protocol, section 14).
    Directory,
}

/// Answers terminals.
pub struct Account {
    gate: Arc<Gate>,
    registry: Arc<ServiceRegistry>,
}

/// An answer and its status for HTTP.
#[derive(Debug)]
pub struct Answered {
    /// A note, a directory, or the plain refusal. Sealed or without secrets.
    pub bytes: Vec<u8>,
    /// What it amounts to.
    pub code: Code,
}

impl Account {
    /// On top of the gate.
    pub fn new(gate: Arc<Gate>, registry: Arc<ServiceRegistry>) -> Self {
        Self { gate, registry }
    }

    /// Answers an envelope (attacker-controlled). Never fails: what is wrong is in the answer.
    pub async fn handle(&self, request: Request, envelope: &[u8]) -> Answered {
        let started = Instant::now();
        let (name, outcome) = match request {
            Request::Rotate => ("rotate", self.rotate(envelope).await),
            Request::Directory => ("directory", self.directory(envelope).await),
        };
        let (answered, reason) = outcome.unwrap_or_else(|code| {
            let answered = Answered { bytes: Refusal(code).encode(), code };
            (answered, code)
        });
        metrics::histogram!("claviger_account_seconds", "request" => name).record(started.elapsed().as_secs_f64());
        metrics::counter!("claviger_account_requests_total", "request" => name, "outcome" => reason.name())
            .increment(1);
        answered
    }

    async fn rotate(&self, envelope: &[u8]) -> Result<(Answered, Code), Code> {
        let received = rotate::receive(envelope, &self.gate.policy())?;
        let Admitted { fresh, sender } = match self.gate.admit::<RotateInner>(received).await {
            Ok(admitted) => admitted,
            Err(rejected) => return refused_note(rejected),
        };
        let authorised = match fresh.decided(!sender.user.is_kept_out()) {
            Ok(authorised) => authorised,
            Err(refusal) => return refused_note(Rejected::Refused(refusal, Box::new(sender))),
        };
        let random = Secret32::new(self.gate.suites().random_array().map_err(|_| Code::Unavailable)?);
        let epoch = sender.credential.epoch.checked_add(1).ok_or(Code::Denied)?;
        let (note, keys) = authorised.rotate(sender.suite, &random, sender.now_ms, epoch)?;
        // Pending, and durable, before the terminal learns of it.
        let (gate, management, made_ms) = (self.gate.clone(), keys.management_key, sender.now_ms);
        let (user, credential) = (sender.user.id, sender.credential.id);
        let store = async move |unique| match gate.seal(&Keys { unique, management }, &user, epoch) {
            Ok(keys) => prepare(&gate, &user, credential, PendingKeys { epoch, keys, made_ms }).await,
            Err(code) => Named::No(code),
        };
        self.gate.unique_keys().keep(&keys.unique_key, store).await?;
        Ok((Answered { bytes: note, code: Code::Ok }, Code::Ok))
    }

    async fn directory(&self, envelope: &[u8]) -> Result<(Answered, Code), Code> {
        let received = directory::receive(envelope, &self.gate.policy())?;
        let Admitted { fresh, sender } = match self.gate.admit::<DirectoryInner>(received).await {
            Ok(admitted) => admitted,
            Err(rejected) => return refused_directory(rejected),
        };
        let authorised = match fresh.decided(!sender.user.is_kept_out()) {
            Ok(authorised) => authorised,
            Err(refusal) => return refused_directory(Rejected::Refused(refusal, Box::new(sender))),
        };
        let json = self.services_of(&sender.user);
        let bytes = authorised.list(sender.suite, sender.now_ms, json).map_err(|_| Code::Unavailable)?;
        Ok((Answered { bytes, code: Code::Ok }, Code::Ok))
    }

    /// The services a user may reach, as the directory's JSON. As many as fit.
    fn services_of(&self, user: &UserRecord) -> String {
        let mut json = String::from("[");
        for service in self.registry.all().iter().filter(|service| service.admits(user)) {
            let entry = json!({ "service": service.id, "origins": service.origins, "name": service.id }).to_string();
            if json.len() + entry.len() + 2 > MAX_DIRECTORY {
                tracing::warn!(
                    user = user.id,
                    "the directory of this user is longer than the protocol allows; the rest is left out"
                );
                break;
            }
            if json.len() > 1 {
                json.push(',');
            }
            json.push_str(&entry);
        }
        json.push(']');
        json
    }
}

/// Makes these the keys of the credential's next epoch; earlier ones are replaced.
async fn prepare(gate: &Gate, user: &str, credential: [u8; 16], pending: PendingKeys) -> Named {
    let epoch = pending.epoch;
    let (key, mut former) = (user_key(user), None);
    let changed = gate.repository().change(&key, |user: &mut UserRecord| {
        let mut own = user.credential.as_mut().filter(|own| own.id == credential && own.epoch + 1 == epoch);
        former = own.as_mut().ok_or(())?.pending.replace(pending.clone());
        Ok::<_, ()>(true)
    });
    match changed.await {
        Ok(_) => {
            info!(target: "audit", event = "rotation_prepared", user, epoch, "new keys were handed out; they count from their first use on");
            Named::Yes(former.and_then(|former| former.keys.custody).map(|key| key.id).into_iter().collect())
        }
        Err(ChangeError::Store(error)) => Named::InDoubt(away("rotate", &error)),
        // Enrolled anew, or promoted by another envelope, at this very moment: the terminal asks again.
        Err(_) => Named::No(Code::Unavailable),
    }
}

fn refused_note(rejected: Rejected<'_>) -> Result<(Answered, Code), Code> {
    match rejected {
        Rejected::Plain(code) => Err(code),
        Rejected::Refused(refusal, sender) => {
            audit("rotation_refused", &sender.user, refusal.reason());
            let (code, reason) = (refusal.code(), refusal.reason());
            let note = refusal.note(sender.suite, sender.now_ms, sender.credential.epoch);
            sealed_or_plain(note.map_err(|_| Code::Unavailable)?, code, reason)
        }
    }
}

fn refused_directory(rejected: Rejected<'_>) -> Result<(Answered, Code), Code> {
    match rejected {
        Rejected::Plain(code) => Err(code),
        Rejected::Refused(refusal, sender) => {
            audit("directory_refused", &sender.user, refusal.reason());
            let (code, reason) = (refusal.code(), refusal.reason());
            let directory = refusal.directory(sender.suite, sender.now_ms);
            sealed_or_plain(directory.map_err(|_| Code::Unavailable)?, code, reason)
        }
    }
}

fn sealed_or_plain(sealed: Vec<u8>, code: Code, reason: Code) -> Result<(Answered, Code), Code> {
    if sealed.is_empty() { Err(code) } else { Ok((Answered { bytes: sealed, code }, reason)) }
}

fn audit(event: &'static str, user: &UserRecord, reason: Code) {
    info!(target: "audit", event, user = user.id, reason = reason.name(), "an authenticated request was refused");
}
