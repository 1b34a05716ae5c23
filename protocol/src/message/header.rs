//! The header of an envelope (section 3.1): key derivation input and associated data.

use crate::{
    codec::{Malformed, Reader, Result, Write},
    message::MAGIC,
    names::{Realm, ServiceId},
    registry::{KemId, SuiteId},
};

/// What an envelope asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum MessageType {
    /// Sign on to a service.
    Login = 1,
    /// New keys (section 7).
    Rotate = 2,
    /// The services this user may reach (section 14).
    Directory = 3,
}

/// What an envelope is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding {
    /// Nothing.
    None,
    /// A challenge of the service.
    Challenge([u8; 32]),
    /// The TLS connection, by its exporter (RFC 9266).
    TlsExporter([u8; 32]),
}

/// Who sends it. Attacker-controlled until the envelope authenticates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uid<'a> {
    /// The plain user id, 1 to 128 bytes.
    UserId(&'a [u8]),
    /// A handle that the management server issued.
    Handle([u8; 16]),
    /// The user id, sealed to the management server (section 9).
    Sealed(&'a [u8]),
}

/// A header. Every field is attacker-controlled until the envelope
/// authenticates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    /// Whether the first four bytes are `IDB1`; anything else is another version.
    pub magic: [u8; 4],
    /// What is asked for.
    pub kind: MessageType,
    /// Cipher suite; any number, known or not.
    pub suite: SuiteId,
    /// Key epoch, at least 1.
    pub epoch: u32,
    /// The terminal's clock in milliseconds since 1970.
    pub time_ms: u64,
    /// Fresh random bytes.
    pub nonce: [u8; 32],
    /// What it is bound to.
    pub binding: Binding,
    /// Realm: 1 to 64 of `[a-z0-9.-]`.
    pub realm: &'a str,
    /// Service id of a LOGIN: 1 to 128 of `[a-z0-9.-]`; empty otherwise.
    pub service: &'a str,
    /// Who sends it.
    pub uid: Uid<'a>,
    /// Key agreement.
    pub kem: KemId,
    /// The terminal's share, of the length the KEM demands.
    pub share: &'a [u8],
    /// Extensions as they came: well-formed, at most 1,024 bytes.
    pub extensions: &'a [u8],
    /// Whether a critical extension is among them. None is known yet, so that is unsupported.
    pub critical_extension: bool,
}

impl<'a> Header<'a> {
    /// Bytes of a header without its variable parts.
    pub const FIXED: usize = 94;

    /// Decodes the whole of `bytes`.
    pub fn decode(bytes: &'a [u8]) -> Result<Self> {
        let mut r = Reader::new(bytes);
        let magic = r.array()?;
        let kind = match r.u8()? {
            1 => MessageType::Login,
            2 => MessageType::Rotate,
            3 => MessageType::Directory,
            _ => return Err(Malformed),
        };
        r.expect(&[0])?; // flags
        let suite = SuiteId(r.u16()?);
        let epoch = r.u32()?;
        if epoch == 0 {
            return Err(Malformed);
        }
        let time_ms = r.u64()?;
        let nonce = r.array()?;
        let binding = match (r.u8()?, r.array()?) {
            (0, bytes) if bytes == [0; 32] => Binding::None,
            (1, bytes) => Binding::Challenge(bytes),
            (2, bytes) => Binding::TlsExporter(bytes),
            _ => return Err(Malformed),
        };
        let realm = name(r.v8(Realm::MAX)?)?;
        let service = r.v8(ServiceId::MAX)?;
        let service = match kind {
            MessageType::Login => name(service)?,
            _ if service.is_empty() => "",
            _ => return Err(Malformed),
        };
        let uid = match (r.u8()?, r.v8(MAX_UID)?) {
            (0, id) if !id.is_empty() => Uid::UserId(id),
            (1, handle) => Uid::Handle(handle.try_into().map_err(|_| Malformed)?),
            (2, sealed) if sealed.len() == SEALED_UID => Uid::Sealed(sealed),
            _ => return Err(Malformed),
        };
        let kem = KemId::from_wire(r.u8()?).ok_or(Malformed)?;
        let share = r.v16(kem.terminal_share_len())?;
        if share.len() != kem.terminal_share_len() || (kind == MessageType::Rotate && kem == KemId::None) {
            return Err(Malformed);
        }
        let extensions = r.v16(MAX_EXTENSIONS)?;
        let critical_extension = check_extensions(extensions)?;
        r.end()?;
        Ok(Self {
            magic,
            kind,
            suite,
            epoch,
            time_ms,
            nonce,
            binding,
            realm,
            service,
            uid,
            kem,
            share,
            extensions,
            critical_extension,
        })
    }

