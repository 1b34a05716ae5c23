//! Errors as they cross: integers that may gain values, and one text.

use abi_stable::{StableAbi, std_types::RString};

use crate::{CipherError, InitError, PluginError};

/// Why a call failed. A value that the other side does not know is *unavailable*.
#[repr(transparent)]
#[derive(StableAbi, Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorCode(u32);

impl ErrorCode {
    const UNAVAILABLE: Self = Self(1);
    const BUSY: Self = Self(2);
    const CORRUPT: Self = Self(3);
    const INVALID_CALL: Self = Self(4);
    const DEADLINE_EXCEEDED: Self = Self(5);
    const PANICKED: Self = Self(6);
    const FULL: Self = Self(7);
}

/// A [`PluginError`].
#[repr(C)]
#[derive(StableAbi)]
pub struct Failure {
    code: ErrorCode,
    message: RString,
}

impl From<PluginError> for Failure {
    fn from(error: PluginError) -> Self {
        let (code, message) = match error {
            PluginError::Unavailable(message) => (ErrorCode::UNAVAILABLE, message),
            PluginError::Busy => (ErrorCode::BUSY, String::new()),
            PluginError::Full(message) => (ErrorCode::FULL, message),
            PluginError::Corrupt(message) => (ErrorCode::CORRUPT, message),
            PluginError::InvalidCall(message) => (ErrorCode::INVALID_CALL, message),
            PluginError::DeadlineExceeded => (ErrorCode::DEADLINE_EXCEEDED, String::new()),
            PluginError::Panicked => (ErrorCode::PANICKED, String::new()),
        };
        Self { code, message: message.into() }
    }
}

impl From<Failure> for PluginError {
    fn from(failure: Failure) -> Self {
        let message = failure.message.into_string();
        match failure.code {
            ErrorCode::BUSY => Self::Busy,
            ErrorCode::FULL => Self::Full(message),
            ErrorCode::CORRUPT => Self::Corrupt(message),
            ErrorCode::INVALID_CALL => Self::InvalidCall(message),
            ErrorCode::DEADLINE_EXCEEDED => Self::DeadlineExceeded,
            ErrorCode::PANICKED => Self::Panicked,
            _ => Self::Unavailable(message),
        }
    }
}

/// How a cipher call ended.
#[repr(transparent)]
#[derive(StableAbi, Debug, Clone, Copy, PartialEq, Eq)]
pub struct CipherStatus(u32);

impl CipherStatus {
    const OK: Self = Self(0);
    const REJECTED: Self = Self(1);
    const BAD_SIZE: Self = Self(2);
    const FAILED: Self = Self(3);
    /// Also what a panic becomes.
    pub(super) const PANICKED: Self = Self(4);

    pub(super) fn into_result(self) -> Result<(), CipherError> {
        Err(match self {
            Self::OK => return Ok(()),
            Self::REJECTED => CipherError::Rejected,
            Self::BAD_SIZE => CipherError::BadSize,
            Self::PANICKED => CipherError::Panicked,
            _ => CipherError::Failed,
        })
    }
}

impl From<Result<(), CipherError>> for CipherStatus {
    fn from(result: Result<(), CipherError>) -> Self {
        match result {
            Ok(()) => Self::OK,
            Err(CipherError::Rejected) => Self::REJECTED,
            Err(CipherError::BadSize) => Self::BAD_SIZE,
            Err(CipherError::Failed) => Self::FAILED,
            Err(CipherError::Panicked) => Self::PANICKED,
        }
    }
}

/// An [`InitError`], or a panic of `init`.
#[repr(C)]
#[derive(StableAbi)]
pub struct InitFailure {
    code: u32,
    message: RString,
}

impl InitFailure {
    const CONFIGURATION: u32 = 1;
    const UNAVAILABLE: u32 = 2;
    const FAILED: u32 = 3;

    pub(super) fn panicked() -> Self {
        InitError::Failed("the plugin panicked in init".into()).into()
    }
}

impl From<InitError> for InitFailure {
    fn from(error: InitError) -> Self {
        let (code, message) = match error {
            InitError::Configuration(message) => (Self::CONFIGURATION, message),
            InitError::Unavailable(message) => (Self::UNAVAILABLE, message),
            InitError::Failed(message) => (Self::FAILED, message),
        };
        Self { code, message: message.into() }
    }
}

impl From<InitFailure> for InitError {
    fn from(failure: InitFailure) -> Self {
        let message = failure.message.into_string();
        match failure.code {
            InitFailure::CONFIGURATION => Self::Configuration(message),
            InitFailure::UNAVAILABLE => Self::Unavailable(message),
            _ => Self::Failed(message),
        }
    }
}
