//! The suite of user stores: listings of everything, and the copies made of them.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::task::JoinSet;

use super::{Check, check::checks, counters::consume, records::put};
use crate::{CounterPosition, CounterUse, PluginError, Record, UserStore, Verdict, Written};

pub(super) fn checks() -> Vec<Check<Arc<dyn UserStore>>> {
    checks!(
        "lists",
        [
            records_are_listed_in_bytewise_order,
            a_list_survives_writes,
            counters_are_listed_in_order,
            pages_have_a_size,
            a_copy_judges_alike(2),
        ]
    )
}

/// Everything by pages of `limit`, each of which must be full but the last.
pub(super) async fn all_records(store: &Arc<dyn UserStore>, limit: usize) -> Vec<Record> {
    let mut found: Vec<Record> = Vec::new();
    loop {
        let after = found.last().map(|record| record.key.clone());
        let page = store.list(after.as_deref(), limit).await.expect("list");
        assert!(page.len() <= limit, "{} records where {limit} were asked", page.len());
        let last = page.len() < limit;
        found.extend(page);
        if last {
            return found;
        }
    }
}

/// The same for counters.
pub(super) async fn all_counters(store: &Arc<dyn UserStore>, limit: usize) -> Vec<CounterUse> {
    let mut found: Vec<CounterUse> = Vec::new();
    loop {
        let page = store.counters(found.last().map(position), limit).await.expect("counters");
        assert!(page.len() <= limit, "{} rows where {limit} were asked", page.len());
        let last = page.len() < limit;
        found.extend(page);
        if last {
            return found;
        }
    }
}

fn position(row: &CounterUse) -> CounterPosition {
    CounterPosition { credential: row.credential, epoch: row.epoch, counter: row.counter }
}

/// Keys whose order differs between bytes, locales, cases and lengths.
const KEYS: [&str; 16] =
    ["a", "B", "b", "ab", "a\0", "a\0b", "a!", "A", "é", "e\u{301}", "z", "%", "_", "\u{7f}", "\u{ffff}", "\u{1f511}"];

async fn records_are_listed_in_bytewise_order(store: Arc<dyn UserStore>) {
    assert_eq!(store.list(None, 1000).await.expect("list"), [], "an empty store lists nothing");
    for (number, key) in KEYS.iter().enumerate() {
        // Those without terms are records too; those with many come once.
        let terms = [("name", "x"), ("name", "y"), ("kind", *key)];
        store.put(put(key, 0, key.as_bytes(), &terms[..number % 4])).await.expect("put");
    }
    store.put(put("ab", 1, b"again", &[])).await.expect("put");
    store.put(put("gone", 0, b"", &[("name", "x")])).await.expect("put");
    store.delete("gone", 1).await.expect("delete");
    let mut expected = KEYS.map(str::to_owned);
    expected.sort();
    let whole = all_records(&store, 1000).await;
    let keys: Vec<&String> = whole.iter().map(|record| &record.key).collect();
    assert_eq!(keys, expected.iter().collect::<Vec<_>>(), "records are listed in bytewise order of their keys");
    let asked = store.get(&expected).await.expect("get");
    for (mut listed, record) in whole.iter().cloned().zip(asked) {
        let mut record = record.expect("what is listed is there");
        record.terms.sort();
        listed.terms.sort();
        assert_eq!(listed, record, "records are listed whole");
    }
    for limit in [1, 2, 3, 5, 15, 16, 17] {
        assert!(all_records(&store, limit).await == whole, "pages of {limit}");
    }
    let behind = store.list(Some("a\0a"), 2).await.expect("list");
    let keys: Vec<&str> = behind.iter().map(|record| record.key.as_str()).collect();
    assert_eq!(keys, ["a\0b", "a!"], "a list goes on behind a key that need not be there");
    assert_eq!(store.list(Some("\u{10ffff}"), 2).await.expect("list"), [], "nothing lies behind the last key");
}

