//! The server dies, hangs, is full or emptied: never a verdict, and nothing answered is lost.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use claviger_plugin_api::{InitError, PluginError, StateStore, UserStore, Verdict, Written};
use claviger_servers::{Redis, RedisCluster};
use claviger_store_redis::{Configuration, RedisStore};
use tokio::{task::JoinSet, time::sleep};

use super::{counter_use, healthy, on, open, patient, put};

/// Tasks that write while servers come and go.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<Answers>,
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

impl Load {
    pub(crate) fn start(store: &Arc<RedisStore>) -> Self {
        let (stop, mut tasks) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
        for task in 0..6 {
            let (store, stop) = (store.clone(), stop.clone());
            tasks.spawn(async move { writes(&store, task, &stop).await });
        }
        Self { stop, tasks }
    }

    /// Ends it and checks that all that was answered is there.
    pub(crate) async fn check(self, store: &RedisStore) {
        self.stop.store(true, Ordering::Relaxed);
        let mut unavailable = 0;
        for answers in self.tasks.join_all().await {
            let Answers { task, counters, version, failed } = answers;
            assert!(counters.len() > 10, "task {task} got {} answers", counters.len());
            unavailable += failed;
            for counters in counters.chunks(1000) {
                let uses: Vec<_> = counters.iter().map(|counter| counter_use(task, *counter, 1)).collect();
                let verdicts = store.consume(&uses).await.unwrap();
                assert!(verdicts.iter().all(|verdict| *verdict == Verdict::SameNonce), "an answered counter is lost");
            }
            let key = format!("task{task}");
            let record = UserStore::get(store, &[key]).await.unwrap().remove(0).unwrap();
            assert_eq!(record.value, record.version.to_be_bytes(), "a write is whole");
            assert!(record.version >= version, "an answered write is lost");
        }
        assert!(unavailable > 0, "the load has seen the server die");
    }
}

/// Uses counters and writes a record until it is stopped.
async fn writes(store: &RedisStore, task: u8, stop: &AtomicBool) -> Answers {
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
            assert!(matches!(error, PluginError::Unavailable(_)), "{error:?}");
            answers.failed += 1;
            sleep(Duration::from_millis(5)).await;
        }
    }
    answers
}

