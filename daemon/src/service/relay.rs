//! `POST /idb/v1/rotate` and `/idb/v1/directory`: a terminal that cannot reach
//! the management server asks it through a service. The envelope and what is
//! sealed in the answer are opaque here.

use std::sync::Arc;

use bytes::Bytes;
use claviger_protocol::{Code, message::Refusal};
use tracing::debug;

use super::ManagerLink;

/// What a terminal asks the management server through this service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relay {
    /// New keys (protocol, section 7).
    Rotate,
    /// The services that the user may reach (protocol, section 14).
    Directory,
}

impl Relay {
    /// The path of the endpoint, here and at the management server.
    pub fn path(self) -> &'static str {
        match self {
            Self::Rotate => "/idb/v1/rotate",
            Self::Directory => "/idb/v1/directory",
        }
    }

    /// The kind whose endpoint this is.
    pub(super) fn from_path(path: &str) -> Option<Self> {
        [Self::Rotate, Self::Directory].into_iter().find(|kind| kind.path() == path)
    }

    /// For metric labels.
    fn name(self) -> &'static str {
        match self {
            Self::Rotate => "rotate",
            Self::Directory => "directory",
        }
    }
}

/// The management server's answer to a relayed envelope, to be passed on as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relayed {
    /// The HTTP status.
    pub status: u16,
    /// A message of the protocol for the terminal alone; at most 32 KiB.
    pub body: Vec<u8>,
}

/// Passes envelopes on.
pub(super) struct Relays {
    manager: Arc<dyn ManagerLink>,
}

impl Relays {
    pub(super) fn new(manager: Arc<dyn ManagerLink>) -> Self {
        Self { manager }
    }

    /// The management server's answer, or that there is none.
    pub(super) async fn answer(&self, kind: Relay, envelope: Bytes) -> Relayed {
        match self.manager.relay(kind, envelope).await {
            Ok(relayed) => {
                count(kind, "answered");
                relayed
            }
            Err(error) => {
                debug!(%error, kind = kind.name(), "relay without an answer");
                self.refuse(kind, Code::Unavailable)
            }
        }
    }

    /// A refusal of this service's own: nobody sealed it.
    pub(super) fn refuse(&self, kind: Relay, code: Code) -> Relayed {
        count(kind, code.name());
        Relayed { status: code.http_status(), body: Refusal(code).encode() }
    }
}

fn count(kind: Relay, outcome: &'static str) {
    metrics::counter!("claviger_relay_total", "kind" => kind.name(), "outcome" => outcome).increment(1);
}
