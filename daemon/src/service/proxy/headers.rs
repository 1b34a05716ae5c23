//! Which headers cross the proxy, in both directions.

use std::net::{IpAddr, SocketAddr};

use http::{
    HeaderMap, HeaderName, HeaderValue, Version, header,
    uri::{Authority, Scheme},
};

/// What of a request's head is for this hop and still matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hop {
    /// The client asks for a WebSocket.
    pub(super) websocket: bool,
    /// The client takes trailers.
    pub(super) trailers: bool,
}

/// Reads what this hop needs, before [`strip_request`] removes it.
///
/// Of all upgrades only `websocket` is passed on: `h2c` would open a tunnel
/// in which no request is looked at any more.
pub(super) fn hop(version: Version, headers: &HeaderMap) -> Hop {
    let websocket = version == Version::HTTP_11
        && tokens(headers, &header::CONNECTION).any(|t| t.eq_ignore_ascii_case("upgrade"))
        && {
            let mut upgrades = tokens(headers, &header::UPGRADE);
            upgrades.next().is_some_and(|t| t.eq_ignore_ascii_case("websocket")) && upgrades.next().is_none()
        };
    let trailers = tokens(headers, &header::TE).any(|t| t.eq_ignore_ascii_case("trailers"));
    Hop { websocket, trailers }
}

/// Removes from a request what is for this hop only, what this proxy sets
/// itself, and the key.
pub(super) fn strip_request(headers: &mut HeaderMap) {
    strip_hop_by_hop(headers);
    let unwanted: Vec<HeaderName> = headers.keys().filter(|name| is_ours(name)).cloned().collect();
    for name in unwanted {
        headers.remove(name);
    }
    for name in [header::AUTHORIZATION, header::EXPECT, header::HOST] {
        headers.remove(name);
    }
    join_cookies(headers);
}

/// Removes from the trailers of a request what must not be in its headers:
/// some servers make no difference.
pub(super) fn strip_trailers(trailers: &mut HeaderMap) {
    strip_request(trailers);
    for name in [header::CONTENT_LENGTH, header::COOKIE, header::CONTENT_TYPE] {
        trailers.remove(name);
    }
}

/// Removes what is between one sender and the next recipient (RFC 9110,
/// section 7.6.1), including what `Connection` names.
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = tokens(headers, &header::CONNECTION)
        .filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Tells the upstream who asks, from where and for what.
pub(super) fn add_forwarding(
    headers: &mut HeaderMap,
    client: SocketAddr,
    authority: &Authority,
    scheme: &Scheme,
    client_version: Version,
) {
    // Of an address that is IPv4 inside IPv6 the upstream wants to see IPv4.
    let client = client.ip().to_canonical();
    let node = match client {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("\"[{v6}]\""),
    };
    // An authority holds neither quotes nor backslashes, so it can be quoted as it is.
    let forwarded = format!("for={node};host=\"{authority}\";proto={scheme}");
    let via = if client_version == Version::HTTP_2 { "2 claviger" } else { "1.1 claviger" };
    for (name, value) in [
        (header::HOST, authority.as_str()),
        (header::FORWARDED, &forwarded),
        (HeaderName::from_static("x-forwarded-for"), &client.to_string()),
        (HeaderName::from_static("x-forwarded-proto"), scheme.as_str()),
        (HeaderName::from_static("x-forwarded-host"), authority.as_str()),
    ] {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    }
    headers.append(header::VIA, HeaderValue::from_static(via));
}

/// Headers that only this proxy may set, however they are spelled: servers of
/// the CGI family cannot tell `Remote-User` from `remote_user` or `Remote.User`.
/// Nor can they tell `Proxy` from the setting `HTTP_PROXY`, and nobody needs it.
fn is_ours(name: &HeaderName) -> bool {
    let normal = |b: u8| if b.is_ascii_alphanumeric() { b.to_ascii_lowercase() } else { b'-' };
    let starts = |prefix: &str| {
        name.as_str().len() >= prefix.len() && name.as_str().bytes().zip(prefix.bytes()).all(|(a, b)| normal(a) == b)
    };
    let is = |whole: &str| name.as_str().len() == whole.len() && starts(whole);
    starts("remote-") || starts("x-forwarded-") || is("remote") || is("forwarded") || is("x-real-ip") || is("proxy")
}

