//! The token goes away, is emptied, logs out: *unavailable*, never *no such key*.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use claviger_plugin_api::{KeyCustody, PluginError, UserStore};
use claviger_servers::{SOFTHSM_TOKEN, SoftHsm};
use claviger_store_pkcs11::{Custody, Store, Token};
use cryptoki::{context::Pkcs11, session::Session};
use tokio::task::JoinSet;

use super::{
    Other, configuration, configuration_in, counter_use, expected, id, key, mac, objects, on_a_token, open, put,
    recovers, storage,
};

#[test]
fn a_token_that_is_moved_away_is_unavailable_until_it_is_back() {
    on_a_token(async |hsm| {
        let (storage, aside) = (storage(&hsm), hsm.directory().join("aside"));
        let (from, to) = (storage.clone(), aside.clone());
        let away = move || fs::rename(&from, &to).unwrap();
        let back = move || fs::rename(&aside, &storage).unwrap();
        outage(&hsm, away, back).await;
    });
}

#[test]
fn a_token_that_is_emptied_is_unavailable_until_it_is_whole() {
    on_a_token(async |hsm| {
        let (storage, aside) = (storage(&hsm), hsm.directory().join("aside"));
        let moved: Arc<std::sync::Mutex<Vec<(PathBuf, PathBuf)>>> = Arc::default();
        let list = moved.clone();
        let away = move || {
            fs::create_dir(&aside).unwrap();
            for file in objects(&storage) {
                let target = aside.join(file.file_name().unwrap());
                fs::rename(&file, &target).unwrap();
                list.lock().unwrap().push((file, target));
            }
        };
        let back = move || moved.lock().unwrap().drain(..).for_each(|(file, target)| fs::rename(target, file).unwrap());
        outage(&hsm, away, back).await;
    });
}

