//! The issuer on a real state store and a stopped clock.

#![expect(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

use std::{collections::HashSet, sync::Arc, time::Duration};

use claviger_issuer_opaque::{OpaqueIssuer, init};
use claviger_plugin_api::{
    Context, Identity, InitError, IssueRequest, IssuedKey, KeyIssuer, KeyKind, PluginError, Presented, Session,
    StateStore, Verified,
    testkit::{self, MemoryState, StoppedClock},
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn it_keeps_the_contract() {
    testkit::issuer(|| async {
        let Fixture { clock, issuer, .. } = Fixture::new();
        (issuer as Arc<dyn KeyIssuer>, clock)
    })
    .await;
}

const LIFETIME: Duration = Duration::from_secs(3600);
const PENDING: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

/// An issuer, and what it stands on.
struct Fixture {
    clock: StoppedClock,
    state: Arc<MemoryState>,
    issuer: Arc<OpaqueIssuer>,
}

impl Fixture {
    fn new() -> Self {
        let clock = StoppedClock::new();
        let state = Arc::new(MemoryState::new(clock.clone()));
        let issuer = Arc::new(OpaqueIssuer::new(state.clone(), clock.shared()));
        Self { clock, state, issuer }
    }

    fn identity(&self) -> Identity {
        let attributes = "{\"user\":\"ada\",\"groups\":[\"staff\"]}".to_owned();
        Identity::new("shop.example".to_owned(), "pair-1".to_owned(), [7; 16], self.clock.now(), attributes)
    }

    async fn issue(&self) -> (IssuedKey, String) {
        let issued = self.issuer.issue(IssueRequest::new(self.identity(), LIFETIME, PENDING)).await.unwrap();
        let text = String::from_utf8(issued.key.expose().to_vec()).unwrap();
        (issued, text)
    }

    async fn verify(&self, key: &str) -> Verified {
        self.issuer.verify(&bearer(key)).await.unwrap()
    }

    async fn session(&self, key: &str) -> Session {
        match self.verify(key).await {
            Verified::Session(session) => session,
            other => panic!("a session is expected, not {other:?}"),
        }
    }
}

fn presented(service: &str, headers: &[(&str, &[u8])]) -> Presented {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), value.to_vec())).collect();
    let [method, scheme, authority, target] = ["GET", "https", "shop.example", "/"].map(str::to_owned);
    Presented::new(service.to_owned(), method, scheme, authority, target, headers)
}

fn bearer(key: &str) -> Presented {
    presented("shop.example", &[("authorization", format!("Bearer {key}").as_bytes())])
}

#[tokio::test]
async fn a_key_stands_for_its_session() {
    let fixture = Fixture::new();
    let (issued, key) = fixture.issue().await;
    assert_eq!((issued.kind, issued.lifetime, issued.key_id.len()), (KeyKind::Opaque, LIFETIME, 16));
    assert_eq!(key.len(), 43);
    assert!(!format!("{issued:?}").contains(&key), "a key is not printed");

    let first = fixture.session(&key).await;
    assert_eq!(first.identity, fixture.identity());
    assert_eq!((first.key_id.as_slice(), first.first_use), (issued.key_id.as_slice(), true));
    assert_eq!(first.expires, fixture.clock.now() + LIFETIME);
    fixture.clock.pass(SECOND);
    let second = fixture.session(&key).await;
    let same = Session::new(first.identity, first.key_id, first.expires, false);
    assert_eq!(second, same, "only the first use is the first");
    assert_eq!(fixture.issuer.published().await.unwrap(), None);
    fixture.issuer.health().await.unwrap();
}

