//! How often one user may ask, wherever from.

use std::{
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use claviger_protocol::message::Uid;

/// A rate limit for each user in 1 MiB, however many users there are.
///
/// A user has one place in each of two tables, by a keyed hash of what the
/// header says; no user id is kept. A request passes when either place has
/// room. So a user may get more than its due where a place is shared, and is
/// refused for somebody else only where both are shared with users over
/// their limits.
pub(super) struct UserLimit {
    /// When each place has its whole burst again, in nanoseconds after `start`.
    tables: [Box<[AtomicU64]>; 2],
    hasher: RandomState,
    start: Instant,
    /// Nanoseconds that one request costs.
    cost: u64,
    /// Nanoseconds that a place may be ahead of the time and still have room.
    ahead: u64,
}

impl UserLimit {
    /// `per_second` steadily and `burst` at once; zero counts as one.
    pub(super) fn new(per_second: u32, burst: u32) -> Self {
        let cost = NANOS_PER_SECOND / u64::from(per_second.max(1));
        let table = || (0..PLACES).map(|_| AtomicU64::new(0)).collect();
        Self {
            tables: [table(), table()],
            hasher: RandomState::new(),
            start: Instant::now(),
            cost,
            ahead: cost * u64::from(burst.max(1) - 1),
        }
    }

    /// Counts one request of this (attacker-controlled) user; `false` when it
    /// is one too many.
    ///
    /// A sealed id is another one in each envelope, so it is not counted here:
    /// the limit of the source is what bounds it.
    pub(super) fn allows(&self, uid: &Uid<'_>) -> bool {
        self.allows_at(uid, self.start.elapsed())
    }

    fn allows_at(&self, uid: &Uid<'_>, now: Duration) -> bool {
        let hash = match uid {
            Uid::UserId(id) => self.hasher.hash_one((0_u8, id)),
            Uid::Handle(handle) => self.hasher.hash_one((1_u8, handle.as_slice())),
            Uid::Sealed(_) => return true,
        };
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let [first, second] = &self.tables;
        // Both are counted, whatever the first says.
        self.count(first, hash, now) | self.count(second, hash >> 32, now)
    }

    /// Counts one request at the place that `hash` says, where it has room.
    fn count(&self, table: &[AtomicU64], hash: u64, now: u64) -> bool {
        let Some(place) = table.get(hash as usize % PLACES) else { return false };
        let counted = |full_at: u64| {
            let full_at = full_at.max(now);
            (full_at - now <= self.ahead).then(|| full_at.saturating_add(self.cost))
        };
        place.fetch_update(Ordering::Relaxed, Ordering::Relaxed, counted).is_ok()
    }
}

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Places of a table of 512 KiB.
const PLACES: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_its_burst_and_its_rate_and_others_theirs() {
        let limit = UserLimit::new(2, 3);
        let (ann, bob) = (Uid::UserId(b"ann"), Uid::UserId(b"bob"));
        for (milliseconds, uid, expected) in [
            (0, ann, true),
            (0, ann, true),
            (0, ann, true),
            (0, ann, false),
            (499, ann, false),
            (499, bob, true),
            (500, ann, true),
            (500, ann, false),
            (1500, ann, true),
            (1500, ann, true),
            (1500, ann, false),
            (60_000, ann, true),
            (60_000, ann, true),
            (60_000, ann, true),
            (60_000, ann, false),
        ] {
            let now = Duration::from_millis(milliseconds);
            assert_eq!(limit.allows_at(&uid, now), expected, "{uid:?} at {milliseconds} ms");
        }
    }

    #[test]
    fn handles_count_apart_from_user_ids_and_sealed_ids_not_at_all() {
        let limit = UserLimit::new(1, 1);
        for (uid, expected) in [
            (Uid::Handle([7; 16]), true),
            (Uid::Handle([7; 16]), false),
            (Uid::UserId(&[7; 16]), true),
            (Uid::Handle([8; 16]), true),
            (Uid::Sealed(&[9; 112]), true),
            (Uid::Sealed(&[9; 112]), true),
        ] {
            assert_eq!(limit.allows_at(&uid, Duration::ZERO), expected, "{uid:?}");
        }
    }

    #[test]
    fn users_over_their_limit_hardly_keep_others_out() {
        let limit = UserLimit::new(1, 1);
        for user in 0..4000_u32 {
            let id = user.to_be_bytes();
            (0..3).for_each(|_| _ = limit.allows_at(&Uid::UserId(&id), Duration::ZERO));
        }
        // Each place is taken with a chance of 1 in 17, both with 1 in 280.
        let is_refused = |user: &u32| !limit.allows_at(&Uid::UserId(&user.to_be_bytes()), Duration::ZERO);
        let refused = (10_000..11_000_u32).filter(is_refused).count();
        assert!(refused < 40, "{refused} of 1000");
    }

    #[test]
    fn the_ends_of_the_configuration_hold() {
        for (per_second, burst) in [(0, 0), (1, 10_000_000), (10_000_000, 1), (10_000_000, 10_000_000)] {
            let limit = UserLimit::new(per_second, burst);
            assert!(limit.allows(&Uid::UserId(b"ann")), "{per_second} {burst}");
            assert!(limit.allows_at(&Uid::UserId(b"bob"), Duration::MAX), "{per_second} {burst}");
        }
    }
}
