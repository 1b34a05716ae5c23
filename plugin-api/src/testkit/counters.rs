//! The suite of user stores: the replay defence.

use std::sync::Arc;

use super::{Check, at_once, check::checks};
use crate::{COUNTER_WINDOW, CounterUse, PluginError, UserStore, Verdict};

use Verdict::{Fresh, OtherNonce, SameNonce, TooOld};

pub(super) fn checks() -> Vec<Check<Arc<dyn UserStore>>> {
    checks!(
        "counters",
        [
            verdicts_follow_the_window,
            rows_outlive_the_window,
            a_batch_is_judged_in_order,
            credentials_and_epochs_are_apart,
            forgotten_counters_are_fresh,
            batches_have_a_size,
            of_concurrent_duplicates_one_is_fresh,
            concurrent_counters_are_all_judged,
        ]
    )
}

pub(super) fn one(credential: u8, epoch: u32, counter: u64, nonce: u8) -> CounterUse {
    CounterUse { credential: [credential; 16], epoch, counter, nonce: [nonce; 32], time_ms: 0 }
}

pub(super) async fn consume(store: &Arc<dyn UserStore>, uses: &[CounterUse]) -> Vec<Verdict> {
    let verdicts = store.consume(uses).await.expect("consume");
    assert_eq!(verdicts.len(), uses.len(), "one verdict for each use");
    verdicts
}

async fn verdicts_follow_the_window(store: Arc<dyn UserStore>) {
    const TOP: u64 = 1 << 63;
    // (counter, nonce, verdict), one call after the other.
    let table = [
        (0, 1, Fresh),
        (0, 1, SameNonce),
        (0, 2, OtherNonce),
        (64, 1, Fresh),
        // 64 - 64 is 0, which is no line: all is still within the window.
        (0, 1, SameNonce),
        (1, 1, Fresh),
        (65, 1, Fresh),
        // The window has moved on; the rows are still there.
        (1, 1, SameNonce),
        (1, 2, OtherNonce),
        (1, 1, SameNonce),
        (0, 1, SameNonce),
        (2, 1, Fresh),
        (2, 2, OtherNonce),
        (65, 2, OtherNonce),
        (65, 1, SameNonce),
        (200, 1, Fresh),
        // Never used, and what is too old is not recorded.
        (200 - COUNTER_WINDOW, 1, TooOld),
        (200 - COUNTER_WINDOW, 1, TooOld),
        (3, 1, TooOld),
        (2, 1, SameNonce),
        (200 - COUNTER_WINDOW + 1, 1, Fresh),
        (200 - COUNTER_WINDOW + 1, 1, SameNonce),
        (150, 3, Fresh),
        // Around the highest signed number.
        (TOP - 1, 1, Fresh),
        (TOP, 1, Fresh),
        (TOP - 1, 1, SameNonce),
        (200, 1, SameNonce),
        (201, 1, TooOld),
        (TOP + 1, 1, Fresh),
        (TOP - 2, 1, Fresh),
        (TOP, 2, OtherNonce),
        (u64::MAX - 1, 1, Fresh),
        (u64::MAX, 1, Fresh),
        (u64::MAX, 1, SameNonce),
        (u64::MAX - COUNTER_WINDOW, 1, TooOld),
        (u64::MAX - COUNTER_WINDOW + 1, 1, Fresh),
        (0, 9, OtherNonce),
        (0, 1, SameNonce),
        (3, 9, TooOld),
    ];
    for (step, (counter, nonce, verdict)) in table.into_iter().enumerate() {
        let judged = consume(&store, &[one(1, 0, counter, nonce)]).await;
        assert_eq!(judged, [verdict], "step {step}: counter {counter} with nonce {nonce}");
    }
}

