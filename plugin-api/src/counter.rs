//! What every store of counters computes alike: the window, when pruning is
//! due, and a number for databases whose integers are signed.

use crate::COUNTER_WINDOW;

/// The highest counter at or below which a use without a row is
/// [too old](crate::Verdict::TooOld), where `max` is the highest one recorded;
/// `None` while the window still reaches to the beginning.
pub fn too_old(max: u64) -> Option<u64> {
    max.checked_sub(COUNTER_WINDOW).filter(|line| *line > 0)
}

/// Whether a new highest counter, after `max`, is the first of its block of
/// [`COUNTER_WINDOW`]. Pruning may wait for that: once for each block is
/// enough, and no terminal can leave all of these moments out, as it could the
/// multiples of a number.
pub fn enters_new_block(counter: u64, max: u64) -> bool {
    counter / COUNTER_WINDOW > max / COUNTER_WINDOW
}

/// A counter as a signed number in the same order: its highest bit is flipped.
pub fn to_signed(counter: u64) -> i64 {
    (counter ^ SIGN).cast_signed()
}

/// The reverse of [`to_signed`].
pub fn from_signed(stored: i64) -> u64 {
    stored.cast_unsigned() ^ SIGN
}

const SIGN: u64 = 1 << 63;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signed_counters_keep_their_order_and_value() {
        let ordered = [0, 1, 2, u64::from(u32::MAX), SIGN - 1, SIGN, SIGN + 1, u64::MAX - 1, u64::MAX];
        for pair in ordered.windows(2) {
            assert!(to_signed(pair[0]) < to_signed(pair[1]), "{pair:?}");
        }
        for counter in ordered {
            assert_eq!(from_signed(to_signed(counter)), counter);
        }
    }

    #[test]
    fn the_window_starts_at_the_beginning() {
        for (max, line) in
            [(0, None), (63, None), (64, None), (65, Some(1)), (1000, Some(936)), (u64::MAX, Some(u64::MAX - 64))]
        {
            assert_eq!(too_old(max), line, "max {max}");
        }
    }

    #[test]
    fn each_block_is_entered_once() {
        for (counter, max, enters) in [
            (1, 0, false),
            (63, 0, false),
            (64, 63, true),
            (65, 64, false),
            (65, 3, true),
            (1000, 65, true),
            (u64::MAX, u64::MAX - 1, false),
            (u64::MAX, 0, true),
        ] {
            assert_eq!(enters_new_block(counter, max), enters, "{counter} after {max}");
        }
    }
}
