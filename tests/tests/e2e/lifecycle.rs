//! A credential's life: enrolment by link or under an administrator's eyes,
//! directory, rotation, private user ids, copies.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
};

use claviger_testkit::{Deployment, Layout, Options, SERVICE, Terminal, run_with_input};
use serde_json::Value;

use crate::support::{Running, start, start_management, start_with};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// A user as the administrator sees it.
fn user(deployment: &Deployment, id: &str) -> Value {
    json(&deployment.admin(&["user", "show", id, "--json"]).unwrap())
}

/// A user with an enrolled terminal that was told nothing of services.
fn enrolled(running: &Running, id: &str, options: &[&str]) -> Terminal {
    let deployment = &running.deployment;
    deployment.admin(&["user", "add", id]).unwrap();
    let terminal = deployment.terminal(id);
    let mut args = Terminal::enrol_args(deployment);
    args.extend(options.iter().map(|option| (*option).to_owned()));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let code = deployment.enrolment_code(id).unwrap();
    run_with_input(&mut terminal.command(&args), &format!("{code}\n")).unwrap();
    terminal
}

fn epoch_at_both(running: &Running, terminal: &Terminal, id: &str) -> (u64, u64) {
    let status = json(&terminal.run(&["status", "--json"]).unwrap());
    let own = status["epoch"].as_u64().unwrap();
    (own, user(&running.deployment, id)["epoch"].as_u64().unwrap())
}

#[test]
fn the_directory_tells_the_terminal_where_services_are() {
    for layout in [Layout::AllInOne, Layout::Split] {
        let running = start(layout);
        let terminal = enrolled(&running, "alice", &[]);
        terminal.run(&["curl", "--fail", &running.deployment.origin()]).unwrap();
        assert_eq!(running.upstream.seen().last().unwrap().header("remote-user"), ["alice"], "{layout:?}");
        // What the user may not reach is not in it.
        let other = ["service", "add", "closed.example", "--origin", "https://closed.example", "--allow-group", "x"];
        running.deployment.admin(&other).unwrap();
        let open = ["service", "add", "open.example", "--origin", "https://open.example"];
        running.deployment.admin(&open).unwrap();
        terminal.run(&["services", "refresh"]).unwrap();
        let services = terminal.run(&["services", "list", "--json"]).unwrap();
        assert!(services.contains("open.example") && !services.contains("closed.example"), "{services}");
    }
}

#[test]
fn keys_are_rotated_when_asked_and_at_once() {
    for layout in [Layout::AllInOne, Layout::Split] {
        let mut running = start(layout);
        let terminal = enrolled(&running, "alice", &[]);
        terminal.run(&["sign-on", &running.deployment.origin()]).unwrap();
        terminal.run(&["rotate"]).unwrap();
        // Pending until their first use; a kill in between loses nothing.
        running.deployment.kill_management();
        running.deployment.start_management().unwrap();
        terminal.run(&["sign-on", SERVICE]).unwrap();
        assert_eq!(epoch_at_both(&running, &terminal, "alice"), (2, 2), "{layout:?}");
        // And by the management server's wish.
        running.deployment.admin(&["user", "require-rotation", "alice"]).unwrap();
        terminal.run(&["sign-on", SERVICE]).unwrap();
        terminal.run(&["sign-on", SERVICE]).unwrap();
        assert_eq!(epoch_at_both(&running, &terminal, "alice"), (3, 3), "{layout:?}");
        assert_eq!(user(&running.deployment, "alice")["rotation_required"], false);
    }
}

#[test]
fn old_keys_rotate_by_themselves() {
    let running = start_management(Layout::AllInOne, "rotate_after = \"1s\"");
    let terminal = enrolled(&running, "alice", &[]);
    std::thread::sleep(std::time::Duration::from_millis(1200));
    terminal.run(&["sign-on", &running.deployment.origin()]).unwrap();
    terminal.run(&["sign-on", SERVICE]).unwrap();
    let (own, theirs) = epoch_at_both(&running, &terminal, "alice");
    assert!(own >= 2 && own == theirs, "{own} {theirs}");
}

#[test]
fn every_suite_and_kem_enrols_signs_on_and_rotates() {
    let lines = r#"suites = ["0x0001", "0x0002", "0x0003", "0x0101", "0x0102"]"#;
    let options = Options { management: lines.to_owned(), service: lines.to_owned(), storage: None };
    let running = start_with(Layout::Split, options);
    for suite in ["0x0001", "0x0002", "0x0003", "0x0101", "0x0102"] {
        for kem in ["none", "x25519", "x25519mlkem768"] {
            let id = format!("u{suite}-{kem}");
            let terminal = enrolled(&running, &id, &["--suite", suite, "--kem", kem]);
            terminal.run(&["curl", "--fail", &running.deployment.origin()]).unwrap();
            assert_eq!(running.upstream.seen().last().unwrap().header("remote-user"), [id.as_str()]);
            terminal.run(&["rotate"]).unwrap();
            terminal.run(&["sign-on", SERVICE]).unwrap();
            assert_eq!(epoch_at_both(&running, &terminal, &id), (2, 2), "{id}");
        }
    }
}

