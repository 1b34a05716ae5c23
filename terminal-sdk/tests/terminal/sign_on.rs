//! Signing on, and what a hostile or broken service may answer.

use std::fs;

use claviger_terminal::{Code, Error, Scope, Service, SignOnOptions, Terminal};

use crate::harness::{Demand, World};

#[tokio::test]
async fn a_sign_on_gives_a_key_over_hybrid_tls() {
    let (world, terminal) = World::enrolled().await;
    let session = terminal.sign_on(world.shop.as_str()).await.unwrap();
    let key = session.key().await.unwrap();
    assert_eq!((key.service.as_str(), key.kind), ("shop.example", 1));
    assert!(!format!("{session:?} {key:?}").contains(std::str::from_utf8(key.expose()).unwrap()));
    assert_eq!(world.scope(), ["user", "groups", "name", "email"]);
    assert_eq!(world.seen(|seen| seen.key_exchange), Some(rustls::NamedGroup::X25519MLKEM768));

    let share = Scope::new(["email"]).unwrap();
    terminal.sign_on_with("shop.example", SignOnOptions { share, cache: false }).await.unwrap();
    assert_eq!(world.scope(), ["email"]);
}

#[tokio::test]
async fn the_clock_is_corrected_once_by_a_sealed_note() {
    for hours in [2, -2] {
        let (world, terminal) = World::enrolled().await;
        let offset = hours * 3_600_000;
        world.faults(|faults| faults.clock_ms = offset);
        terminal.sign_on("shop.example").await.unwrap();
        assert_eq!(world.seen(|seen| seen.sign_ons), 2);
        let stored = terminal.credential().await.unwrap().clock_offset_ms;
        assert!((stored - offset).abs() < 10_000, "{stored}");
        // It was stored: another process gets through at once.
        Terminal::open(world.path()).await.unwrap().sign_on("shop.example").await.unwrap();
        assert_eq!(world.seen(|seen| seen.sign_ons), 3);
    }
}

#[tokio::test]
async fn a_clock_that_is_days_off_is_the_users_to_set() {
    let (world, terminal) = World::enrolled().await;
    world.faults(|faults| faults.clock_ms = 49 * 3_600_000);
    let error = terminal.sign_on("shop.example").await.unwrap_err();
    assert!(matches!(error, Error::ClockOff { .. }), "{error}");
    assert_eq!(terminal.credential().await.unwrap().clock_offset_ms, 0);
}

#[tokio::test]
async fn refusals_that_nobody_sealed_change_nothing() {
    let (world, terminal) = World::enrolled().await;
    terminal.sign_on("shop.example").await.unwrap();
    let before = fs::read(world.path()).unwrap();
    for code in Code::ALL.into_iter().filter(|code| !matches!(code, Code::Ok)) {
        world.faults(|faults| faults.advisory = Some(code));
        let error = terminal.sign_on("shop.example").await.unwrap_err();
        assert!(matches!(error, Error::Refused { code: given, .. } if given == code), "{code}: {error}");
    }
    assert_eq!(fs::read(world.path()).unwrap(), before);
    world.faults(|faults| faults.advisory = None);
    terminal.sign_on("shop.example").await.unwrap();
}

#[tokio::test]
async fn sealed_refusals_say_what_to_do() {
    let (world, terminal) = World::enrolled().await;
    world.faults(|faults| faults.denied = true);
    let error = terminal.sign_on("shop.example").await.unwrap_err();
    assert!(matches!(error, Error::Denied { code: Code::Denied }), "{error}");
    assert!(error.to_string().contains("administrator"), "{error}");

    world.faults(|faults| faults.denied = false);
    world.forget_user();
    let error = terminal.sign_on("shop.example").await.unwrap_err();
    assert!(matches!(error, Error::Refused { code: Code::AuthFailed, .. }), "{error}");
}

#[tokio::test]
async fn a_second_live_copy_is_told_so() {
    let (world, terminal) = World::enrolled().await;
    let copy = tempfile::tempdir().unwrap();
    let path = copy.path().join("credential.json");
    fs::copy(world.path(), &path).unwrap();
    let copied = Terminal::open(&path).await.unwrap();
    terminal.sign_on("shop.example").await.unwrap();
    let error = copied.sign_on("shop.example").await.unwrap_err();
    assert!(matches!(error, Error::Denied { code: Code::Clone }), "{error}");
    assert!(error.to_string().contains("two places"), "{error}");
}

