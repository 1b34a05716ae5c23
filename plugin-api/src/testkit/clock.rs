//! Time under the control of a test.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// A clock that stands until it is moved. Clones are the same clock.
#[derive(Debug, Clone)]
pub struct StoppedClock(Arc<Mutex<SystemTime>>);

impl StoppedClock {
    /// A clock that stands at some second of 2027.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(UNIX_EPOCH + Duration::from_secs(1_800_000_000))))
    }

    /// Where it stands.
    pub fn now(&self) -> SystemTime {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves it on.
    pub fn pass(&self, time: Duration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) += time;
    }

    /// It as a [`Context`](crate::Context) holds it.
    pub fn shared(&self) -> Arc<dyn Fn() -> SystemTime + Send + Sync> {
        let clock = self.clone();
        Arc::new(move || clock.now())
    }
}

impl Default for StoppedClock {
    fn default() -> Self {
        Self::new()
    }
}
