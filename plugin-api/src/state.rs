//! State stores: what the service role shares between daemons for a while.

use std::time::Duration;

use async_trait::async_trait;

use crate::error::PluginError;

/// Short-lived values with a lifetime: issued keys, pending sessions, challenges.
///
/// Keys are 1 to 255 bytes of UTF-8; values at most 32 KiB. A value whose
/// lifetime is over is as good as deleted.
#[async_trait]
pub trait StateStore: Send + Sync + 'static {
    /// Stores `value` if there is none under `key`; `false` when there is.
    async fn put_new(&self, key: &str, value: &[u8], lifetime: Duration) -> Result<bool, PluginError>;

    /// The value under `key`.
    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, PluginError>;

    /// Replaces the value, and its lifetime, if it is still `expected`; `false` when it is not.
    async fn update(&self, key: &str, expected: &[u8], value: &[u8], lifetime: Duration) -> Result<bool, PluginError>;

    /// Deletes and returns the value: of many callers at once exactly one gets it.
    async fn take(&self, key: &str) -> Result<Option<Vec<u8>>, PluginError>;

    /// A cheap proof that the store answers.
    async fn health(&self) -> Result<(), PluginError>;
}
