//! What the service role counts and times.

use metrics::{Unit, describe_counter, describe_histogram};

/// Tells the recorder what each metric of this role is for.
pub(super) fn describe() {
    describe_counter!("claviger_sign_on_total", "Sign-ons, by the protocol's status.");
    describe_histogram!("claviger_sign_on_seconds", Unit::Seconds, "Time from a read envelope to its reply.");
    describe_counter!("claviger_relay_total", "Rotations and directories asked for through this service.");
    describe_counter!("claviger_sessions_activated_total", "Keys that were used for the first time.");
    describe_counter!("claviger_manager_failures_total", "Calls to a remote management server without an answer.");
    describe_counter!("claviger_proxy_requests_total", "Requests that were passed on, by the class of the answer.");
    describe_histogram!("claviger_proxy_seconds", Unit::Seconds, "Time until the upstream began to answer.");
}
