//! A terminal that somebody else wrote, in another language, from the
//! protocol's text alone: tests/interop/terminal.py.

use std::{path::PathBuf, process::Command};

use claviger_testkit::{Deployment, Layout, REALM, SERVICE, run, run_with_input};
use serde_json::Value;

use crate::support::{counter, start};

/// The independent terminal with one credential.
pub(crate) struct PythonTerminal {
    credential: PathBuf,
    ca: PathBuf,
    origin: String,
}

impl PythonTerminal {
    /// Adds a user and enrols it.
    pub(crate) fn enrol(deployment: &Deployment, user: &str, suite: &str, kem: &str) -> Self {
        deployment.admin(&["user", "add", user]).unwrap();
        let terminal = Self {
            credential: deployment.directory().join(format!("{user}.json")),
            ca: deployment.ca(),
            origin: deployment.origin(),
        };
        let code = deployment.enrolment_code(user).unwrap();
        let mut command = python(&["enrol", "--server", &deployment.terminals_url(), "--realm", REALM]);
        command.args(["--suite", suite, "--kem", kem]);
        terminal.files(&mut command);
        run_with_input(&mut command, &format!("{code}\n")).unwrap();
        terminal
    }

    /// Signs on; the JSON it prints, or why it failed.
    pub(crate) fn sign_on(&self, options: &[&str]) -> Result<Value, String> {
        let mut command = python(&["sign-on", "--origin", &self.origin, "--service", SERVICE]);
        self.files(command.args(options));
        let said = run(&mut command)?;
        // One object a line: the sign-on, and what came of the options.
        let mut answer = serde_json::Map::new();
        for object in serde_json::Deserializer::from_str(&said).into_iter::<serde_json::Map<_, _>>() {
            answer.extend(object.map_err(|error| format!("{error}: {said}"))?);
        }
        Ok(Value::Object(answer))
    }

    /// The same terminal at the service of another deployment of the realm.
    pub(crate) fn at(&self, deployment: &Deployment) -> Self {
        Self { credential: self.credential.clone(), ca: self.ca.clone(), origin: deployment.origin() }
    }

    /// A request with a key.
    pub(crate) fn get(&self, key: &str) -> Result<String, String> {
        let ca = self.ca.display().to_string();
        // One word: a key may begin with a hyphen.
        run(&mut python(&["get", &self.origin, "--ca", &ca, &format!("--key={key}")]))
    }

    fn files(&self, command: &mut Command) {
        command.arg("--ca").arg(&self.ca).arg("--credential").arg(&self.credential);
    }
}

fn python(args: &[&str]) -> Command {
    // Debian's own interpreter: the package `python3-cryptography` is for that one.
    let mut command = Command::new("/usr/bin/python3");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/interop/terminal.py")).args(args);
    command
}

#[test]
fn it_reproduces_the_published_vectors() {
    let vectors = concat!(env!("CARGO_MANIFEST_DIR"), "/../protocol/tests/vectors/idb1.json");
    let said = run(&mut python(&["vectors", vectors])).unwrap();
    assert!(said.contains("gcm-x25519"), "{said}");
}

#[test]
fn it_enrols_and_signs_on_with_each_suite_and_kem() {
    for layout in [Layout::AllInOne, Layout::Split] {
        let running = start(layout);
        for (suite, kem) in [("0x0001", "0"), ("0x0001", "1"), ("0x0003", "0"), ("0x0003", "1")] {
            let user = format!("user{suite}-{kem}");
            let terminal = PythonTerminal::enrol(&running.deployment, &user, suite, kem);
            let signed_on = terminal.sign_on(&["--scope", "user,groups"]).unwrap();
            assert_eq!((&signed_on["kind"], &signed_on["audience"]), (&1.into(), &SERVICE.into()), "{signed_on}");
            terminal.get(signed_on["key"].as_str().unwrap()).unwrap();
            assert_eq!(running.upstream.seen().last().unwrap().header("remote-user"), [user.as_str()]);
        }
    }
}

#[test]
fn a_replay_is_refused_and_a_wrong_clock_is_corrected() {
    let running = start(Layout::Split);
    let terminal = PythonTerminal::enrol(&running.deployment, "alice", "0x0001", "0");
    let signed_on = terminal.sign_on(&["--replay"]).unwrap();
    assert_eq!(signed_on["replay"]["http"], 401, "{signed_on}");
    assert_eq!(signed_on["replay"]["status"], 6, "{signed_on}");
    assert_eq!(signed_on["replay"]["note_code"], Value::Null, "one envelope, one note: {signed_on}");
    for offset in ["7200", "-7200"] {
        terminal.sign_on(&["--clock-offset", offset]).unwrap();
    }
    let metrics = running.deployment.metrics().unwrap();
    let count =
        |outcome: &str| counter(&metrics, &format!("claviger_reply_processor_requests_total{{outcome=\"{outcome}\"}}"));
    assert_eq!((count("ok"), count("replay"), count("skew")), (3.0, 1.0, 2.0));
}

#[test]
fn a_changed_envelope_fails_and_locks_nobody_out() {
    let running = start(Layout::AllInOne);
    let terminal = PythonTerminal::enrol(&running.deployment, "alice", "0x0001", "0");
    for _ in 0..20 {
        let answer = terminal.sign_on(&["--corrupt"]);
        let said = answer.map_or_else(|error| error, |json| json.to_string());
        assert!(said.contains("AUTH_FAILED") || said.contains('4'), "{said}");
    }
    terminal.sign_on(&[]).unwrap();
}

#[test]
fn a_copied_credential_is_noticed_and_the_user_suspended() {
    let running = start(Layout::AllInOne);
    let terminal = PythonTerminal::enrol(&running.deployment, "alice", "0x0001", "0");
    let backup = std::fs::read(&terminal.credential).unwrap();
    terminal.sign_on(&[]).unwrap();
    std::fs::write(&terminal.credential, backup).unwrap();
    let refused = terminal.sign_on(&[]).unwrap_err();
    assert!(refused.contains("CLONE"), "{refused}");
    assert!(terminal.sign_on(&[]).is_err(), "suspended from then on");
    let user = running.deployment.admin(&["user", "show", "alice", "--json"]).unwrap();
    assert!(user.contains("suspended"), "{user}");
    assert_eq!(counter(&running.deployment.metrics().unwrap(), "claviger_reply_processor_clones_total"), 1.0);
    assert!(running.deployment.logs().contains("clone_detected"));
    // An administrator cannot wave it through; a new enrolment heals it.
    assert!(running.deployment.admin(&["user", "resume", "alice"]).is_err());
    let healed = running.deployment.terminal("healed");
    healed.enrol(&running.deployment, &running.deployment.enrolment_code("alice").unwrap()).unwrap();
    healed.run(&["services", "add", SERVICE, &running.deployment.origin()]).unwrap();
    healed.run(&["sign-on", SERVICE]).unwrap();
}
