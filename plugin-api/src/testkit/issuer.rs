//! The suite of issuers of service authentication keys.

use std::{collections::HashSet, future::Future, sync::Arc, time::Duration};

use super::{
    Check, StoppedClock, at_once,
    check::{self, checks},
};
use crate::{Identity, IssueRequest, IssuedKey, KeyIssuer, KeyKind, Presented, Session, Verified};

const SERVICE: &str = "shop.example";
const LIFETIME: Duration = Duration::from_secs(3600);
const PENDING: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

/// An issuer, and the clock that it goes by.
type Made = (Arc<dyn KeyIssuer>, StoppedClock);

/// Checks an issuer against the contract of the trait. `make` gives a new one
/// each time, with the clock it goes by; its state store is fresh, goes by the
/// same clock and may be a [`MemoryState`](super::MemoryState).
///
/// Keys of [`KeyKind::Mac`] are issued and not presented: how a request is
/// signed is beyond this suite.
///
/// # Panics
/// With what was expected, where the issuer does not keep the contract.
pub async fn issuer<M, F>(make: M)
where
    M: Fn() -> F,
    F: Future<Output = (Arc<dyn KeyIssuer>, StoppedClock)>,
{
    check::all(&issuer_checks(), &make).await;
}

/// The checks of [`issuer`] one by one.
pub fn issuer_checks() -> Vec<Check<(Arc<dyn KeyIssuer>, StoppedClock)>> {
    checks!(
        "keys",
        [
            keys_have_the_form_of_their_kind,
            keys_do_not_repeat,
            a_key_stands_for_its_session,
            a_key_is_good_at_its_service_alone,
            an_unused_key_ends_when_it_is_not_used_in_time,
            a_used_key_ends_with_its_lifetime,
            a_revoked_key_is_refused,
            requests_without_a_key_have_none,
            garbled_keys_are_no_sessions,
            of_many_first_uses_one_is_the_first,
            many_callers_do_not_mix,
            large_identities_come_back,
            it_is_healthy,
        ]
    )
}

fn identity(subject: &str, clock: &StoppedClock) -> Identity {
    let attributes = r#"{"groups":["staff"]}"#.to_owned();
    Identity::new(SERVICE.to_owned(), subject.to_owned(), [7; 16], clock.now() - SECOND, attributes)
}

async fn issue(issuer: &Arc<dyn KeyIssuer>, identity: Identity) -> IssuedKey {
    issuer.issue(IssueRequest::new(identity, LIFETIME, PENDING)).await.expect("issue")
}

fn request(service: &str, headers: Vec<(String, Vec<u8>)>) -> Presented {
    let [method, scheme, authority, target] = ["GET", "https", SERVICE, "/a?b=c"].map(str::to_owned);
    Presented::new(service.to_owned(), method, scheme, authority, target, headers)
}

/// A request that presents a key.
fn bearer(service: &str, key: &[u8]) -> Presented {
    request(service, vec![("authorization".to_owned(), [b"Bearer ", key].concat())])
}

async fn verify(issuer: &Arc<dyn KeyIssuer>, presented: &Presented) -> Verified {
    issuer.verify(presented).await.expect("verify")
}

async fn session(issuer: &Arc<dyn KeyIssuer>, key: &IssuedKey) -> Session {
    match verify(issuer, &bearer(SERVICE, key.key.expose())).await {
        Verified::Session(session) => session,
        other => panic!("a good key is a session, not {other:?}"),
    }
}

async fn refused(issuer: &Arc<dyn KeyIssuer>, key: &IssuedKey, what: &str) {
    let answer = verify(issuer, &bearer(SERVICE, key.key.expose())).await;
    assert_eq!(answer, Verified::Refused, "{what} is refused");
}

/// Whether keys of this issuer are text in an `Authorization` header.
fn presents(issuer: &Arc<dyn KeyIssuer>) -> bool {
    issuer.kind() != KeyKind::Mac
}

