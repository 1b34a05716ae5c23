//! Full tokens, full queues, and a module that hangs.

use std::{
    fs,
    time::{Duration, Instant},
};

use claviger_plugin_api::{KeyCustody, PluginError, UserStore};
use claviger_store_pkcs11::{Configuration, Token};
use rustix::fs::{FlockOperation, fcntl_lock};

use super::{Other, configuration, configuration_in, expected, id, key, mac, on_a_token, recovers, storage};

#[test]
fn no_more_keys_than_agreed() {
    on_a_token(async |hsm| {
        let custody = Token::open(Configuration { max_keys: 2, ..configuration(&hsm) }).unwrap().custody();
        custody.initialise().await.unwrap();
        custody.keep(id(1), key(1)).await.unwrap();
        custody.keep(id(2), key(2)).await.unwrap();
        let full = custody.keep(id(3), key(3)).await;
        assert!(matches!(&full, Err(PluginError::Full(text)) if text.contains("max_keys is 2")), "{full:?}");
        assert_eq!(mac(&custody, 3).await, Ok(None));
        assert_eq!(mac(&custody, 1).await, Ok(Some(expected(1))), "what needs no room goes on");
        custody.keep(id(2), key(2)).await.unwrap();
        custody.destroy(&[id(1)]).await.unwrap();
        custody.keep(id(3), key(3)).await.unwrap();
        assert_eq!(mac(&custody, 3).await, Ok(Some(expected(3))));
    });
}

#[test]
fn what_another_daemon_destroys_makes_room() {
    on_a_token(async |hsm| {
        let custody = Token::open(Configuration { max_keys: 2, ..configuration(&hsm) }).unwrap().custody();
        custody.initialise().await.unwrap();
        custody.keep(id(1), key(1)).await.unwrap();
        custody.keep(id(2), key(2)).await.unwrap();
        let (other, _) = Other::start("limits::child_that_exchanges_a_key", &hsm, "exchange");
        // The other has destroyed one and made another.
        let full = custody.keep(id(4), key(4)).await;
        assert!(matches!(&full, Err(PluginError::Full(_))), "{full:?}");
        assert_eq!(custody.keys(None, 10).await, Ok(vec![id(2), id(3)]));
        drop(other);

        let (other, _) = Other::start("limits::child_that_exchanges_a_key", &hsm, "destroy");
        // It is counted anew now and then, and not for each call.
        let patience = Instant::now() + Duration::from_secs(60);
        while let Err(error) = custody.keep(id(4), key(4)).await {
            assert!(matches!(error, PluginError::Full(_)), "{error:?}");
            assert!(Instant::now() < patience, "{error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(custody.keys(None, 10).await, Ok(vec![id(2), id(4)]));
        drop(other);
    });
}

/// Not a test of its own: another daemon on the same token.
#[test]
fn child_that_exchanges_a_key() {
    let Some(what) = Other::what() else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let configuration = Configuration { lock_file: None, ..configuration_in(&Other::directory()) };
    let token = runtime.block_on(async { Token::open(configuration) }).unwrap();
    runtime.block_on(async {
        let custody = token.custody();
        if what == "exchange" {
            custody.destroy(&[id(1)]).await.unwrap();
            custody.keep(id(3), key(3)).await.unwrap();
        } else {
            custody.destroy(&[id(3)]).await.unwrap();
        }
    });
    Other::ready_and_wait();
}

#[test]
fn a_module_that_hangs_costs_its_calls_alone() {
    on_a_token(async |hsm| {
        let configuration = Configuration { threads: 1, queue: 1, deadline_ms: 3000, ..configuration(&hsm) };
        let token = Token::open(configuration).unwrap();
        let (custody, store) = (token.custody(), token.user_store().unwrap());
        custody.initialise().await.unwrap();
        assert_eq!(store.get(&["k".to_owned()]).await, Ok(vec![None]));

        let (locked, _) = Other::start("limits::child_that_locks_the_token", &hsm, "lock");
        let begun = Instant::now();
        // One is in the module, one waits, and there is room for no third one.
        let (mut first, mut second) = (Box::pin(custody.derive(b"1")), Box::pin(custody.keep(id(1), key(1))));
        let started = tokio::time::timeout(Duration::from_millis(300), &mut first).await;
        assert!(started.is_err(), "the module hangs: {started:?}");
        let queued = tokio::time::timeout(Duration::from_millis(1), &mut second).await;
        assert!(queued.is_err(), "it waits: {queued:?}");
        assert_eq!(custody.derive(b"3").await.err(), Some(PluginError::Busy));
        assert_eq!(store.get(&["k".to_owned()]).await, Ok(vec![None]), "memory is read all the same");
        for answer in [first.await.map(drop), second.await.map(drop)] {
            let expected = "not answered within 3000 ms";
            assert!(matches!(&answer, Err(PluginError::Unavailable(text)) if text.contains(expected)), "{answer:?}");
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());

        drop(locked);
        let patience = Instant::now() + Duration::from_secs(60);
        while let Err(error) = custody.health().await {
            assert!(matches!(error, PluginError::Unavailable(_) | PluginError::Busy), "{error:?}");
            assert!(Instant::now() < patience, "{error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        recovers(&custody).await;
        assert_eq!(mac(&custody, 1).await, Ok(None), "a call that nobody waits for is not begun");
    });
}

/// Not a test of its own: holds the locks that SoftHSM takes.
#[test]
fn child_that_locks_the_token() {
    if Other::what().is_none() {
        return;
    }
    let tokens = fs::read_dir(Other::directory().join("tokens")).unwrap();
    let storage = super::only(tokens.map(|entry| entry.unwrap().path()));
    let files: Vec<fs::File> = fs::read_dir(storage)
        .unwrap()
        .map(|entry| fs::OpenOptions::new().read(true).write(true).open(entry.unwrap().path()).unwrap())
        .collect();
    for file in &files {
        fcntl_lock(file, FlockOperation::LockExclusive).unwrap();
    }
    Other::ready_and_wait();
}

/// What of a token is destroyed leaves nothing behind.
#[test]
fn old_versions_do_not_pile_up() {
    on_a_token(async |hsm| {
        let (custody, store) = super::open(&hsm).await;
        let before = super::objects(&storage(&hsm)).len();
        for version in 0..20 {
            store.put(super::put("k", version, b"v")).await.unwrap();
            store.consume(&[super::counter_use(1, version, 1)]).await.unwrap();
        }
        assert_eq!(super::objects(&storage(&hsm)).len(), before + 2, "a record and a chunk of counters");
        store.delete("k", 20).await.unwrap();
        store.forget_counters([1; 16]).await.unwrap();
        assert_eq!(super::objects(&storage(&hsm)).len(), before);
        drop(custody);
    });
}
