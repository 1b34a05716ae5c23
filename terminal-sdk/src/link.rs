//! Enrolment links: a code together with the management server, its realm and
//! its public key, for QR codes and messages.
//!
//! `idb1:enrol?server=https%3A%2F%2Fmanager.example&realm=example&spki=…&code=…`

use claviger_protocol::{Realm, enrolment_code::EnrolmentCode};
use data_encoding::BASE64URL_NOPAD;
use zeroize::Zeroizing;

use crate::{
    error::{Error, Result},
    origin::Origin,
};

/// What a link says. The code is a secret until it is used.
#[derive(Debug, Clone)]
pub struct EnrolmentLink {
    /// The management server.
    pub server: Origin,
    /// The realm.
    pub realm: Realm,
    /// SHA-256 of the server's SubjectPublicKeyInfo: its certificate is
    /// accepted by that alone.
    pub spki: Option<[u8; 32]>,
    /// The code.
    pub code: EnrolmentCode,
}

impl EnrolmentLink {
    /// Whether a text is meant as a link, right or wrong.
    pub fn is_link(text: &str) -> bool {
        text.split_once(':').is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case("idb1"))
    }

    /// Reads a link. Parameters that are not known are passed over; the ones
    /// that are must be valid and occur once. No error repeats the code.
    pub fn parse(text: &str) -> Result<Self> {
        let query = text.split_once(':').filter(|_| Self::is_link(text)).and_then(|(_, rest)| rest.split_once('?'));
        let (_, query) = query
            .filter(|(action, _)| action.eq_ignore_ascii_case("enrol"))
            .ok_or_else(|| invalid("it does not start with `idb1:enrol?`"))?;
        let (mut server, mut realm, mut spki, mut code) = (None, None, None, None);
        for parameter in query.split('&') {
            let (name, value) = parameter.split_once('=').ok_or_else(|| invalid("a parameter has no value"))?;
            let slot = match name {
                "server" => &mut server,
                "realm" => &mut realm,
                "spki" => &mut spki,
                "code" => &mut code,
                _ => continue,
            };
            let value = decode(value).ok_or_else(|| invalid("a parameter is not percent-encoded"))?;
            if slot.replace(value).is_some() {
                return Err(invalid("a parameter occurs twice"));
            }
        }
        let spki = spki.map(|text| BASE64URL_NOPAD.decode(text.as_bytes()).ok().and_then(|hash| hash.try_into().ok()));
        Ok(Self {
            server: server.ok_or_else(|| invalid("it names no server"))?.parse()?,
            realm: realm.ok_or_else(|| invalid("it names no realm"))?.parse().map_err(Error::Invalid)?,
            spki: match spki {
                None => None,
                Some(Some(hash)) => Some(hash),
                Some(None) => return Err(invalid("`spki` is not a SHA-256 in base64url")),
            },
            code: EnrolmentCode::parse(&code.ok_or_else(|| invalid("it has no code"))?)
                .map_err(|error| Error::Invalid(error.to_string()))?,
        })
    }
}

fn invalid(reason: &str) -> Error {
    Error::Invalid(format!("the enrolment link is not valid: {reason}; copy it again"))
}

/// Undoes percent-encoding.
fn decode(text: &str) -> Option<Zeroizing<String>> {
    let mut out = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let digits = [char::from(bytes.next()?), char::from(bytes.next()?)];
                let [high, low] = digits.map(|digit| digit.to_digit(16));
                (high? << 4 | low?) as u8
            }
            other => other,
        });
    }
    std::str::from_utf8(&out).ok().map(|text| Zeroizing::new(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: &str = "T7ZRGMM5G-0Q0Q46JPD-M48EQ594V";
    const SERVER: &str = "server=https%3A%2F%2Fmanager.example%3a8443";
    const SPKI: &str = "spki=AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

    #[test]
    fn a_link_has_all_that_enrolment_needs() {
        for text in [
            format!("idb1:enrol?{SERVER}&realm=example&{SPKI}&code={CODE}"),
            format!("IDB1:enrol?code={CODE}&later=1&realm=example&{SPKI}&{SERVER}"),
        ] {
            let link = EnrolmentLink::parse(&text).unwrap();
            assert_eq!(link.server.as_str(), "https://manager.example:8443");
            assert_eq!(link.realm.as_str(), "example");
            assert_eq!(link.spki.unwrap()[..3], [0, 1, 2]);
            assert_eq!(link.code.expose(), CODE);
            assert!(!format!("{link:?}").contains(CODE));
        }
        let unpinned = format!("idb1:enrol?server=https://m&realm=example&code={CODE}");
        assert_eq!(EnrolmentLink::parse(&unpinned).unwrap().spki, None);
    }

    #[test]
    fn links_that_are_not_valid_say_why_and_do_not_show_the_code() {
        for (text, reason) in [
            (format!("idb1:rotate?{SERVER}&realm=a&code={CODE}"), "idb1:enrol?"),
            (format!("http:enrol?{SERVER}&realm=a&code={CODE}"), "idb1:enrol?"),
            ("idb1:enrol".to_owned(), "idb1:enrol?"),
            (format!("idb1:enrol?realm=a&code={CODE}"), "no server"),
            (format!("idb1:enrol?{SERVER}&code={CODE}"), "no realm"),
            (format!("idb1:enrol?{SERVER}&realm=a"), "no code"),
            (format!("idb1:enrol?{SERVER}&realm=a&code={CODE}&realm=b"), "twice"),
            (format!("idb1:enrol?{SERVER}&realm=a&code={CODE}&spki=AAAA"), "SHA-256"),
            (format!("idb1:enrol?server=http%3A%2F%2Fm&realm=a&code={CODE}"), "https://"),
            (format!("idb1:enrol?server=%zz&realm=a&code={CODE}"), "percent"),
            (format!("idb1:enrol?{SERVER}&realm=A&code={CODE}"), "realm"),
            (format!("idb1:enrol?{SERVER}&realm=a&code={}W", &CODE[..28]), "typing error"),
        ] {
            let error = EnrolmentLink::parse(&text).unwrap_err().to_string();
            assert!(error.contains(reason) && !error.contains(&CODE[..20]), "{text}: {error}");
        }
        assert!(!EnrolmentLink::is_link(CODE));
    }
}
