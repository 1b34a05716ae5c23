//! The suite of state stores.

use std::{future::Future, sync::Arc, time::Duration};

use super::{
    Check, at_once,
    check::{self, checks},
};
use crate::StateStore;

/// Long enough not to end during a check.
const LONG: Duration = Duration::from_secs(600);
/// A lifetime whose end is waited for.
const SHORT: Duration = Duration::from_secs(2);

/// Checks a state store against the contract of the trait. `make` gives a new,
/// empty store each time; `pass` lets time pass for it: a sleep, or the move of
/// a stopped clock.
///
/// # Panics
/// With what was expected, where the store does not keep the contract.
pub async fn state_store<M, F>(make: M, pass: impl AsyncFn(Duration))
where
    M: Fn() -> F,
    F: Future<Output = Arc<dyn StateStore>>,
{
    check::all(&lasting(), &make).await;
    values_end(make().await, &pass).await;
}

/// The checks of [`state_store`] one by one, with real time.
pub fn state_store_checks() -> Vec<Check<Arc<dyn StateStore>>> {
    let mut checks = lasting();
    checks.extend(checks!("lifetimes", [values_end_by_themselves]));
    checks
}

fn lasting() -> Vec<Check<Arc<dyn StateStore>>> {
    checks!(
        "values",
        [
            values_are_put_once_and_taken_once,
            values_change_only_from_what_was_expected,
            odd_values_come_back_unchanged,
            races_have_one_winner,
            a_fresh_store_is_healthy,
        ]
    )
}

async fn a_fresh_store_is_healthy(store: Arc<dyn StateStore>) {
    store.health().await.expect("a fresh store is healthy");
}

async fn values_end_by_themselves(store: Arc<dyn StateStore>) {
    values_end(store, &async |time| tokio::time::sleep(time).await).await;
}

async fn values_are_put_once_and_taken_once(store: Arc<dyn StateStore>) {
    assert_eq!(store.get("a").await.expect("get"), None, "an empty store holds nothing");
    assert!(store.put_new("a", b"1", LONG).await.expect("put_new"), "a free key takes a value");
    assert!(!store.put_new("a", b"2", LONG).await.expect("put_new"), "a taken key refuses a second value");
    assert_eq!(store.get("a").await.expect("get").as_deref(), Some(&b"1"[..]), "the first value stays");
    assert_eq!(store.get("A").await.expect("get"), None, "keys differ by case");
    assert_eq!(store.take("a").await.expect("take").as_deref(), Some(&b"1"[..]), "take returns the value");
    assert_eq!(store.take("a").await.expect("take"), None, "a value is taken once");
    assert!(store.put_new("a", b"3", LONG).await.expect("put_new"), "a taken value leaves its key free");
}

async fn values_change_only_from_what_was_expected(store: Arc<dyn StateStore>) {
    assert!(!store.update("a", b"", b"1", LONG).await.expect("update"), "no value is not an empty value");
    assert_eq!(store.get("a").await.expect("get"), None, "a failed update stores nothing");
    store.put_new("a", b"1", LONG).await.expect("put_new");
    assert!(!store.update("a", b"0", b"2", LONG).await.expect("update"), "another value than the expected one stays");
    assert!(store.update("a", b"1", b"2", LONG).await.expect("update"), "the expected value is replaced");
    assert_eq!(store.get("a").await.expect("get").as_deref(), Some(&b"2"[..]), "the new value is there");
}

async fn values_end(store: Arc<dyn StateStore>, pass: &impl AsyncFn(Duration)) {
    for key in ["ends", "prolonged", "shortened"] {
        let lifetime = if key == "shortened" { LONG } else { SHORT };
        store.put_new(key, b"1", lifetime).await.expect("put_new");
    }
    assert!(store.update("prolonged", b"1", b"2", LONG).await.expect("update"));
    assert!(store.update("shortened", b"1", b"2", SHORT).await.expect("update"));
    pass(SHORT + Duration::from_millis(100)).await;
    assert_eq!(store.get("ends").await.expect("get"), None, "a value ends with its lifetime");
    assert!(!store.update("ends", b"1", b"2", LONG).await.expect("update"), "an ended value cannot be updated");
    assert_eq!(store.take("ends").await.expect("take"), None, "an ended value cannot be taken");
    assert!(store.put_new("ends", b"3", LONG).await.expect("put_new"), "an ended value leaves its key free");
    assert!(store.get("prolonged").await.expect("get").is_some(), "an update sets the new lifetime");
    assert_eq!(store.get("shortened").await.expect("get"), None, "an update can shorten the lifetime");
}

async fn odd_values_come_back_unchanged(store: Arc<dyn StateStore>) {
    let long_key = "k".repeat(255);
    let large = vec![0xa5; 32 * 1024];
    let table: [(&str, &[u8]); 4] = [("é/ \u{1f511}\n", b"\0\xff\r\n"), ("e", b""), (&long_key, &large), ("*", b"%")];
    for (key, value) in table {
        assert!(store.put_new(key, value, LONG).await.expect("put_new"), "{key:?} is free");
    }
    for (key, value) in table {
        assert_eq!(store.get(key).await.expect("get").as_deref(), Some(value), "{key:?} comes back");
        assert!(store.update(key, value, b"new", LONG).await.expect("update"), "{key:?} is what was stored");
    }
}

async fn races_have_one_winner(store: Arc<dyn StateStore>) {
    let put = at_once(16, |number| {
        let store = store.clone();
        async move { store.put_new("r", &number.to_be_bytes(), LONG).await.expect("put_new") }
    });
    assert_eq!(winners(put.await), 1, "exactly one of many put_new stores");

    let before = store.get("r").await.expect("get").expect("the winner's value is there");
    let update = at_once(16, |number| {
        let (store, before) = (store.clone(), before.clone());
        async move { store.update("r", &before, &[number as u8 + 100], LONG).await.expect("update") }
    });
    assert_eq!(winners(update.await), 1, "exactly one of many updates from one value succeeds");

    let take = at_once(16, |_| {
        let store = store.clone();
        async move { store.take("r").await.expect("take").is_some() }
    });
    assert_eq!(winners(take.await), 1, "exactly one of many takers gets the value");
}

fn winners(outcomes: Vec<bool>) -> usize {
    outcomes.into_iter().filter(|won| *won).count()
}
