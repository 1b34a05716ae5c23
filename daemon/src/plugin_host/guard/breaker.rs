//! The circuit breaker of one component: whether calls are let through to it.
//!
//! Closed, it counts failures that follow each other without a success between
//! them. At the limit it opens: from then on calls are answered at once, and
//! nobody waits for a store that hangs. Whoever opened it asks the component
//! for its health from time to time ([`Breaker::pause`]), and closes it again.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use claviger_plugin_api::PluginError;

use super::jitter;
use crate::clock::{millis, rfc3339};

pub(super) struct Breaker {
    /// Failures that open it; 0: never.
    limit: u32,
    /// Failures in a row, or [`OPEN`].
    state: AtomicU32,
    /// Calls that it answered since it opened.
    refused: AtomicU64,
    detail: Mutex<Detail>,
}

#[derive(Default)]
struct Detail {
    since: String,
    /// What calls are answered.
    answer: String,
    /// Before the next probe, without jitter.
    pause: Duration,
    closed: Option<Instant>,
}

impl Breaker {
    pub(super) fn new(limit: u32) -> Self {
        Self { limit, state: AtomicU32::new(0), refused: AtomicU64::new(0), detail: Mutex::default() }
    }

    pub(super) fn is_open(&self) -> bool {
        self.state.load(Ordering::Acquire) == OPEN
    }

    /// Lets a call through, or says what it is answered.
    #[inline]
    pub(super) fn admit(&self) -> Result<(), PluginError> {
        if self.is_open() { Err(self.refuse()) } else { Ok(()) }
    }

    #[cold]
    fn refuse(&self) -> PluginError {
        self.refused.fetch_add(1, Ordering::Relaxed);
        PluginError::Unavailable(self.detail().answer.clone())
    }

    /// A call went well.
    #[inline]
    pub(super) fn succeeded(&self) {
        let failures = self.state.load(Ordering::Relaxed);
        if failures != 0 && failures != OPEN {
            // Whoever changed it meanwhile knows better.
            let _ = self.state.compare_exchange(failures, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// A call failed. `true` for the one failure that opens it.
    pub(super) fn failed(&self, error: &PluginError) -> bool {
        let count = |state| (state != OPEN && self.limit > 0).then(|| state + 1);
        let before = self.state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count);
        if before.is_err() || before.is_ok_and(|before| before + 1 != self.limit) {
            return false;
        }
        let mut detail = self.detail();
        // Open again so soon: its health promised too much.
        let relapse = detail.closed.is_some_and(|closed| closed.elapsed() < RELAPSE);
        detail.pause = if relapse { next(detail.pause) } else { FIRST_PAUSE };
        detail.since = rfc3339(millis(SystemTime::now()));
        detail.describe(error);
        self.refused.store(0, Ordering::Relaxed);
        self.state.store(OPEN, Ordering::Release);
        true
    }

    /// How long to wait before the next probe.
    pub(super) fn pause(&self) -> Duration {
        let pause = self.detail().pause;
        pause / 2 + jitter(pause / 2)
    }

    /// A probe failed.
    pub(super) fn stays_open(&self, error: &PluginError) {
        let mut detail = self.detail();
        detail.pause = next(detail.pause);
        detail.describe(error);
    }

    /// A probe went well. Tells how many calls were answered meanwhile.
    pub(super) fn close(&self) -> u64 {
        self.detail().closed = Some(Instant::now());
        self.state.store(0, Ordering::Release);
        self.refused.load(Ordering::Relaxed)
    }

    /// Each change of it leaves it whole.
    fn detail(&self) -> MutexGuard<'_, Detail> {
        self.detail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Detail {
    fn describe(&mut self, error: &PluginError) {
        self.answer = format!("circuit open since {}; last error: {error}", self.since);
    }
}

fn next(pause: Duration) -> Duration {
    (pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE)
}

const OPEN: u32 = u32::MAX;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// One that opens within this time after it was closed goes on with its pauses where they were.
const RELAPSE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn away() -> PluginError {
        PluginError::Unavailable("away".into())
    }

    #[test]
    fn failures_in_a_row_open_it_once() {
        let breaker = Breaker::new(3);
        for _ in 0..10 {
            assert!(!breaker.failed(&away()) && !breaker.failed(&away()));
            breaker.succeeded();
        }
        let opened = [0; 5].map(|_| breaker.failed(&away()));
        assert_eq!(opened, [false, false, true, false, false]);
        breaker.succeeded();
        assert!(breaker.is_open(), "a late success does not close it");
        let Err(PluginError::Unavailable(text)) = breaker.admit() else { panic!("a call was let through") };
        assert!(text.starts_with("circuit open since 2") && text.ends_with("last error: unavailable: away"), "{text}");
        assert_eq!(breaker.close(), 1);
        assert_eq!(breaker.admit(), Ok(()));
        assert!(!breaker.failed(&away()), "the count starts anew");
    }

    #[test]
    fn pauses_grow_to_a_limit_and_after_a_relapse_go_on() {
        let breaker = Breaker::new(1);
        assert!(breaker.failed(&away()));
        for longest in [250, 500, 1000, 2000, 4000, 5000, 5000] {
            let pause = breaker.pause().as_millis();
            assert!((longest / 2..=longest).contains(&pause), "{pause} ms of {longest}");
            breaker.stays_open(&PluginError::DeadlineExceeded);
        }
        assert!(matches!(breaker.admit(), Err(PluginError::Unavailable(text)) if text.ends_with("the deadline")));
        breaker.close();
        assert!(breaker.failed(&away()));
        assert!(breaker.pause() >= Duration::from_millis(2500));
    }

    #[test]
    fn without_a_limit_it_never_opens() {
        let breaker = Breaker::new(0);
        assert!((0..1000).all(|_| !breaker.failed(&away())) && !breaker.is_open());
    }
}
