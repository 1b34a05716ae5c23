//! Which checks there are, and how each is made.

use std::sync::Arc;

use claviger_plugin_api::{CipherError, CipherSuite, SuiteInfo, testkit};
use claviger_protocol::{
    Suite, SuiteId,
    aws_lc::AwsLc,
    vectors::{self, Outcome},
};
use metrics::{counter, histogram};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{LOAD, instances::Instances};
use crate::{
    plugin_host::{PluginHost, PluginStatus},
    suites::PluginSuite,
};

/// The components that a plugin delivered, as the check [`LOAD`] saw them.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Delivered {
    pub(super) suites: Vec<String>,
    pub(super) user_store: bool,
    pub(super) state_store: bool,
    pub(super) issuer: bool,
    pub(super) custody: bool,
}

impl Delivered {
    fn of(host: &PluginHost, status: &PluginStatus) -> Self {
        Self {
            suites: status.suites.iter().map(|suite| suite.id.clone()).collect(),
            user_store: host.user_store(&status.name).is_some(),
            state_store: host.state_store(&status.name).is_some(),
            issuer: host.issuer(&status.name).is_some(),
            custody: host.custody(&status.name).is_some(),
        }
    }

    /// The names of all checks of these components. The first part says which component.
    pub(super) fn checks(&self) -> Vec<String> {
        let mut names = Vec::new();
        for suite in &self.suites {
            names.extend(testkit::cipher_checks().iter().map(|(name, _)| format!("{suite}.{name}")));
            if number(suite).is_some_and(|id| AwsLc::suite(SuiteId(id)).is_some()) {
                names.push(format!("{suite}.{VECTORS}"));
            }
        }
        if self.user_store {
            names.extend(testkit::user_store_checks().iter().map(|check| format!("user_store.{}", check.name())));
            names.push(RESTART.to_owned());
        }
        if self.state_store {
            names.extend(testkit::state_store_checks().iter().map(|check| format!("state_store.{}", check.name())));
        }
        if self.issuer {
            names.extend(testkit::issuer_checks().iter().map(|check| format!("issuer.{}", check.name())));
        }
        if self.custody {
            names.extend(testkit::custody_checks().iter().map(|check| format!("custody.{}", check.name())));
        }
        names
    }
}

/// Makes a check.
///
/// # Panics
/// Where it does not hold.
pub(super) async fn run(name: &str, instances: &Instances<'_>) -> Delivered {
    let (component, check) = name.split_once('.').unwrap_or((name, ""));
    match component {
        LOAD => {
            let (host, status) = instances.whole().await;
            for health in host.health().await {
                assert_eq!(health.problem, None, "the health of its {}", health.component);
            }
            return Delivered::of(&host, &status);
        }
        _ if name == RESTART => {
            let open = instances.one_user_store();
            testkit::restart(|| open()).await;
        }
        "user_store" => {
            find(testkit::user_store_checks(), |c| c.name() == check).run(&|| instances.user_store()).await;
        }
        "state_store" => {
            find(testkit::state_store_checks(), |c| c.name() == check).run(&|| instances.state_store()).await;
        }
        "issuer" => find(testkit::issuer_checks(), |c| c.name() == check).run(&|| instances.issuer()).await,
        "custody" => find(testkit::custody_checks(), |c| c.name() == check).run(&|| instances.custody()).await,
        id => {
            let id = number(id).unwrap_or_else(|| panic!("there is no check {name}"));
            let suite = Timed { suite: instances.suite(id) };
            if check == VECTORS {
                protocol_vectors(SuiteId(id), Arc::new(suite));
            } else {
                (find(testkit::cipher_checks(), |(name, _)| *name == check).1)(&suite);
            }
        }
    }
    Delivered::default()
}

fn find<T>(checks: Vec<T>, is_it: impl Fn(&T) -> bool) -> T {
    checks.into_iter().find(is_it).unwrap_or_else(|| panic!("there is no such check"))
}

/// From `0x0001`.
fn number(suite: &str) -> Option<u16> {
    u16::from_str_radix(suite.strip_prefix("0x")?, 16).ok()
}

/// Whole runs of the protocol on fixed keys and randomness, each value beside
/// that of the protocol's own library.
fn protocol_vectors(id: SuiteId, suite: Arc<dyn CipherSuite>) {
    let made = vectors::generate(|id| AwsLc::suite(id).map(|suite| suite as &dyn Suite));
    let made = made.unwrap_or_else(|error| panic!("no vectors: {error}"));
    let suite = PluginSuite::new(suite);
    for vector in made.vectors.iter().filter(|vector| vector.suite.parse() == Ok(id)) {
        let outcome = vectors::check(vector, |_| Some(&suite as &dyn Suite));
        assert!(matches!(outcome, Outcome::Reproduced(_)), "{}: {outcome}", vector.name);
    }
}

/// A suite whose calls are measured.
struct Timed {
    suite: Box<dyn CipherSuite>,
}

impl Timed {
    fn time(
        &self,
        call: &'static str,
        run: impl FnOnce(&dyn CipherSuite) -> Result<(), CipherError>,
    ) -> Result<(), CipherError> {
        let start = Instant::now();
        let result = run(&*self.suite);
        histogram!("plugin_call_seconds", "call" => call).record(start.elapsed());
        if result == Err(CipherError::Panicked) {
            counter!("plugin_calls_total", "call" => call, "outcome" => "panicked").increment(1);
        }
        result
    }
}

impl CipherSuite for Timed {
    fn info(&self) -> SuiteInfo {
        self.suite.info()
    }

    fn hash(&self, data: &[u8], out: &mut [u8]) -> Result<(), CipherError> {
        self.time("cipher.hash", |suite| suite.hash(data, out))
    }

    fn mac(&self, key: &[u8], data: &[u8], out: &mut [u8]) -> Result<(), CipherError> {
        self.time("cipher.mac", |suite| suite.mac(key, data, out))
    }

    fn seal(&self, key: &[u8], nonce: &[u8], aad: &[u8], plaintext: &[u8], out: &mut [u8]) -> Result<(), CipherError> {
        self.time("cipher.seal", |suite| suite.seal(key, nonce, aad, plaintext, out))
    }

    fn open(&self, key: &[u8], nonce: &[u8], aad: &[u8], ciphertext: &[u8], out: &mut [u8]) -> Result<(), CipherError> {
        self.time("cipher.open", |suite| suite.open(key, nonce, aad, ciphertext, out))
    }

    fn random(&self, out: &mut [u8]) -> Result<(), CipherError> {
        self.time("cipher.random", |suite| suite.random(out))
    }
}

const RESTART: &str = "user_store.durability.all_that_was_answered_is_there_after_a_restart";
const VECTORS: &str = "cipher.the_protocol_gives_the_values_of_another_library";
