//! The identity headers that the upstream receives.

use claviger_plugin_api::Session;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value};

/// Sets all identity headers, the empty ones too, so that an upstream never
/// sees one that it could take from somewhere else.
///
/// Values are ASCII: every other byte, control characters and `%` are
/// percent-encoded; in a group also the comma.
pub(super) fn add_identity(headers: &mut HeaderMap, session: &Session) {
    let identity = &session.identity;
    // The management server writes an object; anything else releases nothing.
    let attributes: Map<String, Value> = serde_json::from_str(&identity.attributes).unwrap_or_default();
    let text = |name: &str| attributes.get(name).and_then(Value::as_str).unwrap_or_default();
    let user = match text("user") {
        "" => identity.subject.as_str(),
        user => user,
    };
    let groups: Vec<String> = match attributes.get("groups") {
        Some(Value::Array(groups)) => groups.iter().filter_map(Value::as_str).map(|g| encode(g, true)).collect(),
        _ => Vec::new(),
    };
    for (name, value) in [
        ("remote-user", encode(user, false)),
        ("remote-groups", groups.join(",")),
        ("remote-subject", encode(&identity.subject, false)),
        ("remote-email", encode(text("email"), false)),
        ("remote-name", encode(text("name"), false)),
    ] {
        // An encoded value is always valid; should that ever be wrong, it is empty and never somebody else's.
        let value = HeaderValue::from_str(&value).unwrap_or(HeaderValue::from_static(""));
        headers.insert(HeaderName::from_static(name), value);
    }
}

fn encode(text: &str, in_list: bool) -> String {
    let last = text.len().saturating_sub(1);
    let mut encoded = String::with_capacity(text.len());
    for (at, byte) in text.bytes().enumerate() {
        let plain = match byte {
            b' ' => at != 0 && at != last,
            b'%' => false,
            b',' => !in_list,
            byte => byte.is_ascii_graphic(),
        };
        if plain {
            encoded.push(char::from(byte));
        } else {
            const HEX: &[u8; 16] = b"0123456789ABCDEF";
            let digit = |nibble: u8| char::from(HEX[usize::from(nibble)]);
            encoded.extend(['%', digit(byte >> 4), digit(byte & 15)]);
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use claviger_plugin_api::Identity;

    use super::*;

    fn headers_of(subject: &str, attributes: &str) -> Vec<String> {
        let identity = Identity::new("s".into(), subject.into(), [0; 16], SystemTime::now(), attributes.into());
        let mut headers = HeaderMap::new();
        add_identity(&mut headers, &Session::new(identity, b"k".to_vec(), SystemTime::now(), false));
        ["user", "groups", "subject", "email", "name"]
            .map(|name| headers[format!("remote-{name}").as_str()].to_str().unwrap().to_owned())
            .to_vec()
    }

    #[test]
    fn every_header_is_set_and_ascii() {
        for (attributes, expected) in [
            ("{}", ["s1", "", "s1", "", ""]),
            ("not json", ["s1", "", "s1", "", ""]),
            ("[1]", ["s1", "", "s1", "", ""]),
            (r#"{"user":"ann"}"#, ["ann", "", "s1", "", ""]),
            (r#"{"user":"","groups":"admins"}"#, ["s1", "", "s1", "", ""]),
            (
                r#"{"user":"ann","groups":["dev","ops"],"email":"ann@example.org","name":"Ann Lee"}"#,
                ["ann", "dev,ops", "s1", "ann@example.org", "Ann Lee"],
            ),
            (
                r#"{"user":"änn\r\nRemote-User: root","groups":["a,admins","100%"],"name":" x "}"#,
                ["%C3%A4nn%0D%0ARemote-User: root", "a%2Cadmins,100%25", "s1", "", "%20x%20"],
            ),
        ] {
            assert_eq!(headers_of("s1", attributes), expected, "{attributes}");
        }
    }
}
