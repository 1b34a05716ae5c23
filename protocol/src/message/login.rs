//! The inner part of a LOGIN (section 3.1): what only the management server reads.

use zeroize::Zeroizing;

use crate::{
    codec::{Malformed, Reader, Result, Write},
    secret::Secret32,
};

/// The user's consent: which attributes the service may learn. At most 512
/// bytes encoded, each name 1 to 64 bytes of printable ASCII.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope(Vec<u8>);

/// The attribute names do not fit into a scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a scope holds at most {} bytes of attribute names of 1 to {MAX_ATTRIBUTE_NAME} printable characters",
    Scope::MAX
)]
pub struct ScopeTooLong;

impl Scope {
    /// The longest encoding in bytes.
    pub const MAX: usize = 512;

    /// A scope of these attribute names.
    pub fn new<I: AsRef<str>>(names: impl IntoIterator<Item = I>) -> std::result::Result<Self, ScopeTooLong> {
        let mut bytes = Vec::new();
        for name in names {
            let name = name.as_ref().as_bytes();
            if !is_attribute_name(name) {
                return Err(ScopeTooLong);
            }
            bytes.put_v8(name);
        }
        if bytes.len() <= Self::MAX { Ok(Self(bytes)) } else { Err(ScopeTooLong) }
    }

    /// The names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let mut reader = Reader::new(&self.0);
        std::iter::from_fn(move || std::str::from_utf8(reader.v8(MAX_ATTRIBUTE_NAME).ok()?).ok())
    }

    fn decode(bytes: &[u8]) -> Result<Self> {
        let mut r = Reader::new(bytes);
        while !r.is_empty() {
            if !is_attribute_name(r.v8(MAX_ATTRIBUTE_NAME)?) {
                return Err(Malformed);
            }
        }
        Ok(Self(bytes.to_vec()))
    }
}

/// `SP 32 ‖ A_u 32 ‖ counter u64 ‖ v16(scope)`.
#[derive(Debug)]
pub struct LoginInner {
    /// The session password.
    pub session_password: Secret32,
    /// The management authentication key the terminal presents.
    pub management_key: Secret32,
    /// The terminal's counter.
    pub counter: u64,
    /// The user's consent.
    pub scope: Scope,
}

impl LoginInner {
    /// Bytes of an inner part with this scope.
    pub fn len(scope: &Scope) -> usize {
        32 + 32 + 8 + 2 + scope.0.len()
    }

    /// Encodes into a buffer that is wiped when dropped.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::with_capacity(Self::len(&self.scope)));
        out.put(self.session_password.expose());
        out.put(self.management_key.expose());
        out.put_u64(self.counter);
        out.put_v16(&self.scope.0);
        out
    }

    /// Decodes the whole of `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut r = Reader::new(bytes);
        let inner = Self {
            session_password: Secret32::new(r.array()?),
            management_key: Secret32::new(r.array()?),
            counter: r.u64()?,
            scope: Scope::decode(r.v16(Scope::MAX)?)?,
        };
        r.end()?;
        Ok(inner)
    }
}

const MAX_ATTRIBUTE_NAME: usize = 64;

fn is_attribute_name(name: &[u8]) -> bool {
    (1..=MAX_ATTRIBUTE_NAME).contains(&name.len()) && name.iter().all(u8::is_ascii_graphic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_every_truncation() {
        let scope = Scope::new(["email", "name"]).unwrap();
        assert_eq!(scope.names().collect::<Vec<_>>(), ["email", "name"]);
        let inner = LoginInner {
            session_password: Secret32::new([1; 32]),
            management_key: Secret32::new([2; 32]),
            counter: 7,
            scope,
        };
        let bytes = inner.encode();
        assert_eq!(bytes.len(), LoginInner::len(&inner.scope));
        let again = LoginInner::decode(&bytes).unwrap();
        assert_eq!((again.counter, &again.scope), (7, &inner.scope));
        for len in 0..bytes.len() {
            assert_eq!(LoginInner::decode(&bytes[..len]).unwrap_err(), Malformed);
        }
        assert_eq!(LoginInner::decode(&[bytes.as_slice(), &[0]].concat()).unwrap_err(), Malformed);
    }

    #[test]
    fn scopes_are_bounded() {
        assert!(Scope::new([""]).is_err());
        assert!(Scope::new(["a b"]).is_err());
        assert!(Scope::new(vec!["abcdefg"; 64]).is_ok());
        assert!(Scope::new(vec!["abcdefg"; 65]).is_err());
    }
}