#[tokio::test]
async fn the_store_holds_nothing_that_opens_a_session() {
    let fixture = Fixture::new();
    let (_, key) = fixture.issue().await;
    fixture.session(&key).await;
    for (slot, value) in fixture.state.entries() {
        let value = String::from_utf8(value).unwrap();
        assert!(!slot.contains(&key) && !value.contains(&key), "{slot}: {value}");
        let hash = slot.split_once('/').unwrap().1;
        if hash.len() == 43 {
            assert_eq!(fixture.verify(hash).await, Verified::Refused, "the hash of a key is no key");
        }
    }
}

#[tokio::test]
async fn keys_are_written_once_after_their_first_use() {
    let fixture = Fixture::new();
    let (_, key) = fixture.issue().await;
    fixture.session(&key).await;
    let before = fixture.state.entries();
    for _ in 0..10 {
        fixture.clock.pass(SECOND);
        fixture.session(&key).await;
    }
    assert_eq!(fixture.state.entries(), before, "verification writes nothing");
}

#[tokio::test]
async fn keys_end_by_the_clock() {
    // (used after, looked at after the use, good)
    let table = [
        (Some(Duration::ZERO), LIFETIME - SECOND, true),
        (Some(Duration::ZERO), LIFETIME, false),
        (Some(PENDING - SECOND), LIFETIME - SECOND, true),
        (Some(PENDING - SECOND), LIFETIME, false),
        (None, PENDING - SECOND, true),
        (None, PENDING, false),
        (None, LIFETIME, false),
    ];
    for (used, waited, good) in table {
        let fixture = Fixture::new();
        let (_, key) = fixture.issue().await;
        if let Some(used) = used {
            fixture.clock.pass(used);
            fixture.session(&key).await;
        }
        fixture.clock.pass(waited);
        let verified = fixture.verify(&key).await;
        assert_eq!(
            matches!(verified, Verified::Session(_)),
            good,
            "used after {used:?}, then {waited:?}: {verified:?}"
        );
        assert!(good || verified == Verified::Refused, "{verified:?}");
    }
}

/// A store that keeps values for too long does not prolong a session.
#[tokio::test]
async fn the_clock_counts_even_where_the_store_forgets_nothing() {
    let fixture = Fixture::new();
    let (_, key) = fixture.issue().await;
    let keep = |fixture: &Fixture| {
        for (slot, value) in fixture.state.entries() {
            fixture.state.overwrite(&slot, &value, LIFETIME * 100);
        }
    };
    keep(&fixture);
    fixture.clock.pass(PENDING);
    assert_eq!(fixture.verify(&key).await, Verified::Refused);

    let (_, key) = fixture.issue().await;
    fixture.session(&key).await;
    keep(&fixture);
    fixture.clock.pass(LIFETIME);
    assert_eq!(fixture.verify(&key).await, Verified::Refused);
    assert!(!fixture.state.entries().is_empty());
}

#[tokio::test]
async fn a_key_is_for_its_service_alone() {
    let fixture = Fixture::new();
    let (_, key) = fixture.issue().await;
    let header = format!("Bearer {key}");
    for service in ["bank.example", "Shop.example", "", "shop.example."] {
        let request = presented(service, &[("authorization", header.as_bytes())]);
        assert_eq!(fixture.issuer.verify(&request).await.unwrap(), Verified::Refused, "{service:?}");
    }
    assert!(fixture.session(&key).await.first_use, "a refusal elsewhere was not the first use");
}

