//! What administrators see and say: the types of the administration API.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

/// A user to be added.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewUser {
    /// User id: 1 to 128 bytes, printable, without white space.
    pub id: String,
    /// Full name, released as attribute `name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Mail address, released as attribute `email`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// Groups, released as attribute `groups` and compared with a service's `allow_groups`.
    #[serde(default)]
    pub groups: Vec<String>,
}

/// Where a user's credential stands (protocol, section 10).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UserState {
    /// Added, and not enrolled yet.
    New,
    /// Enrolled; may sign on.
    Active,
    /// Kept from signing on, by an administrator or because two live copies of its credential were seen.
    Suspended,
}

/// A user as administrators see it. Holds no secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct User {
    /// User id.
    pub id: String,
    /// Where the credential stands.
    pub state: UserState,
    /// Why it is suspended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Full name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Mail address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// Groups.
    pub groups: Vec<String>,
    /// Key epoch; `None` before the first enrolment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u32>,
    /// When it was added, RFC 3339.
    pub created: String,
    /// When its terminal enrolled, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enrolled: Option<String>,
    /// When its keys were made, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys_made: Option<String>,
    /// Whether its terminal is to rotate its keys after the next sign-on.
    #[serde(default)]
    pub rotation_required: bool,
    /// When an unused enrolment code ends, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code_expires: Option<String>,
}

/// One page of users, in the order of their ids.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UserPage {
    /// The users.
    pub users: Vec<User>,
    /// Hand this back as `after` for the next page; `None` at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// An enrolment code, shown once.
#[derive(Clone, Serialize, Deserialize)]
pub struct EnrolmentCode {
    /// Whom it enrols.
    pub user: String,
    /// The code: a secret until it is used.
    pub code: String,
    /// The same with all else that a terminal needs: a secret, too.
    pub link: String,
    /// When it ends, RFC 3339.
    pub expires: String,
}

impl fmt::Debug for EnrolmentCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnrolmentCode")
            .field("user", &self.user)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

/// A service to be registered, or one that is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Service id: 1 to 128 of `[a-z0-9.-]`.
    pub id: String,
    /// The https origins at which terminals reach it.
    #[serde(default)]
    pub origins: Vec<String>,
    /// Attributes it may receive, of those the user consents to: `user`, `name`, `email`, `groups`.
    #[serde(default)]
    pub release: Vec<String>,
    /// Groups whose members may sign on; empty for everybody.
    #[serde(default)]
    pub allow_groups: Vec<String>,
    /// SHA-256 of its client certificate's SubjectPublicKeyInfo, 64 hex digits, when pinned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_pin: Option<String>,
}

/// The key ring. Holds no secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeyRing {
    /// The configured key-encryption keys in their order, then those that only the ring knows.
    pub recipients: Vec<RecipientView>,
    /// The data keys, in the order in which they begin to seal.
    pub data_keys: Vec<DataKeyView>,
}

/// A key-encryption key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RecipientView {
    /// Its id, 16 hex digits; `None` when it is not at hand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Where it lies; `None` when the configuration does not name it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Why it is not at hand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Ids of the data keys that it opens, as far as that can be tried here.
    pub data_keys: Vec<String>,
    /// Ids of the data keys whose wraps for it are damaged: `keys rewrap` makes them anew.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub damaged: Vec<String>,
}

/// A data key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DataKeyView {
    /// Its id, 8 hex digits.
    pub id: String,
    /// Whether it seals.
    pub state: DataKeyState,
    /// When it was made, RFC 3339.
    pub made: String,
    /// When it begins, or began, to seal, RFC 3339.
    pub current_from: String,
    /// Ids of the key-encryption keys that open it.
    pub recipients: Vec<String>,
}

/// Whether a data key seals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DataKeyState {
    /// It only opens.
    Former,
    /// It seals.
    Current,
    /// It will seal.
    Next,
}

/// What was asked of the key ring is done; the ring as it is now.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Rotated {
    /// The new data key.
    pub data_key: String,
    /// The ring.
    pub ring: KeyRing,
}

/// One page of a pass that counts secrets.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SecretCount {
    /// Records that were read.
    pub records: u64,
    /// Sealed secrets in them, by the ids of their data keys.
    pub secrets: BTreeMap<String, u64>,
    /// Keys of records that cannot be read, at most 20 of a page.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub damaged: Vec<String>,
    /// Hand this back as `after` for the next page; `None` at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// How far a pass has come that seals secrets anew.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct RewrapProgress {
    /// Records that were read in this pass.
    pub records: u64,
    /// Secrets in them.
    pub secrets: u64,
    /// Secrets that were sealed anew in this pass.
    pub resealed: u64,
    /// Keys of records that cannot be read, or with secrets that do not open, at most 20 of them: their data keys stay.
    pub damaged: Vec<String>,
    /// When the pass has not begun: ask again after so many milliseconds, when the new data key seals.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub begins_in_ms: Option<u64>,
    /// What came of the pass, at its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<RewrapEnd>,
}

/// What came of a pass over the whole store.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct RewrapEnd {
    /// Whether nothing had to be sealed anew; if not, another pass must show it.
    pub clean: bool,
    /// Data keys that were dropped.
    pub dropped: Vec<String>,
    /// Data keys that nothing was found under and that may go with a pass that begins later.
    pub unused: Vec<UnusedKey>,
    /// Former data keys that something is still sealed under.
    pub in_use: Vec<String>,
}

/// A data key that is not in use and cannot be dropped yet.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UnusedKey {
    /// Its id.
    pub id: String,
    /// Milliseconds until a pass may begin that drops it.
    pub in_ms: u64,
    /// When that is, RFC 3339.
    pub from: String,
}

/// Why an administrative call was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "error", content = "detail", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum AdminError {
    /// No such user or service.
    #[error("there is no {0}")]
    NotFound(String),
    /// It is there already.
    #[error("there is a {0} already")]
    Exists(String),
    /// A value is not allowed, and why.
    #[error("{0}")]
    Invalid(String),
    /// Somebody else changed it at the same time, again and again.
    #[error("{0} was changed by somebody else at the same time; try again")]
    Conflict(String),
    /// The store does not answer.
    #[error("the user store is not available: {0}")]
    Unavailable(String),
}

/// Keys in the custody of a module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrphanedKeys {
    /// All keys that the module holds for this realm's users.
    pub keys: usize,
    /// The ids, in hex, of those that no record names.
    pub orphans: Vec<String>,
}
