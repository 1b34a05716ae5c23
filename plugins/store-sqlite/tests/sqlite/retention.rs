//! How long the rows of counters stay, by a clock that the tests move.

use std::{path::Path, sync::Arc, time::Duration};

use claviger_plugin_api::{
    COUNTER_RETENTION, Context, CounterUse, UserStore,
    Verdict::{self, Fresh, OtherNonce, SameNonce, TooOld},
    testkit::StoppedClock,
};
use claviger_store_sqlite::{SqliteStore, init};
use diesel::{Connection, RunQueryDsl, SqliteConnection, dsl::sql, select, sql_types::BigInt};
use tempfile::tempdir;

use super::{configuration, counter_use};

const SECOND: Duration = Duration::from_secs(1);

fn open_at(file: &Path, clock: &StoppedClock) -> SqliteStore {
    SqliteStore::open_with_clock(configuration(file), clock.shared()).unwrap()
}

/// Uses these counters of credential 1 with nonce 1.
async fn consume(store: &dyn UserStore, counters: impl Iterator<Item = u64>) -> Vec<Verdict> {
    let uses: Vec<CounterUse> = counters.map(|counter| counter_use(1, counter, 1)).collect();
    let mut verdicts = Vec::new();
    for batch in uses.chunks(1000) {
        verdicts.extend(store.consume(batch).await.unwrap());
    }
    verdicts
}

async fn all_are(store: &dyn UserStore, counters: impl Iterator<Item = u64>, verdict: Verdict) {
    let verdicts = consume(store, counters).await;
    assert!(verdicts.iter().all(|one| *one == verdict), "all should be {verdict:?}: {verdicts:?}");
}

fn rows(file: &Path) -> i64 {
    let mut connection = SqliteConnection::establish(file.to_str().unwrap()).unwrap();
    select(sql::<BigInt>("(SELECT count(*) FROM counters)")).get_result(&mut connection).unwrap()
}

#[tokio::test]
async fn a_resend_behind_the_window_is_judged_by_its_row() {
    let directory = tempdir().unwrap();
    let clock = StoppedClock::new();
    let store = open_at(&directory.path().join("users.db"), &clock);
    all_are(&store, 100..=100, Fresh).await;
    all_are(&store, 101..=165, Fresh).await;
    // To the very end of the retention, and with pruning at each step.
    for (step, passed) in [Duration::ZERO, COUNTER_RETENTION / 2, COUNTER_RETENTION / 2].into_iter().enumerate() {
        clock.pass(passed);
        all_are(&store, (1000 * step as u64 + 1000)..(1000 * step as u64 + 1100), Fresh).await;
        let uses = [counter_use(1, 100, 1), counter_use(1, 100, 2), counter_use(1, 99, 1)];
        assert_eq!(store.consume(&uses).await.unwrap(), [SameNonce, OtherNonce, TooOld], "step {step}");
        all_are(&store, 100..=165, SameNonce).await;
    }
}

#[tokio::test]
async fn a_post_dated_use_is_kept_until_it_has_been_in_time() {
    let directory = tempdir().unwrap();
    let clock = StoppedClock::new();
    let store = open_at(&directory.path().join("users.db"), &clock);
    let ahead = clock.now() + 5 * 3600 * SECOND;
    let time_ms = ahead.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    let post_dated = CounterUse { time_ms, ..counter_use(1, 5, 1) };
    assert_eq!(store.consume(&[post_dated]).await.unwrap(), [Fresh]);
    for (hours, verdict) in [(3, SameNonce), (2, SameNonce), (2, SameNonce), (1, TooOld)] {
        clock.pass(hours * 3600 * SECOND);
        let newer = 1000 * u64::from(hours) + clock.now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        all_are(&store, newer..newer + 200, Fresh).await;
        assert_eq!(store.consume(&[post_dated]).await.unwrap(), [verdict], "{hours} hours later");
    }
}

#[tokio::test]
async fn rows_are_pruned_when_they_are_old_and_behind_the_window() {
    let directory = tempdir().unwrap();
    let file = directory.path().join("users.db");
    let clock = StoppedClock::new();
    let store = open_at(&file, &clock);
    all_are(&store, 0..200, Fresh).await;
    assert_eq!(rows(&file), 200);
    clock.pass(COUNTER_RETENTION + SECOND);
    assert_eq!(consume(&store, [0, 199].into_iter()).await, [SameNonce, SameNonce], "time alone prunes nothing");
    // 256 - 64 = 192: what lies above it stays, however old.
    assert_eq!(consume(&store, [256].into_iter()).await, [Fresh]);
    assert_eq!(rows(&file), 200 - 193 + 1);
    let verdicts = consume(&store, [0, 100, 192, 193, 199, 256].into_iter()).await;
    assert_eq!(verdicts, [TooOld, TooOld, TooOld, SameNonce, SameNonce, SameNonce]);
    store.consume(&[counter_use(1, 100, 2)]).await.unwrap();
    assert_eq!(rows(&file), 8, "what is too old is not recorded");
}

