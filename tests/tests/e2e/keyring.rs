//! The key ring: the loss of a key-encryption key, and rotations, under real daemons.

use std::{
    fs,
    path::PathBuf,
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use claviger_daemon::admin::{AdminClient, api::GoOn};
use claviger_testkit::{Deployment, KEKS, Layout, SERVICE};
use serde_json::Value;

use crate::support::start;

fn keys(deployment: &Deployment, args: &[&str]) -> Value {
    let answer = deployment.admin(&[&["keys"], args, &["--json"]].concat()).unwrap();
    serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer}"))
}

fn file(deployment: &Deployment, name: &str) -> PathBuf {
    deployment.directory().join(name)
}

/// Has the configuration name these key-encryption keys.
fn configure(deployment: &Deployment, keks: &[&str]) {
    let path = deployment.configuration(0);
    let text = fs::read_to_string(&path).unwrap();
    let lines = text.lines().map(|line| match line.starts_with("key_encryption_keys") {
        true => format!("key_encryption_keys = {keks:?}\n"),
        false => format!("{line}\n"),
    });
    fs::write(&path, lines.collect::<String>()).unwrap();
}

/// What the management daemon says when it does not start.
fn refused_start(deployment: &Deployment) -> String {
    let output = deployment.clavigerd(&["run"]).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "it started");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_loss_of_any_one_key_loses_no_user() {
    let mut running = start(Layout::AllInOne);
    let terminal = running.deployment.enrolled("alice").unwrap();
    for lost in KEKS {
        let (path, aside) = (file(&running.deployment, lost), file(&running.deployment, "aside"));
        fs::rename(&path, &aside).unwrap();
        running.deployment.stop().unwrap();
        running.deployment.start().unwrap();
        terminal.run(&["sign-on", SERVICE]).unwrap();
        terminal.run(&["rotate"]).unwrap();
        terminal.run(&["sign-on", SERVICE]).unwrap();
        assert!(running.deployment.logs().contains("not at hand"));
        let status = keys(&running.deployment, &["status"]);
        let problems: Vec<bool> =
            status["recipients"].as_array().unwrap().iter().map(|one| one["problem"].is_string()).collect();
        assert_eq!(problems.iter().filter(|problem| **problem).count(), 1, "{status}");
        // A new data key that the lost one would not open is not made by mistake.
        let refused = running.deployment.admin(&["keys", "rotate"]).unwrap_err();
        assert!(refused.contains(lost) && refused.contains("not at hand"), "{refused}");
        fs::rename(&aside, &path).unwrap();
    }
}

#[test]
fn a_daemon_with_another_key_says_whose_it_would_need_and_ends() {
    let mut running = start(Layout::AllInOne);
    let status = keys(&running.deployment, &["status"]);
    running.deployment.stop().unwrap();
    let other = file(&running.deployment, "other.key").display().to_string();
    running.deployment.admin(&["keys", "init", &other]).unwrap();
    configure(&running.deployment, &["other.key"]);
    let said = refused_start(&running.deployment);
    for recipient in status["recipients"].as_array().unwrap() {
        assert!(said.contains(recipient["id"].as_str().unwrap()), "{said}");
    }
    assert!(said.contains("other.key") && said.contains("management.key_encryption_keys"), "{said}");
}

#[test]
fn credentials_of_systemd_are_keys() {
    let mut running = start(Layout::AllInOne);
    running.deployment.stop().unwrap();
    configure(&running.deployment, &["credential:kek.key"]);
    assert!(refused_start(&running.deployment).contains("LoadCredential"));
    let directory = running.deployment.directory().to_owned();
    let mut command = running.deployment.clavigerd(&["run"]);
    command.env("CREDENTIALS_DIRECTORY", &directory);
    let log = directory.join("credentials.log");
    let mut daemon = claviger_testkit::Process::start("clavigerd", &mut command, &log).unwrap();
    daemon.wait_until("keys status", || running.deployment.admin(&["keys", "status"]).is_ok()).unwrap();
    assert!(daemon.terminate(Duration::from_secs(30)).unwrap());
}

