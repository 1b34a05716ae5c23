//! The counters: which envelopes were seen.

use std::time::{SystemTime, UNIX_EPOCH};

use claviger_plugin_api::{
    COUNTER_RETENTION, CounterPosition, CounterUse, Verdict,
    counter::{enters_new_block, from_signed, to_signed, too_old},
};
use diesel::{
    insert_into,
    prelude::*,
    sql_query,
    sql_types::{BigInt, Binary},
};

use crate::{fault::Fault, schema::counters};

/// Judges the uses in order and records the fresh ones. Runs inside the
/// writer's transaction, so uses of one batch and of one group see each other.
pub(crate) fn consume(
    connection: &mut SqliteConnection,
    uses: &[CounterUse],
    now: SystemTime,
) -> Result<Vec<Verdict>, Fault> {
    let now = seconds(now);
    uses.iter().map(|one| consume_one(connection, one, now)).collect()
}

/// Forgets every counter of a credential, in all its epochs.
pub(crate) fn forget(connection: &mut SqliteConnection, credential: &[u8; 16]) -> Result<(), Fault> {
    diesel::delete(counters::table.filter(counters::credential.eq(&credential[..]))).execute(connection)?;
    Ok(())
}

/// Up to `limit` rows behind a position, in order. Up to three queries, each
/// a walk along the primary key.
pub(crate) fn list(
    connection: &mut SqliteConnection,
    after: Option<CounterPosition>,
    limit: usize,
) -> Result<Vec<CounterUse>, Fault> {
    let columns = (counters::credential, counters::epoch, counters::counter, counters::nonce, counters::recorded);
    let all = || counters::table.select(columns).order((counters::credential, counters::epoch, counters::counter));
    let left = |found: &[Row]| i64::try_from(limit - found.len()).unwrap_or(i64::MAX);
    let found = connection.transaction(|connection| {
        let Some(after) = after else { return all().limit(left(&[])).load::<Row>(connection) };
        let (credential, epoch) = (&after.credential[..], i64::from(after.epoch));
        let same = counters::credential.eq(credential);
        let mut found: Vec<Row> = all()
            .filter(same.and(counters::epoch.eq(epoch)).and(counters::counter.gt(to_signed(after.counter))))
            .limit(left(&[]))
            .load(connection)?;
        if found.len() < limit {
            let epochs = all().filter(same.and(counters::epoch.gt(epoch)));
            found.extend(epochs.limit(left(&found)).load::<Row>(connection)?);
        }
        if found.len() < limit {
            let others = all().filter(counters::credential.gt(credential));
            found.extend(others.limit(left(&found)).load::<Row>(connection)?);
        }
        Ok(found)
    })?;
    found.into_iter().map(counter_use).collect()
}

/// Credential, epoch, counter, nonce, time.
type Row = (Vec<u8>, i64, i64, Vec<u8>, i64);

fn counter_use((credential, epoch, counter, nonce, recorded): Row) -> Result<CounterUse, Fault> {
    let corrupt = |what: &str| Fault::Corrupt(format!("the {what} of a counter is out of range"));
    Ok(CounterUse {
        credential: credential.try_into().map_err(|_| corrupt("credential"))?,
        epoch: epoch.try_into().map_err(|_| corrupt("epoch"))?,
        counter: from_signed(counter),
        nonce: nonce.try_into().map_err(|_| corrupt("nonce"))?,
        time_ms: u64::try_from(recorded).map_err(|_| corrupt("time"))?.saturating_mul(1000),
    })
}

/// A clock from before 1970 stands at it.
fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    i64::try_from(since).unwrap_or(i64::MAX)
}

fn consume_one(connection: &mut SqliteConnection, one: &CounterUse, now: i64) -> Result<Verdict, Fault> {
    let Some((max, nonce)) = highest(connection, one)? else {
        insert(connection, one, now)?;
        return Ok(Verdict::Fresh);
    };
    // The usual case, and one that needs no look at its row: there is none.
    if one.counter > max {
        insert(connection, one, now)?;
        if enters_new_block(one.counter, max) {
            prune(connection, one, now)?;
        }
        return Ok(Verdict::Fresh);
    }
    // The row comes before the window: it outlives it.
    let seen = if one.counter == max { Some(nonce) } else { nonce_of(connection, one)? };
    match seen {
        Some(nonce) if nonce == one.nonce => Ok(Verdict::SameNonce),
        Some(_) => Ok(Verdict::OtherNonce),
        None if too_old(max).is_some_and(|line| one.counter <= line) => Ok(Verdict::TooOld),
        None => {
            insert(connection, one, now)?;
            Ok(Verdict::Fresh)
        }
    }
}

