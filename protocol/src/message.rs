//! The wire messages (protocol, section 3 and 8): one file each, with its
//! encoder, its strict decoder and their tests.
//!
//! A decoder accepts exactly one encoding of a value: every length is checked
//! before use, trailing bytes and unknown values are refused.

mod account;
mod answer;
mod enrol;
mod envelope;
mod header;
mod login;
mod note;
mod reply;

pub use account::{AccountInner, Directory, DirectoryMessage, MAX_DIRECTORY};
pub use answer::{Answer, Grant, MAX_ATTRIBUTES};
pub use enrol::{Enrol1, Enrol2, Enrol3, Enrol4, EnrolBox, Held, Refusal, TAG};
pub use envelope::Envelope;
pub use header::{Binding, Header, MessageType, Uid};
pub use login::{LoginInner, Scope, ScopeTooLong};
pub use note::{MAX_NOTE, Note, NoteFlags, NoteMessage};
pub use reply::{KeyGrant, MAX_KEY, Reply, reply_head};

pub use crate::codec::Malformed;

/// The magic at the start of every message: the protocol's major version.
pub const MAGIC: [u8; 4] = *b"IDB1";
