//! `kill -9` at any moment: replays stay refused, new envelopes work, nobody is lost.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use claviger_testkit::{Layout, SERVICE};

use crate::{independent_terminal::PythonTerminal, support::start};

#[test]
fn an_envelope_from_before_the_kill_stays_spent() {
    for layout in [Layout::AllInOne, Layout::Split] {
        let mut running = start(layout);
        let terminal = PythonTerminal::enrol(&running.deployment, "alice", "0x0001", "1");
        let file = running.deployment.directory().join("envelope").display().to_string();
        terminal.sign_on(&["--save-envelope", &file]).unwrap();
        running.deployment.kill_management();
        running.deployment.start_management().unwrap();
        let replayed = terminal.sign_on(&["--send-envelope", &file]);
        let said = replayed.map_or_else(|error| error, |json| json.to_string());
        assert!(said.contains("REPLAY") || said.contains("\"status\":6"), "{layout:?}: {said}");
        terminal.sign_on(&[]).unwrap();
    }
}

#[test]
fn kills_under_load_lose_no_user_and_lock_nobody_out() {
    let mut running = start(Layout::Split);
    let terminals: Vec<_> = (0..4).map(|i| running.deployment.enrolled(&format!("user{i}")).unwrap()).collect();
    let stop = Arc::new(AtomicBool::new(false));
    let refused = Arc::new(Mutex::new(Vec::new()));
    let load: Vec<_> = terminals
        .iter()
        .cloned()
        .map(|terminal| {
            let (stop, refused) = (stop.clone(), refused.clone());
            thread::spawn(move || {
                let mut granted = 0;
                while !stop.load(Ordering::Relaxed) {
                    let output = terminal.command(&["sign-on", SERVICE]).output().unwrap();
                    match output.status.code() {
                        Some(0) => granted += 1,
                        // Refused: nobody may be, whatever the daemon goes through.
                        Some(3) => {
                            refused.lock().unwrap().push(String::from_utf8_lossy(&output.stderr).into_owned());
                        }
                        _ => thread::sleep(Duration::from_millis(20)),
                    }
                }
                granted
            })
        })
        .collect();
    let mut added = Vec::new();
    for round in 0..6 {
        // Changes that were acknowledged right before the kill must be there.
        for i in 0..5 {
            let user = format!("new{round}-{i}");
            running.deployment.admin(&["user", "add", &user]).unwrap();
            added.push(user);
        }
        thread::sleep(Duration::from_millis(50 + 37 * round));
        running.deployment.kill_management();
        running.deployment.start_management().unwrap();
    }
    thread::sleep(Duration::from_millis(500));
    stop.store(true, Ordering::Relaxed);
    let granted: Vec<u32> = load.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert_eq!(*refused.lock().unwrap(), [""; 0], "a kill must never look like a refusal");
    assert!(granted.iter().all(|count| *count > 5), "{granted:?}");
    for user in added {
        running.deployment.admin(&["user", "show", &user]).unwrap();
    }
    for terminal in terminals {
        terminal.run(&["sign-on", SERVICE]).unwrap();
    }
}
