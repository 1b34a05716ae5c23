//! Enrolment: codes, and the exchange that turns a code into a credential
//! (protocol, section 8).

use std::{sync::Arc, time::Duration};

use claviger_plugin_api::{PluginError, Written};
use claviger_protocol::{
    Code, KemId, Realm, Secret32, Suite, SuiteId,
    enrolment_code::{EnrolmentCode, EnrolmentId},
    management::enrol,
    message::{Enrol3, Enrol4, EnrolBox},
};
use tracing::{info, warn};
use zeroize::Zeroizing;

use super::{
    keyring::Keyring,
    record::{
        CredentialRecord, EnrolmentRecord, EnrolmentRef, Keys, OfferRecord, UniqueKey, UserRecord, enrolment_key,
        user_key,
    },
    repository::{ChangeError, Repository},
    sealing::{Place, Seal, Unsealable},
    unique_keys::{Named, UniqueKeys},
};
use crate::{
    clock::{self, Clock},
    suites::Suites,
};

/// Hands out credentials.
pub struct Enrolment {
    /// The realm.
    pub realm: Realm,
    /// Enabled suites.
    pub suites: Suites,
    /// Enabled KEMs.
    pub kems: Vec<KemId>,
    /// The store.
    pub repository: Repository,
    /// Seals what is stored.
    pub keyring: Arc<Keyring>,
    /// Where unique keys go.
    pub unique_keys: Arc<UniqueKeys>,
    /// The time.
    pub clock: Clock,
    /// The least suite of new credentials.
    pub suite_floor: SuiteId,
    /// The least KEM of new credentials.
    pub kem_floor: KemId,
    /// Whether an administrator confirms each enrolment.
    pub confirm_enrolments: bool,
    /// A sealed key that stands in for codes that are not known, so that the time is the same.
    pub dummy_psk: Vec<u8>,
}

/// What the terminal gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// E2 or E4.
    Message(Vec<u8>),
    /// Nothing yet: an administrator must compare digits first. The terminal asks again.
    Held,
}

/// No terminal of that user waits for an administrator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotHeld;

/// A code that was made, and when it ends in milliseconds since 1970.
pub type NewCode = (EnrolmentCode, u64);

/// Wrong MACs under one code before it is suspended.
const MAX_BAD_MACS: u32 = 10;
/// Kinds of secrets in an enrolment's record.
pub(super) const PSK: &str = "enrolment psk";
/// The id of no code.
const DUMMY: EnrolmentId = [0; 8];
pub(super) const TAGS: &str = "enrolment tags";

impl Enrolment {
    /// Seals the dummy of [`Self::dummy_psk`].
    pub fn dummy_psk(keyring: &Keyring, realm: &Realm, psk: &Secret32) -> Result<Vec<u8>, Unsealable> {
        let owner = data_encoding::HEXLOWER.encode(&DUMMY);
        keyring.ephemeral().seal(Place { realm: realm.as_str(), kind: PSK, owner: &owner, epoch: 0 }, psk.expose())
    }

    /// Makes a code for a user; a former one that was not used ends.
    pub async fn new_code(&self, user: &str, valid: Duration) -> Result<NewCode, ChangeError<()>> {
        let failed = |_| PluginError::Unavailable("the cipher plugin failed".into());
        let code = EnrolmentCode::new(self.suites.random_array().map_err(failed)?);
        let expires_ms = clock::millis((self.clock)()) + valid.as_millis() as u64;
        let id = code.id();
        let psk = self
            .seal(PSK, &id, code.psk().expose())
            .map_err(|_| PluginError::Unavailable("the code could not be sealed".into()))?;
        let record = EnrolmentRecord {
            user: user.to_owned(),
            expires_ms,
            bad_macs: 0,
            psk: Some(psk),
            offer: None,
            held: false,
            confirmed: false,
        };
        if !self.repository.create(&enrolment_key(&id), &record).await? {
            return Err(ChangeError::Conflict); // 64 random bits were taken: ask again
        }
        let mut former = None;
        let key = user_key(user);
        let named = self.repository.change(&key, |user: &mut UserRecord| {
            former = user.enrolment.replace(EnrolmentRef { id, expires_ms });
            Ok::<_, ()>(true)
        });
        let named = named.await;
        let superfluous = if named.is_ok() { former.map(|former| former.id) } else { Some(id) };
        if let Some(id) = superfluous {
            let removed = self.repository.remove::<EnrolmentRecord>(&enrolment_key(&id)).await?;
            self.discard_offer(removed).await;
        }
        named?;
        info!(target: "audit", event = "enrolment_code_made", user, "an enrolment code was made");
        Ok((code, expires_ms))
    }

