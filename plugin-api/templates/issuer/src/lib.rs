//! Service authentication keys: 32 random bytes as 64 hex digits, presented as
//! `Authorization: Bearer KEY`.
//!
//! Only the SHA-256 of a key reaches the state store, so whoever reads that can
//! use no key. A key is *pending* until its first use, and lives from then on.
//!
//! | in the state store | value | lifetime |
//! | --- | --- | --- |
//! | `key/` + SHA-256 of the key | the session | time pending, then the key's lifetime |
//! | `id/` + public name of the key | the name above, for revocation | the sum of both |

#![forbid(unsafe_code)]

mod session;
#[cfg(test)]
mod tests;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_lc_rs::{
    digest::{SHA256, digest},
    rand,
};
use claviger_plugin_api::{
    Context, InitError, IssueRequest, IssuedKey, KeyIssuer, KeyKind, Plugin, PluginError, Presented, SecretBytes,
    StateStore, Verified, async_trait, export_plugin,
};
use serde::Deserialize;

use session::{Stored, later};

export_plugin! {
    name: env!("CARGO_PKG_NAME"),
    provides: [issuer],
    init: init,
}

/// The plugin's settings: none yet. Lifetimes come with each request.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Configuration {}

fn init(context: Context) -> Result<Plugin, InitError> {
    let Configuration {} = context.parse()?;
    let state = context.state.ok_or_else(|| {
        InitError::Configuration("there is no state store for sessions; set [service] state = \"memory\"".to_owned())
    })?;
    Ok(Plugin::new().with_issuer(Issuer { state, clock: context.clock }))
}

/// The issuer. All its state is in the state store, so daemons that share one share its keys.
pub struct Issuer {
    state: Arc<dyn StateStore>,
    clock: Arc<dyn Fn() -> SystemTime + Send + Sync>,
}

#[async_trait]
impl KeyIssuer for Issuer {
    fn kind(&self) -> KeyKind {
        KeyKind::Opaque
    }

    async fn issue(&self, request: IssueRequest) -> Result<IssuedKey, PluginError> {
        let IssueRequest { identity, lifetime, pending, .. } = request;
        let lifetime = Duration::from_secs(lifetime.as_secs());
        if lifetime.is_zero() || pending.is_zero() {
            return Err(PluginError::InvalidCall("a key needs a lifetime and some time pending".to_owned()));
        }
        let (key, id) = (random_key()?, random_id()?);
        let slot = slot(key.expose());
        let stored = Stored::pending(identity, id, later((self.clock)(), pending)?, lifetime);
        // The index first: no key may live that cannot be revoked. Alone it opens nothing.
        self.store(&index(&id), slot.as_bytes(), pending.saturating_add(lifetime)).await?;
        self.store(&slot, &stored.encode()?, pending).await?;
        Ok(IssuedKey::new(KeyKind::Opaque, id.to_vec(), key, lifetime))
    }

    async fn verify(&self, presented: &Presented) -> Result<Verified, PluginError> {
        let Some(slot) = presented_key(presented).map(slot) else { return Ok(Verified::Absent) };
        // Who loses a race for the first use finds an active session in the next round.
        for _ in 0..3 {
            let Some(bytes) = self.state.get(&slot).await? else { return Ok(Verified::Refused) };
            let (stored, now) = (Stored::decode(&bytes)?, (self.clock)());
            if !stored.is_good(&presented.service, now) {
                return Ok(Verified::Refused);
            }
            let Some((active, lifetime)) = stored.activated(now)? else {
                return Ok(Verified::Session(stored.into_session(false)));
            };
            if self.state.update(&slot, &bytes, &active.encode()?, lifetime).await? {
                return Ok(Verified::Session(active.into_session(true)));
            }
        }
        Err(PluginError::Unavailable("the state store does not update a session".to_owned()))
    }

    async fn revoke(&self, key_id: &[u8]) -> Result<bool, PluginError> {
        let Ok(id) = key_id.try_into() else { return Ok(false) };
        let Some(slot) = self.state.get(&index(id)).await? else { return Ok(false) };
        let slot = String::from_utf8(slot)
            .map_err(|_| PluginError::Corrupt("the index entry of a key cannot be read".to_owned()))?;
        // The key before its index entry: what fails halfway can be repeated.
        let ended = self.state.take(&slot).await?.is_some();
        self.state.take(&index(id)).await?;
        Ok(ended)
    }

    async fn published(&self) -> Result<Option<String>, PluginError> {
        Ok(None)
    }

    async fn health(&self) -> Result<(), PluginError> {
        self.state.health().await
    }
}

impl Issuer {
    async fn store(&self, key: &str, value: &[u8], lifetime: Duration) -> Result<(), PluginError> {
        match self.state.put_new(key, value, lifetime).await? {
            true => Ok(()),
            false => Err(PluginError::Unavailable("the random generator repeats itself".to_owned())),
        }
    }
}

/// Characters of a key.
const KEY_LEN: usize = 64;

/// The text of a new key. It never lies in a buffer that is not wiped.
fn random_key() -> Result<SecretBytes, PluginError> {
    let mut key = SecretBytes::zeroed(KEY_LEN);
    let (bytes, _) = key.expose_mut().split_at_mut(KEY_LEN / 2);
    fill(bytes)?;
    // From the end: what is written never covers what is still to be read.
    for at in (0..KEY_LEN / 2).rev() {
        let byte = key.expose()[at];
        key.expose_mut()[2 * at + 1] = DIGITS[usize::from(byte & 15)];
        key.expose_mut()[2 * at] = DIGITS[usize::from(byte >> 4)];
    }
    Ok(key)
}

fn random_id() -> Result<[u8; 16], PluginError> {
    let mut id = [0; 16];
    fill(&mut id)?;
    Ok(id)
}

fn fill(bytes: &mut [u8]) -> Result<(), PluginError> {
    rand::fill(bytes).map_err(|_| PluginError::Unavailable("the random generator failed".to_owned()))
}

/// The key of a request: its only `Authorization` header, `Bearer`, one space
/// and a key of the right form. Anything else is no key of this issuer.
fn presented_key(presented: &Presented) -> Option<&[u8]> {
    let (scheme, key) = presented.single_header("authorization")?.split_at_checked(7)?;
    let well = scheme.eq_ignore_ascii_case(b"Bearer ") && key.len() == KEY_LEN;
    (well && key.iter().all(|c| DIGITS.contains(c))).then_some(key)
}

/// Where the session of a key lies. It tells nothing of the key, so it need
/// not be compared in constant time.
fn slot(key: &[u8]) -> String {
    format!("key/{}", hex(digest(&SHA256, key).as_ref()))
}

fn index(id: &[u8; 16]) -> String {
    format!("id/{}", hex(id))
}

/// For what is no secret.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";
