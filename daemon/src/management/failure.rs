//! When a failure to authenticate is answered: a whole number of
//! [`STEP`]s after it came in, whatever was looked up meanwhile.
//!
//! The work for a user that is not known is as alike as it can be made, and
//! still a store finds a row in other time than none: microseconds, which can
//! be measured over many requests. A timer that is set by the arrival alone
//! does not pass them on.

use std::{io, time::Duration};

use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime, timerfd_create,
    timerfd_settime,
};
use tokio::io::{Interest, unix::AsyncFd};

/// Far longer than a look-up takes, and too short to be noticed. Who is let in
/// never waits for it.
pub(super) const STEP: Duration = Duration::from_millis(5);

/// When a request came in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival(Duration);

impl Arrival {
    /// Now.
    pub(super) fn now() -> Self {
        Self(since_boot())
    }

    /// Waits until its failure may be answered. Must be called inside a tokio runtime.
    pub(super) async fn hold_failure(self) {
        let due = self.due(since_boot());
        // Without a file descriptor for the timer the answer still waits, if less exactly.
        if wait_until(due).await.is_err() {
            tokio::time::sleep(due.saturating_sub(since_boot())).await;
        }
    }

    fn due(self, now: Duration) -> Duration {
        let steps = now.saturating_sub(self.0).as_nanos() / STEP.as_nanos() + 1;
        self.0 + STEP * u32::try_from(steps).unwrap_or(u32::MAX)
    }
}

/// A timer of the kernel that goes off at that very moment. The runtime's own
/// ones count milliseconds from when a thread goes to sleep, which is when the
/// work was done: it would show again.
async fn wait_until(due: Duration) -> io::Result<()> {
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
    let at = Timespec { tv_sec: due.as_secs().cast_signed(), tv_nsec: due.subsec_nanos().into() };
    let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: at };
    timerfd_settime(&timer, TimerfdTimerFlags::ABSTIME, &once)?;
    #[expect(deprecated, reason = "the successor is unsafe, and asks for what an owned descriptor guarantees")]
    let timer = AsyncFd::with_interest(timer, Interest::READABLE)?;
    timer.readable().await?.retain_ready();
    Ok(())
}

fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec.cast_unsigned(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_due_in_whole_steps_after_the_arrival() {
        let arrival = Arrival(Duration::from_secs(1000));
        for (took_us, steps) in [(0, 1), (30, 1), (4999, 1), (5000, 2), (5001, 2), (12_000, 3)] {
            let due = arrival.due(arrival.0 + Duration::from_micros(took_us));
            assert_eq!(due - arrival.0, STEP * steps, "{took_us} µs");
        }
    }

    #[tokio::test]
    async fn a_failure_is_held_to_its_step() {
        for took in [Duration::ZERO, STEP + Duration::from_millis(1)] {
            let arrival = Arrival::now();
            std::thread::sleep(took);
            let due = arrival.due(since_boot());
            arrival.hold_failure().await;
            let late = since_boot().checked_sub(due).expect("not before it is due");
            assert!(late < Duration::from_secs(1), "{late:?}");
        }
    }
}
