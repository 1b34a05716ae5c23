//! The counters: which envelopes were seen.
//!
//! Daemons share the table. What makes exactly one of two equal uses fresh is
//! its primary key: uses are judged by what is stored, the fresh ones are
//! inserted all or none, and where another daemon was there first, they are
//! all judged again.

use std::{
    collections::HashMap,
    time::{SystemTime, UNIX_EPOCH},
};

use claviger_plugin_api::{
    COUNTER_RETENTION, CounterPosition, CounterUse, Verdict,
    counter::{enters_new_block, from_signed, to_signed, too_old},
};
use diesel::{
    result::{DatabaseErrorKind, Error},
    sql_types::{BigInt, Binary, Nullable},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use crate::{fault::Fault, statement::Statement};

/// A credential and its epoch: what a window belongs to.
type Line = ([u8; 16], u32);

/// What became of a batch.
#[derive(Debug)]
pub(crate) struct Consumed {
    /// One for each use.
    pub(crate) verdicts: Vec<Verdict>,
    /// Where the highest counter has entered a new block: pruning is due.
    pub(crate) due: Vec<Due>,
}

/// Rows of a credential that may have become too old.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Due {
    credential: [u8; 16],
    epoch: u32,
    /// The highest counter below the window.
    line: u64,
}

/// Judges the uses in order and records the fresh ones in one commit.
pub(crate) async fn consume(
    connection: &mut AsyncPgConnection,
    uses: &[CounterUse],
    now: SystemTime,
) -> Result<Consumed, Fault> {
    let now = seconds(now);
    for _ in 0..ATTEMPTS {
        let mut seen = look_up(connection, uses).await?;
        let verdicts: Vec<Verdict> = uses.iter().map(|one| seen.judge(one)).collect();
        if insert(connection, &mut seen.fresh, now).await? {
            return Ok(Consumed { verdicts, due: seen.due });
        }
    }
    Err(Fault::Contended)
}

/// How often a batch is judged. Each time but the first, another daemon has
/// recorded one of its counters within the round trip before.
const ATTEMPTS: usize = 32;

/// Forgets every counter of a credential, in all its epochs.
pub(crate) async fn forget(connection: &mut AsyncPgConnection, credential: &[u8; 16]) -> Result<(), Fault> {
    let statement = Statement::<()>::new("DELETE FROM claviger_counters WHERE credential = ?").bytes(*credential);
    statement.execute(connection).await?;
    Ok(())
}

/// Up to `limit` rows behind a position, in order.
pub(crate) async fn list(
    connection: &mut AsyncPgConnection,
    after: Option<CounterPosition>,
    limit: usize,
) -> Result<Vec<CounterUse>, Fault> {
    let statement = match after {
        // No credential is empty, so all rows lie behind this position.
        None => Statement::<Columns>::new(LIST).bytes([]).number(0).number(0),
        Some(after) => {
            Statement::new(LIST).bytes(after.credential).number(i64::from(after.epoch)).number(to_signed(after.counter))
        }
    };
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows: Vec<Row> = statement.number(limit).load(connection).await?;
    rows.into_iter().map(counter_use).collect()
}

const LIST: &str = "
    SELECT credential, epoch, counter, nonce, recorded FROM claviger_counters
    WHERE (credential, epoch, counter) > (?, ?, ?)
    ORDER BY credential, epoch, counter LIMIT ?";

/// Credential, epoch, counter, nonce, time.
type Row = (Vec<u8>, i64, i64, Vec<u8>, i64);
type Columns = (Binary, BigInt, BigInt, Binary, BigInt);

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

/// Deletes, of the lowest rows that are below the window, those that were kept
/// long enough; returns how many. A busy credential has tens of thousands of
/// young rows there, so this looks at a few only: counters rise with time, and
/// the lowest are the oldest. They are more than a block can have brought since
/// the last time, so it keeps up. Rows that another daemon is deleting are
/// left to it: nothing ever waits for a prune.
pub(crate) async fn prune(connection: &mut AsyncPgConnection, due: Due, now: SystemTime) -> Result<usize, Fault> {
    let (credential, epoch) = (due.credential, i64::from(due.epoch));
    let statement = Statement::<()>::new(PRUNE)
        .bytes(credential)
        .number(epoch)
        .number(to_signed(due.line))
        .bytes(credential)
        .number(epoch)
        .number(seconds(now).saturating_sub(RETENTION));
    Ok(statement.execute(connection).await?)
}

const PRUNE: &str = "
    WITH low AS MATERIALIZED (
        SELECT counter, recorded FROM claviger_counters
        WHERE credential = ? AND epoch = ? AND counter <= ?
        ORDER BY counter LIMIT 256
    ), old AS MATERIALIZED (
        SELECT c.credential, c.epoch, c.counter FROM claviger_counters c
        WHERE c.credential = ? AND c.epoch = ?
          AND c.counter IN (SELECT counter FROM low WHERE recorded < ?)
        FOR UPDATE OF c SKIP LOCKED
    )
    DELETE FROM claviger_counters c USING old
    WHERE c.credential = old.credential AND c.epoch = old.epoch AND c.counter = old.counter";

/// Seconds for which a row is kept. Times are cut to the second, which `<` makes up for.
const RETENTION: i64 = COUNTER_RETENTION.as_secs().cast_signed();

