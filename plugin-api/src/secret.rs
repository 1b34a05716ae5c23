//! Bytes that are wiped when they are dropped and never printed.

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};

/// An owned secret of fixed length: wiped on drop, redacted in `Debug`.
///
/// It cannot grow, so no copy of it is left behind by a reallocation.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SecretBytes(Box<[u8]>);

impl SecretBytes {
    /// A secret of `len` zero bytes, to be filled in place through [`Self::expose_mut`].
    pub fn zeroed(len: usize) -> Self {
        Self(vec![0; len].into_boxed_slice())
    }

    /// Copies `bytes`. The caller still has to wipe its own copy.
    pub fn copy_from(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// The bytes without a copy; who takes them has to wipe them.
    pub(crate) fn into_box(mut self) -> Box<[u8]> {
        std::mem::take(&mut self.0)
    }

    /// The reverse of [`Self::into_box`].
    pub(crate) fn from_box(bytes: Box<[u8]>) -> Self {
        Self(bytes)
    }

    /// The bytes themselves. The name marks each place where a secret is read.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The bytes, to be filled in place.
    pub fn expose_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretBytes({} bytes, redacted)", self.0.len())
    }
}
