//! The service's reply to the terminal (section 3.4).

use std::fmt;

use zeroize::Zeroizing;

use crate::{
    code::Code,
    codec::{Malformed, Reader, Result, Write},
    message::{MAGIC, MAX_NOTE},
    names::ServiceId,
    registry::KemId,
    suite::TAG_LEN,
};

/// The longest service authentication key in bytes.
pub const MAX_KEY: usize = 16_384;

/// `head = "IDB1" ‖ 0x81 ‖ status ‖ s_nonce 32 ‖ v16 kem_share ‖ v16 note`,
/// which the ciphertext is bound to.
pub fn reply_head(code: Code, nonce: &[u8; 32], kem_share: &[u8], note: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(4 + 1 + 1 + 32 + 2 + kem_share.len() + 2 + note.len() + 2 + 256);
    out.put(&MAGIC);
    out.put_u8(TYPE);
    out.put_u8(code.to_wire());
    out.put(nonce);
    out.put_v16(kem_share);
    out.put_v16(note);
    out
}

/// A decoded reply. Attacker-controlled until its ciphertext opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply<'a> {
    /// The head as received.
    pub head: &'a [u8],
    /// The status: advisory unless there is a note.
    pub code: Code,
    /// The service's share.
    pub kem_share: &'a [u8],
    /// The sealed note; empty when the envelope did not authenticate.
    pub note: &'a [u8],
    /// The sealed key; empty unless the status is [`Code::Ok`].
    pub ciphertext: &'a [u8],
}

impl<'a> Reply<'a> {
    /// Decodes the whole of `bytes`.
    pub fn decode(bytes: &'a [u8]) -> Result<Self> {
        let mut r = Reader::new(bytes);
        r.expect(&MAGIC)?;
        r.expect(&[TYPE])?;
        let code = Code::from_wire(r.u8()?).ok_or(Malformed)?;
        r.take(32)?;
        let kem_share = r.v16(KemId::X25519MlKem768.peer_share_len())?;
        let note = r.v16(MAX_NOTE)?;
        let head = &bytes[..4 + 1 + 1 + 32 + 2 + kem_share.len() + 2 + note.len()];
        let ciphertext = r.v16(MAX_KEY + 512)?;
        r.end()?;
        let valid = match code {
            Code::Ok => ciphertext.len() >= TAG_LEN && !note.is_empty(),
            _ => ciphertext.is_empty(),
        };
        if valid { Ok(Self { head, code, kem_share, note, ciphertext }) } else { Err(Malformed) }
    }
}

/// The plaintext of a reply: a service authentication key and what to know of it.
pub struct KeyGrant {
    /// How the key is used: 1 opaque bearer, 2 JWT bearer, 3 MAC key.
    pub kind: u8,
    /// Seconds the key lives.
    pub lifetime: u32,
    /// The key's public name, at most 255 bytes.
    pub key_id: Vec<u8>,
    /// The service authentication key, 1 to 16,384 bytes.
    pub key: Zeroizing<Vec<u8>>,
    /// The service it is for.
    pub audience: ServiceId,
}

impl KeyGrant {
    /// Encodes into a buffer that is wiped when dropped. `Malformed` when the
    /// key or its name is empty or too long.
    pub fn encode(&self) -> Result<Zeroizing<Vec<u8>>> {
        if !(1..=MAX_KEY).contains(&self.key.len()) || self.key_id.len() > 255 {
            return Err(Malformed);
        }
        let audience = self.audience.as_str().as_bytes();
        let len = 1 + 4 + 1 + self.key_id.len() + 2 + self.key.len() + 1 + audience.len();
        let mut out = Zeroizing::new(Vec::with_capacity(len));
        out.put_u8(self.kind);
        out.put_u32(self.lifetime);
        out.put_v8(&self.key_id);
        out.put_v16(&self.key);
        out.put_v8(audience);
        Ok(out)
    }

    /// Decodes the whole of the opened plaintext.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut r = Reader::new(bytes);
        let grant = Self {
            kind: r.u8()?,
            lifetime: r.u32()?,
            key_id: r.v8(255)?.to_vec(),
            key: Zeroizing::new(r.v16(MAX_KEY)?.to_vec()),
            audience: ServiceId::from_bytes(r.v8(ServiceId::MAX)?).ok_or(Malformed)?,
        };
        r.end()?;
        if grant.key.is_empty() || !matches!(grant.kind, 1..=3) { Err(Malformed) } else { Ok(grant) }
    }
}

impl fmt::Debug for KeyGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyGrant")
            .field("kind", &self.kind)
            .field("lifetime", &self.lifetime)
            .field("key_id", &self.key_id)
            .field("audience", &self.audience)
            .finish_non_exhaustive()
    }
}

const TYPE: u8 = 0x81;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_strict() {
        let mut ok = reply_head(Code::Ok, &[1; 32], &[2; 32], &[3; 53]);
        ok.put_v16(&[4; 85]);
        assert_eq!(ok.len(), 214);
        let mut refused = reply_head(Code::Denied, &[1; 32], &[], &[3; 53]);
        refused.put_v16(&[]);
        for bytes in [&ok, &refused] {
            let reply = Reply::decode(bytes).unwrap();
            assert_eq!(reply.head.len() + 2 + reply.ciphertext.len(), bytes.len());
            for len in 0..bytes.len() {
                assert_eq!(Reply::decode(&bytes[..len]), Err(Malformed));
            }
            assert_eq!(Reply::decode(&[bytes.as_slice(), &[0]].concat()), Err(Malformed));
        }
        // A key in a refusal, and a grant without one.
        ok[5] = 7;
        refused[5] = 0;
        assert_eq!(Reply::decode(&ok), Err(Malformed));
        assert_eq!(Reply::decode(&refused), Err(Malformed));
    }

    #[test]
    fn key_grants_round_trip() {
        let grant = KeyGrant {
            kind: 3,
            lifetime: 3600,
            key_id: vec![1; 16],
            key: Zeroizing::new(vec![2; 32]),
            audience: "shop.example".parse().unwrap(),
        };
        let bytes = grant.encode().unwrap();
        assert_eq!(KeyGrant::decode(&bytes).unwrap().encode().unwrap(), bytes);
        for len in 0..bytes.len() {
            assert_eq!(KeyGrant::decode(&bytes[..len]).unwrap_err(), Malformed);
        }
        for kind in [0, 4] {
            let mut bad = bytes.to_vec();
            bad[0] = kind;
            assert_eq!(KeyGrant::decode(&bad).unwrap_err(), Malformed);
        }
    }
}
