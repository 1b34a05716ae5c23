//! Whether two sets of times differ: the method of dudect ("Dude, is my code
//! constant time?", Reparaz, Balasch and Verbauwhede, 2017).
//!
//! Interrupts and other processes only ever make a call slower, so the slow
//! end of the samples is noise. It is cut off at a hundred places, and Welch's
//! t-test is made of what is left each time; the largest |t| counts. Medians
//! say how large the difference is.

use serde::Serialize;

/// Two sets of times, compared.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Comparison {
    /// The largest |t| of all cuts.
    pub(crate) max_t: f64,
    /// The share of the samples that the cut of the largest |t| had kept, 0 to 1.
    pub(crate) kept: f64,
    /// Median of the second set less that of the first, in nanoseconds.
    pub(crate) median_difference_ns: f64,
}

impl Comparison {
    /// Compares two sets of times in nanoseconds, neither empty.
    pub(crate) fn of(first: &[u32], second: &[u32]) -> Self {
        let mut all = [first, second].concat();
        all.sort_unstable();
        let mut largest = (0.0, 1.0);
        for share in cuts() {
            let limit = all[((all.len() - 1) as f64 * share) as usize];
            let t = Moments::below(first, limit).welch(&Moments::below(second, limit)).abs();
            if t > largest.0 {
                largest = (t, share);
            }
        }
        let (max_t, kept) = largest;
        Self { max_t, kept, median_difference_ns: median(second) - median(first) }
    }
}

/// The median of a set that is not empty.
pub(crate) fn median(times: &[u32]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let middle = sorted.len() / 2;
    let upper = f64::from(sorted[middle]);
    if sorted.len() % 2 == 1 { upper } else { f64::midpoint(f64::from(sorted[middle - 1]), upper) }
}

/// Shares of the samples to keep: everything, and dudect's hundred, which are
/// denser towards the slow end.
fn cuts() -> impl Iterator<Item = f64> {
    let dudect = (1..=100).map(|i| 1.0 - 0.5_f64.powf(f64::from(i) / 10.0));
    dudect.chain([1.0])
}

/// Number, mean and squared deviations of some times.
#[derive(Debug, Default)]
struct Moments {
    number: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    /// Of those times that are not above the limit (Welford's method).
    fn below(times: &[u32], limit: u32) -> Self {
        let mut moments = Self::default();
        for time in times.iter().copied().filter(|time| *time <= limit).map(f64::from) {
            moments.number += 1.0;
            let delta = time - moments.mean;
            moments.mean += delta / moments.number;
            moments.squares += delta * (time - moments.mean);
        }
        moments
    }

    /// Welch's t; 0 where there are too few samples to say anything.
    fn welch(&self, other: &Self) -> f64 {
        if self.number < FEWEST || other.number < FEWEST {
            return 0.0;
        }
        let variance = |moments: &Self| moments.squares / (moments.number - 1.0) / moments.number;
        // The clock ticks in nanoseconds: below that, equal is equal.
        let error = (variance(self) + variance(other)).sqrt().max(f64::EPSILON);
        (self.mean - other.mean) / error
    }
}

/// The fewest samples of each set in a t-test.
const FEWEST: f64 = 30.0;

#[cfg(test)]
mod tests {
    use super::*;

    /// Times around `centre`, all different in their order.
    fn times(centre: u32, seed: u32) -> Vec<u32> {
        (0..10_000_u32).map(|i| centre + (i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 16) % 1000).collect()
    }

    #[test]
    fn welchs_t_of_a_known_example() {
        let repeat = |values: &[u32]| values.iter().copied().cycle().take(values.len() * 10).collect::<Vec<_>>();
        let (first, second) = (repeat(&[10, 20, 30, 40]), repeat(&[20, 30, 40, 50]));
        let t = Moments::below(&second, u32::MAX).welch(&Moments::below(&first, u32::MAX));
        // Each: mean 25 and 35, variance 5000 / 39, 40 samples.
        assert!((t - 10.0 / (2.0 * 5000.0 / 39.0 / 40.0_f64).sqrt()).abs() < 1e-9, "{t}");
    }

    #[test]
    fn sets_that_differ_are_told_apart_and_others_are_not() {
        let table = [(0, false), (5, false), (100, true), (1000, true)];
        for (shift, differs) in table {
            let compared = Comparison::of(&times(5000, 1), &times(5000 + shift, 77_777));
            assert_eq!(compared.max_t > 10.0, differs, "{shift}: {compared:?}");
            assert!((compared.median_difference_ns - f64::from(shift)).abs() < 50.0, "{compared:?}");
        }
    }

    #[test]
    fn a_difference_under_a_noisy_tail_is_found() {
        let noisy = |mut times: Vec<u32>| {
            for (i, time) in times.iter_mut().enumerate().filter(|(i, _)| i % 10 == 0) {
                *time += (i as u32 * 7919) % 5_000_000;
            }
            times
        };
        let compared = Comparison::of(&noisy(times(5000, 1)), &noisy(times(5100, 77_777)));
        assert!(compared.max_t > 10.0 && compared.kept < 1.0, "{compared:?}");
    }

    #[test]
    fn medians_of_odd_and_even_sets() {
        for (set, expected) in [(&[3][..], 3.0), (&[4, 1], 2.5), (&[9, 1, 5], 5.0), (&[4, 1, 3, 2], 2.5)] {
            assert!((median(set) - expected).abs() < f64::EPSILON, "{set:?}");
        }
    }
}
