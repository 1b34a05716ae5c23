//! What a terminal knows: whom it belongs to, its keys, its services.

use std::fmt;

use claviger_protocol::{KemId, Realm, Secret32, SuiteId};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

pub use crate::service::Service;
use crate::{client::Trust, core::realm::RealmInfo, encoding, error::Result, origin::Origin, service};

/// One credential: the terminal's half of what it shares with the management
/// server. `Debug` shows no secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// Format of the file; 1.
    version: u32,
    /// Names this enrolment, in the files beside the credential: 32 hexadecimal digits, no secret.
    pub id: String,
    /// The management server.
    #[serde(with = "encoding::text")]
    pub server: Origin,
    /// The realm.
    #[serde(with = "encoding::text")]
    pub realm: Realm,
    /// The user id as the management server gave it, 1 to 128 bytes.
    #[serde(with = "encoding::bytes")]
    pub user_id: Zeroizing<Vec<u8>>,
    /// Epoch of the keys, at least 1.
    pub epoch: u32,
    /// `K_u`, the unique key.
    #[serde(with = "encoding::secret")]
    pub unique_key: Secret32,
    /// `A_u`, the management authentication key.
    #[serde(with = "encoding::secret")]
    pub management_key: Secret32,
    /// Keys of the next epoch, until their first successful use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) next: Option<NextEpoch>,
    /// The suite that envelopes use.
    #[serde(with = "encoding::text")]
    pub suite: SuiteId,
    /// The key agreement that envelopes use; a rotation may use a stronger one.
    #[serde(with = "encoding::kem")]
    pub kem: KemId,
    /// The least suite that the management server accepts.
    #[serde(with = "encoding::text")]
    pub suite_floor: SuiteId,
    /// The least key agreement that the management server accepts.
    #[serde(with = "encoding::kem")]
    pub kem_floor: KemId,
    /// The strongest key agreement that the realm has offered.
    #[serde(default = "offered_by_default", with = "encoding::kem")]
    pub(crate) kem_offered: KemId,
    /// Where the realm's user ids are private: the HPKE key they are sealed to.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "encoding::optional_array")]
    pub(crate) user_id_key: Option<[u8; 32]>,
    /// The name under which the management server knows the user next time.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "encoding::optional_array")]
    pub(crate) handle: Option<[u8; 16]>,
    /// The management server's clock minus this machine's, in milliseconds,
    /// from sealed messages only.
    pub clock_offset_ms: i64,
    /// Certificates (PEM) to trust for every server, instead of the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// SHA-256 of the management server's SubjectPublicKeyInfo: its certificate
    /// is accepted by that alone.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "encoding::optional_array")]
    pub spki: Option<[u8; 32]>,
    /// The services this terminal may sign on to: the one source of service ids.
    #[serde(default)]
    pub services: Vec<Service>,
    /// Counters below this may have been used.
    pub(crate) counter_reserved: u64,
    /// The confirmation that is still to come from the management server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pending: Option<Pending>,
}

/// What a new [`Credential`] is made of.
#[derive(Debug)]
pub(crate) struct NewCredential {
    pub(crate) id: String,
    pub(crate) server: Origin,
    pub(crate) realm: Realm,
    pub(crate) user_id: Vec<u8>,
    pub(crate) epoch: u32,
    pub(crate) unique_key: Secret32,
    pub(crate) management_key: Secret32,
    pub(crate) suite: SuiteId,
    pub(crate) kem: KemId,
    pub(crate) suite_floor: SuiteId,
    pub(crate) kem_floor: KemId,
    pub(crate) clock_offset_ms: i64,
    pub(crate) ca: Option<String>,
    pub(crate) spki: Option<[u8; 32]>,
    pub(crate) info: RealmInfo,
    pub(crate) pending: Pending,
}

impl Credential {
    pub(crate) fn new(new: NewCredential) -> Self {
        let mut credential = Self {
            version: VERSION,
            id: new.id,
            server: new.server,
            realm: new.realm,
            user_id: Zeroizing::new(new.user_id),
            epoch: new.epoch,
            unique_key: new.unique_key,
            management_key: new.management_key,
            next: None,
            suite: new.suite,
            kem: new.kem,
            suite_floor: new.suite_floor,
            kem_floor: new.kem_floor,
            kem_offered: offered_by_default(),
            user_id_key: None,
            handle: None,
            clock_offset_ms: new.clock_offset_ms,
            ca: new.ca,
            spki: new.spki,
            services: Vec::new(),
            counter_reserved: 1,
            pending: Some(new.pending),
        };
        credential.offered(&new.info);
        credential
    }