/// What is stored, and what this batch adds to it.
#[derive(Default)]
struct Seen {
    highest: HashMap<Line, u64>,
    nonces: HashMap<(Line, u64), [u8; 32]>,
    fresh: Vec<CounterUse>,
    due: Vec<Due>,
}

impl Seen {
    fn judge(&mut self, one: &CounterUse) -> Verdict {
        let line = (one.credential, one.epoch);
        // The row comes before the window: it outlives it.
        if let Some(nonce) = self.nonces.get(&(line, one.counter)) {
            return if *nonce == one.nonce { Verdict::SameNonce } else { Verdict::OtherNonce };
        }
        let max = self.highest.get(&line).copied();
        if max.and_then(too_old).is_some_and(|old| one.counter <= old) {
            return Verdict::TooOld;
        }
        if max.is_none_or(|max| one.counter > max) {
            self.highest.insert(line, one.counter);
            let entered = max.is_some_and(|max| enters_new_block(one.counter, max));
            if let (true, Some(line)) = (entered, too_old(one.counter)) {
                self.due.push(Due { credential: one.credential, epoch: one.epoch, line });
            }
        }
        self.nonces.insert((line, one.counter), one.nonce);
        self.fresh.push(*one);
        Verdict::Fresh
    }
}

/// What the store knows of the uses, seen at one moment.
async fn look_up(connection: &mut AsyncPgConnection, uses: &[CounterUse]) -> Result<Seen, Fault> {
    let mut seen = Seen::default();
    if uses.is_empty() {
        return Ok(seen);
    }
    let statement = Statement::<(Nullable<Binary>, Nullable<BigInt>)>::new(LOOK_UP)
        .many_bytes(uses.iter().map(|one| one.credential))
        .numbers(uses.iter().map(|one| i64::from(one.epoch)))
        .numbers(uses.iter().map(|one| to_signed(one.counter)));
    let rows: Vec<(Option<Vec<u8>>, Option<i64>)> = statement.load(connection).await?;
    if rows.len() != uses.len() {
        return Err(Fault::Corrupt(format!("{} answers for {} counters", rows.len(), uses.len())));
    }
    for (one, (nonce, max)) in uses.iter().zip(rows) {
        let line = (one.credential, one.epoch);
        if let Some(max) = max {
            seen.highest.insert(line, from_signed(max));
        }
        if let Some(nonce) = nonce {
            let nonce = nonce.try_into().map_err(|_| Fault::Corrupt("a stored nonce has not 32 bytes".to_owned()))?;
            seen.nonces.insert((line, one.counter), nonce);
        }
    }
    Ok(seen)
}

const LOOK_UP: &str = "
    SELECT (SELECT c.nonce FROM claviger_counters c
            WHERE c.credential = u.credential AND c.epoch = u.epoch AND c.counter = u.counter),
           (SELECT c.counter FROM claviger_counters c
            WHERE c.credential = u.credential AND c.epoch = u.epoch ORDER BY c.counter DESC LIMIT 1)
    FROM unnest(?, ?, ?) WITH ORDINALITY AS u (credential, epoch, counter, number)
    ORDER BY u.number";

/// Inserts all of the rows, or none where one of them is there by now.
///
/// One statement, and so one round trip and a commit of its own: where a row is
/// there, the primary key ends it, and nothing of it stays.
async fn insert(connection: &mut AsyncPgConnection, fresh: &mut [CounterUse], now: i64) -> Result<bool, Fault> {
    if fresh.is_empty() {
        return Ok(true);
    }
    // In one order everywhere, so that of two daemons that wait for each
    // other's rows one always gets on.
    fresh.sort_unstable_by_key(|one| (one.credential, one.epoch, one.counter));
    let inserted = Statement::<()>::new(INSERT)
        .many_bytes(fresh.iter().map(|one| one.credential))
        .numbers(fresh.iter().map(|one| i64::from(one.epoch)))
        .numbers(fresh.iter().map(|one| to_signed(one.counter)))
        .many_bytes(fresh.iter().map(|one| one.nonce))
        // One that is post-dated comes into time later, and is kept from then on.
        .numbers(fresh.iter().map(|one| now.max(i64::try_from(one.time_ms / 1000).unwrap_or(i64::MAX))))
        .execute(connection)
        .await;
    match inserted {
        Ok(_) => Ok(true),
        Err(Error::DatabaseError(DatabaseErrorKind::UniqueViolation, _)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

const INSERT: &str = "
    INSERT INTO claviger_counters (credential, epoch, counter, nonce, recorded)
    SELECT * FROM unnest(?, ?, ?, ?, ?)";

/// A clock from before 1970 stands at it.
fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    i64::try_from(since).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pruning_is_due_once_for_each_block() {
        let mut seen = Seen::default();
        let due: Vec<u64> = [1, 63, 64, 65, 129, 127, 130, 1000]
            .into_iter()
            .filter(|counter| {
                let before = seen.due.len();
                let one = CounterUse { credential: [1; 16], epoch: 0, counter: *counter, nonce: [1; 32], time_ms: 0 };
                assert_eq!(seen.judge(&one), Verdict::Fresh, "{counter}");
                seen.due.len() > before
            })
            .collect();
        assert_eq!(due, [129, 1000], "64 enters a block, and the window reaches to the beginning");
    }
}
