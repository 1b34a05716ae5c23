//! SPIN: explores every state of a Promela model.

use std::path::{Path, PathBuf};

use claviger_testkit::Result;

use super::{
    Prover,
    command::output,
    table::{Check, Verdict},
};
use crate::packages::{self, MODELS, SPIN};

pub(super) struct Spin {
    models: PathBuf,
    work: PathBuf,
}

impl Spin {
    pub(super) fn ready(models: &Path, work: PathBuf) -> Result<Self> {
        packages::ensure(MODELS)?;
        packages::ensure(SPIN)?;
        Ok(Self { models: models.to_owned(), work })
    }
}

impl Prover for Spin {
    fn verdicts(&self, check: &Check) -> Result<Vec<Verdict>> {
        let model = self.models.join(format!("{}.pml", check.model)).display().to_string();
        let defines: Vec<_> = check.with.iter().map(|with| format!("-D{with}")).collect();
        let mut args = vec!["-a"];
        args.extend(defines.iter().map(String::as_str));
        args.push(&model);
        output(Path::new("/usr/bin/spin"), &args, &self.work)?;
        output(Path::new("gcc"), &["-O2", "-w", "-DSAFETY", "-DVECTORSZ=2048", "-o", "pan", "pan.c"], &self.work)?;
        let text = output(&self.work.join("pan"), &[DEPTH, HASH_TABLE], &self.work)?;
        Ok(vec![verdict(&text)?])
    }
}

/// The search's depth, in steps: a search that was cut off is no verdict.
const DEPTH: &str = "-m500000";
/// Two to the power of this many slots.
const HASH_TABLE: &str = "-w24";

/// Reads the report of a verifier.
fn verdict(report: &str) -> Result<Verdict> {
    for trouble in ["max search depth too small", "out of memory", "search not completed"] {
        if report.to_lowercase().contains(trouble) && !report.contains("assertion violated (") {
            return Err(format!("the search is incomplete: {trouble}"));
        }
    }
    let errors = report.split("errors: ").nth(1).and_then(|rest| rest.split_whitespace().next());
    match errors {
        Some("0") => Ok(Verdict::Holds),
        // Anything else that a verifier finds, a deadlock say, is a fault of the model.
        Some(_) if report.contains("assertion violated (") => Ok(Verdict::Attack),
        _ => Err(format!("not the report of a verifier: {}", report.trim())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_read() {
        let holds = "State-vector 40 byte, depth reached 1626, errors: 0\n  1313597 states, stored\n";
        let attack = "pan:1: assertion violated (notes[e]<=1) (at depth 12)\npan: wrote note.pml.trail\n\
                      Warning: Search not completed\nState-vector 40 byte, depth reached 12, errors: 1\n";
        assert_eq!(verdict(holds), Ok(Verdict::Holds));
        assert_eq!(verdict(attack), Ok(Verdict::Attack));
    }

    #[test]
    fn no_verdict_without_a_complete_search() {
        for report in [
            "",
            "error: max search depth too small\nState-vector 40 byte, depth reached 499999, errors: 0\n",
            "pan: out of memory\nState-vector 40 byte, depth reached 12, errors: 0\n",
            "pan:1: invalid end state (at depth 3)\nState-vector 40 byte, depth reached 3, errors: 1\n",
        ] {
            assert!(verdict(report).is_err(), "{report}");
        }
    }
}
