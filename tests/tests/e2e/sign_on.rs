//! The main job: users enrol, sign on, and are known to the application; those
//! who may not are kept out.

use std::process::{Command, Stdio};

use claviger_testkit::{Layout, SERVICE, run};

use crate::support::{counter, start, start_service};

#[test]
fn a_request_reaches_the_application_with_the_users_identity() {
    for layout in [Layout::AllInOne, Layout::Split] {
        let running = start(layout);
        let deployment = &running.deployment;
        deployment
            .admin(&[
                "user",
                "add",
                "alice",
                "--name",
                "Alice Ädams",
                "--email",
                "a@example.org",
                "--group",
                "staff",
                "--group",
                "dev",
            ])
            .unwrap();
        let terminal = deployment.terminal("alice");
        terminal.enrol(deployment, &deployment.enrolment_code("alice").unwrap()).unwrap();
        terminal.run(&["services", "add", SERVICE, &deployment.origin()]).unwrap();
        let answer = terminal.run(&["curl", &format!("{}/a/b?c=d", deployment.origin())]).unwrap();
        assert!(answer.contains("\"remote-user\": \"alice\""), "{answer}");
        let seen = running.upstream.seen();
        let [request] = seen.as_slice() else { panic!("{layout:?}: {seen:?}") };
        assert_eq!(request.target, "/a/b?c=d");
        assert_eq!(request.header("remote-user"), ["alice"]);
        assert_eq!(request.header("remote-groups"), ["staff,dev"]);
        assert_eq!(request.header("remote-email"), ["a@example.org"]);
        assert_eq!(request.header("remote-subject")[0].len(), 43);
        assert_eq!(request.header("authorization"), [""; 0], "the key is the service's, not the application's");
        // The same session again: no second sign-on.
        terminal.run(&["curl", &deployment.origin()]).unwrap();
        let metrics = deployment.metrics().unwrap();
        let granted = counter(&metrics, r#"claviger_reply_processor_requests_total{outcome="ok"}"#);
        assert_eq!(granted, 1.0, "{layout:?}");
    }
}

#[test]
fn identity_headers_of_the_client_never_arrive() {
    let running = start(Layout::AllInOne);
    let terminal = running.deployment.enrolled("alice").unwrap();
    let mut args = vec!["curl".to_owned(), running.deployment.origin()];
    for forged in
        ["Remote-User: root", "REMOTE-USER: root", "Remote_User: root", "remote_groups: wheel", "Remote-Subject: x"]
    {
        args.extend(["-H".to_owned(), forged.to_owned()]);
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    terminal.run(&args).unwrap();
    let seen = running.upstream.seen();
    let request = seen.last().unwrap();
    assert_eq!(request.header("remote-user"), ["alice"]);
    assert_eq!(request.header("remote-groups"), ["staff"]);
    let forged = request.headers.iter().filter(|(_, value)| value == "root" || value == "wheel" || value == "x");
    assert_eq!(forged.count(), 0, "{request:?}");
}

#[test]
fn without_a_key_nothing_reaches_the_application() {
    let running = start(Layout::AllInOne);
    let ca = running.deployment.ca().display().to_string();
    let origin = running.deployment.origin();
    let key = "A".repeat(43);
    for authorization in
        ["X-Nothing: 1", "Authorization: Bearer", &format!("Authorization: Bearer {key}"), "Authorization: Basic YTpi"]
    {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--cacert", &ca, "--write-out", "%{http_code}", "-H", authorization, &origin]);
        let answer = run(&mut curl).unwrap();
        assert!(answer.ends_with("401"), "{authorization}: {answer}");
    }
    assert_eq!(running.upstream.seen(), []);
}

#[test]
fn a_suspended_or_deleted_user_is_refused_at_the_next_sign_on() {
    for layout in [Layout::AllInOne, Layout::Split] {
        let running = start(layout);
        let deployment = &running.deployment;
        let terminal = deployment.enrolled("alice").unwrap();
        let sign_on = |expected: i32| {
            let output = terminal.command(&["sign-on", SERVICE]).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(expected), "{layout:?}: {said}");
            said.into_owned()
        };
        sign_on(0);
        deployment.admin(&["user", "suspend", "alice", "--reason", "left"]).unwrap();
        sign_on(3);
        deployment.admin(&["user", "resume", "alice"]).unwrap();
        sign_on(0);
        deployment.admin(&["user", "delete", "alice", "--yes"]).unwrap();
        sign_on(3);
        let metrics = deployment.metrics().unwrap();
        let count = |outcome: &str| {
            counter(&metrics, &format!("claviger_reply_processor_requests_total{{outcome=\"{outcome}\"}}"))
        };
        assert_eq!((count("ok"), count("denied"), count("auth_failed")), (2.0, 1.0, 1.0));
    }
}

#[test]
fn groups_decide_who_may_use_a_service_and_release_what_it_learns() {
    let running = start(Layout::AllInOne);
    let deployment = &running.deployment;
    deployment.admin(&["service", "remove", SERVICE]).unwrap();
    let terminal = deployment.enrolled("alice").unwrap();
    assert!(terminal.run(&["sign-on", SERVICE]).is_err(), "a service that is not registered gets nothing");
    deployment
        .admin(&["service", "add", SERVICE, "--origin", &deployment.origin(), "--allow-group", "admins"])
        .unwrap();
    assert!(terminal.run(&["sign-on", SERVICE]).is_err());
    deployment.admin(&["service", "remove", SERVICE]).unwrap();
    deployment.admin(&["service", "add", SERVICE, "--allow-group", "staff", "--release", "groups"]).unwrap();
    terminal.run(&["curl", &deployment.origin()]).unwrap();
    let seen = running.upstream.seen();
    let request = seen.last().unwrap();
    assert_eq!(request.header("remote-user"), request.header("remote-subject"), "the user id is not released");
    assert_eq!(request.header("remote-groups"), ["staff"]);
    // What the user does not consent to is not released either.
    terminal.run(&["sign-on", SERVICE, "--share", "name"]).unwrap();
    terminal.run(&["curl", "--share", "name", &deployment.origin()]).unwrap();
    assert_eq!(running.upstream.seen().last().unwrap().header("remote-groups"), [""]);
}

#[test]
fn an_enrolment_code_works_once_and_only_the_last_one() {
    let running = start(Layout::AllInOne);
    let deployment = &running.deployment;
    deployment.admin(&["user", "add", "alice"]).unwrap();
    let first = deployment.enrolment_code("alice").unwrap();
    let second = deployment.enrolment_code("alice").unwrap();
    assert!(deployment.terminal("a").enrol(deployment, &first).is_err(), "a newer code ends the former");
    deployment.terminal("b").enrol(deployment, &second).unwrap();
    assert!(deployment.terminal("c").enrol(deployment, &second).is_err(), "a code is for one terminal");
    let shown = deployment.admin(&["user", "show", "alice", "--json"]).unwrap();
    assert!(shown.contains("\"active\""), "{shown}");
}

#[test]
fn a_new_enrolment_ends_the_old_terminal() {
    let running = start(Layout::AllInOne);
    let deployment = &running.deployment;
    let old = deployment.enrolled("alice").unwrap();
    old.run(&["sign-on", SERVICE]).unwrap();
    let new = deployment.terminal("new");
    new.enrol(deployment, &deployment.enrolment_code("alice").unwrap()).unwrap();
    new.run(&["services", "add", SERVICE, &deployment.origin()]).unwrap();
    new.run(&["sign-on", SERVICE]).unwrap();
    assert!(old.run(&["sign-on", SERVICE]).is_err());
}

#[test]
fn a_service_may_demand_a_challenge_or_the_tls_connection() {
    for binding in ["challenge", "tls-exporter"] {
        let running = start_service(Layout::Split, &format!("binding = \"{binding}\""));
        let terminal = running.deployment.enrolled("alice").unwrap();
        terminal.run(&["curl", &running.deployment.origin()]).unwrap();
        assert_eq!(running.upstream.seen().last().unwrap().header("remote-user"), ["alice"], "{binding}");
    }
}

#[test]
fn large_bodies_are_passed_on() {
    let running = start(Layout::AllInOne);
    let terminal = running.deployment.enrolled("alice").unwrap();
    let file = running.deployment.directory().join("large");
    std::fs::write(&file, vec![b'x'; 20 << 20]).unwrap();
    let data = format!("@{}", file.display());
    terminal.run(&["curl", "--data-binary", &data, &running.deployment.origin()]).unwrap();
    let seen = running.upstream.seen();
    assert_eq!(seen.last().unwrap().method, "POST");
    assert_eq!(seen.last().unwrap().header("content-length"), [(20 << 20).to_string()]);
}

#[test]
fn a_management_server_that_is_away_is_unavailable_and_never_denied() {
    let mut running = start(Layout::Split);
    let terminal = running.deployment.enrolled("alice").unwrap();
    terminal.run(&["sign-on", SERVICE]).unwrap();
    running.deployment.kill_management();
    let output = terminal.command(&["sign-on", SERVICE]).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(4) && said.contains("away"), "{:?} {said}", output.status);
    // The key that was issued before goes on working.
    terminal.run(&["curl", "--fail", &running.deployment.origin()]).unwrap();
    running.deployment.start_management().unwrap();
    terminal.run(&["sign-on", SERVICE]).unwrap();
    assert!(running.deployment.stop().unwrap(), "daemons end well on SIGTERM");
}
