//! How long the rows of counters stay, by a clock that the tests move.

use std::{sync::Arc, time::Duration};

use claviger_plugin_api::{
    COUNTER_RETENTION, CounterUse, KeyCustody, UserStore,
    Verdict::{self, Fresh, OtherNonce, SameNonce, TooOld},
    testkit::StoppedClock,
};
use claviger_servers::SoftHsm;
use claviger_store_pkcs11::{Store, Token};

use super::{configuration, counter_use, objects, on_a_token, storage};

const SECOND: Duration = Duration::from_secs(1);

async fn open_at(hsm: &SoftHsm, clock: &StoppedClock) -> Arc<Store> {
    let token = Token::open_with_clock(configuration(hsm), clock.shared()).unwrap();
    token.custody().initialise().await.unwrap();
    Arc::new(token.user_store().unwrap())
}

/// Uses these counters of credential 1 with nonce 1, one call for all.
async fn consume(store: &Store, counters: impl Iterator<Item = u64>) -> Vec<Verdict> {
    let uses: Vec<CounterUse> = counters.map(|counter| counter_use(1, counter, 1)).collect();
    store.consume(&uses).await.unwrap()
}

async fn all_are(store: &Store, counters: impl Iterator<Item = u64>, verdict: Verdict) {
    let verdicts = consume(store, counters).await;
    assert!(verdicts.iter().all(|one| *one == verdict), "all should be {verdict:?}: {verdicts:?}");
}

/// Objects beside master key and canary.
fn chunks(hsm: &SoftHsm) -> usize {
    objects(&storage(hsm)).len() - 2
}

#[test]
fn a_resend_behind_the_window_is_judged_by_its_row() {
    on_a_token(async |hsm| {
        let clock = StoppedClock::new();
        let store = open_at(&hsm, &clock).await;
        all_are(&store, 100..=165, Fresh).await;
        // To the very end of the retention, and with pruning at each step.
        for (step, passed) in [Duration::ZERO, COUNTER_RETENTION / 2, COUNTER_RETENTION / 2].into_iter().enumerate() {
            clock.pass(passed);
            all_are(&store, (1000 * step as u64 + 1000)..(1000 * step as u64 + 1100), Fresh).await;
            let uses = [counter_use(1, 100, 1), counter_use(1, 100, 2), counter_use(1, 99, 1)];
            assert_eq!(store.consume(&uses).await.unwrap(), [SameNonce, OtherNonce, TooOld], "step {step}");
            all_are(&store, 100..=165, SameNonce).await;
        }
    });
}

#[test]
fn chunks_are_pruned_when_all_their_rows_are_old() {
    on_a_token(async |hsm| {
        let clock = StoppedClock::new();
        let store = open_at(&hsm, &clock).await;
        all_are(&store, 0..640, Fresh).await;
        assert_eq!(chunks(&hsm), 10);
        clock.pass(COUNTER_RETENTION + SECOND);
        assert_eq!(consume(&store, [0, 639].into_iter()).await, [SameNonce, SameNonce], "time alone prunes nothing");
        // Four at a time: those of 0..256, then of 256..512.
        all_are(&store, 640..=640, Fresh).await;
        assert_eq!(chunks(&hsm), 10 + 1 - 4);
        assert_eq!(consume(&store, [0, 255, 256].into_iter()).await, [TooOld, TooOld, SameNonce]);
        all_are(&store, 704..=704, Fresh).await;
        all_are(&store, 768..=768, Fresh).await;
        assert_eq!(chunks(&hsm), 1, "what is young has one");
        drop(store);
        let store = open_at(&hsm, &clock).await;
        let uses = [0, 511, 639, 640, 704, 768].into_iter();
        assert_eq!(consume(&store, uses).await, [TooOld, TooOld, TooOld, SameNonce, SameNonce, SameNonce]);
    });
}

#[test]
fn a_restart_keeps_rows_and_their_time() {
    on_a_token(async |hsm| {
        let clock = StoppedClock::new();
        let store = open_at(&hsm, &clock).await;
        let ahead = clock.now() + COUNTER_RETENTION;
        let time_ms = ahead.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
        let post_dated = CounterUse { time_ms, ..counter_use(2, 5, 1) };
        assert_eq!(store.consume(&[post_dated]).await.unwrap(), [Fresh]);
        all_are(&store, 1..=100, Fresh).await;
        let rows = store.counters(None, 1000).await.unwrap();
        assert_eq!(rows.len(), 101);
        assert_eq!(rows[100], post_dated, "to the second");
        drop(store);
        clock.pass(COUNTER_RETENTION + SECOND);
        let store = open_at(&hsm, &clock).await;
        assert_eq!(store.counters(None, 1000).await.unwrap(), rows);
        // In time until now, and so kept for longer.
        let newer: Vec<CounterUse> = [1000, 2000].map(|counter| counter_use(2, counter, 1)).into();
        assert_eq!(store.consume(&newer).await.unwrap(), [Fresh, Fresh]);
        assert_eq!(store.consume(&[post_dated]).await.unwrap(), [SameNonce]);
    });
}
