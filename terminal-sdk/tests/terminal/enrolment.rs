//! Enrolment: what is on the disk, and when.

use std::fs;

use claviger_terminal::{Code, CredentialFile, EnrolmentCode, Error, KemId, SuiteId, Terminal};

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
        let options = claviger_terminal::EnrolOptions { suite: Some(suite), kem: Some(kem), ..world.options() };
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
    let options = |code| claviger_terminal::EnrolOptions { code, ..world.options() };
    let unknown = Terminal::enrol(options(EnrolmentCode::new(random()))).await.unwrap_err();
    assert!(matches!(unknown, Error::Refused { code: Code::AuthFailed, .. }), "{unknown}");

    let other_realm = claviger_terminal::EnrolOptions { realm: "other".parse().unwrap(), ..world.options() };
    let refused = Terminal::enrol(other_realm).await.unwrap_err();
    assert!(refused.to_string().contains("--realm"), "{refused}");

    for ca in [Some(World::start(true).await.ca), None] {
        let untrusted = claviger_terminal::EnrolOptions { ca, ..world.options() };
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
    let bad = claviger_terminal::EnrolOptions { code: bad_code, replace: true, ..world.options() };
    Terminal::enrol(bad).await.unwrap_err();
    assert_eq!(fs::read(world.path()).unwrap(), before);
    terminal.sign_on("shop.example").await.unwrap();

    let good = claviger_terminal::EnrolOptions { replace: true, ..world.options() };
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
