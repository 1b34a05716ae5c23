//! Times as they cross.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use abi_stable::StableAbi;

/// A length of time, or a time since 1970. Both sides cap what they cannot express.
#[repr(C)]
#[derive(StableAbi, Debug, Clone, Copy)]
pub struct Time {
    seconds: u64,
    nanoseconds: u32,
}

impl From<Duration> for Time {
    fn from(duration: Duration) -> Self {
        Self { seconds: duration.as_secs(), nanoseconds: duration.subsec_nanos() }
    }
}

impl From<Time> for Duration {
    fn from(time: Time) -> Self {
        Self::from_secs(time.seconds).saturating_add(Self::from_nanos(time.nanoseconds.into()))
    }
}

impl From<SystemTime> for Time {
    /// What lies before 1970 becomes 1970.
    fn from(time: SystemTime) -> Self {
        time.duration_since(UNIX_EPOCH).unwrap_or_default().into()
    }
}

impl From<Time> for SystemTime {
    /// What lies beyond the system's clock becomes 1970: an end of validity
    /// that nobody can express is over.
    fn from(time: Time) -> Self {
        UNIX_EPOCH.checked_add(time.into()).unwrap_or(UNIX_EPOCH)
    }
}