/// Kills and restarts a server twice under load.
async fn kill_twice(server: impl Fn() -> Arc<dyn Fn(bool) + Send + Sync>, store: Arc<RedisStore>) {
    let load = Load::start(&store);
    for _ in 0..2 {
        sleep(Duration::from_millis(500)).await;
        let server = server();
        tokio::task::spawn_blocking(move || {
            server(false);
            std::thread::sleep(Duration::from_millis(300));
            server(true);
        })
        .await
        .unwrap();
        // By itself, and soon.
        healthy(&store).await;
    }
    sleep(Duration::from_millis(500)).await;
    load.check(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_the_server_loses_nothing_that_was_answered() {
    let server = Arc::new(Redis::start(""));
    let store = open(on(&server));
    let switch = || -> Arc<dyn Fn(bool) + Send + Sync> {
        let server = server.clone();
        Arc::new(move |up| if up { server.restart() } else { server.kill() })
    };
    kill_twice(switch, store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_a_node_loses_nothing_that_was_answered() {
    let cluster = Arc::new(RedisCluster::start());
    let store = open(Configuration { cluster: cluster.urls(), ..Configuration::new() });
    let switch = || -> Arc<dyn Fn(bool) + Send + Sync> {
        let cluster = cluster.clone();
        Arc::new(move |up| if up { cluster.nodes[1].restart() } else { cluster.nodes[1].kill() })
    };
    kill_twice(switch, store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_is_unavailable_in_time() {
    let server = Redis::start("");
    let configuration = Configuration { connect_timeout_ms: 500, timeout_ms: 500, ..on(&server) };
    let store = RedisStore::open(configuration).unwrap();
    healthy(&store).await;
    server.stop();
    for counter in 0..3 {
        let began = Instant::now();
        let answer = store.consume(&[counter_use(1, counter, 1)]).await;
        assert!(matches!(answer, Err(PluginError::Unavailable(_))), "{answer:?}");
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    }
    server.go_on();
    healthy(&store).await;
    assert_eq!(store.consume(&[counter_use(1, 3, 1)]).await.unwrap(), [Verdict::Fresh]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_was_closed_while_idle_costs_no_call() {
    let server = Redis::start("");
    let store = open(on(&server));
    for counter in 0..3 {
        assert_eq!(store.consume(&[counter_use(1, counter, 1)]).await.unwrap(), [Verdict::Fresh]);
        assert!(UserStore::get(&*store, &["k".to_owned()]).await.unwrap()[0].is_none());
        server.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
        // Idle is what lasts.
        sleep(Duration::from_millis(1200)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_server_says_so_and_writes_nothing() {
    let server = Redis::start("");
    let store = open(on(&server));
    assert_eq!(store.put(put("old", 0, b"1")).await.unwrap(), Written::Done(1));
    server.cli(&["CONFIG", "SET", "maxmemory", "1mb"]);
    let full = |answer: Result<(), PluginError>| assert!(matches!(answer, Err(PluginError::Full(_))), "{answer:?}");
    for _ in 0..2 {
        full(store.put(put("new", 0, b"1")).await.map(drop));
        full(store.put(put("old", 1, b"2")).await.map(drop));
        full(store.consume(&[counter_use(1, 1, 1)]).await.map(drop));
        full(store.put_new("k", b"1", Duration::from_secs(60)).await.map(drop));
    }
    let found = UserStore::get(&*store, &["old".to_owned(), "new".to_owned()]).await.unwrap();
    assert_eq!((found[0].as_ref().unwrap().version, &found[1]), (1, &None), "reads go on, and nothing was written");
    assert_eq!(store.delete("old", 1).await.unwrap(), Written::Done(0), "deletes go on");
    server.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(store.consume(&[counter_use(1, 1, 1)]).await.unwrap(), [Verdict::Fresh]);
    assert_eq!(store.put(put("new", 0, b"1")).await.unwrap(), Written::Done(1));
    assert_eq!(store.list(None, 10).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_server_is_unavailable() {
    let server = Redis::start("");
    let configuration = on(&server);
    let store = open(configuration.clone());
    healthy(&store).await;
    server.cli(&["DEL", &format!("{}:{{7}}:shard", configuration.prefix)]);
    let answer = UserStore::health(&*store).await;
    assert!(matches!(&answer, Err(PluginError::Unavailable(text)) if text.contains("shard 7")), "{answer:?}");
    let error = RedisStore::open(patient(configuration)).err().unwrap();
    assert!(matches!(&error, InitError::Failed(text) if text.contains("shard 7")), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_corrupt_and_never_an_absent_record() {
    let server = Redis::shared();
    let configuration = Configuration { shards: 1, ..on(&server) };
    let prefix = configuration.prefix.clone();
    let store = open(configuration);
    for (key, damage) in [("short", "x"), ("terms", "12345678\u{7f}\u{7f}\u{7f}\u{7f}")] {
        server.cli(&["SET", &format!("{prefix}:{{0}}:record:{key}"), damage]);
        let answer = UserStore::get(&*store, &[key.to_owned()]).await;
        assert!(matches!(answer, Err(PluginError::Corrupt(_))), "{key}: {answer:?}");
    }
    let answer = store.put(put("short", 0, b"1")).await;
    assert!(matches!(answer, Err(PluginError::Corrupt(_))), "{answer:?}");
    server.cli(&["ZADD", &format!("{prefix}:{{0}}:lines"), "0", "short"]);
    let answer = store.counters(None, 10).await;
    assert!(matches!(answer, Err(PluginError::Corrupt(_))), "{answer:?}");
    server.cli(&["SET", &format!("{prefix}:{{0}}:counters:{}00000001", "01".repeat(16)), "x"]);
    let answer = store.consume(&[counter_use(1, 1, 1)]).await;
    assert!(matches!(answer, Err(PluginError::Corrupt(_))), "{answer:?}");
}
