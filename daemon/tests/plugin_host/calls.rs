//! Calls that panic, hang or fail: the host lives, and says so.

use std::time::{Duration, Instant, UNIX_EPOCH};

use claviger_daemon::plugin_host::{HostServices, PluginHost, StateSource};
use claviger_plugin_api::{
    CipherError, CounterUse, Identity, IssueRequest, PluginError, Presented, Put, Scan, SuiteInfo,
};

use crate::support::{load, load_with, log, metric, metrics, misbehaving, reason};

const STORE_CALLS: [&str; 7] = ["get", "put", "delete", "scan", "consume", "forget_counters", "health"];
const STATE_CALLS: [&str; 5] = ["put_new", "get", "update", "take", "health"];
const ISSUER_CALLS: [&str; 5] = ["issue", "verify", "revoke", "published", "health"];

#[tokio::test]
async fn a_panic_in_any_call_is_an_error_of_that_call_only() {
    metrics();
    log();
    for how in ["panic", "panic_later", "panic_twice"] {
        let calls = STORE_CALLS.iter().map(|call| ("user_store", call));
        let calls = calls.chain(STATE_CALLS.iter().map(|call| ("state_store", call)));
        for (kind, call) in calls.chain(ISSUER_CALLS.iter().map(|call| ("issuer", call))) {
            let name = format!("{how}-{kind}-{call}");
            let host = load(misbehaving(&name, &format!("{kind}.{call}"), how)).await;
            assert_eq!(make(&host, &name, kind, call).await, Err(PluginError::Panicked), "{name}");
            assert_eq!(make(&host, &name, kind, call).await, Err(PluginError::Panicked), "{name} again");
            let other = if *call == "health" { "get" } else { "health" };
            let other = if kind == "issuer" && *call == "health" { "published" } else { other };
            assert_eq!(make(&host, &name, kind, other).await, Ok(()), "{name}: {other}");
            let labels =
                [format!("plugin=\"{name}\""), format!("call=\"{kind}.{call}\""), "outcome=\"panicked\"".into()];
            let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
            assert_eq!(metric("claviger_plugin_calls_total", &labels), Some(2.0), "{name}");
            assert_eq!(metric("claviger_plugin_calls_in_flight", &labels[..2]), Some(0.0), "{name}");
        }
    }
    let log = log();
    assert!(
        log.contains("plugin call failed: the plugin panicked plugin=\"panic-issuer-issue\" call=\"issuer.issue\"")
    );
    assert!(log.contains("the plugin panicked: told to panic in user_store.get"), "{log}");
}

#[tokio::test]
async fn a_panic_in_a_cipher_call_is_an_error_of_that_call_only() {
    metrics();
    let (key, nonce) = ([1; SuiteInfo::KEY_LEN], [2; SuiteInfo::NONCE_LEN]);
    for call in ["hash", "mac", "seal", "open", "random"] {
        let name = format!("panic-{call}");
        let host = load(misbehaving(&name, &format!("cipher.{call}"), "panic")).await;
        let suite = host.suite(0xff01).unwrap();
        let run = |text: &[u8]| match call {
            "hash" => suite.hash(text, &mut [0; 32]),
            "mac" => suite.mac(&key, text, &mut [0; 32]),
            "seal" => suite.seal(&key, &nonce, text, b"abc", &mut [0; 19]),
            "random" => suite.random(&mut vec![0; text.len()]),
            _ => {
                let mut sealed = [0; 19];
                suite.seal(&key, &nonce, text, b"abc", &mut sealed).unwrap();
                suite.open(&key, &nonce, text, &sealed, &mut [0; 3])
            }
        };
        assert_eq!(run(b"panic"), Err(CipherError::Panicked), "{call}");
        assert_eq!(run(b"other text"), Ok(()), "{call}");
        let labels = [format!("plugin=\"{name}\""), format!("call=\"cipher.{call}\""), "outcome=\"panicked\"".into()];
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        assert_eq!(metric("claviger_plugin_calls_total", &labels), Some(1.0), "{call}");
    }
}

#[tokio::test]
async fn a_panic_at_the_start_keeps_the_plugin_out() {
    for (call, expected) in [
        ("init", "the plugin panicked in init"),
        ("cipher.info", "the plugin delivered a suite without a number or a name"),
    ] {
        let reason = reason(misbehaving("start", call, "panic")).await;
        assert!(reason.contains(expected), "{call}: {reason}");
    }
    let host = load(misbehaving("no-kind", "issuer.kind", "panic")).await;
    assert!(host.issuer("no-kind").is_none() && host.user_store("no-kind").is_some());
    let mut unknown = misbehaving("unknown-key", "", "panic");
    unknown.configuration = serde_json::json!({ "colour": "blue" });
    let reason = reason(unknown).await;
    assert!(reason.starts_with("configuration: unknown field `colour`"), "{reason}");
}

