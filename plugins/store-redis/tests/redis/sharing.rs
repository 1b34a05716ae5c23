//! Several daemons on one server.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use claviger_plugin_api::{CounterUse, PluginError, StateStore, UserStore, Verdict, Written};
use claviger_servers::{Redis, RedisCluster};
use claviger_store_redis::{Configuration, RedisStore};
use tokio::{task::JoinSet, time::sleep};

use super::{counter_use, on, open, put};

/// Two at once on a server without data.
fn two(configuration: &Configuration) -> [Arc<RedisStore>; 2] {
    std::thread::scope(|scope| {
        let threads = [0, 1].map(|_| scope.spawn(|| open(configuration.clone())));
        threads.map(|thread| thread.join().unwrap())
    })
}

async fn exactly_one_is_told_fresh(configuration: Configuration) {
    let stores = two(&configuration);
    for round in 0..20 {
        let mut calls = JoinSet::new();
        for number in 0..8_u8 {
            let store = stores[usize::from(number % 2)].clone();
            // Of two credentials, in opposite orders.
            let uses = (0..16).map(|counter| counter_use((counter % 2) as u8, round * 16 + counter, 1));
            let mut uses: Vec<_> = uses.collect();
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
async fn of_two_stores_exactly_one_is_told_fresh() {
    let server = Redis::shared();
    exactly_one_is_told_fresh(on(&server)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_stores_on_a_cluster_exactly_one_is_told_fresh() {
    let cluster = RedisCluster::start();
    exactly_one_is_told_fresh(Configuration { cluster: cluster.urls(), ..Configuration::new() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_writes_exactly_one_is_done() {
    let server = Redis::shared();
    let stores = two(&on(&server));
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
async fn dropped_calls_leave_nothing_half_done() {
    let server = Redis::shared();
    let store = open(on(&server));
    let uses: Vec<_> = (0..200).map(|counter| counter_use(1, counter, 1)).collect();
    for micros in (0..60).map(|step| step * 100) {
        let uses: Vec<_> = uses.iter().map(|one| CounterUse { epoch: micros as u32, ..*one }).collect();
        let _ = tokio::time::timeout(Duration::from_micros(micros), store.consume(&uses)).await;
        let verdicts = store.consume(&uses).await.unwrap();
        assert!(verdicts.iter().all(|one| *one == verdicts[0]), "after {micros} µs: {verdicts:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prefix_is_a_store_of_its_own() {
    let server = Redis::shared();
    let (first, second) = (open(on(&server)), open(on(&server)));
    for store in [&first, &second] {
        assert_eq!(store.put(put("k", 0, b"1")).await.unwrap(), Written::Done(1));
        assert!(store.put_new("k", b"1", Duration::from_secs(60)).await.unwrap());
        assert_eq!(store.consume(&[counter_use(1, 1, 1)]).await.unwrap(), [Verdict::Fresh]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_that_the_server_forgot_are_sent_again() {
    let server = Redis::shared();
    let store = open(on(&server));
    for counter in 0..3 {
        assert_eq!(store.consume(&[counter_use(1, counter, 1)]).await.unwrap(), [Verdict::Fresh]);
        server.cli(&["SCRIPT", "FLUSH"]);
    }
}

/// While a slot moves, its shard may be away; what it answers stays right.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn slots_may_move() {
    let cluster = RedisCluster::start();
    let store = open(Configuration { cluster: vec![cluster.nodes[0].url()], ..Configuration::new() });
    let uses = |counter| (0..=255_u8).map(|one| counter_use(one, counter, 1)).collect::<Vec<_>>();
    assert!(store.consume(&uses(1)).await.unwrap().iter().all(|verdict| *verdict == Verdict::Fresh));
    let stop = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn({
        let (store, stop) = (store.clone(), stop.clone());
        async move {
            let mut done = vec![1];
            for counter in 2.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                match store.consume(&uses(counter)).await {
                    Ok(verdicts) => {
                        assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Fresh), "{verdicts:?}");
                        done.push(counter);
                    }
                    Err(error) => assert!(matches!(error, PluginError::Unavailable(_)), "{error:?}"),
                }
                sleep(Duration::from_millis(20)).await;
            }
            done
        }
    });
    let cluster = tokio::task::spawn_blocking(move || {
        move_all(&cluster.nodes[0], &cluster.nodes[1]);
        cluster
    })
    .await
    .unwrap();
    assert_eq!(cluster.nodes[0].cli(&["DBSIZE"]), "0", "all of the first node's shards moved");
    super::healthy(&store).await;
    stop.store(true, Ordering::Relaxed);
    for counter in load.await.unwrap() {
        let verdicts = store.consume(&uses(counter)).await.unwrap();
        assert!(verdicts.iter().all(|verdict| *verdict == Verdict::SameNonce), "counter {counter}: {verdicts:?}");
    }
}

/// Moves all slots with keys of one node, each in two parts.
fn move_all(from: &Redis, to: &Redis) {
    let (from_id, to_id) = (from.cli(&["CLUSTER", "MYID"]), to.cli(&["CLUSTER", "MYID"]));
    let port = to.port().to_string();
    for shard in 0..64 {
        let slot = from.cli(&["CLUSTER", "KEYSLOT", &format!("claviger:{{{shard}}}:shard")]);
        let slot = slot.as_str();
        let keys = || from.cli(&["CLUSTER", "GETKEYSINSLOT", slot, "1000"]);
        if from.cli(&["CLUSTER", "COUNTKEYSINSLOT", slot]) == "0" {
            continue;
        }
        to.cli(&["CLUSTER", "SETSLOT", slot, "IMPORTING", &from_id]);
        from.cli(&["CLUSTER", "SETSLOT", slot, "MIGRATING", &to_id]);
        let count = keys().lines().count();
        for part in [count / 2, count] {
            let listed = keys();
            let mut migrate = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "10000", "KEYS"];
            migrate.extend(listed.lines().take(part));
            if part > 0 {
                assert_eq!(from.cli(&migrate), "OK");
            }
        }
        for node in [to, from] {
            node.cli(&["CLUSTER", "SETSLOT", slot, "NODE", &to_id]);
        }
    }
}