    /// Decodes a file's content; the error is a reason without secrets.
    pub(crate) fn decode(bytes: &[u8]) -> std::result::Result<Self, String> {
        let credential: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if credential.version != VERSION {
            return Err(format!("it has version {}, expected {VERSION}", credential.version));
        }
        if !(1..=128).contains(&credential.user_id.len()) || credential.epoch == 0 {
            return Err("the user id or the epoch is not valid".into());
        }
        if credential.next.as_ref().is_some_and(|next| credential.epoch.checked_add(1) != Some(next.epoch)) {
            return Err("the pending epoch is not the one after the current".into());
        }
        Ok(credential)
    }

    /// The file's content, in a buffer that is wiped when dropped.
    pub(crate) fn encode(&self) -> std::result::Result<Zeroizing<Vec<u8>>, String> {
        // Large enough not to grow, which would leave copies behind.
        let certificates: usize =
            self.ca.iter().chain(self.services.iter().filter_map(|s| s.ca.as_ref())).map(|pem| 2 * pem.len()).sum();
        let mut out = Zeroizing::new(Vec::with_capacity(4096 + certificates + 1024 * self.services.len()));
        serde_json::to_writer_pretty(&mut *out, self).map_err(|error| error.to_string())?;
        out.push(b'\n');
        Ok(out)
    }

    /// The user id for people; bytes that are no text are shown as `\x..`.
    pub fn user(&self) -> String {
        match std::str::from_utf8(&self.user_id) {
            Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
            _ => self.user_id.escape_ascii().to_string(),
        }
    }

    /// Whether the management server has not confirmed the enrolment yet.
    pub fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// The epoch of keys that wait for their first successful use.
    pub fn pending_epoch(&self) -> Option<u32> {
        self.next.as_ref().map(|next| next.epoch)
    }

    /// How the user is named to services that pass envelopes on.
    pub fn naming(&self) -> Naming {
        match (&self.handle, &self.user_id_key) {
            (Some(_), _) => Naming::Handle,
            (None, Some(_)) => Naming::Sealed,
            (None, None) => Naming::Plain,
        }
    }

    /// The six digits to compare with those the administrator sees, while an
    /// enrolment is pending. No secret.
    pub fn comparison(&self) -> Option<String> {
        self.pending.as_ref().and_then(|pending| pending.comparison).map(|number| format!("{number:06}"))
    }

    /// The service that `target` names: an origin (`https://…`), or a service
    /// id, of which the first origin is taken.
    pub fn service(&self, target: &str) -> Result<&Service> {
        service::find(&self.services, target)
    }

    /// Adds an origin to the table. An origin belongs to one service only; a
    /// row of the directory gives way.
    pub fn add_service(&mut self, service: Service) -> Result<()> {
        service::add(&mut self.services, service)
    }

    /// Takes an origin out of the table.
    pub fn remove_service(&mut self, origin: &Origin) -> Result<Service> {
        service::remove(&mut self.services, origin)
    }

    /// Whose word the management server's certificate is taken on.
    pub fn server_trust(&self) -> Trust {
        self.spki.map_or_else(|| Trust::of(self.ca.as_deref()), Trust::Pin)
    }

    /// The key agreement of a rotation: the strongest that the realm has ever
    /// offered, and never none.
    pub(crate) fn rotation_kem(&self) -> KemId {
        self.kem_offered.max(self.kem).max(self.kem_floor).max(KemId::X25519)
    }

    /// Takes up what the realm says of itself. Nobody sealed that: it raises
    /// the key agreement of rotations and never lowers it.
    pub(crate) fn offered(&mut self, info: &RealmInfo) {
        self.kem_offered = info.kems.iter().copied().fold(self.kem_offered, KemId::max);
        self.user_id_key = info.user_id_key;
        if self.user_id_key.is_none() {
            self.handle = None;
        }
    }

    /// Makes the pending epoch with this unique key the current one; the keys
    /// before it are gone. Nothing happens when there are others by now.
    pub(crate) fn promote(&mut self, unique_key: &Secret32) {
        if let Some(next) = self.next.take_if(|next| next.unique_key.ct_eq(unique_key.expose())) {
            self.epoch = next.epoch;
            self.unique_key = next.unique_key;
            self.management_key = next.management_key;
        }
    }
}

/// Keys of the next epoch. `Debug` shows no secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NextEpoch {
    pub(crate) epoch: u32,
    #[serde(with = "encoding::secret")]
    pub(crate) unique_key: Secret32,
    #[serde(with = "encoding::secret")]
    pub(crate) management_key: Secret32,
}

/// What an envelope says of its sender to those who cannot open it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// The plain user id.
    Plain,
    /// The user id, sealed to the management server.
    Sealed,
    /// A handle that changes with each sign-on.
    Handle,
}

impl Naming {
    /// `plain`, `sealed` or `handle`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Sealed => "sealed",
            Self::Handle => "handle",
        }
    }
}

/// An enrolment whose E4 has not come. `Debug` shows no secret.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pending {
    /// E3, to be sent again.
    #[serde(with = "encoding::bytes")]
    pub(crate) confirm: Zeroizing<Vec<u8>>,
    /// What E4 must prove.
    #[serde(with = "encoding::secret")]
    pub(crate) expected: Secret32,
    /// Below 1,000,000; for people to compare.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) comparison: Option<u32>,
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pending(redacted)")
    }
}

