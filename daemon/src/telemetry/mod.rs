//! What the daemon says about itself.
//!
//! - [`logs`]: the log on standard error.
//! - [`metrics`]: the recorder behind the `metrics` macros, and its rendering.
//! - [`readiness`]: which components work, for `/readyz`.
//! - [`http`]: `/metrics`, `/livez` and `/readyz`.
//! - [`systemd`]: READY and STOPPING for `Type=notify`.

pub mod http;
pub mod logs;
pub mod metrics;
pub mod readiness;
pub mod systemd;
