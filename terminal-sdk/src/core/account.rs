//! What a terminal asks the management server for itself: new keys
//! ([`Rotation`]) and the services it may reach ([`Directory`]). Any service
//! can pass these envelopes on, without being able to read them.

use claviger_protocol::{
    Code, Secret32, ServiceId, Suite,
    terminal::{directory, rotate},
};
use serde::Deserialize;

use super::{
    Request, Response,
    attempt::{Attempts, Fresh, Identity, Judged, start_error},
};
use crate::{
    credential::{Credential, NextEpoch},
    error::Result,
    origin::Origin,
    service::{Service, Source},
};

/// Random bytes for one envelope.
#[derive(Debug)]
pub struct Random {
    /// Its nonce.
    pub nonce: [u8; 32],
    /// Seed of the ephemeral key.
    pub kem: Secret32,
}

/// A request that may take several envelopes.
pub trait Exchange: Clone + Send + 'static {
    /// An envelope under way. Dropping it wipes its secrets.
    type Awaited: Send;
    /// What is granted.
    type Answer: Send;

    /// Makes an envelope; any number of them, each with a counter of its own.
    fn seal(&self, credential: &Credential, fresh: Fresh<Random>) -> Result<(Request, Self::Awaited)>;

    /// Judges a response. `now_ms` is this machine's clock, `origin` is for messages.
    fn receive(
        self,
        awaited: Self::Awaited,
        response: &Response,
        now_ms: u64,
        origin: &str,
    ) -> Judged<Next<Self, Self::Answer>>;
}

/// How an exchange goes on.
#[derive(Debug)]
pub enum Next<E, A> {
    /// It is done.
    Done(A),
    /// Once more, with a new envelope.
    Again(E),
}

/// An envelope that is sent.
pub struct Awaited<S> {
    identity: Identity,
    suite: &'static dyn Suite,
    state: S,
}

/// New keys for the next epoch (section 7).
#[derive(Debug, Clone)]
pub struct Rotation(Attempts);

impl Rotation {
    /// Begins.
    pub fn start() -> Self {
        Self(Attempts::current_only())
    }
}

impl Exchange for Rotation {
    type Awaited = Awaited<rotate::AwaitRotation>;
    type Answer = NewKeys;

    fn seal(&self, credential: &Credential, fresh: Fresh<Random>) -> Result<(Request, Self::Awaited)> {
        let suite = super::suite(credential.suite)?;
        let identity = self.0.identify(credential)?;
        let sender = identity.sender(credential, credential.rotation_kem(), &fresh);
        let (envelope, state) =
            rotate::start(suite, &sender, fresh.random.nonce, &fresh.random.kem).map_err(start_error)?;
        Ok((Request::post("/idb/v1/rotate", envelope), Awaited { identity, suite, state }))
    }

    fn receive(
        mut self,
        awaited: Self::Awaited,
        response: &Response,
        now_ms: u64,
        origin: &str,
    ) -> Judged<Next<Self, NewKeys>> {
        let Awaited { identity, suite, state } = awaited;
        let message = match response.message(origin) {
            Ok(message) => message,
            Err(error) => return Judged::plain(Err(error)),
        };
        match state.receive(suite, message) {
            Ok(rotated) => {
                let rotate::Rotated { keys, epoch, note } = rotated;
                let (unique_key, management_key) = (keys.unique_key, keys.management_key);
                let next = NewKeys(NextEpoch { epoch, unique_key, management_key });
                Judged { learnt: Attempts::accepted(identity, Some(&note)), next: Ok(Next::Done(next)) }
            }
            Err(refused) => {
                let (learnt, again) = self.0.refused(identity, refused, now_ms, origin);
                Judged { learnt, next: again.map(|()| Next::Again(self)) }
            }
        }
    }
}

/// Keys of the next epoch, to be stored durably before their first use.
#[derive(Debug)]
pub struct NewKeys(NextEpoch);

impl NewKeys {
    /// Their epoch.
    pub fn epoch(&self) -> u32 {
        self.0.epoch
    }

    /// Stores them as the pending ones, unless the credential has got others
    /// since `used` was read: then two rotations were under way, of which only
    /// the one that ended first counts here, in whatever order they arrived at
    /// the management server. Its pending keys may then be those that are
    /// dropped here; the current ones hold until another rotation.
    pub fn store(self, used: &Credential, credential: &mut Credential) -> bool {
        let same = |a: &NextEpoch, b: &NextEpoch| a.unique_key.ct_eq(b.unique_key.expose());
        let unchanged = match (&used.next, &credential.next) {
            (None, None) => true,
            (Some(a), Some(b)) => same(a, b),
            _ => false,
        };
        let accepted = unchanged
            && used.id == credential.id
            && used.unique_key.ct_eq(credential.unique_key.expose())
            && credential.epoch.checked_add(1) == Some(self.0.epoch);
        if accepted {
            credential.next = Some(self.0);
        }
        accepted
    }
}

/// The services a user may reach (section 14).
#[derive(Debug, Clone)]
pub struct Directory(Attempts);

