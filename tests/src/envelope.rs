//! Envelopes as a terminal makes them, without a terminal's files.

use std::time::SystemTime;

use aws_lc_rs::rand;
use claviger_daemon::clock;
use claviger_protocol::{
    KemId, Realm, Secret32, ServiceId, SuiteId,
    aws_lc::AwsLc,
    message::{Binding, Scope, Uid},
    terminal::login::{self, Login, LoginRandom, Sender},
};

/// The suite of every envelope made here.
pub const SUITE: SuiteId = SuiteId::AES_256_GCM_SHA256;
/// What is consented to, and what the service is to be registered for.
pub const ATTRIBUTES: [&str; 2] = ["user", "groups"];

/// A user as its terminal knows it.
#[derive(Debug, Clone, Copy)]
pub struct Terminal<'a> {
    /// The plain user id; the header shows it.
    pub user_id: &'a str,
    /// Epoch of the keys.
    pub epoch: u32,
    /// The unique key.
    pub unique_key: &'a Secret32,
    /// The management authentication key.
    pub management_key: &'a Secret32,
}

/// A sign-on's envelope of this moment, new in everything that is random.
///
/// # Errors
/// When a name is too long for the protocol, or the cipher library fails.
pub fn login(realm: &Realm, service: &ServiceId, terminal: Terminal<'_>, counter: u64) -> Result<Vec<u8>, String> {
    let sender = Sender {
        realm,
        user_id: terminal.user_id.as_bytes(),
        uid: Uid::UserId(terminal.user_id.as_bytes()),
        epoch: terminal.epoch,
        unique_key: terminal.unique_key,
        management_key: terminal.management_key,
        suite: SUITE,
        kem: KemId::X25519,
        counter,
        time_ms: clock::millis(SystemTime::now()),
    };
    let scope = Scope::new(ATTRIBUTES).map_err(|error| error.to_string())?;
    let login = Login { sender, service, binding: Binding::None, scope };
    let random =
        LoginRandom { nonce: random()?, session_password: Secret32::new(random()?), kem: Secret32::new(random()?) };
    let suite = AwsLc::suite(SUITE).ok_or("no suite")?;
    let (envelope, _) = login::start(suite, login, random).map_err(|error| error.to_string())?;
    Ok(envelope)
}

/// Random bytes.
///
/// # Errors
/// When the cipher library has none.
pub fn random<const N: usize>() -> Result<[u8; N], String> {
    let mut out = [0; N];
    rand::fill(&mut out).map_err(|_| "no random numbers")?;
    Ok(out)
}
