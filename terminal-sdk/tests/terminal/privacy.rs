//! Private user ids: sealed to the management server, then a handle that
//! changes with each sign-on.

use claviger_terminal::{Code, Error, Naming, Terminal};

use crate::harness::{Message, Mishap, World};

async fn private() -> (World, Terminal) {
    let world = World::start(true).await;
    world.policy(|policy| policy.private_user_ids = true);
    let terminal = Terminal::enrol(world.options()).await.unwrap();
    terminal.add_service(world.service()).await.unwrap();
    (world, terminal)
}

fn names(world: &World) -> Vec<&'static str> {
    world.seen(|seen| std::mem::take(&mut seen.names))
}

#[tokio::test]
async fn the_user_id_is_never_sent_plainly() {
    let (world, terminal) = private().await;
    assert_eq!(terminal.credential().await.unwrap().naming(), Naming::Sealed);
    for expected in ["sealed", "handle", "handle"] {
        Terminal::open(world.path()).await.unwrap().sign_on("shop.example").await.unwrap();
        assert_eq!(names(&world), [expected]);
    }
    assert_eq!(terminal.credential().await.unwrap().naming(), Naming::Handle);
    assert!(terminal.rotate().await.unwrap().in_use);
    terminal.refresh_directory().await.unwrap();
    assert!(names(&world).iter().all(|name| *name == "handle"));
}

#[tokio::test]
async fn a_handle_that_is_not_known_any_more_costs_one_envelope() {
    let (world, terminal) = private().await;
    terminal.sign_on("shop.example").await.unwrap();
    names(&world);
    world.realm.forget_handles();
    terminal.sign_on("shop.example").await.unwrap();
    assert_eq!(names(&world), ["handle", "sealed"]);
    terminal.sign_on("shop.example").await.unwrap();
    assert_eq!(names(&world), ["handle"]);
    // One lost answer: the server still knows the handle before. Two: it does not.
    for (lost, expected) in [(1, &["handle", "handle"][..]), (2, &["handle", "handle", "handle", "sealed"])] {
        world.mishaps(Message::SignOn, &vec![Mishap::LoseAnswer; lost]);
        for _ in 0..lost {
            terminal.sign_on("shop.example").await.unwrap_err();
        }
        terminal.sign_on("shop.example").await.unwrap();
        assert_eq!(names(&world), expected);
    }
}

#[tokio::test]
async fn a_forged_refusal_does_not_bring_the_user_id_out() {
    let (world, terminal) = private().await;
    terminal.sign_on("shop.example").await.unwrap();
    names(&world);
    world.mishaps(Message::SignOn, &[Mishap::Forge(Code::AuthFailed); 4]);
    let error = terminal.sign_on("shop.example").await.unwrap_err();
    assert!(matches!(error, Error::Refused { code: Code::AuthFailed, .. }), "{error}");
    assert_eq!(world.seen(|seen| seen.sign_ons), 3);
    world.mishaps(Message::SignOn, &[]);
    terminal.sign_on("shop.example").await.unwrap();
    assert_eq!(names(&world), ["handle"]);
}

#[tokio::test]
async fn a_fallback_and_a_rotation_at_once() {
    let (world, terminal) = private().await;
    world.policy(|policy| policy.rotate_required = true);
    terminal.sign_on("shop.example").await.unwrap();
    world.policy(|policy| policy.rotate_required = false);
    names(&world);
    world.realm.forget_handles();
    world.forget_pending_epoch();
    // Next epoch by handle, sealed, current epoch sealed; then the healing rotation.
    terminal.sign_on("shop.example").await.unwrap();
    assert_eq!(names(&world), ["handle", "sealed", "sealed", "handle"]);
    terminal.sign_on("shop.example").await.unwrap();
    assert_eq!((names(&world), world.epoch()), (vec!["handle"], (2, false)));
}

#[tokio::test]
async fn a_realm_that_changes_its_key_or_its_mind_is_followed_at_a_refresh() {
    let (world, terminal) = private().await;
    world.realm.change_user_id_key();
    let error = terminal.sign_on("shop.example").await.unwrap_err();
    assert!(matches!(error, Error::Refused { code: Code::AuthFailed, .. }), "{error}");
    terminal.refresh_directory().await.unwrap();
    terminal.sign_on("shop.example").await.unwrap();
    assert_eq!(names(&world), ["sealed", "sealed", "sealed"]);
    world.policy(|policy| policy.private_user_ids = false);
    terminal.refresh_directory().await.unwrap();
    terminal.sign_on("shop.example").await.unwrap();
    assert_eq!(names(&world), ["plain", "plain"]);
    world.policy(|policy| policy.private_user_ids = true);
    terminal.refresh_directory().await.unwrap();
    terminal.sign_on("shop.example").await.unwrap();
    assert_eq!(names(&world), ["sealed", "sealed"]);
}

#[tokio::test]
async fn a_user_id_that_is_too_long_is_said_at_enrolment() {
    let world = World::start(true).await;
    let long: &'static str = Box::leak("x".repeat(65).into_boxed_str());
    world.policy(|policy| (policy.private_user_ids, policy.user_id) = (true, long));
    let error = Terminal::enrol(world.options()).await.unwrap_err();
    assert!(error.to_string().contains("65 bytes") && error.to_string().contains("administrator"), "{error}");
    assert!(!world.path().exists());
    world.policy(|policy| policy.private_user_ids = false);
    Terminal::enrol(world.options()).await.unwrap();
}
