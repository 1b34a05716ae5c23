//! What a Claviger plugin is built against.
//!
//! - [`CipherSuite`], [`UserStore`], [`StateStore`], [`KeyIssuer`]: the plain traits a plugin implements.
//! - [`Plugin`] and [`Context`]: what a plugin gives to and gets from the host.
//! - the errors say what the host does on each.

mod cipher;
mod error;
mod issuer;
mod plugin;
mod secret;
mod state;
mod store;

pub use async_trait::async_trait;

pub use cipher::{CipherSuite, SuiteInfo};
pub use error::{CipherError, InitError, PluginError};
pub use issuer::{Identity, IssueRequest, IssuedKey, KeyIssuer, KeyKind, Presented, Session, Verified};
pub use plugin::{Context, Plugin};
pub use secret::SecretBytes;
pub use state::StateStore;
pub use store::{
    COUNTER_WINDOW, CounterUse, Cursor, IndexTerm, MAX_VALUE, Page, Put, Record, Scan, UserStore, Verdict, Written,
};
