//! How long the rows of counters stay, by a clock that the tests move.

use std::{sync::Arc, time::Duration};

use claviger_plugin_api::{
    COUNTER_RETENTION, Context, CounterUse, UserStore,
    Verdict::{Fresh, OtherNonce, SameNonce, TooOld},
    testkit::StoppedClock,
};
use claviger_servers::Redis;
use claviger_store_redis::{RedisStore, init};
use serde_json::json;

use super::{counter_use, on, patient};

#[tokio::test(flavor = "multi_thread")]
async fn rows_stay_for_their_time_and_go_after_it() {
    let server = Redis::shared();
    let clock = StoppedClock::new();
    let store = RedisStore::open_with_clock(patient(on(&server)), clock.shared()).unwrap();
    let rows = async || store.counters(None, 1000).await.unwrap().len();

    let ahead = clock.now() + COUNTER_RETENTION;
    let time_ms = ahead.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    let first: Vec<CounterUse> = (1..=300).map(|counter| counter_use(1, counter, 1)).collect();
    let post_dated = CounterUse { time_ms, ..counter_use(1, 301, 1) };
    assert!(store.consume(&first).await.unwrap().iter().all(|verdict| *verdict == Fresh));
    assert_eq!(store.consume(&[post_dated]).await.unwrap(), [Fresh]);

    clock.pass(COUNTER_RETENTION);
    assert_eq!(store.consume(&[counter_use(1, 1000, 1)]).await.unwrap(), [Fresh]);
    let again = [counter_use(1, 1, 1), counter_use(1, 1, 2), counter_use(1, 302, 1)];
    assert_eq!(store.consume(&again).await.unwrap(), [SameNonce, OtherNonce, TooOld], "kept to the very end");
    assert_eq!(rows().await, 302);

    clock.pass(Duration::from_secs(1));
    // In the block of the highest, nothing goes.
    assert_eq!(store.consume(&[counter_use(1, 1001, 1)]).await.unwrap(), [Fresh]);
    assert_eq!(rows().await, 303);
    for (counter, left) in [(2000, 303 - 256 + 1), (3000, 5)] {
        assert_eq!(store.consume(&[counter_use(1, counter, 1)]).await.unwrap(), [Fresh]);
        assert_eq!(rows().await, left, "after {counter}: a part at a time");
    }
    // What is left: the post-dated one and the four of this hour.
    let uses = [counter_use(1, 300, 1), counter_use(1, 301, 1), counter_use(1, 1000, 1)];
    assert_eq!(store.consume(&uses).await.unwrap(), [TooOld, SameNonce, SameNonce]);
}

#[tokio::test(flavor = "multi_thread")]
async fn old_rows_within_the_window_stay() {
    let server = Redis::shared();
    let clock = StoppedClock::new();
    let store = RedisStore::open_with_clock(patient(on(&server)), clock.shared()).unwrap();
    assert_eq!(store.consume(&[counter_use(1, 100, 1), counter_use(1, 101, 1)]).await.unwrap(), [Fresh, Fresh]);
    clock.pass(COUNTER_RETENTION * 2);
    assert_eq!(store.consume(&[counter_use(1, 164, 1)]).await.unwrap(), [Fresh]);
    // 100 is at the line, and gone; 101 is within the window.
    assert_eq!(store.consume(&[counter_use(1, 100, 1), counter_use(1, 101, 1)]).await.unwrap(), [TooOld, SameNonce]);
}

#[test]
fn the_plugin_brings_its_own_runtime() {
    let server = Redis::shared();
    let start = |more: serde_json::Value| {
        let mut configuration = json!({ "url": server.url(), "connect_timeout_ms": 20_000 });
        configuration.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let clock = Arc::new(std::time::SystemTime::now);
        init(Context { name: "store-redis".to_owned(), configuration, state: None, clock }).unwrap()
    };
    let plugin = start(json!({}));
    assert!(plugin.user_store.is_some() && plugin.state_store.is_some());
    let plugin = start(json!({ "user_store": false }));
    assert!(plugin.user_store.is_none() && plugin.state_store.is_some());
}