/// Takes the storage away below a load of reads and puts it back, twice.
async fn outage(hsm: &SoftHsm, away: impl Fn(), back: impl Fn()) {
    let (custody, store) = open(hsm).await;
    for number in 0..4 {
        custody.keep(id(number), key(number)).await.unwrap();
    }
    store.put(put("k", 0, b"v")).await.unwrap();
    store.consume(&[counter_use(1, 5, 1)]).await.unwrap();
    let (stop, unavailable) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let mut load = JoinSet::new();
    for number in 0..4 {
        load.spawn(ask(custody.clone(), store.clone(), number, stop.clone(), unavailable.clone()));
    }
    away();
    let patience = Instant::now() + Duration::from_secs(60);
    while unavailable.load(Ordering::Relaxed) < 20 {
        assert!(Instant::now() < patience, "the outage is not noticed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let kept = custody.keep(id(9), key(9)).await;
    assert!(matches!(kept, Err(PluginError::Unavailable(_))), "{kept:?}");
    let written = store.put(put("k", 1, b"w")).await;
    assert!(matches!(written, Err(PluginError::Unavailable(_))), "{written:?}");
    let status = custody.initialise().await;
    assert!(matches!(status, Err(PluginError::Unavailable(_))), "no new master key: {status:?}");
    back();
    recovers(&*custody).await;
    stop.store(true, Ordering::Relaxed);
    load.join_all().await;
    for number in 0..4 {
        assert_eq!(mac(&*custody, number).await, Ok(Some(expected(number))));
    }
    let record = store.get(&["k".to_owned()]).await.unwrap().remove(0).unwrap();
    assert_eq!((record.version, &record.value[..]), (1, &b"v"[..]));
}

/// Asks for what is there until it is stopped.
async fn ask(custody: Arc<Custody>, store: Arc<Store>, number: u8, stop: Arc<AtomicBool>, unavailable: Arc<AtomicU32>) {
    while !stop.load(Ordering::Relaxed) {
        match mac(&*custody, number).await {
            Ok(found) => assert_eq!(found, Some(expected(number)), "a key that is there"),
            Err(PluginError::Unavailable(_)) => drop(unavailable.fetch_add(1, Ordering::Relaxed)),
            Err(other) => panic!("{other:?}"),
        }
        match store.get(&["k".to_owned()]).await {
            Ok(found) => assert!(found[0].is_some(), "a record that is there"),
            Err(PluginError::Unavailable(_)) => tokio::time::sleep(Duration::from_millis(1)).await,
            Err(other) => panic!("{other:?}"),
        }
    }
}

/// The same module in this process, used by somebody else.
fn stranger() -> (Pkcs11, Session) {
    let client = Pkcs11::new(SoftHsm::module()).unwrap();
    let slots = client.get_slots_with_token().unwrap();
    let slot = slots.into_iter().find(|slot| client.get_token_info(*slot).unwrap().label() == SOFTHSM_TOKEN).unwrap();
    let session = client.open_rw_session_no_drop(slot).unwrap();
    (client, session)
}

#[test]
fn a_logout_of_the_whole_process_is_mended() {
    on_a_token(async |hsm| {
        let (custody, store) = open(&hsm).await;
        custody.keep(id(1), key(1)).await.unwrap();
        let (_client, session) = stranger();
        for round in 0..3 {
            session.logout().unwrap();
            assert_eq!(mac(&*custody, 1).await, Ok(Some(expected(1))), "round {round}");
            session.logout().unwrap();
            // Finds nothing while it is logged out, which is not believed.
            assert_eq!(mac(&*custody, 2).await, Ok(None), "round {round}");
            session.logout().unwrap();
            custody.keep(id(10 + round), key(10 + round)).await.unwrap();
            session.logout().unwrap();
            store.put(put("k", u64::from(round), b"v")).await.unwrap();
            session.logout().unwrap();
            custody.destroy(&[id(10 + round)]).await.unwrap();
            assert_eq!(mac(&*custody, 10 + round).await, Ok(None), "round {round}");
        }
    });
}

#[test]
fn a_module_that_was_finalised_is_initialised_anew() {
    on_a_token(async |hsm| {
        let (custody, store) = open(&hsm).await;
        custody.keep(id(1), key(1)).await.unwrap();
        store.put(put("k", 0, b"v")).await.unwrap();
        for round in 0..3 {
            let (client, _) = stranger();
            client.finalize().unwrap();
            assert_eq!(mac(&*custody, 1).await, Ok(Some(expected(1))), "round {round}");
            assert!(store.get(&["k".to_owned()]).await.unwrap()[0].is_some(), "round {round}");
        }
    });
}

#[test]
fn one_process_alone_keeps_the_user_store() {
    on_a_token(async |hsm| {
        drop(open(&hsm).await);
        let (other, _) = Other::start("faults::child_that_keeps_the_store", &hsm, "keep");
        let token = Token::open(configuration(&hsm)).unwrap();
        let (custody, store) = (token.custody(), token.user_store().unwrap());
        for answer in [
            store.get(&["k".to_owned()]).await.map(drop),
            store.put(put("k", 1, b"mine")).await.map(drop),
            store.consume(&[counter_use(1, 1, 1)]).await.map(drop),
            store.health().await,
        ] {
            let expected = "another process holds";
            assert!(matches!(&answer, Err(PluginError::Unavailable(text)) if text.contains(expected)), "{answer:?}");
        }
        // Keys need no such lock, and those of the other are seen.
        assert_eq!(mac(&custody, 1).await, Ok(Some(expected(1))));
        custody.keep(id(2), key(2)).await.unwrap();
        drop(other);
        let record = store.get(&["k".to_owned()]).await.unwrap().remove(0).unwrap();
        assert_eq!(record.value, b"theirs", "from its end on it is this one's");
        store.put(put("k", 1, b"mine")).await.unwrap();
    });
}

/// Not a test of its own: the process that was there first.
#[test]
fn child_that_keeps_the_store() {
    if Other::what().is_none() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let token = Token::open(configuration_in(&Other::directory())).unwrap();
    let store = token.user_store().unwrap();
    runtime.block_on(async {
        token.custody().keep(id(1), key(1)).await.unwrap();
        store.put(put("k", 0, b"theirs")).await.unwrap();
    });
    Other::ready_and_wait();
}
