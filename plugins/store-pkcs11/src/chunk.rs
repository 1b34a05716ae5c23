//! Rows of counters as the value of an object:
//! `1 || credential (16) || epoch (u32) || number (u32) || version (u64) || rows
//! (counter u64, nonce 32, recorded u64 each) || SHA-256 over all of it`,
//! big-endian.

use crate::record::{Damaged, Input, hex, seal, unseal};

/// Rows of one credential and epoch that share an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) of: Owner,
    /// Tells the chunks of one owner apart; they are begun in this order.
    pub(crate) number: u32,
    /// Of two objects of one chunk the higher one holds.
    pub(crate) version: u64,
    pub(crate) rows: Vec<Row>,
}

/// Credential and epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Owner {
    pub(crate) credential: [u8; 16],
    pub(crate) epoch: u32,
}

/// A counter that was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) counter: u64,
    pub(crate) nonce: [u8; 32],
    /// Seconds since 1970 from which its retention counts.
    pub(crate) recorded: u64,
}

/// Rows of a chunk, at most.
pub(crate) const ROWS: usize = 64;

const FORMAT: u8 = 1;

impl Chunk {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        out.extend(self.of.credential);
        out.extend(self.of.epoch.to_be_bytes());
        out.extend(self.number.to_be_bytes());
        out.extend(self.version.to_be_bytes());
        for row in &self.rows {
            out.extend(row.counter.to_be_bytes());
            out.extend(row.nonce);
            out.extend(row.recorded.to_be_bytes());
        }
        seal(out)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Damaged> {
        let mut input = Input(unseal(bytes)?);
        if input.array::<1>()? != [FORMAT] {
            return Err(Damaged);
        }
        let of = Owner { credential: input.array()?, epoch: u32::from_be_bytes(input.array()?) };
        let number = u32::from_be_bytes(input.array()?);
        let version = u64::from_be_bytes(input.array()?);
        let mut rows = Vec::new();
        while input.end().is_err() {
            let counter = u64::from_be_bytes(input.array()?);
            let nonce = input.array()?;
            rows.push(Row { counter, nonce, recorded: u64::from_be_bytes(input.array()?) });
        }
        Ok(Self { of, number, version, rows })
    }

    /// What its object is named by.
    pub(crate) fn name(&self) -> String {
        format!("{}{:x}:{}", self.of.name(), self.number, self.version)
    }
}

impl Owner {
    /// What the names of its chunks begin with.
    pub(crate) fn name(&self) -> String {
        format!("counter:{}:{:x}:", hex(&self.credential), self.epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_comes_back_and_no_damaged_one_does() {
        let row = |counter| Row { counter, nonce: [7; 32], recorded: u64::MAX };
        let of = Owner { credential: [0xab; 16], epoch: u32::MAX };
        let chunk = Chunk { of, number: 10, version: 3, rows: vec![row(0), row(u64::MAX)] };
        assert_eq!(chunk.name(), format!("counter:{}:ffffffff:a:3", "ab".repeat(16)));
        let bytes = chunk.encode();
        assert_eq!(Chunk::decode(&bytes), Ok(chunk));
        for at in 0..bytes.len() {
            assert_eq!(Chunk::decode(&bytes[..at]), Err(Damaged), "cut to {at}");
        }
        let body = unseal(&bytes).unwrap();
        for at in 0..body.len() {
            // Without one row or both it is a chunk of fewer rows.
            let whole = (33..).step_by(48).take(2).any(|len| len == at);
            assert_eq!(Chunk::decode(&seal(body[..at].to_vec())).is_ok(), whole, "sealed at {at}");
        }
    }
}
