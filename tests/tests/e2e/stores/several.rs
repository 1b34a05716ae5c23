//! Several daemons on one store are one management server.

use std::{
    process::Command,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use claviger_servers::{Postgres, Redis};
use claviger_testkit::{Deployment, Layout, Options, SERVICE, Storage, Terminal, Upstream, run};
use serde_json::Value;
use tempfile::TempDir;

use super::{
    life::{sign_on, user},
    load::Load,
    postgres, redis,
};
use crate::{
    independent_terminal::PythonTerminal,
    support::{binaries, counter},
};

/// Two deployments on one store, not started.
struct Two {
    a: Deployment,
    b: Deployment,
    upstream: Upstream,
    _directories: [TempDir; 2],
}

impl Two {
    fn prepare(storage: Storage, layouts: [Layout; 2]) -> Self {
        let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let upstream = Upstream::start().unwrap();
        let options = Options { storage: Some(storage), ..Options::default() };
        let [at_a, at_b] = directories.each_ref().map(TempDir::path);
        let a = Deployment::prepare_with(binaries(), at_a, layouts[0], upstream.address(), options).unwrap();
        let b = a.sibling(at_b, layouts[1]).unwrap();
        Self { a, b, upstream, _directories: directories }
    }
}

#[test]
fn two_daemons_on_postgres_are_one_management_server() {
    are_one(postgres(&Arc::new(Postgres::start(""))).1);
}

#[test]
fn kills_of_either_daemon_on_postgres_lose_nothing_and_refuse_nobody() {
    kills_lose_nothing(postgres(&Arc::new(Postgres::start(""))).1);
}

#[test]
fn two_daemons_on_redis_are_one_management_server() {
    are_one(redis(&Arc::new(Redis::start(""))));
}

#[test]
fn kills_of_either_daemon_on_redis_lose_nothing_and_refuse_nobody() {
    kills_lose_nothing(redis(&Arc::new(Redis::start(""))));
}

/// Service daemons that share their state: a key that one issued is good at the other.
#[test]
fn service_daemons_that_share_redis_share_sessions() {
    let server = Arc::new(Redis::start(""));
    for (state, shared) in [("store-redis", true), ("memory", false)] {
        let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let upstream = Upstream::start().unwrap();
        let options =
            Options { service: format!("state = \"{state}\""), storage: Some(redis(&server)), ..Options::default() };
        let [at_a, at_b] = directories.each_ref().map(TempDir::path);
        let mut a = Deployment::prepare_with(binaries(), at_a, Layout::AllInOne, upstream.address(), options).unwrap();
        let mut b = a.sibling(at_b, Layout::AllInOne).unwrap();
        a.start().unwrap();
        b.start().unwrap();
        a.register_service().unwrap();
        let alice = a.enrolled("alice").unwrap();
        let shown: Value =
            serde_json::from_str(&alice.run(&["sign-on", SERVICE, "--show-key", "--json"]).unwrap()).unwrap();
        let key = shown["key"].as_str().unwrap();
        let with_key = |daemon: &Deployment| {
            let ca = daemon.ca().display().to_string();
            let authorization = format!("Authorization: Bearer {key}");
            let mut curl = Command::new("curl");
            curl.args(["--silent", "--output", "/dev/null", "--cacert", &ca, "--write-out", "%{http_code}"]);
            run(curl.args(["-H", &authorization, &daemon.origin()])).unwrap()
        };
        assert_eq!(with_key(&b), if shared { "200" } else { "401" }, "state in {state}");
        assert_eq!(with_key(&a), "200");
    }
}

/// Daemons with both roles behind one name: what happens at one holds at the other.
fn are_one(storage: Storage) {
    let mut two = Two::prepare(storage, [Layout::AllInOne; 2]);
    // Both find an empty store, and make its tables and the realm's keys.
    thread::scope(|scope| {
        scope.spawn(|| two.a.start().unwrap());
        scope.spawn(|| two.b.start().unwrap());
    });
    let (a, b) = (&two.a, &two.b);

    // A service that is registered at one is soon known at the other, and then gone from it.
    a.register_service().unwrap();
    let alice = a.enrolled("alice").unwrap();
    alice.run(&["services", "add", SERVICE, &b.origin()]).unwrap();
    wait_for(|| at(&alice, b) == Some(0), "a service registered at one is known at the other");
    a.admin(&["service", "remove", SERVICE]).unwrap();
    wait_for(|| at(&alice, b) != Some(0), "a service removed at one is gone from the other");
    b.register_service().unwrap();
    wait_for(|| at(&alice, a) == Some(0), "and the other way round");

    // The realm's keys are the same ones: one pseudonym, wherever the user signs on.
    for daemon in [a, b] {
        alice.run(&["curl", "--fail", &daemon.origin()]).unwrap();
    }
    let seen = two.upstream.seen();
    let [.., first, second] = seen.as_slice() else { panic!("{seen:?}") };
    assert_eq!(first.header("remote-subject"), second.header("remote-subject"));

    // Effective at the other at once: suspension, resumption, new keys.
    for (here, there) in [(a, b), (b, a)] {
        here.admin(&["user", "suspend", "alice"]).unwrap();
        assert_eq!(at(&alice, there), Some(3));
        here.admin(&["user", "resume", "alice"]).unwrap();
        assert_eq!(at(&alice, there), Some(0));
    }
    alice.run(&["rotate"]).unwrap(); // at A, where it enrolled
    assert_eq!((at(&alice, b), at(&alice, a)), (Some(0), Some(0)));
    assert_eq!(user(b, "alice")["epoch"], 2);

    // An enrolment code that one made is good at the other, once.
    b.admin(&["user", "add", "bob"]).unwrap();
    let code = b.enrolment_code("bob").unwrap();
    b.terminal("bob").enrol(a, &code).unwrap();
    assert!(b.terminal("copy").enrol(b, &code).is_err());

    // An envelope is good for once, whoever got it.
    let raw = PythonTerminal::enrol(a, "raw", "0x0001", "1");
    for (here, there) in [(a, b), (b, a)] {
        let envelope = here.directory().join("envelope").display().to_string();
        raw.at(here).sign_on(&["--save-envelope", &envelope]).unwrap();
        for daemon in [there, here] {
            let replayed: Value = raw.at(daemon).sign_on(&["--send-envelope", &envelope]).unwrap();
            assert_eq!((&replayed["http"], &replayed["status"]), (&401.into(), &6.into()), "{replayed}");
        }
    }
}

/// One service that asks either daemon, under the load of several terminals.
fn kills_lose_nothing(storage: Storage) {
    let mut two = Two::prepare(storage, [Layout::Split, Layout::Management]);
    two.a.ask_also(&two.b).unwrap();
    two.b.start().unwrap();
    two.a.start().unwrap();
    two.a.register_service().unwrap();
    two.b.admin(&["service", "list"]).unwrap(); // reads them anew, before its next refresh
    let terminals: Vec<_> = (0..3).map(|i| two.a.enrolled(&format!("user{i}")).unwrap()).collect();
    let rotating = two.a.enrolled("rotating").unwrap();
    let raw = PythonTerminal::enrol(&two.a, "raw", "0x0001", "1");
    let envelope = two.a.directory().join("envelope").display().to_string();
    let mut epoch = 1;

    let load = Load::start(&terminals);
    load.wait_granted();
    for round in 0..4 {
        let (dies, lives) = if round % 2 == 0 { (&mut two.a, &two.b) } else { (&mut two.b, &two.a) };
        // What the one that is going to die has acknowledged.
        let new = format!("new{round}");
        dies.admin(&["user", "add", &new]).unwrap();
        dies.admin(&["user", "suspend", &new]).unwrap();
        raw.sign_on(&["--save-envelope", &envelope]).unwrap();
        rotating.run(&["rotate"]).unwrap();
        dies.kill_management();

        load.wait_granted();
        assert_eq!(user(lives, &new)["state"], "suspended");
        let replayed = raw.sign_on(&["--send-envelope", &envelope]).unwrap();
        assert_eq!((&replayed["http"], &replayed["status"]), (&401.into(), &6.into()), "{replayed}");
        wait_for(|| sign_on(&rotating) == Some(0), "new keys of before the kill");
        epoch += 1;
        assert_eq!(user(lives, "rotating")["epoch"], epoch);
        dies.start_management().unwrap();
    }
    let (granted, unavailable) = load.end();
    eprintln!("{granted} sign-ons were granted and {unavailable} unavailable");
    // A kill breaks off what is under way, and the next one asks the other daemon.
    assert!(unavailable <= 4 * 2 * terminals.len() as u32, "{unavailable} were unavailable");
    for daemon in [&two.a, &two.b] {
        assert_eq!(counter(&daemon.metrics().unwrap(), "claviger_reply_processor_clones_total"), 0.0);
    }
    for at in 0..terminals.len() {
        assert_eq!(user(&two.a, &format!("user{at}"))["state"], "active");
    }
}

/// Signs on at a deployment's own service; the exit code.
fn at(terminal: &Terminal, deployment: &Deployment) -> Option<i32> {
    terminal.command(&["sign-on", &deployment.origin()]).output().unwrap().status.code()
}

fn wait_for(reached: impl Fn() -> bool, what: &str) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !reached() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_millis(100));
    }
}
