//! The daemon's clock, as an argument: tests stop it.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Reads the time.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// The system's clock.
pub fn system() -> Clock {
    Arc::new(SystemTime::now)
}

/// Milliseconds since 1970; 0 before.
pub fn millis(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// RFC 3339 in UTC, to the second.
pub fn rfc3339(millis: u64) -> String {
    let time = UNIX_EPOCH + Duration::from_secs(millis / 1000);
    OffsetDateTime::from(time).format(&Rfc3339).unwrap_or_else(|_| "out of range".into())
}
