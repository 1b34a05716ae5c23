//! `/metrics`, `/livez` and `/readyz`, on a listener of their own without TLS.

use async_trait::async_trait;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;

use super::{
    metrics::{CONTENT_TYPE, Metrics},
    readiness::Readiness,
};
use crate::net::{Body, Handler, Peer, full};

/// Answers what monitoring asks.
#[derive(Clone)]
pub struct TelemetryHandler {
    metrics: Metrics,
    readiness: Readiness,
}

impl TelemetryHandler {
    /// For these metrics and components.
    pub fn new(metrics: Metrics, readiness: Readiness) -> Self {
        Self { metrics, readiness }
    }

    /// Status, content type and body for a request.
    ///
    /// `/livez` is 200 for as long as the process can answer at all; `/readyz`
    /// is a JSON [`super::readiness::Report`], 200 when ready and 503 otherwise.
    pub fn respond(&self, method: &Method, path: &str) -> (StatusCode, &'static str, String) {
        if !matches!(path, "/metrics" | "/livez" | "/readyz") {
            return (StatusCode::NOT_FOUND, TEXT, "there are /metrics, /livez and /readyz\n".to_owned());
        }
        if method != Method::GET && method != Method::HEAD {
            return (StatusCode::METHOD_NOT_ALLOWED, TEXT, "GET or HEAD\n".to_owned());
        }
        match path {
            "/metrics" => (StatusCode::OK, CONTENT_TYPE, self.metrics.render()),
            "/livez" => (StatusCode::OK, TEXT, "alive\n".to_owned()),
            _ => {
                let report = self.readiness.report();
                let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                // Names and reasons are strings: this cannot fail, and an empty body would still carry the status.
                (status, "application/json", serde_json::to_string(&report).unwrap_or_default())
            }
        }
    }
}

#[async_trait]
impl Handler for TelemetryHandler {
    async fn handle(&self, request: Request<Incoming>, _peer: Peer) -> Response<Body> {
        let (status, content_type, body) = self.respond(request.method(), request.uri().path());
        // hyper leaves the body of an answer to HEAD away and keeps its length.
        let mut response = Response::new(full(body));
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::METHOD_NOT_ALLOWED {
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        response
    }
}

const TEXT: &str = "text/plain; charset=utf-8";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_methods_and_readiness_decide_the_status() {
        let readiness = Readiness::new();
        let handler = TelemetryHandler::new(Metrics::detached(), readiness.clone());
        let status = |method: Method, path: &str| handler.respond(&method, path).0.as_u16();
        let flag = readiness.register("service");
        for (method, path, expected) in [
            (Method::GET, "/metrics", 200),
            (Method::HEAD, "/livez", 200),
            (Method::POST, "/livez", 405),
            (Method::GET, "/", 404),
            (Method::GET, "/readyz", 503),
        ] {
            assert_eq!(status(method.clone(), path), expected, "{method} {path}");
        }
        flag.ready();
        let (status, content_type, body) = handler.respond(&Method::GET, "/readyz");
        assert_eq!((status.as_u16(), content_type), (200, "application/json"));
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&body).unwrap(),
            serde_json::json!({"ready": true, "draining": false, "components": [{"name": "service", "ready": true}]})
        );
    }
}
