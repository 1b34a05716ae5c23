//! The inner part of a ROTATE or DIRECTORY (section 3.1), and the directory answer.

use zeroize::Zeroizing;

use crate::{
    code::Code,
    codec::{Malformed, Reader, Result, Write},
    message::MAGIC,
    secret::Secret32,
    suite::TAG_LEN,
};

/// `A_u 32 ‖ counter u64`.
#[derive(Debug)]
pub struct AccountInner {
    /// The management authentication key the terminal presents.
    pub management_key: Secret32,
    /// The terminal's counter.
    pub counter: u64,
}

impl AccountInner {
    /// Bytes of it.
    pub const LEN: usize = 40;

    /// Encodes into a buffer that is wiped when dropped.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::with_capacity(Self::LEN));
        out.put(self.management_key.expose());
        out.put_u64(self.counter);
        out
    }

    /// Decodes the whole of `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut r = Reader::new(bytes);
        let inner = Self { management_key: Secret32::new(r.array()?), counter: r.u64()? };
        r.end()?;
        Ok(inner)
    }
}

/// The longest directory in bytes of JSON.
pub const MAX_DIRECTORY: usize = 16_384;

/// What a directory answer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    /// Granted, or why not.
    pub code: Code,
    /// The management server's clock in milliseconds since 1970.
    pub server_time_ms: u64,
    /// A JSON array of `{service, origins[], name}`; `[]` in a refusal.
    pub json: String,
}

impl Directory {
    /// Encodes the plaintext; `Malformed` when the JSON is too long.
    pub fn encode(&self) -> Result<Vec<u8>> {
        if self.json.len() > MAX_DIRECTORY {
            return Err(Malformed);
        }
        let mut out = Vec::with_capacity(11 + self.json.len());
        out.put_u8(self.code.to_wire());
        out.put_u64(self.server_time_ms);
        out.put_v16(self.json.as_bytes());
        Ok(out)
    }

    /// Decodes the whole of the opened plaintext.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut r = Reader::new(bytes);
        let code = Code::from_wire(r.u8()?).ok_or(Malformed)?;
        let server_time_ms = r.u64()?;
        let json = std::str::from_utf8(r.v16(MAX_DIRECTORY)?).map_err(|_| Malformed)?.to_owned();
        r.end()?;
        Ok(Self { code, server_time_ms, json })
    }
}

/// The sealed directory on the wire: `"IDB1" ‖ 0x85 ‖ v16(ct)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirectoryMessage<'a> {
    /// The sealed plaintext.
    pub ciphertext: &'a [u8],
}

impl<'a> DirectoryMessage<'a> {
    /// Decodes the whole of `bytes` (attacker-controlled).
    pub fn decode(bytes: &'a [u8]) -> Result<Self> {
        let mut r = Reader::new(bytes);
        r.expect(&MAGIC)?;
        r.expect(&[0x85])?;
        let ciphertext = r.v16(MAX_DIRECTORY + 64)?;
        r.end()?;
        if ciphertext.len() < TAG_LEN { Err(Malformed) } else { Ok(Self { ciphertext }) }
    }

    /// The start of a directory, up to where the ciphertext is to be appended.
    pub fn start(ciphertext_len: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(7 + ciphertext_len);
        out.put(&MAGIC);
        out.put_u8(0x85);
        out.put_u16(ciphertext_len as u16);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only_whole(bytes: &[u8], decodes: fn(&[u8]) -> bool) {
        assert!(decodes(bytes));
        for len in 0..bytes.len() {
            assert!(!decodes(&bytes[..len]), "{len} of {} bytes", bytes.len());
        }
        assert!(!decodes(&[bytes, &[0]].concat()));
    }

    #[test]
    fn inner_and_directory_are_strict() {
        let inner = AccountInner { management_key: Secret32::new([1; 32]), counter: 8 };
        only_whole(&inner.encode(), |b| AccountInner::decode(b).is_ok());
        let directory = Directory { code: Code::Ok, server_time_ms: 5, json: "[]".into() };
        let plain = directory.encode().unwrap();
        assert_eq!(Directory::decode(&plain), Ok(directory.clone()));
        only_whole(&plain, |b| Directory::decode(b).is_ok());
        let mut message = DirectoryMessage::start(plain.len() + TAG_LEN);
        message.extend(vec![7; plain.len() + TAG_LEN]);
        only_whole(&message, |b| DirectoryMessage::decode(b).is_ok());
        assert!(Directory { json: "x".repeat(MAX_DIRECTORY + 1), ..directory }.encode().is_err());
    }
}
