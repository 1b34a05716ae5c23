//! The conformance suite, straight on the trait. `clavigerd plugin test` makes
//! the same checks on the built library.

use claviger_plugin_api::{
    Identity,
    testkit::{self, MemoryState, StoppedClock},
};

use super::*;

fn fresh() -> (Issuer, StoppedClock, Arc<MemoryState>) {
    let clock = StoppedClock::new();
    let state = Arc::new(MemoryState::new(clock.clone()));
    (Issuer { state: state.clone(), clock: clock.shared() }, clock, state)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn it_keeps_the_contract() {
    testkit::issuer(|| async {
        let (issuer, clock, _) = fresh();
        (Arc::new(issuer) as Arc<dyn KeyIssuer>, clock)
    })
    .await;
}

#[tokio::test]
async fn the_state_store_never_sees_a_key() {
    let (issuer, clock, state) = fresh();
    let who = Identity::new("shop".to_owned(), "alice".to_owned(), [1; 16], clock.now(), String::new());
    let request = IssueRequest::new(who, Duration::from_secs(60), Duration::from_secs(60));
    let issued = issuer.issue(request).await.expect("issue");
    let key = str::from_utf8(issued.key.expose()).expect("text");
    assert_eq!(state.entries().len(), 2, "a session, and its index entry");
    for (name, value) in state.entries() {
        assert!(!name.contains(key) && !String::from_utf8_lossy(&value).contains(key), "{name}");
    }
}
