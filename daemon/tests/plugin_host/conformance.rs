//! `clavigerd plugin test` on plugins that keep the contract, and on ones that do not.

use std::{
    path::Path,
    process::{Command, Output},
};

use serde_json::{Value, json};

use crate::support::{CIPHER, MISBEHAVING, library};

fn test(file: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clavigerd"));
    command.args(["plugin", "test", "--json"]).arg(file).args(more);
    command.env_remove("CLAVIGER_CONFIG").output().unwrap()
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

/// The report on the plugin that does `how` in `call`, where only these checks are made.
fn misbehaving(call: &str, how: &Value, more: &[&str]) -> Value {
    let mut settings = json!({ "call": call });
    settings.as_object_mut().unwrap().append(how.clone().as_object_mut().unwrap());
    let output = test(&library(MISBEHAVING), &[&["--config", &settings.to_string()], more].concat());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let error: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(error["error"], "checks-failed", "{error}");
    report(&output)
}

fn check<'r>(report: &'r Value, name: &str) -> &'r Value {
    let checks = report["checks"].as_array().unwrap();
    checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no {name} in {report:#}"))
}

fn detail<'r>(report: &'r Value, name: &str) -> &'r str {
    let check = check(report, name);
    assert_eq!(check["ok"], false, "{check}");
    check["detail"].as_str().unwrap()
}

#[test]
fn a_good_plugin_passes_and_its_calls_are_measured() {
    let output = test(&library(CIPHER), &["--filter", "0x0003", "--filter", "0x0102.cipher.published"]);
    assert!(output.status.success(), "{output:?}");
    let report = report(&output);
    assert_eq!((&report["failed"], &report["name"]), (&json!(0), &json!("cipher-aws-lc")), "{report:#}");
    // All of one suite, two of another one, the load, and three over all.
    assert_eq!(report["passed"], 11 + 2 + 1 + 3, "{report:#}");
    let calls = report["calls"].as_array().unwrap();
    let seal = calls.iter().find(|call| call["call"] == "cipher.seal").unwrap();
    assert!(seal["count"].as_u64().unwrap() > 1000 && seal["max_us"].as_u64() >= seal["median_us"].as_u64(), "{seal}");
}

#[test]
fn an_abort_ends_its_own_check_and_no_other() {
    let batches = "user_store.records.batches_come_back_in_order";
    let how = json!({ "how": "abort" });
    let report = misbehaving("user_store.get", &how, &["--filter", batches, "--filter", "user_store.health"]);
    assert!(detail(&report, batches).contains("signal 6"), "{report:#}");
    assert_eq!(check(&report, "user_store.health.a_fresh_store_is_healthy")["ok"], true, "{report:#}");
    assert_eq!(check(&report, "load")["ok"], true, "{report:#}");
}

#[test]
fn a_call_that_blocks_for_ever_is_ended_with_its_process() {
    let name = "user_store.counters.batches_have_a_size";
    // The file is there as long as this test runs.
    let how = json!({ "how": "block", "file": env!("CARGO_BIN_EXE_clavigerd") });
    let report = misbehaving("user_store.consume", &how, &["--filter", name, "--timeout", "3s"]);
    assert!(detail(&report, name).contains("no end within 3s"), "{report:#}");
}

#[test]
fn a_call_that_never_answers_misses_its_deadline() {
    let name = "user_store.counters.batches_have_a_size";
    let more = ["--filter", name, "--deadline", "1s"];
    let report = misbehaving("user_store.consume", &json!({ "how": "hang" }), &more);
    assert!(detail(&report, name).contains("DeadlineExceeded"), "{report:#}");
    let late = detail(&report, "calls.all_ended_within_the_deadline");
    assert!(late.contains("1 of user_store.consume"), "{late}");
}

#[test]
fn panics_and_lies_are_reported_for_what_they_are() {
    let name = "user_store.records.batches_come_back_in_order";
    let report = misbehaving("user_store.get", &json!({ "how": "panic" }), &["--filter", name]);
    assert!(detail(&report, name).contains("Panicked"), "{report:#}");
    assert!(detail(&report, "calls.none_panicked").contains("1 of user_store.get"), "{report:#}");
    let log = check(&report, name)["log"].to_string();
    assert!(log.contains("told to panic in user_store.get"), "{log}");

    let report = misbehaving("user_store.get", &json!({ "how": "lie" }), &["--filter", name]);
    assert!(detail(&report, "calls.all_answers_kept_the_contract").contains("user_store.get"), "{report:#}");
}

#[test]
fn what_cannot_be_tested_is_said_in_one_line() {
    let cipher = library(CIPHER);
    for (file, more, code, line) in [
        (Path::new("/dev/null"), &[][..], 1, "not a regular file"),
        (&cipher, &["--filter", "no such check"], 1, "no check matches"),
        (&cipher, &["--config", "settings.toml"], 2, "a JSON object"),
        (&cipher, &["--config", "{\"a\": 1"], 2, "not a JSON object"),
    ] {
        let output = test(file, more);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), text.contains(line), text.lines().count()), (Some(code), true, 1), "{text}");
    }
    // A plugin that does not load is a report with one check.
    let output = test(&cipher, &["--config", "{\"unknown\": 1}"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(detail(&report(&output), "load").contains("takes no settings"), "{output:?}");
}