#[tokio::test]
async fn only_keys_of_the_right_form_are_looked_up() {
    let fixture = Fixture::new();
    let (_, key) = fixture.issue().await;
    let unknown = "A".repeat(43);
    let of = |scheme: &str, rest: &str| format!("{scheme}{rest}").into_bytes();
    let table: [(&str, Vec<u8>, Verified); 18] = [
        ("unknown key", of("Bearer ", &unknown), Verified::Refused),
        ("unknown key, other case", of("BEARER ", &unknown), Verified::Refused),
        ("last bits set", of("Bearer ", &format!("{}B", &unknown[1..])), Verified::Absent),
        ("empty", of("", ""), Verified::Absent),
        ("scheme only", of("Bearer", ""), Verified::Absent),
        ("scheme and space", of("Bearer ", ""), Verified::Absent),
        ("no space", of("Bearer", &key), Verified::Absent),
        ("two spaces", of("Bearer  ", &key), Verified::Absent),
        ("tab", of("Bearer\t", &key), Verified::Absent),
        ("leading space", of(" Bearer ", &key), Verified::Absent),
        ("trailing space", of("Bearer ", &format!("{key} ")), Verified::Absent),
        ("one short", of("Bearer ", &key[1..]), Verified::Absent),
        ("one long", of("Bearer ", &format!("{key}A")), Verified::Absent),
        ("padded", of("Bearer ", &format!("{key}=")), Verified::Absent),
        ("two keys", of("Bearer ", &format!("{key}, Bearer {key}")), Verified::Absent),
        ("other alphabet", of("Bearer ", &format!("{}+", &key[..42])), Verified::Absent),
        ("not text", [b"Bearer ".as_slice(), &[0xff; 43]].concat(), Verified::Absent),
        ("other scheme", of("Basic ", &key), Verified::Absent),
    ];
    for (what, value, expected) in table {
        let verified = fixture.issuer.verify(&presented("shop.example", &[("authorization", &value)])).await.unwrap();
        assert_eq!(verified, expected, "{what}");
    }
    let header = of("bEaReR ", &key);
    let headers: [&[(&str, &[u8])]; 3] = [
        &[],
        &[("proxy-authorization", &header), ("cookie", &header)],
        &[("authorization", &header), ("accept", b"*/*"), ("authorization", &header)],
    ];
    for headers in headers {
        let verified = fixture.issuer.verify(&presented("shop.example", headers)).await.unwrap();
        assert_eq!(verified, Verified::Absent, "{} headers", headers.len());
    }
    let verified = fixture.issuer.verify(&presented("shop.example", &[("authorization", &header)])).await.unwrap();
    assert!(matches!(verified, Verified::Session(session) if session.first_use), "the scheme's case does not matter");
}

#[tokio::test]
async fn a_revoked_key_is_refused() {
    for used in [false, true] {
        let fixture = Fixture::new();
        let (issued, key) = fixture.issue().await;
        let (_, other) = fixture.issue().await;
        if used {
            fixture.session(&key).await;
        }
        assert!(fixture.issuer.revoke(&issued.key_id).await.unwrap());
        assert_eq!(fixture.verify(&key).await, Verified::Refused);
        assert!(!fixture.issuer.revoke(&issued.key_id).await.unwrap(), "a key is revoked once");
        fixture.session(&other).await;
        assert_eq!(fixture.state.entries().len(), 2, "nothing of the revoked key is left");
    }
    let fixture = Fixture::new();
    for unknown in [&[0; 16][..], &[], &[0; 15], &[0; 64]] {
        assert!(!fixture.issuer.revoke(unknown).await.unwrap(), "{unknown:?}");
    }
}

