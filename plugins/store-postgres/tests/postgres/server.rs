//! A real server, and configurations for it.

use std::ops::Deref;
use std::sync::Arc;

use claviger_servers::Postgres;
pub(crate) use claviger_servers::{POSTGRES_PASSWORD as PASSWORD, give};
use claviger_store_postgres::{Configuration, Tls};

/// A server of the tests.
#[derive(Clone)]
pub(crate) struct Server(Arc<Postgres>);

impl Server {
    /// The server that the tests of this binary share while any of them runs.
    pub(crate) fn shared() -> Self {
        Self(Postgres::shared())
    }

    /// A server of its own, with further lines of `postgresql.conf`.
    pub(crate) fn start(settings: &str) -> Self {
        Self(Arc::new(Postgres::start(settings)))
    }

    /// A new database, as a configuration over TCP without TLS.
    pub(crate) fn database(&self) -> Configuration {
        let name = self.0.database();
        Configuration { tls: Tls::Disable, ..Configuration::new(self.0.url(&name, PASSWORD)) }
    }
}

impl Deref for Server {
    type Target = Postgres;

    fn deref(&self) -> &Postgres {
        &self.0
    }
}
