//! Several daemons on one database.

use std::{sync::Arc, time::Duration};

use claviger_plugin_api::{UserStore, Verdict, Written};
use claviger_store_postgres::{Configuration, PostgresStore};
use tokio::task::JoinSet;

use super::{Server, counter_use, open, patient, put};

/// Two at once on a database without tables.
fn two(configuration: &Configuration) -> [Arc<PostgresStore>; 2] {
    std::thread::scope(|scope| {
        let threads = [0, 1].map(|_| scope.spawn(|| open(configuration.clone())));
        threads.map(|thread| thread.join().unwrap())
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_stores_exactly_one_is_told_fresh() {
    let server = Server::shared();
    let stores = two(&server.database());
    for round in 0..20 {
        let mut calls = JoinSet::new();
        for number in 0..8_u8 {
            let store = stores[usize::from(number % 2)].clone();
            // The same uses in opposite orders: they wait for each other's rows.
            let mut uses: Vec<_> = (0..16).map(|counter| counter_use(1, round * 16 + counter, 1)).collect();
            if number % 2 == 1 {
                uses.reverse();
            }
            calls.spawn(async move {
                let verdicts = store.consume(&uses).await.unwrap();
                uses.iter().map(|one| one.counter).zip(verdicts).collect::<Vec<_>>()
            });
        }
        let verdicts = calls.join_all().await.concat();
        for counter in round * 16..round * 16 + 16 {
            let of = |verdict| verdicts.iter().filter(|one| **one == (counter, verdict)).count();
            assert_eq!((of(Verdict::Fresh), of(Verdict::SameNonce)), (1, 7), "counter {counter}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_writes_exactly_one_is_done() {
    let server = Server::shared();
    let stores = two(&server.database());
    for version in 0..50 {
        let mut calls = JoinSet::new();
        for number in 0..6 {
            let store = stores[number % 2].clone();
            calls.spawn(async move { store.put(put("k", version, &[number as u8])).await.unwrap() });
        }
        let answers = calls.join_all().await;
        let done = answers.iter().filter(|answer| **answer == Written::Done(version + 1)).count();
        let conflicts = answers.iter().filter(|answer| **answer == Written::Conflict(version + 1)).count();
        assert_eq!((done, conflicts), (1, 5), "{answers:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn dropped_calls_leave_nothing_half_done_and_the_pool_whole() {
    let server = Server::shared();
    let store = open(Configuration { pool: 2, ..server.database() });
    let uses: Vec<_> = (0..200).map(|counter| counter_use(1, counter, 1)).collect();
    for micros in (0..60).map(|step| step * 200) {
        let uses: Vec<_> =
            uses.iter().map(|one| claviger_plugin_api::CounterUse { epoch: micros as u32, ..*one }).collect();
        let _ = tokio::time::timeout(Duration::from_micros(micros), store.consume(&uses)).await;
        let verdicts = store.consume(&uses).await.unwrap();
        assert!(verdicts.iter().all(|one| *one == verdicts[0]), "after {micros} µs: {verdicts:?}");
    }
    store.health().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_is_a_store_of_its_own() {
    let server = Server::shared();
    let configuration = server.database();
    let database = configuration.url.rsplit('/').next().unwrap().to_owned();
    server.sql(&database, "CREATE SCHEMA second");
    let first = open(configuration.clone());
    let second = PostgresStore::open(patient(Configuration { schema: "second".to_owned(), ..configuration })).unwrap();
    assert_eq!(first.put(put("k", 0, b"1")).await.unwrap(), Written::Done(1));
    assert_eq!(second.put(put("k", 0, b"2")).await.unwrap(), Written::Done(1));
}
