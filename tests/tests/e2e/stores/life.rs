//! A user's life, the same on every store.

use std::sync::Arc;

use claviger_servers::{Postgres, Redis, RedisCluster, SoftHsm};
use claviger_testkit::{Deployment, Layout, SERVICE, Storage, Terminal};
use serde_json::Value;

use crate::{independent_terminal::PythonTerminal, support::start_on};

#[test]
fn sqlite() {
    live(|| None);
}

#[test]
fn postgres() {
    let server = Arc::new(Postgres::start(""));
    live(|| Some(super::postgres(&server).1));
}

#[test]
fn redis() {
    let server = Arc::new(Redis::start(""));
    live(|| Some(super::redis(&server)));
}

#[test]
fn redis_cluster() {
    let cluster = Arc::new(RedisCluster::start());
    live(|| Some(super::redis_cluster(&cluster)));
}

#[test]
fn pkcs11_objects() {
    live(|| Some(super::pkcs11_objects(&Arc::new(SoftHsm::new()))));
}

#[test]
fn custody_over_postgres() {
    let server = Arc::new(Postgres::start(""));
    live(|| Some(super::custody_over_postgres(&Arc::new(SoftHsm::new()), &server)));
}

/// In both layouts, each on an empty store.
fn live(storage: impl Fn() -> Option<Storage>) {
    for layout in [Layout::AllInOne, Layout::Split] {
        let mut running = start_on(layout, storage());
        let alice = running.deployment.enrolled("alice").unwrap();
        alice.run(&["curl", "--fail", &running.deployment.origin()]).unwrap();
        let seen = running.upstream.seen();
        let request = seen.last().unwrap();
        assert_eq!((request.header("remote-user"), request.header("remote-groups")), (vec!["alice"], vec!["staff"]));

        // New keys, which survive a kill before and after their first use.
        alice.run(&["rotate"]).unwrap();
        restart(&mut running.deployment);
        assert_eq!(sign_on(&alice), Some(0), "{layout:?}: with the new keys");
        restart(&mut running.deployment);
        assert_eq!(sign_on(&alice), Some(0), "{layout:?}: with the new keys, once more");
        let shown = user(&running.deployment, "alice");
        assert_eq!((&shown["state"], &shown["epoch"]), (&"active".into(), &2.into()), "{shown}");

        replays_are_refused(&mut running.deployment);

        let deployment = &running.deployment;
        deployment.admin(&["user", "suspend", "alice", "--reason", "on leave"]).unwrap();
        assert_eq!(sign_on(&alice), Some(3), "{layout:?}: suspended");
        let shown = user(deployment, "alice");
        assert!(shown["state"] == "suspended" && shown.to_string().contains("on leave"), "{shown}");
        deployment.admin(&["user", "resume", "alice"]).unwrap();
        assert_eq!(sign_on(&alice), Some(0), "{layout:?}: resumed");

        // Gone, and then somebody else of that name: the old terminal stays out.
        deployment.admin(&["user", "delete", "alice", "--yes"]).unwrap();
        assert_eq!(sign_on(&alice), Some(3), "{layout:?}: deleted");
        assert!(deployment.admin(&["user", "show", "alice"]).is_err());
        deployment.admin(&["user", "add", "alice"]).unwrap();
        let other = deployment.terminal("another alice");
        other.enrol(deployment, &deployment.enrolment_code("alice").unwrap()).unwrap();
        other.run(&["services", "add", SERVICE, &deployment.origin()]).unwrap();
        assert_eq!((sign_on(&other), sign_on(&alice)), (Some(0), Some(3)), "{layout:?}: added again");

        let listed: Value = serde_json::from_str(&deployment.admin(&["user", "list", "--json"]).unwrap()).unwrap();
        let listed = listed.to_string();
        assert!(["alice", "bob"].iter().all(|id| listed.contains(&format!("\"{id}\""))), "{listed}");
        assert!(running.deployment.stop().unwrap(), "{layout:?}: daemons end well");
    }
}

/// An envelope is good for once, also at a daemon that was killed meanwhile.
fn replays_are_refused(deployment: &mut Deployment) {
    let bob = PythonTerminal::enrol(deployment, "bob", "0x0001", "1");
    let envelope = deployment.directory().join("envelope").display().to_string();
    bob.sign_on(&["--save-envelope", &envelope]).unwrap();
    for _ in 0..2 {
        let replayed = bob.sign_on(&["--send-envelope", &envelope]).unwrap();
        assert_eq!((&replayed["http"], &replayed["status"]), (&401.into(), &6.into()), "{replayed}");
        restart(deployment);
    }
    bob.sign_on(&[]).unwrap();
}

fn restart(deployment: &mut Deployment) {
    deployment.kill_management();
    deployment.start_management().unwrap();
}

/// The exit code: 0 granted, 3 refused, 4 unavailable.
pub(super) fn sign_on(terminal: &Terminal) -> Option<i32> {
    terminal.command(&["sign-on", SERVICE]).output().unwrap().status.code()
}

pub(super) fn user(deployment: &Deployment, id: &str) -> Value {
    serde_json::from_str(&deployment.admin(&["user", "show", id, "--json"]).unwrap()).unwrap()
}
