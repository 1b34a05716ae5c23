//! The suite of key custody.

use std::{future::Future, sync::Arc};

use aws_lc_rs::hmac;

use super::{Check, at_once, check::checks};
use crate::{KeyCustody, KeyId, MAX_TOKEN, MacRequest, PluginError, SecretBytes};

/// Checks key custody against the contract of the trait. `make` gives a new one
/// each time, without keys and not initialised yet; each has room for 300 keys.
///
/// # Panics
/// With what was expected, where the custody does not keep the contract.
pub async fn custody<M, F>(make: M)
where
    M: Fn() -> F,
    F: Future<Output = Arc<dyn KeyCustody>>,
{
    for check in uninitialised() {
        check.run(&make).await;
    }
    let custody = make().await;
    for check in initialised() {
        check.run(&|| async { custody.clone() }).await;
    }
}

/// The checks of [`custody`] one by one; each initialises the custody that it is given.
pub fn custody_checks() -> Vec<Check<Arc<dyn KeyCustody>>> {
    [uninitialised(), initialised()].concat()
}

fn uninitialised() -> Vec<Check<Arc<dyn KeyCustody>>> {
    checks!("keys", [it_must_be_initialised])
}

fn initialised() -> Vec<Check<Arc<dyn KeyCustody>>> {
    checks!(
        "keys",
        [
            macs_are_those_of_the_key,
            a_batch_is_answered_in_order,
            destroyed_keys_are_gone,
            pages_of_ids_join,
            derived_secrets_are_stable_and_apart,
            sizes_are_checked,
            many_callers_do_not_mix,
            a_dropped_call_does_no_harm,
            it_is_healthy,
        ]
    )
}

/// Leaves alone what is there.
async fn ready(custody: &Arc<dyn KeyCustody>) {
    custody.initialise().await.expect("initialise");
}

async fn it_is_healthy(custody: Arc<dyn KeyCustody>) {
    ready(&custody).await;
    custody.health().await.expect("it is healthy");
}

/// The key of this number; its id is as random as the host's.
fn key(number: u16) -> (KeyId, Vec<u8>) {
    let hash = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA384, b"a key of the suite"), &number.to_be_bytes());
    let (id, key) = hash.as_ref().split_at(16);
    (id.try_into().expect("16 bytes"), key.to_vec())
}

/// What a library computes.
fn expected(key: &[u8], hash_len: usize, message: &[u8]) -> Vec<u8> {
    let algorithm = if hash_len == 48 { hmac::HMAC_SHA384 } else { hmac::HMAC_SHA256 };
    hmac::sign(&hmac::Key::new(algorithm, key), message).as_ref().to_vec()
}

async fn keep(custody: &Arc<dyn KeyCustody>, number: u16) -> (KeyId, Vec<u8>, Vec<u8>) {
    let (id, key) = key(number);
    let token = custody.keep(id, SecretBytes::copy_from(&key)).await.expect("keep");
    assert!(token.len() <= MAX_TOKEN, "a token of {} bytes", token.len());
    assert!(!token.windows(8).any(|part| key.windows(8).any(|of_key| part == of_key)), "the token shows the key");
    (id, key, token)
}

fn request(key: KeyId, token: &[u8], hash_len: usize, message: &[u8]) -> MacRequest {
    MacRequest { key, token: token.to_vec(), hash_len, message: message.to_vec() }
}

async fn macs(custody: &Arc<dyn KeyCustody>, requests: &[MacRequest]) -> Vec<Option<Vec<u8>>> {
    let macs = custody.mac(requests).await.expect("mac");
    assert_eq!(macs.len(), requests.len(), "an answer for each request");
    macs.into_iter().map(|mac| mac.map(|mac| mac.expose().to_vec())).collect()
}

async fn it_must_be_initialised(custody: Arc<dyn KeyCustody>) {
    let (id, key) = key(0);
    unavailable(custody.keep(id, SecretBytes::copy_from(&key)).await, "keep");
    unavailable(custody.mac(&[request(id, b"", 32, b"")]).await, "mac");
    unavailable(custody.destroy(&[id]).await, "destroy");
    unavailable(custody.keys(None, 10).await, "keys");
    unavailable(custody.derive(b"").await, "derive");
    unavailable(custody.health().await, "health");
    custody.status().await.expect("its status can be seen");
    custody.initialise().await.expect("initialise");
    custody.health().await.expect("it is healthy from then on");
    let secret = custody.derive(b"context").await.expect("derive");
    let line = custody.initialise().await.expect("a second time");
    assert!(!line.is_empty() && line.lines().count() == 1, "one line for the operator: {line:?}");
    let again = custody.derive(b"context").await.expect("derive");
    assert_eq!(secret.expose(), again.expose(), "what is there is left alone");
}

