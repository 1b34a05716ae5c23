//! The command line of administrators, against a running daemon.

use claviger_testkit::{Layout, SERVICE};
use serde_json::Value;

use crate::support::start;

#[test]
fn users_are_listed_in_order_and_answers_are_json_for_scripts() {
    let running = start(Layout::AllInOne);
    let deployment = &running.deployment;
    for user in ["bob", "alice", "zoë"] {
        deployment.admin(&["user", "add", user, "--group", "staff"]).unwrap();
    }
    let list: Value = serde_json::from_str(&deployment.admin(&["user", "list", "--json"]).unwrap()).unwrap();
    let users = list.as_array().or_else(|| list["users"].as_array()).unwrap();
    let ids: Vec<_> = users.iter().map(|user| user["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["alice", "bob", "zoë"]);
    let services: Value = serde_json::from_str(&deployment.admin(&["service", "list", "--json"]).unwrap()).unwrap();
    assert!(services.to_string().contains(SERVICE));
    let plugins: Value = serde_json::from_str(&deployment.admin(&["plugin", "list", "--json"]).unwrap()).unwrap();
    assert!(plugins.to_string().contains("0x0003"), "{plugins}");
    deployment.admin(&["status"]).unwrap();
}

#[test]
fn refusals_say_what_is_wrong_and_exit_with_1() {
    let running = start(Layout::AllInOne);
    let deployment = &running.deployment;
    deployment.admin(&["user", "add", "alice"]).unwrap();
    let cases: [(&[&str], &str); 8] = [
        (&["user", "add", "alice"], "already"),
        (&["user", "add", "a b"], "white space"),
        (&["user", "show", "nobody"], "no user nobody"),
        (&["user", "enrol-code", "nobody"], "no user nobody"),
        (&["user", "delete", "nobody", "--yes"], "no user nobody"),
        (&["service", "add", "Shop"], "service id"),
        (&["service", "add", "other", "--origin", "http://plain.example"], "https"),
        (&["service", "remove", "nothing"], "no service nothing"),
    ];
    for (args, expected) in cases {
        let output = deployment.clavigerd(args).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.contains(expected), "{args:?}: {said}");
    }
}

#[test]
fn a_daemon_that_is_away_is_named_and_exits_with_4() {
    let mut running = start(Layout::AllInOne);
    running.deployment.stop().unwrap();
    let output = running.deployment.clavigerd(&["user", "list"]).output().unwrap();
    assert_eq!(output.status.code(), Some(4), "{}", String::from_utf8_lossy(&output.stderr));
}
