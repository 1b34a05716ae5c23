//! Numbers of suites and KEMs (protocol, section 2).

use std::{fmt, str::FromStr};

/// A cipher suite's number. Any number can be written down; whether it is
/// served is a matter of configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SuiteId(pub u16);

impl SuiteId {
    /// AES-256-GCM with SHA-256: mandatory.
    pub const AES_256_GCM_SHA256: Self = Self(0x0001);
    /// AES-256-GCM-SIV with SHA-256.
    pub const AES_256_GCM_SIV_SHA256: Self = Self(0x0002);
    /// ChaCha20-Poly1305 with SHA-256.
    pub const CHACHA20_POLY1305_SHA256: Self = Self(0x0003);
    /// AES-256-GCM with SHA-384.
    pub const AES_256_GCM_SHA384: Self = Self(0x0101);
    /// AES-256-GCM-SIV with SHA-384.
    pub const AES_256_GCM_SIV_SHA384: Self = Self(0x0102);

    /// Every suite of the registry, in the order of the numbers.
    pub const ALL: [Self; 5] = [
        Self::AES_256_GCM_SHA256,
        Self::AES_256_GCM_SIV_SHA256,
        Self::CHACHA20_POLY1305_SHA256,
        Self::AES_256_GCM_SHA384,
        Self::AES_256_GCM_SIV_SHA384,
    ];

    /// Bytes of the suite's hash; `None` when the number is not in the registry.
    pub fn hash_len(self) -> Option<usize> {
        match self.0 {
            0x0001..=0x0003 => Some(32),
            0x0101..=0x0102 => Some(48),
            _ => None,
        }
    }
}

impl fmt::Display for SuiteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#06x}", self.0)
    }
}

impl FromStr for SuiteId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.strip_prefix("0x")
            .and_then(|digits| u16::from_str_radix(digits, 16).ok())
            .map(Self)
            .filter(|id| id.hash_len().is_some())
            .ok_or_else(|| {
                format!("`{text}` is not a cipher suite; expected one of 0x0001, 0x0002, 0x0003, 0x0101, 0x0102")
            })
    }
}

/// The key agreement that a terminal adds to an envelope, for forward secrecy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum KemId {
    /// None: no public-key work on the terminal.
    None = 0,
    /// X25519 (RFC 7748).
    X25519 = 1,
    /// X25519MLKEM768: ML-KEM-768 (FIPS 203) and X25519, the ML-KEM part first.
    X25519MlKem768 = 2,
}

impl KemId {
    /// Every KEM of the registry, in the order of the numbers.
    pub const ALL: [Self; 3] = [Self::None, Self::X25519, Self::X25519MlKem768];

    /// From the wire byte; `None` for a number that is not assigned.
    pub fn from_wire(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::None,
            1 => Self::X25519,
            2 => Self::X25519MlKem768,
            _ => return None,
        })
    }

    /// The wire byte.
    pub fn to_wire(self) -> u8 {
        self as u8
    }

    /// Bytes of the terminal's share.
    pub fn terminal_share_len(self) -> usize {
        match self {
            Self::None => 0,
            Self::X25519 => 32,
            Self::X25519MlKem768 => 1184 + 32,
        }
    }

    /// Bytes of the peer's share.
    pub fn peer_share_len(self) -> usize {
        match self {
            Self::None => 0,
            Self::X25519 => 32,
            Self::X25519MlKem768 => 1088 + 32,
        }
    }
}

impl fmt::Display for KemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::X25519 => "X25519",
            Self::X25519MlKem768 => "X25519MLKEM768",
        })
    }
}
