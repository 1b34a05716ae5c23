//! How often the failed calls of a plugin show in the log.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Lets the first warning through, and then one in a second at most.
#[derive(Default)]
pub(super) struct Warnings(Mutex<Written>);

#[derive(Default)]
struct Written {
    last: Option<Instant>,
    left_out: u64,
}

impl Warnings {
    /// Whether a warning may be written now: then with how many were left out
    /// since the last one.
    pub(super) fn admit(&self) -> Option<u64> {
        let mut written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if written.last.is_some_and(|last| now.duration_since(last) < INTERVAL) {
            written.left_out += 1;
            return None;
        }
        written.last = Some(now);
        Some(std::mem::take(&mut written.left_out))
    }
}

const INTERVAL: Duration = Duration::from_secs(1);
