//! Values cross unchanged, and answers against the contract do not get through.

use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use claviger_daemon::plugin_host::{HostServices, PluginHost, StateSource};
use claviger_plugin_api::{
    CipherError, CounterUse, Cursor, Identity, IndexTerm, IssueRequest, KeyIssuer, KeyKind, PluginError, Presented,
    Put, Record, Scan, UserStore, Verdict, Verified, Written,
};

use crate::support::{CIPHER, config, library, load, misbehaving, reason};

#[tokio::test]
async fn records_cross_unchanged() {
    let store = load(misbehaving("records", "", "panic")).await.user_store("records").unwrap();
    let put = |key: &str, expected| Put { key: key.into(), expected, value: vec![0, 255, 1], terms: terms(key) };
    for key in ["c", "a", "é"] {
        assert_eq!(store.put(put(key, 0)).await, Ok(Written::Done(1)));
    }
    assert_eq!(store.put(put("a", 0)).await, Ok(Written::Conflict(1)));
    assert_eq!(store.put(put("a", 1)).await, Ok(Written::Done(2)));
    let record = |key: &str, version| Record { key: key.into(), version, value: vec![0, 255, 1], terms: terms(key) };
    let found = store.get(&["é".into(), "x".into(), "a".into()]).await;
    assert_eq!(found, Ok(vec![Some(record("é", 1)), None, Some(record("a", 2))]));

    let first = store.scan(Scan { term: "user".into(), after: None, limit: 2 }).await.unwrap();
    assert_eq!(first.records, [record("a", 2), record("c", 1)]);
    assert_eq!(first.next, Some(Cursor { value: "user c".into(), key: "c".into() }));
    let last = store.scan(Scan { term: "user".into(), after: first.next, limit: 2 }).await.unwrap();
    assert_eq!((last.records, last.next), (vec![record("é", 1)], None));

    assert_eq!(store.delete("a", 1).await, Ok(Written::Conflict(2)));
    assert_eq!(store.delete("a", 2).await, Ok(Written::Done(0)));
    let uses =
        [7, 0, 1, 2].map(|counter| CounterUse { credential: [1; 16], epoch: 9, counter, nonce: [3; 32], time_ms: 0 });
    let verdicts = [Verdict::Fresh, Verdict::TooOld, Verdict::SameNonce, Verdict::OtherNonce];
    assert_eq!(store.consume(&uses).await, Ok(verdicts.to_vec()));
    assert_eq!(store.forget_counters([1; 16]).await, Ok(()));
}

#[tokio::test]
async fn states_and_keys_cross_unchanged() {
    let (host, issuer) = issuer("keys", "", "panic").await;
    assert_eq!(issuer.kind(), KeyKind::Opaque);
    let issued = issuer.issue(request()).await.unwrap();
    assert_eq!(issued.key.expose(), b"alice");
    assert_eq!((issued.key_id.as_slice(), issued.lifetime), (&b"alice"[..], Duration::from_secs(60)));

    assert_eq!(issuer.verify(&presented(&[])).await, Ok(Verified::Absent));
    assert_eq!(issuer.verify(&presented(&[b"bob"])).await, Ok(Verified::Refused));
    assert_eq!(issuer.verify(&presented(&[b"alice", b"alice"])).await, Ok(Verified::Absent));
    let Ok(Verified::Session(session)) = issuer.verify(&presented(&[b"alice"])).await else { panic!("no session") };
    assert_eq!((session.identity.subject.as_str(), session.identity.auth_id), ("alice", [7; 16]));
    assert_eq!(session.identity.auth_time, UNIX_EPOCH + Duration::new(1, 2));
    assert!(session.first_use);

    let state = host.state_store("keys-state").unwrap();
    assert_eq!(state.get("alice").await, Ok(Some(b"alice".to_vec())));
    assert_eq!(state.update("alice", b"x", b"y", Duration::from_secs(1)).await, Ok(false));
    assert_eq!(issuer.revoke(b"alice").await, Ok(true));
    assert_eq!(issuer.revoke(b"alice").await, Ok(false));
    assert_eq!(state.take("alice").await, Ok(None));
    assert_eq!(issuer.published().await, Ok(Some("x".into())));
}

#[tokio::test]
async fn the_suites_of_the_plugin_are_the_registered_ones() {
    let host = load(config("aws-lc", &library(CIPHER))).await;
    let (key, nonce) = ([1; 32], [2; 12]);
    for id in host.suites() {
        let suite = host.suite(id).unwrap();
        assert_eq!(suite.info().id, id);
        let mut sealed = [0; 21];
        suite.seal(&key, &nonce, b"aad", b"hello", &mut sealed).unwrap();
        let algorithm = match id & 0xff {
            1 => &aws_lc_rs::aead::AES_256_GCM,
            2 => &aws_lc_rs::aead::AES_256_GCM_SIV,
            _ => &aws_lc_rs::aead::CHACHA20_POLY1305,
        };
        let oracle = aws_lc_rs::aead::LessSafeKey::new(aws_lc_rs::aead::UnboundKey::new(algorithm, &key).unwrap());
        let nonce_of = aws_lc_rs::aead::Nonce::assume_unique_for_key(nonce);
        let mut copy = sealed;
        let opened = oracle.open_in_place(nonce_of, aws_lc_rs::aead::Aad::from(b"aad"), &mut copy).unwrap();
        assert_eq!(opened, b"hello");
        sealed[0] ^= 1;
        let mut out = [9; 5];
        assert_eq!(suite.open(&key, &nonce, b"aad", &sealed, &mut out), Err(CipherError::Rejected));
        assert_eq!(out, [0; 5]);
        assert_eq!(suite.open(&key, &nonce, b"aad", &sealed[..15], &mut []), Err(CipherError::BadSize));
        assert_eq!(suite.open(&key, &nonce, b"aad", &sealed, &mut [0; 4]), Err(CipherError::BadSize));
        assert_eq!(suite.seal(&key[1..], &nonce, b"", b"", &mut [0; 16]), Err(CipherError::BadSize));
        assert_eq!(suite.hash(b"", &mut [0; 31]), Err(CipherError::BadSize));
    }
}

