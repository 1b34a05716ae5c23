//! The suite of user stores: single records.

use std::sync::Arc;

use super::{Check, at_once, check::checks};
use crate::{IndexTerm, MAX_VALUE, PluginError, Put, Record, Scan, UserStore, Written};

pub(super) fn checks() -> Vec<Check<Arc<dyn UserStore>>> {
    checks!(
        "records",
        [
            writes_need_the_stored_version,
            batches_come_back_in_order,
            odd_and_large_records_come_back_unchanged,
            sizes_are_checked,
            of_many_writers_one_wins_each_version,
            a_conflict_leaves_the_others_alone,
        ]
    )
}

/// A write of `value` under `key` with these index terms.
pub(super) fn put(key: &str, expected: u64, value: &[u8], terms: &[(&str, &str)]) -> Put {
    let terms = terms.iter().map(|(name, value)| term(name, value)).collect();
    Put { key: key.to_owned(), expected, value: value.to_vec(), terms }
}

pub(super) fn term(name: &str, value: &str) -> IndexTerm {
    IndexTerm { name: name.to_owned(), value: value.to_owned() }
}

pub(super) async fn one(store: &Arc<dyn UserStore>, key: &str) -> Option<Record> {
    let mut found = store.get(&[key.to_owned()]).await.expect("get");
    assert_eq!(found.len(), 1, "one key, one answer");
    let mut record = found.pop().flatten()?;
    // The order of a record's terms is not part of the contract.
    record.terms.sort();
    Some(record)
}

async fn writes_need_the_stored_version(store: Arc<dyn UserStore>) {
    assert_eq!(one(&store, "a").await, None, "an empty store has no record");
    let write = async |expected, value: &[u8]| store.put(put("a", expected, value, &[])).await.expect("put");
    assert_eq!(write(1, b"x").await, Written::Conflict(0), "no record has version 1 yet");
    assert_eq!(write(u64::MAX, b"x").await, Written::Conflict(0), "nor the highest version");
    assert_eq!(write(0, b"1").await, Written::Done(1), "a new record has version 1");
    assert_eq!(write(0, b"x").await, Written::Conflict(1), "a record is made once");
    assert_eq!(write(2, b"x").await, Written::Conflict(1), "a version of the future is a conflict");
    assert_eq!(write(1, b"2").await, Written::Done(2), "each write counts one up");
    let record = one(&store, "a").await.expect("the record is there");
    assert_eq!((record.key.as_str(), record.version, &record.value[..]), ("a", 2, &b"2"[..]));

    assert_eq!(store.delete("a", 1).await.expect("delete"), Written::Conflict(2), "a delete needs the version too");
    assert_eq!(store.delete("a", 0).await.expect("delete"), Written::Conflict(2), "0 is no joker");
    assert_eq!(store.delete("a", 2).await.expect("delete"), Written::Done(0), "a delete leaves version 0");
    assert_eq!(one(&store, "a").await, None, "a deleted record is gone");
    assert_eq!(store.delete("a", 2).await.expect("delete"), Written::Conflict(0), "it is deleted once");
    assert_eq!(write(0, b"3").await, Written::Done(1), "a record made anew starts at version 1");
}

async fn batches_come_back_in_order(store: Arc<dyn UserStore>) {
    at_once(10, |task| {
        let store = store.clone();
        async move {
            for number in (0..1000).filter(|number| number % 10 == task) {
                let key = format!("k{number:04}");
                let name = format!("n{}", number % 7);
                let written = store.put(put(&key, 0, key.as_bytes(), &[("name", &name)])).await.expect("put");
                assert_eq!(written, Written::Done(1));
            }
        }
    })
    .await;
    assert_eq!(store.get(&[]).await.expect("get"), [], "no keys, no answers");
    let keys: Vec<String> = (0..1000).rev().map(|number| format!("k{number:04}")).collect();
    let found = store.get(&keys).await.expect("get of 1000 keys");
    for (key, record) in keys.iter().zip(&found) {
        let record = record.as_ref().unwrap_or_else(|| panic!("{key} is there"));
        assert_eq!((&record.key, record.terms.len()), (key, 1), "records come in the order of the keys");
    }
    let keys = ["none", "k0001", "k0000", "k0001", "none"].map(str::to_owned);
    let found = store.get(&keys).await.expect("get");
    let shape: Vec<_> = found.iter().map(|record| record.as_ref().map(|record| record.key.as_str())).collect();
    assert_eq!(
        shape,
        [None, Some("k0001"), Some("k0000"), Some("k0001"), None],
        "absent and repeated keys keep their places"
    );
}

