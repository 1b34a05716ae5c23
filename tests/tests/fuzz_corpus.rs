//! The committed fuzz corpus, replayed without libFuzzer, and a check that the
//! properties of whole runs can fail.

#[path = "../fuzz/src/lib.rs"]
pub mod fuzz;

use std::{fs, panic, path::Path};

use fuzz::{
    TARGETS,
    world::{Rules, run_with},
};

#[test]
fn the_corpus_holds_every_property() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, run) in TARGETS {
        let mut files: Vec<_> = fs::read_dir(corpus.join(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert!(!files.is_empty(), "{name} has no corpus");
        for file in files {
            let data = fs::read(&file).unwrap();
            assert!(panic::catch_unwind(|| run(&data)).is_ok(), "{name}: {} violates a property", file.display());
        }
    }
}

/// An operation and what it is done to.
type Step = (u8, u8);

/// Operations of the programme of a run, by their numbers in `world`.
const CODE: u8 = 1;
const ENROL: u8 = 2;
const LOGIN: u8 = 4;
const WEAK_LOGIN: u8 = 6;
const ROTATE: u8 = 7;
const SETTLE: u8 = 11;
const DUPLICATE: u8 = 13;
const MANAGER_DIES: u8 = 19;
const HAND_IN: u8 = 20;
/// How the management server dies.
const BEFORE_ANSWER: u8 = 2;

/// The lowest suite floor and the KEM floor X25519; user 0 has the lowest
/// suite, and no clock is wrong.
const WORLD: [u8; 8] = [0, 1, 0, 0, 0, 0, 0, 0];
const ENROLLED: [Step; 3] = [(CODE, 0), (ENROL, 0), (SETTLE, 0)];

fn programme(steps: &[Step]) -> Vec<u8> {
    let steps = ENROLLED.iter().chain(steps).flat_map(|(operation, on)| [*operation, *on]);
    WORLD.into_iter().chain(steps).collect()
}

#[test]
fn each_broken_rule_violates_a_property() {
    let all = Rules::ALL;
    let cases: [(&str, Rules, &[Step]); 5] = [
        ("a service asks for another's", Rules { service_check: false, ..all }, &[(LOGIN, 0), (HAND_IN, 0)]),
        (
            "counters are lost",
            Rules { durable_counters: false, ..all },
            &[(LOGIN, 0), (DUPLICATE, 0), (MANAGER_DIES, BEFORE_ANSWER), (SETTLE, 0)],
        ),
        ("no floors", Rules { floors: false, ..all }, &[(WEAK_LOGIN, 0), (SETTLE, 0)]),
        ("the current keys are not kept", Rules { keeps_current: false, ..all }, &[(ROTATE, 0), (SETTLE, 0)]),
        ("keys leave the server", Rules { keys_stay: false, ..all }, &[(LOGIN, 0), (SETTLE, 0)]),
    ];
    for (what, broken, steps) in cases {
        let data = programme(steps);
        assert_eq!(run_with(all, &data), 1, "{what}: the protocol itself");
        assert!(panic::catch_unwind(|| run_with(broken, &data)).is_err(), "{what}: no property noticed");
    }
}
