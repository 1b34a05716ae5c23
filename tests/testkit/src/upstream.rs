//! A sample application behind the service: it answers each request with what
//! it received, and trusts the identity headers, as such applications do.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use serde_json::{Map, Value, json};
use tiny_http::{Header, Response, Server};

use crate::Result;

/// A running application. It ends with the process.
#[derive(Debug, Clone)]
pub struct Upstream {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// A request that the application received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Its headers, names in lower case.
    pub headers: Vec<(String, String)>,
}

impl Upstream {
    /// Starts it on a free port of loopback.
    pub fn start() -> Result<Self> {
        let server = Server::http("127.0.0.1:0").map_err(|error| format!("upstream: {error}"))?;
        let address = server.server_addr().to_ip().ok_or("upstream: no address")?;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let upstream = Self { address, seen: seen.clone() };
        thread::spawn(move || {
            for request in server.incoming_requests() {
                let request_seen = Seen {
                    method: request.method().to_string(),
                    target: request.url().to_owned(),
                    headers: request
                        .headers()
                        .iter()
                        .map(|h| (h.field.as_str().as_str().to_ascii_lowercase(), h.value.to_string()))
                        .collect(),
                };
                let body = format!("{:#}\n", describe(&request_seen));
                seen.lock().unwrap_or_else(PoisonError::into_inner).push(request_seen);
                let mut response = Response::from_string(body);
                if let Ok(header) = Header::from_bytes("content-type", "application/json") {
                    response.add_header(header);
                }
                let _ = request.respond(response); // whoever asked may have gone
            }
        });
        Ok(upstream)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has received so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Seen {
    /// All values of a header, by its name in lower case.
    pub fn header(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(n, _)| n == name).map(|(_, value)| value.as_str()).collect()
    }
}

fn describe(seen: &Seen) -> Value {
    let mut headers = Map::new();
    for (name, value) in &seen.headers {
        headers.insert(name.clone(), json!(value));
    }
    json!({ "method": seen.method, "target": seen.target, "headers": headers })
}
