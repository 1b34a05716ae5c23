//! The suite of user stores: the index.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Check,
    check::checks,
    records::{put, term},
};
use crate::{Cursor, Page, Scan, UserStore, Written};

pub(super) fn checks() -> Vec<Check<Arc<dyn UserStore>>> {
    checks!(
        "scans",
        [
            an_index_is_in_bytewise_order,
            pages_join_without_gap_or_repetition,
            a_scan_survives_writes,
            writes_move_index_entries,
        ]
    )
}

async fn page(store: &Arc<dyn UserStore>, name: &str, after: Option<Cursor>, limit: usize) -> Page {
    let page = store.scan(Scan { term: name.to_owned(), after, limit }).await.expect("scan");
    assert!(page.records.len() <= limit, "a page holds at most {limit} records");
    page
}

/// The keys of a whole index, page by page; `between` runs after each page.
async fn keys(store: &Arc<dyn UserStore>, name: &str, limit: usize, between: impl AsyncFn(usize)) -> Vec<String> {
    let (mut found, mut after) = (Vec::new(), None);
    for number in 0.. {
        let Page { records, next } = page(store, name, after, limit).await;
        assert!(next.is_none() || !records.is_empty(), "a page with a successor is not empty");
        found.extend(records.into_iter().map(|record| record.key));
        between(number).await;
        after = next;
        if after.is_none() {
            break;
        }
    }
    found
}

/// Values whose order differs between bytes, locales and cases.
const VALUES: [&str; 12] = ["", "a", "B", "b", "ab", "a\0", "a!", "é", "e\u{301}", "z", "\u{ffff}", "\u{1f511}"];

async fn an_index_is_in_bytewise_order(store: Arc<dyn UserStore>) {
    for (number, value) in VALUES.iter().enumerate() {
        // Two records with each value, and one in another index.
        for key in [format!("Z{number:02}"), format!("a{number:02}")] {
            store.put(put(&key, 0, value.as_bytes(), &[("name", value), ("kind", "x")])).await.expect("put");
        }
        store.put(put(&format!("other{number}"), 0, b"", &[("nam", value), ("names", value)])).await.expect("put");
    }
    let mut expected: Vec<(&str, String)> = Vec::new();
    for (number, value) in VALUES.iter().enumerate() {
        expected.extend([(*value, format!("Z{number:02}")), (*value, format!("a{number:02}"))]);
    }
    expected.sort();
    let expected: Vec<String> = expected.into_iter().map(|(_, key)| key).collect();

    let whole = page(&store, "name", None, 1000).await;
    assert_eq!(whole.next, None, "a page that holds all has no successor");
    assert!(whole.records.iter().all(|record| record.version == 1), "records come whole");
    assert!(
        whole.records.iter().all(|record| record.terms.contains(&term("kind", "x"))),
        "records come with all their terms"
    );
    let found: Vec<String> = whole.records.into_iter().map(|record| record.key).collect();
    assert_eq!(found, expected, "an index is in bytewise order of value, then key");
    assert_eq!(page(&store, "none", None, 10).await, Page::default(), "an unknown index is empty");
}

async fn pages_join_without_gap_or_repetition(store: Arc<dyn UserStore>) {
    for number in 0..30 {
        let value = format!("v{}", number % 4);
        store.put(put(&format!("k{number:02}"), 0, b"", &[("name", &value)])).await.expect("put");
    }
    let expected = keys(&store, "name", 1000, async |_| {}).await;
    assert_eq!(expected.len(), 30);
    for limit in [1, 2, 3, 7, 10, 15, 29, 30, 31] {
        assert_eq!(keys(&store, "name", limit, async |_| {}).await, expected, "pages of {limit}");
    }
    // A cursor need not name a record that is there.
    let after = Some(Cursor { value: "v1".to_owned(), key: "k01\0".to_owned() });
    let rest = page(&store, "name", after, 1).await;
    assert_eq!(rest.records[0].key, "k05", "a scan goes on behind its cursor");
    let after = Some(Cursor { value: "v3".to_owned(), key: "k99".to_owned() });
    assert_eq!(page(&store, "name", after, 10).await, Page::default(), "behind the last record there is nothing");
}

/// Records that are there from the beginning to the end of a scan come exactly
/// once, whatever is written, deleted and rewritten meanwhile.
async fn a_scan_survives_writes(store: Arc<dyn UserStore>) {
    for number in 0..60 {
        store.put(put(&format!("k{number:02}"), 0, b"", &[("name", &format!("{number:02}"))])).await.expect("put");
    }
    let meanwhile = {
        let store = store.clone();
        async move |round: usize| {
            let number = round * 3;
            let rewritten = format!("k{number:02}");
            let terms = [("name", &rewritten[1..])];
            store.put(put(&rewritten, 1, b"new", &terms)).await.expect("put");
            store.delete(&format!("k{:02}", number + 1), 1).await.expect("delete");
            let new = format!("{:02}b", (number * 7) % 60);
            store.put(put(&format!("new{round}"), 0, b"", &[("name", &new)])).await.expect("put");
        }
    };
    let found = keys(&store, "name", 7, meanwhile).await;
    let mut count: BTreeMap<&str, u32> = BTreeMap::new();
    for key in &found {
        *count.entry(key).or_default() += 1;
    }
    assert!(count.values().all(|count| *count == 1), "no record comes twice: {count:?}");
    for number in (0..60).filter(|number| number % 3 != 1) {
        let key = format!("k{number:02}");
        assert!(count.contains_key(key.as_str()), "{key} was there all the time and must come");
    }
}

async fn writes_move_index_entries(store: Arc<dyn UserStore>) {
    let both = [("name", "a"), ("name", "b"), ("kind", "x")];
    store.put(put("k", 0, b"", &both)).await.expect("put");
    let in_index = async |name| page(&store, name, None, 10).await.records.len();
    assert_eq!(in_index("name").await, 2, "a record comes once for each of its terms in an index");
    store.put(put("k", 1, b"", &[("kind", "y")])).await.expect("put");
    assert_eq!((in_index("name").await, in_index("kind").await), (0, 1), "a write replaces all terms");
    assert_eq!(store.put(put("k", 1, b"", &both)).await.expect("put"), Written::Conflict(2));
    assert_eq!((in_index("name").await, in_index("kind").await), (0, 1), "a conflict leaves the index alone");
    store.delete("k", 2).await.expect("delete");
    assert_eq!(in_index("kind").await, 0, "a deleted record leaves the index");
}