#[tokio::test]
async fn pruning_keeps_up_with_a_busy_credential() {
    let directory = tempdir().unwrap();
    let file = directory.path().join("users.db");
    let clock = StoppedClock::new();
    let store = open_at(&file, &clock);
    // Odd ones alone, so that none is a multiple of 64; one in three seconds,
    // which makes 2600 within the retention.
    let per_retention = COUNTER_RETENTION.as_secs() as i64 / 3;
    for batch in 0..80 {
        all_are(&store, (0..100).map(|number| (batch * 100 + number) * 2 + 1), Fresh).await;
        clock.pass(SECOND * 300);
    }
    let kept = rows(&file);
    assert!((per_retention..per_retention + 300).contains(&kept), "{kept} rows of 8000 are left");
    // Of a burst much goes with each block that follows, but not all at once.
    all_are(&store, 100_000..103_000, Fresh).await;
    clock.pass(COUNTER_RETENTION + SECOND);
    let before = rows(&file);
    all_are(&store, 103_040..=103_040, Fresh).await;
    assert_eq!(rows(&file), before + 1 - 256, "one sign-on prunes a bounded number of rows");
    all_are(&store, (1..30).map(|block| 103_040 + block * 64), Fresh).await;
    assert_eq!(rows(&file), 30, "and the next ones the rest");
}

#[tokio::test]
async fn a_late_counter_is_kept_for_its_own_time() {
    let directory = tempdir().unwrap();
    let clock = StoppedClock::new();
    let store = open_at(&directory.path().join("users.db"), &clock);
    all_are(&store, (1..=60).filter(|counter| *counter != 7), Fresh).await;
    clock.pass(COUNTER_RETENTION);
    all_are(&store, 7..=7, Fresh).await;
    clock.pass(SECOND);
    all_are(&store, 500..=500, Fresh).await;
    assert_eq!(consume(&store, [6, 7, 8].into_iter()).await, [TooOld, SameNonce, TooOld]);
}

#[tokio::test]
async fn a_clock_that_is_set_back_prunes_nothing() {
    let directory = tempdir().unwrap();
    let file = directory.path().join("users.db");
    let ahead = StoppedClock::new();
    ahead.pass(COUNTER_RETENTION * 2);
    all_are(&open_at(&file, &ahead), 0..200, Fresh).await;
    let store = open_at(&file, &StoppedClock::new());
    all_are(&store, 1000..=1000, Fresh).await;
    all_are(&store, 0..200, SameNonce).await;
}

#[tokio::test]
async fn a_restart_keeps_rows_and_their_time() {
    let directory = tempdir().unwrap();
    let file = directory.path().join("users.db");
    let clock = StoppedClock::new();
    all_are(&open_at(&file, &clock), 1..=1000, Fresh).await;
    clock.pass(COUNTER_RETENTION);
    let store = open_at(&file, &clock);
    all_are(&store, 1..=1000, SameNonce).await;
    assert_eq!(store.consume(&[counter_use(1, 1, 2)]).await.unwrap(), [OtherNonce]);
    drop(store);
    clock.pass(SECOND);
    let store = open_at(&file, &clock);
    all_are(&store, 2000..=2000, Fresh).await;
    assert_eq!(consume(&store, [1, 256, 257].into_iter()).await, [TooOld, TooOld, SameNonce]);
}

#[tokio::test]
async fn the_plugin_goes_by_the_hosts_clock() {
    let directory = tempdir().unwrap();
    let file = directory.path().join("users.db");
    let clock = StoppedClock::new();
    let configuration = serde_json::json!({ "path": file, "synchronous": "normal" });
    let context = Context { name: "store-sqlite".to_owned(), configuration, state: None, clock: clock.shared() };
    let store: Arc<dyn UserStore> = init(context).unwrap().user_store.unwrap().into();
    all_are(&*store, 1..=1, Fresh).await;
    all_are(&*store, 100..=100, Fresh).await;
    all_are(&*store, 1..=1, SameNonce).await;
    clock.pass(COUNTER_RETENTION + SECOND);
    all_are(&*store, 200..=200, Fresh).await;
    all_are(&*store, 1..=1, TooOld).await;
}
