//! A realm as a daemon has it, with users, and the envelopes to measure it
//! with.

use std::{fs, path::Path, sync::Arc, time::Duration};

use claviger_daemon::{
    clock, config,
    management::{
        Management,
        enrolment::Answer,
        kek::Recipients,
        model::{NewUser, Service},
    },
    pki::{self, Earlier, Request, Subject},
    plugin_host::{HostServices, PluginHost},
    suites::Suites,
};
use claviger_plugin_api::UserStore;
use claviger_protocol::{
    KemId, Realm, Secret32, ServiceId,
    aws_lc::AwsLc,
    enrolment_code::EnrolmentCode,
    terminal::enrol::{self, Offered},
};
use claviger_tests::envelope::{self, ATTRIBUTES, SUITE, Terminal};

/// What is wrong with an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nobody has its user id.
    UnknownUser,
    /// It was sealed under another unique key.
    UniqueKey,
    /// The management authentication key in it is wrong in one bit.
    ManagementKey,
    /// It ends too early: refused before anything is looked up.
    Malformed,
}

/// A realm with its users, and what makes envelopes for it.
pub(crate) struct World {
    /// The registered service.
    pub(crate) service: ServiceId,
    realm: Realm,
    section: config::ManagementConfig,
    store: Arc<dyn UserStore>,
    suites: Suites,
    users: Vec<(String, Offered)>,
    /// Keeps the plugins' libraries and threads.
    _plugins: PluginHost,
}

impl World {
    /// Loads the plugins of a build, makes a realm in a directory, and enrols its users.
    pub(crate) async fn new(directory: &Path, plugins: &Path) -> Result<Self, String> {
        let config = configure(directory, plugins)?;
        let section = config.management.ok_or("no management role")?;
        let host =
            PluginHost::load(&config.plugins, HostServices::default()).await.map_err(|error| error.to_string())?;
        let suites = Suites::new(&section.suites, |id| host.suite(id)).map_err(|error| error.to_string())?;
        let store = host.user_store(&section.store).ok_or("the plugin has no user store")?;
        let (realm, service): (Realm, ServiceId) = (config.realm.parse()?, "shop.example".parse()?);
        let mut world = Self { service, realm, section, store, suites, users: Vec::new(), _plugins: host };
        let management = world.management().await?;
        let registered = Service {
            id: world.service.as_str().to_owned(),
            origins: Vec::new(),
            release: ATTRIBUTES.map(str::to_owned).to_vec(),
            allow_groups: Vec::new(),
            key_pin: None,
        };
        management.add_service(registered).await.map_err(|error| error.to_string())?;
        for number in 0..USERS {
            let id = user_id(number * 2);
            let offered = world.enrol(&management, &id).await?;
            world.users.push((id, offered));
        }
        Ok(world)
    }

    /// A management role on the realm's store. Must be called inside a tokio runtime.
    pub(crate) async fn management(&self) -> Result<Arc<Management>, String> {
        let (suites, store) = (self.suites.clone(), self.store.clone());
        let recipients = Recipients::open(&self.section.key_encryption_keys, self.realm.as_str(), |_| None).await;
        let (realm, clock) = (self.realm.clone(), clock::system());
        let started = Management::start(realm, &self.section, suites, store, None, recipients, clock);
        started.await.map_err(|error| error.to_string())
    }

    /// An envelope, new in everything that is random. `number` chooses the user.
    pub(crate) fn envelope(&self, fault: Fault, number: usize) -> Result<Vec<u8>, String> {
        let (id, offered) = &self.users[number % self.users.len()];
        let nobody = user_id(number % self.users.len() * 2 + 1);
        let mut unique = *offered.unique_key.expose();
        let mut management = *offered.management_key.expose();
        let mut user_id = id.as_str();
        match fault {
            Fault::UnknownUser => user_id = &nobody,
            Fault::UniqueKey => unique = envelope::random()?,
            Fault::ManagementKey => management[number % 32] ^= 1 << (number / 32 % 8),
            Fault::Malformed => {}
        }
        let terminal = Terminal {
            user_id,
            epoch: offered.details.epoch,
            unique_key: &Secret32::new(unique),
            management_key: &Secret32::new(management),
        };
        let mut envelope = envelope::login(&self.realm, &self.service, terminal, number as u64 + 1)?;
        if fault == Fault::Malformed {
            envelope.pop();
        }
        Ok(envelope)
    }

