//! Plugins that are replaced while calls come, and new versions that cannot be taken.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use claviger_daemon::plugin_host::{HostServices, PluginConfig, PluginHost, ReloadError, StateSource};
use claviger_plugin_api::{Put, Written};
use tempfile::TempDir;

use crate::{
    calls::make,
    support::{CIPHER, MISBEHAVING, SQLITE, config, library, load, load_with, metric, metrics, misbehaving, reason},
};

/// A copy of a library that can be replaced.
fn copied(package: &'static str) -> (PathBuf, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("plugin.so");
    fs::copy(library(package), &file).unwrap();
    (file, directory)
}

/// A new version of the file: the same code with other bytes behind its end.
fn update(file: &PathBuf, package: &'static str, version: u8) {
    let mut bytes = fs::read(library(package)).unwrap();
    bytes.push(version);
    let new = file.with_extension("new");
    fs::write(&new, bytes).unwrap();
    fs::rename(new, file).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn suites_are_replaced_between_two_calls() {
    let (file, _directory) = copied(CIPHER);
    let host = Arc::new(load(config("moving", &file)).await);
    let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let workers: Vec<_> = host
        .suites()
        .into_iter()
        .map(|id| {
            let (suite, stop, calls) = (host.suite(id).unwrap(), stop.clone(), calls.clone());
            thread::spawn(move || {
                let (key, nonce, mut sealed, mut opened) = ([7; 32], [8; 12], [0; 21], [0; 5]);
                while !stop.load(Ordering::Relaxed) {
                    suite.seal(&key, &nonce, b"", b"hello", &mut sealed).unwrap();
                    suite.open(&key, &nonce, b"", &sealed, &mut opened).unwrap();
                    assert_eq!(&opened, b"hello");
                    calls.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for version in 0..3 {
        update(&file, CIPHER, version);
        let before = host.list_with_files().await.remove(0);
        assert!(before.file.unwrap().differs);
        let seen = calls.load(Ordering::Relaxed);
        let done = host.reload(config("moving", &file)).await.unwrap();
        assert!(done.drained && done.before.sha256 != done.now.sha256, "{done:?}");
        let now = host.list_with_files().await.remove(0);
        assert_eq!((now.sha256, now.file.unwrap().differs), (done.now.sha256, false));
        while calls.load(Ordering::Relaxed) < seen + 100 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    workers.into_iter().for_each(|worker| worker.join().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_taken_leaves_the_former_version() {
    let (file, directory) = copied(MISBEHAVING);
    let mut first = misbehaving("keeps", "", "panic");
    first.path.clone_from(&file);
    let services = HostServices { state: StateSource::Plugin("keeps".into()), ..HostServices::default() };
    let host = Arc::new(load_with(first.clone(), services).await);
    let good = host.list().remove(0);
    let told = |call: &str, how: &str| {
        let mut config = first.clone();
        config.configuration = serde_json::json!({ "call": call, "how": how });
        config
    };
    let truncated = directory.path().join("truncated.so");
    let whole = fs::read(&file).unwrap();
    fs::write(&truncated, &whole[..whole.len() / 2]).unwrap();
    let other_suite = {
        let mut config = first.clone();
        config.configuration = serde_json::json!({ "suite": 0xff02 });
        config
    };
    for (what, config, expected) in [
        ("truncated", PluginConfig { path: truncated, ..first.clone() }, "cut short"),
        ("missing", PluginConfig { path: "/nonexistent.so".into(), ..first.clone() }, "cannot be read"),
        ("wrong hash", PluginConfig { sha256: Some([0; 32]), ..first.clone() }, "the configuration demands"),
        ("panics in init", told("init", "panic"), "panicked"),
        ("wrong configuration", told("init", "no such thing"), "no such thing"),
        ("fails its self-test", told("cipher.mac", "lie"), "mac: wrong value"),
        ("user store away", told("user_store.health", "fail"), "its user_store says that it cannot work"),
        ("state store hangs", told("state_store.health", "hang"), "its state_store says that it cannot work"),
        ("issuer panics", told("issuer.health", "panic"), "its issuer says that it cannot work"),
        ("another suite", other_suite, "it lacks suite 0xff01"),
        ("only suites", PluginConfig { path: library(CIPHER), ..first.clone() }, "it lacks the component user_store"),
    ] {
        let mut config = config;
        config.deadline = Duration::from_millis(500);
        let error = host.reload(config).await.unwrap_err();
        assert!(!matches!(error, ReloadError::Lost { .. }), "{what}: {error}");
        let error = error.to_string();
        assert!(error.contains(expected) && error.contains("the former one goes on"), "{what}: {error}");
        for (kind, call) in [("user_store", "health"), ("state_store", "put_new"), ("issuer", "health")] {
            assert_eq!(make(&host, "keeps", kind, call).await, Ok(()), "{what}: {kind}.{call}");
        }
        host.suite(0xff01).unwrap().hash(b"x", &mut [0; 32]).unwrap();
        assert_eq!(host.list()[0].sha256, good.sha256, "{what}");
    }
    host.reload(first).await.unwrap();

    let unknown = host.reload(config("other", &file)).await.unwrap_err();
    assert!(matches!(unknown, ReloadError::Unknown), "{unknown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_does_not_work_cannot_be_stopped_for_another() {
    let host = Arc::new(load(misbehaving("ill", "user_store.health", "fail")).await);
    let error = host.reload(misbehaving("ill", "", "panic")).await.unwrap_err();
    assert!(matches!(error, ReloadError::Unhealthy(_)) && error.to_string().contains("restart the daemon"), "{error}");
    assert_eq!(make(&host, "ill", "user_store", "get").await, Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_call_that_does_not_end_keeps_its_store() {
    metrics();
    let directory = tempfile::tempdir().unwrap();
    let hangs = directory.path().join("hangs");
    fs::write(&hangs, b"").unwrap();
    let mut config = misbehaving("hangs", "user_store.get", "block");
    config.configuration["file"] = hangs.to_str().unwrap().into();
    config.deadline = Duration::from_millis(300);
    let host = Arc::new(load(config.clone()).await);
    let blocked = {
        let host = host.clone();
        tokio::spawn(async move { make(&host, "hangs", "user_store", "get").await })
    };
    while metric("claviger_plugin_calls_in_flight", &["plugin=\"hangs\"", "user_store.get"]) != Some(1.0) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let error = host.reload(config.clone()).await.unwrap_err();
    assert!(matches!(error, ReloadError::InUse), "{error}");
    fs::remove_file(&hangs).unwrap();
    let _ = blocked.await.unwrap();
    assert_eq!(make(&host, "hangs", "user_store", "health").await, Ok(()), "the places are free again");
    host.reload(config).await.unwrap();
}

/// Two copies of SQLite on one file in one process would not see each other's locks: what one has
/// written, the other would overwrite.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_sqlite_store_loses_nothing_and_fails_nobody() {
    let (file, directory) = copied(SQLITE);
    let mut config = config("moving-store", &file);
    let database = directory.path().join("users.db");
    config.configuration = serde_json::json!({ "path": database.to_str().unwrap(), "synchronous": "normal" });
    config.deadline = Duration::from_secs(30);
    let host = Arc::new(load(config.clone()).await);
    let (stop, writes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let (store, stop, writes) = (host.user_store("moving-store").unwrap(), stop.clone(), writes.clone());
            tokio::spawn(async move {
                let mut version = 0;
                while !stop.load(Ordering::Relaxed) {
                    let (key, value) = (format!("writer-{writer}"), version.to_string().into_bytes());
                    let put = Put { key: key.clone(), expected: version, value: value.clone(), terms: Vec::new() };
                    assert_eq!(store.put(put).await, Ok(Written::Done(version + 1)));
                    let read = store.get(&[key]).await.unwrap().remove(0).unwrap();
                    assert_eq!((read.version, read.value), (version + 1, value));
                    (version, _) = (version + 1, writes.fetch_add(1, Ordering::Relaxed));
                }
                version
            })
        })
        .collect();
    for version in 0..3 {
        update(&file, SQLITE, version);
        let seen = writes.load(Ordering::Relaxed);
        while writes.load(Ordering::Relaxed) < seen + 20 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let done = if version % 2 == 0 {
            host.reload(config.clone()).await.unwrap()
        } else {
            // The new one cannot open its file, and the former one comes back.
            let mut wrong = config.clone();
            wrong.configuration["path"] = "/nonexistent/users.db".into();
            let error = host.reload(wrong).await.unwrap_err();
            assert!(error.to_string().contains("the former one goes on"), "{error}");
            continue;
        };
        assert!(done.drained, "{done:?}");
    }
    stop.store(true, Ordering::Relaxed);
    let store = host.user_store("moving-store").unwrap();
    for (writer, task) in writers.into_iter().enumerate() {
        let version = task.await.unwrap();
        let found = store.get(&[format!("writer-{writer}")]).await.unwrap().remove(0).unwrap();
        assert_eq!(found.version, version);
    }
    drop((store, host));
    assert_eq!(load(config).await.user_store("moving-store").unwrap().health().await, Ok(()));
}

#[tokio::test]
async fn a_plugin_that_was_not_loaded_is_not_replaced() {
    let host = PluginHost::load(&[config("late", "/nonexistent.so".as_ref())], HostServices::default()).await.unwrap();
    let error = Arc::new(host).reload(config("late", &library(CIPHER))).await.unwrap_err();
    assert!(matches!(error, ReloadError::NotLoaded), "{error}");
    assert!(reason(config("late", "/nonexistent.so".as_ref())).await.contains("cannot be read"));
}
