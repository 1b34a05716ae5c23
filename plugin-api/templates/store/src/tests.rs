//! The conformance suite, straight on the trait. `clavigerd plugin test` makes
//! the same checks on the built library.

use std::{
    fs,
    sync::Arc,
    time::{Duration, SystemTime},
};

use claviger_plugin_api::{
    COUNTER_RETENTION, CounterUse, Put, UserStore, Verdict, Written,
    testkit::{self, StoppedClock},
};
use tempfile::TempDir;

use super::*;

fn open(directory: &TempDir) -> Store {
    Store::open(&directory.path().join("journal"), Arc::new(SystemTime::now)).expect("it opens")
}

fn directory() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

fn put(key: &str, expected: u64) -> Put {
    Put { key: key.to_owned(), expected, value: b"value".to_vec(), terms: Vec::new() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn it_keeps_the_contract() {
    let directory = directory();
    let number = std::cell::Cell::new(0);
    testkit::user_store(|| async {
        number.set(number.get() + 1);
        let path = directory.path().join(number.get().to_string());
        Arc::new(Store::open(&path, Arc::new(SystemTime::now)).expect("it opens")) as Arc<dyn UserStore>
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn it_keeps_everything_over_a_restart() {
    let directory = directory();
    testkit::restart(|| async { Arc::new(open(&directory)) as Arc<dyn UserStore> }).await;
}

#[tokio::test]
async fn a_write_that_was_not_finished_is_forgotten_and_damage_is_not() {
    let directory = directory();
    let path = directory.path().join("journal");
    let store = open(&directory);
    assert_eq!(store.put(put("a", 0)).await, Ok(Written::Done(1)));
    let whole = fs::read(&path).expect("the journal").len();
    assert_eq!(store.put(put("b", 0)).await, Ok(Written::Done(1)));
    drop(store);
    let bytes = fs::read(&path).expect("the journal");
    for len in whole..bytes.len() {
        fs::write(&path, &bytes[..len]).expect("cut");
        let store = open(&directory);
        let found = store.get(&["a".to_owned(), "b".to_owned()]).await.expect("get");
        assert_eq!(found.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false], "cut to {len} bytes");
        assert_eq!(store.put(put("c", 0)).await, Ok(Written::Done(1)), "it goes on from there");
    }
    let mut damaged = bytes.clone();
    damaged[whole - 1] ^= 1;
    fs::write(&path, &damaged).expect("damaged");
    let refused = Store::open(&path, Arc::new(SystemTime::now)).map(drop);
    assert!(matches!(refused, Err(InitError::Failed(_))), "{refused:?}");
}

#[test]
fn a_second_process_is_kept_out() {
    let directory = directory();
    let _first = open(&directory);
    let second = Store::open(&directory.path().join("journal"), Arc::new(SystemTime::now)).map(drop);
    assert!(matches!(second, Err(InitError::Unavailable(_))), "{second:?}");
}

#[tokio::test]
async fn old_rows_below_the_window_go_and_no_others() {
    let (directory, clock) = (directory(), StoppedClock::new());
    let path = directory.path().join("journal");
    let store = Store::open(&path, clock.shared()).expect("it opens");
    let uses: Vec<CounterUse> = (0..200)
        .map(|counter| CounterUse { credential: [1; 16], epoch: 0, counter, nonce: [1; 32], time_ms: 0 })
        .collect();
    let judged = store.consume(&uses).await.expect("consume");
    assert!(judged.iter().all(|verdict| *verdict == Verdict::Fresh));
    clock.pass(COUNTER_RETENTION + Duration::from_secs(1));
    drop(store);
    let store = Store::open(&path, clock.shared()).expect("it opens");
    let judged = store.consume(&uses).await.expect("consume");
    let old = judged.iter().take_while(|verdict| **verdict == Verdict::TooOld).count();
    assert_eq!(old, 136, "199 less the window, and those below");
    assert!(judged[old..].iter().all(|verdict| *verdict == Verdict::SameNonce), "{judged:?}");
}

#[tokio::test]
async fn a_long_journal_of_few_things_is_written_anew() {
    let directory = directory();
    let path = directory.path().join("journal");
    let store = open(&directory);
    for version in 0..1500 {
        assert_eq!(store.put(put("a", version)).await, Ok(Written::Done(version + 1)));
    }
    drop(store);
    let long = fs::metadata(&path).expect("the journal").len();
    let store = open(&directory);
    assert!(fs::metadata(&path).expect("the journal").len() < long / 100);
    assert_eq!(store.put(put("a", 1500)).await, Ok(Written::Done(1501)));
    drop(store);
    assert_eq!(open(&directory).put(put("a", 1501)).await, Ok(Written::Done(1502)));
}

#[test]
fn wrong_settings_are_refused() {
    for settings in [r#"{}"#, r#"{"path": "relative"}"#, r#"{"path": "/tmp/x", "paht": 1}"#] {
        let configuration = settings.parse().expect("JSON");
        let context =
            Context { name: "test".to_owned(), configuration, state: None, clock: Arc::new(SystemTime::now) };
        assert!(matches!(init(context), Err(InitError::Configuration(_))), "{settings}");
    }
}