    /// Adds a user and enrols it, as its terminal and an administrator do.
    async fn enrol(&self, management: &Management, id: &str) -> Result<Offered, String> {
        let user = NewUser {
            id: id.to_owned(),
            name: Some(format!("The user {id}")),
            email: Some(format!("{id}@example.org")),
            groups: vec!["staff".into(), "sales".into()],
        };
        management.add_user(user).await.map_err(|error| error.to_string())?;
        let made = management.enrolment_code(id, DAY).await.map_err(|error| error.to_string())?;
        let code = EnrolmentCode::parse(&made.code).map_err(|error| error.to_string())?;
        let suite = AwsLc::suite(SUITE).ok_or("no suite")?;
        let (nonce, random) = (envelope::random()?, Secret32::new(envelope::random()?));
        let (e1, awaited) = enrol::start(suite, SUITE, &self.realm, &code, KemId::X25519, &nonce, &random)
            .map_err(|error| error.to_string())?;
        let e2 = exchange(management, &e1).await?;
        let (offered, done) = awaited.receive(suite, &e2).map_err(|error| error.to_string())?;
        let e4 = exchange(management, &offered.confirm).await?;
        done.receive(&e4).map_err(|error| error.to_string())?;
        Ok(offered)
    }
}

async fn exchange(management: &Management, message: &[u8]) -> Result<Vec<u8>, String> {
    match management.enrolment().handle(message).await {
        Ok(Answer::Message(answer)) => Ok(answer),
        Ok(Answer::Held) => Err("the enrolment is held".into()),
        Err(code) => Err(format!("enrolment: {code}")),
    }
}

/// Authority, keys and configuration, made and read as for any daemon.
fn configure(directory: &Path, plugins: &Path) -> Result<config::Config, String> {
    let failed = |error: &dyn std::fmt::Display| error.to_string();
    let (authority, now) = (directory.join("pki"), time::OffsetDateTime::now_utc());
    pki::authority::init(&authority, "example", now).map_err(|error| failed(&error))?;
    for subject in [Subject::Server("terminals".into()), Subject::Manager] {
        let request =
            Request { subject, dns: vec!["localhost".into()], ip: Vec::new(), days: 1, earlier: Earlier::Keep };
        pki::authority::issue(&authority, &request, now).map_err(|error| failed(&error))?;
    }
    pki::keys::init(&directory.join("kek.key")).map_err(|error| failed(&error))?;
    let plugins = fs::canonicalize(plugins).map_err(|error| format!("{}: {error}", plugins.display()))?;
    let text = format!(
        r#"roles = ["management"]
realm = "example"

[[plugin]]
name = "cipher-aws-lc"
path = "{plugins}/libclaviger_cipher_aws_lc.so"

[[plugin]]
name = "store-sqlite"
path = "{plugins}/libclaviger_store_sqlite.so"
[plugin.config]
path = "{directory}/users.db"
synchronous = "normal"

[management]
store = "store-sqlite"
key_encryption_keys = ["kek.key"]
[management.terminals]
listen = "127.0.0.1:8443"
certificate = "pki/terminals.pem"
private_key = "pki/terminals.key"
[management.services]
listen = "127.0.0.1:8444"
certificate = "pki/manager.pem"
private_key = "pki/manager.key"
client_ca = "pki/ca.pem"
[management.limits]
per_service_per_second = 1000000
"#,
        plugins = plugins.display(),
        directory = directory.display(),
    );
    let file = directory.join("clavigerd.toml");
    fs::write(&file, text).map_err(|error| failed(&error))?;
    config::load_with(&file, []).map_err(|error| error.render(false))
}

/// Known users have even numbers, unknown ones the odd numbers between them:
/// all ids are of one length, and lie among each other in the store.
fn user_id(number: usize) -> String {
    format!("user-{number:04}")
}

/// Enrolled users.
const USERS: usize = 64;
const DAY: Duration = Duration::from_secs(86_400);