    /// Encodes a header. The caller hands in fields of valid lengths; an
    /// encoding that [`Self::decode`] would refuse is [`Malformed`].
    pub fn encode(&self) -> Result<Vec<u8>> {
        let uid: &[u8] = match &self.uid {
            Uid::UserId(id) => id,
            Uid::Handle(handle) => handle,
            Uid::Sealed(sealed) => sealed,
        };
        if uid.len() > MAX_UID || self.realm.len() > Realm::MAX || self.service.len() > ServiceId::MAX {
            return Err(Malformed);
        }
        let variable = self.realm.len() + self.service.len() + uid.len() + self.share.len() + self.extensions.len();
        let mut out = Vec::with_capacity(Self::FIXED + variable);
        out.put(&self.magic);
        out.put_u8(self.kind as u8);
        out.put_u8(0);
        out.put_u16(self.suite.0);
        out.put_u32(self.epoch);
        out.put_u64(self.time_ms);
        out.put(&self.nonce);
        let (kind, bytes) = match self.binding {
            Binding::None => (0, [0; 32]),
            Binding::Challenge(bytes) => (1, bytes),
            Binding::TlsExporter(bytes) => (2, bytes),
        };
        out.put_u8(kind);
        out.put(&bytes);
        out.put_v8(self.realm.as_bytes());
        out.put_v8(self.service.as_bytes());
        out.put_u8(match self.uid {
            Uid::UserId(_) => 0,
            Uid::Handle(_) => 1,
            Uid::Sealed(_) => 2,
        });
        out.put_v8(uid);
        out.put_u8(self.kem.to_wire());
        out.put_v16(self.share);
        out.put_v16(self.extensions);
        Header::decode(&out)?;
        Ok(out)
    }

    /// Whether the magic is that of this version.
    pub fn is_this_version(&self) -> bool {
        self.magic == MAGIC
    }
}

/// Longest uid field in bytes.
const MAX_UID: usize = 128;
/// Bytes of an HPKE-sealed user id: X25519 share 32, padded id 64, tag 16.
const SEALED_UID: usize = 112;
const MAX_EXTENSIONS: usize = 1024;

fn name(bytes: &[u8]) -> Result<&str> {
    if bytes.is_empty() || !bytes.iter().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-')) {
        return Err(Malformed);
    }
    std::str::from_utf8(bytes).map_err(|_| Malformed)
}