async fn odd_and_large_records_come_back_unchanged(store: Arc<dyn UserStore>) {
    let long_key = "é".repeat(127) + "x";
    let long_value = "v".repeat(255);
    let large = vec![0xa5; MAX_VALUE];
    let table: [Put; 5] = [
        put("'; DROP TABLE records; --", 0, b"", &[("a", ""), ("b'\"", "%_*?")]),
        put("nul\0inside", 0, b"\0\0\0", &[("nul", "a\0b")]),
        put("\u{1f511} \n\t", 0, &(0..=255).collect::<Vec<u8>>(), &[("é", "ü\u{0308}")]),
        put(&long_key, 0, &large, &[(&"n".repeat(32), &long_value)]),
        put("nul", 0, b"\xff", &["1", "2", "3", "4", "5", "6", "7", "8"].map(|value| ("same", value))),
    ];
    for put in &table {
        assert_eq!(store.put(put.clone()).await.expect("put"), Written::Done(1), "{:?} is new", put.key);
    }
    for put in &table {
        let record = one(&store, &put.key).await.unwrap_or_else(|| panic!("{:?} is there", put.key));
        assert!(record.value == put.value, "the value of {:?} comes back", put.key);
        let mut terms = put.terms.clone();
        terms.sort();
        assert_eq!(record.terms, terms, "the terms of {:?} come back", put.key);
    }
    let again = Put { expected: 1, terms: vec![term("x", "y"), term("x", "y")], ..table[0].clone() };
    assert_eq!(store.put(again).await.expect("put"), Written::Done(2));
    let mut terms = one(&store, &table[0].key).await.expect("it is there").terms;
    terms.dedup();
    assert_eq!(terms, [term("x", "y")], "a write replaces all terms");
}

async fn sizes_are_checked(store: Arc<dyn UserStore>) {
    let long = "x".repeat(256);
    let puts: [Put; 6] = [
        put("", 0, b"", &[]),
        put(&long, 0, b"", &[]),
        put("a", 0, &vec![0; MAX_VALUE + 1], &[]),
        put("a", 0, b"", &[("n", "v"); 9]),
        put("a", 0, b"", &[("", "v")]),
        put("a", 0, b"", &[("n", &long)]),
    ];
    for put in puts {
        let what = format!("key of {}, {} bytes, {} terms", put.key.len(), put.value.len(), put.terms.len());
        invalid(store.put(put).await, &what);
    }
    invalid(store.get(&vec!["k".to_owned(); 1001]).await, "1001 keys");
    invalid(store.get(&[String::new()]).await, "an empty key");
    invalid(store.delete("", 1).await, "an empty key");
    for limit in [0, 1001] {
        invalid(store.scan(Scan { term: "n".to_owned(), after: None, limit }).await, "a page of 0 or 1001");
    }
    assert_eq!(one(&store, "a").await, None, "an invalid call stores nothing");
}

fn invalid<T: std::fmt::Debug>(answer: Result<T, PluginError>, what: &str) {
    assert!(matches!(answer, Err(PluginError::InvalidCall(_))), "{what} is an invalid call, not {answer:?}");
}

async fn of_many_writers_one_wins_each_version(store: Arc<dyn UserStore>) {
    const WRITERS: u32 = 8;
    const ROUNDS: u64 = 25;
    let wins = at_once(WRITERS, |writer| {
        let store = store.clone();
        async move {
            let mut wins = Vec::new();
            let mut version = 0;
            while version < ROUNDS {
                match store.put(put("r", version, &writer.to_be_bytes(), &[])).await.expect("put") {
                    Written::Done(new) => {
                        assert_eq!(new, version + 1, "a write counts one up");
                        wins.push(new);
                        version = new;
                    }
                    Written::Conflict(stored) => {
                        assert!(stored > version, "a conflict names a later version: {stored} after {version}");
                        version = stored;
                    }
                }
            }
            wins
        }
    })
    .await;
    let mut wins: Vec<u64> = wins.into_iter().flatten().collect();
    wins.sort_unstable();
    assert!(wins.iter().copied().eq(1..=ROUNDS), "each version was written exactly once: {wins:?}");
    let record = one(&store, "r").await.expect("the record is there");
    assert_eq!(record.version, ROUNDS);
}

/// Writes that may share a commit: half of them conflict.
async fn a_conflict_leaves_the_others_alone(store: Arc<dyn UserStore>) {
    store.put(put("taken", 0, b"first", &[])).await.expect("put");
    let outcomes = at_once(64, |number| {
        let store = store.clone();
        async move {
            let key = if number % 2 == 0 { format!("free{number}") } else { "taken".to_owned() };
            (key.clone(), store.put(put(&key, 0, b"second", &[("n", "v")])).await.expect("put"))
        }
    })
    .await;
    for (key, written) in outcomes {
        if key == "taken" {
            assert_eq!(written, Written::Conflict(1), "the record was there");
        } else {
            assert_eq!(written, Written::Done(1), "{key} was free");
            assert!(one(&store, &key).await.is_some(), "{key} was written");
        }
    }
    let taken = one(&store, "taken").await.expect("it is there");
    assert_eq!((&taken.value[..], taken.terms.len()), (&b"first"[..], 0), "a conflict changes nothing");
}