fn unavailable<T: std::fmt::Debug>(answer: Result<T, PluginError>, what: &str) {
    match answer {
        Err(PluginError::Unavailable(text)) => assert!(text.contains("clavigerd hsm init"), "{what}: {text}"),
        other => panic!("{what} before it is initialised: {other:?}"),
    }
}

async fn macs_are_those_of_the_key(custody: Arc<dyn KeyCustody>) {
    let custody = &custody;
    ready(custody).await;
    let (id, key, token) = keep(custody, 0).await;
    let large = vec![0x5a; 8 * 1024];
    for message in [&b""[..], b"m", &[0; 64], &large] {
        for hash_len in [32, 48] {
            let mac = macs(custody, &[request(id, &token, hash_len, message)]).await;
            let expected = expected(&key, hash_len, message);
            assert_eq!(mac, [Some(expected)], "{} bytes, hash of {hash_len}", message.len());
        }
    }
    let (unknown, _) = self::key(1);
    assert_eq!(macs(custody, &[request(unknown, b"", 32, b"m")]).await, [None], "there is no such key");
    // The other request of the batch does not suffer from it.
    let both = [request(unknown, &token, 32, b"m"), request(id, &token, 32, b"m")];
    let answers = [None, Some(expected(&key, 32, b"m"))];
    assert_eq!(macs(custody, &both).await, answers, "the token of another key is no key");
}

async fn a_batch_is_answered_in_order(custody: Arc<dyn KeyCustody>) {
    let custody = &custody;
    ready(custody).await;
    assert_eq!(macs(custody, &[]).await, [], "no requests, no answers");
    let mut kept = Vec::new();
    for number in 10..30 {
        kept.push(keep(custody, number).await);
    }
    let (unknown, _) = key(9);
    let mut requests = Vec::new();
    let mut answers = Vec::new();
    for number in 0..1000_usize {
        let message = number.to_be_bytes();
        let hash_len = if number % 3 == 0 { 48 } else { 32 };
        if number % 10 == 7 {
            requests.push(request(unknown, b"", hash_len, &message));
            answers.push(None);
        } else {
            let (id, key, token) = &kept[number * 7 % kept.len()];
            requests.push(request(*id, token, hash_len, &message));
            answers.push(Some(expected(key, hash_len, &message)));
        }
    }
    // A module in hardware may need more than one call's time for a thousand.
    for (requests, answers) in requests.chunks(250).zip(answers.chunks(250)) {
        assert!(macs(custody, requests).await == answers, "each answer stands in its request's place");
    }
}

async fn destroyed_keys_are_gone(custody: Arc<dyn KeyCustody>) {
    let custody = &custody;
    ready(custody).await;
    let (first, ..) = keep(custody, 40).await;
    let (second, key, token) = keep(custody, 41).await;
    let (unknown, _) = self::key(42);
    custody.destroy(&[]).await.expect("destroy none");
    custody.destroy(&[first, unknown]).await.expect("one that is not there is destroyed already");
    assert_eq!(macs(custody, &[request(first, b"", 32, b"m")]).await, [None], "it is gone");
    let left = macs(custody, &[request(second, &token, 32, b"m")]).await;
    assert_eq!(left, [Some(expected(&key, 32, b"m"))], "the other one is there");
    custody.destroy(&[first]).await.expect("destroyed twice");
    let (id, key, token) = keep(custody, 40).await;
    let made_anew = macs(custody, &[request(id, &token, 32, b"m")]).await;
    assert_eq!(made_anew, [Some(expected(&key, 32, b"m"))], "an id may be used again");
}

async fn pages_of_ids_join(custody: Arc<dyn KeyCustody>) {
    let custody = &custody;
    ready(custody).await;
    let before = custody.keys(None, 1000).await.expect("keys");
    let (id, _, token) = keep(custody, 50).await;
    for number in 51..60 {
        keep(custody, number).await;
    }
    let all = custody.keys(None, 1000).await.expect("keys");
    assert!(all.is_sorted_by(|a, b| a < b), "in bytewise order, none twice");
    if token.is_empty() {
        assert_eq!(all.len(), before.len() + 10, "all keys that it holds");
        assert!(all.contains(&id), "also this one");
    } else {
        assert_eq!(all, [] as [KeyId; 0], "the tokens hold the keys");
    }
    for limit in [1, 3, all.len().max(1), 1000] {
        let (mut joined, mut after) = (Vec::<KeyId>::new(), None);
        loop {
            let page = custody.keys(after, limit).await.expect("keys");
            joined.extend(&page);
            after = page.last().copied();
            if page.len() < limit {
                break;
            }
        }
        assert_eq!(joined, all, "pages of {limit}");
    }
}

