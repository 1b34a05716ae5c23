//! The suite of user stores: calls that are given up on their way, as the host
//! does at a deadline, or when its own caller goes away.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout};

use super::{
    Check, at_once,
    check::checks,
    counters::{consume, one as used},
    records::{one, put, term},
};
use crate::{CounterUse, PluginError, Record, Scan, UserStore, Verdict, Written};

pub(super) fn checks() -> Vec<Check<Arc<dyn UserStore>>> {
    checks!("dropped", [a_call_is_all_or_nothing_at_every_await, calls_that_take_too_long_leave_the_store_usable,])
}

/// Polls a call so many times, each when it asks for it, and drops it then. Its
/// answer, where it came to that.
async fn dropped_after<T>(polls: usize, call: impl Future<Output = T>) -> Option<T> {
    let mut call: Pin<Box<_>> = Box::pin(call);
    let mut left = polls;
    poll_fn(move |context| {
        let Some(rest) = left.checked_sub(1) else { return Poll::Ready(None) };
        left = rest;
        match call.as_mut().poll(context) {
            Poll::Ready(answer) => Poll::Ready(Some(answer)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// More awaits than any call should have.
const MOST: usize = 200;

async fn a_call_is_all_or_nothing_at_every_await(store: Arc<dyn UserStore>) {
    for polls in 0..MOST {
        let key = format!("put{polls}");
        let done = dropped_after(polls, store.put(put(&key, 0, b"dropped", &[("name", &key)]))).await;
        // It happened, or this one does, and the dropped one can no more.
        let after = store.put(put(&key, 0, b"after", &[("other", &key)])).await.expect("put");
        let value: &[u8] = if after == Written::Done(1) { b"after" } else { b"dropped" };
        assert!(matches!(after, Written::Done(1) | Written::Conflict(1)), "{after:?} after {polls} polls");
        let record = whole(&store, &key).await.expect("one of the two is there");
        assert_eq!((&record.value[..], record.version), (value, 1), "a put that was dropped after {polls} polls");
        if let Some(done) = done {
            assert_eq!((done.expect("put"), value), (Written::Done(1), &b"dropped"[..]));
            break;
        }
    }
    for polls in 0..MOST {
        let key = format!("delete{polls}");
        store.put(put(&key, 0, b"before", &[("name", &key)])).await.expect("put");
        let done = dropped_after(polls, store.delete(&key, 1)).await;
        let after = store.put(put(&key, 1, b"after", &[("other", &key)])).await.expect("put");
        assert!(matches!(after, Written::Done(2) | Written::Conflict(0)), "{after:?} after {polls} polls");
        let record = whole(&store, &key).await;
        assert_eq!(record.is_some(), after == Written::Done(2), "a delete that was dropped after {polls} polls");
        if let Some(done) = done {
            assert_eq!((done.expect("delete"), after), (Written::Done(0), Written::Conflict(0)));
            break;
        }
    }
    for polls in 0..MOST {
        let uses: Vec<CounterUse> = (0..8).map(|number| used(number % 2, polls as u32, u64::from(number), 1)).collect();
        let done = dropped_after(polls, store.consume(&uses)).await;
        let after = consume(&store, &uses).await;
        let all = |verdict| after.iter().all(|judged| *judged == verdict);
        assert!(all(Verdict::Fresh) || all(Verdict::SameNonce), "after {polls} polls: {after:?}");
        if let Some(done) = done {
            let verdicts = done.expect("consume");
            assert!(verdicts.iter().all(|judged| *judged == Verdict::Fresh) && all(Verdict::SameNonce));
            break;
        }
    }
}

/// A record that its own index agrees with.
async fn whole(store: &Arc<dyn UserStore>, key: &str) -> Option<Record> {
    let record = one(store, key).await;
    for name in ["name", "other"] {
        let after = Some(crate::Cursor { value: key.to_owned(), key: String::new() });
        let page = store.scan(Scan { term: name.to_owned(), after, limit: 1 }).await.expect("scan");
        let listed = page.records.first().is_some_and(|found| found.key == key);
        let has = record.as_ref().is_some_and(|record| record.terms.contains(&term(name, key)));
        assert_eq!(listed, has, "the index and the record {key} agree");
    }
    record
}

async fn calls_that_take_too_long_leave_the_store_usable(store: Arc<dyn UserStore>) {
    // More of them than a pool has connections.
    at_once(30, |number| {
        let store = store.clone();
        async move {
            let patience = Duration::from_micros(u64::from(number) * 100);
            let (key, uses) = (format!("k{number}"), [used(1, number, 1, 1), used(1, number, 2, 1)]);
            let _ = timeout(patience, store.put(put(&key, 0, b"", &[]))).await;
            let _ = timeout(patience, store.consume(&uses)).await;
            let _ = timeout(patience, store.list(None, 1000)).await;
        }
    })
    .await;
    // A server may still be counting the connections that were given up.
    let soon = Instant::now() + Duration::from_secs(20);
    while let Err(error) = store.health().await {
        assert!(matches!(error, PluginError::Unavailable(_) | PluginError::Busy), "{error:?}");
        assert!(Instant::now() < soon, "a store is soon healthy after calls that were dropped: {error}");
        sleep(Duration::from_millis(20)).await;
    }
    at_once(30, |number| {
        let store = store.clone();
        async move {
            let key = format!("then{number}");
            let written = loop {
                match store.put(put(&key, 0, b"", &[])).await {
                    Err(PluginError::Unavailable(_) | PluginError::Busy) if Instant::now() < soon => {
                        sleep(Duration::from_millis(20)).await;
                    }
                    written => break written.expect("a put after calls that were dropped"),
                }
            };
            assert!(matches!(written, Written::Done(1) | Written::Conflict(1)), "{written:?}");
        }
    })
    .await;
}
