//! TLS configurations: version 1.3 only, no early data, hybrid key exchange first.
//!
//! Identity between our own servers is the SAN URI of a certificate
//! (`idb://REALM/manager`, `idb://REALM/service/ID`), never its host name.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, aws_lc_rs, aws_lc_rs::kx_group, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier},
    version::TLS13,
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::NetError;

/// The configuration of a listener.
///
/// With `client_ca` every client must show a certificate signed by it; sessions
/// are then not resumed, so a certificate is looked at on every connection, and
/// only the hybrid key exchange is offered, because what crosses such a
/// connection must outlive quantum recording.
///
/// # Errors
/// A file that is missing or holds no certificate or key, or a key that does not fit.
pub fn server_config(
    certificate_pem_path: &Path,
    key_path: &Path,
    client_ca: Option<&Path>,
) -> Result<Arc<ServerConfig>, NetError> {
    let chain = certificates(certificate_pem_path)?;
    let key = private_key(key_path)?;
    let failed = |problem: String| NetError::Tls { path: certificate_pem_path.into(), problem };

    let provider = provider(client_ca.is_some());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])
        .map_err(|e| failed(e.to_string()))?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(path)?), provider)
                .build()
                .map_err(|e| NetError::Tls { path: path.into(), problem: e.to_string() })?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|e| failed(e.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.max_early_data_size = 0;
    if client_ca.is_some() {
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(Arc::new(config))
}

/// The configuration of a client. ALPN is left empty: the client that uses it sets it.
///
/// - `ca`: the authorities to trust; `None` for those of the system.
/// - `identity`: certificate chain and key to show, both PEM.
/// - `expected_uri`: the SAN URI that the server's certificate must carry. It
///   takes the place of the host name check, and only the hybrid key exchange
///   is offered then.
///
/// # Errors
/// A file that is missing or holds no certificate or key, or a key that does not fit.
pub fn client_config(
    ca: Option<&Path>,
    identity: Option<(&Path, &Path)>,
    expected_uri: Option<String>,
) -> Result<ClientConfig, NetError> {
    let ca_path = ca.unwrap_or(Path::new(SYSTEM_ROOTS));
    let roots = Arc::new(roots(ca_path)?);
    let failed = |path: &Path, problem: String| NetError::Tls { path: path.into(), problem };

    let provider = provider(expected_uri.is_some());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])
        .map_err(|e| failed(ca_path, e.to_string()))?;
    let builder = match expected_uri {
        None => {
            let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider)
                .build()
                .map_err(|e| failed(ca_path, e.to_string()))?;
            builder.with_webpki_verifier(verifier)
        }
        Some(uri) => {
            let verifier = UriVerifier { roots, provider, uri };
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
        }
    };
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => builder
            .with_client_auth_cert(certificates(certificate)?, private_key(key)?)
            .map_err(|e| failed(certificate, e.to_string()))?,
    };
    config.enable_early_data = false;
    Ok(config)
}

/// The SAN URIs of a certificate; empty when it cannot be parsed or has none.
///
/// Says nothing about trust: call it on a certificate whose chain was verified.
pub fn peer_uri_sans(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let Ok(Some(names)) = parsed.subject_alternative_name() else { return Vec::new() };
    let names = names.value.general_names.iter();
    names.filter_map(|name| if let GeneralName::URI(uri) = name { Some((*uri).to_owned()) } else { None }).collect()
}

/// SHA-256 of a certificate's SubjectPublicKeyInfo, by which a key is pinned;
/// `None` when the certificate cannot be parsed.
pub fn public_key_sha256(certificate: &CertificateDer<'_>) -> Option<[u8; 32]> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let hash = ::aws_lc_rs::digest::digest(&::aws_lc_rs::digest::SHA256, parsed.public_key().raw);
    hash.as_ref().try_into().ok()
}

/// Verifies the chain by webpki, and that the certificate carries one URI.
struct UriVerifier {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
    uri: String,
}

impl ServerCertVerifier for UriVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)?;
        if peer_uri_sans(end_entity).contains(&self.uri) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::CertificateError::NotValidForName.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl fmt::Debug for UriVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UriVerifier").field("uri", &self.uri).finish_non_exhaustive()
    }
}

/// aws-lc-rs, X25519MLKEM768 first, or nothing else.
fn provider(hybrid_only: bool) -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![kx_group::X25519MLKEM768];
    if !hybrid_only {
        provider.kx_groups.extend([kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1]);
    }
    Arc::new(provider)
}

fn roots(path: &Path) -> Result<RootCertStore, NetError> {
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates(path)?);
    if added == 0 {
        return Err(pem_error(path, "no certificate in it can be used as an authority"));
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, NetError> {
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| pem_error(path, e))?;
    if certificates.is_empty() {
        return Err(pem_error(path, "no certificate in this file (expected PEM)"));
    }
    Ok(certificates)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, NetError> {
    use rustls::pki_types::pem::Error;
    PrivateKeyDer::from_pem_file(path).map_err(|e| match e {
        Error::NoItemsFound => pem_error(path, "no private key in this file (expected PEM)"),
        e => pem_error(path, e),
    })
}

fn pem_error(path: &Path, problem: impl fmt::Display) -> NetError {
    NetError::Pem { path: PathBuf::from(path), problem: problem.to_string() }
}

/// Where Debian keeps its authorities.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";
