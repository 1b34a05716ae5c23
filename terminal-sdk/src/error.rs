//! What can go wrong, said so that the reader knows what to do.

use std::{io, path::PathBuf};

use claviger_protocol::{Code, terminal::enrol::EnrolError};

use crate::Origin;

/// The result of this library.
pub type Result<T> = std::result::Result<T, Error>;

/// Why the terminal could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no credential.
    #[error("this terminal is not enrolled: there is no {}; run `claviger enrol`", .path.display())]
    NotEnrolled {
        /// Where the credential was expected.
        path: PathBuf,
    },
    /// There is a credential already, and it was not asked to be replaced.
    #[error("{} holds the credential of {user} already; to give it up for a new one, enrol with `--replace`", .path.display())]
    AlreadyEnrolled {
        /// The credential's file.
        path: PathBuf,
        /// Whom it belongs to.
        user: String,
    },
    /// Others could read or change a file or directory with secrets.
    #[error("{} can be {open_to} (mode {mode:04o}); run `chmod {fix} {}`", .path.display(), .path.display())]
    Exposed {
        /// The file or directory.
        path: PathBuf,
        /// What others could do.
        open_to: &'static str,
        /// Its mode.
        mode: u32,
        /// The argument of chmod that mends it.
        fix: &'static str,
    },
    /// A file is not what this program wrote.
    #[error("{} is damaged: {reason}; restore it or enrol again", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file could not be read or written.
    #[error("cannot {action} {}: {source}", .path.display())]
    File {
        /// What was tried: `read`, `write` …
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Something that was given to the library is not valid.
    #[error("{0}")]
    Invalid(String),
    /// Neither the terminal's table nor the directory has such a service.
    #[error("`{0}` is not among this terminal's services; add it with `claviger services add SERVICE_ID ORIGIN`")]
    UnknownService(String),
    /// The terminal's table has no such service, and the directory did not come.
    #[error("`{target}` is not among this terminal's services, and the directory could not be fetched: {cause}")]
    NoDirectory {
        /// What was asked for.
        target: String,
        /// Why there is no directory.
        #[source]
        cause: Box<Error>,
    },
    /// A session was asked to send its key elsewhere.
    #[error("the session is for {own}; it does not send its key to {asked}")]
    OtherOrigin {
        /// Where the request would have gone.
        asked: String,
        /// Where the session's key may go.
        own: Origin,
    },
    /// No connection, or no answer in time.
    #[error("{origin} cannot be reached: {reason}")]
    Unreachable {
        /// Who was called.
        origin: Origin,
        /// The cause in one line.
        reason: String,
    },
    /// The answer was not of the protocol.
    #[error("{origin} answered with HTTP {status} outside of the protocol; check that it is the right server and port")]
    NotProtocol {
        /// Who was called.
        origin: String,
        /// The HTTP status.
        status: u16,
    },
    /// A refusal that nobody sealed: it may be forged, and changes nothing here.
    #[error("{origin} refused: {}", advice(*.code))]
    Refused {
        /// Who was called.
        origin: String,
        /// The reason it gave.
        code: Code,
    },
    /// A refusal that the management server sealed for this terminal.
    #[error("the management server refused: {}", sealed_advice(*.code))]
    Denied {
        /// The reason.
        code: Code,
    },
    /// The clock is off by more than the protocol corrects without the user.
    #[error("this machine's clock is off by {} hours; set it and try again", .offset_ms.unsigned_abs() / 3_600_000)]
    ClockOff {
        /// The management server's time minus this machine's, in milliseconds.
        offset_ms: i64,
    },
    /// The reply does not belong to the envelope, or is not acceptable.
    #[error("the reply was rejected: {0}; if it happens again, somebody may be tampering with the connection")]
    InvalidReply(&'static str),
    /// The management server's part of an enrolment was not valid.
    #[error("enrolment failed: {0}")]
    Enrolment(#[from] EnrolError),
    /// The keys are stored, and the management server has not confirmed them yet.
    #[error("the keys are stored but not confirmed yet ({0}); the next run of claviger tries again")]
    Unconfirmed(#[source] Box<Error>),
    /// The keys are stored, and an administrator has to compare a string before they count.
    #[error(
        "the keys are stored; they count when your administrator has compared {comparison}; run `claviger enrol` again then"
    )]
    Held {
        /// Six digits, the same on both sides.
        comparison: String,
    },
    /// The cipher library failed, or the suite or key agreement is not offered here.
    #[error("cryptography failed: {0}")]
    Crypto(&'static str),
    /// The request's body could not be read.
    #[error("the request's body cannot be read: {0}")]
    Body(String),
}

/// Errors by whom they concern; the exit status of the `claviger` command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// Something on this machine.
    Terminal,
    /// The management server or the service said no.
    Refused,
    /// There was no answer.
    Unreachable,
}

impl Error {
    /// Whom the error concerns.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Refused { code: Code::Unavailable, .. } | Self::Denied { code: Code::Unavailable } => {
                Blame::Unreachable
            }
            Self::NotProtocol { status: 502..=504, .. } | Self::Unreachable { .. } => Blame::Unreachable,
            Self::Refused { .. } | Self::Denied { .. } | Self::Held { .. } => Blame::Refused,
            Self::Unconfirmed(cause) | Self::NoDirectory { cause, .. } => cause.blame(),
            _ => Blame::Terminal,
        }
    }

    /// Whether the same might succeed in a moment.
    pub(crate) fn is_temporary(&self) -> bool {
        self.blame() == Blame::Unreachable || matches!(self, Self::Refused { code: Code::RateLimited, .. })
    }

    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }
}