/// HTTP/2 may split the cookie into several headers; HTTP/1.1 must not (RFC 9113, section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(header::COOKIE).iter().count() < 2 {
        return;
    }
    let parts: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&parts.join(&b"; "[..])) {
        headers.insert(header::COOKIE, joined);
    }
}

/// The elements of a comma-separated header, without parameters.
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .map(|token| token.split(';').next().unwrap_or_default().trim())
        .filter(|token| !token.is_empty())
}

const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("http2-settings"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn map(headers: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        map
    }

    #[test]
    fn no_spelling_of_our_own_headers_survives() {
        for name in [
            "Remote-User",
            "remote_user",
            "REMOTE_GROUPS",
            "Remote.User",
            "remote~user",
            "Remote-Anything-Else",
            "remote_",
            "Remote",
            "X-Forwarded-For",
            "x_forwarded_for",
            "X-Forwarded-Port",
            "Forwarded",
            "X-Real-IP",
            "x_real_ip",
            "Proxy",
            "Authorization",
        ] {
            let mut headers = map(&[(name, "root"), (name, "again"), ("accept", "*/*")]);
            strip_request(&mut headers);
            assert_eq!(headers, map(&[("accept", "*/*")]), "{name}");
            let mut trailers = map(&[(name, "root")]);
            strip_trailers(&mut trailers);
            assert!(trailers.is_empty(), "{name} in trailers");
        }
    }

    #[test]
    fn similar_names_are_left_alone() {
        let headers = map(&[("remotely", "x"), ("x-remote-user", "x"), ("x-forward", "x"), ("forwarded-for", "x")]);
        let mut stripped = headers.clone();
        strip_request(&mut stripped);
        assert_eq!(stripped, headers);
    }

    #[test]
    fn what_connection_names_is_removed() {
        let mut headers = map(&[
            ("connection", "close, X-Secret"),
            ("connection", "x-other"),
            ("x-secret", "1"),
            ("x-other", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABkAAQAAP__"),
            ("proxy-connection", "keep-alive"),
            ("trailer", "x-checksum"),
        ]);
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers, map(&[("trailer", "x-checksum")]));
    }

    #[test]
    fn only_websockets_are_upgraded_and_only_over_http_1_1() {
        let ask =
            |version, upgrade: &str| hop(version, &map(&[("connection", "Upgrade"), ("upgrade", upgrade)])).websocket;
        assert!(ask(Version::HTTP_11, "WebSocket"));
        for (version, upgrade) in
            [(Version::HTTP_11, "h2c"), (Version::HTTP_11, "websocket, h2c"), (Version::HTTP_10, "websocket")]
        {
            assert!(!ask(version, upgrade), "{upgrade}");
        }
        assert!(!hop(Version::HTTP_11, &map(&[("upgrade", "websocket")])).websocket);
    }

    #[test]
    fn forwarding_headers_name_the_client() {
        let authority = Authority::from_static("shop.example:8443");
        for (client, forwarded, plain) in [
            ("192.0.2.7:1234", "for=192.0.2.7;host=\"shop.example:8443\";proto=https", "192.0.2.7"),
            ("[::ffff:192.0.2.7]:1", "for=192.0.2.7;host=\"shop.example:8443\";proto=https", "192.0.2.7"),
            ("[2001:db8::1]:1", "for=\"[2001:db8::1]\";host=\"shop.example:8443\";proto=https", "2001:db8::1"),
        ] {
            let mut headers = HeaderMap::new();
            add_forwarding(&mut headers, client.parse().unwrap(), &authority, &Scheme::HTTPS, Version::HTTP_2);
            assert_eq!(headers["forwarded"], forwarded);
            assert_eq!(headers["x-forwarded-for"], plain);
            assert_eq!(headers["x-forwarded-proto"], "https");
            assert_eq!(headers["x-forwarded-host"], "shop.example:8443");
            assert_eq!(headers["host"], "shop.example:8443");
            assert_eq!(headers["via"], "2 claviger");
        }
    }

    #[test]
    fn split_cookies_are_joined() {
        let mut headers = map(&[("cookie", "a=1"), ("cookie", "b=2")]);
        strip_request(&mut headers);
        assert_eq!(headers, map(&[("cookie", "a=1; b=2")]));
    }
}
