//! Running tools: with their output taken, and within bounds.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use claviger_testkit::Result;

use super::table::Check;

/// How long one run of a tool may take, in seconds.
const LIMIT: &str = "900";

/// Runs a program in `directory` to its end. What it printed on standard
/// output; an error when it failed or took too long.
pub(super) fn output(program: &Path, args: &[&str], directory: &Path) -> Result<String> {
    let name = program.display();
    let mut command = Command::new("timeout");
    command.arg(LIMIT).arg(program).args(args).current_dir(directory).stdin(Stdio::null());
    let output = command.output().map_err(|error| format!("timeout {name}: {error}"))?;
    match output.status.code() {
        Some(0) => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Some(124) => Err(format!("{name}: no verdict within {LIMIT} s")),
        _ => {
            let text = [output.stderr, output.stdout].concat();
            Err(format!("{name}: {}: {}", output.status, String::from_utf8_lossy(&text).trim()))
        }
    }
}

/// A variant's model, through the C preprocessor, as a file of its own.
pub(super) fn preprocess(check: &Check, models: &Path, extension: &str, work: &Path) -> Result<PathBuf> {
    let source = models.join(format!("{}.{extension}", check.model)).display().to_string();
    let made = work.join(format!("model.{extension}"));
    let defines: Vec<_> = check.with.iter().map(|with| format!("-D{with}")).collect();
    let target = made.display().to_string();
    let mut args = vec!["-E", "-P", "-undef", "-x", "c"];
    args.extend(defines.iter().map(String::as_str));
    args.extend([source.as_str(), "-o", target.as_str()]);
    output(Path::new("gcc"), &args, work)?;
    Ok(made)
}
