//! Answers that are not the upstream's: small problem documents (RFC 9457).

use http::{Response, StatusCode, header};

use crate::net::{Body, body::with_type};

/// An answer of status `status` whose document says `detail`, which must not
/// hold anything of the request.
pub(super) fn problem(status: StatusCode, detail: &str) -> Response<Body> {
    let document = serde_json::json!({
        "title": status.canonical_reason().unwrap_or("Error"),
        "status": status.as_u16(),
        "detail": detail,
    });
    let mut response = with_type(status, "application/problem+json", document.to_string());
    response.headers_mut().insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    response
}