/// Records that are there all the time come exactly once, whatever is written meanwhile.
async fn a_list_survives_writes(store: Arc<dyn UserStore>) {
    for number in 0..100 {
        store.put(put(&format!("k{number:02}"), 0, b"", &[])).await.expect("put");
    }
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = JoinSet::new();
    for writer in 0..4 {
        let (store, stop) = (store.clone(), stop.clone());
        writers.spawn(async move {
            for round in 0.. {
                let key = format!("k{:02}+{writer}", (round * 37) % 100);
                store.put(put(&key, 0, b"", &[("name", "x")])).await.expect("put");
                store.delete(&key, 1).await.expect("delete");
                if stop.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
    }
    for limit in [7, 30] {
        let found = all_records(&store, limit).await;
        let keys: Vec<&str> = found.iter().map(|record| record.key.as_str()).collect();
        assert!(keys.is_sorted_by(|a, b| a < b), "a list rises, under writes too: {keys:?}");
        let stable = keys.iter().filter(|key| key.len() == 3).count();
        assert_eq!(stable, 100, "records that were there all the time are listed: {keys:?}");
    }
    stop.store(true, Ordering::Relaxed);
    writers.join_all().await;
}

/// Counters at the edges of all numbers, in the order of [`UserStore::counters`].
fn edges() -> Vec<CounterUse> {
    let mut uses = Vec::new();
    for credential in [[0; 16], [1; 16], [0x7f; 16], [0x80; 16], [0xff; 16]] {
        for epoch in [0, 1, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
            for counter in [0, 1, (1 << 63) - 1, 1 << 63, u64::MAX - 1, u64::MAX] {
                uses.push(CounterUse { credential, epoch, counter, nonce: [counter as u8; 32], time_ms: 0 });
            }
        }
    }
    uses
}

async fn counters_are_listed_in_order(store: Arc<dyn UserStore>) {
    /// Far ahead of any clock of a test.
    const AHEAD: u64 = 33_000_000_000_123;
    assert_eq!(store.counters(None, 1000).await.expect("counters"), [], "an empty store lists nothing");
    let mut expected = edges();
    expected[0].time_ms = AHEAD;
    let judged = consume(&store, &expected).await;
    assert!(judged.iter().all(|verdict| *verdict == Verdict::Fresh), "all of them are fresh: {judged:?}");
    let whole = all_counters(&store, 1000).await;
    let bare = |uses: &[CounterUse]| uses.iter().map(|one| (position(one), one.nonce)).collect::<Vec<_>>();
    assert_eq!(bare(&whole), bare(&expected), "rows come in the order of credential, epoch and counter");
    let time = whole[0].time_ms;
    assert!(AHEAD.abs_diff(time) <= 1000, "a post-dated use keeps its time: {time} for {AHEAD}");
    assert!(whole[1..].iter().all(|row| row.time_ms > 0), "other rows say when they were recorded");
    for limit in [1, 4, 6, 7, 30, 149, 150, 151] {
        assert!(all_counters(&store, limit).await == whole, "pages of {limit}");
    }
    let gap = CounterPosition { credential: [1; 16], epoch: 1, counter: 1 << 62 };
    let behind = store.counters(Some(gap), 3).await.expect("counters");
    let counters: Vec<u64> = behind.iter().map(|row| row.counter).collect();
    assert_eq!(counters, [(1 << 63) - 1, 1 << 63, u64::MAX - 1], "a list goes on behind a row that need not be there");
    store.forget_counters([1; 16]).await.expect("forget_counters");
    let rest = all_counters(&store, 1000).await;
    assert!(rest.iter().all(|row| row.credential != [1; 16]) && rest.len() == 120, "forgotten rows are not listed");
}

async fn pages_have_a_size(store: Arc<dyn UserStore>) {
    for limit in [0, 1001] {
        let (list, counters) = (store.list(None, limit).await, store.counters(None, limit).await);
        assert!(matches!(list, Err(PluginError::InvalidCall(_))), "a list of {limit}: {list:?}");
        assert!(matches!(counters, Err(PluginError::InvalidCall(_))), "counters, {limit} of them: {counters:?}");
    }
}

/// A store into which another one's records and rows were copied.
async fn a_copy_judges_alike(store: Arc<dyn UserStore>, copy: Arc<dyn UserStore>) {
    for number in 0..40 {
        let key = format!("k{number}");
        store.put(put(&key, 0, key.as_bytes(), &[("name", &key)])).await.expect("put");
    }
    let mut uses = edges();
    // A busy credential with gaps, of which the lower ones are out of the window.
    for counter in (0..1500).filter(|counter| counter % 7 != 3) {
        uses.push(CounterUse { credential: [9; 16], epoch: 3, counter, nonce: [1; 32], time_ms: 0 });
    }
    for batch in uses.chunks(1000) {
        consume(&store, batch).await;
    }
    for record in all_records(&store, 16).await {
        let written = copy.put(crate::Put { key: record.key, expected: 0, value: record.value, terms: record.terms });
        assert_eq!(written.await.expect("put"), Written::Done(1), "a fresh store takes each record");
    }
    let rows = all_counters(&store, 1000).await;
    assert_eq!(rows.len(), uses.len(), "all rows are listed");
    for batch in rows.chunks(1000) {
        let judged = consume(&copy, batch).await;
        assert!(judged.iter().all(|verdict| *verdict == Verdict::Fresh), "rows in order are fresh in a copy");
    }
    assert!(all_records(&store, 1000).await == all_records(&copy, 1000).await, "the records of both are the same");
    let copied = all_counters(&copy, 1000).await;
    assert_eq!(copied.len(), rows.len(), "the copy has as many rows");
    for (row, copied) in rows.iter().zip(copied) {
        assert_eq!((position(&copied), copied.nonce), (position(row), row.nonce), "the copy has the same rows");
        // Counted from the copying, at the latest: that was not the past.
        assert!(copied.time_ms >= row.time_ms, "a copied row is kept as long as the original: {copied:?} of {row:?}");
    }

    // What was used, with both nonces, and what was not.
    let other = uses.iter().map(|one| CounterUse { nonce: [0xee; 32], ..*one });
    let unused = [3, 10, 1368, 1431, 1438, 1494].map(|counter| CounterUse {
        credential: [9; 16],
        epoch: 3,
        counter,
        nonce: [1; 32],
        time_ms: 0,
    });
    let asked: Vec<CounterUse> = uses.iter().copied().chain(other).chain(unused).collect();
    let mut seen = BTreeSet::new();
    for batch in asked.chunks(1000) {
        let verdicts = consume(&store, batch).await;
        assert_eq!(verdicts, consume(&copy, batch).await, "a copy judges as the original");
        seen.extend(verdicts.iter().map(|verdict| format!("{verdict:?}")));
    }
    assert_eq!(seen.len(), 4, "each verdict was among them: {seen:?}");
}
