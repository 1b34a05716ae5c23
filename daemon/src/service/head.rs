//! What a request head must be like before anything is done with it.

use http::{HeaderMap, Method, Request, StatusCode, Version, header, uri::Authority};

/// Why a request is refused for its head alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BadHead {
    pub(super) status: StatusCode,
    pub(super) detail: &'static str,
}

/// Checks what proxies and upstreams could understand differently, and gives
/// the authority that the client meant.
pub(super) fn authority<B>(request: &Request<B>) -> Result<Authority, BadHead> {
    let bad = |detail| BadHead { status: StatusCode::BAD_REQUEST, detail };
    let headers = request.headers();
    if headers.contains_key(header::TRANSFER_ENCODING)
        && (headers.contains_key(header::CONTENT_LENGTH) || request.version() != Version::HTTP_11)
    {
        return Err(bad("the length of the body is ambiguous"));
    }
    // Only `chunked` is undone here; of another coding the upstream would never hear.
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    if codings.next().is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
        || codings.next().is_some()
    {
        return Err(BadHead { status: StatusCode::NOT_IMPLEMENTED, detail: "this transfer coding is not known" });
    }
    if headers.get_all(header::CONTENT_LENGTH).iter().count() > 1 {
        return Err(bad("the length of the body is ambiguous"));
    }
    if [Method::CONNECT, Method::TRACE].contains(request.method()) {
        return Err(BadHead { status: StatusCode::METHOD_NOT_ALLOWED, detail: "this method is not served" });
    }
    if !request.uri().path().starts_with('/') {
        return Err(bad("the target is not a path"));
    }
    let host = host(headers).map_err(|()| bad("the host is ambiguous"))?;
    let authority = match (request.uri().authority().cloned(), host) {
        // Of an absolute target the host counts, in HTTP/1.1; the same must be in both.
        (Some(target), Some(host)) if !target.as_str().eq_ignore_ascii_case(host.as_str()) => {
            return Err(bad("the host is ambiguous"));
        }
        (Some(target), _) => target,
        (None, Some(host)) => host,
        (None, None) => return Err(bad("the host is missing")),
    };
    if authority.as_str().contains('@') {
        return Err(bad("the host is not valid"));
    }
    Ok(authority)
}

/// The only `Host` header.
fn host(headers: &HeaderMap) -> Result<Option<Authority>, ()> {
    let mut values = headers.get_all(header::HOST).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => Authority::try_from(value.as_bytes()).map(Some).map_err(drop),
        _ => Err(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unambiguous_heads_pass() {
        let head = |uri: &str, headers: &[(&str, &str)]| {
            let mut request = Request::get(uri);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            authority(&request.body(()).unwrap()).map(|a| a.to_string()).map_err(|e| e.status.as_u16())
        };
        let shop = Ok("shop.example".to_owned());
        assert_eq!(head("/", &[("host", "shop.example")]), shop);
        assert_eq!(head("https://shop.example/", &[]), shop);
        assert_eq!(head("https://shop.example/", &[("host", "Shop.Example")]), shop);
        assert_eq!(head("/", &[("host", "a:8443")]), Ok("a:8443".to_owned()));
        for (uri, headers) in [
            ("/", &[][..]),
            ("/", &[("host", "a"), ("host", "a")]),
            ("/", &[("host", "a b")]),
            ("/", &[("host", "user@a")]),
            ("https://a/", &[("host", "b")]),
            ("*", &[("host", "a")]),
            ("/", &[("host", "a"), ("transfer-encoding", "chunked"), ("content-length", "3")]),
            ("/", &[("host", "a"), ("content-length", "3"), ("content-length", "3")]),
        ] {
            assert_eq!(head(uri, headers), Err(400), "{uri} {headers:?}");
        }
    }

    #[test]
    fn of_transfer_codings_only_chunked_passes() {
        for (codings, good) in [
            (&["chunked"][..], true),
            (&["Chunked"], true),
            (&["gzip, chunked"], false),
            (&["chunked, chunked"], false),
            (&["chunked", "chunked"], false),
            (&["gzip", "chunked"], false),
            (&["identity"], false),
            (&[""], false),
        ] {
            let mut request = Request::post("/").header("host", "a");
            for coding in codings {
                request = request.header("transfer-encoding", *coding);
            }
            let status = authority(&request.body(()).unwrap()).map(drop).map_err(|bad| bad.status);
            assert_eq!(status, if good { Ok(()) } else { Err(StatusCode::NOT_IMPLEMENTED) }, "{codings:?}");
        }
    }

    #[test]
    fn methods_that_a_gateway_must_not_pass_are_refused() {
        for method in [Method::CONNECT, Method::TRACE] {
            let request = Request::builder().method(method).uri("/").header("host", "a").body(()).unwrap();
            assert_eq!(authority(&request).unwrap_err().status, StatusCode::METHOD_NOT_ALLOWED);
        }
    }
}
