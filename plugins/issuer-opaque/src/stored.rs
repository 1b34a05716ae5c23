//! What the state store holds for a key.

use std::time::{Duration, SystemTime};

use claviger_plugin_api::{Identity, PluginError, Session};
use serde::{Deserialize, Serialize};

use crate::key::ID_LEN;

/// A key's session as it is stored: one line of JSON, then the attributes as
/// they are. They are JSON themselves, up to 16 KiB; inside a JSON string their
/// quotes could outgrow the 32 KiB of a stored value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Stored {
    head: Head,
    attributes: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    state: State,
    /// By the host's clock: the last moment to wait for a first use, or, once
    /// it was used, to live.
    expires: SystemTime,
    key_id: [u8; ID_LEN],
    service: String,
    subject: String,
    auth_id: [u8; 16],
    auth_time: SystemTime,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// Issued, not used yet.
    Pending { lifetime: Duration },
    /// Used.
    Active,
}

impl Stored {
    /// A key that was just issued: to be used by `expires`, then to live for `lifetime`.
    pub(crate) fn pending(identity: Identity, key_id: [u8; ID_LEN], expires: SystemTime, lifetime: Duration) -> Self {
        let Identity { service, subject, auth_id, auth_time, attributes, .. } = identity;
        let state = State::Pending { lifetime };
        Self { head: Head { state, expires, key_id, service, subject, auth_id, auth_time }, attributes }
    }

    /// Whether the key is good at `service` and `now`.
    pub(crate) fn is_good(&self, service: &str, now: SystemTime) -> bool {
        self.head.service == service && now < self.head.expires
    }

    /// The session as its first use makes it, and how long it then lives;
    /// `None` when the key was used before.
    pub(crate) fn activated(&self, now: SystemTime) -> Result<Option<(Self, Duration)>, PluginError> {
        let State::Pending { lifetime } = self.head.state else { return Ok(None) };
        let head = Head { state: State::Active, expires: later(now, lifetime)?, ..self.head.clone() };
        Ok(Some((Self { head, attributes: self.attributes.clone() }, lifetime)))
    }

    /// The session, for the host.
    pub(crate) fn into_session(self, first_use: bool) -> Session {
        let Head { expires, key_id, service, subject, auth_id, auth_time, .. } = self.head;
        let identity = Identity::new(service, subject, auth_id, auth_time, self.attributes);
        Session::new(identity, key_id.to_vec(), expires, first_use)
    }

    /// As bytes for the state store.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, PluginError> {
        let mut bytes = serde_json::to_vec(&self.head)
            .map_err(|e| PluginError::InvalidCall(format!("the identity cannot be stored: {e}")))?;
        bytes.push(b'\n');
        bytes.extend_from_slice(self.attributes.as_bytes());
        Ok(bytes)
    }

    /// From the state store's bytes.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, PluginError> {
        let parts = || {
            let text = std::str::from_utf8(bytes).ok()?;
            let (head, attributes) = text.split_once('\n')?;
            Some(Self { head: serde_json::from_str(head).ok()?, attributes: attributes.to_owned() })
        };
        parts().ok_or_else(|| PluginError::Corrupt("the stored session of a key cannot be read".to_owned()))
    }
}

/// A moment `time` later.
pub(crate) fn later(moment: SystemTime, time: Duration) -> Result<SystemTime, PluginError> {
    moment.checked_add(time).ok_or_else(|| PluginError::InvalidCall("a lifetime beyond all time".to_owned()))
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn the_largest_attributes_fit_a_stored_value_and_come_back() {
        let at = UNIX_EPOCH + Duration::new(1_800_000_000, 123_456_789);
        let names = ["\"".repeat(16_384), "{\n\"a\":\"ü\\n\"}\n".to_owned(), String::new()];
        for attributes in names {
            let identity = Identity::new("s".repeat(255), "u\n\"".to_owned(), [7; 16], at, attributes);
            let stored = Stored::pending(identity, [9; 16], at, Duration::from_millis(1500));
            let bytes = stored.encode().unwrap();
            assert!(bytes.len() <= 32 * 1024, "{} bytes", bytes.len());
            assert_eq!(Stored::decode(&bytes).unwrap(), stored);
        }
    }

    #[test]
    fn damaged_values_are_corrupt() {
        for bytes in [&b""[..], b"{}\n{}", b"\xff\n{}", b"{\"state\":\"active\"}\n"] {
            assert!(matches!(Stored::decode(bytes), Err(PluginError::Corrupt(_))), "{bytes:?}");
        }
    }
}
