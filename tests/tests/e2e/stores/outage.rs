//! The store goes away under load and comes back: everything in between is
//! *unavailable*, nobody is refused, suspended or lost, and it heals by itself.

use std::{
    fs,
    sync::Arc,
    thread::sleep,
    time::{Duration, Instant},
};

use claviger_servers::{Postgres, Redis, SoftHsm, freeze, thaw};
use claviger_testkit::{Deployment, Layout, Storage};

use super::{
    custody_over_postgres,
    life::{sign_on, user},
    load::Load,
    pkcs11_objects, postgres, redis,
};
use crate::{
    independent_terminal::PythonTerminal,
    support::{Running, counter, start_on},
};

/// How a store goes away, and comes back.
type Outage<'a> = (&'a str, &'a dyn Fn(), &'a dyn Fn());

#[test]
fn of_postgres() {
    let server = Arc::new(Postgres::start(""));
    let running = start_on(Layout::Split, Some(postgres(&server).1));
    let killed: Outage<'_> = ("killed", &|| server.kill(), &|| server.restart());
    let frozen: Outage<'_> = ("frozen", &|| freeze(server.process_id()), &|| thaw(server.process_id()));
    survive(&running, &[killed, frozen]);
}

#[test]
fn of_redis() {
    let server = Arc::new(Redis::start(""));
    let running = start_on(Layout::Split, Some(redis(&server)));
    let killed: Outage<'_> = ("killed", &|| server.kill(), &|| server.restart());
    let frozen: Outage<'_> = ("frozen", &|| server.stop(), &|| server.go_on());
    survive(&running, &[killed, frozen]);
}

#[test]
fn of_a_token_with_everything() {
    let hsm = Arc::new(SoftHsm::new());
    survive_without_token(&hsm, pkcs11_objects(&hsm));
}

#[test]
fn of_a_token_beside_postgres() {
    let hsm = Arc::new(SoftHsm::new());
    survive_without_token(&hsm, custody_over_postgres(&hsm, &Arc::new(Postgres::start(""))));
}

/// The token's storage is moved away, and back.
fn survive_without_token(hsm: &SoftHsm, storage: Storage) {
    let (tokens, elsewhere) = (hsm.tokens(), hsm.directory().join("elsewhere"));
    let moved: Outage<'_> =
        ("moved", &|| fs::rename(&tokens, &elsewhere).unwrap(), &|| fs::rename(&elsewhere, &tokens).unwrap());
    survive(&start_on(Layout::Split, Some(storage)), &[moved]);
}

/// Goes through outages under the load of several terminals.
fn survive(running: &Running, outages: &[Outage<'_>]) {
    let deployment = &running.deployment;
    let terminals: Vec<_> = (0..3).map(|i| deployment.enrolled(&format!("user{i}")).unwrap()).collect();
    let raw = PythonTerminal::enrol(deployment, "raw", "0x0001", "1");
    let rotating = deployment.enrolled("rotating").unwrap();
    let load = Load::start(&terminals);
    load.wait_granted();
    for (what, away, back) in outages {
        deployment.admin(&["user", "add", what]).unwrap();
        let code = deployment.enrolment_code(what).unwrap();
        away();
        load.wait_unavailable();

        // What went over the wire, and what administrators and monitoring are told.
        let said = raw.sign_on(&[]).unwrap_err();
        assert!(said.contains("UNAVAILABLE") && said.contains("HTTP 503"), "{what}: {said}");
        let reason = wait_for_readiness(deployment, 503);
        assert!(reason.contains("\"management\"") && reason.contains("reason"), "{what}: {reason}");
        let output = deployment.clavigerd(&["user", "show", "user0"]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        // Who only keeps the keys is not asked for it.
        let shown = reason.contains("key custody") && output.status.success();
        assert!(shown || said.contains("user store"), "{what}: {said}");

        // What is broken off in the middle loses nothing.
        let enrolling = deployment.terminal(what);
        let enrolled = enrolling.enrol(deployment, &code);
        assert!(enrolled.is_err(), "{what}: {enrolled:?}");
        assert_eq!(rotating.command(&["rotate"]).output().unwrap().status.code(), Some(4), "{what}");

        back();
        let since = Instant::now();
        load.wait_granted();
        wait_for_readiness(deployment, 200);
        let needed = since.elapsed();
        eprintln!(
            "{what}: all terminals signed on again, and the daemon was ready, {needed:?} after the store was back"
        );
        assert!(needed < Duration::from_secs(15), "{what}: {needed:?}");

        enrolling.enrol(deployment, &code).unwrap();
        rotating.run(&["rotate"]).unwrap();
        assert_eq!(sign_on(&rotating), Some(0), "{what}");
        raw.sign_on(&[]).unwrap();
    }
    let (granted, unavailable) = load.end();
    let metrics = deployment.metrics().unwrap();
    let count =
        |outcome: &str| counter(&metrics, &format!("claviger_reply_processor_requests_total{{outcome=\"{outcome}\"}}"));
    for refusal in ["auth_failed", "denied", "replay", "skew", "clone", "malformed"] {
        assert_eq!(count(refusal), 0.0, "{refusal}: {metrics}");
    }
    assert!(granted > 0 && unavailable > 0 && count("unavailable") >= outages.len() as f64, "{granted} {unavailable}");
    for at in 0..terminals.len() {
        assert_eq!(user(deployment, &format!("user{at}"))["state"], "active");
    }
    assert!(!deployment.logs().contains("record_tampered"));
}

/// Waits until the daemon says so; what it says.
fn wait_for_readiness(deployment: &Deployment, status: u16) -> String {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match deployment.readiness() {
            Ok((said, body)) if said == status => return body,
            other => assert!(Instant::now() < deadline, "/readyz: {other:?} instead of {status}"),
        }
        sleep(Duration::from_millis(20));
    }
}
