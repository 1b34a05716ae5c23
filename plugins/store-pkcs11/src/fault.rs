//! What can go wrong inside a job, what helps, and what the host is told.

use claviger_plugin_api::PluginError;
use cryptoki::error::{Error, RvError};

/// Why a job could not be done.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The module said so, and the call had no effect that matters: once that
    /// is repaired the job may run again.
    Module(Error),
    /// The module said so of a write that may have been done all the same.
    InDoubt(Error),
    /// What the module shows cannot be believed: logged out, or its storage is
    /// not whole.
    Lost(String),
    /// This is the answer, whatever is tried.
    Answer(PluginError),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Module(error)
    }
}

impl From<PluginError> for Fault {
    fn from(error: PluginError) -> Self {
        Self::Answer(error)
    }
}

impl Fault {
    /// A fault of a write: what the module refuses before it looks at it was
    /// not done, anything else may have been.
    pub(crate) fn of_write(error: Error) -> Self {
        match &error {
            Error::Pkcs11(
                RvError::UserNotLoggedIn
                | RvError::SessionHandleInvalid
                | RvError::SessionClosed
                | RvError::CryptokiNotInitialized
                | RvError::OperationActive
                | RvError::DeviceMemory,
                _,
            ) => Self::Module(error),
            _ => Self::InDoubt(error),
        }
    }

    /// The same of a job that has written something already and so must not
    /// run again.
    pub(crate) fn in_doubt(self) -> Self {
        match self {
            Self::Module(error) => Self::InDoubt(error),
            Self::Lost(text) => Self::Answer(unavailable(text)),
            other => other,
        }
    }
}

/// What helps against an error of the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// Another session.
    Session,
    /// To log in again where that is lost, and to look up all objects anew.
    Refresh,
    /// To initialise the module anew.
    Reconnect,
    /// Nothing until an operator has seen to it: the PIN.
    Refuse,
    /// Nothing: there is no room.
    Full,
    /// Nothing that is known.
    None,
}

impl Remedy {
    pub(crate) fn of(error: &Error) -> Self {
        let Error::Pkcs11(value, _) = error else { return Self::None };
        match value {
            RvError::SessionHandleInvalid
            | RvError::SessionClosed
            | RvError::SessionReadOnly
            | RvError::OperationActive
            | RvError::OperationNotInitialized
            | RvError::BufferTooSmall => Self::Session,
            RvError::ObjectHandleInvalid
            | RvError::KeyHandleInvalid
            | RvError::GeneralError
            | RvError::FunctionFailed
            | RvError::UserNotLoggedIn => Self::Refresh,
            RvError::CryptokiNotInitialized
            | RvError::DeviceError
            | RvError::DeviceRemoved
            | RvError::TokenNotPresent
            | RvError::TokenNotRecognized
            | RvError::SlotIdInvalid => Self::Reconnect,
            RvError::PinIncorrect
            | RvError::PinInvalid
            | RvError::PinLenRange
            | RvError::PinExpired
            | RvError::PinLocked => Self::Refuse,
            RvError::DeviceMemory => Self::Full,
            _ => Self::None,
        }
    }
}

/// Whether an error says that one key cannot be used, and nothing of the module or of other keys.
pub(crate) fn is_of_one_key(error: &Error) -> bool {
    matches!(
        error,
        Error::Pkcs11(RvError::KeyFunctionNotPermitted | RvError::KeyTypeInconsistent | RvError::KeySizeRange, _)
    )
}

/// Whether an error says that there is no such object: somebody else has destroyed it.
pub(crate) fn is_gone(error: &Error) -> bool {
    matches!(error, Error::Pkcs11(RvError::ObjectHandleInvalid | RvError::KeyHandleInvalid, _))
}

/// An error of the module in one short line: the call and the code.
pub(crate) fn describe(error: &Error) -> String {
    match error {
        Error::Pkcs11(value, function) => format!("C_{function:?} answered {value:?}"),
        other => other.to_string().split_whitespace().collect::<Vec<_>>().join(" "),
    }
}

pub(crate) fn unavailable(text: impl Into<String>) -> PluginError {
    PluginError::Unavailable(text.into())
}

#[cfg(test)]
mod tests {
    use cryptoki::context::Function;

    use super::*;

    #[test]
    fn each_class_of_errors_has_its_remedy() {
        for (value, remedy) in [
            (RvError::OperationActive, Remedy::Session),
            (RvError::SessionHandleInvalid, Remedy::Session),
            (RvError::KeyHandleInvalid, Remedy::Refresh),
            (RvError::GeneralError, Remedy::Refresh),
            (RvError::UserNotLoggedIn, Remedy::Refresh),
            (RvError::CryptokiNotInitialized, Remedy::Reconnect),
            (RvError::DeviceRemoved, Remedy::Reconnect),
            (RvError::TokenNotPresent, Remedy::Reconnect),
            (RvError::PinIncorrect, Remedy::Refuse),
            (RvError::PinLocked, Remedy::Refuse),
            (RvError::DeviceMemory, Remedy::Full),
            (RvError::MechanismInvalid, Remedy::None),
        ] {
            assert_eq!(Remedy::of(&Error::Pkcs11(value, Function::Sign)), remedy, "{value:?}");
        }
        assert_eq!(Remedy::of(&Error::NullFunctionPointer), Remedy::None);
    }

    #[test]
    fn a_write_is_in_doubt_unless_it_was_refused_beforehand() {
        let fault = |value| Fault::of_write(Error::Pkcs11(value, Function::CreateObject));
        assert!(matches!(fault(RvError::UserNotLoggedIn), Fault::Module(_)));
        assert!(matches!(fault(RvError::GeneralError), Fault::InDoubt(_)));
        assert!(matches!(fault(RvError::DeviceRemoved), Fault::InDoubt(_)));
        assert!(matches!(fault(RvError::UserNotLoggedIn).in_doubt(), Fault::InDoubt(_)));
    }

    #[test]
    fn errors_are_one_short_line() {
        let error = Error::Pkcs11(RvError::PinIncorrect, Function::Login);
        assert_eq!(describe(&error), "C_Login answered PinIncorrect");
    }
}
