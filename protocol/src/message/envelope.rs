//! The envelope `E = v16(header) ‖ v16(ct)` (section 3.1).

use crate::{
    MAX_ENVELOPE,
    codec::{Malformed, Reader, Result, Write},
    message::Header,
    suite::TAG_LEN,
};

/// A decoded envelope that borrows the received bytes.
#[derive(Debug, Clone, Copy)]
pub struct Envelope<'a> {
    /// The whole of it, as received: what `H(E)` is taken of.
    pub bytes: &'a [u8],
    /// The header's bytes as received: key derivation input and associated data.
    pub header_bytes: &'a [u8],
    /// The header's fields.
    pub header: Header<'a>,
    /// The sealed inner part: at least a tag.
    pub ciphertext: &'a [u8],
}

impl<'a> Envelope<'a> {
    /// Decodes the whole of `bytes` (attacker-controlled).
    pub fn decode(bytes: &'a [u8]) -> Result<Self> {
        if bytes.len() > MAX_ENVELOPE {
            return Err(Malformed);
        }
        let mut r = Reader::new(bytes);
        let header_bytes = r.v16(MAX_ENVELOPE)?;
        let ciphertext = r.v16(MAX_ENVELOPE)?;
        r.end()?;
        if ciphertext.len() < TAG_LEN {
            return Err(Malformed);
        }
        Ok(Self { bytes, header_bytes, header: Header::decode(header_bytes)?, ciphertext })
    }

    /// The start of an envelope around an encoded header, up to where the
    /// ciphertext of `ciphertext_len` bytes is to be appended.
    pub fn start(header: &[u8], ciphertext_len: usize) -> Result<Vec<u8>> {
        let len = 2 + header.len() + 2 + ciphertext_len;
        if len > MAX_ENVELOPE {
            return Err(Malformed);
        }
        let mut out = Vec::with_capacity(len);
        out.put_v16(header);
        out.put_u16(ciphertext_len as u16);
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::header;

    #[test]
    fn every_truncation_and_any_trailing_byte_is_malformed() {
        let header = header::tests::example().encode().unwrap();
        let mut bytes = Envelope::start(&header, 101).unwrap();
        bytes.extend_from_slice(&[5; 101]);
        assert_eq!(bytes.len(), 223);
        let envelope = Envelope::decode(&bytes).unwrap();
        assert_eq!((envelope.header_bytes, envelope.ciphertext.len()), (header.as_slice(), 101));
        for len in 0..bytes.len() {
            assert_eq!(Envelope::decode(&bytes[..len]).unwrap_err(), Malformed);
        }
        bytes.push(0);
        assert_eq!(Envelope::decode(&bytes).unwrap_err(), Malformed);
        assert_eq!(Envelope::decode(&[0; MAX_ENVELOPE + 1]).unwrap_err(), Malformed);
        assert_eq!(Envelope::start(&header, MAX_ENVELOPE).unwrap_err(), Malformed);
    }
}