fn highest(connection: &mut SqliteConnection, one: &CounterUse) -> Result<Option<(u64, Vec<u8>)>, Fault> {
    let row: Option<(i64, Vec<u8>)> = counters::table
        .filter(counters::credential.eq(&one.credential[..]).and(counters::epoch.eq(i64::from(one.epoch))))
        .order(counters::counter.desc())
        .select((counters::counter, counters::nonce))
        .first(connection)
        .optional()?;
    Ok(row.map(|(counter, nonce)| (from_signed(counter), nonce)))
}

fn nonce_of(connection: &mut SqliteConnection, one: &CounterUse) -> Result<Option<Vec<u8>>, Fault> {
    Ok(counters::table
        .find((&one.credential[..], i64::from(one.epoch), to_signed(one.counter)))
        .select(counters::nonce)
        .first(connection)
        .optional()?)
}

fn insert(connection: &mut SqliteConnection, one: &CounterUse, now: i64) -> Result<(), Fault> {
    insert_into(counters::table)
        .values((
            counters::credential.eq(&one.credential[..]),
            counters::epoch.eq(i64::from(one.epoch)),
            counters::counter.eq(to_signed(one.counter)),
            counters::nonce.eq(&one.nonce[..]),
            // One that is post-dated comes into time later, and is kept from then on.
            counters::recorded.eq(now.max(i64::try_from(one.time_ms / 1000).unwrap_or(i64::MAX))),
        ))
        .execute(connection)?;
    Ok(())
}

/// Deletes, of the lowest rows that are below the window, those that were kept
/// long enough. A busy credential has tens of thousands of young rows there, so
/// this looks at a few only: counters rise with time, and the lowest are the
/// oldest. They are more than a block can have brought since the last time
/// (its own counters, and late ones of the block before), so it keeps up.
const PRUNE: &str = "
    DELETE FROM counters
    WHERE credential = ?1 AND epoch = ?2 AND counter IN (
        SELECT counter FROM (
            SELECT counter, recorded FROM counters
            WHERE credential = ?1 AND epoch = ?2 AND counter <= ?3
            ORDER BY counter LIMIT 256
        ) WHERE recorded < ?4
    )";

fn prune(connection: &mut SqliteConnection, newest: &CounterUse, now: i64) -> Result<(), Fault> {
    if let Some(line) = too_old(newest.counter) {
        sql_query(PRUNE)
            .bind::<Binary, _>(&newest.credential[..])
            .bind::<BigInt, _>(i64::from(newest.epoch))
            .bind::<BigInt, _>(to_signed(line))
            .bind::<BigInt, _>(now.saturating_sub(RETENTION))
            .execute(connection)?;
    }
    Ok(())
}

/// Seconds for which a row is kept. Times are cut to the second, which `<` makes up for.
const RETENTION: i64 = COUNTER_RETENTION.as_secs().cast_signed();

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use diesel::sql_types::Text;

    use super::*;
    use crate::{
        Configuration,
        connection::{Access, open, prepare},
    };

    #[test]
    fn a_clock_far_off_is_a_number_of_seconds() {
        let second = Duration::from_secs(1);
        assert_eq!(seconds(UNIX_EPOCH - second), 0);
        assert_eq!(seconds(UNIX_EPOCH + second * 7), 7);
    }

    #[derive(QueryableByName)]
    struct Step {
        #[diesel(sql_type = Text)]
        detail: String,
    }

    /// Every step is a search by the whole primary key or by a range of its
    /// last column; none sorts, and none scans the table.
    #[test]
    fn pruning_walks_the_primary_key() {
        let directory = tempfile::tempdir().unwrap();
        let configuration = Configuration::new(directory.path().join("users.db").to_str().unwrap());
        prepare(&configuration).unwrap();
        let mut connection = open(&configuration, Access::Write).unwrap();
        let steps: Vec<Step> = sql_query(format!("EXPLAIN QUERY PLAN {PRUNE}"))
            .bind::<Binary, _>(&[1; 16][..])
            .bind::<BigInt, _>(1)
            .bind::<BigInt, _>(to_signed(1000))
            .bind::<BigInt, _>(0)
            .load(&mut connection)
            .unwrap();
        let steps: Vec<&str> = steps.iter().map(|step| step.detail.as_str()).collect();
        let on_table: Vec<&str> = steps.iter().copied().filter(|step| step.contains("counters")).collect();
        let by_key = "SEARCH counters USING PRIMARY KEY (credential=? AND epoch=? AND counter";
        assert_eq!(on_table, [format!("{by_key}=?)"), format!("{by_key}<?)")], "{steps:?}");
        assert!(!steps.iter().any(|step| step.contains("ORDER BY")), "{steps:?}");
    }
}
