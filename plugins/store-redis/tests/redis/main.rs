//! The store on real servers.

#![expect(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

mod failover;
mod failures;
mod order;
mod retention;
mod sharing;
mod start;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use claviger_plugin_api::{CounterUse, PluginError, Put, StateStore, UserStore, testkit};
use claviger_servers::{Redis, RedisCluster};
use claviger_store_redis::{Configuration, RedisStore};
use tokio::time::sleep;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn it_keeps_the_contract() {
    let server = Redis::shared();
    testkit::user_store(|| async { open(on(&server)) as Arc<dyn UserStore> }).await;
    testkit::state_store(|| async { open(on(&server)) as Arc<dyn StateStore> }, async |time| sleep(time).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn it_keeps_the_contract_on_a_cluster() {
    let cluster = RedisCluster::start();
    // One node names the others.
    let fresh = || Configuration {
        cluster: vec![cluster.nodes[1].url()],
        prefix: cluster.nodes[0].prefix(),
        ..Configuration::new()
    };
    testkit::user_store(|| async { open(fresh()) as Arc<dyn UserStore> }).await;
    testkit::state_store(|| async { open(fresh()) as Arc<dyn StateStore> }, async |time| sleep(time).await).await;
    for node in &cluster.nodes {
        let keys: u32 = node.cli(&["DBSIZE"]).parse().unwrap();
        assert!(keys > 1000, "all nodes take part: {keys}");
    }
}

/// A new store's configuration on a server.
fn on(server: &Redis) -> Configuration {
    Configuration { url: Some(server.url()), prefix: server.prefix(), ..Configuration::new() }
}

/// Patient, as the tests of this binary share the machine.
fn patient(configuration: Configuration) -> Configuration {
    Configuration { connect_timeout_ms: 20_000, timeout_ms: 20_000, ..configuration }
}

fn open(configuration: Configuration) -> Arc<RedisStore> {
    Arc::new(RedisStore::open(patient(configuration)).unwrap())
}

/// Waits until a store has come back by itself.
async fn healthy(store: &RedisStore) {
    let until = Instant::now() + Duration::from_secs(60);
    while let Err(error) = UserStore::health(store).await {
        assert!(matches!(error, PluginError::Unavailable(_)), "{error:?}");
        assert!(Instant::now() < until, "{error}");
        sleep(Duration::from_millis(50)).await;
    }
}

fn put(key: &str, expected: u64, value: &[u8]) -> Put {
    Put { key: key.to_owned(), expected, value: value.to_vec(), terms: Vec::new() }
}

fn counter_use(credential: u8, counter: u64, nonce: u8) -> CounterUse {
    CounterUse { credential: [credential; 16], epoch: 1, counter, nonce: [nonce; 32], time_ms: 0 }
}
