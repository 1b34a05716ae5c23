//! The suite of user stores: many tasks at once on the same records and counters.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::task::JoinSet;

use super::{
    Check, at_once,
    check::checks,
    counters::consume,
    records::{one, put},
};
use crate::{CounterUse, Scan, UserStore, Verdict, Written};

pub(super) fn checks() -> Vec<Check<Arc<dyn UserStore>>> {
    checks!("races", [no_increment_is_lost, a_scan_is_in_order_under_writes, overlapping_batches_have_one_winner_each,])
}

/// Adds one to the number in a record, however often it takes.
pub(super) async fn increment(store: &Arc<dyn UserStore>, key: &str) {
    let mut found = one(store, key).await;
    loop {
        let (version, value) = found.as_ref().map_or((0, 0), |record| (record.version, number(&record.value)));
        assert_eq!(version, value, "{key} was written by increments alone");
        let terms = [("value", format!("{:020}", value + 1))];
        let terms = terms.each_ref().map(|(name, value)| (*name, value.as_str()));
        match store.put(put(key, version, &(value + 1).to_be_bytes(), &terms)).await.expect("put") {
            Written::Done(_) => return,
            Written::Conflict(_) => found = one(store, key).await,
        }
    }
}

/// What [`increment`] has written.
pub(super) fn number(value: &[u8]) -> u64 {
    u64::from_be_bytes(value.try_into().expect("eight bytes"))
}

async fn no_increment_is_lost(store: Arc<dyn UserStore>) {
    const TASKS: u32 = 8;
    const ROUNDS: u64 = 6;
    const KEYS: [&str; 3] = ["a", "b", "c"];
    at_once(TASKS, |task| {
        let store = store.clone();
        async move {
            for round in 0..ROUNDS {
                for step in 0..3 {
                    // Each in another order.
                    increment(&store, KEYS[(task as usize + round as usize + step) % 3]).await;
                }
            }
        }
    })
    .await;
    for key in KEYS {
        let record = one(&store, key).await.expect("it is there");
        assert_eq!(number(&record.value), u64::from(TASKS) * ROUNDS, "no increment of {key} is lost");
        let page = store.scan(Scan { term: "value".into(), after: None, limit: 10 }).await.expect("scan");
        assert_eq!(page.records.len(), KEYS.len(), "the index has one entry for each record");
    }
}

async fn a_scan_is_in_order_under_writes(store: Arc<dyn UserStore>) {
    for number in 0..80 {
        store.put(put(&format!("k{number:02}"), 0, b"", &[("n", &format!("{number:02}"))])).await.expect("put");
    }
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = JoinSet::new();
    for writer in 0..6_usize {
        let (store, stop) = (store.clone(), stop.clone());
        writers.spawn(async move {
            let key = format!("moving{writer}");
            let mut version = 0;
            for round in 0.. {
                // It moves to and fro along the index.
                let value = format!("{:02}", (round * 31 + writer * 13) % 80);
                match store.put(put(&key, version, b"", &[("n", &value)])).await.expect("put") {
                    Written::Done(new) => version = new,
                    Written::Conflict(stored) => panic!("nobody else writes {key}, and it has version {stored}"),
                }
                if stop.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
    }
    for limit in [9, 40] {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = store.scan(Scan { term: "n".into(), after, limit }).await.expect("scan");
            for record in page.records {
                let [term] = &record.terms[..] else { panic!("a record with its one term: {record:?}") };
                found.push((term.value.clone(), record.key));
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert!(found.is_sorted_by(|a, b| a < b), "a scan rises, under writes too: {found:?}");
        let stable = found.iter().filter(|(_, key)| key.starts_with('k')).count();
        assert_eq!(stable, 80, "records that were there all the time come once: {found:?}");
    }
    stop.store(true, Ordering::Relaxed);
    writers.join_all().await;
}

/// The same counters in different orders: stores that lock rows must not block each other for ever.
async fn overlapping_batches_have_one_winner_each(store: Arc<dyn UserStore>) {
    const TASKS: u32 = 8;
    const ROUNDS: u64 = 8;
    let judged = at_once(TASKS, |task| {
        let store = store.clone();
        async move {
            let mut judged = Vec::new();
            for round in 0..ROUNDS {
                let batch = shuffled(round, task);
                let verdicts = consume(&store, &batch).await;
                judged.extend(batch.into_iter().map(|one| (one.credential, one.epoch, one.counter)).zip(verdicts));
            }
            judged
        }
    })
    .await;
    let mut fresh: BTreeMap<_, u32> = BTreeMap::new();
    for (counter, verdict) in judged.into_iter().flatten() {
        match verdict {
            Verdict::Fresh => *fresh.entry(counter).or_default() += 1,
            Verdict::OtherNonce => {}
            other => panic!("{counter:?} was judged {other:?}"),
        }
    }
    assert_eq!(fresh.len() as u64, 24 * ROUNDS, "each counter was fresh for somebody");
    assert!(fresh.values().all(|times| *times == 1), "and for nobody else: {fresh:?}");
}

/// The counters of a round, in an order of the caller's own and with its nonce:
/// 3 credentials, 2 epochs, 4 counters.
pub(super) fn shuffled(round: u64, caller: u32) -> Vec<CounterUse> {
    let steps = [1, 5, 7, 11, 13, 17, 19, 23];
    let step = steps[caller as usize % steps.len()];
    let places = (0..24_u64).map(|number| (number * step + u64::from(caller)) % 24);
    let place = |place: u64| CounterUse {
        credential: [(place % 3) as u8; 16],
        epoch: (place / 3 % 2) as u32,
        counter: round * 4 + place / 6,
        nonce: [caller as u8; 32],
        time_ms: 0,
    };
    places.map(place).collect()
}
