//! The load: sign-ons as a service hands them in, as many at a time as are
//! wanted, each new one as soon as another is answered (a closed loop).

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use claviger_daemon::net::{
    self,
    client::{HttpsClient, https_client},
    tls::client_config,
};
use claviger_protocol::CONTENT_TYPE;
use claviger_testkit::{Deployment, REALM, SERVICE};
use http::{HeaderValue, Request, StatusCode, Uri, header};
use tokio::task::JoinSet;

use crate::go_on;

/// The connections of a service to its management daemon: mutual TLS, HTTP/2.
pub(crate) struct Service {
    endpoint: Uri,
    connections: Vec<HttpsClient>,
}

/// What some time of load has brought.
#[derive(Debug, Default)]
pub(crate) struct Brought {
    /// From the first request to the last answer.
    pub(crate) elapsed: Duration,
    /// Of each sign-on, in microseconds, in the order of their length.
    pub(crate) latencies: Vec<u32>,
}

impl Service {
    pub(crate) fn new(deployment: &Deployment, connections: usize) -> Result<Self, String> {
        let pki = deployment.directory().join("pki");
        let (certificate, key) = (pki.join(format!("{SERVICE}.pem")), pki.join(format!("{SERVICE}.key")));
        let tls = client_config(
            Some(&pki.join("ca.pem")),
            Some((&certificate, &key)),
            Some(format!("idb://{REALM}/manager")),
        );
        let tls = tls.map_err(|error| error.to_string())?;
        let endpoint = format!("https://{}/idb/v1/decrypt", deployment.services_address());
        Ok(Self {
            endpoint: endpoint.parse().map_err(|error| format!("{endpoint}: {error}"))?,
            // Each client has one connection, on which its requests run beside each other.
            connections: (0..connections).map(|_| https_client(tls.clone())).collect(),
        })
    }

    /// Hands in envelopes, `in_flight` at a time, until there are none left or
    /// the time is over. Each must be granted.
    pub(crate) async fn load(
        &self,
        envelopes: Vec<Bytes>,
        in_flight: usize,
        limit: Duration,
    ) -> Result<Brought, String> {
        let (envelopes, next) = (Arc::new(envelopes), Arc::new(AtomicUsize::new(0)));
        let started = Instant::now();
        let mut lanes = JoinSet::new();
        for lane in 0..in_flight {
            let lane = Lane {
                client: self.connections[lane % self.connections.len()].clone(),
                endpoint: self.endpoint.clone(),
                envelopes: envelopes.clone(),
                next: next.clone(),
                end: started + limit,
            };
            lanes.spawn(lane.run());
        }
        let mut brought = Brought::default();
        while let Some(ended) = lanes.join_next().await {
            brought.latencies.extend(ended.map_err(|error| error.to_string())??);
        }
        brought.elapsed = started.elapsed();
        brought.latencies.sort_unstable();
        Ok(brought)
    }
}

/// One sign-on after the other.
struct Lane {
    client: HttpsClient,
    endpoint: Uri,
    envelopes: Arc<Vec<Bytes>>,
    next: Arc<AtomicUsize>,
    end: Instant,
}

impl Lane {
    async fn run(self) -> Result<Vec<u32>, String> {
        let mut latencies = Vec::new();
        loop {
            let started = Instant::now();
            let next = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(envelope) = self.envelopes.get(next).filter(|_| started < self.end) else { return Ok(latencies) };
            go_on()?;
            self.sign_on(envelope.clone()).await?;
            latencies.push(u32::try_from(started.elapsed().as_micros()).unwrap_or(u32::MAX));
        }
    }

    async fn sign_on(&self, envelope: Bytes) -> Result<(), String> {
        let mut request = Request::post(self.endpoint.clone()).body(net::full(envelope)).map_err(|e| e.to_string())?;
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
        let response = self.client.request(request).await.map_err(|error| format!("the daemon: {error:?}"))?;
        let status = response.status();
        let answer = net::read_body(response.into_body(), 64 * 1024).await.map_err(|error| format!("{error:?}"))?;
        if status == StatusCode::OK && !answer.is_empty() {
            return Ok(());
        }
        Err(format!("a sign-on was not granted: {status}"))
    }
}

impl Brought {
    /// Sign-ons per second.
    pub(crate) fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// The latency below which this share of the sign-ons was, in milliseconds.
    pub(crate) fn percentile(&self, share: f64) -> f64 {
        let at = (self.latencies.len().saturating_sub(1) as f64 * share) as usize;
        self.latencies.get(at).map_or(0.0, |micros| f64::from(*micros) / 1e3)
    }
}
