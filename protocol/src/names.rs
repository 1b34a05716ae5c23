//! Names of realms and services.

use std::{borrow::Borrow, fmt, str::FromStr};

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Box<str>);

        impl $name {
            /// The longest name in bytes.
            pub const MAX: usize = $max;

            /// Checks bytes from the wire; `None` unless they are a valid name.
            pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
                is_name(bytes, Self::MAX)
                    .then(|| std::str::from_utf8(bytes).ok().map(|text| Self(text.into())))
                    .flatten()
            }

            /// The name.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                Self::from_bytes(text.as_bytes()).ok_or_else(|| {
                    format!("`{text}` is not a {}; expected 1 to {} of a-z, 0-9, `.` and `-`", $what, $max)
                })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name! {
    /// The name of a realm: 1 to 64 of `[a-z0-9.-]`.
    Realm, "realm", 64
}

name! {
    /// The id of a service: 1 to 128 of `[a-z0-9.-]`.
    ServiceId, "service id", 128
}

fn is_name(bytes: &[u8], max: usize) -> bool {
    (1..=max).contains(&bytes.len()) && bytes.iter().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_allowed_alphabet_and_length() {
        for good in ["a", "shop.example", "a-b.c-9", &"x".repeat(64)] {
            assert!(Realm::from_bytes(good.as_bytes()).is_some(), "{good}");
        }
        for bad in ["", "A", "a b", "ä", "a_b", "a/b", &"x".repeat(65)] {
            assert!(Realm::from_bytes(bad.as_bytes()).is_none(), "{bad}");
        }
        assert!(ServiceId::from_bytes(&[b'x'; 128]).is_some());
        assert!(ServiceId::from_bytes(&[b'x'; 129]).is_none());
    }
}