    /// Removes up to a hundred enrolments whose code ended a day ago or earlier.
    pub async fn sweep(&self) -> Result<(), PluginError> {
        let over = clock::millis((self.clock)()).saturating_sub(24 * 3600 * 1000);
        for (key, version) in self.repository.before::<EnrolmentRecord>(&format!("{over:020}"), 100).await? {
            let record = self.repository.get::<EnrolmentRecord>(&key).await?.filter(|found| found.version == version);
            // A conflict: somebody else was faster.
            if let Written::Done(_) = self.repository.store().delete(&key, version).await? {
                self.discard_offer(record.map(|found| found.value)).await;
            }
        }
        Ok(())
    }

    /// Destroys the key in custody of an offer whose enrolment was removed,
    /// unless the offer was activated and the key is the user's by now. Where
    /// that cannot be known, it stays.
    pub async fn discard_offer(&self, removed: Option<EnrolmentRecord>) {
        let Some((user, offer)) = removed.and_then(|record| Some((record.user, record.offer?))) else { return };
        let keys = offer.credential.keys_in_custody();
        if keys.is_empty() {
            return;
        }
        let Ok(owner) = self.repository.get::<UserRecord>(&user_key(&user)).await else { return };
        let current = owner.and_then(|found| found.value.credential);
        if current.is_none_or(|current| current.id != offer.credential.id) {
            self.unique_keys.destroy(keys).await;
        }
    }

    /// Answers E1 with E2, or E3 with E4. `message` is attacker-controlled.
    pub async fn handle(self: &Arc<Self>, message: &[u8]) -> Result<Answer, Code> {
        match Enrol3::decode(message) {
            // It comes to its end whatever becomes of the terminal: otherwise
            // the key of the former credential could be left in the module.
            Ok(e3) => {
                let enrolment = self.clone();
                let confirming = tokio::spawn(async move { enrolment.confirm(e3).await });
                confirming.await.unwrap_or(Err(Code::Unavailable))
            }
            Err(_) => self.offer(message).await.map(Answer::Message),
        }
    }

    /// An administrator has compared the six digits with the user: the
    /// terminal's next E3 activates the credential. `false` when they differ
    /// from those of the terminal that waits.
    pub async fn confirm_held(&self, user: &str, digits: u32) -> Result<bool, ChangeError<NotHeld>> {
        let found = self.repository.get::<UserRecord>(&user_key(user)).await?.ok_or(ChangeError::NotFound)?;
        let enrolment = found.value.enrolment.ok_or(ChangeError::Refused(NotHeld))?;
        let mut equal = false;
        let confirm = |record: &mut EnrolmentRecord| {
            let offer = record.offer.as_ref().filter(|_| record.held).ok_or(NotHeld)?;
            equal = offer.comparison == digits;
            record.confirmed |= equal;
            Ok(equal)
        };
        match self.repository.change(&enrolment_key(&enrolment.id), confirm).await {
            Ok(_) => {}
            Err(ChangeError::NotFound) => return Err(ChangeError::Refused(NotHeld)),
            Err(error) => return Err(error),
        }
        let event = if equal { "enrolment_confirmed" } else { "enrolment_digits_differ" };
        warn!(target: "audit", event, user, "an administrator compared the digits of an enrolment");
        Ok(equal)
    }

