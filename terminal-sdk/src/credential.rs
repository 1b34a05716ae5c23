//! What a terminal knows: whom it belongs to, its keys, its services.

use std::fmt;

use claviger_protocol::{KemId, Realm, Secret32, ServiceId, SuiteId};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    encoding,
    error::{Error, Result},
    origin::Origin,
};

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
    /// The suite that envelopes use.
    #[serde(with = "encoding::text")]
    pub suite: SuiteId,
    /// The key agreement that envelopes use.
    #[serde(with = "encoding::kem")]
    pub kem: KemId,
    /// The least suite that the management server accepts.
    #[serde(with = "encoding::text")]
    pub suite_floor: SuiteId,
    /// The least key agreement that the management server accepts.
    #[serde(with = "encoding::kem")]
    pub kem_floor: KemId,
    /// The management server's clock minus this machine's, in milliseconds,
    /// from sealed messages only.
    pub clock_offset_ms: i64,
    /// Certificates (PEM) to trust for every server, instead of the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
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
    pub(crate) pending: Pending,
}

impl Credential {
    pub(crate) fn new(new: NewCredential) -> Self {
        Self {
            version: VERSION,
            id: new.id,
            server: new.server,
            realm: new.realm,
            user_id: Zeroizing::new(new.user_id),
            epoch: new.epoch,
            unique_key: new.unique_key,
            management_key: new.management_key,
            suite: new.suite,
            kem: new.kem,
            suite_floor: new.suite_floor,
            kem_floor: new.kem_floor,
            clock_offset_ms: new.clock_offset_ms,
            ca: new.ca,
            services: Vec::new(),
            counter_reserved: 1,
            pending: Some(new.pending),
        }
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
        Ok(credential)
    }

    /// The file's content, in a buffer that is wiped when dropped.
    pub(crate) fn encode(&self) -> std::result::Result<Zeroizing<Vec<u8>>, String> {
        // Large enough not to grow, which would leave copies behind.
        let certificates: usize =
            self.ca.iter().chain(self.services.iter().filter_map(|s| s.ca.as_ref())).map(|pem| 2 * pem.len()).sum();
        let mut out = Zeroizing::new(Vec::with_capacity(4096 + certificates + 512 * self.services.len()));
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

    /// The service that `target` names: an origin (`https://…`) or a service
    /// id, of which the first origin is taken.
    pub fn service(&self, target: &str) -> Result<&Service> {
        let found = if target.contains("://") {
            let origin: Origin = target.parse()?;
            self.services.iter().find(|service| service.origin == origin)
        } else {
            self.services.iter().find(|service| service.id.as_str() == target)
        };
        found.ok_or_else(|| Error::UnknownService(target.to_owned()))
    }

    /// Adds an origin to the table. An origin belongs to one service only.
    pub fn add_service(&mut self, service: Service) -> Result<()> {
        match self.services.iter_mut().find(|known| known.origin == service.origin) {
            Some(known) if known.id == service.id => *known = service,
            Some(known) => {
                return Err(Error::Invalid(format!(
                    "{} belongs to {} already; remove it first with `claviger services remove {}`",
                    known.origin, known.id, known.origin
                )));
            }
            None => self.services.push(service),
        }
        Ok(())
    }

    /// Takes an origin out of the table.
    pub fn remove_service(&mut self, origin: &Origin) -> Result<Service> {
        let at = self.services.iter().position(|service| service.origin == *origin);
        at.map(|at| self.services.remove(at)).ok_or_else(|| Error::UnknownService(origin.to_string()))
    }
}

/// One row of the terminal's own table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// The service id.
    #[serde(with = "encoding::text")]
    pub id: ServiceId,
    /// Where it is.
    #[serde(with = "encoding::text")]
    pub origin: Origin,
    /// Certificates (PEM) to trust for it, instead of the credential's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
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
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pending(redacted)")
    }
}

const VERSION: u32 = 1;

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
            pending: Pending { confirm: Zeroizing::new(vec![0xEF; 45]), expected: Secret32::new([0xEE; 32]) },
        })
    }

    fn service(id: &str, origin: &str) -> Service {
        Service { id: id.parse().unwrap(), origin: origin.parse().unwrap(), ca: None }
    }

    #[test]
    fn the_file_round_trips_and_debug_shows_no_key() {
        let mut credential = sample();
        credential.add_service(service("shop", "https://shop.example")).unwrap();
        let bytes = credential.encode().unwrap();
        let again = Credential::decode(&bytes).unwrap();
        assert_eq!(again.unique_key.expose(), &[0xAB; 32]);
        assert_eq!(again.management_key.expose(), &[0xCD; 32]);
        assert_eq!(again.encode().unwrap(), bytes);
        let debug = format!("{again:?}");
        for secret in ["171, 171", "205, 205", "239, 239", "238, 238", "q6ur", "zc3N"] {
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
    fn the_table_finds_by_origin_and_by_id() {
        let mut credential = sample();
        credential.add_service(service("shop", "https://shop.example")).unwrap();
        credential.add_service(service("shop", "https://shop.example:444")).unwrap();
        credential.add_service(service("shop", "https://shop.example")).unwrap();
        assert_eq!(credential.services.len(), 2);
        assert_eq!(credential.service("shop").unwrap().origin.as_str(), "https://shop.example");
        assert_eq!(
            credential.service("https://SHOP.example:444/").unwrap().origin.as_str(),
            "https://shop.example:444"
        );
        assert!(matches!(credential.service("https://evil.example"), Err(Error::UnknownService(_))));
        assert!(credential.add_service(service("evil", "https://shop.example")).is_err());
        credential.remove_service(&"https://shop.example".parse().unwrap()).unwrap();
        assert!(credential.remove_service(&"https://shop.example".parse().unwrap()).is_err());
    }
}
