//! Reading and writing the fixed layouts of the protocol, section 2.

/// The bytes are not of the layout that was expected: [`crate::Code::Malformed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a message of the protocol")]
pub struct Malformed;

pub(crate) type Result<T> = std::result::Result<T, Malformed>;

/// Reads a message from front to back; every length is checked before use.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len).ok_or(Malformed)?;
        self.0 = rest;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| Malformed)
    }

    pub(crate) fn u8(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// `v8(x)` with at most `max` bytes.
    pub(crate) fn v8(&mut self, max: usize) -> Result<&'a [u8]> {
        let len = usize::from(self.u8()?);
        if len > max { Err(Malformed) } else { self.take(len) }
    }

    /// `v16(x)` with at most `max` bytes.
    pub(crate) fn v16(&mut self, max: usize) -> Result<&'a [u8]> {
        let len = usize::from(self.u16()?);
        if len > max { Err(Malformed) } else { self.take(len) }
    }

    /// Fails unless the next bytes are `expected`.
    pub(crate) fn expect(&mut self, expected: &[u8]) -> Result<()> {
        if self.take(expected.len())? == expected { Ok(()) } else { Err(Malformed) }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Fails on trailing bytes.
    pub(crate) fn end(self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed) }
    }
}

/// Writes the same layouts. The encoders bound every length by their types or
/// checks before they write, so a length that does not fit is a fault of ours.
pub(crate) trait Write {
    fn put(&mut self, bytes: &[u8]);

    fn put_u8(&mut self, value: u8) {
        self.put(&[value]);
    }

    fn put_u16(&mut self, value: u16) {
        self.put(&value.to_be_bytes());
    }

    fn put_u32(&mut self, value: u32) {
        self.put(&value.to_be_bytes());
    }

    fn put_u64(&mut self, value: u64) {
        self.put(&value.to_be_bytes());
    }

    fn put_v8(&mut self, bytes: &[u8]) {
        debug_assert!(bytes.len() <= 0xff);
        self.put_u8(bytes.len() as u8);
        self.put(bytes);
    }

    fn put_v16(&mut self, bytes: &[u8]) {
        debug_assert!(bytes.len() <= 0xffff);
        self.put_u16(bytes.len() as u16);
        self.put(bytes);
    }
}

impl Write for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}