impl Directory {
    /// Begins.
    pub fn start() -> Self {
        Self(Attempts::newest_first())
    }
}

impl Exchange for Directory {
    type Awaited = Awaited<directory::AwaitDirectory>;
    type Answer = Vec<Service>;

    fn seal(&self, credential: &Credential, fresh: Fresh<Random>) -> Result<(Request, Self::Awaited)> {
        let suite = super::suite(credential.suite)?;
        let identity = self.0.identify(credential)?;
        let sender = identity.sender(credential, credential.kem, &fresh);
        let (envelope, state) =
            directory::start(suite, &sender, fresh.random.nonce, &fresh.random.kem).map_err(start_error)?;
        Ok((Request::post("/idb/v1/directory", envelope), Awaited { identity, suite, state }))
    }

    fn receive(
        mut self,
        awaited: Self::Awaited,
        response: &Response,
        now_ms: u64,
        origin: &str,
    ) -> Judged<Next<Self, Vec<Service>>> {
        let Awaited { identity, suite, state } = awaited;
        let message = match response.message(origin) {
            Ok(message) => message,
            Err(error) => return Judged::plain(Err(error)),
        };
        let (learnt, again) = match state.receive(suite, message) {
            Ok(directory) if directory.code == Code::Ok => {
                let next = list(&directory.json).map(Next::Done);
                return Judged { learnt: Attempts::accepted(identity, None), next };
            }
            Ok(directory) => self.0.denied(directory.code, directory.server_time_ms, now_ms),
            Err(refused) => self.0.refused(identity, refused, now_ms, origin),
        };
        Judged { learnt, next: again.map(|()| Next::Again(self)) }
    }
}

#[derive(Deserialize)]
struct Entry {
    service: String,
    #[serde(default)]
    origins: Vec<String>,
    #[serde(default)]
    name: Option<String>,
}

/// The rows of a directory. One that is not valid here, such as an origin
/// without https, does not keep the user from the others.
fn list(json: &str) -> Result<Vec<Service>> {
    let entries: Vec<Entry> = serde_json::from_str(json)
        .map_err(|_| crate::Error::InvalidReply("the directory is not what the protocol says"))?;
    let mut services = Vec::new();
    for entry in entries {
        let Ok(id) = entry.service.parse::<ServiceId>() else { continue };
        let name = entry.name.map(|name| name.chars().filter(|c| !c.is_control()).take(MAX_NAME).collect::<String>());
        let name = name.filter(|name| !name.is_empty() && *name != entry.service);
        for origin in entry.origins.iter().filter_map(|origin| origin.parse::<Origin>().ok()) {
            let row = Service::new(id.clone(), origin);
            services.push(Service { source: Source::Directory, name: name.clone(), ..row });
        }
    }
    Ok(services)
}

/// The longest name of a service in characters that is kept.
const MAX_NAME: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::tests::sample;

    #[test]
    fn rows_that_are_not_valid_do_not_hide_the_others() {
        let json = r#"[
            {"service": "shop.example", "origins": ["https://shop.example", "http://shop.example", "https://b:8443"],
             "name": "The \u001b[31mshop"},
            {"service": "Not a service", "origins": ["https://c"]},
            {"service": "bank.example", "origins": [], "later": true},
            {"service": "mail.example", "origins": ["https://mail.example"], "name": "mail.example"}
        ]"#;
        let rows = list(json).unwrap();
        let rows: Vec<_> = rows.iter().map(|row| (row.id.as_str(), row.origin.as_str(), row.name.as_deref())).collect();
        assert_eq!(
            rows,
            [
                ("shop.example", "https://shop.example", Some("The [31mshop")),
                ("shop.example", "https://b:8443", Some("The [31mshop")),
                ("mail.example", "https://mail.example", None),
            ]
        );
        for bad in ["", "{}", "[1]", "[{}]"] {
            assert!(list(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn of_two_rotations_at_once_the_first_answer_counts() {
        let keys = |epoch, byte: u8| {
            let secret = || Secret32::new([byte; 32]);
            NewKeys(NextEpoch { epoch, unique_key: secret(), management_key: secret() })
        };
        let used = sample();
        let mut credential = used.clone();
        assert!(keys(2, 1).store(&used, &mut credential));
        assert!(!keys(2, 2).store(&used, &mut credential), "its request was made before the first answer");
        assert_eq!(credential.next.as_ref().unwrap().unique_key.expose(), &[1; 32]);
        let used = credential.clone();
        assert!(keys(2, 3).store(&used, &mut credential), "a newer answer replaces the pending keys");
        assert!(!keys(3, 4).store(&credential.clone(), &mut credential), "of another epoch");
        credential.promote(&Secret32::new([3; 32]));
        assert!(!keys(2, 5).store(&used, &mut credential), "promoted meanwhile");
        let mut enrolled_anew = sample();
        enrolled_anew.id = "f".repeat(32);
        assert!(!keys(2, 6).store(&sample(), &mut enrolled_anew));
    }
}