const VERSION: u32 = 1;

/// What every realm offers.
fn offered_by_default() -> KemId {
    KemId::X25519
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sample() -> Credential {
        Credential::new(NewCredential {
            id: "00112233445566778899aabbccddeeff".into(),
            server: "https://manager.example".parse().unwrap(),
            realm: "example".parse().unwrap(),
            user_id: b"alice".to_vec(),
            epoch: 1,
            unique_key: Secret32::new([0xAB; 32]),
            management_key: Secret32::new([0xCD; 32]),
            suite: SuiteId::AES_256_GCM_SHA256,
            kem: KemId::X25519,
            suite_floor: SuiteId::AES_256_GCM_SHA256,
            kem_floor: KemId::None,
            clock_offset_ms: -5,
            ca: None,
            spki: None,
            info: RealmInfo { suites: Vec::new(), kems: Vec::new(), user_id_key: None },
            pending: Pending {
                confirm: Zeroizing::new(vec![0xEF; 45]),
                expected: Secret32::new([0xEE; 32]),
                comparison: Some(42),
            },
        })
    }

    #[test]
    fn the_file_round_trips_and_debug_shows_no_key() {
        let mut credential = sample();
        let shop = Service::new("shop".parse().unwrap(), "https://shop.example".parse().unwrap());
        credential.add_service(Service { bind: service::Bind::TlsExporter, ..shop }).unwrap();
        credential.handle = Some([7; 16]);
        let (unique_key, management_key) = (Secret32::new([0xDC; 32]), Secret32::new([0xBA; 32]));
        credential.next = Some(NextEpoch { epoch: 2, unique_key, management_key });
        let bytes = credential.encode().unwrap();
        let again = Credential::decode(&bytes).unwrap();
        assert_eq!(again.unique_key.expose(), &[0xAB; 32]);
        assert_eq!(again.management_key.expose(), &[0xCD; 32]);
        assert_eq!(again.encode().unwrap(), bytes);
        assert_eq!((again.pending_epoch(), again.naming()), (Some(2), Naming::Handle));
        assert_eq!(again.comparison().unwrap(), "000042");
        let debug = format!("{again:?}");
        for secret in ["171, 171", "205, 205", "239, 239", "238, 238", "220, 220", "186, 186", "q6ur", "zc3N"] {
            assert!(!debug.contains(secret), "{debug}");
        }
    }

    #[test]
    fn files_that_were_not_written_here_are_refused() {
        let text = String::from_utf8(sample().encode().unwrap().to_vec()).unwrap();
        for (from, to) in [
            ("\"version\": 1", "\"version\": 2"),
            ("\"epoch\": 1", "\"epoch\": 0"),
            ("\"example\"", "\"Ex ample\""),
            ("\"kem\": 1", "\"kem\": 9"),
            ("\"kem\": 1", "\"kem\": 1, \"extra\": 0"),
            ("https://manager", "http://manager"),
            ("q6ur", "q6u"),
            ("q6ur", "????"),
        ] {
            assert!(text.contains(from), "{from}");
            let reason = Credential::decode(text.replacen(from, to, 1).as_bytes()).unwrap_err();
            assert!(!reason.contains("q6u"), "{reason}");
        }
    }

    #[test]
    fn a_file_of_the_version_before_is_read() {
        let text = String::from_utf8(sample().encode().unwrap().to_vec()).unwrap();
        let before: String =
            text.lines().filter(|line| !line.contains("kem_offered") && !line.contains("comparison")).collect();
        let before = before.replace("\",  }", "\"  }");
        let credential = Credential::decode(before.as_bytes()).unwrap();
        assert_eq!(credential.rotation_kem(), KemId::X25519);
    }

    #[test]
    fn what_the_realm_offers_raises_and_never_lowers() {
        use KemId::{None, X25519, X25519MlKem768};
        let mut credential = sample();
        let info = |kems: &[KemId], user_id_key| RealmInfo { suites: Vec::new(), kems: kems.to_vec(), user_id_key };
        for (kems, expected) in
            [(&[None][..], X25519), (&[None, X25519, X25519MlKem768], X25519MlKem768), (&[X25519], X25519MlKem768)]
        {
            credential.offered(&info(kems, Some([1; 32])));
            assert_eq!((credential.rotation_kem(), credential.kem), (expected, X25519), "{kems:?}");
        }
        credential.kem_offered = None;
        credential.kem_floor = X25519MlKem768;
        assert_eq!(credential.rotation_kem(), X25519MlKem768);
        credential.handle = Some([1; 16]);
        credential.offered(&info(&[], Option::None));
        assert_eq!(credential.naming(), Naming::Plain);
    }
}
