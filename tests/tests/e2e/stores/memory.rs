//! With the custody of a module, a user's unique key is nowhere in the daemon's
//! memory: whoever takes a picture of it cannot sign on as the user later.

use std::{
    fs::{self, File},
    hash::{BuildHasher, Hasher, RandomState},
    os::unix::fs::FileExt,
    sync::Arc,
};

use claviger_servers::{Postgres, SoftHsm};
use claviger_testkit::{Deployment, Layout, SERVICE, Storage};
use data_encoding::HEXLOWER;

use super::{custody_over_postgres, life::sign_on, pkcs11_objects};
use crate::{
    secrecy::{find_any, secrets_named},
    support::start_on,
};

#[test]
fn holds_no_unique_key_of_a_token_that_keeps_everything() {
    holds_no_unique_key(pkcs11_objects(&Arc::new(SoftHsm::new())));
}

#[test]
fn holds_no_unique_key_of_a_token_beside_postgres() {
    holds_no_unique_key(custody_over_postgres(&Arc::new(SoftHsm::new()), &Arc::new(Postgres::start(""))));
}

fn holds_no_unique_key(storage: Storage) {
    let running = start_on(Layout::AllInOne, Some(storage));
    let deployment = &running.deployment;
    // The control: 32 bytes, as hard to guess as a key, that the daemon does keep.
    let random = || RandomState::new().build_hasher().finish();
    let pin: String = (0..4).map(|_| format!("{:016x}", random())).collect();
    deployment.admin(&["service", "add", "control.example", "--key-pin", &pin]).unwrap();
    let control = HEXLOWER.decode(pin.as_bytes()).unwrap();

    let alice = deployment.enrolled("alice").unwrap();
    let mut keys = secrets_named(&alice, &["unique_key"]);
    for _ in 0..5 {
        assert_eq!(sign_on(&alice), Some(0));
    }
    // And a rotation, by which another key goes through the daemon.
    alice.run(&["rotate"]).unwrap();
    assert_eq!(sign_on(&alice), Some(0));
    keys.extend(secrets_named(&alice, &["unique_key"]));
    assert!(alice.run(&["sign-on", SERVICE]).is_ok());

    let mut needles = vec![control, b"alice".to_vec()];
    needles.extend(keys);
    let found = search(deployment, &needles);
    assert!(found.contains(&0), "the search finds what is there");
    assert!(found.iter().all(|needle| *needle < 2), "a unique key is in the daemon's memory: {found:?}");
}

/// Which of the needles are in the management daemon's memory: all of its own pages, those of stacks,
/// heap and modules included.
fn search(deployment: &Deployment, needles: &[Vec<u8>]) -> Vec<usize> {
    let process = deployment.management().unwrap().id();
    let memory = File::open(format!("/proc/{process}/mem")).unwrap();
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
    let (mut found, mut searched) = (Vec::new(), 0);
    for line in maps.lines() {
        // START-END PERMISSIONS OFFSET DEVICE INODE PATH
        let mut fields = line.split_whitespace();
        let (range, permissions) = (fields.next().unwrap(), fields.next().unwrap());
        if !permissions.starts_with("rw") || !permissions.ends_with('p') {
            continue;
        }
        let (start, end) = range.split_once('-').unwrap();
        let [start, end] = [start, end].map(|address| u64::from_str_radix(address, 16).unwrap());
        let mut bytes = vec![0; (end - start) as usize];
        // A mapping may go while it is read.
        if memory.read_exact_at(&mut bytes, start).is_err() {
            continue;
        }
        searched += bytes.len();
        for here in find_any(&bytes, needles) {
            if here > 1 {
                eprintln!("needle {here} of {} bytes in {line}", needles[here].len());
            }
            found.push(here);
        }
    }
    eprintln!("{} MiB searched", searched >> 20);
    found
}
