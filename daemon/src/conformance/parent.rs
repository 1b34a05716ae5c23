//! Starts a process for each check, and gathers what they found.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::{
    LOAD, Outcome, Plan, Report,
    calls::Calls,
    child::{Order, Verdict},
};
use crate::plugin_host::{PluginLoadError, inspect::inspect};

/// Why a plugin was not tested at all.
#[derive(Debug, thiserror::Error)]
pub enum TestError {
    /// The file is no plugin for this daemon.
    #[error(transparent)]
    File(#[from] PluginLoadError),
    /// No check has such a name.
    #[error("no check matches the filter; without one the report has all names")]
    NoCheck,
    /// A process could not be started, or its files not be made.
    #[error("the checks cannot be run: {0}")]
    Io(#[from] io::Error),
}

/// Makes all checks, and tells `seen` of each as soon as it has ended.
///
/// # Errors
/// When the plugin was not tested. Checks that fail are in the report.
pub fn run(plan: &Plan, mut seen: impl FnMut(&Outcome)) -> Result<Report, TestError> {
    let described = inspect(&plan.file)?;
    let mut calls = Calls::default();
    let mut checks = Vec::new();
    let mut note = |outcome: Outcome, checks: &mut Vec<Outcome>| {
        seen(&outcome);
        checks.push(outcome);
    };

    let (outcome, verdict) = check(plan, LOAD)?;
    let loaded = outcome.ok;
    note(outcome, &mut checks);
    if loaded {
        let wanted = |name: &String| plan.filter.is_empty() || plan.filter.iter().any(|part| name.contains(part));
        let names: Vec<String> = verdict.delivered.checks().into_iter().filter(wanted).collect();
        if names.is_empty() {
            return Err(TestError::NoCheck);
        }
        calls.add(verdict.calls);
        for name in names {
            let (outcome, verdict) = check(plan, &name)?;
            calls.add(verdict.calls);
            note(outcome, &mut checks);
        }
        for (name, outcome, what) in OVER_ALL {
            note(none_was(&calls, name, outcome, what), &mut checks);
        }
    }
    let failed = checks.iter().filter(|check| !check.ok).count();
    Ok(Report {
        file: plan.file.clone(),
        sha256: described.sha256,
        name: described.description.name,
        version: described.description.version,
        passed: checks.len() - failed,
        failed,
        checks,
        calls: calls.latencies(),
    })
}

/// What must not have happened in any check: name, outcome of a call, what it means.
const OVER_ALL: [(&str, &str, &str); 3] = [
    ("calls.none_panicked", "panicked", "panicked; the panic is in the log of the check that made the call"),
    ("calls.all_ended_within_the_deadline", "deadline", "did not end within the deadline"),
    ("calls.all_answers_kept_the_contract", "broken_contract", "had an answer that the daemon does not take"),
];

fn none_was(calls: &Calls, name: &str, outcome: &str, what: &str) -> Outcome {
    let found = calls.with_outcome(outcome);
    let list = found.iter().map(|(call, count)| format!("{count} of {call}")).collect::<Vec<_>>().join(", ");
    let detail = (!found.is_empty()).then(|| format!("{list} {what}"));
    Outcome { name: name.to_owned(), ok: found.is_empty(), seconds: 0.0, detail, log: Vec::new() }
}

/// One check in a process of its own.
fn check(plan: &Plan, name: &str) -> Result<(Outcome, Verdict), TestError> {
    let directory = TempDir::with_prefix("clavigerd-plugin-test-")?;
    let (verdict, log) = (directory.path().join("verdict.json"), directory.path().join("log"));
    let order = Order { plan: plan.clone(), directory: directory.path().to_owned(), verdict: verdict.clone() };
    let start = Instant::now();
    // What the plugin prints goes to the log as well.
    let file = File::create(&log)?;
    let mut child = Command::new("/proc/self/exe")
        .args(["plugin", "test", "--check", name])
        .arg(&plan.file)
        .env_remove("CLAVIGER_CONFIG")
        .stdin(Stdio::piped())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()?;
    if let Some(mut input) = child.stdin.take() {
        // Settings may hold what is nobody else's business, and a command line is everybody's.
        // A child that has ended already does not read them.
        let _ = input.write_all(&serde_json::to_vec(&order).map_err(io::Error::other)?);
    }
    let ended = wait(&mut child, start + plan.timeout)?;
    let seconds = start.elapsed().as_secs_f64();
    let found: Option<Verdict> = fs::read(&verdict).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let found = found.unwrap_or_else(|| {
        let fault = ended.map_or_else(|| format!("no end within {:?}", plan.timeout), unexpected);
        Verdict { fault: Some(fault), ..Verdict::default() }
    });
    let lines = if found.fault.is_some() { tail(&log) } else { Vec::new() };
    let (ok, detail) = (found.fault.is_none(), found.fault.clone());
    Ok((Outcome { name: name.to_owned(), ok, seconds, detail, log: lines }, found))
}

/// Until the child has ended, or was ended at its time.
fn wait(child: &mut Child, end: Instant) -> io::Result<Option<ExitStatus>> {
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= end {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

fn unexpected(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("the process was ended by signal {signal}: the plugin aborted or crashed"),
        (_, code) => format!("the process ended with code {}", code.unwrap_or_default()),
    }
}

fn tail(log: &Path) -> Vec<String> {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].to_vec()
}

const LOG_LINES: usize = 10;
