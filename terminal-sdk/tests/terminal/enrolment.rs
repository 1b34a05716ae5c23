//! Enrolment: what is on the disk, and when.

use std::{fs, time::Duration};

use claviger_terminal::{
    Code, CredentialFile, EnrolOptions, EnrolmentCode, EnrolmentLink, Error, KemId, SuiteId, Terminal,
};

use crate::harness::{World, random};

#[tokio::test]
async fn a_code_becomes_a_credential_for_each_suite_and_key_agreement() {
    for (suite, kem) in [
        (SuiteId::AES_256_GCM_SHA256, KemId::X25519),
        (SuiteId::CHACHA20_POLY1305_SHA256, KemId::X25519),
        (SuiteId::AES_256_GCM_SHA256, KemId::None),
        (SuiteId::AES_256_GCM_SHA256, KemId::X25519MlKem768),
    ] {
        let world = World::start(true).await;
        let options = EnrolOptions { suite: Some(suite), kem: Some(kem), ..world.options() };
        let terminal = Terminal::enrol(options).await.unwrap();
        let credential = terminal.credential().await.unwrap();
        assert_eq!((credential.user().as_str(), credential.epoch, credential.suite), ("alice", 1, suite));
        assert!(!credential.is_pending());
        terminal.add_service(world.service()).await.unwrap();
        terminal.sign_on("shop.example").await.unwrap();
    }
}

#[tokio::test]
async fn a_lost_confirmation_is_asked_for_again_at_the_next_start() {
    let world = World::start(true).await;
    world.faults(|faults| faults.lose_e4 = true);
    let error = Terminal::enrol(world.options()).await.unwrap_err();
    assert!(matches!(error, Error::Unconfirmed(_)), "{error}");
    assert_eq!(world.seen(|seen| seen.confirmations), 5, "it was tried again");
    assert!(CredentialFile::new(world.path()).load().unwrap().is_pending());

    // Still lost: opening works and changes nothing.
    let before = fs::read(world.path()).unwrap();
    let terminal = Terminal::open(world.path()).await.unwrap();
    assert!(terminal.credential().await.unwrap().is_pending());
    assert_eq!(fs::read(world.path()).unwrap(), before);

    world.faults(|faults| faults.lose_e4 = false);
    let terminal = Terminal::open(world.path()).await.unwrap();
    assert!(!terminal.credential().await.unwrap().is_pending());
    terminal.add_service(world.service()).await.unwrap();
    terminal.sign_on("shop.example").await.unwrap();
}

#[tokio::test]
async fn a_refusal_that_nobody_sealed_deletes_nothing() {
    let world = World::start(true).await;
    world.faults(|faults| faults.lose_e4 = true);
    Terminal::enrol(world.options()).await.unwrap_err();
    for code in [Code::AuthFailed, Code::Denied, Code::Malformed] {
        world.faults(|faults| faults.refuse_e3 = Some(code));
        let terminal = Terminal::open(world.path()).await.unwrap();
        assert!(terminal.credential().await.unwrap().is_pending(), "{code}");
        assert!(matches!(terminal.confirm_enrolment().await, Err(Error::Refused { .. })));
    }
    // The credential is active all the same, and the first sealed note shows it.
    let terminal = Terminal::open(world.path()).await.unwrap();
    terminal.add_service(world.service()).await.unwrap();
    terminal.sign_on("shop.example").await.unwrap();
    assert!(!terminal.credential().await.unwrap().is_pending());
}

#[tokio::test]
async fn an_enrolment_that_fails_leaves_nothing_behind() {
    let world = World::start(true).await;
    let options = |code| EnrolOptions { code, ..world.options() };
    let unknown = Terminal::enrol(options(EnrolmentCode::new(random()))).await.unwrap_err();
    assert!(matches!(unknown, Error::Refused { code: Code::AuthFailed, .. }), "{unknown}");

    let other_realm = EnrolOptions { realm: "other".parse().unwrap(), ..world.options() };
    let refused = Terminal::enrol(other_realm).await.unwrap_err();
    assert!(refused.to_string().contains("--realm"), "{refused}");

    for ca in [Some(World::start(true).await.ca), None] {
        let untrusted = EnrolOptions { ca, ..world.options() };
        let error = Terminal::enrol(untrusted).await.unwrap_err();
        assert!(error.to_string().contains("--ca"), "{error}");
    }

    world.policy(|policy| policy.suite_floor = SuiteId::CHACHA20_POLY1305_SHA256);
    let weak = Terminal::enrol(world.options()).await.unwrap_err();
    assert!(weak.to_string().contains("--suite 0x0003"), "{weak}");

    world.faults(|faults| faults.plain_http = true);
    let wrong = Terminal::enrol(world.options()).await.unwrap_err();
    assert!(matches!(wrong, Error::NotProtocol { status: 404, .. }), "{wrong}");
    assert!(!world.path().exists());
    assert!(matches!(Terminal::open(world.path()).await, Err(Error::NotEnrolled { .. })));
}

