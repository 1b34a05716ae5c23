//! Printing, and the exit status.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use claviger_terminal::{Error, Terminal, error::Blame};
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Why the command fails.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    status: u8,
}

impl Failure {
    /// Something on this machine.
    pub(crate) fn local(message: impl Into<String>) -> Self {
        Self { message: message.into(), status: FAILED }
    }

    /// The service said no.
    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self { message: message.into(), status: REFUSED }
    }

    /// A connection broke.
    pub(crate) fn unreachable(message: impl Into<String>) -> Self {
        Self { message: message.into(), status: UNREACHABLE }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let status = match error.blame() {
            Blame::Terminal => FAILED,
            Blame::Refused => REFUSED,
            Blame::Unreachable => UNREACHABLE,
        };
        Self { message: error.to_string(), status }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::local(format!("the output cannot be written: {error}"))
    }
}

/// Prints a result: lines for people, or JSON.
pub(crate) fn print(json: bool, value: &Value, lines: impl FnOnce() -> String) -> Result<(), Failure> {
    let text = if json { format!("{value:#}") } else { lines() };
    let mut out = io::stdout().lock();
    writeln!(out, "{}", text.trim_end())?;
    Ok(out.flush()?)
}

/// Prints what went wrong beside what was asked for. The outcome stays.
pub(crate) fn warn(terminal: &Terminal) {
    if let Some(warning) = terminal.take_warning() {
        // There is nobody left to tell when this fails.
        let _ = writeln!(io::stderr(), "claviger: warning: {warning}");
    }
}

/// Prints the failure, if any, and gives the exit status.
pub(crate) fn exit(outcome: Result<(), Failure>, json: bool, quiet: bool) -> ExitCode {
    let Err(Failure { message, status }) = outcome else { return ExitCode::SUCCESS };
    let text =
        if json { json!({ "error": message, "exit": status }).to_string() } else { format!("claviger: {message}") };
    if !quiet {
        // There is nobody left to tell when this fails.
        let _ = writeln!(io::stderr(), "{text}");
    }
    ExitCode::from(status)
}

/// A time in milliseconds since 1970 as `2026-11-22T10:00:00Z`.
pub(crate) fn time(ms: u64) -> String {
    i64::try_from(ms / 1000)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| "unknown".into())
}

const FAILED: u8 = 1;
const REFUSED: u8 = 3;
const UNREACHABLE: u8 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_printed_in_utc() {
        assert_eq!(time(1_795_000_000_999), "2026-11-18T11:06:40Z");
        assert_eq!(time(u64::MAX), "unknown");
    }
}
