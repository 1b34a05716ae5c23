//! Certificates and servers for tests.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use rustls::ServerConfig;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Handler, Server};

/// An authority in a temporary directory.
pub(crate) struct Authority {
    directory: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// Where a certificate and its key lie.
pub(crate) struct Identity {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let directory = TempDir::new().unwrap();
        std::fs::write(directory.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { directory, issuer }
    }

    /// Its own certificate.
    pub(crate) fn ca(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// A certificate for 127.0.0.1 and these URIs.
    pub(crate) fn issue(&self, name: &str, uris: &[&str]) -> Identity {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names.extend(uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())));
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let path = |end: &str| self.directory.path().join(format!("{name}.{end}"));
        std::fs::write(path("pem"), certificate.pem()).unwrap();
        std::fs::write(path("key"), key.serialize_pem()).unwrap();
        Identity { certificate: path("pem"), key: path("key") }
    }
}

impl Identity {
    /// As the two paths that [`super::tls::client_config`] takes.
    pub(crate) fn paths(&self) -> (&Path, &Path) {
        (&self.certificate, &self.key)
    }
}

/// A server that runs until it is dropped.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) shutdown: CancellationToken,
    pub(crate) task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// Serves on a free port of 127.0.0.1, with a grace period of 5 s.
pub(crate) fn serve(tls: Option<Arc<ServerConfig>>, handler: Arc<dyn Handler>) -> Running {
    serve_with_grace(tls, handler, Duration::from_secs(5))
}

pub(crate) fn serve_with_grace(tls: Option<Arc<ServerConfig>>, handler: Arc<dyn Handler>, grace: Duration) -> Running {
    let server = Server::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = server.local_addr();
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(server.run(tls, handler, shutdown.clone(), grace));
    Running { address, shutdown, task }
}
