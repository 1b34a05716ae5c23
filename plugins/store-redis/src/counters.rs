//! The counters: which envelopes were seen.
//!
//! The rows of a credential and epoch, its line, are one sorted set. What makes
//! exactly one of two equal uses fresh is that a script judges and records
//! without another one in between.

use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

use claviger_plugin_api::{
    COUNTER_RETENTION, COUNTER_WINDOW, CounterPosition, CounterUse, PluginError, Verdict, counter::too_old,
};

use crate::{
    fault::unexpected,
    merge::{Merge, members, read},
    names::{Names, bytes, line},
    script::{CONSUME, FORGET, Lane, Request},
    server::Server,
};

/// The largest number of seconds that a row can hold.
const MAX_SECONDS: u64 = (1 << 48) - 1;

/// Judges the uses in order and records the fresh ones: those of one credential
/// all or none.
pub(crate) async fn consume(
    server: &Server,
    names: &Names,
    uses: &[CounterUse],
    now: SystemTime,
) -> Result<Vec<Verdict>, PluginError> {
    let now = seconds(now);
    let mut shards: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
    for (at, one) in uses.iter().enumerate() {
        shards.entry(names.shard_of(&one.credential)).or_default().push(at);
    }
    let requests = shards
        .iter()
        .map(|(shard, places)| request(names, *shard, places.iter().filter_map(|at| uses.get(*at)), now))
        .collect();
    let mut verdicts = Vec::with_capacity(uses.len());
    for (places, answer) in shards.values().zip(server.call_all(requests).await?) {
        let letters = bytes(answer).filter(|letters| letters.len() == places.len());
        for (at, letter) in places.iter().zip(letters.ok_or_else(|| unexpected("a consumption"))?) {
            verdicts.push((*at, verdict(letter)?));
        }
    }
    verdicts.sort_unstable_by_key(|(at, _)| *at);
    Ok(verdicts.into_iter().map(|(_, verdict)| verdict).collect())
}

fn verdict(letter: u8) -> Result<Verdict, PluginError> {
    match letter {
        b'F' => Ok(Verdict::Fresh),
        b'S' => Ok(Verdict::SameNonce),
        b'O' => Ok(Verdict::OtherNonce),
        b'T' => Ok(Verdict::TooOld),
        _ => Err(unexpected("a consumption")),
    }
}

fn request<'a>(names: &Names, shard: u16, uses: impl Iterator<Item = &'a CounterUse>, now: u64) -> Request {
    let mut keys = vec![names.lines(shard)];
    let mut numbers: BTreeMap<[u8; 20], usize> = BTreeMap::new();
    let mut arguments = vec![now.saturating_sub(COUNTER_RETENTION.as_secs()).to_string().into_bytes()];
    for one in uses {
        let line = line(&one.credential, one.epoch);
        let number = *numbers.entry(line).or_insert_with(|| {
            keys.push(names.counters(shard, &line));
            keys.len() - 1
        });
        let optional = |counter: Option<u64>| counter.map_or(Vec::new(), |counter| counter.to_be_bytes().to_vec());
        let block = one.counter - one.counter % COUNTER_WINDOW;
        arguments.extend([
            number.to_string().into_bytes(),
            line.to_vec(),
            row(one, now).to_vec(),
            optional(too_old_from(one.counter)),
            block.to_be_bytes().to_vec(),
            optional(below_window(one.counter)),
        ]);
    }
    Request::script(Lane::Durable, &CONSUME, keys, arguments)
}

/// A highest counter from this on makes a use without a row too old; `None`
/// where none can be so high.
fn too_old_from(counter: u64) -> Option<u64> {
    // While the highest is at most the window, that reaches to the beginning.
    counter.checked_add(COUNTER_WINDOW).map(|from| from.max(COUNTER_WINDOW + 1))
}

/// The first counter within the window of a highest counter; `None` while the
/// window reaches to the beginning.
fn below_window(highest: u64) -> Option<u64> {
    too_old(highest).map(|line| line + 1)
}

/// Bytes of a row.
const ROW: usize = 46;

fn row(one: &CounterUse, now: u64) -> [u8; ROW] {
    let mut row = [0; ROW];
    row[..8].copy_from_slice(&one.counter.to_be_bytes());
    row[8..40].copy_from_slice(&one.nonce);
    // One that is post-dated comes into time later, and is kept from then on.
    let recorded = now.max(one.time_ms / 1000).min(MAX_SECONDS);
    row[40..].copy_from_slice(&recorded.to_be_bytes()[2..]);
    row
}

fn counter_use(line: &[u8; 20], row: &[u8]) -> Option<CounterUse> {
    let (credential, epoch) = line.split_first_chunk::<16>()?;
    let (counter, rest) = row.split_first_chunk::<8>()?;
    let (nonce, recorded) = rest.split_first_chunk::<32>()?;
    let recorded: [u8; 6] = recorded.try_into().ok()?;
    let seconds = recorded.iter().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
    Some(CounterUse {
        credential: *credential,
        epoch: u32::from_be_bytes(epoch.try_into().ok()?),
        counter: u64::from_be_bytes(*counter),
        nonce: *nonce,
        time_ms: seconds * 1000,
    })
}

