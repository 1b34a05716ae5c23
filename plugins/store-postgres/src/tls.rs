//! TLS to the server.

use std::{path::Path, sync::Arc};

use claviger_plugin_api::InitError;
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use rustls_tokio_postgres::MakeRustlsConnect;

use crate::{Configuration, Tls};

/// What makes TLS connections; `None` where there is no TLS.
pub(crate) fn connector(configuration: &Configuration) -> Result<Option<MakeRustlsConnect>, InitError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| InitError::Failed(format!("TLS: {e}")))?;
    let client = match configuration.tls {
        Tls::Disable => return Ok(None),
        Tls::Verify => builder.with_root_certificates(roots(configuration.ca.as_deref())?).with_no_client_auth(),
        Tls::Require => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth(),
    };
    Ok(Some(MakeRustlsConnect::new(client)))
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, InitError> {
    let mut roots = RootCertStore::empty();
    let Some(path) = ca else {
        let system = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(system.certs);
        if roots.is_empty() {
            return Err(InitError::Configuration(
                "ca: the system trusts no authority; name the file of the server's".to_owned(),
            ));
        }
        return Ok(roots);
    };
    let refused = |why: String| InitError::Configuration(format!("ca: {}: {why}", path.display()));
    let certificates = CertificateDer::pem_file_iter(path).map_err(|e| refused(e.to_string()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|e| refused(e.to_string()))?;
        roots.add(certificate).map_err(|e| refused(e.to_string()))?;
    }
    if roots.is_empty() { Err(refused("no certificate in it".to_owned())) } else { Ok(roots) }
}

/// Takes any certificate whose key the server has.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
