//! Names, keys and randomness that the targets share.

use claviger_protocol::{KemId, Realm, Secret32, ServiceId, Suite, SuiteId, aws_lc::AwsLc, schedule};

/// A moment, in milliseconds since 1970.
pub const NOW: u64 = 1_760_000_000_000;
/// How far a terminal's clock may be off, in milliseconds.
pub const WINDOW: u64 = 120_000;
/// The user of the targets with one party.
pub const USER: &str = "alice";
/// The epoch of its keys.
pub const EPOCH: u32 = 3;

/// The realm.
pub fn realm() -> Realm {
    "example".parse().unwrap()
}

/// The services.
pub fn services() -> [ServiceId; 2] {
    ["shop.example", "wiki.example"].map(|id| id.parse().unwrap())
}

/// The suite of that number.
pub fn suite(id: SuiteId) -> &'static dyn Suite {
    AwsLc::suite(id).unwrap()
}

/// Every suite.
pub const SUITES: [SuiteId; 5] = SuiteId::ALL;
/// Every KEM.
pub const KEMS: [KemId; 3] = KemId::ALL;

/// The user's unique key.
pub fn unique_key() -> Secret32 {
    Secret32::new([0x11; 32])
}

/// The user's management authentication key.
pub fn management_key() -> Secret32 {
    Secret32::new([0xa0; 32])
}

/// Random bytes that are the same in each run.
#[derive(Debug, Default)]
pub struct Random(u64);

impl Random {
    /// 32 bytes that were not given before.
    pub fn bytes(&mut self) -> [u8; 32] {
        self.0 += 1;
        let digest = schedule::hash(suite(SuiteId::AES_256_GCM_SHA256), &self.0.to_be_bytes()).unwrap();
        digest.as_slice().try_into().unwrap()
    }

    /// The same as a secret.
    pub fn secret(&mut self) -> Secret32 {
        Secret32::new(self.bytes())
    }
}
