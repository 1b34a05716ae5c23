//! Status codes (protocol, section 5).

use std::fmt;

/// What a party answers. The numbers are the wire format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Code {
    /// Granted.
    Ok = 0,
    /// The bytes are not a message of the protocol.
    Malformed = 1,
    /// Another version, or a suite, KEM or realm that is not served here.
    Unsupported = 2,
    /// The envelope is for another service.
    WrongService = 3,
    /// It does not authenticate. One answer for an unknown user, a bad unique
    /// key and a bad management authentication key.
    AuthFailed = 4,
    /// The terminal's clock is too far off.
    Skew = 5,
    /// This envelope was seen before.
    Replay = 6,
    /// Authenticated, and not allowed.
    Denied = 7,
    /// Two live copies of one credential.
    Clone = 8,
    /// The binding to a challenge or a TLS connection is missing or wrong.
    BindMismatch = 9,
    /// Too many requests.
    RateLimited = 10,
    /// Something needed for the answer is away. Never a failed authentication.
    Unavailable = 11,
}

impl Code {
    /// Every code, in the order of its number.
    pub const ALL: [Self; 12] = [
        Self::Ok,
        Self::Malformed,
        Self::Unsupported,
        Self::WrongService,
        Self::AuthFailed,
        Self::Skew,
        Self::Replay,
        Self::Denied,
        Self::Clone,
        Self::BindMismatch,
        Self::RateLimited,
        Self::Unavailable,
    ];

    /// From the wire byte; `None` for a number that is not assigned.
    pub fn from_wire(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }

    /// The wire byte.
    pub fn to_wire(self) -> u8 {
        self as u8
    }

    /// The HTTP status that repeats the code (protocol, section 14).
    pub fn http_status(self) -> u16 {
        match self {
            Self::Ok => 200,
            Self::Malformed | Self::Unsupported | Self::BindMismatch => 400,
            Self::WrongService => 421,
            Self::AuthFailed | Self::Skew | Self::Replay | Self::Clone => 401,
            Self::Denied => 403,
            Self::RateLimited => 429,
            Self::Unavailable => 503,
        }
    }

    /// A short stable name, for logs and metric labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Malformed => "malformed",
            Self::Unsupported => "unsupported",
            Self::WrongService => "wrong_service",
            Self::AuthFailed => "auth_failed",
            Self::Skew => "skew",
            Self::Replay => "replay",
            Self::Denied => "denied",
            Self::Clone => "clone",
            Self::BindMismatch => "bind_mismatch",
            Self::RateLimited => "rate_limited",
            Self::Unavailable => "unavailable",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::error::Error for Code {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_bytes_round_trip() {
        for (number, code) in Code::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(code.to_wire()), number);
            assert_eq!(Code::from_wire(code.to_wire()), Some(code));
        }
        assert_eq!(Code::from_wire(12), None);
    }
}
