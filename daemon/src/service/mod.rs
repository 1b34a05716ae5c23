//! The service role: signs terminals on, judges the keys that they present,
//! and passes their requests to the upstream.
//!
//! - `http`: which request goes where.
//! - `sign_on`, `challenge`, `relay`: the protocol endpoints.
//! - `verify`: from a presented key to a session.
//! - `proxy`: the reverse proxy.
//! - `remote_manager`: the management server in another process ([`RemoteManager`]).
//! - `instruments`: its metrics.
//!
//! The role never sees a unique key or a management authentication key, and
//! knows nothing of the management role: it is handed a [`ManagerLink`].

mod challenge;
mod head;
mod http;
mod instruments;
mod problem;
mod proxy;
mod reachability;
mod relay;
mod remote_manager;
mod sign_on;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod user_limit;
mod verify;

use std::sync::Arc;

use ::http::{Request, Response};
use async_trait::async_trait;
use bytes::Bytes;
use claviger_plugin_api::{CipherSuite, KeyIssuer, StateStore};
use claviger_protocol::{KemId, Realm, ServiceId};
use hyper::body::Incoming;

use self::{
    challenge::Challenges, proxy::Proxy, relay::Relays, sign_on::SignOn, user_limit::UserLimit, verify::Verifier,
};
pub use self::{
    relay::{Relay, Relayed},
    remote_manager::RemoteManager,
};
use crate::{
    config::types::ServiceConfig,
    net::{Body, Handler, Peer, SourceLimit},
    suites::{SuiteMissing, Suites},
};

/// The way to the management server.
#[async_trait]
pub trait ManagerLink: Send + Sync + 'static {
    /// Hands an envelope over, unchanged, and gives the answer of section 3.2
    /// of the protocol, undecoded. It holds a session password: the caller wipes it.
    ///
    /// # Errors
    /// Any failure to get an answer within the deadline; never a refusal.
    async fn decrypt(&self, envelope: Bytes) -> Result<Vec<u8>, Unavailable>;

    /// Hands over, unchanged, an envelope that a terminal sent through this
    /// service (attacker-controlled, at most 4,096 bytes), and gives the
    /// answer, of which the service can read nothing but its status.
    ///
    /// # Errors
    /// As [`Self::decrypt`]; never a refusal.
    async fn relay(&self, kind: Relay, envelope: Bytes) -> Result<Relayed, Unavailable>;

    /// Called when an answer did not belong to its envelope: connections that
    /// are open now must not be used again.
    fn drop_connections(&self) {}
}

/// The management server gave no answer. The message is for the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the management server is not available: {0}")]
pub struct Unavailable(pub String);

/// Why a service role cannot be put together: one line for the operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A value of `[service]` is not usable.
    #[error("service.{key}: {problem}")]
    Configuration {
        /// The key below `[service]`.
        key: &'static str,
        /// What is wrong with its value.
        problem: String,
    },
    /// A suite of `service.suites` that no loaded plugin serves.
    #[error("service: {0}")]
    NoPlugin(SuiteMissing),
}

/// One service: the handler of its listener.
pub struct ServiceRole {
    sign_on: SignOn,
    relays: Relays,
    challenges: Arc<Challenges>,
    limit: Arc<SourceLimit>,
    verifier: Verifier,
    proxy: Proxy,
}

impl ServiceRole {
    /// Puts a service together from its handles: `suites` are those that
    /// plugins serve, of which each one of the configuration must be there;
    /// `issuer` and `state` are distrusted in what they answer.
    ///
    /// # Errors
    /// [`BuildError`], when a value of the configuration cannot be used.
    pub fn build(
        config: &ServiceConfig,
        realm: &str,
        suites: &[Arc<dyn CipherSuite>],
        issuer: Arc<dyn KeyIssuer>,
        state: Arc<dyn StateStore>,
        manager: Arc<dyn ManagerLink>,
    ) -> Result<Arc<Self>, BuildError> {
        instruments::describe();
        let bad = |key, problem: String| BuildError::Configuration { key, problem };
        let service: ServiceId = config.id.parse().map_err(|e| bad("id", e))?;
        let realm: Realm = realm.parse().map_err(|e| bad("id", e))?;
        let kem = |id: &u8| KemId::from_wire(*id).ok_or_else(|| bad("kems", format!("{id} is not a key exchange")));
        let upstream = config.upstream.authority().cloned();
        let upstream = upstream.ok_or_else(|| bad("upstream", "expected http://HOST[:PORT]".into()))?;

        let find = |id| suites.iter().find(|suite| suite.info().id == id).cloned();
        let suites = Suites::new(&config.suites, find).map_err(BuildError::NoPlugin)?;

        let limits = &config.limits;
        let limit = Arc::new(SourceLimit::new(limits.per_source_per_second, limits.per_source_burst));
        let challenges = Arc::new(Challenges::new(state, suites.clone()));
        let sign_on = SignOn {
            service,
            realm,
            kems: config.kems.iter().map(kem).collect::<Result<_, _>>()?,
            suites,
            demanded: config.binding,
            key_lifetime: config.key_lifetime,
            pending: config.pending,
            limit: limit.clone(),
            user_limit: UserLimit::new(limits.per_user_per_second, limits.per_user_burst),
            challenges: challenges.clone(),
            issuer: issuer.clone(),
            manager: manager.clone(),
        };
        let relays = Relays::new(manager);
        let verifier = Verifier::new(config.id.clone(), issuer);
        let proxy = Proxy::new(upstream, config.upstream_http2);
        Ok(Arc::new(Self { sign_on, relays, challenges, limit, verifier, proxy }))
    }
}

#[async_trait]
impl Handler for ServiceRole {
    async fn handle(&self, request: Request<Incoming>, peer: Peer) -> Response<Body> {
        self.route(request, &peer).await
    }

    /// A terminal may bind its envelope to the connection even where that is not demanded.
    fn wants_exporter(&self) -> bool {
        true
    }
}
