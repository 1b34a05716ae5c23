//! Metrics in the Prometheus format: all `metrics::counter!` and so on of this
//! process and, through the host, of its plugins.
//!
//! Names start with `claviger_`; histograms of times end in `_seconds` and
//! have buckets from 50 µs to 10 s. The process itself shows as `process_*`.

use std::time::Duration;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;

/// The metrics of this process.
#[derive(Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
    process: metrics_process::Collector,
}

impl Metrics {
    /// Makes this process's recorder and installs it for the `metrics` macros. Call it once, before
    /// anything is counted: what was counted before is lost.
    ///
    /// # Errors
    /// When there is a recorder already.
    pub fn install() -> Result<Self, BuildError> {
        let metrics = Self { handle: builder()?.install_recorder()?, process: metrics_process::Collector::default() };
        metrics.process.describe();
        ::metrics::describe_gauge!("claviger_build_info", "1; the labels say which build this is");
        ::metrics::gauge!("claviger_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        Ok(metrics)
    }

    /// Everything in the text format, with the process's own figures as of now.
    pub fn render(&self) -> String {
        self.process.collect();
        self.handle.render()
    }

    /// Folds the samples of histograms into their buckets every 5 s until `stop`.
    /// Without it, memory grows with each sample between two scrapes.
    pub async fn upkeep(self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(Duration::from_secs(5));
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            self.handle.run_upkeep();
        }
    }
}

#[cfg(test)]
impl Metrics {
    /// A recorder that no macro reaches.
    pub(crate) fn detached() -> Self {
        let handle = PrometheusBuilder::new().build_recorder().handle();
        Self { handle, process: metrics_process::Collector::default() }
    }
}

/// The content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Upper bounds in seconds: 50 µs to 10 s, about three a decade.
pub const SECONDS: [f64; 17] =
    [0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];

/// Upper bounds of what is counted in pieces, such as the size of a batch (`*_size`).
pub const SIZES: [f64; 11] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1000.0];

fn builder() -> Result<PrometheusBuilder, BuildError> {
    PrometheusBuilder::new()
        .with_recommended_naming(true)
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_size".to_owned()), &SIZES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_have_buckets_and_names_follow_the_rules() {
        let recorder = builder().unwrap().build_recorder();
        let handle = recorder.handle();
        ::metrics::with_local_recorder(&recorder, || {
            ::metrics::counter!("claviger_things_total").increment(3);
            ::metrics::describe_histogram!("claviger_call_seconds", ::metrics::Unit::Seconds, "Time of a call.");
            ::metrics::histogram!("claviger_call_seconds").record(0.000_07);
            ::metrics::histogram!("claviger_batch_size").record(3.0);
        });
        let text = handle.render();
        for line in [
            "claviger_things_total 3",
            "# HELP claviger_call_seconds Time of a call.",
            "# TYPE claviger_call_seconds histogram",
            "claviger_call_seconds_bucket{le=\"0.00005\"} 0",
            "claviger_call_seconds_bucket{le=\"0.0001\"} 1",
            "claviger_call_seconds_bucket{le=\"10\"} 1",
            "claviger_batch_size_bucket{le=\"4\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "no {line} in\n{text}");
        }
    }

    #[test]
    fn the_process_shows_itself() {
        let metrics = Metrics::install().unwrap();
        let text = metrics.render();
        assert!(text.contains("claviger_build_info{version=\""), "{text}");
        assert!(text.contains("process_resident_memory_bytes "), "{text}");
        assert!(Metrics::install().is_err(), "a second recorder must be refused");
    }
}