/// (u16 type, v16 value)*, types strictly ascending. Tells whether one is critical.
fn check_extensions(bytes: &[u8]) -> Result<bool> {
    let mut r = Reader::new(bytes);
    let mut last = None;
    let mut critical = false;
    while !r.is_empty() {
        let kind = r.u16()?;
        if last.is_some_and(|last| kind <= last) {
            return Err(Malformed);
        }
        r.v16(MAX_EXTENSIONS)?;
        critical |= kind & 0x8000 != 0;
        last = Some(kind);
    }
    Ok(critical)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn example() -> Header<'static> {
        Header {
            magic: MAGIC,
            kind: MessageType::Login,
            suite: SuiteId::AES_256_GCM_SHA256,
            epoch: 1,
            time_ms: 1_760_000_000_000,
            nonce: [3; 32],
            binding: Binding::None,
            realm: "example",
            service: "shop.example",
            uid: Uid::UserId(b"alice"),
            kem: KemId::None,
            share: &[],
            extensions: &[],
            critical_extension: false,
        }
    }

    #[test]
    fn layout_is_that_of_the_table() {
        let bytes = example().encode().unwrap();
        assert_eq!(bytes.len(), Header::FIXED + 7 + 12 + 5);
        assert_eq!(&bytes[..8], b"IDB1\x01\x00\x00\x01");
        assert_eq!(&bytes[8..12], &1u32.to_be_bytes());
        assert_eq!(&bytes[20..52], &[3; 32]);
        assert_eq!(bytes[52], 0);
        assert_eq!(&bytes[85..93], b"\x07example");
    }

    #[test]
    fn invalid_fields_are_malformed() {
        let good = example().encode().unwrap();
        type Change = fn(&mut Vec<u8>);
        let cases: [(&str, Change); 12] = [
            ("type 0", |b| b[4] = 0),
            ("type 4", |b| b[4] = 4),
            ("reserved flag", |b| b[5] = 1),
            ("epoch 0", |b| b[8..12].fill(0)),
            ("bind kind 3", |b| b[52] = 3),
            ("bind bytes without a kind", |b| b[60] = 1),
            ("realm alphabet", |b| b[86] = b'E'),
            ("empty realm", |b| {
                b[85] = 0;
                b.drain(86..93);
            }),
            ("service in a rotation", |b| b[4] = 2),
            ("uid kind 3", |b| b[106] = 3),
            ("kem 3", |b| b[113] = 3),
            ("kem without its share", |b| b[113] = 1),
        ];
        for (what, change) in cases {
            let mut bytes = good.clone();
            change(&mut bytes);
            assert_eq!(Header::decode(&bytes), Err(Malformed), "{what}");
        }
    }

    #[test]
    fn extensions_ascend_and_critical_ones_are_noticed() {
        let with = |extensions: &'static [u8]| Header { extensions, ..example() };
        assert!(with(b"\x00\x01\x00\x01x\x00\x02\x00\x00").encode().is_ok());
        let bytes = Header { critical_extension: true, ..with(b"\x80\x01\x00\x00") }.encode().unwrap();
        assert!(Header::decode(&bytes).unwrap().critical_extension);
        for bad in
            [&b"\x00\x02\x00\x00\x00\x01\x00\x00"[..], b"\x00\x01\x00\x00\x00\x01\x00\x00", b"\x00\x01\x00", b"\x00"]
        {
            assert_eq!(Header { extensions: bad, ..example() }.encode(), Err(Malformed));
        }
    }

    proptest! {
        #[test]
        fn round_trip(
            epoch in 1u32.., time_ms: u64, nonce: [u8; 32], bind: [u8; 32], bind_kind in 0..3u8,
            realm in "[a-z0-9.-]{1,64}", service in "[a-z0-9.-]{1,128}", uid in proptest::collection::vec(any::<u8>(), 1..=128),
            kem in 0..3u8, suite: u16, handle: bool,
        ) {
            let kem = KemId::from_wire(kem).unwrap();
            let share = vec![7; kem.terminal_share_len()];
            let header = Header {
                suite: SuiteId(suite),
                epoch,
                time_ms,
                nonce,
                binding: match bind_kind { 0 => Binding::None, 1 => Binding::Challenge(bind), _ => Binding::TlsExporter(bind) },
                realm: &realm,
                service: &service,
                uid: if handle { Uid::Handle([9; 16]) } else { Uid::UserId(&uid) },
                kem,
                share: &share,
                ..example()
            };
            let bytes = header.encode().unwrap();
            prop_assert_eq!(Header::decode(&bytes), Ok(header));
            for len in 0..bytes.len() {
                prop_assert_eq!(Header::decode(&bytes[..len]), Err(Malformed));
            }
            let longer = [bytes.as_slice(), &[0]].concat();
            prop_assert_eq!(Header::decode(&longer), Err(Malformed));
        }

        #[test]
        fn whatever_decodes_has_one_encoding(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0..118usize, to: u8) {
            let mut near = example().encode().unwrap();
            near[at] = to;
            for candidate in [bytes, near] {
                if let Ok(header) = Header::decode(&candidate) {
                    prop_assert_eq!(header.encode().unwrap(), candidate);
                }
            }
        }
    }
}
