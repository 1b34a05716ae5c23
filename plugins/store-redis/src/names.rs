//! How keys are named, and how what must stay in order is encoded.
//!
//! All that one script touches lies in one shard, and a shard in one slot of a
//! Cluster: its number stands in braces in the names. A sorted set whose scores
//! are all equal is in bytewise order of its members, so an index entry is one
//! member: the parts of its position, each encoded so that no part can run into
//! the next.

use std::sync::Arc;

use redis::Value;

/// Slots of a Cluster.
const SLOTS: u16 = 16384;

/// The names of one store.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    prefix: Arc<str>,
    shards: u16,
}

/// The name of a key and its slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) bytes: Vec<u8>,
    pub(crate) slot: u16,
}

impl Names {
    pub(crate) fn new(prefix: &str, shards: u16) -> Self {
        Self { prefix: prefix.into(), shards }
    }

    /// How many shards there are.
    pub(crate) fn shards(&self) -> u16 {
        self.shards
    }

    /// The shard of a record or credential.
    pub(crate) fn shard_of(&self, key: &[u8]) -> u16 {
        crc16(key) % self.shards
    }

    /// What says that a shard was made: the layout's version and the number of shards.
    pub(crate) fn marker(&self, shard: u16) -> Name {
        self.in_shard(shard, "shard", &[])
    }

    /// What is written to see whether a server takes writes.
    pub(crate) fn probe(&self, shard: u16) -> Name {
        self.in_shard(shard, "probe", &[])
    }

    /// A record.
    pub(crate) fn record(&self, shard: u16, key: &str) -> Name {
        self.in_shard(shard, "record:", key.as_bytes())
    }

    /// The index of a shard's records: all names of indexes in one set.
    pub(crate) fn index(&self, shard: u16) -> Name {
        self.in_shard(shard, "index", &[])
    }

    /// The rows of a credential and epoch, see [`line`].
    pub(crate) fn counters(&self, shard: u16, line: &[u8]) -> Name {
        self.in_shard(shard, "counters:", hex(line).as_bytes())
    }

    /// The lines of a shard that have rows.
    pub(crate) fn lines(&self, shard: u16) -> Name {
        self.in_shard(shard, "lines", &[])
    }

    /// A value of the state store.
    pub(crate) fn state(&self, key: &str) -> Name {
        let bytes = format!("{}:state:{key}", self.prefix).into_bytes();
        let slot = crc16(hash_tag(&bytes)) % SLOTS;
        Name { bytes, slot }
    }

    fn in_shard(&self, shard: u16, kind: &str, rest: &[u8]) -> Name {
        let mut bytes = format!("{}:{{{shard}}}:{kind}", self.prefix).into_bytes();
        bytes.extend_from_slice(rest);
        Name { bytes, slot: crc16(shard.to_string().as_bytes()) % SLOTS }
    }
}

/// A credential and its epoch in the order of both.
pub(crate) fn line(credential: &[u8; 16], epoch: u32) -> [u8; 20] {
    let mut line = [0; 20];
    line[..16].copy_from_slice(credential);
    line[16..].copy_from_slice(&epoch.to_be_bytes());
    line
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Appends a part that may hold any byte: 0 becomes 0 255, and 0 1 ends it. So
/// one part sorts before another that it begins, whatever follows either.
pub(crate) fn push_part(to: &mut Vec<u8>, part: &[u8]) {
    for byte in part {
        to.push(*byte);
        if *byte == 0 {
            to.push(255);
        }
    }
    to.extend_from_slice(&END);
}

const END: [u8; 2] = [0, 1];

/// Takes a part off the front; `None` where there is none.
pub(crate) fn take_part(from: &mut &[u8]) -> Option<Vec<u8>> {
    let mut part = Vec::new();
    loop {
        let (byte, rest) = from.split_first()?;
        *from = rest;
        if *byte == 0 {
            let (escape, rest) = from.split_first()?;
            *from = rest;
            match escape {
                1 => return Some(part),
                255 => {}
                _ => return None,
            }
        }
        part.push(*byte);
    }
}

/// Behind everything that begins with these parts.
pub(crate) fn behind(mut parts: Vec<u8>) -> Vec<u8> {
    if let Some(last) = parts.last_mut() {
        *last += 1;
    }
    parts
}

/// What of a name decides about its slot, as Cluster has it.
fn hash_tag(name: &[u8]) -> &[u8] {
    let Some(open) = name.iter().position(|byte| *byte == b'{') else { return name };
    let rest = &name[open + 1..];
    match rest.iter().position(|byte| *byte == b'}') {
        None | Some(0) => name,
        Some(close) => &rest[..close],
    }
}

/// CRC16 of XMODEM, as Cluster has it.
fn crc16(bytes: &[u8]) -> u16 {
    let mut crc = 0_u16;
    for byte in bytes {
        crc ^= u16::from(*byte) << 8;
        for _ in 0..8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
        }
    }
    crc
}

/// The bytes of a string; `None` for anything else.
pub(crate) fn bytes(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_cluster() {
        // From the specification of Cluster, and `CLUSTER KEYSLOT`.
        assert_eq!(crc16(b"123456789"), 0x31c3);
        for (name, tag) in [
            ("{user1000}.following", "user1000"),
            ("foo{}{bar}", "foo{}{bar}"),
            ("foo{{bar}}zap", "{bar"),
            ("foo{bar}{zap}", "bar"),
            ("foo{bar", "foo{bar"),
        ] {
            assert_eq!(hash_tag(name.as_bytes()), tag.as_bytes(), "{name}");
        }
        let names = Names::new("claviger", 64);
        for shard in 0..64 {
            let name = names.record(shard, "a{b}");
            assert_eq!(name.slot, crc16(hash_tag(&name.bytes)) % SLOTS, "shard {shard}");
        }
    }

    #[test]
    fn encoded_parts_keep_their_order_and_value() {
        let parts: [&[u8]; 9] = [b"", b"\0", b"\0\0", b"\0\x01", b"\0\xff", b"\x01", b"a", b"a\0", b"a\x01"];
        let mut pairs: Vec<(&[u8], &[u8])> = parts.iter().flat_map(|a| parts.iter().map(|b| (*a, *b))).collect();
        pairs.sort_unstable();
        let encoded: Vec<Vec<u8>> = pairs
            .iter()
            .map(|(a, b)| {
                let mut both = Vec::new();
                push_part(&mut both, a);
                push_part(&mut both, b);
                both
            })
            .collect();
        assert!(encoded.is_sorted_by(|a, b| a < b));
        for ((a, b), encoded) in pairs.iter().zip(&encoded) {
            let mut rest = encoded.as_slice();
            assert_eq!((take_part(&mut rest).as_deref(), take_part(&mut rest).as_deref()), (Some(*a), Some(*b)));
            assert_eq!((rest, take_part(&mut rest)), (&[][..], None));
        }
        assert_eq!(take_part(&mut &b"a\0\x02"[..]), None);
    }
}
