//! A record as the value of an object:
//! `1 || key (u16 length) || version (u64) || value (u32 length) || terms (u8
//! count; name and value, each u8 length) || SHA-256 over all of it`, big-endian.

use aws_lc_rs::digest::{SHA256, digest};
use claviger_plugin_api::{IndexTerm, Record};

/// Why bytes are no record or chunk of this store.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Damaged;

const FORMAT: u8 = 1;
const CHECKSUM: usize = 32;

/// `record` as the value of an object. Its sizes were checked.
pub(crate) fn encode(record: &Record) -> Vec<u8> {
    let mut out = vec![FORMAT];
    out.extend((record.key.len() as u16).to_be_bytes());
    out.extend(record.key.as_bytes());
    out.extend(record.version.to_be_bytes());
    out.extend((record.value.len() as u32).to_be_bytes());
    out.extend(&record.value);
    out.push(record.terms.len() as u8);
    for text in record.terms.iter().flat_map(|term| [&term.name, &term.value]) {
        out.push(text.len() as u8);
        out.extend(text.as_bytes());
    }
    seal(out)
}

/// The reverse.
pub(crate) fn decode(bytes: &[u8]) -> Result<Record, Damaged> {
    let mut input = Input(unseal(bytes)?);
    if input.array::<1>()? != [FORMAT] {
        return Err(Damaged);
    }
    let len = u16::from_be_bytes(input.array()?);
    let key = input.text(len.into())?;
    let version = u64::from_be_bytes(input.array()?);
    let len = u32::from_be_bytes(input.array()?);
    let value = input.take(len as usize)?.to_vec();
    let [count] = input.array()?;
    let terms = (0..count)
        .map(|_| {
            let [len] = input.array()?;
            let name = input.text(len.into())?;
            let [len] = input.array()?;
            Ok(IndexTerm { name, value: input.text(len.into())? })
        })
        .collect::<Result<_, Damaged>>()?;
    input.end()?;
    Ok(Record { key, version, value, terms })
}

/// What a record's objects are named by: 16 bytes of a hash of its key, in hex.
pub(crate) fn key_name(key: &str) -> String {
    hex(&digest(&SHA256, key.as_bytes()).as_ref()[..16])
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Adds the checksum.
pub(crate) fn seal(mut bytes: Vec<u8>) -> Vec<u8> {
    let checksum = digest(&SHA256, &bytes);
    bytes.extend(checksum.as_ref());
    bytes
}

/// What stands before a right checksum.
pub(crate) fn unseal(bytes: &[u8]) -> Result<&[u8], Damaged> {
    let (body, checksum) = bytes.split_at_checked(bytes.len().saturating_sub(CHECKSUM)).ok_or(Damaged)?;
    if digest(&SHA256, body).as_ref() == checksum { Ok(body) } else { Err(Damaged) }
}

/// Bytes that are read from the front.
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], Damaged> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Damaged)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Damaged> {
        self.take(N)?.try_into().map_err(|_| Damaged)
    }

    fn text(&mut self, len: usize) -> Result<String, Damaged> {
        Ok(str::from_utf8(self.take(len)?).map_err(|_| Damaged)?.to_owned())
    }

    pub(crate) fn end(&self) -> Result<(), Damaged> {
        if self.0.is_empty() { Ok(()) } else { Err(Damaged) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_and_no_damaged_one_does() {
        let term = |name: &str, value: &str| IndexTerm { name: name.to_owned(), value: value.to_owned() };
        let record = Record {
            key: "ké\0y".to_owned(),
            version: u64::MAX - 1,
            value: (0..=255).collect(),
            terms: vec![term("a", ""), term(&"n".repeat(32), &"v".repeat(255))],
        };
        let bytes = encode(&record);
        assert_eq!(decode(&bytes), Ok(record));
        for at in 0..bytes.len() {
            assert_eq!(decode(&bytes[..at]), Err(Damaged), "cut to {at}");
            let mut changed = bytes.clone();
            changed[at] ^= 0x20;
            assert_eq!(decode(&changed), Err(Damaged), "byte {at}");
        }
        assert_eq!(decode(&[&bytes[..], &[0]].concat()), Err(Damaged), "a trailing byte");
        // A right checksum does not make a record.
        let body = unseal(&bytes).unwrap();
        for at in 0..body.len() {
            assert_eq!(decode(&seal(body[..at].to_vec())), Err(Damaged), "sealed at {at}");
        }
        assert_eq!(decode(&seal([body, &[0]].concat())), Err(Damaged), "a sealed trailing byte");
    }
}