async fn keys_have_the_form_of_their_kind((issuer, clock): Made) {
    for lifetime in [SECOND, LIFETIME, Duration::from_millis(90_500), Duration::from_secs(30 * 86_400)] {
        let request = IssueRequest::new(identity("alice", &clock), lifetime, PENDING);
        let issued = issuer.issue(request).await.expect("issue");
        assert_eq!(issued.kind, issuer.kind(), "the kind of a key is that of its issuer");
        assert!((1..=64).contains(&issued.key_id.len()), "a public name of {} bytes; 1 to 64", issued.key_id.len());
        let whole = issued.lifetime.subsec_nanos() == 0 && !issued.lifetime.is_zero() && issued.lifetime <= lifetime;
        assert!(whole, "a lifetime of whole seconds, at most {lifetime:?}: {:?}", issued.lifetime);
        let key = issued.key.expose();
        assert!((16..=16_384).contains(&key.len()), "a key of {} bytes", key.len());
        if presents(&issuer) {
            assert!(key.iter().all(u8::is_ascii_graphic), "the key goes into a header");
        } else {
            assert_eq!(key.len(), 32, "a MAC key has 32 bytes");
        }
        let shown = key.windows(8).any(|part| issued.key_id.windows(8).any(|of_name| part == of_name));
        assert!(!shown, "the public name shows the key");
    }
}

async fn keys_do_not_repeat((issuer, clock): Made) {
    let (mut keys, mut names) = (HashSet::new(), HashSet::new());
    for _ in 0..200 {
        let issued = issue(&issuer, identity("alice", &clock)).await;
        assert!(keys.insert(issued.key.expose().to_vec()), "of 200 keys no two are alike");
        assert!(names.insert(issued.key_id), "nor two public names");
    }
}

async fn a_key_stands_for_its_session((issuer, clock): Made) {
    if !presents(&issuer) {
        return;
    }
    let (alice, bob) = (identity("alice", &clock), identity("bob", &clock));
    let (of_alice, of_bob) = (issue(&issuer, alice.clone()).await, issue(&issuer, bob.clone()).await);
    clock.pass(SECOND);
    let found = session(&issuer, &of_alice).await;
    assert_eq!(found.identity, alice, "who signed on");
    assert_eq!(found.key_id, of_alice.key_id, "the key's public name");
    assert!(found.first_use, "the first use is the first");
    let ends = clock.now() + of_alice.lifetime;
    assert_eq!(found.expires, ends, "a key lives for its lifetime from its first use on");
    clock.pass(SECOND);
    let again = session(&issuer, &of_alice).await;
    assert_eq!(again, Session { first_use: false, ..found }, "a second use changes nothing");
    assert_eq!(session(&issuer, &of_bob).await.identity, bob, "another key, another session");
}

async fn a_key_is_good_at_its_service_alone((issuer, clock): Made) {
    if !presents(&issuer) {
        return;
    }
    let issued = issue(&issuer, identity("alice", &clock)).await;
    for service in ["other.example", "", "shop.exampl", "shop.example.", "SHOP.EXAMPLE"] {
        let answer = verify(&issuer, &bearer(service, issued.key.expose())).await;
        assert_eq!(answer, Verified::Refused, "at the service {service:?}");
    }
    assert!(session(&issuer, &issued).await.first_use, "what was refused was no use");
}

async fn an_unused_key_ends_when_it_is_not_used_in_time((issuer, clock): Made) {
    if !presents(&issuer) {
        return;
    }
    let (early, late) =
        (issue(&issuer, identity("alice", &clock)).await, issue(&issuer, identity("bob", &clock)).await);
    clock.pass(PENDING - SECOND);
    assert!(session(&issuer, &early).await.first_use, "just in time");
    clock.pass(SECOND * 2);
    refused(&issuer, &late, "a key that nobody used in time").await;
    clock.pass(PENDING);
    session(&issuer, &early).await;
}

async fn a_used_key_ends_with_its_lifetime((issuer, clock): Made) {
    if !presents(&issuer) {
        return;
    }
    let issued = issue(&issuer, identity("alice", &clock)).await;
    session(&issuer, &issued).await;
    clock.pass(issued.lifetime - SECOND);
    session(&issuer, &issued).await;
    clock.pass(SECOND * 2);
    refused(&issuer, &issued, "a key after its lifetime (by the clock of the Context)").await;
}

async fn a_revoked_key_is_refused((issuer, clock): Made) {
    let mut keys = Vec::new();
    for subject in ["unused", "used", "other"] {
        keys.push(issue(&issuer, identity(subject, &clock)).await);
    }
    if presents(&issuer) {
        session(&issuer, &keys[1]).await;
    }
    for key in &keys[..2] {
        assert!(issuer.revoke(&key.key_id).await.expect("revoke"), "a key that was issued can be revoked");
        if presents(&issuer) {
            refused(&issuer, key, "a revoked key").await;
        }
        assert!(!issuer.revoke(&key.key_id).await.expect("revoke"), "a revoked key is not known any more");
    }
    if presents(&issuer) {
        session(&issuer, &keys[2]).await;
    }
    for unknown in [&b""[..], b"x", &[0; 16], &[0xff; 64], &[b'a'; 1000], keys[2].key.expose()] {
        assert!(!issuer.revoke(unknown).await.expect("revoke"), "a name that nobody gave: {} bytes", unknown.len());
    }
}

