//! The server dies, hangs or is full: never a verdict, and nothing answered is lost.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use claviger_plugin_api::{PluginError, UserStore, Verdict, Written};
use claviger_store_postgres::{Configuration, PostgresStore};
use tokio::{task::JoinSet, time::sleep};

use super::{Server, counter_use, open, put};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_the_server_loses_nothing_that_was_answered() {
    let server = Arc::new(Server::start(""));
    let store = open(server.database());
    let stop = Arc::new(AtomicBool::new(false));
    let mut load = JoinSet::new();
    for task in 0..6 {
        let (store, stop) = (store.clone(), stop.clone());
        load.spawn(async move { writes(&store, task, &stop).await });
    }
    for _ in 0..2 {
        sleep(Duration::from_millis(500)).await;
        let server = server.clone();
        tokio::task::spawn_blocking(move || {
            server.kill();
            std::thread::sleep(Duration::from_millis(300));
            server.restart();
        })
        .await
        .unwrap();
        // By itself, and soon.
        let patience = Instant::now() + Duration::from_secs(20);
        while let Err(error) = store.health().await {
            assert!(matches!(error, PluginError::Unavailable(_) | PluginError::Busy), "{error:?}");
            assert!(Instant::now() < patience, "{error}");
            sleep(Duration::from_millis(50)).await;
        }
    }
    sleep(Duration::from_millis(300)).await;
    stop.store(true, Ordering::Relaxed);
    let mut unavailable = 0;
    for answers in load.join_all().await {
        let Answers { task, counters, version, failed } = answers;
        assert!(counters.len() > 10, "task {task} got {} answers", counters.len());
        unavailable += failed;
        for counters in counters.chunks(1000) {
            let uses: Vec<_> = counters.iter().map(|counter| counter_use(task, *counter, 1)).collect();
            let verdicts = store.consume(&uses).await.unwrap();
            assert!(verdicts.iter().all(|verdict| *verdict == Verdict::SameNonce), "an answered counter is lost");
        }
        let record = store.get(&[format!("task{task}")]).await.unwrap().remove(0).unwrap();
        assert_eq!(record.value, record.version.to_be_bytes(), "a write is whole");
        assert!(record.version >= version, "an answered write is lost");
    }
    assert!(unavailable > 0, "the load has seen the server die");
}

/// What a task was told.
struct Answers {
    task: u8,
    /// The counters that were fresh.
    counters: Vec<u64>,
    /// The version of its record.
    version: u64,
    /// Calls without an answer.
    failed: u32,
}

/// Uses counters and writes a record until it is stopped.
async fn writes(store: &PostgresStore, task: u8, stop: &AtomicBool) -> Answers {
    let mut answers = Answers { task, counters: Vec::new(), version: 0, failed: 0 };
    let key = format!("task{task}");
    for counter in 1.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let fresh = store.consume(&[counter_use(task, counter, 1)]).await;
        let fresh = fresh.map(|verdicts| {
            assert_eq!(verdicts, [Verdict::Fresh], "no counter is used twice");
            answers.counters.push(counter);
        });
        let next = answers.version + 1;
        let written = store.put(put(&key, answers.version, &next.to_be_bytes())).await.map(|written| match written {
            // After a write that was done and not answered.
            Written::Done(version) | Written::Conflict(version) => answers.version = version,
        });
        for error in [fresh.err(), written.err()].into_iter().flatten() {
            assert!(matches!(error, PluginError::Unavailable(_) | PluginError::Busy), "{error:?}");
            answers.failed += 1;
            sleep(Duration::from_millis(5)).await;
        }
    }
    answers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_stays_is_unavailable() {
    let server = Server::shared();
    let configuration = server.database();
    let database = configuration.url.rsplit('/').next().unwrap().to_owned();
    open(configuration.clone());
    let hasty = Configuration { statement_timeout_ms: 200, connect_timeout_ms: 20_000, ..configuration };
    let store = PostgresStore::open(hasty).unwrap();
    let lock = std::thread::spawn({
        let server = server.clone();
        move || server.sql(&database, "BEGIN; LOCK TABLE claviger_counters; SELECT pg_sleep(2); COMMIT")
    });
    sleep(Duration::from_millis(700)).await;
    let answer = store.consume(&[counter_use(1, 1, 1)]).await;
    assert!(matches!(answer, Err(PluginError::Unavailable(_))), "{answer:?}");
    store.health().await.unwrap();
    lock.join().unwrap();
    assert_eq!(store.consume(&[counter_use(1, 1, 1)]).await.unwrap(), [Verdict::Fresh]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_takes_no_writes_is_not_healthy() {
    let server = Server::start("");
    let store = open(server.database());
    store.health().await.unwrap();
    let set = |value: &str| {
        server.sql("postgres", &format!("ALTER SYSTEM SET default_transaction_read_only = {value}"));
        server.sql("postgres", "SELECT pg_reload_conf()");
    };
    set("on");
    let patience = Instant::now() + Duration::from_secs(20);
    let text = loop {
        match store.health().await {
            Err(PluginError::Unavailable(text)) => break text,
            other => assert!(Instant::now() < patience, "{other:?}"),
        }
    };
    assert!(text.contains("takes no writes"), "{text}");
    assert!(matches!(store.put(put("k", 0, b"")).await, Err(PluginError::Unavailable(_))));
    set("off");
    while let Err(error) = store.health().await {
        assert!(Instant::now() < patience, "{error}");
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(store.put(put("k", 0, b"")).await.unwrap(), Written::Done(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_server_is_unavailable() {
    let server = Server::start("max_connections = 5\nsuperuser_reserved_connections = 0\n");
    let store = open(Configuration { pool: 20, ..server.database() });
    let mut calls = JoinSet::new();
    for number in 0..20 {
        let store = store.clone();
        calls.spawn(async move { store.consume(&[counter_use(number, 1, 1)]).await });
    }
    for answer in calls.join_all().await {
        match answer {
            Ok(verdicts) => assert_eq!(verdicts, [Verdict::Fresh]),
            Err(PluginError::Unavailable(text)) => assert!(text.contains("too many clients"), "{text}"),
            Err(other) => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_corrupt_and_never_an_absent_record() {
    let server = Server::shared();
    let configuration = server.database();
    let database = configuration.url.rsplit('/').next().unwrap().to_owned();
    let store = open(configuration);
    server.sql(&database, "INSERT INTO claviger_records VALUES ('\\xff', 1, '')");
    server.sql(&database, "INSERT INTO claviger_terms VALUES ('user', 'a', '\\xff')");
    let scan = claviger_plugin_api::Scan { term: "user".to_owned(), after: None, limit: 10 };
    let answer = store.scan(scan).await;
    assert!(matches!(answer, Err(PluginError::Corrupt(_))), "{answer:?}");
}
