//! Makes the authority of a realm and issues certificates for its servers.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use aws_lc_rs::digest;
use data_encoding::HEXLOWER;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, string::Ia5String,
};
use serde::Serialize;
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};
use zeroize::Zeroizing;

use super::{
    PkiError,
    files::{self, Overwrite},
};

/// For whom a certificate is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// The management server's listener for services: URI `idb://<realm>/manager`.
    Manager,
    /// A service of this id: URI `idb://<realm>/service/<id>`, for its own listener and as a client of the manager.
    Service(String),
    /// A plain TLS server, such as the listener for terminals; the name is that of the files.
    Server(String),
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// For whom.
    pub subject: Subject,
    /// DNS names under which it is reached.
    pub dns: Vec<String>,
    /// Addresses under which it is reached.
    pub ip: Vec<IpAddr>,
    /// How long the certificate is valid.
    pub days: u32,
    /// What becomes of an earlier key and certificate.
    pub earlier: Earlier,
}

/// What becomes of an earlier key and certificate of the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Earlier {
    /// They stay, and nothing is issued.
    Keep,
    /// The key stays and gets a new certificate: whoever has pinned the key needs to do nothing.
    Renew,
    /// Both are replaced.
    Replace,
}

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Issued {
    /// PEM file of the certificate. The authority signs it directly, so it is the whole chain.
    pub certificate: PathBuf,
    /// PEM file of the private key, mode 0600.
    pub private_key: PathBuf,
    /// The first moment at which it is no longer valid, RFC 3339.
    pub expires: String,
    /// SHA-256 of its SubjectPublicKeyInfo, hex: what `clavigerd service add --key-pin` takes.
    pub key_pin: String,
}