    async fn offer(self: &Arc<Self>, e1: &[u8]) -> Result<Vec<u8>, Code> {
        let request = enrol::receive(e1, &self.realm, self.suites.ids(), &self.kems)?;
        let suite = self.suites.get(request.suite()).ok_or(Code::Unsupported)?;
        let id = request.id();
        let key = enrolment_key(&id);
        let found = self.repository.get::<EnrolmentRecord>(&key).await.map_err(|error| away(&error))?;
        let now_ms = clock::millis((self.clock)());
        let usable = found.as_ref().filter(|f| f.value.expires_ms > now_ms && f.value.bad_macs < MAX_BAD_MACS);
        let sealed = usable.and_then(|found| found.value.psk.as_deref());
        let psk = match sealed {
            Some(sealed) => self.open_psk(&id, sealed)?,
            None => self.open_psk(&DUMMY, &self.dummy_psk)?,
        };
        let known = sealed.is_some();
        let verified = request.verify(suite, &psk, known).inspect_err(|code| {
            if *code == Code::AuthFailed && known {
                // Counted beside the answer, which must not tell by its time that the code exists.
                tokio::spawn(count_bad_mac(self.repository.clone(), key.clone()));
            }
        })?;
        let Some(found) = found else { return Err(Code::AuthFailed) };
        let user_id = &found.value.user;
        self.is_current(user_id, &id).await?;
        let details = EnrolBox {
            user_id: user_id.as_bytes().to_vec(),
            epoch: 1,
            suite_floor: self.suite_floor,
            kem_floor: self.kem_floor,
            server_time_ms: now_ms,
        };
        let random = || self.suites.random_array().map_err(|_| Code::Unavailable);
        let (e2, pending) = verified.offer(suite, &psk, &details, &random()?, &Secret32::new(random()?))?;
        let mut record = found.value;
        (record.held, record.confirmed) = (false, false);
        let (enrolment, version, hash_len) = (self.clone(), found.version, suite.hash_len() as u8);
        // Without the unique key, which must not be moved about.
        let rest = Rest {
            management: pending.management_key.clone(),
            tags: Zeroizing::new([pending.terminal_tag, pending.manager_tag].concat()),
            comparison: pending.comparison,
        };
        // Durable before the terminal sees it. A conflict means that the same
        // code is in use elsewhere at this moment: the terminal asks again.
        let store = async move |unique| {
            let offer = match enrolment.offer_record(&id, &record.user, unique, rest, now_ms, hash_len) {
                Ok(offer) => offer,
                Err(code) => return Named::No(code),
            };
            let former = record.offer.replace(offer);
            match enrolment.repository.put(&key, version, &record).await {
                Ok(true) => Named::Yes(former.map_or_else(Vec::new, |former| former.credential.keys_in_custody())),
                Ok(false) => Named::No(Code::Unavailable),
                Err(error) => Named::InDoubt(away(&error)),
            }
        };
        self.unique_keys.keep(&pending.unique_key, store).await?;
        Ok(e2)
    }

    async fn confirm(&self, e3: Enrol3) -> Result<Answer, Code> {
        let key = enrolment_key(&e3.id);
        let found = self.repository.get::<EnrolmentRecord>(&key).await.map_err(|error| away(&error))?;
        let now_ms = clock::millis((self.clock)());
        let Some((found, offer)) = found
            .and_then(|f| f.value.offer.clone().map(|offer| (f, offer)))
            .filter(|(f, _)| f.value.expires_ms > now_ms)
        else {
            return Err(Code::AuthFailed);
        };
        let e4 = self.judge(&e3, &offer)?;
        if self.confirm_enrolments && !found.value.confirmed && found.value.psk.is_some() {
            self.hold(&key, &offer, &found.value).await?;
            return Ok(Answer::Held);
        }
        // Burnt first: from here on no E1 can put another offer in the place
        // of the one that is activated. Where it ends in between, the same E3
        // goes on from here.
        self.burn(&key, &offer).await?;
        let user = &found.value.user;
        if self.activate(user, &e3.id, &offer.credential).await? {
            info!(target: "audit", event = "enrolled", user, "a terminal was enrolled");
            metrics::counter!("claviger_enrolments_total").increment(1);
        }
        if !offer.credential.keys.is_erased() {
            self.erase_keys(&key, &offer).await;
        }
        Ok(Answer::Message(e4))
    }