#[tokio::test]
async fn a_rejected_text_leaves_nothing_even_when_the_plugin_does() {
    let suite = load(misbehaving("leaves", "", "panic")).await.suite(0xff01).unwrap();
    let mut out = [1; 4];
    assert_eq!(suite.open(&[1; 32], &[2; 12], b"", &[0; 20], &mut out), Err(CipherError::Rejected));
    assert_eq!(out, [0; 4]);
}

#[tokio::test]
async fn a_suite_that_fails_its_test_keeps_the_plugin_out() {
    let line = reason(misbehaving("wrong-mac", "cipher.mac", "lie")).await;
    assert_eq!(line, "the plugin delivered suite 0xff01, which fails its self-test: mac: wrong value");
    let mut wrong = misbehaving("wrong-hash", "", "panic");
    wrong.configuration = serde_json::json!({ "suite": 0x0101 });
    assert_eq!(reason(wrong).await, "the plugin delivered suite 0x0101 with a hash of 32 bytes");
}

#[tokio::test]
async fn a_store_that_lies_is_corrupt() {
    for (call, fault) in [
        ("get", "a record under another key than asked"),
        ("put", "version 2 after a write, where 1 is due"),
        ("delete", "a conflict with version 1, which was expected"),
        ("scan", "2 records where at most 1 were asked"),
        ("consume", "0 verdicts on 1 uses of counters"),
    ] {
        let name = format!("lie-{call}");
        let store = load(misbehaving(&name, &format!("user_store.{call}"), "lie")).await.user_store(&name).unwrap();
        let answer = lie(store, call).await;
        assert_eq!(answer, Err(PluginError::Corrupt(format!("plugin {name}: {fault}"))), "{call}");
    }
    let state = load(misbehaving("lie-state", "state_store.get", "lie")).await.state_store("lie-state").unwrap();
    assert!(matches!(state.get("a").await, Err(PluginError::Corrupt(text)) if text.contains("32769 bytes")));
}

#[tokio::test]
async fn an_issuer_that_lies_is_corrupt() {
    let (_host, bad) = issuer("lie-issue", "issuer.issue", "lie").await;
    assert!(matches!(bad.issue(request()).await, Err(PluginError::Corrupt(text)) if text.contains("a key of 0 bytes")));
    let (_host, bad) = issuer("lie-verify", "issuer.verify", "lie").await;
    bad.issue(request()).await.unwrap();
    let answer = bad.verify(&presented(&[b"alice"])).await;
    assert_eq!(answer, Err(PluginError::Corrupt("plugin lie-verify: a session of another service".into())));
    let (_host, bad) = issuer("lie-published", "issuer.published", "lie").await;
    assert!(matches!(bad.published().await, Err(PluginError::Corrupt(_))));
}

async fn lie(store: Arc<dyn UserStore>, call: &str) -> Result<(), PluginError> {
    let put = |key: &str| Put { key: key.into(), expected: 0, value: vec![], terms: terms(key) };
    if call == "put" {
        return store.put(put("a")).await.map(drop);
    }
    store.put(put("a")).await?;
    store.put(put("b")).await?;
    match call {
        "get" => store.get(&["a".into(), "b".into()]).await.map(drop),
        "delete" => store.delete("a", 1).await.map(drop),
        "scan" => store.scan(Scan { term: "user".into(), after: None, limit: 1 }).await.map(drop),
        _ => {
            let counter = CounterUse { credential: [0; 16], epoch: 1, counter: 3, nonce: [0; 32], time_ms: 0 };
            store.consume(&[counter]).await.map(drop)
        }
    }
}

/// An issuer that keeps its keys in the state store of another plugin.
async fn issuer(name: &str, call: &str, how: &str) -> (PluginHost, Arc<dyn KeyIssuer>) {
    let state = format!("{name}-state");
    let plugins = [misbehaving(name, call, how), misbehaving(&state, "", "panic")];
    let services = HostServices { state: StateSource::Plugin(state), ..HostServices::default() };
    let host = PluginHost::load(&plugins, services).await.unwrap();
    let issuer = host.issuer(name).unwrap();
    (host, issuer)
}

fn request() -> IssueRequest {
    let identity = Identity::new("shop".into(), "alice".into(), [1; 16], UNIX_EPOCH, "{}".into());
    IssueRequest::new(identity, Duration::from_secs(60), Duration::from_secs(10))
}

fn presented(keys: &[&[u8]]) -> Presented {
    let headers = keys.iter().map(|key| ("authorization".to_owned(), key.to_vec())).collect();
    Presented::new("shop".into(), "GET".into(), "https".into(), "shop.example".into(), "/".into(), headers)
}

fn terms(key: &str) -> Vec<IndexTerm> {
    vec![
        IndexTerm { name: "group".into(), value: "all".into() },
        IndexTerm { name: "user".into(), value: format!("user {key}") },
    ]
}