/// Makes an authority for `realm` in `directory`: `ca.pem`, `ca.key` (0600) and
/// the file `realm`. ECDSA P-256, valid for ten years.
///
/// # Errors
/// [`PkiError::Exists`] when there is one already.
pub fn init(directory: &Path, realm: &str, now: OffsetDateTime) -> Result<Issued, PkiError> {
    check("realm", realm, 64)?;
    files::private_directory(directory)?;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = named(&format!("Claviger authority of {realm}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = now - SKEW;
    params.not_after = now + CA_LIFETIME;
    let certificate = params.self_signed(&key)?;

    // The key comes first: whoever has it has not been overwritten, and the rest follows from it.
    let overwrite = Overwrite::Refuse("certificates under it would be worthless; use another directory");
    let (certificate_path, key_path) = (directory.join("ca.pem"), directory.join("ca.key"));
    files::write(&key_path, Zeroizing::new(key.serialize_pem()).as_bytes(), 0o600, overwrite)?;
    files::write(&directory.join("realm"), format!("{realm}\n").as_bytes(), 0o644, Overwrite::Replace)?;
    files::write(&certificate_path, certificate.pem().as_bytes(), 0o644, overwrite)?;
    Ok(issued(certificate_path, key_path, &key, params.not_after))
}

/// Issues a certificate in `directory`: `NAME.pem` and
/// `NAME.key` (0600), where NAME is `manager`, the service id or the server's name.
///
/// # Errors
/// [`PkiError::NoAuthority`] without [`init`], [`PkiError::Exists`] with [`Earlier::Keep`],
/// [`PkiError::Invalid`] for names and days that are not allowed.
pub fn issue(directory: &Path, request: &Request, now: OffsetDateTime) -> Result<Issued, PkiError> {
    let (realm, issuer, ca_expires) = load(directory)?;
    let (name, uri, client) = match &request.subject {
        Subject::Manager => ("manager", Some(format!("idb://{realm}/manager")), false),
        Subject::Service(id) => (id.as_str(), Some(format!("idb://{realm}/service/{id}")), true),
        Subject::Server(name) => (name.as_str(), None, false),
    };
    check("name", name, 128)?;
    if name == "ca" || name == "realm" || (name == "manager" && request.subject != Subject::Manager) {
        return Err(PkiError::Invalid(format!("the name {name} is reserved here")));
    }
    if request.dns.is_empty() && request.ip.is_empty() && !matches!(request.subject, Subject::Service(_)) {
        return Err(PkiError::Invalid("a server needs a name to be reached under: give --dns or --ip".to_owned()));
    }
    let mut params = CertificateParams::default();
    params.distinguished_name = named(name);
    params.subject_alt_names = alternative_names(uri, request)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    if client {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
    }
    params.use_authority_key_identifier_extension = true;
    params.not_before = now - SKEW;
    params.not_after = now + Duration::days(i64::from(request.days));
    if request.days == 0 || params.not_after > ca_expires {
        let last = (ca_expires - now).whole_days().max(0);
        return Err(PkiError::Invalid(format!("--days must be from 1 to {last}, where the authority ends")));
    }
    let (certificate_path, key_path) = (directory.join(format!("{name}.pem")), directory.join(format!("{name}.key")));
    let overwrite = match request.earlier {
        Earlier::Keep => Overwrite::Refuse("--renew keeps the key and renews the certificate, --force replaces both"),
        Earlier::Renew | Earlier::Replace => Overwrite::Replace,
    };
    let key = if request.earlier == Earlier::Renew {
        let failed = |source| PkiError::Io { path: key_path.clone(), source };
        KeyPair::from_pem(&Zeroizing::new(fs::read_to_string(&key_path).map_err(failed)?))?
    } else {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        files::write(&key_path, Zeroizing::new(key.serialize_pem()).as_bytes(), 0o600, overwrite)?;
        key
    };
    let certificate = params.signed_by(&key, &issuer)?;
    files::write(&certificate_path, certificate.pem().as_bytes(), 0o644, overwrite)?;
    Ok(issued(certificate_path, key_path, &key, params.not_after))
}

fn load(directory: &Path) -> Result<(String, Issuer<'static, KeyPair>, OffsetDateTime), PkiError> {
    let none = |problem: String| PkiError::NoAuthority { directory: directory.to_owned(), problem };
    let read = |name: &str| fs::read_to_string(directory.join(name)).map_err(|e| none(format!("{name}: {e}")));
    let realm = read("realm")?.trim_end().to_owned();
    check("realm", &realm, 64).map_err(|e| none(format!("realm: {e}")))?;
    let key = KeyPair::from_pem(&Zeroizing::new(read("ca.key")?)).map_err(|e| none(format!("ca.key: {e}")))?;
    let pem = read("ca.pem")?;
    let issuer = Issuer::from_ca_cert_pem(&pem, key).map_err(|e| none(format!("ca.pem: {e}")))?;
    let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|e| none(format!("ca.pem: {e}")))?;
    let ca = block.parse_x509().map_err(|e| none(format!("ca.pem: {e}")))?;
    if ca.public_key().raw != issuer.key().subject_public_key_info() {
        return Err(none("ca.key is not the key of ca.pem".to_owned()));
    }
    Ok((realm, issuer, ca.validity().not_after.to_datetime()))
}

fn alternative_names(uri: Option<String>, request: &Request) -> Result<Vec<SanType>, PkiError> {
    let mut names = Vec::new();
    if let Some(uri) = uri {
        names.push(SanType::URI(Ia5String::try_from(uri)?));
    }
    for dns in &request.dns {
        let host = dns.strip_prefix("*.").unwrap_or(dns);
        let label = |l: &str| !l.is_empty() && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if dns.len() > 253 || !host.split('.').all(label) || host.parse::<IpAddr>().is_ok() {
            return Err(PkiError::Invalid(format!("{dns:?} is not a DNS name; addresses go to --ip")));
        }
        names.push(SanType::DnsName(Ia5String::try_from(dns.as_str())?));
    }
    names.extend(request.ip.iter().map(|ip| SanType::IpAddress(*ip)));
    Ok(names)
}

/// Names become part of URIs and of file names, so they are as narrow as the protocol has them.
fn check(what: &str, name: &str, max: usize) -> Result<(), PkiError> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b);
    if name.is_empty() || name.len() > max || !name.bytes().all(allowed) || name.starts_with('.') {
        return Err(PkiError::Invalid(format!(
            "the {what} must be 1 to {max} of a-z 0-9 . - and not start with a dot"
        )));
    }
    Ok(())
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    // A common name has at most 64 characters; who reads it are people.
    distinguished.push(DnType::CommonName, name.chars().take(64).collect::<String>());
    distinguished
}

