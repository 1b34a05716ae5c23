//! `list` and `counters`: everything once and in order, whatever bytes are in it.

use claviger_plugin_api::{CounterPosition, CounterUse, IndexTerm, Put, UserStore, Verdict};
use claviger_servers::Redis;
use claviger_store_redis::Configuration;

use super::{on, open, put};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_are_listed_in_bytewise_order() {
    let server = Redis::shared();
    // Few shards, so that each holds many of the odd ones.
    for shards in [1, 3, 64] {
        let store = open(Configuration { shards, ..on(&server) });
        let odd =
            ["\0", "\0\0", "\0\u{1}", "\u{1}", "a", "a\0", "a\0b", "a\u{1}", "{", "{}", "{0}", "}{", "é", "\u{10ffff}"];
        let mut keys: Vec<String> = odd.iter().map(|key| (*key).to_owned()).collect();
        keys.extend((0..200).map(|number| format!("k{number}")));
        for key in &keys {
            let terms = vec![IndexTerm { name: "n".to_owned(), value: key.clone() }];
            store.put(Put { terms, ..put(key, 0, key.as_bytes()) }).await.unwrap();
        }
        store.put(put("gone", 0, b"")).await.unwrap();
        store.delete("gone", 1).await.unwrap();
        keys.sort();
        for limit in [1, 7, 64, 214, 1000] {
            let (mut found, mut after) = (Vec::new(), None::<String>);
            loop {
                let page = store.list(after.as_deref(), limit).await.unwrap();
                assert!(page.iter().all(|record| record.value == record.key.as_bytes() && record.terms.len() == 1));
                found.extend(page.iter().map(|record| record.key.clone()));
                after = page.last().map(|record| record.key.clone());
                if page.len() < limit {
                    break;
                }
            }
            assert_eq!(found, keys, "{shards} shards, pages of {limit}");
        }
        assert!(store.list(Some("\u{10ffff}"), 10).await.unwrap().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counters_are_listed_in_order_and_can_be_consumed_again() {
    let server = Redis::shared();
    let (store, copy) = (open(on(&server)), open(Configuration { shards: 5, ..on(&server) }));
    let mut uses = Vec::new();
    for credential in [[0; 16], [255; 16], *b"\0\x01\xff{}sixteen bytes\0".first_chunk::<16>().unwrap()] {
        for epoch in [0, 1, 255, 256, u32::MAX] {
            for counter in [0, 1, 63, 64, 65, 255, 256, u64::MAX - 1, u64::MAX] {
                let time_ms = 4_000_000_000_000 + u64::from(epoch) * 1000;
                uses.push(CounterUse { credential, epoch, counter, nonce: [counter as u8; 32], time_ms });
            }
        }
    }
    for number in 0..100 {
        uses.push(CounterUse {
            credential: [number; 16],
            epoch: 7,
            counter: 9,
            nonce: [1; 32],
            time_ms: 4_000_000_000_000,
        });
    }
    let verdicts = store.consume(&uses).await.unwrap();
    assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Fresh));
    store
        .consume(&[CounterUse { credential: [77; 16], epoch: 8, counter: 9, nonce: [1; 32], time_ms: 0 }])
        .await
        .unwrap();
    store.forget_counters([77; 16]).await.unwrap();
    uses.retain(|one| one.credential != [77; 16]);
    let position =
        |one: &CounterUse| CounterPosition { credential: one.credential, epoch: one.epoch, counter: one.counter };
    uses.sort_by_key(position);
    for limit in [1, 2, 9, 50, 233, 234, 1000] {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = store.counters(after, limit).await.unwrap();
            found.extend_from_slice(&page);
            after = page.last().map(position).or(after);
            if page.len() < limit {
                break;
            }
        }
        assert_eq!(found, uses, "pages of {limit}");
    }
    let all = store.counters(None, 1000).await.unwrap();
    assert!(copy.consume(&all).await.unwrap().iter().all(|verdict| *verdict == Verdict::Fresh));
    assert_eq!(copy.counters(None, 1000).await.unwrap(), all, "a copy keeps the times too");
}
