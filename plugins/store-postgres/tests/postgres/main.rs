//! The store on a real server.

#![expect(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

mod failures;
mod retention;
mod server;
mod sharing;
mod start;

use std::sync::Arc;

use claviger_plugin_api::{CounterUse, Put, UserStore, testkit};
use claviger_store_postgres::{Configuration, PostgresStore, Tls};
use server::Server;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn it_keeps_the_contract() {
    let server = Server::shared();
    testkit::user_store(|| async { open(server.database()) as Arc<dyn UserStore> }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn it_keeps_the_contract_over_its_end() {
    let server = Server::shared();
    let configuration = server.database();
    testkit::restart(|| async { open(configuration.clone()) as Arc<dyn UserStore> }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_keeps_the_contract_between_processes() {
    let prepare = || {
        let server = Server::shared();
        (server.database().url, server)
    };
    let open = |url: String| async move {
        let configuration = Configuration { tls: Tls::Disable, pool: 4, ..Configuration::new(url) };
        open(configuration) as Arc<dyn UserStore>
    };
    testkit::processes("it_keeps_the_contract_between_processes", prepare, open).await;
}

/// Patient, as the tests of this binary share the machine.
fn patient(configuration: Configuration) -> Configuration {
    Configuration { connect_timeout_ms: 20_000, statement_timeout_ms: 20_000, ..configuration }
}

fn open(configuration: Configuration) -> Arc<PostgresStore> {
    Arc::new(PostgresStore::open(patient(configuration)).unwrap())
}

fn put(key: &str, expected: u64, value: &[u8]) -> Put {
    Put { key: key.to_owned(), expected, value: value.to_vec(), terms: Vec::new() }
}

fn counter_use(credential: u8, counter: u64, nonce: u8) -> CounterUse {
    CounterUse { credential: [credential; 16], epoch: 1, counter, nonce: [nonce; 32], time_ms: 0 }
}
