//! The suite of user stores: what was answered is there when the store is opened again.

use std::{future::Future, sync::Arc};

use super::{
    at_once,
    counters::{consume, one as used},
    lists::{all_counters, all_records},
    records::put,
};
use crate::{CounterUse, UserStore, Verdict, Written};

/// Checks that a user store keeps everything it has answered over its end.
/// `open` opens the *same* store each time, empty at the first; each is dropped
/// before the next one is opened.
///
/// # Panics
/// With what was expected, where the store does not keep the contract.
pub async fn restart<F>(open: impl Fn() -> F)
where
    F: Future<Output = Arc<dyn UserStore>>,
{
    let store = open().await;
    let uses = write(&store).await;
    let (records, counters) = (all_records(&store, 1000).await, all_counters(&store, 1000).await);
    drop(store);
    // Twice: what the first opening repaired must stay, too.
    for _ in 0..2 {
        let store = open().await;
        store.health().await.expect("a store that was opened again is healthy");
        assert!(all_records(&store, 1000).await == records, "all records are there, and as they were");
        assert!(all_counters(&store, 1000).await == counters, "all rows of counters are there, and as they were");
        for uses in uses.chunks(1000) {
            let judged = consume(&store, uses).await;
            assert!(judged.iter().all(|verdict| *verdict == Verdict::SameNonce), "used counters stay used: {judged:?}");
        }
        let judged = consume(&store, &[used(0, 0, 30, 1), used(0, 0, 30, 2), used(0, 0, 5, 1)]).await;
        assert_eq!(judged, [Verdict::SameNonce, Verdict::OtherNonce, Verdict::SameNonce]);
        let judged = consume(&store, &[used(200, 0, 1, 1)]).await;
        assert_eq!(judged, [Verdict::TooOld], "the window stays where it was");
        assert_eq!(store.put(put("k0", 1, b"", &[])).await.expect("put"), Written::Conflict(2), "so do versions");
    }
    let store = open().await;
    assert_eq!(store.put(put("k0", 2, b"new", &[])).await.expect("put"), Written::Done(3), "it takes writes as ever");
    assert_eq!(consume(&store, &[used(0, 0, 31, 1)]).await, [Verdict::Fresh]);
}

/// Writes from many tasks; the store is dropped right after the last answer.
async fn write(store: &Arc<dyn UserStore>) -> Vec<CounterUse> {
    let uses = at_once(20, |task| {
        let store = store.clone();
        async move {
            let key = format!("k{task}");
            let terms = [("name", key.as_str()), ("kind", "x")];
            assert_eq!(store.put(put(&key, 0, b"1", &terms)).await.expect("put"), Written::Done(1));
            assert_eq!(store.put(put(&key, 1, b"2", &terms[..1])).await.expect("put"), Written::Done(2));
            if task >= 15 {
                assert_eq!(store.delete(&key, 2).await.expect("delete"), Written::Done(0));
            }
            let uses: Vec<CounterUse> = (0..=30).map(|counter| used(task as u8, 0, counter, 1)).collect();
            assert!(consume(&store, &uses).await.iter().all(|verdict| *verdict == Verdict::Fresh));
            uses
        }
    });
    let mut uses = uses.await.concat();
    let top = [used(200, 0, u64::MAX, 1), used(200, u32::MAX, 0, 1)];
    consume(store, &top).await;
    uses.extend(top);
    uses
}