#[tokio::test]
async fn a_panic_while_dropping_ends_in_the_plugin() {
    drop(load(misbehaving("drop", "drop", "panic")).await);

    let mut config = misbehaving("drop-future", "user_store.get", "panic_dropped");
    config.deadline = Duration::from_millis(50);
    let host = load(config).await;
    assert_eq!(make(&host, "drop-future", "user_store", "get").await, Err(PluginError::DeadlineExceeded));
    assert_eq!(make(&host, "drop-future", "user_store", "health").await, Ok(()));
}

#[tokio::test]
async fn a_call_that_hangs_ends_at_the_deadline_and_one_that_is_dropped_is_counted() {
    metrics();
    let mut config = misbehaving("hang", "user_store.scan", "hang");
    config.deadline = Duration::from_millis(80);
    let host = load(config).await;
    let start = Instant::now();
    assert_eq!(make(&host, "hang", "user_store", "scan").await, Err(PluginError::DeadlineExceeded));
    assert!((80..2000).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());

    let call = make(&host, "hang", "user_store", "scan");
    assert!(tokio::time::timeout(Duration::from_millis(10), call).await.is_err());
    for outcome in ["outcome=\"deadline\"", "outcome=\"cancelled\""] {
        let labels = ["plugin=\"hang\"", "call=\"user_store.scan\"", outcome];
        assert_eq!(metric("claviger_plugin_calls_total", &labels), Some(1.0), "{outcome}");
    }
    let labels = ["plugin=\"hang\"", "call=\"user_store.scan\""];
    assert_eq!(metric("claviger_plugin_calls_in_flight", &labels), Some(0.0));
}

#[tokio::test]
async fn an_error_crosses_as_one_line() {
    let host = load(misbehaving("fail", "user_store.get", "fail")).await;
    let answer = make(&host, "fail", "user_store", "get").await;
    assert_eq!(answer, Err(PluginError::Unavailable("two lines".into())));
    let health = load(misbehaving("fail-health", "user_store.health", "fail")).await.health().await;
    let problems: Vec<_> = health.iter().map(|h| (h.component, h.problem.as_deref())).collect();
    assert_eq!(problems[0], ("user_store", Some("unavailable: two lines")));
    assert_eq!(problems[1..], [("state_store", None), ("issuer", None)]);
}

#[tokio::test]
async fn a_state_store_that_panics_is_an_error_of_the_issuer_too() {
    let state = misbehaving("bad-state", "state_store.put_new", "panic");
    let issuer = misbehaving("on-bad-state", "", "panic");
    let services = HostServices { state: StateSource::Plugin("bad-state".into()), ..HostServices::default() };
    let host = PluginHost::load(&[issuer, state], services).await.unwrap();
    assert_eq!(make(&host, "on-bad-state", "issuer", "issue").await, Err(PluginError::Panicked));
    assert_eq!(make(&host, "on-bad-state", "issuer", "health").await, Ok(()));
    let alone = load_with(misbehaving("no-state", "", "panic"), HostServices::default()).await;
    let answer = make(&alone, "no-state", "issuer", "issue").await;
    assert_eq!(answer, Err(PluginError::Unavailable("there is no state store".into())));
}

/// Makes a call with arguments that are good, and forgets its value.
pub(crate) async fn make(host: &PluginHost, plugin: &str, kind: &str, call: &str) -> Result<(), PluginError> {
    match kind {
        "user_store" => {
            let store = host.user_store(plugin).unwrap();
            let put = Put { key: format!("k{call}"), expected: 0, value: vec![1], terms: vec![] };
            let counter = CounterUse { credential: [0; 16], epoch: 1, counter: 3, nonce: [0; 32], time_ms: 0 };
            match call {
                "get" => store.get(&["a".into()]).await.map(drop),
                "put" => store.put(put).await.map(drop),
                "delete" => store.delete("a", 0).await.map(drop),
                "scan" => store.scan(Scan { term: "t".into(), after: None, limit: 1 }).await.map(drop),
                "consume" => store.consume(&[counter]).await.map(drop),
                "forget_counters" => store.forget_counters([0; 16]).await,
                _ => store.health().await,
            }
        }
        "state_store" => {
            let store = host.state_store(plugin).unwrap();
            let second = Duration::from_secs(1);
            match call {
                "put_new" => store.put_new("a", b"1", second).await.map(drop),
                "get" => store.get("a").await.map(drop),
                "update" => store.update("a", b"1", b"2", second).await.map(drop),
                "take" => store.take("a").await.map(drop),
                _ => store.health().await,
            }
        }
        _ => {
            let issuer = host.issuer(plugin).unwrap();
            let identity = Identity::new("s".into(), "alice".into(), [0; 16], UNIX_EPOCH, "{}".into());
            let minute = Duration::from_secs(60);
            let presented = Presented::new("s".into(), "GET".into(), "https".into(), "h".into(), "/".into(), vec![]);
            match call {
                "issue" => issuer.issue(IssueRequest::new(identity, minute, minute)).await.map(drop),
                "verify" => issuer.verify(&presented).await.map(drop),
                "revoke" => issuer.revoke(b"alice").await.map(drop),
                "published" => issuer.published().await.map(drop),
                _ => issuer.health().await,
            }
        }
    }
}
