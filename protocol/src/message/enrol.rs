//! The messages of an enrolment (section 8), and the plain refusal.

use crate::{
    code::Code,
    codec::{Malformed, Reader, Result, Write},
    enrolment_code::EnrolmentId,
    message::MAGIC,
    names::Realm,
    registry::{KemId, SuiteId},
    suite::TAG_LEN,
};

/// Bytes of the MACs in an enrolment.
pub const TAG: usize = 32;

/// E1, terminal to management server: asks to enrol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Enrol1<'a> {
    /// The whole message as received: `H(E1)`.
    pub bytes: &'a [u8],
    /// What the MAC covers, as received.
    pub body: &'a [u8],
    /// The suite the terminal wants.
    pub suite: SuiteId,
    /// The realm.
    pub realm: &'a str,
    /// Which code this is about.
    pub id: EnrolmentId,
    /// The key agreement.
    pub kem: KemId,
    /// The terminal's share, of the length the KEM demands.
    pub share: &'a [u8],
    /// MAC under the code's key.
    pub tag: [u8; TAG],
}

impl<'a> Enrol1<'a> {
    /// Decodes the whole of `bytes` (attacker-controlled).
    pub fn decode(bytes: &'a [u8]) -> Result<Self> {
        let mut r = Reader::new(bytes);
        r.expect(&MAGIC)?;
        r.expect(&[0x11])?;
        let suite = SuiteId(r.u16()?);
        let realm = r.v8(Realm::MAX)?;
        Realm::from_bytes(realm).ok_or(Malformed)?;
        let id = r.array()?;
        r.take(32)?; // n_t
        let kem = KemId::from_wire(r.u8()?).ok_or(Malformed)?;
        let share = r.v16(kem.terminal_share_len())?;
        if share.len() != kem.terminal_share_len() {
            return Err(Malformed);
        }
        let tag = r.array()?;
        r.end()?;
        let body = &bytes[..bytes.len() - TAG];
        let realm = std::str::from_utf8(realm).map_err(|_| Malformed)?;
        Ok(Self { bytes, body, suite, realm, id, kem, share, tag })
    }

    /// Encodes the body, to which the MAC is to be appended.
    pub fn body(
        suite: SuiteId,
        realm: &Realm,
        id: &EnrolmentId,
        nonce: &[u8; 32],
        kem: KemId,
        share: &[u8],
    ) -> Vec<u8> {
        let mut out = Vec::with_capacity(122 + share.len());
        out.put(&MAGIC);
        out.put_u8(0x11);
        out.put_u16(suite.0);
        out.put_v8(realm.as_str().as_bytes());
        out.put(id);
        out.put(nonce);
        out.put_u8(kem.to_wire());
        out.put_v16(share);
        out
    }
}

/// E2, management server to terminal: offers a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Enrol2<'a> {
    /// The whole message as received.
    pub bytes: &'a [u8],
    /// What comes before the box: its associated data.
    pub body: &'a [u8],
    /// The management server's share.
    pub share: &'a [u8],
    /// The sealed [`EnrolBox`].
    pub ciphertext: &'a [u8],
}

impl<'a> Enrol2<'a> {
    /// Decodes the whole of `bytes` (attacker-controlled).
    pub fn decode(bytes: &'a [u8]) -> Result<Self> {
        let mut r = Reader::new(bytes);
        r.expect(&MAGIC)?;
        r.expect(&[0x12])?;
        r.take(32)?; // n_m
        let share = r.v16(KemId::X25519MlKem768.peer_share_len())?;
        let ciphertext = r.v16(1024)?;
        r.end()?;
        if ciphertext.len() < TAG_LEN {
            return Err(Malformed);
        }
        let body = &bytes[..bytes.len() - 2 - ciphertext.len()];
        Ok(Self { bytes, body, share, ciphertext })
    }

    /// Encodes the body, to which `v16(box)` is to be appended.
    pub fn body(nonce: &[u8; 32], share: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(110 + share.len());
        out.put(&MAGIC);
        out.put_u8(0x12);
        out.put(nonce);
        out.put_v16(share);
        out
    }
}

/// The plaintext of E2's box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrolBox {
    /// Whom the terminal becomes: 1 to 128 bytes.
    pub user_id: Vec<u8>,
    /// The epoch of its keys.
    pub epoch: u32,
    /// The least suite it may use.
    pub suite_floor: SuiteId,
    /// The least KEM it may use.
    pub kem_floor: KemId,
    /// The management server's clock in milliseconds since 1970.
    pub server_time_ms: u64,
}

impl EnrolBox {
    /// Encodes the plaintext.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16 + self.user_id.len());
        out.put_v8(&self.user_id);
        out.put_u32(self.epoch);
        out.put_u16(self.suite_floor.0);
        out.put_u8(self.kem_floor.to_wire());
        out.put_u64(self.server_time_ms);
        out
    }

    /// Decodes the whole of the opened plaintext.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut r = Reader::new(bytes);
        let user_id = r.v8(128)?.to_vec();
        let epoch = r.u32()?;
        let suite_floor = SuiteId(r.u16()?);
        let kem_floor = KemId::from_wire(r.u8()?).ok_or(Malformed)?;
        let server_time_ms = r.u64()?;
        r.end()?;
        if user_id.is_empty() || epoch == 0 {
            return Err(Malformed);
        }
        Ok(Self { user_id, epoch, suite_floor, kem_floor, server_time_ms })
    }
}