    /// Notes that the terminal of this offer waits for an administrator.
    async fn hold(&self, key: &str, offer: &OfferRecord, record: &EnrolmentRecord) -> Result<(), Code> {
        if record.held {
            return Ok(());
        }
        let hold = |record: &mut EnrolmentRecord| {
            let same = record.offer.as_ref().is_some_and(|last| last.credential.id == offer.credential.id);
            if !same {
                return Err(()); // a newer E1 has replaced it
            }
            record.held = true;
            Ok(true)
        };
        info!(target: "audit", event = "enrolment_held", user = record.user, "a terminal waits for its digits to be compared");
        match self.repository.change(key, hold).await {
            Ok(_) => Ok(()),
            Err(ChangeError::NotFound | ChangeError::Refused(())) => Err(Code::AuthFailed),
            Err(ChangeError::Conflict) => Err(Code::Unavailable),
            Err(ChangeError::Store(error)) => Err(away(&error)),
        }
    }

    /// The E4 of an offer for its E3. The same E3 gives the same E4.
    fn judge(&self, e3: &Enrol3, offer: &OfferRecord) -> Result<Vec<u8>, Code> {
        let tags = self.open(TAGS, &e3.id, &offer.tags)?;
        let (terminal, manager) = tags.split_at_checked(32).ok_or(Code::Unavailable)?;
        let terminal = Secret32::from_slice(terminal).ok_or(Code::Unavailable)?;
        let tag = manager.try_into().map_err(|_| Code::Unavailable)?;
        if terminal.ct_eq(&e3.tag) { Ok(Enrol4 { tag }.encode()) } else { Err(Code::AuthFailed) }
    }

    /// Ends the code, as long as `offer` is what it was last used for.
    async fn burn(&self, key: &str, offer: &OfferRecord) -> Result<(), Code> {
        let burn = |record: &mut EnrolmentRecord| match &record.offer {
            Some(last) if last.credential.id == offer.credential.id => Ok(record.psk.take().is_some()),
            _ => Err(()), // a newer E1 has replaced it
        };
        match self.repository.change(key, burn).await {
            Ok(_) => Ok(()),
            Err(ChangeError::NotFound | ChangeError::Refused(())) => Err(Code::AuthFailed),
            Err(ChangeError::Conflict) => Err(Code::Unavailable),
            Err(ChangeError::Store(error)) => Err(away(&error)),
        }
    }

    /// Takes the keys out of the record of a burnt code: once they are the
    /// user's they must go when the user's go. The tags stay, for an E3 that
    /// comes again.
    async fn erase_keys(&self, key: &str, offer: &OfferRecord) {
        let erase = |record: &mut EnrolmentRecord| {
            let last = record.offer.as_mut().filter(|last| last.credential.id == offer.credential.id);
            Ok::<_, ()>(last.map(|last| last.credential.keys.erase()).is_some())
        };
        match self.repository.change(key, erase).await {
            Ok(_) | Err(ChangeError::NotFound) => {}
            Err(error) => warn!(error = %format_args!("{error:?}"), "sealed keys were left behind in a burnt code"),
        }
    }

    /// Refuses a code that is not the user's any more: a newer one was made,
    /// it was used, or the user is gone. An offer on it could never be
    /// activated, and the terminal would give up good keys for it.
    async fn is_current(&self, user: &str, id: &[u8; 8]) -> Result<(), Code> {
        let found = self.repository.get::<UserRecord>(&user_key(user)).await.map_err(|error| away(&error))?;
        let current = found.and_then(|found| found.value.enrolment);
        if current.is_some_and(|enrolment| enrolment.id == *id) { Ok(()) } else { Err(Code::AuthFailed) }
    }

