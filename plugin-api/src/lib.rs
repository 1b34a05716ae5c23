//! What a Claviger plugin is built against.
//!
//! - [`CipherSuite`], [`UserStore`], [`StateStore`], [`KeyIssuer`], [`KeyCustody`]: the plain traits a plugin implements.
//! - [`Plugin`] and [`Context`]: what a plugin gives to and gets from the host.
//! - [`export_plugin!`]: the macro that makes a plugin of a crate.
//! - [`limits`]: the sizes that a store checks; [`counter`]: what it computes of counters.
//! - the errors say what the host does on each.
//! - [`description`]: what a plugin file says about itself without being run.
//! - [`abi`]: how all that crosses the boundary; the only module with unsafe code.

#![deny(unsafe_code)]

#[expect(unsafe_code, unreachable_pub, reason = "the boundary between two libraries; types in public tables")]
pub mod abi;
mod cipher;
pub mod counter;
mod custody;
pub mod description;
mod error;
mod export;
mod issuer;
pub mod limits;
mod plugin;
mod secret;
mod state;
mod store;
#[cfg(feature = "testkit")]
pub mod testkit;

/// The examples of the guide for authors, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../docs/plugin-guide.md")]
mod guide {}

pub use async_trait::async_trait;

pub use cipher::{CipherSuite, SuiteInfo};
pub use custody::{KeyCustody, KeyId, MAX_TOKEN, MacRequest};
pub use error::{CipherError, InitError, PluginError};
pub use issuer::{Identity, IssueRequest, IssuedKey, KeyIssuer, KeyKind, Presented, Session, Verified};
pub use plugin::{Context, Plugin};
pub use secret::SecretBytes;
pub use state::StateStore;
pub use store::{
    COUNTER_RETENTION, COUNTER_WINDOW, CounterPosition, CounterUse, Cursor, IndexTerm, MAX_VALUE, Page, Put, Record,
    Scan, UserStore, Verdict, Written,
};
