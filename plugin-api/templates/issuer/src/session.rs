//! What the state store holds for a key.

use std::time::{Duration, SystemTime};

use claviger_plugin_api::{Identity, PluginError, Session};
use serde::{Deserialize, Serialize};

/// A session: one line of JSON, then the attributes as they are. They are JSON
/// themselves, up to 16 KiB; inside a JSON string their quotes could outgrow
/// the 32 KiB of a stored value.
pub(crate) struct Stored {
    head: Head,
    attributes: String,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    /// How long the key is to live from its first use on; `None` once it was used.
    pending: Option<Duration>,
    /// The end of the time pending, or of the key.
    expires: SystemTime,
    key_id: [u8; 16],
    service: String,
    subject: String,
    auth_id: [u8; 16],
    auth_time: SystemTime,
}

impl Stored {
    /// A key that was just issued: to be used by `expires`, then to live for `lifetime`.
    pub(crate) fn pending(identity: Identity, key_id: [u8; 16], expires: SystemTime, lifetime: Duration) -> Self {
        let Identity { service, subject, auth_id, auth_time, attributes, .. } = identity;
        let head = Head { pending: Some(lifetime), expires, key_id, service, subject, auth_id, auth_time };
        Self { head, attributes }
    }

    /// Whether the key is good at this service and time.
    pub(crate) fn is_good(&self, service: &str, now: SystemTime) -> bool {
        self.head.service == service && now < self.head.expires
    }

    /// The session as its first use makes it, and how long it then lives; `None` if it was used before.
    pub(crate) fn activated(&self, now: SystemTime) -> Result<Option<(Self, Duration)>, PluginError> {
        let Some(lifetime) = self.head.pending else { return Ok(None) };
        let head = Head { pending: None, expires: later(now, lifetime)?, ..self.head.clone() };
        Ok(Some((Self { head, attributes: self.attributes.clone() }, lifetime)))
    }

    /// For the host.
    pub(crate) fn into_session(self, first_use: bool) -> Session {
        let Head { expires, key_id, service, subject, auth_id, auth_time, .. } = self.head;
        let identity = Identity::new(service, subject, auth_id, auth_time, self.attributes);
        Session::new(identity, key_id.to_vec(), expires, first_use)
    }

    /// For the state store.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, PluginError> {
        let mut bytes = serde_json::to_vec(&self.head)
            .map_err(|e| PluginError::InvalidCall(format!("the identity cannot be stored: {e}")))?;
        bytes.push(b'\n');
        bytes.extend_from_slice(self.attributes.as_bytes());
        Ok(bytes)
    }

    /// From the state store.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, PluginError> {
        let parts = || {
            let (head, attributes) = std::str::from_utf8(bytes).ok()?.split_once('\n')?;
            Some(Self { head: serde_json::from_str(head).ok()?, attributes: attributes.to_owned() })
        };
        parts().ok_or_else(|| PluginError::Corrupt("the stored session of a key cannot be read".to_owned()))
    }
}

/// A moment `time` later.
pub(crate) fn later(moment: SystemTime, time: Duration) -> Result<SystemTime, PluginError> {
    moment.checked_add(time).ok_or_else(|| PluginError::InvalidCall("a lifetime beyond all time".to_owned()))
}
