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