/// E3, terminal to management server: the keys are stored, activate them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Enrol3 {
    /// Which code this is about.
    pub id: EnrolmentId,
    /// Proof that the terminal has the keys.
    pub tag: [u8; TAG],
}

impl Enrol3 {
    /// Decodes the whole of `bytes` (attacker-controlled).
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut r = Reader::new(bytes);
        r.expect(&MAGIC)?;
        r.expect(&[0x13])?;
        let message = Self { id: r.array()?, tag: r.array()? };
        r.end()?;
        Ok(message)
    }

    /// Encodes the message.
    pub fn encode(&self) -> Vec<u8> {
        [&MAGIC[..], &[0x13], &self.id, &self.tag].concat()
    }
}

/// E4, management server to terminal: the credential is active.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Enrol4 {
    /// Proof that the management server has the keys.
    pub tag: [u8; TAG],
}

impl Enrol4 {
    /// Decodes the whole of `bytes` (attacker-controlled).
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut r = Reader::new(bytes);
        r.expect(&MAGIC)?;
        r.expect(&[0x14])?;
        let message = Self { tag: r.array()? };
        r.end()?;
        Ok(message)
    }

    /// Encodes the message.
    pub fn encode(&self) -> Vec<u8> {
        [&MAGIC[..], &[0x14], &self.tag].concat()
    }
}

/// `"IDB1" ‖ 0x1E`, the answer to E3 while an administrator has yet to compare
/// the strings on both sides: the terminal shows its own and repeats E3. Nobody
/// sealed it; it changes no stored state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held;

impl Held {
    /// Decodes the whole of `bytes` (attacker-controlled).
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut r = Reader::new(bytes);
        r.expect(&MAGIC)?;
        r.expect(&[0x1e])?;
        r.end()?;
        Ok(Self)
    }

    /// Encodes the message.
    pub fn encode(self) -> Vec<u8> {
        [&MAGIC[..], &[0x1e]].concat()
    }
}

/// A refusal that nobody sealed: `"IDB1" ‖ 0x1F ‖ status`. Advisory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal(pub Code);

impl Refusal {
    /// Decodes the whole of `bytes` (attacker-controlled).
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut r = Reader::new(bytes);
        r.expect(&MAGIC)?;
        r.expect(&[0x1f])?;
        let code = Code::from_wire(r.u8()?).filter(|code| *code != Code::Ok).ok_or(Malformed)?;
        r.end()?;
        Ok(Self(code))
    }

    /// Encodes the message.
    pub fn encode(self) -> Vec<u8> {
        [&MAGIC[..], &[0x1f, self.0.to_wire()]].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refuses_other_lengths(bytes: &[u8], decode: fn(&[u8]) -> bool) {
        assert!(decode(bytes));
        for len in 0..bytes.len() {
            assert!(!decode(&bytes[..len]), "{len} of {} bytes", bytes.len());
        }
        assert!(!decode(&[bytes, &[0]].concat()));
        for at in 0..5 {
            let mut bad = bytes.to_vec();
            bad[at] ^= 0x40;
            assert!(!decode(&bad), "magic or type, byte {at}");
        }
    }

    #[test]
    fn all_messages_are_strict() {
        let suite = SuiteId::AES_256_GCM_SHA256;
        let mut e1 = Enrol1::body(suite, &"example".parse().unwrap(), &[1; 8], &[2; 32], KemId::X25519, &[3; 32]);
        e1.extend_from_slice(&[4; TAG]);
        assert_eq!(e1.len(), 122);
        refuses_other_lengths(&e1, |b| Enrol1::decode(b).is_ok());
        let mut e2 = Enrol2::body(&[1; 32], &[2; 32]);
        e2.put_v16(&[3; 37]);
        assert_eq!(e2.len(), 110);
        refuses_other_lengths(&e2, |b| Enrol2::decode(b).is_ok());
        let e3 = Enrol3 { id: [1; 8], tag: [2; TAG] };
        assert_eq!(Enrol3::decode(&e3.encode()), Ok(e3));
        refuses_other_lengths(&e3.encode(), |b| Enrol3::decode(b).is_ok());
        let e4 = Enrol4 { tag: [2; TAG] };
        assert_eq!(Enrol4::decode(&e4.encode()), Ok(e4));
        refuses_other_lengths(&e4.encode(), |b| Enrol4::decode(b).is_ok());
        refuses_other_lengths(&Held.encode(), |b| Held::decode(b).is_ok());
        refuses_other_lengths(&Refusal(Code::AuthFailed).encode(), |b| Refusal::decode(b).is_ok());
        assert!(Refusal::decode(&Refusal(Code::Ok).encode()).is_err());
    }

    #[test]
    fn the_box_round_trips() {
        let plain = EnrolBox {
            user_id: b"alice".to_vec(),
            epoch: 1,
            suite_floor: SuiteId::AES_256_GCM_SHA256,
            kem_floor: KemId::None,
            server_time_ms: 5,
        };
        let bytes = plain.encode();
        assert_eq!(EnrolBox::decode(&bytes), Ok(plain));
        for len in 0..bytes.len() {
            assert_eq!(EnrolBox::decode(&bytes[..len]), Err(Malformed));
        }
    }
}
