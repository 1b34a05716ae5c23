//! Verifpal: an active attacker against a bounded number of sessions.

use std::path::{Path, PathBuf};

use claviger_testkit::Result;

use super::{
    Prover,
    command::{output, preprocess},
    table::{Check, Verdict},
};
use crate::{
    cargo::{cargo, target_directory},
    packages::{self, MODELS},
};

/// The version on crates.io that the verdicts were recorded with.
const VERSION: &str = "1.6.7";

pub(super) struct Verifpal {
    program: PathBuf,
    models: PathBuf,
    work: PathBuf,
}

impl Verifpal {
    pub(super) fn ready(models: &Path, work: PathBuf) -> Result<Self> {
        packages::ensure(MODELS)?;
        let program = target_directory().join("tools/bin/verifpal");
        let found = output(&program, &["--version"], &work).unwrap_or_default();
        if found.split_whitespace().last() != Some(VERSION) {
            install(&target_directory().join("tools"))?;
        }
        Ok(Self { program, models: models.to_owned(), work })
    }
}

impl Prover for Verifpal {
    fn verdicts(&self, check: &Check) -> Result<Vec<Verdict>> {
        let model = preprocess(check, &self.models, "vp", &self.work)?.display().to_string();
        let sessions = check.sessions.unwrap_or(2).to_string();
        let args = ["verify", "--quiet", "--result-code", "--color", "never", "--sessions", &sessions, &model];
        verdicts(&output(&self.program, &args, &self.work)?)
    }
}

/// Builds it below `tools`. It asks for a newer compiler than it needs. Its own
/// release profile takes half as long again to build, and saves less than that
/// in a run.
fn install(tools: &Path) -> Result<()> {
    println!("==> installing verifpal {VERSION}");
    let (version, build) = (format!("={VERSION}"), tools.join("build"));
    let mut command = cargo(&["install", "verifpal", "--quiet", "--force", "--locked", "--ignore-rust-version"]);
    command.args(["--version", &version]).arg("--root").arg(tools).arg("--target-dir").arg(build);
    command.env("CARGO_PROFILE_RELEASE_LTO", "off").env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
    command.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "2");
    let status = command.status().map_err(|error| format!("cargo install verifpal: {error}"))?;
    if status.success() { Ok(()) } else { Err("`cargo install verifpal` failed".into()) }
}

/// Reads a result code: a letter and a digit for each query, `c0a1`.
fn verdicts(output: &str) -> Result<Vec<Verdict>> {
    let code = output.lines().last().unwrap_or_default().trim();
    let pairs = code.as_bytes().chunks(2).map(|pair| match pair {
        [b'a'..=b'z', b'0'] => Some(Verdict::Holds),
        [b'a'..=b'z', b'1'] => Some(Verdict::Attack),
        _ => None,
    });
    match pairs.collect::<Option<Vec<_>>>() {
        Some(verdicts) if !verdicts.is_empty() => Ok(verdicts),
        _ => Err(format!("not a result code: {code}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_codes_are_read() {
        assert_eq!(verdicts("c0c1a1\n"), Ok(vec![Verdict::Holds, Verdict::Attack, Verdict::Attack]));
        for code in ["", "c", "c2", "error: no such file", "c0a"] {
            assert!(verdicts(code).is_err(), "{code}");
        }
    }
}
