//! The counters: which envelopes were seen.

use claviger_plugin_api::{COUNTER_WINDOW, CounterUse, Verdict};
use diesel::{insert_into, prelude::*};

use crate::{fault::Fault, schema::counters};

/// Judges the uses in order and records the fresh ones. Runs inside the
/// writer's transaction, so uses of one batch and of one group see each other.
pub(crate) fn consume(connection: &mut SqliteConnection, uses: &[CounterUse]) -> Result<Vec<Verdict>, Fault> {
    uses.iter().map(|one| consume_one(connection, one)).collect()
}

/// Forgets every counter of a credential, in all its epochs.
pub(crate) fn forget(connection: &mut SqliteConnection, credential: &[u8; 16]) -> Result<(), Fault> {
    diesel::delete(counters::table.filter(counters::credential.eq(&credential[..]))).execute(connection)?;
    Ok(())
}

fn consume_one(connection: &mut SqliteConnection, one: &CounterUse) -> Result<Verdict, Fault> {
    let Some((max, nonce)) = highest(connection, one)? else {
        insert(connection, one)?;
        return Ok(Verdict::Fresh);
    };
    if one.counter > max {
        insert(connection, one)?;
        prune(connection, one)?;
        return Ok(Verdict::Fresh);
    }
    if too_old(max).is_some_and(|line| one.counter <= line) {
        return Ok(Verdict::TooOld);
    }
    let seen = if one.counter == max { Some(nonce) } else { nonce_of(connection, one)? };
    match seen {
        Some(nonce) if nonce == one.nonce => Ok(Verdict::SameNonce),
        Some(_) => Ok(Verdict::OtherNonce),
        None => {
            insert(connection, one)?;
            Ok(Verdict::Fresh)
        }
    }
}

/// The highest counter at or below which a use is too old; `None` while the
/// window still reaches to the beginning.
fn too_old(max: u64) -> Option<u64> {
    max.checked_sub(COUNTER_WINDOW).filter(|line| *line > 0)
}

fn highest(connection: &mut SqliteConnection, one: &CounterUse) -> Result<Option<(u64, Vec<u8>)>, Fault> {
    let row: Option<(i64, Vec<u8>)> = counters::table
        .filter(counters::credential.eq(&one.credential[..]).and(counters::epoch.eq(i64::from(one.epoch))))
        .order(counters::counter.desc())
        .select((counters::counter, counters::nonce))
        .first(connection)
        .optional()?;
    Ok(row.map(|(counter, nonce)| (from_stored(counter), nonce)))
}

fn nonce_of(connection: &mut SqliteConnection, one: &CounterUse) -> Result<Option<Vec<u8>>, Fault> {
    Ok(counters::table
        .find((&one.credential[..], i64::from(one.epoch), to_stored(one.counter)))
        .select(counters::nonce)
        .first(connection)
        .optional()?)
}

fn insert(connection: &mut SqliteConnection, one: &CounterUse) -> Result<(), Fault> {
    insert_into(counters::table)
        .values((
            counters::credential.eq(&one.credential[..]),
            counters::epoch.eq(i64::from(one.epoch)),
            counters::counter.eq(to_stored(one.counter)),
            counters::nonce.eq(&one.nonce[..]),
        ))
        .execute(connection)?;
    Ok(())
}

/// Deletes what a new highest counter has made too old: it would be judged
/// without its row.
fn prune(connection: &mut SqliteConnection, newest: &CounterUse) -> Result<(), Fault> {
    if let Some(line) = too_old(newest.counter) {
        let of_epoch = counters::credential
            .eq(&newest.credential[..])
            .and(counters::epoch.eq(i64::from(newest.epoch)))
            .and(counters::counter.le(to_stored(line)));
        diesel::delete(counters::table.filter(of_epoch)).execute(connection)?;
    }
    Ok(())
}

const SIGN: u64 = 1 << 63;

/// SQLite's integers are signed: flipping the highest bit maps all of `u64`
/// onto them and keeps the order.
fn to_stored(counter: u64) -> i64 {
    (counter ^ SIGN).cast_signed()
}

fn from_stored(stored: i64) -> u64 {
    stored.cast_unsigned() ^ SIGN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_counters_keep_their_order_and_value() {
        let ordered = [0, 1, 2, u64::from(u32::MAX), SIGN - 1, SIGN, SIGN + 1, u64::MAX - 1, u64::MAX];
        for pair in ordered.windows(2) {
            assert!(to_stored(pair[0]) < to_stored(pair[1]), "{pair:?}");
        }
        for counter in ordered {
            assert_eq!(from_stored(to_stored(counter)), counter);
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
}
