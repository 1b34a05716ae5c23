//! The store on real files.

#![expect(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

mod durability;
mod files;
mod retention;
mod sharing;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use claviger_plugin_api::{CounterUse, Put, UserStore, testkit};
use claviger_store_sqlite::{Configuration, SqliteStore, Synchronous};
use tempfile::tempdir;

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn it_keeps_the_contract() {
    let directory = tempdir().unwrap();
    let number = AtomicU32::new(0);
    testkit::user_store(|| async {
        let file = format!("{}.db", number.fetch_add(1, Ordering::Relaxed));
        Arc::new(open(&directory.path().join(file))) as Arc<dyn UserStore>
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn it_keeps_the_contract_over_its_end() {
    let directory = tempdir().unwrap();
    let file = directory.path().join("users.db");
    testkit::restart(|| async { Arc::new(open(&file)) as Arc<dyn UserStore> }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_keeps_the_contract_between_processes() {
    let prepare = || {
        let directory = tempdir().unwrap();
        (directory.path().join("users.db").to_str().unwrap().to_owned(), directory)
    };
    let open = |file: String| async move {
        let configuration = Configuration { busy_timeout_ms: 30_000, ..configuration(Path::new(&file)) };
        Arc::new(SqliteStore::open(configuration).unwrap()) as Arc<dyn UserStore>
    };
    testkit::processes("it_keeps_the_contract_between_processes", prepare, open).await;
}

/// The file as a configuration that does not wait for the disk: nobody cuts
/// the power in a test.
fn configuration(file: &Path) -> Configuration {
    Configuration { synchronous: Synchronous::Normal, ..Configuration::new(file.to_str().unwrap()) }
}

fn open(file: &Path) -> SqliteStore {
    SqliteStore::open(configuration(file)).unwrap()
}

fn put(key: &str, expected: u64, value: &[u8]) -> Put {
    Put { key: key.to_owned(), expected, value: value.to_vec(), terms: Vec::new() }
}

fn counter_use(credential: u8, counter: u64, nonce: u8) -> CounterUse {
    CounterUse { credential: [credential; 16], epoch: 1, counter, nonce: [nonce; 32], time_ms: 0 }
}