#[tokio::test]
async fn a_key_can_be_revoked_to_its_end_and_no_longer() {
    let fixture = Fixture::new();
    let (issued, key) = fixture.issue().await;
    fixture.clock.pass(PENDING - SECOND);
    fixture.session(&key).await;
    fixture.clock.pass(LIFETIME - SECOND);
    assert!(fixture.issuer.revoke(&issued.key_id).await.unwrap());

    let (issued, _) = fixture.issue().await;
    fixture.clock.pass(PENDING);
    assert!(!fixture.issuer.revoke(&issued.key_id).await.unwrap(), "a key that ended is not known");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_first_uses_one_is_the_first() {
    for _ in 0..20 {
        let fixture = Fixture::new();
        let (_, key) = fixture.issue().await;
        let mut uses = JoinSet::new();
        for _ in 0..16 {
            let (issuer, request) = (fixture.issuer.clone(), bearer(&key));
            uses.spawn(async move { issuer.verify(&request).await.unwrap() });
        }
        let first = uses.join_all().await.into_iter().filter(|verified| match verified {
            Verified::Session(session) => session.first_use,
            other => panic!("all uses are good, not {other:?}"),
        });
        assert_eq!(first.count(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_key_revoked_during_its_first_use_stays_revoked() {
    for _ in 0..50 {
        let fixture = Fixture::new();
        let (issued, key) = fixture.issue().await;
        let mut both = JoinSet::new();
        for number in 0..8 {
            let (issuer, id, request) = (fixture.issuer.clone(), issued.key_id.clone(), bearer(&key));
            both.spawn(async move {
                if number % 2 == 0 {
                    return issuer.revoke(&id).await.unwrap();
                }
                let verified = issuer.verify(&request).await.unwrap();
                assert!(matches!(verified, Verified::Session(_) | Verified::Refused), "{verified:?}");
                false
            });
        }
        let revoked = both.join_all().await.into_iter().filter(|revoked| *revoked).count();
        assert_eq!(revoked, 1, "one call revoked it");
        assert_eq!(fixture.verify(&key).await, Verified::Refused);
    }
}

#[tokio::test]
async fn damage_is_corrupt_and_no_refusal() {
    let fixture = Fixture::new();
    let (issued, key) = fixture.issue().await;
    for (slot, _) in fixture.state.entries() {
        fixture.state.overwrite(&slot, b"damaged", LIFETIME);
    }
    assert!(matches!(fixture.issuer.verify(&bearer(&key)).await, Err(PluginError::Corrupt(_))));
    assert!(matches!(fixture.issuer.revoke(&issued.key_id).await, Err(PluginError::Corrupt(_))));
}

#[tokio::test]
async fn lifetimes_are_whole_seconds_and_not_zero() {
    let fixture = Fixture::new();
    let issue =
        async |lifetime, pending| fixture.issuer.issue(IssueRequest::new(fixture.identity(), lifetime, pending)).await;
    let issued = issue(Duration::from_millis(2999), PENDING).await.unwrap();
    assert_eq!(issued.lifetime, Duration::from_secs(2));
    let table = [
        (Duration::from_millis(999), PENDING),
        (LIFETIME, Duration::ZERO),
        (Duration::MAX, PENDING),
        (LIFETIME, Duration::MAX),
    ];
    for (lifetime, pending) in table {
        let answer = issue(lifetime, pending).await;
        assert!(matches!(answer, Err(PluginError::InvalidCall(_))), "{lifetime:?}, {pending:?}: {answer:?}");
    }
}

#[tokio::test]
async fn keys_and_names_differ() {
    let fixture = Fixture::new();
    let mut seen = HashSet::new();
    for _ in 0..100 {
        let (issued, key) = fixture.issue().await;
        assert!(seen.insert(issued.key_id) && seen.insert(key.into_bytes()));
    }
}

#[tokio::test]
async fn it_starts_with_a_state_store_only() {
    let context = |configuration: Value, with_state: bool| {
        let clock = StoppedClock::new();
        let state = with_state.then(|| Arc::new(MemoryState::new(clock.clone())) as Arc<dyn StateStore>);
        Context { name: "issuer-opaque".to_owned(), configuration, state, clock: clock.shared() }
    };
    for configuration in [json!({}), Value::Null] {
        let plugin = init(context(configuration, true)).unwrap();
        plugin.issuer.unwrap().health().await.unwrap();
    }
    for (configuration, with_state, expected) in
        [(json!({ "ttl": 1 }), true, "unknown field `ttl`"), (json!({}), false, "set [service] state")]
    {
        match init(context(configuration, with_state)) {
            Err(InitError::Configuration(text)) => assert!(text.contains(expected), "{text}"),
            other => panic!("{:?}", other.err()),
        }
    }
}
