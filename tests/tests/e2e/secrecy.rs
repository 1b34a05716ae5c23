//! No secret in logs, metrics, or the database; rows cannot be exchanged.

use std::{fs, process::Command};

use claviger_testkit::{KEKS, Layout, SERVICE, Terminal, run};
use serde_json::Value;

use crate::support::start;

/// The secrets of a terminal's credential, in the forms in which they could leak.
pub(crate) fn secrets(terminal: &Terminal) -> Vec<Vec<u8>> {
    secrets_named(terminal, &["unique_key", "management_key"])
}

/// Some of them.
pub(crate) fn secrets_named(terminal: &Terminal, names: &[&str]) -> Vec<Vec<u8>> {
    let text = fs::read_to_string(terminal.home().join("credential.json")).unwrap();
    let credential: Value = serde_json::from_str(&text).unwrap();
    let mut found = Vec::new();
    for name in names {
        let value = credential[name].as_str().unwrap();
        let bytes =
            [data_encoding::BASE64URL_NOPAD.decode(value.as_bytes()), data_encoding::HEXLOWER.decode(value.as_bytes())];
        let bytes = bytes.into_iter().flatten().find(|bytes| bytes.len() == 32).unwrap();
        for form in [
            data_encoding::HEXLOWER.encode(&bytes),
            data_encoding::HEXUPPER.encode(&bytes),
            data_encoding::BASE64.encode(&bytes),
            data_encoding::BASE64URL_NOPAD.encode(&bytes),
        ] {
            found.push(form.trim_end_matches('=').as_bytes().to_vec());
        }
        found.push(bytes);
    }
    found
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    !find_any(haystack, &[needle]).is_empty()
}

const ZEROS: [u8; 4096] = [0; 4096];

/// Those of the needles, at least one byte each, that are in the haystack: one pass for all of them.
pub(crate) fn find_any(haystack: &[u8], needles: &[impl AsRef<[u8]>]) -> Vec<usize> {
    let mut by_first = vec![Vec::new(); 256];
    for (at, needle) in needles.iter().enumerate() {
        by_first[usize::from(needle.as_ref()[0])].push(at);
    }
    let mut found = std::collections::BTreeSet::new();
    for (page, bytes) in haystack.chunks(ZEROS.len()).enumerate() {
        if bytes == ZEROS && by_first[0].is_empty() {
            continue; // most of a process's memory
        }
        for (at, first) in bytes.iter().enumerate() {
            let from_here = || &haystack[page * ZEROS.len() + at..];
            let candidates = &by_first[usize::from(*first)];
            found.extend(candidates.iter().filter(|needle| from_here().starts_with(needles[**needle].as_ref())));
        }
    }
    found.into_iter().collect()
}

#[test]
fn no_secret_in_logs_metrics_or_database() {
    for layout in [Layout::AllInOne, Layout::Split] {
        let running = start(layout);
        let deployment = &running.deployment;
        deployment.admin(&["user", "add", "alice"]).unwrap();
        let terminal = deployment.terminal("alice");
        let code = deployment.enrolment_code("alice").unwrap();
        terminal.enrol(deployment, &code).unwrap();
        terminal.run(&["services", "add", SERVICE, &deployment.origin()]).unwrap();
        let signed_on = terminal.run(&["sign-on", SERVICE, "--show-key", "--json"]).unwrap();
        let signed_on: Value = serde_json::from_str(&signed_on).unwrap();
        terminal.run(&["curl", &deployment.origin()]).unwrap();

        let mut secrets = secrets(&terminal);
        secrets.push(code.into_bytes());
        secrets.push(signed_on["key"].as_str().unwrap().as_bytes().to_vec());
        for kek in KEKS {
            let kek = fs::read_to_string(deployment.directory().join(kek)).unwrap();
            secrets.push(kek.trim().as_bytes().to_vec());
            secrets.push(data_encoding::HEXLOWER.decode(kek.trim().as_bytes()).unwrap());
        }

        let mut places = vec![
            ("log".to_owned(), deployment.logs().into_bytes()),
            ("metrics".to_owned(), deployment.metrics().unwrap().into_bytes()),
        ];
        for entry in fs::read_dir(deployment.directory()).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if name.starts_with("users.db") {
                places.push((name, fs::read(&path).unwrap()));
            }
        }
        assert!(places.len() >= 3, "a database was read");
        for (place, bytes) in &places {
            assert!(!bytes.is_empty(), "{place}");
            for secret in &secrets {
                assert!(!contains(bytes, secret), "{layout:?}: a secret of {} bytes in {place}", secret.len());
            }
        }
    }
}

#[test]
fn rows_that_were_exchanged_open_nothing_and_count_as_unavailable() {
    let mut running = start(Layout::AllInOne);
    let alice = running.deployment.enrolled("alice").unwrap();
    let carol = running.deployment.enrolled("carol").unwrap();
    running.deployment.stop().unwrap();
    // Whoever can write the database gives alice's keys to carol, name and all.
    let database = running.deployment.directory().join("users.db");
    let script = "import sqlite3, sys\n\
        db = sqlite3.connect(sys.argv[1])\n\
        (value,) = db.execute(\"select value from records where key = 'user/alice'\").fetchone()\n\
        changed = db.execute(\"update records set value = ? where key = 'user/carol'\", (value.replace(b'alice', b'carol'),))\n\
        assert changed.rowcount == 1\n\
        db.commit()\n";
    run(Command::new("/usr/bin/python3").args(["-c", script]).arg(&database)).unwrap();
    running.deployment.start().unwrap();
    let output = carol.command(&["sign-on", SERVICE]).output().unwrap();
    assert_eq!(output.status.code(), Some(4), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(running.deployment.logs().contains("record_tampered"));
    alice.run(&["sign-on", SERVICE]).unwrap();
}