#[test]
fn keys_are_rotated_while_users_sign_on() {
    let mut running = start(Layout::AllInOne);
    let deployment = &running.deployment;
    let terminals: Vec<_> = (0..3).map(|i| deployment.enrolled(&format!("user{i}")).unwrap()).collect();
    let stop = Arc::new(AtomicBool::new(false));
    let failed = Arc::new(Mutex::new(Vec::new()));
    let granted = Arc::new(AtomicU32::new(0));
    let load: Vec<_> = terminals
        .iter()
        .enumerate()
        .map(|(number, terminal)| {
            let (terminal, stop, failed, granted) = (terminal.clone(), stop.clone(), failed.clone(), granted.clone());
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    // One of them has new keys pending each time.
                    let rotated = if number == 0 { terminal.run(&["rotate"]) } else { Ok(String::new()) };
                    match rotated.and_then(|_| terminal.run(&["sign-on", SERVICE])) {
                        Ok(_) => _ = granted.fetch_add(1, Ordering::Relaxed),
                        Err(error) => failed.lock().unwrap().push(error),
                    }
                }
            })
        })
        .collect();
    let before = keys(deployment, &["status"]);
    let former = before["data_keys"][0]["id"].as_str().unwrap().to_owned();
    let made = keys(deployment, &["rotate", "--sole-daemon"])["data_key"].as_str().unwrap().to_owned();
    let done = keys(deployment, &["rewrap", "--sole-daemon", "--page", "2"]);
    let at_least = granted.load(Ordering::Relaxed) + 3;
    while granted.load(Ordering::Relaxed) < at_least && failed.lock().unwrap().is_empty() {
        thread::sleep(Duration::from_millis(20));
    }
    stop.store(true, Ordering::Relaxed);
    load.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(*failed.lock().unwrap(), [""; 0]);
    assert_eq!(done["dropped"], serde_json::json!([former]), "{done}");
    let after = keys(deployment, &["status"]);
    assert_eq!(after["data_keys"].as_array().unwrap().len(), 1, "{after}");
    let under: Vec<&String> = after["secrets"].as_object().unwrap().keys().collect();
    assert_eq!(under, [&made], "{after}");

    // One key-encryption key goes: the other, and a newcomer, open everything.
    let deployment = &mut running.deployment;
    let gone = after["recipients"][0]["id"].as_str().unwrap().to_owned();
    deployment.stop().unwrap();
    let new = file(deployment, "new.key").display().to_string();
    deployment.admin(&["keys", "init", &new]).unwrap();
    configure(deployment, &[KEKS[1], "new.key"]);
    deployment.start().unwrap();
    keys(deployment, &["rotate", "--sole-daemon", "--drop", &gone]);
    keys(deployment, &["rewrap", "--sole-daemon"]);
    deployment.stop().unwrap();
    configure(deployment, &[KEKS[0]]);
    assert!(refused_start(deployment).contains(&gone));
    configure(deployment, &["new.key"]);
    deployment.start().unwrap();
    terminals.iter().for_each(|terminal| _ = terminal.run(&["sign-on", SERVICE]).unwrap());
}

#[test]
fn a_kill_in_the_middle_of_rewrap_loses_nothing() {
    let mut running = start(Layout::AllInOne);
    let terminal = running.deployment.enrolled("alice").unwrap();
    for number in 0..40 {
        let user = format!("user{number}");
        running.deployment.admin(&["user", "add", &user]).unwrap();
        running.deployment.enrolment_code(&user).unwrap();
    }
    keys(&running.deployment, &["rotate", "--sole-daemon"]);
    // Three pages of ten records are done for certain, and another is under way.
    let client = AdminClient::new(file(&running.deployment, "admin0.sock"));
    let page = GoOn { sole_daemon: true, limit: 10 };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for _ in 0..3 {
        assert!(runtime.block_on(client.rewrap(&page)).unwrap().end.is_none());
    }
    let under_way = runtime.spawn(async move { client.rewrap(&page).await });
    running.deployment.kill_management();
    if let Ok(progress) = runtime.block_on(under_way).unwrap() {
        assert!(progress.end.is_none(), "it did not end");
    }
    running.deployment.start_management().unwrap();
    let between = keys(&running.deployment, &["status"]);
    assert_eq!(between["secrets"].as_object().unwrap().len(), 2, "some are sealed anew and some not: {between}");
    terminal.run(&["sign-on", SERVICE]).unwrap();
    let done = keys(&running.deployment, &["rewrap", "--sole-daemon"]);
    assert_eq!(done["dropped"].as_array().unwrap().len(), 1, "{done}");
    terminal.run(&["sign-on", SERVICE]).unwrap();
    // A code from before is as good as ever.
    let late = running.deployment.terminal("late");
    running.deployment.admin(&["user", "add", "late"]).unwrap();
    let code = running.deployment.enrolment_code("late").unwrap();
    keys(&running.deployment, &["rotate", "--sole-daemon"]);
    keys(&running.deployment, &["rewrap", "--sole-daemon"]);
    late.enrol(&running.deployment, &code).unwrap();
}