#[test]
fn private_user_ids_stay_hidden_from_the_service() {
    let running = start_management(Layout::Split, "private_user_ids = true");
    let deployment = &running.deployment;
    deployment.admin(&["service", "remove", SERVICE]).unwrap();
    let origin = deployment.origin();
    deployment.admin(&["service", "add", SERVICE, "--origin", &origin, "--release", "groups"]).unwrap();
    let terminal = enrolled(&running, "alice", &[]);
    for _ in 0..4 {
        terminal.run(&["sign-on", &origin]).unwrap();
    }
    terminal.run(&["rotate"]).unwrap();
    terminal.run(&["sign-on", SERVICE]).unwrap();
    terminal.run(&["curl", "--fail", &origin]).unwrap();
    let seen = running.upstream.seen();
    let request = seen.last().unwrap();
    assert_eq!(request.header("remote-user"), request.header("remote-subject"));
    let text = fs::read_to_string(terminal.home().join("credential.json")).unwrap();
    assert!(text.contains("handle"), "the terminal was given a handle");
}

#[test]
fn a_link_is_all_that_a_terminal_needs() {
    let running = start(Layout::AllInOne);
    let deployment = &running.deployment;
    deployment.admin(&["user", "add", "alice"]).unwrap();
    let code = json(&deployment.admin(&["user", "enrol-code", "alice", "--json"]).unwrap());
    let terminal = deployment.terminal("alice");
    let link = code["link"].as_str().unwrap();
    run_with_input(&mut terminal.command(&["enrol"]), &format!("{link}\n")).unwrap();
    let (ca, origin) = (deployment.ca().display().to_string(), deployment.origin());
    terminal.run(&["services", "add", SERVICE, &origin, "--ca", &ca]).unwrap();
    terminal.run(&["curl", "--fail", &origin]).unwrap();
    // Another server's key in the link: refused.
    deployment.admin(&["user", "add", "bob"]).unwrap();
    let code = json(&deployment.admin(&["user", "enrol-code", "bob", "--json"]).unwrap());
    let link = code["link"].as_str().unwrap();
    let at = link.find("spki=").unwrap() + 5;
    let wrong = format!("{}{}{}", &link[..at], "A".repeat(43), &link[at + 43..]);
    assert!(run_with_input(&mut deployment.terminal("bob").command(&["enrol"]), &format!("{wrong}\n")).is_err());
    let qr = deployment.admin(&["user", "enrol-code", "bob", "--qr"]).unwrap();
    let drawn = qr.lines().filter(|line| line.contains(['█', '▀', '▄'])).count();
    assert!(drawn > 20, "{qr}");
}

#[test]
fn an_enrolment_may_wait_for_an_administrator() {
    let mut running = start_management(Layout::AllInOne, "confirm_enrolments = true");
    running.deployment.admin(&["user", "add", "alice"]).unwrap();
    let refused = running.deployment.admin(&["user", "confirm", "alice", "123456"]).unwrap_err();
    assert!(refused.contains("waits"), "{refused}");
    let terminal = running.deployment.terminal("alice");
    let args = Terminal::enrol_args(&running.deployment);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let code = running.deployment.enrolment_code("alice").unwrap();
    let mut command = terminal.command(&args);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(format!("{code}\n").as_bytes()).unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let digits = loop {
        let line = lines.next().expect("the terminal shows digits").unwrap();
        let found: String = line.chars().filter(char::is_ascii_digit).collect();
        if found.len() == 6 {
            break found;
        }
    };
    // The daemon may die meanwhile; wrong digits change nothing.
    running.deployment.kill_management();
    running.deployment.start_management().unwrap();
    let wrong = if digits == "000000" { "000001" } else { "000000" };
    assert!(running.deployment.admin(&["user", "confirm", "alice", wrong]).unwrap_err().contains("do not go on"));
    assert_eq!(user(&running.deployment, "alice")["state"], "new");
    running.deployment.admin(&["user", "confirm", "alice", &digits]).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(user(&running.deployment, "alice")["state"], "active");
    terminal.run(&["sign-on", &running.deployment.origin()]).unwrap();
}

#[test]
fn a_restored_copy_of_a_terminal_is_noticed_at_its_first_use() {
    // A fresh copy, and one that lies further back than the counter window.
    for sign_ons in [1, 70] {
        let running = start(Layout::AllInOne);
        let terminal = enrolled(&running, "alice", &[]);
        terminal.run(&["sign-on", &running.deployment.origin()]).unwrap();
        let backup = running.deployment.directory().join("backup");
        copy(terminal.home(), &backup);
        for _ in 0..sign_ons {
            terminal.run(&["sign-on", SERVICE]).unwrap();
        }
        let copied = Terminal::new(running.deployment.binaries().claviger(), &backup);
        assert!(copied.run(&["sign-on", SERVICE]).is_err(), "{sign_ons}");
        assert_eq!(user(&running.deployment, "alice")["state"], "suspended", "{sign_ons}");
        assert!(terminal.run(&["sign-on", SERVICE]).is_err(), "both copies are out");
        assert!(running.deployment.metrics().unwrap().contains("claviger_reply_processor_clones_total 1"));
        assert!(running.deployment.logs().contains("clone_detected"));
    }
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}
