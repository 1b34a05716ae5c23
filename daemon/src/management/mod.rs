//! The management role: users, their keys, and the answers to services.
//!
//! - [`reply_processor`]: what services ask for; the hot path.
//! - [`enrolment`]: codes, and the exchange that makes a credential of one.
//! - [`users`], [`registry`]: what administrators handle; [`model`] is how they see it.
//! - [`record`], [`repository`], [`batch`]: what lies in the user store, and how it gets there.
//! - [`sealing`], [`subject`]: secrets at rest, names for services.
//! - [`http`]: the listeners' handlers.

pub mod batch;
pub mod enrolment;
pub mod http;
pub mod model;
pub mod record;
pub mod registry;
pub mod reply_processor;
pub mod repository;
pub mod sealing;
pub mod subject;
pub mod users;

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use claviger_plugin_api::{PluginError, UserStore};
use claviger_protocol::{KemId, Realm, Secret32, ServiceId, SuiteError, SuiteId};

use self::{
    enrolment::Enrolment,
    model::{AdminError, EnrolmentCode, NewUser, Service, User, UserPage},
    registry::ServiceRegistry,
    reply_processor::{Parts, ReplyProcessor},
    repository::Repository,
    sealing::{KekError, KeyEncryptionKey},
    subject::{SubjectKeyError, Subjects},
    users::Users,
};
use crate::{
    clock::{self, Clock},
    config::types::ManagementConfig,
    net::{Peer, tls::public_key_sha256},
    suites::Suites,
};

/// The management role of one daemon.
pub struct Management {
    realm: Realm,
    reply_processor: ReplyProcessor,
    enrolment: Enrolment,
    users: Users,
    registry: Arc<ServiceRegistry>,
    repository: Repository,
}

/// Why the management role cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The key-encryption key.
    #[error(transparent)]
    Kek(#[from] KekError),
    /// The store does not answer.
    #[error("the user store does not answer: {0}")]
    Store(#[from] PluginError),
    /// The realm's subject key.
    #[error(transparent)]
    SubjectKey(#[from] SubjectKeyError),
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
        clock: Clock,
    ) -> Result<Arc<Self>, StartError> {
        let kek = Arc::new(KeyEncryptionKey::read(&config.key_encryption_key)?);
        let kem = |number: u8| {
            KemId::from_wire(number).ok_or_else(|| StartError::Configuration(format!("{number} is not a KEM")))
        };
        let kems = config.kems.iter().map(|number| kem(*number)).collect::<Result<Vec<_>, _>>()?;
        let subjects = Subjects::load(&*store, &kek, realm.as_str()).await?;
        let repository = Repository::new(store);
        let registry = Arc::new(ServiceRegistry::load(repository.clone()).await?);
        let per_service_per_second = NonZeroU32::new(config.limits.per_service_per_second).unwrap_or(NonZeroU32::MIN);
        let enrolment = Enrolment {
            realm: realm.clone(),
            suites: suites.clone(),
            kems: kems.clone(),
            repository: repository.clone(),
            kek: kek.clone(),
            clock: clock.clone(),
            suite_floor: SuiteId(config.enrolment_suite_floor),
            kem_floor: kem(config.enrolment_kem_floor)?,
            dummy_psk: Secret32::new(suites.random_array()?),
        };
        let reply_processor = ReplyProcessor::new(Parts {
            realm: realm.clone(),
            suites,
            kems,
            repository: repository.clone(),
            registry: registry.clone(),
            kek,
            subjects,
            clock: clock.clone(),
            clock_window: config.clock_window,
            max_session: config.max_session,
            per_service_per_second,
        })?;
        let users = Users { repository: repository.clone(), clock };
        Ok(Arc::new(Self { realm, reply_processor, enrolment, users, registry, repository }))
    }

    /// The realm.
    pub fn realm(&self) -> &Realm {
        &self.realm
    }

    /// What services ask.
    pub fn reply_processor(&self) -> &ReplyProcessor {
        &self.reply_processor
    }

    /// What terminals ask that have no credential yet.
    pub fn enrolment(&self) -> &Enrolment {
        &self.enrolment
    }

    /// Whether the store answers, and the registry as it stands there.
    pub async fn refresh(&self) -> Result<(), PluginError> {
        self.repository.store().health().await?;
        self.registry.refresh().await
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

    /// Makes an enrolment code; a former one that was not used ends.
    pub async fn enrolment_code(&self, id: &str, valid: Duration) -> Result<EnrolmentCode, AdminError> {
        let made = self.enrolment.new_code(id, valid).await;
        let (code, expires) = made.map_err(|error| users::refused(error, id))?;
        Ok(EnrolmentCode { user: id.to_owned(), code: code.expose(), expires: clock::rfc3339(expires) })
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
}
