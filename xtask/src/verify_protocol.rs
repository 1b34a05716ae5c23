//! `cargo xtask verify-protocol`: the formal models, each with the verdicts it must get.
//!
//! - [`table`]: what is expected, from `tests/models/expected.json`.
//! - [`spin`], [`verifpal`], [`proverif`]: the tools.
//! - [`command`]: running them within bounds.

mod command;
mod proverif;
mod spin;
mod table;
mod verifpal;

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    time::Instant,
};

use clap::ValueEnum;
use claviger_testkit::Result;
use serde::Serialize;

use self::table::{Check, Table, Verdict};
use crate::cargo::{root, target_directory};

/// What models are checked with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Tool {
    /// State machines under loss, repetition and restarts
    Spin,
    /// The sign-on in a bounded number of sessions
    Verifpal,
    /// The whole protocol in an unbounded number of sessions
    Proverif,
}

impl Tool {
    const ALL: [Self; 3] = [Self::Spin, Self::Verifpal, Self::Proverif];

    fn name(self) -> &'static str {
        match self {
            Self::Spin => "spin",
            Self::Verifpal => "verifpal",
            Self::Proverif => "proverif",
        }
    }
}

/// A tool that is ready to check models.
trait Prover {
    /// One verdict for each query, in the model's order. An error when the tool
    /// failed, or came to no verdict in time.
    fn verdicts(&self, check: &Check) -> Result<Vec<Verdict>>;
}

pub(crate) fn run(only: Option<Tool>, json: Option<&Path>) -> Result<()> {
    let started = Instant::now();
    let models = root().join("tests/models");
    let table = Table::read(&models.join("expected.json"))?;
    let work = target_directory().join("verify-protocol");
    let mut lines = Vec::new();
    for tool in Tool::ALL.into_iter().filter(|tool| only.is_none_or(|only| only == *tool)) {
        let directory = work.join(tool.name());
        // Nothing of an earlier run may be taken for a result of this one.
        match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(format!("{}: {error}", directory.display()));
            }
            _ => {}
        }
        fs::create_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        let prover = ready(tool, &models.join(tool.name()), directory)?;
        for check in table.of(tool) {
            lines.extend(examine(tool, prover.as_deref(), check));
        }
    }
    if let Some(file) = json {
        let text = serde_json::to_string_pretty(&lines).map_err(|error| error.to_string())?;
        fs::write(file, text + "\n").map_err(|error| format!("{}: {error}", file.display()))?;
    }
    let count = |outcome| lines.iter().filter(|line| line.outcome == outcome).count();
    let (expected, unexpected) = (count(Outcome::Expected), count(Outcome::Unexpected));
    println!(
        "\n{expected} verdicts as expected, {unexpected} not, {} recorded, not run; {} s",
        count(Outcome::Recorded),
        started.elapsed().as_secs()
    );
    if unexpected > 0 { Err(format!("{unexpected} verdicts are not the expected ones")) } else { Ok(()) }
}

/// Installs or finds a tool; `None` where there is only what was recorded.
fn ready(tool: Tool, models: &Path, work: PathBuf) -> Result<Option<Box<dyn Prover>>> {
    Ok(match tool {
        Tool::Spin => Some(Box::new(spin::Spin::ready(models, work)?)),
        Tool::Verifpal => Some(Box::new(verifpal::Verifpal::ready(models, work)?)),
        Tool::Proverif => match proverif::ProVerif::find(models, work)? {
            Some(found) => Some(Box::new(found)),
            None => {
                println!("==> proverif is not installed: name it in PROVERIF, or put it on the PATH");
                None
            }
        },
    })
}

/// Checks one variant of a model, and prints a line for each of its queries.
fn examine(tool: Tool, prover: Option<&dyn Prover>, check: &Check) -> Vec<Line> {
    let started = Instant::now();
    let result = prover.map(|prover| prover.verdicts(check));
    let seconds = if prover.is_some() { started.elapsed().as_secs_f64() } else { check.seconds.unwrap_or_default() };
    let (verdicts, failure) = match result {
        None => (None, None),
        Some(Ok(verdicts)) if verdicts.len() == check.queries.len() => (Some(verdicts), None),
        Some(Ok(verdicts)) => (None, Some(format!("{} verdicts for {} queries", verdicts.len(), check.queries.len()))),
        Some(Err(error)) => (None, Some(error)),
    };
    let lines = check.queries.iter().enumerate().map(|(index, (query, expected))| {
        let verdict = verdicts.as_ref().and_then(|verdicts| verdicts.get(index)).copied();
        let outcome = match verdict {
            _ if prover.is_none() => Outcome::Recorded,
            Some(verdict) if verdict == *expected => Outcome::Expected,
            _ => Outcome::Unexpected,
        };
        let (model, query) = (check.name(), query.clone());
        Line { tool, model, query, expected: *expected, verdict, outcome, seconds }
    });
    let lines: Vec<_> = lines.inspect(|line| println!("{line}")).collect();
    if let Some(failure) = failure {
        println!("           {failure}");
    }
    lines
}

/// What came of one query.
#[derive(Debug, Serialize)]
struct Line {
    tool: Tool,
    model: String,
    query: String,
    expected: Verdict,
    /// `None` when it was not run, or the tool failed.
    verdict: Option<Verdict>,
    outcome: Outcome,
    /// For all queries of this variant; those of the record when it was not run.
    seconds: f64,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tool, model, query, expected, verdict, outcome, seconds } = self;
        write!(f, "{:10} {:8} {model}: {query}: ", outcome.name(), tool.name())?;
        match (outcome, verdict) {
            (Outcome::Recorded, _) => write!(f, "{expected} (recorded, not run)"),
            (_, Some(verdict)) => write!(f, "{verdict} (expected: {expected})"),
            (_, None) => write!(f, "no verdict (expected: {expected})"),
        }?;
        write!(f, " {seconds:.1} s")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Expected,
    Unexpected,
    Recorded,
}

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Self::Expected => "ok",
            Self::Unexpected => "UNEXPECTED",
            Self::Recorded => "recorded",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(Result<Vec<Verdict>>);

    impl Prover for Fixed {
        fn verdicts(&self, _: &Check) -> Result<Vec<Verdict>> {
            self.0.clone()
        }
    }

    #[test]
    fn only_the_expected_verdict_is_well() {
        let check = Check::example(&[("secret", Verdict::Holds), ("replay", Verdict::Attack)]);
        let (well, wrong) = (Outcome::Expected, Outcome::Unexpected);
        for (result, outcomes) in [
            (Ok(vec![Verdict::Holds, Verdict::Attack]), [well, well]),
            (Ok(vec![Verdict::Holds, Verdict::Holds]), [well, wrong]),
            (Ok(vec![Verdict::Undecided, Verdict::Attack]), [wrong, well]),
            (Ok(vec![Verdict::Holds]), [wrong, wrong]),
            (Err("it ended".into()), [wrong, wrong]),
        ] {
            let lines = examine(Tool::Spin, Some(&Fixed(result.clone())), &check);
            assert_eq!(lines.iter().map(|line| line.outcome).collect::<Vec<_>>(), outcomes, "{result:?}");
        }
    }

    #[test]
    fn without_its_tool_a_verdict_is_recorded() {
        let lines = examine(Tool::Proverif, None, &Check::example(&[("secret", Verdict::Holds)]));
        assert_eq!(lines[0].outcome, Outcome::Recorded);
        assert_eq!(lines[0].verdict, None);
        assert!(lines[0].to_string().contains("holds (recorded, not run)"), "{}", lines[0]);
    }
}