    /// Makes the offered credential the user's. Doing it twice changes
    /// nothing; `false` the second time.
    async fn activate(&self, user: &str, id: &[u8; 8], credential: &CredentialRecord) -> Result<bool, Code> {
        let mut activated = false;
        let mut former = None;
        // What goes from one record to another is sealed as of now: a pass
        // that seals anew may have been at the one already.
        let mut credential = credential.clone();
        let place = credential.keys.place(self.realm.as_str(), user, credential.epoch);
        if !credential.keys.is_erased()
            && let Some(sealed) = self.keyring.reseal(place, &credential.keys.sealed).map_err(unsealable)?
        {
            credential.keys.sealed = sealed;
        }
        let credential = &credential;
        let key = user_key(user);
        let changed = self.repository.change(&key, |user: &mut UserRecord| {
            activated = false;
            let mine = user.enrolment.as_ref().is_some_and(|enrolment| enrolment.id == *id);
            if user.credential.as_ref().is_some_and(|existing| existing.id == credential.id) {
                return Ok(false);
            }
            if !mine {
                return Err(()); // a newer code was made, or another terminal was enrolled
            }
            former = user.credential.replace(credential.clone());
            user.enrolment = None;
            activated = true;
            Ok(true)
        });
        match changed.await {
            Ok(_) => {}
            Err(ChangeError::NotFound | ChangeError::Refused(())) => return Err(Code::AuthFailed),
            Err(ChangeError::Conflict) => return Err(Code::Unavailable),
            Err(ChangeError::Store(error)) => return Err(away(&error)),
        }
        // Without the index the terminal's handles lead nowhere, and it names
        // itself by its sealed user id instead.
        if let Err(error) = self.repository.index_credential(credential, user).await {
            warn!(user, %error, "the credential was not indexed");
        }
        if let Some(former) = former {
            if let Err(error) = self.repository.forget_credential(&former).await {
                // Left-over rows cost space and nothing else: their credential is gone.
                warn!(user, %error, "rows of a former credential were left behind");
            }
            self.unique_keys.destroy(former.keys_in_custody()).await;
        }
        Ok(activated)
    }

    fn offer_record(
        &self,
        id: &[u8; 8],
        user: &str,
        unique: UniqueKey,
        rest: Rest,
        now_ms: u64,
        hash_len: u8,
    ) -> Result<OfferRecord, Code> {
        let keys = Keys { unique, management: rest.management };
        let sealed = keys.seal(&*self.keyring, self.realm.as_str(), user, 1).map_err(unsealable)?;
        Ok(OfferRecord {
            credential: CredentialRecord {
                id: self.suites.random_array().map_err(|_| Code::Unavailable)?,
                epoch: 1,
                hash_len,
                suite_floor: self.suite_floor.0,
                kem_floor: self.kem_floor.to_wire(),
                keys: sealed,
                enrolled_ms: now_ms,
                cloned: false,
                keys_made_ms: now_ms,
                rotate_required: false,
                pending: None,
            },
            comparison: rest.comparison,
            tags: self.seal(TAGS, id, &rest.tags).map_err(unsealable)?,
        })
    }

    fn open_psk(&self, id: &[u8; 8], sealed: &[u8]) -> Result<Secret32, Code> {
        let psk = self.open(PSK, id, sealed)?;
        Secret32::from_slice(&psk).ok_or(Code::Unavailable)
    }

    fn seal(&self, kind: &str, id: &[u8; 8], secret: &[u8]) -> Result<Vec<u8>, Unsealable> {
        let owner = data_encoding::HEXLOWER.encode(id);
        self.keyring.seal(Place { realm: self.realm.as_str(), kind, owner: &owner, epoch: 0 }, secret)
    }

    fn open(&self, kind: &str, id: &[u8; 8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Code> {
        let owner = data_encoding::HEXLOWER.encode(id);
        self.keyring
            .open(Place { realm: self.realm.as_str(), kind, owner: &owner, epoch: 0 }, sealed)
            .map_err(unsealable)
    }
}

/// What an offer holds beside the unique key.
struct Rest {
    management: Secret32,
    /// What E3 must prove ‖ what E4 will say.
    tags: Zeroizing<Vec<u8>>,
    comparison: u32,
}

async fn count_bad_mac(repository: Repository, key: String) {
    let counted = repository.change(&key, |record: &mut EnrolmentRecord| {
        record.bad_macs += 1;
        Ok::<_, ()>(true)
    });
    match counted.await {
        Ok(record) if record.bad_macs >= MAX_BAD_MACS => {
            warn!(target: "audit", event = "enrolment_code_suspended", user = record.user, "too many wrong attempts: the enrolment code is suspended, make another");
        }
        Ok(_) => {}
        Err(error) => warn!(error = %format_args!("{error:?}"), "a wrong enrolment attempt was not counted"),
    }
}

fn unsealable(_: Unsealable) -> Code {
    tracing::error!(target: "audit", event = "record_tampered", "a secret of an enrolment does not open: the record was exchanged or damaged, or its data key was dropped");
    Code::Unavailable
}

fn away(error: &PluginError) -> Code {
    warn!(%error, "the user store gave no answer to an enrolment");
    Code::Unavailable
}
