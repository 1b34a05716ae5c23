//! Challenges that bind an envelope to this service (protocol, section 5, "S" step 5).

use std::{sync::Arc, time::Duration};

use claviger_plugin_api::StateStore;
use data_encoding::BASE64URL_NOPAD;
use tracing::debug;

use crate::suites::Suites;

/// Gives challenges out and takes them back, each once.
pub(super) struct Challenges {
    state: Arc<dyn StateStore>,
    suites: Suites,
}

/// The state store, or the random generator, is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Away;

impl Challenges {
    pub(super) fn new(state: Arc<dyn StateStore>, suites: Suites) -> Self {
        Self { state, suites }
    }

    /// 32 random bytes that are good for one sign-on within 60 s.
    pub(super) async fn give(&self) -> Result<[u8; 32], Away> {
        let challenge: [u8; 32] = self.suites.random_array().map_err(|_| Away)?;
        match self.state.put_new(&key(&challenge), b"", LIFETIME).await {
            Ok(true) => Ok(challenge),
            // 256 random bits do not repeat: the generator is broken.
            Ok(false) => Err(Away),
            Err(error) => {
                debug!(%error, "no challenge: state store");
                Err(Away)
            }
        }
    }

    /// Whether this (attacker-controlled) challenge was given out and not
    /// taken back yet. Of many calls at once one gets `true`.
    pub(super) async fn spend(&self, challenge: &[u8; 32]) -> Result<bool, Away> {
        let taken = self.state.take(&key(challenge)).await.map_err(|error| {
            debug!(%error, "challenge not checked: state store");
            Away
        })?;
        Ok(taken.is_some())
    }
}

fn key(challenge: &[u8; 32]) -> String {
    format!("challenge/{}", BASE64URL_NOPAD.encode(challenge))
}

const LIFETIME: Duration = Duration::from_secs(60);
