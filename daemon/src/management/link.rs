//! Enrolment links: everything that a terminal needs, in one line of text or
//! one QR code.

use std::{fs, path::Path};

use claviger_protocol::enrolment_code::EnrolmentCode;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::{config::types::TerminalsListener, net::tls::public_key_sha256};

/// Where terminals enrol, and the key by which they recognise the server.
#[derive(Debug, Clone)]
pub struct Links {
    url: String,
    realm: String,
    public_key: [u8; 32],
}

impl Links {
    /// From the listener's certificate: its key, and where no URL is
    /// configured its first name.
    pub fn read(listener: &TerminalsListener, realm: &str) -> Result<Self, String> {
        let certificate = leaf(&listener.certificate)?;
        let failed = |problem: &str| format!("{}: {problem}", listener.certificate.display());
        let public_key = public_key_sha256(&certificate).ok_or_else(|| failed("the certificate cannot be read"))?;
        let url = match &listener.url {
            Some(url) => url.to_string().trim_end_matches('/').to_owned(),
            None => {
                let name = first_name(&certificate)
                    .ok_or_else(|| failed("the certificate has no DNS name; set `url` in [management.terminals]"))?;
                format!("https://{name}:{}", listener.listen.port())
            }
        };
        Ok(Self { url, realm: realm.to_owned(), public_key })
    }

    /// The link for a code. A secret like the code itself.
    pub fn with(&self, code: &EnrolmentCode) -> String {
        let spki = data_encoding::BASE64URL_NOPAD.encode(&self.public_key);
        let (server, realm) = (escape(&self.url), &self.realm);
        format!("idb1:enrol?server={server}&realm={realm}&spki={spki}&code={}", code.expose())
    }
}

fn leaf(path: &Path) -> Result<CertificateDer<'static>, String> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let pem = fs::read(path).map_err(|error| failed(&error))?;
    CertificateDer::from_pem_slice(&pem).map_err(|error| failed(&error))
}

fn first_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let names = parsed.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    })
}

/// Percent-encoding (RFC 3986) of all but the unreserved characters.
fn escape(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_has_server_realm_key_and_code() {
        let links = Links { url: "https://m.example:8443".into(), realm: "example".into(), public_key: [0; 32] };
        let link = links.with(&EnrolmentCode::new([7; 16]));
        let expected = "idb1:enrol?server=https%3A%2F%2Fm.example%3A8443&realm=example&spki=AAAA";
        assert!(link.starts_with(expected), "{link}");
        assert!(link.ends_with(&EnrolmentCode::new([7; 16]).expose()));
    }
}