fn issued(certificate: PathBuf, private_key: PathBuf, key: &KeyPair, expires: OffsetDateTime) -> Issued {
    let pin = digest::digest(&digest::SHA256, &key.subject_public_key_info());
    Issued {
        certificate,
        private_key,
        expires: expires.replace_nanosecond(0).unwrap_or(expires).format(&Rfc3339).unwrap_or_default(),
        key_pin: HEXLOWER.encode(pin.as_ref()),
    }
}

/// How far the clock of another machine may be behind.
const SKEW: Duration = Duration::minutes(5);
const CA_LIFETIME: Duration = Duration::days(3652);

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, sync::Arc};

    use rustls::{
        RootCertStore,
        client::{WebPkiServerVerifier, danger::ServerCertVerifier},
        crypto::aws_lc_rs::default_provider,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
        server::WebPkiClientVerifier,
    };

    use super::*;

    fn now() -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap()
    }

    fn request(subject: Subject) -> Request {
        Request {
            subject,
            dns: vec!["localhost".into()],
            ip: vec!["127.0.0.1".parse().unwrap()],
            days: 90,
            earlier: Earlier::Keep,
        }
    }

    fn authority() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        init(directory.path(), "example", now()).unwrap();
        directory
    }

    fn uris(certificate: &CertificateDer<'_>) -> Vec<String> {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate).unwrap();
        let names = parsed.subject_alternative_name().unwrap().unwrap().value.general_names.clone();
        let uri = |name| match name {
            x509_parser::extensions::GeneralName::URI(uri) => Some(uri.to_owned()),
            _ => None,
        };
        names.into_iter().filter_map(uri).collect()
    }

    #[test]
    fn certificates_are_accepted_for_their_purpose_and_names_only() {
        let directory = authority();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(directory.path().join("ca.pem")).unwrap()).unwrap();
        let provider = Arc::new(default_provider());
        let roots = Arc::new(roots);
        let servers = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone()).build().unwrap();
        let clients = WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build().unwrap();
        let at = |days: i64| {
            let seconds = (now() + Duration::days(days)).unix_timestamp();
            UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds as u64))
        };
        for (subject, uri, client) in [
            (Subject::Manager, vec!["idb://example/manager".to_owned()], false),
            (Subject::Service("shop.example".into()), vec!["idb://example/service/shop.example".to_owned()], true),
            (Subject::Server("terminals".into()), vec![], false),
        ] {
            let issued = issue(directory.path(), &request(subject.clone()), now()).unwrap();
            let certificate = CertificateDer::from_pem_file(&issued.certificate).unwrap();
            let key = PrivateKeyDer::from_pem_file(&issued.private_key).unwrap();
            assert_eq!(fs::metadata(&issued.private_key).unwrap().permissions().mode() & 0o777, 0o600);
            let signer = provider.key_provider.load_private_key(key).unwrap();
            let spki = signer.public_key().unwrap();
            let pin = digest::digest(&digest::SHA256, &spki);
            assert_eq!(HEXLOWER.encode(pin.as_ref()), issued.key_pin, "the key is the certificate's");
            assert_eq!(uris(&certificate), uri);
            let server = |name: &'static str, time| {
                let name = ServerName::try_from(name).unwrap();
                servers.verify_server_cert(&certificate, &[], &name, &[], time).is_ok()
            };
            assert!(server("localhost", at(0)) && server("127.0.0.1", at(89)), "{subject:?}");
            assert!(!server("example.org", at(0)) && !server("127.0.0.2", at(0)), "a wrong name");
            assert!(!server("localhost", at(91)) && !server("localhost", at(-1)), "a wrong time");
            assert_eq!(clients.verify_client_cert(&certificate, &[], at(0)).is_ok(), client, "{subject:?}");
        }
    }

    #[test]
    fn a_certificate_of_another_authority_is_refused() {
        let (ours, theirs) = (authority(), authority());
        let issued = issue(theirs.path(), &request(Subject::Manager), now()).unwrap();
        let certificate = CertificateDer::from_pem_file(&issued.certificate).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(ours.path().join("ca.pem")).unwrap()).unwrap();
        let verifier =
            WebPkiServerVerifier::builder_with_provider(roots.into(), default_provider().into()).build().unwrap();
        let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now().unix_timestamp() as u64));
        let name = ServerName::try_from("localhost").unwrap();
        assert!(verifier.verify_server_cert(&certificate, &[], &name, &[], time).is_err());
    }

    #[test]
    fn what_is_wrong_is_refused_and_nothing_written() {
        let directory = authority();
        let count = || fs::read_dir(directory.path()).unwrap().count();
        let before = count();
        let with = |change: fn(&mut Request)| {
            let mut request = request(Subject::Server("web".into()));
            change(&mut request);
            request
        };
        for (request, message) in [
            (with(|r| r.subject = Subject::Service("Shop".into())), "a-z 0-9 . -"),
            (with(|r| r.subject = Subject::Service("../x".into())), "a-z 0-9 . -"),
            (with(|r| r.subject = Subject::Server(".x".into())), "not start with a dot"),
            (with(|r| r.subject = Subject::Server("ca".into())), "reserved"),
            (with(|r| r.subject = Subject::Service("manager".into())), "reserved"),
            (with(|r| r.dns = vec!["a b".into()]), "not a DNS name"),
            (with(|r| r.dns = vec!["127.0.0.1".into()]), "--ip"),
            (with(|r| (r.dns, r.ip) = (vec![], vec![])), "give --dns or --ip"),
            (with(|r| r.days = 0), "--days"),
            (with(|r| r.days = 4000), "from 1 to 3652"),
        ] {
            let error = issue(directory.path(), &request, now()).unwrap_err().to_string();
            assert!(error.contains(message), "{request:?}: {error}");
        }
        assert_eq!(count(), before);
    }

    #[test]
    fn nothing_is_replaced_unless_it_is_asked_for() {
        let directory = authority();
        assert!(matches!(init(directory.path(), "other", now()), Err(PkiError::Exists { .. })));
        assert_eq!(fs::read_to_string(directory.path().join("realm")).unwrap(), "example\n");
        let mut again = request(Subject::Manager);
        let first = issue(directory.path(), &again, now()).unwrap();
        let error = issue(directory.path(), &again, now()).unwrap_err().to_string();
        assert!(error.contains("manager.key exists already; --renew keeps the key"), "{error}");
        again.earlier = Earlier::Renew;
        let before = fs::read(directory.path().join("manager.pem")).unwrap();
        assert_eq!(issue(directory.path(), &again, now()).unwrap().key_pin, first.key_pin);
        assert_ne!(fs::read(directory.path().join("manager.pem")).unwrap(), before);
        again.earlier = Earlier::Replace;
        assert_ne!(issue(directory.path(), &again, now()).unwrap().key_pin, first.key_pin);
        let nothing = Request { earlier: Earlier::Renew, ..request(Subject::Server("new".into())) };
        assert!(issue(directory.path(), &nothing, now()).unwrap_err().to_string().contains("new.key"));
    }

    #[test]
    fn a_directory_without_an_authority_is_said_to_have_none() {
        let directory = tempfile::tempdir().unwrap();
        let error = issue(directory.path(), &request(Subject::Manager), now()).unwrap_err().to_string();
        assert!(error.contains("holds no authority") && error.contains("clavigerd pki init"), "{error}");
        let (one, two) = (authority(), authority());
        fs::copy(two.path().join("ca.key"), one.path().join("ca.key")).unwrap();
        let error = issue(one.path(), &request(Subject::Manager), now()).unwrap_err().to_string();
        assert!(error.contains("ca.key is not the key of ca.pem"), "{error}");
    }
}
