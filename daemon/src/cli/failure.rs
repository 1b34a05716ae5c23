//! What goes wrong, in one line each, with its exit code.

use std::{fmt, io};

use serde_json::{Value, json};

use crate::{admin::ClientError, config::ConfigError};

/// Exit code of wrong usage; the same that clap uses.
pub(super) const USAGE: u8 = 2;

/// Why a command did not do what it was asked for.
#[derive(Debug)]
pub(super) enum Failure {
    /// Refused or failed: a word for programs, and a line for people.
    Refused { word: String, detail: String },
    /// Something is missing on the command line that clap could not know of.
    Usage(String),
    /// The configuration is wrong.
    Configuration(ConfigError),
    /// Nobody answers at the socket.
    Unreachable(String),
}

impl Failure {
    /// A failure without a word of its own.
    pub(super) fn failed(error: impl fmt::Display) -> Self {
        Self::Refused { word: "failed".to_owned(), detail: error.to_string() }
    }

    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Refused { .. } => 1,
            Self::Usage(_) => USAGE,
            Self::Configuration(_) => 3,
            Self::Unreachable(_) => 4,
        }
    }

    /// `{"error": WORD, "detail": LINE}`, and the single problems of a configuration.
    pub(super) fn json(&self) -> Value {
        let (word, detail) = match self {
            Self::Refused { word, detail } => (word.as_str(), detail.clone()),
            Self::Usage(detail) => ("usage", detail.clone()),
            Self::Unreachable(detail) => ("unreachable", detail.clone()),
            Self::Configuration(error) => {
                let problems: Vec<Value> = error
                    .problems()
                    .iter()
                    .map(|p| {
                        let position = p.position();
                        json!({
                            "file": p.file(),
                            "line": position.map(|at| at.0),
                            "column": position.map(|at| at.1),
                            "message": p.message(),
                            "expected": p.expectation(),
                            "help": p.advice(),
                        })
                    })
                    .collect();
                let detail = error.problems().first().map(ToString::to_string).unwrap_or_default();
                return json!({ "error": "configuration", "detail": detail, "problems": problems });
            }
        };
        json!({ "error": word, "detail": detail })
    }

    /// For people; several lines for a configuration.
    pub(super) fn text(&self, colour: bool) -> String {
        match self {
            Self::Refused { detail, .. } | Self::Usage(detail) | Self::Unreachable(detail) => {
                format!("clavigerd: {detail}")
            }
            Self::Configuration(error) => error.render(colour),
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Configuration(error)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Refused(problem) => {
                Self::Refused { word: problem.word().to_owned(), detail: problem.detail.clone() }
            }
            ClientError::Unreachable { ref source, .. } => {
                let advice = match source.kind() {
                    io::ErrorKind::PermissionDenied => "; are you root or in admin.allow_uids, and may you open it?",
                    _ => "; does it run? --socket names another socket",
                };
                Self::Unreachable(format!("{error}{advice}"))
            }
            broken => Self::Refused { word: "broken".to_owned(), detail: broken.to_string() },
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::failed(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::Problem;

    #[test]
    fn each_failure_has_its_exit_code_word_and_line() {
        let problem = Problem {
            kind: "urn:claviger:error:not-found".into(),
            title: "Not Found".into(),
            status: 404,
            detail: "there is no user bob".into(),
        };
        let unreachable = ClientError::Unreachable {
            socket: "/run/claviger/admin.sock".into(),
            source: io::Error::from(io::ErrorKind::PermissionDenied),
        };
        for (failure, code, word, line) in [
            (ClientError::Refused(problem).into(), 1, "not-found", "there is no user bob"),
            (ClientError::Broken("EOF".into()).into(), 1, "broken", "no proper answer from the daemon: EOF"),
            (Failure::failed("no space"), 1, "failed", "no space"),
            (Failure::Usage("needs --yes".into()), 2, "usage", "needs --yes"),
            (unreachable.into(), 4, "unreachable", "admin.allow_uids"),
        ] {
            assert_eq!(failure.exit_code(), code, "{failure:?}");
            let json = failure.json();
            assert_eq!(json["error"], word);
            assert!(json["detail"].as_str().is_some_and(|d| d.contains(line)), "{json}");
            assert!(failure.text(false).starts_with("clavigerd: ") && failure.text(false).lines().count() == 1);
        }
    }

    #[test]
    fn a_wrong_configuration_is_listed_problem_by_problem() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("c.toml");
        std::fs::write(&file, "roles = []\nreaml = \"x\"\n").unwrap();
        let failure = Failure::from(crate::config::load_with(&file, []).unwrap_err());
        assert_eq!(failure.exit_code(), 3);
        let json = failure.json();
        let lines: Vec<_> = json["problems"].as_array().unwrap().iter().map(|p| p["line"].as_u64()).collect();
        assert_eq!((&json["error"], lines), (&"configuration".into(), vec![None, Some(1), Some(2)]));
    }
}
