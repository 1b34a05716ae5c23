//! One file, one writer, many callers: shared commits, locks of others, full queues.

use std::{fs, path::Path, sync::Arc, time::Duration};

use claviger_plugin_api::{PluginError, UserStore, Verdict, Written};
use claviger_store_sqlite::{Configuration, SqliteStore};
use diesel::{Connection, SqliteConnection, connection::SimpleConnection};
use tempfile::tempdir;
use tokio::{task::JoinSet, time::sleep};

use super::{configuration, counter_use, put};

/// Another process's connection to the same file.
fn stranger(file: &Path) -> SqliteConnection {
    SqliteConnection::establish(file.to_str().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_wait_share_a_commit() {
    let directory = tempdir().unwrap();
    let file = directory.path().join("users.db");
    let store = Arc::new(SqliteStore::open(patient(&file)).unwrap());
    let mut stranger = stranger(&file);
    stranger.batch_execute("BEGIN IMMEDIATE").unwrap();

    let before = commits(&file);
    let mut calls = JoinSet::new();
    for number in 0..100 {
        let store = store.clone();
        calls.spawn(async move { store.consume(&[counter_use(number, 1, 1)]).await.unwrap() });
    }
    sleep(Duration::from_millis(300)).await;
    assert!(calls.try_join_next().is_none(), "nothing is fresh before it is committed");
    stranger.batch_execute("ROLLBACK").unwrap();

    let verdicts = calls.join_all().await;
    assert!(verdicts.iter().all(|verdicts| *verdicts == [Verdict::Fresh]), "{verdicts:?}");
    // One for what the writer had taken up when the lock came, one for the rest.
    let shared = commits(&file) - before;
    assert!((1..=2).contains(&shared), "{shared} commits for 100 calls");
}

/// Waits long for the lock.
fn patient(file: &Path) -> Configuration {
    Configuration { busy_timeout_ms: 30_000, ..configuration(file) }
}

/// Commits in the write-ahead log: the frames that name a database size.
fn commits(file: &Path) -> usize {
    let log = fs::read(format!("{}-wal", file.display())).unwrap();
    let frames = log.get(32..).unwrap_or_default().chunks_exact(24 + 4096);
    frames.filter(|frame| frame[4..8] != [0; 4]).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_fails_takes_no_other_along() {
    let directory = tempdir().unwrap();
    let file = directory.path().join("users.db");
    let store = Arc::new(SqliteStore::open(patient(&file)).unwrap());
    let mut stranger = stranger(&file);
    stranger
        .batch_execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON records WHEN NEW.key = 'bad'
             BEGIN SELECT RAISE(ABORT, 'refused by the test'); END;
             BEGIN IMMEDIATE",
        )
        .unwrap();
    let mut calls = JoinSet::new();
    for number in 0..20 {
        let store = store.clone();
        let key = if number == 10 { "bad".to_owned() } else { format!("good{number}") };
        calls.spawn(async move { (number, store.put(put(&key, 0, b"v")).await) });
    }
    sleep(Duration::from_millis(200)).await;
    stranger.batch_execute("ROLLBACK").unwrap();
    for (number, written) in calls.join_all().await {
        match written {
            Ok(Written::Done(1)) if number != 10 => {}
            Err(PluginError::Unavailable(text)) if number == 10 => assert!(text.contains("refused by the test")),
            other => panic!("call {number}: {other:?}"),
        }
    }
    assert!(store.get(&["bad".to_owned()]).await.unwrap()[0].is_none());
}

#[tokio::test]
async fn a_lock_that_stays_is_unavailable_and_reads_go_on() {
    let directory = tempdir().unwrap();
    let file = directory.path().join("users.db");
    let store = SqliteStore::open(Configuration { busy_timeout_ms: 50, ..configuration(&file) }).unwrap();
    store.put(put("k", 0, b"v")).await.unwrap();
    let mut stranger = stranger(&file);
    stranger.batch_execute("BEGIN IMMEDIATE").unwrap();
    match store.put(put("k", 1, b"w")).await {
        Err(PluginError::Unavailable(text)) => assert!(text.contains("busy_timeout_ms"), "{text}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(store.get(&["k".to_owned()]).await.unwrap()[0].as_ref().unwrap().value, b"v");
    match store.health().await {
        Err(PluginError::Unavailable(text)) => assert!(text.contains("busy_timeout_ms"), "{text}"),
        other => panic!("a store that takes no writes is not healthy: {other:?}"),
    }
    stranger.batch_execute("ROLLBACK").unwrap();
    store.health().await.unwrap();
    assert_eq!(store.put(put("k", 1, b"w")).await.unwrap(), Written::Done(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_is_busy_and_dropped_calls_leave_it() {
    let directory = tempdir().unwrap();
    let file = directory.path().join("users.db");
    let store = Arc::new(SqliteStore::open(patient(&file)).unwrap());
    let mut stranger = stranger(&file);
    stranger.batch_execute("BEGIN IMMEDIATE").unwrap();
    let mut calls = JoinSet::new();
    for number in 0..6000 {
        let store = store.clone();
        calls.spawn(async move { store.put(put(&format!("k{number}"), 0, b"v")).await });
    }
    match calls.join_next().await.unwrap().unwrap() {
        Err(PluginError::Busy) => {}
        other => panic!("{other:?}"),
    }
    sleep(Duration::from_millis(300)).await;
    calls.shutdown().await;
    stranger.batch_execute("ROLLBACK").unwrap();
    // The queue empties at once: nobody waits for what is in it. The writer
    // may have begun the group it had in its hands.
    let written = loop {
        match store.put(put("last", 0, b"v")).await {
            Err(PluginError::Busy) => sleep(Duration::from_millis(1)).await,
            other => break other.unwrap(),
        }
    };
    assert_eq!(written, Written::Done(1));
    let keys: Vec<String> = (0..6000).map(|number| format!("k{number}")).collect();
    let mut there = 0;
    for keys in keys.chunks(1000) {
        there += store.get(keys).await.unwrap().iter().flatten().count();
    }
    assert!(there <= 512, "{there} dropped calls were done all the same");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_stores_on_one_file_agree() {
    let directory = tempdir().unwrap();
    let file = directory.path().join("users.db");
    // Both at once on a file that is not there yet: one makes the tables.
    let (one, other) = std::thread::scope(|scope| {
        let threads = [0, 1].map(|_| scope.spawn(|| Arc::new(SqliteStore::open(patient(&file)).unwrap())));
        let [one, other] = threads.map(|thread| thread.join().unwrap());
        (one, other)
    });
    let mut calls = JoinSet::new();
    for number in 0..200 {
        let store = if number % 2 == 0 { one.clone() } else { other.clone() };
        calls.spawn(async move { store.consume(&[counter_use(1, number / 2, 1)]).await.unwrap()[0] });
    }
    let verdicts = calls.join_all().await;
    let fresh = verdicts.iter().filter(|verdict| **verdict == Verdict::Fresh).count();
    let replayed = verdicts.iter().filter(|verdict| **verdict == Verdict::SameNonce).count();
    let too_old = verdicts.iter().filter(|verdict| **verdict == Verdict::TooOld).count();
    assert!(fresh <= 100 && fresh + replayed + too_old == 200, "{fresh} fresh, {replayed} replayed, {too_old} too old");
    assert_eq!(one.put(put("k", 0, b"v")).await.unwrap(), Written::Done(1));
    assert_eq!(other.put(put("k", 0, b"v")).await.unwrap(), Written::Conflict(1));
}
