//! Rotation: whatever is lost, doubled, late or forged, and whenever the
//! terminal is stopped, it can sign on afterwards.

use std::{process::Stdio, time::Duration};

use claviger_terminal::{Code, Error, KemId, Rotated, Terminal};
use tokio::process::Command;

use crate::harness::{
    Message::{Directory, Rotate, SignOn},
    Mishap, World,
};

async fn epochs(terminal: &Terminal) -> (u32, Option<u32>) {
    let credential = terminal.credential().await.unwrap();
    (credential.epoch, credential.pending_epoch())
}

#[tokio::test]
async fn a_rotation_puts_new_keys_in_use() {
    let (world, terminal) = World::enrolled().await;
    let before = terminal.credential().await.unwrap();
    assert_eq!(terminal.rotate().await.unwrap(), Rotated { epoch: 2, in_use: true });
    let after = terminal.credential().await.unwrap();
    assert!(!after.unique_key.ct_eq(before.unique_key.expose()));
    assert!(!after.management_key.ct_eq(before.management_key.expose()));
    assert_eq!((epochs(&terminal).await, world.epoch()), ((2, None), (2, false)));
    assert_eq!(world.seen(|seen| seen.rotate_kem), Some(KemId::X25519MlKem768), "the strongest that is offered");
    terminal.sign_on("shop.example").await.unwrap();
    assert_eq!(terminal.rotate().await.unwrap(), Rotated { epoch: 3, in_use: true });
    terminal.sign_on("shop.example").await.unwrap();
    assert_eq!(world.seen(|seen| (seen.sign_ons, seen.suspended)), (2, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_terminal_rotates_by_itself_when_a_note_asks_for_it() {
    let (world, terminal) = World::enrolled().await;
    world.policy(|policy| policy.rotate_required = true);
    let tasks: Vec<_> = (0..20)
        .map(|_| {
            let terminal = terminal.clone();
            tokio::spawn(async move { terminal.sign_on("shop.example").await.map(|_| ()) })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(terminal.take_warning(), None);
    world.policy(|policy| policy.rotate_required = false);
    terminal.sign_on("shop.example").await.unwrap();
    let (epoch, pending) = epochs(&terminal).await;
    assert_eq!((pending, world.epoch()), (None, (epoch, false)));
    assert!(epoch >= 2 && world.seen(|seen| seen.rotations) <= 20);
    assert!(!world.seen(|seen| seen.suspended));
}

#[tokio::test]
async fn keys_that_wait_are_used_by_the_next_sign_on() {
    let (world, terminal) = World::enrolled().await;
    world.policy(|policy| policy.rotate_required = true);
    terminal.sign_on("shop.example").await.unwrap();
    assert_eq!((epochs(&terminal).await, world.epoch()), ((1, Some(2)), (1, true)));
    world.policy(|policy| policy.rotate_required = false);
    // A sealed refusal shows that the server has them; only an OK erases the old ones.
    world.faults(|faults| faults.denied = true);
    assert!(matches!(terminal.sign_on("shop.example").await, Err(Error::Denied { .. })));
    assert_eq!((epochs(&terminal).await, world.epoch()), ((1, Some(2)), (2, false)));
    world.faults(|faults| faults.denied = false);
    terminal.sign_on("shop.example").await.unwrap();
    assert_eq!(epochs(&terminal).await, (2, None));
    assert_eq!(world.seen(|seen| seen.rotations), 1);
}

#[tokio::test]
async fn an_automatic_rotation_that_fails_is_a_warning() {
    let (world, terminal) = World::enrolled().await;
    world.policy(|policy| policy.rotate_required = true);
    world.mishaps(Rotate, &[Mishap::LoseRequest, Mishap::LoseAnswer]);
    terminal.sign_on("shop.example").await.unwrap();
    let warning = terminal.take_warning().unwrap();
    assert!(warning.contains("next sign-on"), "{warning}");
    assert_eq!(terminal.take_warning(), None);
    terminal.sign_on("shop.example").await.unwrap();
    assert_eq!((terminal.take_warning(), epochs(&terminal).await), (None, (1, Some(2))));
}

#[tokio::test]
async fn a_service_passes_the_envelope_on_when_the_management_server_is_away() {
    let (world, terminal) = World::enrolled().await;
    world.faults(|faults| faults.manager_away = true);
    assert_eq!(terminal.rotate().await.unwrap(), Rotated { epoch: 2, in_use: true });
    assert_eq!(world.seen(|seen| seen.relayed), 2);
    let terminal = Terminal::open(world.path()).await.unwrap();
    terminal.sign_on("shop.example").await.unwrap();
}

const MISHAPS: [Option<Mishap>; 8] = [
    None,
    Some(Mishap::LoseRequest),
    Some(Mishap::LoseAnswer),
    Some(Mishap::Duplicate),
    Some(Mishap::SecondAnswer),
    Some(Mishap::Late),
    Some(Mishap::LateAnswer),
    Some(Mishap::Forge(Code::AuthFailed)),
];

#[tokio::test]
async fn no_mishap_of_the_network_locks_the_terminal_out() {
    let (world, _) = World::enrolled().await;
    for rotate in MISHAPS {
        for first_use in MISHAPS {
            for sign_on in MISHAPS {
                let what = format!("{rotate:?}, {first_use:?}, {sign_on:?}");
                // Both ways: the management server, and the service as a relay.
                world.mishaps(Rotate, &[rotate, rotate].map_or_empty());
                world.mishaps(Directory, &[first_use, first_use].map_or_empty());
                world.mishaps(SignOn, &[sign_on].map_or_empty());
                let terminal = Terminal::open(world.path()).await.unwrap();
                let _ = terminal.rotate().await;
                let _ = terminal.sign_on("shop.example").await;
                // A new process, and a network that works again.
                for message in [Rotate, Directory, SignOn] {
                    world.mishaps(message, &[]);
                }
                world.forget_late_answers();
                let terminal = Terminal::open(world.path()).await.unwrap();
                let outcome = terminal.sign_on("shop.example").await;
                assert!(outcome.is_ok(), "{what}: {outcome:?}");
                assert!(!world.seen(|seen| seen.suspended), "{what}");
            }
        }
    }
    let terminal = Terminal::open(world.path()).await.unwrap();
    let rotated = terminal.rotate().await.unwrap();
    assert!(rotated.in_use && rotated.epoch > 20, "{rotated:?}");
    assert_eq!((epochs(&terminal).await, world.epoch()), ((rotated.epoch, None), (rotated.epoch, false)));
}

trait OrEmpty {
    fn map_or_empty(self) -> Vec<Mishap>;
}

impl<const N: usize> OrEmpty for [Option<Mishap>; N] {
    fn map_or_empty(self) -> Vec<Mishap> {
        self.into_iter().flatten().collect()
    }
}

/// Where a terminal is stopped: at a message, before or after it is processed.
const STOPS: [(crate::harness::Message, Mishap); 4] = [
    (Rotate, Mishap::HangBefore),
    // As before the pending keys are stored: they are at the server alone.
    (Rotate, Mishap::HangAfter),
    // The pending keys are stored, and not used yet.
    (Directory, Mishap::HangBefore),
    // Used, and the answer is lost.
    (Directory, Mishap::HangAfter),
];

#[tokio::test]
async fn a_terminal_whose_state_is_dropped_at_any_step_signs_on() {
    for (message, stop) in STOPS {
        // Once, and again on top of what the first one left behind.
        let (world, terminal) = World::enrolled().await;
        for _ in 0..2 {
            world.mishaps(message, &[stop]);
            let running = tokio::spawn({
                let terminal = terminal.clone();
                async move { terminal.rotate().await }
            });
            world.realm.happened.notified().await;
            running.abort();
            assert!(running.await.unwrap_err().is_cancelled());
        }
        let terminal = Terminal::open(world.path()).await.unwrap();
        terminal.sign_on("shop.example").await.unwrap();
        assert!(terminal.rotate().await.unwrap().in_use, "{message:?} {stop:?}");
        terminal.sign_on("shop.example").await.unwrap();
        assert_eq!(world.epoch(), (epochs(&terminal).await.0, false));
    }
    // Before the envelope is sent: only a counter is used up.
    let (world, terminal) = World::enrolled().await;
    let file = claviger_terminal::CredentialFile::new(world.path());
    file.take_counter().unwrap();
    terminal.sign_on("shop.example").await.unwrap();
    // The first use is a sign-on, whose answer is lost, or which is stopped.
    for stop in [Mishap::HangBefore, Mishap::HangAfter, Mishap::LoseAnswer] {
        world.policy(|policy| policy.rotate_required = true);
        terminal.sign_on("shop.example").await.unwrap();
        assert!(epochs(&terminal).await.1.is_some(), "{stop:?}");
        world.policy(|policy| policy.rotate_required = false);
        world.mishaps(SignOn, &[stop]);
        let running = tokio::spawn({
            let terminal = terminal.clone();
            async move { terminal.sign_on("shop.example").await.map(|_| ()) }
        });
        if stop == Mishap::LoseAnswer {
            running.await.unwrap().unwrap_err();
        } else {
            world.realm.happened.notified().await;
            running.abort();
        }
        let terminal = Terminal::open(world.path()).await.unwrap();
        terminal.sign_on("shop.example").await.unwrap();
        assert_eq!(epochs(&terminal).await.1, None, "{stop:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_killed_at_any_step_signs_on_when_it_is_started_again() {
    let (world, _terminal) = World::enrolled().await;
    let command = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_claviger"));
        command.args(args).env("CLAVIGER_CREDENTIAL", world.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
        command
    };
    for (message, stop) in STOPS {
        world.mishaps(message, &[stop]);
        let mut child = command(&["rotate"]).spawn().unwrap();
        world.realm.happened.notified().await;
        child.kill().await.unwrap(); // SIGKILL
        assert!(command(&["sign-on", "shop.example"]).status().await.unwrap().success(), "{message:?} {stop:?}");
    }
    for delay in 0..15 {
        let mut child = command(&["rotate"]).spawn().unwrap();
        tokio::time::sleep(Duration::from_millis(delay * 4)).await;
        child.kill().await.unwrap();
        assert!(command(&["sign-on", "shop.example"]).status().await.unwrap().success(), "{delay}");
    }
    assert!(command(&["rotate"]).status().await.unwrap().success());
    assert!(!world.seen(|seen| seen.suspended));
}

#[tokio::test(flavor = "multi_thread")]
async fn rotations_of_several_processes_at_once_lock_nobody_out() {
    let (world, terminal) = World::enrolled().await;
    for _ in 0..5 {
        let mut tasks = Vec::new();
        for _ in 0..4 {
            let other = Terminal::open(world.path()).await.unwrap();
            tasks.push(tokio::spawn(async move {
                let _ = other.rotate().await;
                let _ = other.sign_on("shop.example").await;
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        terminal.sign_on("shop.example").await.unwrap();
    }
    assert!(terminal.rotate().await.unwrap().in_use);
    assert!(!world.seen(|seen| seen.suspended));
}

#[tokio::test]
async fn keys_that_the_management_server_does_not_have_are_healed_by_another_rotation() {
    let (world, terminal) = World::enrolled().await;
    world.policy(|policy| policy.rotate_required = true);
    terminal.sign_on("shop.example").await.unwrap();
    world.policy(|policy| policy.rotate_required = false);
    world.forget_pending_epoch();
    // Under the current epoch, since the next one fails; then it rotates anew.
    terminal.sign_on("shop.example").await.unwrap();
    assert_eq!((epochs(&terminal).await, world.epoch()), ((1, Some(2)), (1, true)));
    terminal.sign_on("shop.example").await.unwrap();
    assert_eq!((epochs(&terminal).await, world.epoch()), ((2, None), (2, false)));
    assert_eq!(world.seen(|seen| (seen.sign_ons, seen.rotations)), (4, 2));
}

#[tokio::test]
async fn nothing_unsealed_lowers_suite_or_key_agreement() {
    let (world, terminal) = World::enrolled().await;
    let suite = terminal.credential().await.unwrap().suite;
    for code in [Code::Unsupported, Code::Malformed, Code::Denied] {
        world.mishaps(SignOn, &[Mishap::Forge(code)]);
        world.mishaps(Rotate, &[Mishap::Forge(code)]);
        assert!(matches!(terminal.sign_on("shop.example").await, Err(Error::Refused { .. })), "{code}");
        assert!(matches!(terminal.rotate().await, Err(Error::Refused { .. })), "{code}");
    }
    terminal.rotate().await.unwrap();
    assert_eq!(world.seen(|seen| seen.rotate_kem), Some(KemId::X25519MlKem768));
    // The realm says, over TLS, that it offers less: that is not sealed either.
    world.policy(|policy| policy.kems = vec![KemId::None, KemId::X25519]);
    terminal.refresh_directory().await.unwrap();
    let error = terminal.rotate().await.unwrap_err();
    assert!(matches!(error, Error::Refused { code: Code::Unsupported, .. }), "{error}");
    terminal.sign_on("shop.example").await.unwrap();
    let credential = terminal.credential().await.unwrap();
    assert_eq!((credential.suite, credential.kem), (suite, KemId::X25519));
    assert!(world.seen(|seen| seen.kems.iter().all(|kem| *kem == KemId::X25519)));
}

#[tokio::test]
async fn a_wrong_clock_does_not_keep_a_rotation_from_its_end() {
    let (world, terminal) = World::enrolled().await;
    world.faults(|faults| faults.clock_ms = 7_200_000);
    assert!(terminal.rotate().await.unwrap().in_use);
    assert!((terminal.credential().await.unwrap().clock_offset_ms - 7_200_000).abs() < 10_000);
    world.faults(|faults| faults.clock_ms = 49 * 3_600_000);
    assert!(matches!(terminal.rotate().await, Err(Error::ClockOff { .. })));
}