/// Forgets every counter of a credential, in all its epochs.
pub(crate) async fn forget(server: &Server, names: &Names, credential: &[u8; 16]) -> Result<(), PluginError> {
    let shard = names.shard_of(credential);
    let (first, last) = (line(credential, 0), line(credential, u32::MAX));
    let (from, to) = ([&b"["[..], &first].concat(), [&b"["[..], &last].concat());
    loop {
        let lines = members(server.call(read(&names.lines(shard), &from, &to, LINES)).await?)?;
        if lines.is_empty() {
            return Ok(());
        }
        let keys = lines.iter().map(|line| names.counters(shard, line));
        let keys = [names.lines(shard)].into_iter().chain(keys).collect();
        let done = lines.len();
        server.call(Request::script(Lane::Durable, &FORGET, keys, lines)).await?;
        if done < LINES {
            return Ok(());
        }
    }
}

/// Lines that are worked on at once.
const LINES: usize = 64;

/// Up to `limit` rows behind a position, in order.
pub(crate) async fn list(
    server: &Server,
    names: &Names,
    after: Option<CounterPosition>,
    limit: usize,
) -> Result<Vec<CounterUse>, PluginError> {
    let from = match &after {
        None => b"-".to_vec(),
        Some(after) => [&b"["[..], &line(&after.credential, after.epoch)].concat(),
    };
    let sets: Vec<_> = (0..names.shards()).map(|shard| names.lines(shard)).collect();
    let mut lines = Merge::new(server, sets.into_iter(), &from, b"+".to_vec(), LINES);
    let mut found = Vec::new();
    // Most lines are long, so the first ones are read a few at a time.
    let mut at_once = 4;
    while found.len() < limit {
        let next = lines.take(at_once).await?;
        if next.is_empty() {
            break;
        }
        let left = limit - found.len();
        let next = next.into_iter().map(|line| line.try_into().map_err(|_| unreadable()));
        let next = next.collect::<Result<Vec<[u8; 20]>, _>>()?;
        let reads = next.iter().map(|line| read_rows(names, line, after, left)).collect();
        for (line, answer) in next.iter().zip(server.call_all(reads).await?) {
            for row in members(answer)? {
                found.push(counter_use(line, &row).ok_or_else(unreadable)?);
            }
        }
        at_once = (at_once * 2).min(LINES);
    }
    found.truncate(limit);
    Ok(found)
}

/// Reads up to `limit` rows of a line behind a position.
fn read_rows(names: &Names, stored: &[u8; 20], after: Option<CounterPosition>, limit: usize) -> Request {
    let from = match after.filter(|after| line(&after.credential, after.epoch) == *stored) {
        None => b"-".to_vec(),
        // Behind all rows of this counter, of which there is one.
        Some(after) => [&b"("[..], &after.counter.to_be_bytes(), &[255; ROW]].concat(),
    };
    let set = names.counters(names.shard_of(&stored[..16]), stored);
    read(&set, &from, b"+", limit)
}

fn unreadable() -> PluginError {
    PluginError::Corrupt("a counter cannot be read".to_owned())
}

/// A clock from before 1970 stands at it.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_starts_at_the_beginning() {
        // A use of 0 stays possible while the highest is at most the window.
        for (counter, from) in [(0, Some(65)), (1, Some(65)), (2, Some(66)), (u64::MAX - 64, Some(u64::MAX))] {
            assert_eq!(too_old_from(counter), from, "{counter}");
        }
        assert_eq!(too_old_from(u64::MAX - 63), None);
        for (highest, first) in
            [(0, None), (64, None), (65, Some(2)), (1000, Some(937)), (u64::MAX, Some(u64::MAX - 63))]
        {
            assert_eq!(below_window(highest), first, "{highest}");
        }
    }

    #[test]
    fn rows_come_back_with_their_time() {
        let one = CounterUse { credential: [7; 16], epoch: 9, counter: u64::MAX, nonce: [3; 32], time_ms: 1_999 };
        let line = line(&one.credential, one.epoch);
        assert_eq!(counter_use(&line, &row(&one, 0)), Some(CounterUse { time_ms: 1_000, ..one }));
        assert_eq!(counter_use(&line, &row(&one, 5)), Some(CounterUse { time_ms: 5_000, ..one }), "recorded later");
        let far = CounterUse { time_ms: u64::MAX, ..one };
        assert_eq!(counter_use(&line, &row(&far, 0)).unwrap().time_ms, MAX_SECONDS * 1000);
        assert_eq!(counter_use(&line, &[0; ROW - 1]), None);
    }
}