fn advice(code: Code) -> &'static str {
    match code {
        Code::Ok => "it did not say why",
        Code::Malformed => "it did not understand the message; update claviger or the server",
        Code::Unsupported => {
            "it does not serve this realm, cipher suite or key agreement; check `claviger status` with your administrator"
        }
        Code::WrongService => {
            "it is another service than this terminal's table says; check the service id with `claviger services`"
        }
        Code::AuthFailed => {
            "it does not know this terminal or enrolment code; if you were enrolled anew or removed, ask for a new code"
        }
        Code::Skew => "it says that this machine's clock is wrong; check the clock",
        Code::Replay => "it says that the message was sent before; try again",
        Code::Denied => "access is denied; ask your administrator",
        Code::Clone => "it says that this credential is in use elsewhere; ask your administrator",
        Code::BindMismatch => "it did not accept the binding to the connection; try again without a proxy in between",
        Code::RateLimited => "too many requests; wait a minute and try again",
        Code::Unavailable => "the management server is away at the moment; try again",
    }
}

fn sealed_advice(code: Code) -> &'static str {
    match code {
        Code::Denied => {
            "you may not use this service, or your account or terminal is suspended; ask your administrator"
        }
        Code::Clone => {
            "this credential is in use in two places or was restored from a backup, and is suspended now; \
             tell your administrator and enrol again"
        }
        Code::Skew => "this machine's clock is wrong, and correcting for it did not help; set the clock",
        other => advice(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_says_what_to_do() {
        for code in Code::ALL.into_iter().filter(|code| *code != Code::Ok) {
            for text in
                [Error::Refused { origin: "https://a".into(), code }.to_string(), Error::Denied { code }.to_string()]
            {
                assert!(text.contains(';') && !text.contains('\n'), "{text}");
            }
        }
    }

    #[test]
    fn blame_follows_the_cause() {
        let refused = |code| Error::Refused { origin: "https://a".into(), code };
        for (error, blame) in [
            (refused(Code::AuthFailed), Blame::Refused),
            (refused(Code::Unavailable), Blame::Unreachable),
            (Error::Denied { code: Code::Clone }, Blame::Refused),
            (Error::Unconfirmed(Box::new(refused(Code::Unavailable))), Blame::Unreachable),
            (Error::NotProtocol { origin: "https://a".into(), status: 404 }, Blame::Terminal),
            (Error::NotProtocol { origin: "https://a".into(), status: 502 }, Blame::Unreachable),
        ] {
            assert_eq!(error.blame(), blame, "{error}");
        }
    }
}
