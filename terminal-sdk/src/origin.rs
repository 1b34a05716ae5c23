//! The origins of services and servers: `https`, a host and a port.

use std::{fmt, str::FromStr};

use http::{
    Uri,
    uri::{Authority, PathAndQuery, Scheme},
};

use crate::error::{Error, Result};

/// `https://host` or `https://host:port`, in lower case and without the
/// default port, so that equal origins are equal texts.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin(Box<str>);

impl Origin {
    /// The origin of an absolute URI.
    pub fn of(uri: &Uri) -> Result<Self> {
        if uri.scheme() != Some(&Scheme::HTTPS) {
            return Err(Error::Invalid(format!("`{uri}` does not start with https://; keys are sent over TLS only")));
        }
        let authority = uri.authority().ok_or_else(|| Error::Invalid(format!("`{uri}` has no host")))?;
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return Err(Error::Invalid("an origin has a host and no user name".into()));
        }
        // Not `Authority::port`, which takes a port that is not valid for none.
        let port = &authority.as_str()[authority.host().len()..];
        let port = match port.strip_prefix(':') {
            None => 443,
            Some(port) => port.parse::<u16>().map_err(|_| Error::Invalid(format!("`{port}` is not a port")))?,
        };
        let host = authority.host().to_ascii_lowercase();
        Ok(Self(if port == 443 { format!("https://{host}") } else { format!("https://{host}:{port}") }.into()))
    }

    /// The origin as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Host and port as they stand in the URL, such as `[::1]:8443`.
    pub(crate) fn authority(&self) -> &str {
        &self.0["https://".len()..]
    }

    /// The host, an IPv6 address without its brackets, and the port.
    pub(crate) fn host_and_port(&self) -> (&str, u16) {
        let authority = self.authority();
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().unwrap_or(443)),
            _ => (authority, 443),
        };
        (host.trim_start_matches('[').trim_end_matches(']'), port)
    }

    /// The URI of `path` (with its query, starting with `/`) at this origin.
    pub fn uri(&self, path: &str) -> Result<Uri> {
        let invalid = || Error::Invalid(format!("`{path}` is not a path"));
        let authority: Authority = self.authority().parse().map_err(|_| invalid())?;
        let path: PathAndQuery = path.parse().map_err(|_| invalid())?;
        Uri::builder().scheme(Scheme::HTTPS).authority(authority).path_and_query(path).build().map_err(|_| invalid())
    }
}

impl FromStr for Origin {
    type Err = Error;

    /// Reads `https://host[:port]`; a path other than `/` is an error.
    fn from_str(text: &str) -> Result<Self> {
        let uri: Uri = text.parse().map_err(|_| Error::Invalid(format!("`{text}` is not a URL")))?;
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() || text.contains('#') {
            return Err(Error::Invalid(format!("`{text}` has a path; expected https://HOST or https://HOST:PORT")));
        }
        Self::of(&uri)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_origins_are_equal_texts() {
        for (text, origin) in [
            ("https://Shop.Example", "https://shop.example"),
            ("https://shop.example/", "https://shop.example"),
            ("https://shop.example:443", "https://shop.example"),
            ("https://shop.example:08443", "https://shop.example:8443"),
            ("https://[::1]:8443", "https://[::1]:8443"),
        ] {
            assert_eq!(text.parse::<Origin>().unwrap().as_str(), origin);
        }
    }

    #[test]
    fn host_and_port_are_told_apart() {
        for (text, host, port) in [
            ("https://shop.example", "shop.example", 443),
            ("https://shop.example:8443", "shop.example", 8443),
            ("https://[::1]", "::1", 443),
            ("https://[::1]:8443", "::1", 8443),
        ] {
            assert_eq!(text.parse::<Origin>().unwrap().host_and_port(), (host, port));
        }
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        for text in [
            "",
            "shop.example",
            "http://shop.example",
            "https://shop.example/path",
            "https://shop.example?q",
            "https://shop.example#f",
            "https://user@shop.example",
            "https://shop.example:99999",
            "https://shop.example:",
            "ftp://shop.example",
            "https://",
        ] {
            assert!(text.parse::<Origin>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_path_is_put_behind_the_origin() {
        let origin: Origin = "https://shop.example:8443".parse().unwrap();
        assert_eq!(origin.uri("/a/b?c=d").unwrap().to_string(), "https://shop.example:8443/a/b?c=d");
    }
}