/// An envelope that was answered may be sent again when many newer ones were:
/// that is a replay, and its sender no clone.
async fn rows_outlive_the_window(store: Arc<dyn UserStore>) {
    consume(&store, &[one(1, 0, 100, 1)]).await;
    let newer: Vec<CounterUse> = (101..=165).map(|counter| one(1, 0, counter, 1)).collect();
    assert!(consume(&store, &newer).await.iter().all(|verdict| *verdict == Fresh), "65 newer counters");
    let resent = [one(1, 0, 100, 1), one(1, 0, 100, 2), one(1, 0, 100, 1), one(1, 0, 99, 1)];
    let verdicts = [SameNonce, OtherNonce, SameNonce, TooOld];
    assert_eq!(consume(&store, &resent).await, verdicts, "after 65 newer counters");
    for thousand in 1..=5 {
        let uses: Vec<CounterUse> = (0..1000).map(|low| one(1, 0, thousand * 1000 + low, 1)).collect();
        assert!(consume(&store, &uses).await.iter().all(|verdict| *verdict == Fresh), "rising counters are fresh");
        assert!(consume(&store, &uses).await.iter().all(|verdict| *verdict == SameNonce), "all of them are kept");
    }
    assert_eq!(consume(&store, &resent).await, verdicts, "after 5065 newer counters");
    assert!(consume(&store, &newer).await.iter().all(|verdict| *verdict == SameNonce), "none was pruned so soon");
}

async fn a_batch_is_judged_in_order(store: Arc<dyn UserStore>) {
    assert_eq!(consume(&store, &[]).await, [], "no uses, no verdicts");
    let uses = [
        one(1, 0, 10, 1),
        one(1, 0, 10, 1),
        one(1, 0, 10, 2),
        one(2, 0, 10, 2),
        one(1, 0, 100, 1),
        one(1, 0, 10, 1),
        one(1, 0, 37, 1),
        one(1, 0, 36, 1),
    ];
    let verdicts = [Fresh, SameNonce, OtherNonce, Fresh, Fresh, SameNonce, Fresh, TooOld];
    assert_eq!(consume(&store, &uses).await, verdicts);
    let again = [SameNonce, SameNonce, OtherNonce, SameNonce, SameNonce, SameNonce, SameNonce, TooOld];
    assert_eq!(consume(&store, &uses).await, again, "the same batch again");
}

async fn credentials_and_epochs_are_apart(store: Arc<dyn UserStore>) {
    for credential in [0, 1, 255] {
        for epoch in [0, 1, u32::MAX] {
            let judged = consume(&store, &[one(credential, epoch, 1000, 1), one(credential, epoch, 1000, 1)]).await;
            assert_eq!(judged, [Fresh, SameNonce], "credential {credential}, epoch {epoch}");
        }
    }
    let judged = consume(&store, &[one(1, 2, 5, 1)]).await;
    assert_eq!(judged, [Fresh], "the window of another epoch does not count");
}

async fn forgotten_counters_are_fresh(store: Arc<dyn UserStore>) {
    let uses = [one(1, 0, 100, 1), one(1, 7, 100, 1), one(2, 0, 100, 1)];
    consume(&store, &uses).await;
    store.forget_counters([1; 16]).await.expect("forget_counters");
    assert_eq!(consume(&store, &uses).await, [Fresh, Fresh, SameNonce], "one credential is forgotten in all epochs");
    store.forget_counters([9; 16]).await.expect("an unknown credential is forgotten already");
}

async fn batches_have_a_size(store: Arc<dyn UserStore>) {
    let uses: Vec<CounterUse> = (0..1001).map(|counter| one(1, 0, counter, 1)).collect();
    let answer = store.consume(&uses).await;
    assert!(matches!(answer, Err(PluginError::InvalidCall(_))), "1001 uses are an invalid call, not {answer:?}");
    let judged = consume(&store, &uses[..1000]).await;
    assert!(judged.iter().all(|verdict| *verdict == Fresh), "1000 rising counters are fresh");
}

async fn of_concurrent_duplicates_one_is_fresh(store: Arc<dyn UserStore>) {
    for round in 0..20 {
        let verdicts = at_once(8, |_| {
            let store = store.clone();
            async move { consume(&store, &[one(1, 0, round, 1)]).await[0] }
        })
        .await;
        let fresh = verdicts.iter().filter(|verdict| **verdict == Fresh).count();
        let same = verdicts.iter().filter(|verdict| **verdict == SameNonce).count();
        assert_eq!((fresh, same), (1, 7), "of eight at once exactly one is fresh: {verdicts:?}");
    }
}

async fn concurrent_counters_are_all_judged(store: Arc<dyn UserStore>) {
    let verdicts = at_once(200, |number| {
        let store = store.clone();
        async move {
            let (credential, counter) = ((number % 10) as u8, u64::from(number / 10));
            consume(&store, &[one(credential, 0, counter, 1), one(credential, 0, counter, 2)]).await
        }
    })
    .await;
    for verdicts in verdicts {
        assert_eq!(verdicts, [Fresh, OtherNonce], "200 credentials and counters, none of them used before");
    }
}
