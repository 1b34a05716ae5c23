//! A realm's users, as many as are wanted, without a table of them: their ids
//! and keys follow from their numbers.

use std::{path::Path, time::Instant};

use aws_lc_rs::hmac;
use claviger_daemon::{
    clock, config,
    management::{
        kek::Recipients,
        keyring::Keyring,
        record::{CredentialRecord, Keys, SealedKeys, Stored, UniqueKey, UserRecord, credential_key, user_key},
        repository::Repository,
    },
    plugin_host::{HostServices, PluginHost},
};
use claviger_plugin_api::{PluginError, Put, Written};
use claviger_protocol::{Realm, Secret32, ServiceId};
use claviger_testkit::{REALM, SERVICE};
use claviger_tests::envelope::{self, SUITE, Terminal};
use futures_util::{StreamExt, TryStreamExt, stream};

use crate::go_on;

/// Users number 0 to `count - 1`, each enrolled with one terminal.
pub(crate) struct Population {
    count: u32,
    secret: hmac::Key,
    realm: Realm,
    service: ServiceId,
}

impl Population {
    pub(crate) fn new(count: u32) -> Result<Self, String> {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, &envelope::random::<32>()?);
        Ok(Self { count, secret, realm: REALM.parse()?, service: SERVICE.parse()? })
    }

    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// A sign-on's envelope of a user.
    pub(crate) fn envelope(&self, user: u32, counter: u64) -> Result<Vec<u8>, String> {
        let terminal = Terminal {
            user_id: &user_id(user),
            epoch: EPOCH,
            unique_key: &self.key("unique", user),
            management_key: &self.key("management", user),
        };
        envelope::login(&self.realm, &self.service, terminal, counter)
    }

    /// Puts all users into the store of a daemon's configuration, which must
    /// not run and must have run once.
    pub(crate) async fn seed(&self, configuration: &Path) -> Result<(), String> {
        let config = config::load_with(configuration, []).map_err(|error| error.render(false))?;
        let section = config.management.ok_or("no management role")?;
        let mut plugins = config.plugins;
        plugins.retain(|plugin| plugin.name == section.store);
        for plugin in &mut plugins {
            plugin.max_in_flight = IN_FLIGHT;
        }
        let host = PluginHost::load(&plugins, HostServices::default()).await.map_err(|error| error.to_string())?;
        let store = host.user_store(&section.store).ok_or("the plugin has no user store")?;
        let recipients = Recipients::open(&section.key_encryption_keys, self.realm.as_str(), |_| None).await;
        let keyring = Keyring::load(Repository::new(store.clone()), self.realm.as_str(), recipients, clock::system());
        let keyring = keyring.await.map_err(|error| error.to_string())?;
        let (started, now_ms) = (Instant::now(), clock::millis((clock::system())()));
        let users = stream::iter(0..self.count).map(|number| {
            let (store, puts) = (store.clone(), self.records(number, &keyring, now_ms));
            async move {
                for put in puts? {
                    let key = put.key.clone();
                    match store.put(put).await {
                        Ok(Written::Done(_)) => {}
                        Ok(Written::Conflict(_)) => return Err(format!("{key} is there already")),
                        Err(error) => return Err(failed(&error)),
                    }
                }
                Ok(number)
            }
        });
        let mut users = users.buffer_unordered(IN_FLIGHT);
        let mut done = 0_u32;
        while users.try_next().await?.is_some() {
            done += 1;
            // Nobody seals for long without having read the ring.
            if done.is_multiple_of(50_000) {
                keyring.reload().await.map_err(|error| error.to_string())?;
            }
            go_on()?;
            if done.is_multiple_of(100_000) {
                eprintln!("  {done} of {} users, {:.0} s", self.count, started.elapsed().as_secs_f64());
            }
        }
        Ok(())
    }

    /// What an enrolled user has in the store, as enrolment makes it.
    fn records(&self, number: u32, keyring: &Keyring, now_ms: u64) -> Result<[Put; 2], String> {
        let id = user_id(number);
        let mut credential_id = [0; 16];
        credential_id.copy_from_slice(&self.derive("credential", number).as_ref()[..16]);
        let credential = CredentialRecord {
            id: credential_id,
            epoch: EPOCH,
            hash_len: 32,
            suite_floor: SUITE.0,
            kem_floor: 0,
            keys: self.seal(number, keyring)?,
            enrolled_ms: now_ms,
            cloned: false,
            keys_made_ms: now_ms,
            rotate_required: false,
            pending: None,
        };
        let index = credential_key(&credential.number());
        let user = UserRecord {
            name: Some(format!("The user {id}")),
            email: Some(format!("{id}@example.org")),
            groups: vec!["staff".into(), "sales".into()],
            suspended: None,
            created_ms: now_ms,
            credential: Some(credential),
            enrolment: None,
            id,
        };
        let put = |key, value, terms| Put { key, expected: 0, value, terms };
        Ok([put(user_key(&user.id), user.to_bytes(), user.terms()), put(index, user.id.into_bytes(), Vec::new())])
    }

    /// A user's keys, sealed as the daemon seals them.
    fn seal(&self, number: u32, keyring: &Keyring) -> Result<SealedKeys, String> {
        let keys =
            Keys { unique: UniqueKey::Held(self.key("unique", number)), management: self.key("management", number) };
        keys.seal(keyring, self.realm.as_str(), &user_id(number), EPOCH).map_err(|error| error.to_string())
    }

    fn key(&self, label: &str, number: u32) -> Secret32 {
        let mut key = [0; 32];
        key.copy_from_slice(self.derive(label, number).as_ref());
        Secret32::new(key)
    }

    fn derive(&self, label: &str, number: u32) -> hmac::Tag {
        hmac::sign(&self.secret, format!("{label} {number}").as_bytes())
    }
}

fn failed(error: &PluginError) -> String {
    format!("the store, while it was filled: {error}")
}

fn user_id(number: u32) -> String {
    format!("user-{number:07}")
}

/// The first one, that of an enrolment.
const EPOCH: u32 = 1;
/// Writes under way at once: they share commits.
const IN_FLIGHT: usize = 1024;
