//! The note (section 3.3): what the management server tells the terminal,
//! sealed against the service that carries it.

use crate::{
    code::Code,
    codec::{Malformed, Reader, Result, Write},
    message::MAGIC,
    names::ServiceId,
    suite::TAG_LEN,
};

/// The longest note in bytes.
pub const MAX_NOTE: usize = 1400;

/// Requests of the management server to the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NoteFlags {
    /// The terminal should rotate its keys soon.
    pub rotate_required: bool,
    /// `next_handle` replaces the terminal's handle.
    pub handle: bool,
}

impl NoteFlags {
    fn decode(bits: u8) -> Result<Self> {
        if bits & !3 != 0 {
            return Err(Malformed);
        }
        Ok(Self { rotate_required: bits & 1 != 0, handle: bits & 2 != 0 })
    }

    fn encode(self) -> u8 {
        u8::from(self.rotate_required) | u8::from(self.handle) << 1
    }
}

/// What a note says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The reason, which the service does not learn.
    pub code: Code,
    /// The management server's clock in milliseconds since 1970.
    pub server_time_ms: u64,
    /// The credential's current epoch.
    pub epoch: u32,
    /// Requests to the terminal.
    pub flags: NoteFlags,
    /// Id of the service to which the session password was released; empty when to none.
    pub service: Box<str>,
    /// A new handle, when the flag says so: 0 or 16 bytes.
    pub next_handle: Vec<u8>,
    /// The management server's share, in a rotation.
    pub kem_share: Vec<u8>,
}

impl Note {
    /// Encodes the plaintext.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        out.put_u8(self.code.to_wire());
        out.put_u64(self.server_time_ms);
        out.put_u32(self.epoch);
        out.put_u8(self.flags.encode());
        out.put_v8(self.service.as_bytes());
        out.put_v8(&self.next_handle);
        out.put_v16(&self.kem_share);
        out
    }

    /// Decodes the whole of the opened plaintext.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut r = Reader::new(bytes);
        let note = Self {
            code: Code::from_wire(r.u8()?).ok_or(Malformed)?,
            server_time_ms: r.u64()?,
            epoch: r.u32()?,
            flags: NoteFlags::decode(r.u8()?)?,
            service: match r.v8(ServiceId::MAX)? {
                [] => "".into(),
                name => ServiceId::from_bytes(name).ok_or(Malformed)?.as_str().into(),
            },
            next_handle: r.v8(16)?.to_vec(),
            kem_share: r.v16(MAX_NOTE)?.to_vec(),
        };
        r.end()?;
        if note.next_handle.len() != if note.flags.handle { 16 } else { 0 } {
            return Err(Malformed);
        }
        Ok(note)
    }
}

/// The sealed note on the wire: `"IDB1" ‖ 0x82 ‖ v16(ct)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoteMessage<'a> {
    /// The sealed plaintext.
    pub ciphertext: &'a [u8],
}

impl<'a> NoteMessage<'a> {
    /// Decodes the whole of `bytes` (attacker-controlled).
    pub fn decode(bytes: &'a [u8]) -> Result<Self> {
        if bytes.len() > MAX_NOTE {
            return Err(Malformed);
        }
        let mut r = Reader::new(bytes);
        r.expect(&MAGIC)?;
        r.expect(&[TYPE])?;
        let ciphertext = r.v16(MAX_NOTE)?;
        r.end()?;
        if ciphertext.len() < TAG_LEN { Err(Malformed) } else { Ok(Self { ciphertext }) }
    }

    /// The start of a note, up to where the ciphertext is to be appended.
    pub fn start(ciphertext_len: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(7 + ciphertext_len);
        out.put(&MAGIC);
        out.put_u8(TYPE);
        out.put_u16(ciphertext_len as u16);
        out
    }
}

const TYPE: u8 = 0x82;

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Note {
        Note {
            code: Code::Ok,
            server_time_ms: 1_760_000_000_041,
            epoch: 1,
            flags: NoteFlags::default(),
            service: "shop.example".into(),
            next_handle: Vec::new(),
            kem_share: Vec::new(),
        }
    }

    #[test]
    fn the_published_plaintext() {
        let expected = "0000000199c82cc02900000001000c73686f702e6578616d706c65000000";
        assert_eq!(data_encoding::HEXLOWER.encode(&example().encode()), expected);
    }

    #[test]
    fn round_trip_truncation_and_reserved_bits() {
        let with_handle = Note {
            flags: NoteFlags { rotate_required: true, handle: true },
            next_handle: vec![4; 16],
            kem_share: vec![5; 32],
            service: "".into(),
            ..example()
        };
        for note in [example(), with_handle] {
            let bytes = note.encode();
            assert_eq!(Note::decode(&bytes), Ok(note));
            for len in 0..bytes.len() {
                assert_eq!(Note::decode(&bytes[..len]), Err(Malformed));
            }
            assert_eq!(Note::decode(&[bytes.as_slice(), &[0]].concat()), Err(Malformed));
            for (at, value) in [(0, 12), (13, 4), (13, 2)] {
                let mut bad = bytes.clone();
                bad[at] = if bytes[at] == value { value + 1 } else { value };
                if at == 13 && bytes[13] == 3 && value == 2 {
                    continue; // both are handle notes
                }
                assert_eq!(Note::decode(&bad), Err(Malformed), "byte {at} = {value}");
            }
        }
    }

    #[test]
    fn the_sealed_message_is_strict() {
        let mut bytes = NoteMessage::start(46);
        bytes.extend_from_slice(&[1; 46]);
        assert_eq!(bytes.len(), 53);
        assert!(NoteMessage::decode(&bytes).is_ok());
        for len in 0..bytes.len() {
            assert_eq!(NoteMessage::decode(&bytes[..len]), Err(Malformed));
        }
        for at in 0..7 {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert_eq!(NoteMessage::decode(&bad), Err(Malformed), "byte {at}");
        }
    }
}
