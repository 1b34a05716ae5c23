//! `clavigerd plugin test`: the conformance suites on a built plugin.

use std::{env, fs, path::Path};

use serde_json::{Map, Value};

use super::{
    args::{Common, TestPlugin},
    failure::Failure,
    output::{Lines, Output},
};
use crate::conformance::{Outcome, Plan, Report, run, run_child};

pub(super) fn plugin_test(test: &TestPlugin, common: &Common, output: &Output) -> Result<(), Failure> {
    if let Some(check) = &test.check {
        return Ok(run_child(check)?);
    }
    let plan = Plan {
        file: test.file.clone(),
        settings: settings(common.config.as_deref())?,
        prepare: test.prepare.clone(),
        deadline: test.deadline,
        timeout: test.timeout,
        filter: test.filter.clone(),
    };
    let report = run(&plan, |outcome| line(outcome, output)).map_err(Failure::failed)?;
    output.answer(&report, |report, out| summary(report, &plan, out))?;
    match report.failed {
        0 => Ok(()),
        failed => {
            let of = report.checks.len();
            Err(Failure::Refused {
                word: "checks-failed".to_owned(),
                detail: format!("{failed} of {of} checks failed"),
            })
        }
    }
}

/// The plugin's settings. The option is that of the daemon's configuration too,
/// whose variable may be set for other commands.
fn settings(given: Option<&Path>) -> Result<Value, Failure> {
    let Some(given) = given else { return Ok(Value::Object(Map::new())) };
    let inline = given.to_str().filter(|text| text.trim_start().starts_with('{'));
    if inline.is_none() && given.extension().is_none_or(|extension| extension != "json") {
        if env::var_os("CLAVIGER_CONFIG").is_some_and(|variable| variable == given.as_os_str()) {
            return Ok(Value::Object(Map::new()));
        }
        let text = "--config is the plugin's own settings here: a JSON object, or a file *.json that holds one";
        return Err(Failure::Usage(text.to_owned()));
    }
    let text = match inline {
        Some(text) => text.to_owned(),
        None => fs::read_to_string(given).map_err(|e| Failure::failed(format!("{}: {e}", given.display())))?,
    };
    let settings = serde_json::from_str(&text).map(Value::Object);
    settings.map_err(|e| Failure::Usage(format!("--config: not a JSON object: {e}")))
}

fn line(outcome: &Outcome, output: &Output) {
    let (word, ms) = (if outcome.ok { "ok    " } else { "FAILED" }, outcome.seconds * 1e3);
    output.progress(&format!("{word}  {ms:>6.0} ms  {}", outcome.name));
    for line in outcome.detail.iter().flat_map(|detail| detail.lines()) {
        output.progress(&format!("            {line}"));
    }
    for line in &outcome.log {
        output.progress(&format!("        log: {line}"));
    }
}

fn summary(report: &Report, plan: &Plan, out: &mut Lines) {
    out.line("");
    if !report.calls.is_empty() {
        let micros = |micros: u32| format!("{micros} us");
        out.table(
            ["CALL", "COUNT", "MEDIAN", "P99", "SLOWEST"],
            report.calls.iter().map(|call| {
                let times = [call.median_us, call.p99_us, call.max_us].map(micros);
                let [median, p99, max] = times;
                [call.call.clone(), call.count.to_string(), median, p99, max]
            }),
        );
        out.line("");
    }
    out.line(format!("{} {}: {} checks passed, {} failed", report.name, report.version, report.passed, report.failed));
    let store = report.checks.iter().any(|check| !check.ok && check.name.contains("store."));
    let settings = plan.settings.to_string();
    if store && plan.prepare.is_none() && !settings.contains("{fresh}") && !settings.contains("{unique}") {
        out.line("No setting has {fresh} or {unique}: if the store keeps anything, the checks found what others left.");
    }
}