#[tokio::test]
async fn keys_in_use_are_only_replaced_on_demand_and_by_a_valid_offer() {
    let (world, terminal) = World::enrolled().await;
    let before = fs::read(world.path()).unwrap();
    let error = Terminal::enrol(world.options()).await.unwrap_err();
    assert!(matches!(error, Error::AlreadyEnrolled { .. }), "{error}");

    let bad_code = EnrolmentCode::new(random());
    let bad = EnrolOptions { code: bad_code, replace: true, ..world.options() };
    Terminal::enrol(bad).await.unwrap_err();
    assert_eq!(fs::read(world.path()).unwrap(), before);
    terminal.sign_on("shop.example").await.unwrap();

    let good = EnrolOptions { replace: true, ..world.options() };
    let terminal = Terminal::enrol(good).await.unwrap();
    terminal.sign_on("shop.example").await.unwrap();
    assert!(!world.seen(|seen| seen.suspended));
}

#[tokio::test]
async fn a_wrong_clock_is_corrected_by_the_sealed_offer() {
    let world = World::start(true).await;
    world.faults(|faults| faults.clock_ms = -7_200_000);
    let terminal = Terminal::enrol(world.options()).await.unwrap();
    terminal.add_service(world.service()).await.unwrap();
    terminal.sign_on("shop.example").await.unwrap();
    assert_eq!(world.seen(|seen| seen.sign_ons), 1);
}

#[tokio::test]
async fn the_realm_decides_on_what_is_not_asked_for_and_the_floor_on_the_least() {
    use KemId::{None, X25519, X25519MlKem768};
    for (offered, floor, asked, expected) in [
        (&[None, X25519, X25519MlKem768][..], None, Option::None, X25519MlKem768),
        (&[None, X25519], None, Option::None, X25519),
        (&[None, X25519, X25519MlKem768], None, Some(X25519), X25519),
        (&[None, X25519, X25519MlKem768], X25519, Some(None), X25519),
        (&[None, X25519, X25519MlKem768], X25519MlKem768, Some(X25519), X25519MlKem768),
    ] {
        let world = World::start(true).await;
        world.policy(|policy| (policy.kems, policy.kem_floor) = (offered.to_vec(), floor));
        let options = EnrolOptions { kem: asked, ..world.options() };
        let terminal = Terminal::enrol(options).await.unwrap();
        terminal.add_service(world.service()).await.unwrap();
        terminal.sign_on("shop.example").await.unwrap();
        assert_eq!(terminal.credential().await.unwrap().kem, expected);
        assert_eq!(world.seen(|seen| seen.kems.clone()), [expected]);
    }
}

#[tokio::test]
async fn a_link_needs_no_authority_for_the_management_server() {
    let world = World::start(true).await;
    let link = EnrolmentLink::parse(&world.link(&world.spki)).unwrap();
    let options = EnrolOptions { path: world.path(), ..EnrolOptions::from_link(link).unwrap() };
    let terminal = Terminal::enrol(options).await.unwrap();
    // The pin is for the management server alone, and kept for it.
    let terminal = Terminal::open(terminal.path()).await.unwrap();
    terminal.refresh_directory().await.unwrap();
    terminal.add_service(world.service()).await.unwrap();
    let error = terminal.sign_on("shop.example").await.unwrap_err();
    assert!(error.to_string().contains("--ca"), "{error}");
    let trusted = claviger_terminal::Service { ca: Some(world.ca.clone()), ..world.service() };
    terminal.add_service(trusted).await.unwrap();
    terminal.sign_on("shop.example").await.unwrap();
    assert!(terminal.rotate().await.unwrap().in_use);

    let other = World::start(true).await;
    let link = EnrolmentLink::parse(&other.link(&world.spki)).unwrap();
    let options = EnrolOptions { path: other.path(), ..EnrolOptions::from_link(link).unwrap() };
    let options = EnrolOptions { ca: Some(other.ca.clone()), ..options };
    let error = Terminal::enrol(options).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("enrolment link"), "{error}");
    assert!(!other.path().exists());
}

#[tokio::test]
async fn activation_may_wait_for_an_administrator() {
    let world = World::start(true).await;
    world.policy(|policy| policy.held = true);
    let error = Terminal::enrol(world.options()).await.unwrap_err();
    let Error::Held { comparison } = &error else { panic!("{error}") };
    assert_eq!(*comparison, world.seen(|seen| seen.comparison.clone()));
    assert_eq!((comparison.len(), world.seen(|seen| seen.confirmations)), (6, 1));
    let terminal = Terminal::open(world.path()).await.unwrap();
    assert_eq!(terminal.credential().await.unwrap().comparison().as_ref(), Some(comparison));
    let waiting = terminal.await_activation(Duration::from_secs(1)).await.unwrap_err();
    assert!(matches!(waiting, Error::Held { .. }), "{waiting}");
    terminal.add_service(world.service()).await.unwrap();
    let early = terminal.sign_on("shop.example").await.unwrap_err();
    assert!(matches!(early, Error::Refused { code: Code::AuthFailed, .. }), "{early}");
    // The network is away for a moment while it waits.
    let waiter = tokio::spawn({
        let terminal = terminal.clone();
        async move { terminal.await_activation(Duration::from_secs(60)).await }
    });
    world.faults(|faults| faults.manager_away = true);
    tokio::time::sleep(Duration::from_millis(300)).await;
    world.faults(|faults| faults.manager_away = false);
    world.policy(|policy| policy.held = false);
    waiter.await.unwrap().unwrap();
    assert!(!terminal.credential().await.unwrap().is_pending());
    terminal.sign_on("shop.example").await.unwrap();
}