async fn derived_secrets_are_stable_and_apart(custody: Arc<dyn KeyCustody>) {
    let custody = &custody;
    ready(custody).await;
    let mut secrets = Vec::new();
    let long = [b'x'; 255];
    for context in [&b""[..], b"\0", b"a", b"b", &long[..254], &long] {
        let secret = custody.derive(context).await.expect("derive");
        assert_eq!(secret.expose().len(), 32);
        let again = custody.derive(context).await.expect("derive");
        assert_eq!(secret.expose(), again.expose(), "the same each time");
        secrets.push(secret.expose().to_vec());
    }
    secrets.sort();
    secrets.dedup();
    assert_eq!(secrets.len(), 6, "contexts are apart");
}

async fn sizes_are_checked(custody: Arc<dyn KeyCustody>) {
    let custody = &custody;
    ready(custody).await;
    let (id, _, token) = keep(custody, 60).await;
    for len in [0, 31, 33] {
        invalid(custody.keep([1; 16], SecretBytes::zeroed(len)).await, "a key of the wrong length");
    }
    for hash_len in [0, 31, 33, 64] {
        invalid(custody.mac(&[request(id, &token, hash_len, b"m")]).await, "a hash of the wrong length");
    }
    invalid(custody.mac(&[request(id, &token, 32, &[0; 8 * 1024 + 1])]).await, "a message that is too long");
    invalid(custody.mac(&[request(id, &[0; MAX_TOKEN + 1], 32, b"m")]).await, "a token that is too long");
    invalid(custody.mac(&vec![request(id, &token, 32, b"m"); 1001]).await, "1001 requests");
    invalid(custody.destroy(&vec![[1; 16]; 1001]).await, "1001 ids");
    invalid(custody.derive(&[0; 256]).await, "a context that is too long");
    for limit in [0, 1001] {
        invalid(custody.keys(None, limit).await, "a page of 0 or 1001");
    }
}

fn invalid<T: std::fmt::Debug>(answer: Result<T, PluginError>, what: &str) {
    assert!(matches!(answer, Err(PluginError::InvalidCall(_))), "{what} is an invalid call, not {answer:?}");
}

async fn many_callers_do_not_mix(custody: Arc<dyn KeyCustody>) {
    let custody = &custody;
    ready(custody).await;
    at_once(32, |number| {
        let custody = custody.clone();
        async move {
            let (id, key, token) = keep(&custody, 100 + number as u16).await;
            for round in 0..5_u8 {
                let requests = [request(id, &token, 32, &[round]), request(id, &token, 48, &[round])];
                let answers = [Some(expected(&key, 32, &[round])), Some(expected(&key, 48, &[round]))];
                assert_eq!(macs(&custody, &requests).await, answers, "key {number}, round {round}");
            }
            if number % 2 == 0 {
                custody.destroy(&[id]).await.expect("destroy");
                assert_eq!(macs(&custody, &[request(id, b"", 32, b"m")]).await, [None], "key {number} is gone");
            }
        }
    })
    .await;
}

/// Calls whose futures are polled once and dropped.
async fn a_dropped_call_does_no_harm(custody: Arc<dyn KeyCustody>) {
    let custody = &custody;
    ready(custody).await;
    let (id, key, token) = keep(custody, 200).await;
    for number in 201..230 {
        let (dropped, key) = self::key(number);
        let call = custody.keep(dropped, SecretBytes::copy_from(&key));
        let _ = futures_util::future::select(call, std::future::ready(())).await;
        let requests = [request(id, &token, 32, b"m")];
        let call = custody.mac(&requests);
        let _ = futures_util::future::select(call, std::future::ready(())).await;
    }
    let mac = macs(custody, &[request(id, &token, 32, b"m")]).await;
    assert_eq!(mac, [Some(expected(&key, 32, b"m"))], "what is asked later is answered");
    for number in 201..230 {
        let (dropped, key) = self::key(number);
        let mac = macs(custody, &[request(dropped, b"", 32, b"m")]).await;
        assert!(mac == [None] || mac == [Some(expected(&key, 32, b"m"))], "a dropped key is whole or not there");
    }
}
