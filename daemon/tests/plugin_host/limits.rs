//! What the host does about stores that are away, hang, or are asked too much:
//! tries again, cuts off, lets back in, and makes callers wait.

use std::{
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use claviger_daemon::plugin_host::PluginConfig;
use claviger_plugin_api::{PluginError, UserStore};
use tempfile::TempDir;

use crate::{
    calls::make,
    support::{load, log, metric, metrics, misbehaving},
};

const READS: [(&str, &str); 5] = [
    ("user_store", "get"),
    ("user_store", "scan"),
    ("user_store", "health"),
    ("state_store", "get"),
    ("state_store", "health"),
];
const WRITES: [(&str, &str); 7] = [
    ("user_store", "put"),
    ("user_store", "delete"),
    ("user_store", "consume"),
    ("user_store", "forget_counters"),
    ("state_store", "put_new"),
    ("state_store", "update"),
    ("state_store", "take"),
];

/// The plugin that does `how` in the first `times` calls of `call`.
fn first(name: &str, call: &str, how: &str, times: u32) -> PluginConfig {
    let mut config = misbehaving(name, call, how);
    config.configuration["times"] = times.into();
    config
}

/// The plugin that does `how` in `call` while the file is there.
fn during(name: &str, call: &str, how: &str) -> (PluginConfig, PathBuf, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("misbehave");
    fs::write(&file, b"").unwrap();
    let mut config = misbehaving(name, call, how);
    config.configuration["file"] = file.to_str().unwrap().into();
    (config, file, directory)
}

/// How many calls have reached the plugin.
fn reached(name: &str) -> u64 {
    metric("claviger_test_calls", &[&format!("plugin=\"{name}\"")]).unwrap_or(0.0) as u64
}

fn figure(name: &str, plugin: &str, labels: &[&str]) -> Option<f64> {
    let plugin = format!("plugin=\"{plugin}\"");
    metric(name, &[&[plugin.as_str()], labels].concat())
}

fn is_away(answer: &Result<(), PluginError>) -> bool {
    matches!(answer, Err(PluginError::Unavailable(text)) if text == "two lines")
}

#[tokio::test]
async fn reads_are_tried_again_and_writes_that_may_have_happened_never() {
    metrics();
    for (kind, call) in READS {
        let (name, full) = (format!("again-{kind}-{call}"), format!("{kind}.{call}"));
        let host = load(first(&name, &full, "fail", 2)).await;
        assert_eq!(make(&host, &name, kind, call).await, Ok(()), "{full}: the third try is good");
        assert_eq!(reached(&name), 3, "{full}");
        assert_eq!(figure("claviger_plugin_retries_total", &name, &[&format!("call=\"{full}\"")]), Some(2.0));

        let name = format!("away-{kind}-{call}");
        let host = load(misbehaving(&name, &full, "fail")).await;
        assert!(is_away(&make(&host, &name, kind, call).await), "{full}: the last error is told");
        assert_eq!(reached(&name), 3, "{full}");
    }
    for (kind, call) in WRITES {
        let (name, full) = (format!("once-{kind}-{call}"), format!("{kind}.{call}"));
        let host = load(first(&name, &full, "fail", 1)).await;
        assert!(is_away(&make(&host, &name, kind, call).await), "{full}");
        assert_eq!(reached(&name), 1, "{full} is tried once");
        assert_eq!(make(&host, &name, kind, call).await, Ok(()), "{full}");
    }
}

#[tokio::test]
async fn what_was_not_done_is_tried_again_and_opens_no_circuit() {
    metrics();
    for (kind, call) in READS.into_iter().chain(WRITES) {
        let (name, full) = (format!("busy-{kind}-{call}"), format!("{kind}.{call}"));
        let host = load(first(&name, &full, "busy", 2)).await;
        assert_eq!(make(&host, &name, kind, call).await, Ok(()), "{full}");
        assert_eq!(reached(&name), 3, "{full}");
    }
    let host = load(misbehaving("busy-for-ever", "user_store.consume", "busy")).await;
    for round in 1..=20 {
        assert_eq!(make(&host, "busy-for-ever", "user_store", "consume").await, Err(PluginError::Busy));
        assert_eq!(reached("busy-for-ever"), 3 * round);
    }
    let mut config = misbehaving("no-retries", "user_store.get", "busy");
    config.retries = 0;
    let host = load(config).await;
    assert_eq!(make(&host, "no-retries", "user_store", "get").await, Err(PluginError::Busy));
    assert_eq!(reached("no-retries"), 1);
}

#[tokio::test]
async fn an_issuer_is_asked_once_and_never_cut_off() {
    metrics();
    let host = load(misbehaving("issuer-away", "issuer.health", "fail")).await;
    for round in 1..=20 {
        assert!(is_away(&make(&host, "issuer-away", "issuer", "health").await));
        assert_eq!(reached("issuer-away"), round);
    }
}

#[tokio::test]
async fn corrupt_data_opens_no_circuit() {
    let host = load(misbehaving("corrupt", "user_store.consume", "lie")).await;
    for _ in 0..20 {
        let answer = make(&host, "corrupt", "user_store", "consume").await;
        assert!(matches!(answer, Err(PluginError::Corrupt(_))), "{answer:?}");
    }
}

#[tokio::test]
async fn a_store_that_hangs_costs_few_callers_their_deadline_and_returns_by_itself() {
    metrics();
    log();
    let (mut config, file, _directory) = during("hangs", "user_store", "hang");
    config.deadline = Duration::from_millis(200);
    config.breaker_failures = 3;
    let host = load(config).await;
    let open = || figure("claviger_plugin_circuit_open", "hangs", &["component=\"user_store\""]);
    assert_eq!(open(), Some(0.0));
    let mut changes = host.changes();
    for _ in 0..3 {
        assert_eq!(make(&host, "hangs", "user_store", "get").await, Err(PluginError::DeadlineExceeded));
    }
    assert!(changes.has_changed().unwrap(), "readiness is told at once");
    changes.mark_unchanged();
    assert_eq!(open(), Some(1.0));

    let start = Instant::now();
    for call in ["get", "put", "consume", "health"].into_iter().cycle().take(400) {
        match make(&host, "hangs", "user_store", call).await {
            Err(PluginError::Unavailable(text)) => {
                assert!(text.starts_with("circuit open since 2"), "{text}");
                assert!(text.ends_with("; last error: no answer within the deadline"), "{text}");
            }
            other => panic!("{call}: {other:?}"),
        }
    }
    assert!(start.elapsed() < Duration::from_secs(20), "400 answers took {:?}", start.elapsed());
    let refused = figure("claviger_plugin_calls_total", "hangs", &["call=\"user_store.put\"", "\"circuit_open\""]);
    assert_eq!(refused, Some(100.0));
    let probes = || figure("claviger_plugin_calls_total", "hangs", &["call=\"user_store.health\"", "\"deadline\""]);
    let health = host.health().await;
    assert!(health[0].problem.as_ref().unwrap().contains("circuit open"), "{health:?}");
    assert_eq!(make(&host, "hangs", "state_store", "get").await, Ok(()), "the other components work");

    // A probe finds it as it was.
    within(|| probes() >= Some(1.0)).await;
    assert_eq!(open(), Some(1.0));
    fs::remove_file(file).unwrap();
    tokio::time::timeout(PATIENCE, changes.changed()).await.unwrap().unwrap();
    assert_eq!(open(), Some(0.0));
    for call in ["get", "put", "consume", "health"] {
        assert_eq!(make(&host, "hangs", "user_store", call).await, Ok(()), "{call}");
    }
    assert_eq!(figure("claviger_plugin_circuit_opened_total", "hangs", &["component=\"user_store\""]), Some(1.0));
    let log = log();
    let lines = |text: &str| log.lines().filter(|line| line.contains("\"hangs\"") && line.contains(text)).count();
    assert_eq!((lines("circuit open,"), lines("circuit closed:")), (1, 1), "one line at each change");
    assert!(lines("plugin call failed") <= 3, "calls that were not made are not logged");
}

#[tokio::test]
async fn a_host_that_is_dropped_asks_no_more() {
    metrics();
    let (mut config, _file, _directory) = during("dropped-open", "user_store", "fail");
    config.breaker_failures = 1;
    let host = load(config).await;
    assert!(is_away(&make(&host, "dropped-open", "user_store", "put").await));
    within(|| reached("dropped-open") >= 2).await;
    drop(host);
    // A probe that was under way has ended when the longest pause is over.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let asked = reached("dropped-open");
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(reached("dropped-open"), asked);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn calls_beyond_the_places_wait_and_are_busy_at_their_deadline() {
    metrics();
    log();
    let (mut config, file, _directory) = during("crowded", "user_store.scan", "block");
    config.deadline = Duration::from_millis(300);
    config.max_in_flight = 2;
    let host = Arc::new(load(config).await);
    let holders = [0, 1].map(|_| {
        let host = host.clone();
        tokio::spawn(async move { make(&host, "crowded", "user_store", "scan").await })
    });
    within(|| reached("crowded") == 2).await;
    let start = Instant::now();
    assert_eq!(make(&host, "crowded", "user_store", "get").await, Err(PluginError::Busy));
    assert!(start.elapsed() >= Duration::from_millis(300), "it waited for a place: {:?}", start.elapsed());
    assert_eq!(make(&host, "crowded", "state_store", "get").await, Ok(()), "each component has places of its own");
    assert!(log().contains("all 2 places (max_in_flight) are taken"));
    assert_eq!(figure("claviger_plugin_calls_total", "crowded", &["call=\"user_store.get\"", "\"busy\""]), Some(1.0));
    fs::remove_file(file).unwrap();
    for holder in holders {
        let _ = holder.await.unwrap();
    }
    assert_eq!(make(&host, "crowded", "user_store", "get").await, Ok(()), "the places are free again");
}

/// A call that waits for a place is let in when one becomes free.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_place_that_becomes_free_is_taken() {
    metrics();
    let (mut config, file, _directory) = during("one-place", "user_store.scan", "block");
    config.deadline = Duration::from_secs(30);
    config.max_in_flight = 1;
    let host = load(config).await;
    let store: Arc<dyn UserStore> = host.user_store("one-place").unwrap();
    let holder = tokio::spawn(async move { make(&host, "one-place", "user_store", "scan").await });
    within(|| reached("one-place") == 1).await;
    let waiting = tokio::spawn(async move { store.get(&["a".into()]).await });
    within(|| figure("claviger_plugin_calls_in_flight", "one-place", &["call=\"user_store.get\""]) == Some(1.0)).await;
    fs::remove_file(file).unwrap();
    assert_eq!(holder.await.unwrap(), Ok(()));
    assert_eq!(waiting.await.unwrap(), Ok(vec![None]));
}

#[tokio::test]
async fn failed_calls_show_once_in_a_second() {
    metrics();
    log();
    let mut config = misbehaving("noisy", "user_store.put", "fail");
    config.breaker_failures = 0;
    let host = load(config).await;
    let lines = || log().lines().filter(|line| line.contains("\"noisy\"") && line.contains("call failed")).count();
    let start = Instant::now();
    let mut calls = 0;
    while lines() < 2 {
        assert!(is_away(&make(&host, "noisy", "user_store", "put").await));
        calls += 1;
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(start.elapsed() < PATIENCE);
    }
    assert!(start.elapsed() >= Duration::from_secs(1), "the second line came after {:?}", start.elapsed());
    let left_out = format!("left_out={}", calls - 2);
    assert!(calls > 2 && log().contains(&left_out), "no {left_out}");
}

/// Waits until something holds.
async fn within(holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "it did not happen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

const PATIENCE: Duration = Duration::from_secs(60);
