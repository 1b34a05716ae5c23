//! The management role: users, their keys, and the answers to services.
//!
//! - [`gate`]: what every envelope goes through; `failure`: when it is answered if it does not authenticate.
//! - [`reply_processor`]: what services ask for; the hot path.
//! - [`account`]: what terminals ask for themselves: new keys, their services.
//! - [`enrolment`]: codes, and the exchange that makes a credential of one.
//! - [`users`], [`registry`]: what administrators handle; [`model`] is how they see it.
//! - [`record`], [`repository`], [`batch`]: what lies in the user store, and how it gets there.
//! - [`unique_keys`]: where the unique keys are: in records, or in the custody of a module.
//! - [`sealing`], [`keyring`], [`kek`]: secrets at rest, the data keys that seal them, the key-encryption keys
//!   that wrap these; [`rewrap`] seals everything under the current data key.
//! - [`realm_keys`]: names for services, handles, private user ids.
//! - [`link`]: enrolment links.
//! - [`http`]: the listeners' handlers.

pub mod account;
pub mod batch;
pub mod enrolment;
mod failure;
pub mod gate;
pub mod http;
pub mod kek;
pub mod keyring;
pub mod link;
pub mod model;
pub mod orphans;
pub mod realm_keys;
pub mod record;
pub mod registry;
pub mod reply_processor;
pub mod repository;
pub mod rewrap;
pub mod sealing;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
pub mod unique_keys;
pub mod users;

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use claviger_plugin_api::{KeyCustody, KeyId, PluginError, UserStore};
use claviger_protocol::{KemId, Realm, Secret32, ServiceId, SuiteError, SuiteId};

use self::{
    account::Account,
    enrolment::{Enrolment, NotHeld},
    gate::{Gate, Parts},
    kek::{KekId, Recipients},
    keyring::{Keyring, KeyringError, SETTLE},
    link::Links,
    model::{
        AdminError, EnrolmentCode, KeyRing, NewUser, OrphanedKeys, RewrapProgress, Rotated, SecretCount, Service, User,
        UserPage,
    },
    orphans::{DestroyError, Orphans},
    realm_keys::{RealmKeyError, RealmKeys},
    registry::ServiceRegistry,
    reply_processor::{GrantPolicy, ReplyProcessor},
    repository::{ChangeError, Repository},
    rewrap::Rewrap,
    unique_keys::UniqueKeys,
    users::Users,
};
use crate::{
    clock::{self, Clock},
    config::types::ManagementConfig,
    net::{Peer, tls::public_key_sha256},
    suites::Suites,
};

/// Why the role is not ready.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    /// The store.
    #[error("the user store does not answer: {0}")]
    Store(#[from] PluginError),
    /// The key custody.
    #[error("the key custody does not answer: {0}")]
    Custody(PluginError),
    /// The key ring.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
}

/// The management role of one daemon.
pub struct Management {
    realm: Realm,
    gate: Arc<Gate>,
    reply_processor: ReplyProcessor,
    account: Account,
    links: Links,
    private_user_ids: bool,
    enrolment: Arc<Enrolment>,
    users: Users,
    registry: Arc<ServiceRegistry>,
    repository: Repository,
    keyring: Arc<Keyring>,
    rewrap: Rewrap,
    unique_keys: Arc<UniqueKeys>,
    orphans: Orphans,
}