#[tokio::test]
async fn replies_that_were_changed_are_rejected() {
    let (world, terminal) = World::enrolled().await;
    let changes: [fn(&mut Vec<u8>); 6] = [
        |reply| reply[10] ^= 1,                  // the service's nonce
        |reply| reply[45] ^= 1,                  // the key share
        |reply| reply[90] ^= 1,                  // the note
        |reply| *reply.last_mut().unwrap() ^= 1, // the sealed key
        |reply| reply.push(0),                   // a byte too many
        |reply| reply.truncate(reply.len() / 2), // cut off
    ];
    for change in changes {
        world.faults(|faults| faults.tamper = Some(change));
        let error = terminal.sign_on("shop.example").await.unwrap_err();
        assert!(matches!(error, Error::InvalidReply(_)), "{error}");
    }
    // A refusal put in the place of a granted key is no sealed one.
    world.faults(|faults| {
        faults.tamper = Some(|reply| {
            let key_len = 2 + usize::from(u16::from_be_bytes([reply[38], reply[39]]));
            let at = 38 + key_len;
            let note_len = 2 + usize::from(u16::from_be_bytes([reply[at], reply[at + 1]]));
            reply.truncate(at + note_len);
            reply.extend_from_slice(&[0, 0]);
            reply[5] = Code::Denied.to_wire();
        });
    });
    let error = terminal.sign_on("shop.example").await.unwrap_err();
    assert!(matches!(error, Error::Refused { code: Code::Denied, .. }), "{error}");
}

#[tokio::test]
async fn an_old_reply_is_rejected() {
    let (world, terminal) = World::enrolled().await;
    terminal.sign_on("shop.example").await.unwrap();
    world.faults(|faults| faults.old_reply = true);
    let error = terminal.sign_on("shop.example").await.unwrap_err();
    assert!(matches!(error, Error::InvalidReply(_)), "{error}");
}

#[tokio::test]
async fn a_forged_skew_note_does_not_move_the_clock() {
    let (world, terminal) = World::enrolled().await;
    world.faults(|faults| {
        faults.clock_ms = 7_200_000;
        faults.tamper = Some(|reply| reply[60] ^= 1);
    });
    let error = terminal.sign_on("shop.example").await.unwrap_err();
    assert!(matches!(error, Error::InvalidReply(_)), "{error}");
    assert_eq!(terminal.credential().await.unwrap().clock_offset_ms, 0);
}

#[tokio::test]
async fn a_challenge_is_fetched_when_the_service_wants_one() {
    let (world, terminal) = World::enrolled().await;
    world.faults(|faults| faults.bind = Demand::Challenge);
    terminal.sign_on("shop.example").await.unwrap();
    assert_eq!(world.seen(|seen| seen.sign_ons), 2);
    // Together with a wrong clock: each challenge is spent once.
    world.faults(|faults| faults.clock_ms = 7_200_000);
    terminal.sign_on("shop.example").await.unwrap();
    assert_eq!(world.seen(|seen| seen.sign_ons), 5);
}

#[tokio::test]
async fn the_service_id_comes_from_the_table_alone() {
    let (world, terminal) = World::enrolled().await;
    assert!(matches!(terminal.sign_on("https://evil.example").await, Err(Error::UnknownService(_))));
    assert!(matches!(terminal.sign_on("evil.example").await, Err(Error::UnknownService(_))));
    // An origin that is another service than the table says gets nothing.
    let other: Service = Service::new("bank.example".parse().unwrap(), world.shop.clone());
    assert!(terminal.add_service(other.clone()).await.is_err());
    let elsewhere = Service { origin: world.shop.as_str().replace("localhost", "LOCALHOST").parse().unwrap(), ..other };
    assert!(terminal.add_service(elsewhere).await.is_err());
}

#[tokio::test]
async fn nobody_at_the_origin() {
    let (_world, terminal) = World::enrolled().await;
    let origin = "https://localhost:1".parse().unwrap();
    terminal.add_service(Service::new("gone.example".parse().unwrap(), origin)).await.unwrap();
    let error = terminal.sign_on("gone.example").await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_sign_ons_at_once_are_no_clones() {
    let (world, terminal) = World::enrolled().await;
    let tasks: Vec<_> = (0..150)
        .map(|_| {
            let terminal = terminal.clone();
            tokio::spawn(async move { terminal.sign_on("shop.example").await.map(|_| ()) })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(world.seen(|seen| (seen.sign_ons, seen.suspended)), (150, false));
}
