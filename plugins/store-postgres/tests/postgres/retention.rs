//! How long the rows of counters stay, by a clock that the tests move.

use std::{sync::Arc, time::Duration};

use claviger_plugin_api::{
    COUNTER_RETENTION, Context, CounterUse, UserStore,
    Verdict::{Fresh, OtherNonce, SameNonce, TooOld},
    testkit::StoppedClock,
};
use claviger_store_postgres::{PostgresStore, init};
use serde_json::json;
use tokio::time::sleep;

use super::{Server, counter_use, patient};

#[tokio::test(flavor = "multi_thread")]
async fn rows_stay_for_their_time_and_go_after_it() {
    let server = Server::shared();
    let configuration = patient(server.database());
    let database = configuration.url.rsplit('/').next().unwrap().to_owned();
    let clock = StoppedClock::new();
    let store = PostgresStore::open_with_clock(configuration, clock.shared()).unwrap();
    let rows = || server.sql(&database, "SELECT count(*) FROM claviger_counters").parse::<u32>().unwrap();

    let ahead = clock.now() + COUNTER_RETENTION;
    let time_ms = ahead.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    let first: Vec<CounterUse> = (1..=300).map(|counter| counter_use(1, counter, 1)).collect();
    let post_dated = CounterUse { time_ms, ..counter_use(1, 301, 1) };
    assert!(store.consume(&first).await.unwrap().iter().all(|verdict| *verdict == Fresh));
    assert_eq!(store.consume(&[post_dated]).await.unwrap(), [Fresh]);

    clock.pass(COUNTER_RETENTION);
    assert_eq!(store.consume(&[counter_use(1, 1000, 1)]).await.unwrap(), [Fresh]);
    sleep(Duration::from_millis(300)).await;
    let again = [counter_use(1, 1, 1), counter_use(1, 1, 2), counter_use(1, 302, 1)];
    assert_eq!(store.consume(&again).await.unwrap(), [SameNonce, OtherNonce, TooOld], "kept to the very end");
    assert_eq!(rows(), 302);

    clock.pass(Duration::from_secs(1));
    for (counter, left) in [(2000, 302 - 256 + 1), (3000, 4)] {
        assert_eq!(store.consume(&[counter_use(1, counter, 1)]).await.unwrap(), [Fresh]);
        for _ in 0..100 {
            if rows() == left {
                break;
            }
            sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(rows(), left, "after {counter}: a part at a time");
    }
    // What is left: the post-dated one and the three of this hour.
    let uses = [counter_use(1, 300, 1), counter_use(1, 301, 1), counter_use(1, 1000, 1)];
    assert_eq!(store.consume(&uses).await.unwrap(), [TooOld, SameNonce, SameNonce]);
}

#[test]
fn the_plugin_brings_its_own_runtime() {
    let server = Server::shared();
    let url = server.database().url;
    let configuration = json!({ "url": url, "tls": "disable", "pool": 2, "connect_timeout_ms": 20_000 });
    let clock = Arc::new(std::time::SystemTime::now);
    let context = Context { name: "store-postgres".to_owned(), configuration, state: None, clock };
    assert!(init(context).unwrap().user_store.is_some());
}