async fn requests_without_a_key_have_none((issuer, _): Made) {
    let header = |name: &str, value: &[u8]| vec![(name.to_owned(), value.to_vec())];
    for headers in [
        vec![],
        header("authorization", b"Basic dXNlcjpwYXNzd29yZA=="),
        header("cookie", b"authorization=Bearer x"),
        header("x-authorization", b"Bearer x"),
    ] {
        let answer = verify(&issuer, &request(SERVICE, headers.clone())).await;
        assert_eq!(answer, Verified::Absent, "no key of this issuer: {headers:?}");
    }
}

async fn garbled_keys_are_no_sessions((issuer, clock): Made) {
    let issued = issue(&issuer, identity("alice", &clock)).await;
    let key = issued.key.expose();
    let mut garbled: Vec<Vec<u8>> = vec![
        vec![],
        b" ".to_vec(),
        b"\0".to_vec(),
        vec![0xff; 43],
        vec![b'A'; 43],
        vec![b'A'; 100_000],
        b"a.b.c".to_vec(),
        b"../../etc/passwd".to_vec(),
        b"' OR 1=1 --".to_vec(),
        "\u{1f511}".repeat(20).into_bytes(),
        [key, b"="].concat(),
        [key, b" "].concat(),
        [b" ", key].concat(),
        [key, key].concat(),
        key[1..].to_vec(),
    ];
    if presents(&issuer) {
        garbled.extend((0..key.len()).map(|len| key[..len].to_vec()));
        garbled.extend((0..key.len()).map(|at| {
            let mut changed = key.to_vec();
            changed[at] ^= 0x01;
            changed
        }));
    }
    for garbled in garbled {
        let answer = verify(&issuer, &bearer(SERVICE, &garbled)).await;
        let text = String::from_utf8_lossy(&garbled[..garbled.len().min(60)]).into_owned();
        assert!(!matches!(answer, Verified::Session(_)), "a garbled key of {} bytes: {text:?}", garbled.len());
    }
    if presents(&issuer) {
        let twice = vec![("authorization".to_owned(), [b"Bearer ", key].concat()); 2];
        let answer = verify(&issuer, &request(SERVICE, twice)).await;
        assert!(!matches!(answer, Verified::Session(_)), "two headers are no key: proxies disagree on which counts");
        assert!(session(&issuer, &issued).await.first_use, "the right one is good after all that");
    }
}

async fn of_many_first_uses_one_is_the_first((issuer, clock): Made) {
    if !presents(&issuer) {
        return;
    }
    for _ in 0..10 {
        let issued = Arc::new(issue(&issuer, identity("alice", &clock)).await);
        let first = at_once(16, |_| {
            let (issuer, issued) = (issuer.clone(), issued.clone());
            async move { session(&issuer, &issued).await.first_use }
        });
        let first = first.await.into_iter().filter(|first| *first).count();
        assert_eq!(first, 1, "of sixteen uses at once exactly one is the first");
    }
}

async fn many_callers_do_not_mix((issuer, clock): Made) {
    at_once(100, |number| {
        let (issuer, clock) = (issuer.clone(), clock.clone());
        async move {
            let who = identity(&format!("user{number}"), &clock);
            let issued = issue(&issuer, who.clone()).await;
            if presents(&issuer) {
                for use_ in 0..3 {
                    let found = session(&issuer, &issued).await;
                    assert_eq!((found.identity, found.first_use), (who.clone(), use_ == 0), "user {number}");
                }
            }
            if number % 2 == 0 {
                assert!(issuer.revoke(&issued.key_id).await.expect("revoke"), "user {number} is revoked");
            }
        }
    })
    .await;
}

async fn large_identities_come_back((issuer, clock): Made) {
    // The longest attributes, of what a JSON encoder would make the longest text of.
    let attributes = format!("{{\"a\":\"{}\"}}", "\\\"".repeat(8_188));
    assert_eq!(attributes.len(), 16_384);
    let subject = "é".repeat(127);
    let who = Identity::new(SERVICE.to_owned(), subject, [0xff; 16], clock.now(), attributes);
    let issued = issue(&issuer, who.clone()).await;
    if presents(&issuer) {
        assert!(session(&issuer, &issued).await.identity == who, "the largest identity comes back as it was");
    }
}

async fn it_is_healthy((issuer, _): Made) {
    issuer.health().await.expect("it is healthy");
    issuer.published().await.expect("published");
}
