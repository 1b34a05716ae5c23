//! How often one source may ask.

use std::{
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

/// A token bucket for each source address; IPv6 sources count by their /64.
pub struct SourceLimit {
    buckets: DefaultKeyedRateLimiter<IpAddr>,
    start: Instant,
    /// Seconds after `start` of the last sweep.
    swept: AtomicU64,
}

impl SourceLimit {
    /// `per_second` steadily and `burst` at once; zero counts as one.
    pub fn new(per_second: u32, burst: u32) -> Self {
        let nonzero = |n| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(nonzero(per_second)).allow_burst(nonzero(burst));
        Self { buckets: RateLimiter::keyed(quota), start: Instant::now(), swept: AtomicU64::new(0) }
    }

    /// Counts one request; `false` when it is one too many.
    pub fn allows(&self, source: IpAddr) -> bool {
        self.sweep();
        self.buckets.check_key(&bucket(source)).is_ok()
    }

    /// Now and then forgets sources whose bucket is full again, so that what is
    /// kept is bounded by what arrives within [`SWEEP_SECONDS`].
    fn sweep(&self) {
        let now = self.start.elapsed().as_secs();
        let swept = self.swept.load(Ordering::Relaxed);
        let due = now.saturating_sub(swept) >= SWEEP_SECONDS;
        if due && self.swept.compare_exchange(swept, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.buckets.retain_recent();
            self.buckets.shrink_to_fit();
        }
    }
}

fn bucket(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

const SWEEP_SECONDS: u64 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_has_its_burst_and_others_theirs() {
        let limit = SourceLimit::new(1, 3);
        let source = |text: &str| text.parse().unwrap();
        for (address, expected) in [
            ("192.0.2.1", true),
            ("192.0.2.1", true),
            ("::ffff:192.0.2.1", true),
            ("192.0.2.1", false),
            ("192.0.2.2", true),
            ("2001:db8::1", true),
            ("2001:db8::2", true),
            ("2001:db8::ffff:3", true),
            ("2001:db8::4", false),
            ("2001:db8:0:1::4", true),
        ] {
            assert_eq!(limit.allows(source(address)), expected, "{address}");
        }
    }
}