/// Why the management role cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The key ring.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// The store does not answer.
    #[error("the user store does not answer: {0}")]
    Store(#[from] PluginError),
    /// The key custody does not answer.
    #[error("the key custody does not answer: {0}")]
    Custody(PluginError),
    /// The realm's own keys.
    #[error(transparent)]
    RealmKeys(#[from] RealmKeyError),
    /// The cipher plugin.
    #[error("the cipher plugin gives no random numbers")]
    Random(#[from] SuiteError),
    /// A value that the configuration let pass.
    #[error("{0}")]
    Configuration(String),
}

impl Management {
    /// Reads keys and registry, and starts the reply processor.
    pub async fn start(
        realm: Realm,
        config: &ManagementConfig,
        suites: Suites,
        store: Arc<dyn UserStore>,
        custody: Option<Arc<dyn KeyCustody>>,
        recipients: Recipients,
        clock: Clock,
    ) -> Result<Arc<Self>, StartError> {
        let kem = |number: u8| {
            KemId::from_wire(number).ok_or_else(|| StartError::Configuration(format!("{number} is not a KEM")))
        };
        let kems = config.kems.iter().map(|number| kem(*number)).collect::<Result<Vec<_>, _>>()?;
        let links = Links::read(&config.terminals, realm.as_str()).map_err(StartError::Configuration)?;
        let repository = Repository::new(store);
        let keyring = Keyring::load(repository.clone(), realm.as_str(), recipients, clock.clone()).await?;
        let realm_keys = Arc::new(RealmKeys::load(&**repository.store(), &keyring, realm.as_str()).await?);
        let unique_keys = Arc::new(UniqueKeys::new(realm_keys.clone(), custody));
        let registry = Arc::new(ServiceRegistry::load(repository.clone()).await?);
        let per_service_per_second = NonZeroU32::new(config.limits.per_service_per_second).unwrap_or(NonZeroU32::MIN);
        let enrolment = Arc::new(Enrolment {
            realm: realm.clone(),
            suites: suites.clone(),
            kems: kems.clone(),
            repository: repository.clone(),
            keyring: keyring.clone(),
            unique_keys: unique_keys.clone(),
            clock: clock.clone(),
            suite_floor: SuiteId(config.enrolment_suite_floor),
            kem_floor: kem(config.enrolment_kem_floor)?,
            confirm_enrolments: config.confirm_enrolments,
            dummy_psk: Enrolment::dummy_psk(&keyring, &realm, &Secret32::new(suites.random_array()?))
                .map_err(|_| SuiteError::Failed)?,
        });
        let gate = Arc::new(
            Gate::new(Parts {
                realm: realm.clone(),
                suites,
                kems,
                repository: repository.clone(),
                keyring: keyring.clone(),
                unique_keys: unique_keys.clone(),
                realm_keys,
                clock: clock.clone(),
                clock_window: config.clock_window,
            })
            .await?,
        );
        let policy = GrantPolicy {
            max_session: config.max_session,
            rotate_after: config.rotate_after,
            private_user_ids: config.private_user_ids,
            per_service_per_second,
        };
        let reply_processor = ReplyProcessor::new(gate.clone(), registry.clone(), policy);
        let account = Account::new(gate.clone(), registry.clone());
        let rewrap = Rewrap::new(realm.as_str(), repository.clone(), keyring.clone(), clock.clone());
        let users = Users { repository: repository.clone(), unique_keys: unique_keys.clone(), clock };
        let orphans = Orphans::new(repository.clone(), unique_keys.clone());
        let private_user_ids = config.private_user_ids;
        Ok(Arc::new(Self {
            realm,
            gate,
            reply_processor,
            account,
            links,
            private_user_ids,
            enrolment,
            users,
            registry,
            repository,
            keyring,
            rewrap,
            unique_keys,
            orphans,
        }))
    }

    /// The realm.
    pub fn realm(&self) -> &Realm {
        &self.realm
    }

    /// What services ask.
    pub fn reply_processor(&self) -> &ReplyProcessor {
        &self.reply_processor
    }

    /// What terminals ask for themselves.
    pub fn account(&self) -> &Account {
        &self.account
    }

    #[cfg(test)]
    fn gate(&self) -> &Gate {
        &self.gate
    }

    /// What terminals may know of the realm before they sign on, as JSON.
    pub fn description(&self) -> serde_json::Value {
        let policy = self.gate.policy();
        let mut description = serde_json::json!({
            "realm": self.realm.as_str(),
            "suites": policy.suites.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "kems": policy.kems.iter().map(|kem| kem.to_wire()).collect::<Vec<_>>(),
            "private_user_ids": self.private_user_ids,
        });
        if self.private_user_ids {
            let key = data_encoding::BASE64URL_NOPAD.encode(self.gate.realm_keys().hpke_public_key());
            description["hpke_public_key"] = key.into();
        }
        description
    }

    /// What terminals ask that have no credential yet.
    pub fn enrolment(&self) -> &Arc<Enrolment> {
        &self.enrolment
    }

    /// Whether store and custody answer; registry and key ring as they stand there.
    /// Also removes some of the enrolments that are over.
    ///
    /// Each is tried whatever becomes of the others: while the custody is away,
    /// services that are removed must be. The answer is the first failure.
    pub async fn refresh(&self) -> Result<(), NotReady> {
        let outcomes = [
            self.repository.store().health().await.map_err(NotReady::Store),
            self.keyring.reload().await.map_err(NotReady::Keyring),
            self.registry.refresh().await.map_err(NotReady::Store),
            self.enrolment.sweep().await.map_err(NotReady::Store),
            self.unique_keys.health().await.map_err(NotReady::Custody),
        ];
        outcomes.into_iter().collect()
    }

    /// Keys in custody, and those that no record names at this moment.
    pub async fn orphaned_keys(&self) -> Result<OrphanedKeys, AdminError> {
        let (keys, orphans) = self.orphans.find().await.map_err(|error| AdminError::Unavailable(error.to_string()))?;
        let orphans = orphans.iter().map(|id| data_encoding::HEXLOWER.encode(id)).collect();
        Ok(OrphanedKeys { keys, orphans })
    }

    /// Destroys those of these keys that no record names now; how many. Without
    /// `many` it refuses where most keys of the realm look orphaned.
    pub async fn destroy_orphaned_keys(&self, ids: &[String], many: bool) -> Result<usize, AdminError> {
        let id = |text: &String| {
            let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok();
            let id = bytes.and_then(|bytes| KeyId::try_from(bytes).ok());
            id.ok_or_else(|| AdminError::Invalid("the id of a key in custody has 32 hex digits".into()))
        };
        let ids = ids.iter().map(id).collect::<Result<Vec<_>, _>>()?;
        self.orphans.destroy(&ids, many).await.map_err(|error| match error {
            DestroyError::Suspicious { .. } => AdminError::Invalid(error.to_string()),
            DestroyError::Away(error) => AdminError::Unavailable(error.to_string()),
        })
    }

    /// Whether a service is registered.
    pub fn is_registered(&self, service: &ServiceId) -> bool {
        self.registry.get(service.as_str()).is_some()
    }

    /// Whether the peer's key is the one its service is pinned to; true where there is no pin.
    pub fn key_is_pinned(&self, service: &ServiceId, peer: &Peer) -> bool {
        let Some(pin) = self.registry.get(service.as_str()).and_then(|service| service.key_pin.clone()) else {
            return true;
        };
        peer.certificate.as_ref().and_then(public_key_sha256).is_some_and(|hash| hash.as_slice() == pin)
    }

    /// Adds a user.
    pub async fn add_user(&self, new: NewUser) -> Result<User, AdminError> {
        self.users.add(new).await
    }

    /// One user.
    pub async fn user(&self, id: &str) -> Result<User, AdminError> {
        self.users.get(id).await
    }

    /// Users in the order of their ids, from behind `after`, at most `limit` (1 to 1000).
    pub async fn users(&self, after: Option<&str>, limit: usize) -> Result<UserPage, AdminError> {
        self.users.list(after, limit).await
    }

    /// Keeps a user out from its next sign-on on.
    pub async fn suspend_user(&self, id: &str, reason: Option<&str>) -> Result<User, AdminError> {
        self.users.suspend(id, reason).await
    }

    /// Lets a user in again.
    pub async fn resume_user(&self, id: &str) -> Result<User, AdminError> {
        self.users.resume(id).await
    }

    /// Deletes a user and its keys.
    pub async fn delete_user(&self, id: &str) -> Result<(), AdminError> {
        self.users.delete(id).await
    }

    /// Has a user's keys rotated after its next sign-on.
    pub async fn require_rotation(&self, id: &str) -> Result<User, AdminError> {
        self.users.require_rotation(id).await
    }

    /// Confirms an enrolment that waits, by the six digits that the user reads out.
    pub async fn confirm_enrolment(&self, id: &str, digits: &str) -> Result<User, AdminError> {
        let number = digits.parse().ok().filter(|_| digits.len() == 6);
        let number =
            number.ok_or_else(|| AdminError::Invalid("expected the six digits that the terminal shows".into()))?;
        match self.enrolment.confirm_held(id, number).await {
            Ok(true) => self.user(id).await,
            Ok(false) => Err(AdminError::Invalid(format!(
                "the digits are not those of the terminal that waits; do not go on: somebody may have used the code. \
                 End it with `clavigerd user enrol-code {id}`"
            ))),
            Err(ChangeError::NotFound) => Err(AdminError::NotFound(format!("user {id}"))),
            Err(ChangeError::Refused(NotHeld)) => {
                Err(AdminError::Invalid(format!("no terminal of user {id} waits to be confirmed")))
            }
            Err(ChangeError::Conflict) => Err(AdminError::Conflict(format!("user {id}"))),
            Err(ChangeError::Store(error)) => Err(AdminError::Unavailable(error.to_string())),
        }
    }

    /// Makes an enrolment code; a former one that was not used ends.
    pub async fn enrolment_code(&self, id: &str, valid: Duration) -> Result<EnrolmentCode, AdminError> {
        let made = self.enrolment.new_code(id, valid).await;
        let (code, expires) = made.map_err(|error| users::refused(error, id))?;
        let (link, expires) = (self.links.with(&code), clock::rfc3339(expires));
        Ok(EnrolmentCode { user: id.to_owned(), code: code.expose(), link, expires })
    }

    /// Registers a service.
    pub async fn add_service(&self, service: Service) -> Result<Service, AdminError> {
        self.registry.add(service).await
    }

    /// The registered services.
    pub async fn services(&self) -> Result<Vec<Service>, AdminError> {
        self.registry.list().await
    }

    /// Removes a service.
    pub async fn remove_service(&self, id: &str) -> Result<(), AdminError> {
        self.registry.remove(id).await
    }

    /// The key ring, as it stands in the store now.
    pub async fn key_ring(&self) -> Result<KeyRing, AdminError> {
        self.keyring.reload().await.map_err(not_changed)?;
        Ok(self.keyring.view())
    }

    /// Adds a data key, and ends what `drop` opens (ids of key-encryption keys).
    /// The new one seals at once when no other daemon uses the store (`sole`).
    pub async fn rotate_data_key(&self, drop: &[String], sole: bool) -> Result<Rotated, AdminError> {
        let drop = drop.iter().map(|id| id.parse::<KekId>()).collect::<Result<Vec<_>, _>>();
        let settle = if sole { Duration::ZERO } else { SETTLE };
        let made = self.keyring.rotate(&drop.map_err(AdminError::Invalid)?, settle).await.map_err(not_changed)?;
        Ok(Rotated { data_key: made.to_string(), ring: self.keyring.view() })
    }

    /// One page of a pass that counts secrets by their data keys.
    pub async fn count_secrets(&self, after: Option<&str>) -> Result<SecretCount, AdminError> {
        self.rewrap.count(after).await.map_err(|error| AdminError::Unavailable(error.to_string()))
    }

    /// The next page of a pass that seals secrets anew: see [`Rewrap::go_on`].
    pub async fn rewrap(&self, sole: bool, limit: usize) -> Result<RewrapProgress, AdminError> {
        self.rewrap.go_on(sole, limit).await.map_err(not_changed)
    }
}

fn not_changed(error: KeyringError) -> AdminError {
    match error {
        KeyringError::Store(error) => AdminError::Unavailable(error.to_string()),
        KeyringError::Conflict => AdminError::Conflict("the key ring".into()),
        error => AdminError::Invalid(error.to_string()),
    }
}
