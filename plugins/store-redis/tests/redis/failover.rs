//! Sentinels that make a replica the master, and writes that wait for replicas.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use claviger_plugin_api::{InitError, PluginError, UserStore, Verdict};
use claviger_servers::{Redis, RedisSentinel};
use claviger_store_redis::{Configuration, RedisStore, Sentinel};
use tokio::time::sleep;

use super::{counter_use, failures::Load, healthy, on, open, patient};

fn watched(deployment: &RedisSentinel, master: &str) -> Configuration {
    let (urls, master) = (deployment.urls(), master.to_owned());
    let sentinel = Some(Sentinel { urls, master, username: None, password_file: None });
    Configuration { sentinel, ..Configuration::new() }
}

/// Uses counters from `counter` on until one is taken.
async fn until_fresh(store: &RedisStore, credential: u8, mut counter: u64) {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        match store.consume(&[counter_use(credential, counter, 1)]).await {
            Ok(verdicts) => return assert_eq!(verdicts, [Verdict::Fresh]),
            Err(error) => assert!(matches!(error, PluginError::Unavailable(_)), "{error:?}"),
        }
        assert!(Instant::now() < until, "no write is taken");
        counter += 1;
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_failover_loses_nothing_that_replicas_have() {
    let deployment = RedisSentinel::start();
    let configuration = watched(&deployment, RedisSentinel::MASTER);
    // Each write is on both servers before it is answered.
    let store = open(Configuration { wait_replicas: 1, ..configuration.clone() });
    let load = Load::start(&store);
    sleep(Duration::from_millis(500)).await;
    deployment.servers[0].kill();
    let promoted = |server: &Redis| server.cli(&["ROLE"]).starts_with("master");
    while !promoted(&deployment.servers[1]) {
        sleep(Duration::from_millis(100)).await;
    }
    // The former master comes back as a replica, and writes have somebody to wait for.
    deployment.servers[0].restart();
    healthy(&store).await;
    until_fresh(&store, 99, 0).await;
    load.check(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_was_demoted_is_left() {
    let deployment = RedisSentinel::start();
    let store = open(watched(&deployment, RedisSentinel::MASTER));
    assert_eq!(store.consume(&[counter_use(1, 1, 1)]).await.unwrap(), [Verdict::Fresh]);
    let [master, replica] = &deployment.servers;
    assert_eq!(master.cli(&["WAIT", "1", "10000"]), "1");
    deployment.sentinels[0].cli(&["SENTINEL", "FAILOVER", RedisSentinel::MASTER]);
    while !(replica.cli(&["ROLE"]).starts_with("master") && master.cli(&["ROLE"]).starts_with("slave")) {
        sleep(Duration::from_millis(100)).await;
    }
    until_fresh(&store, 1, 2).await;
    assert_eq!(store.consume(&[counter_use(1, 1, 1)]).await.unwrap(), [Verdict::SameNonce]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_sentinels_do_not_know_is_said() {
    let deployment = RedisSentinel::start();
    let error = RedisStore::open(patient(watched(&deployment, "another"))).err().unwrap();
    assert!(
        matches!(&error, InitError::Unavailable(text) if text.contains("no master of the name another")),
        "{error}"
    );
    let replica = Configuration { url: Some(deployment.servers[1].url()), ..Configuration::new() };
    let error = RedisStore::open(patient(replica)).err().unwrap();
    assert!(matches!(&error, InitError::Unavailable(text) if text.contains("replica")), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_too_few_replicas_have_gets_no_verdict() {
    let server = Redis::shared();
    let configuration = Configuration { wait_replicas: 1, timeout_ms: 1000, connect_timeout_ms: 20_000, ..on(&server) };
    let store = Arc::new(RedisStore::open(configuration).unwrap());
    let answer = store.consume(&[counter_use(1, 1, 1)]).await;
    assert!(
        matches!(&answer, Err(PluginError::Unavailable(text)) if text.contains("0 replicas have the write")),
        "{answer:?}"
    );
}

/// It answers, and takes no writes: sign-ons would fail, so it is not healthy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_takes_no_writes_is_not_healthy() {
    let server = Redis::start("");
    let store = RedisStore::open(patient(on(&server))).unwrap();
    UserStore::health(&store).await.unwrap();
    server.cli(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    let answer = UserStore::health(&store).await;
    assert!(matches!(&answer, Err(PluginError::Unavailable(text)) if text.contains("replica")), "{answer:?}");
    server.cli(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
    UserStore::health(&store).await.unwrap();
}
