//! `cargo xtask test`: everything, with one summary at the end.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
    time::Instant,
};

use claviger_testkit::Result;

use crate::{
    cargo::{self, cargo},
    packages::{self, BUILD, TESTS},
};

pub(crate) fn run(filter: Option<&str>) -> Result<()> {
    let started = Instant::now();
    packages::ensure(BUILD)?;
    packages::ensure(TESTS)?;
    // The end-to-end tests run the programs and load the plugins of this build.
    cargo::run(&["build", "--workspace"])?;
    let mut total = Summary::default();
    for what in [&["--doc"][..], &["--lib", "--bins", "--tests"]] {
        let mut args = vec!["test", "--workspace", "--no-fail-fast"];
        args.extend(what);
        args.extend(filter);
        total.add(&run_tests(&args)?);
    }
    println!("\nall of it in {} s", started.elapsed().as_secs());
    println!("{} passed, {} failed, {} skipped", total.passed, total.failed, total.ignored);
    if total.failed > 0 || !total.well { Err("tests failed".into()) } else { Ok(()) }
}

/// What the test runner said.
#[derive(Debug)]
struct Summary {
    passed: u64,
    failed: u64,
    ignored: u64,
    /// Whether cargo ended well: a test binary may die without a summary.
    well: bool,
}

impl Default for Summary {
    fn default() -> Self {
        Self { passed: 0, failed: 0, ignored: 0, well: true }
    }
}

impl Summary {
    fn add(&mut self, other: &Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
        self.well &= other.well;
    }

    /// Reads `test result: ok. 3 passed; 0 failed; 0 ignored; ...`.
    fn read(&mut self, line: &str) {
        let Some(rest) = line.strip_prefix("test result: ") else { return };
        for part in rest.split([';', '.']) {
            let mut words = part.split_whitespace();
            let number = words.next().and_then(|word| word.parse::<u64>().ok());
            match (number, words.next()) {
                (Some(number), Some("passed")) => self.passed += number,
                (Some(number), Some("failed")) => self.failed += number,
                (Some(number), Some("ignored")) => self.ignored += number,
                _ => {}
            }
        }
    }
}

/// Shows the runner's output as it comes, and sums up its results.
fn run_tests(args: &[&str]) -> Result<Summary> {
    let failed = |error: std::io::Error| format!("cargo {}: {error}", args.join(" "));
    let mut child = cargo(args).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(failed)?;
    let mut summary = Summary::default();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line.map_err(failed)?;
            summary.read(&line);
            println!("{line}");
        }
    }
    summary.well = child.wait().map_err(failed)?.success();
    Ok(summary)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_summed_up() {
        let mut summary = Summary::default();
        summary.read("running 3 tests");
        summary.read("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.43s");
        summary
            .read("test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s");
        assert_eq!((summary.passed, summary.failed, summary.ignored), (4, 2, 1));
    }
}
