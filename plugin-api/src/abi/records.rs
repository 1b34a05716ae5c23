//! The values of a user store as they cross: borrowed on the way in, owned on
//! the way out.

use abi_stable::{
    StableAbi,
    std_types::{ROption, RSlice, RStr, RString, RVec},
};

use crate::{CounterPosition, CounterUse, Cursor, IndexTerm, Page, PluginError, Put, Record, Scan, Verdict, Written};

/// A [`Record`].
#[repr(C)]
#[derive(StableAbi)]
pub struct RecordParts {
    key: RString,
    version: u64,
    value: RVec<u8>,
    terms: RVec<PairParts>,
}

/// An [`IndexTerm`] (name, value), or a [`Cursor`] (value, key).
#[repr(C)]
#[derive(StableAbi)]
pub struct PairParts {
    first: RString,
    second: RString,
}

/// The same, borrowed.
#[repr(C)]
#[derive(StableAbi, Clone, Copy)]
pub struct PairRef<'a> {
    first: RStr<'a>,
    second: RStr<'a>,
}

/// A [`Put`].
#[repr(C)]
#[derive(StableAbi)]
pub struct PutParts<'a> {
    key: RStr<'a>,
    expected: u64,
    value: RSlice<'a, u8>,
    terms: RSlice<'a, PairRef<'a>>,
}

/// A [`Written`].
#[repr(C)]
#[derive(StableAbi)]
pub struct WrittenParts {
    done: bool,
    version: u64,
}

/// A [`Scan`].
#[repr(C)]
#[derive(StableAbi)]
pub struct ScanParts<'a> {
    term: RStr<'a>,
    after: ROption<PairRef<'a>>,
    limit: usize,
}

/// A [`Page`].
#[repr(C)]
#[derive(StableAbi)]
pub struct PageParts {
    records: RVec<RecordParts>,
    next: ROption<PairParts>,
}

/// A [`CounterUse`].
#[repr(C)]
#[derive(StableAbi)]
pub struct CounterUseParts {
    credential: [u8; 16],
    epoch: u32,
    counter: u64,
    nonce: [u8; 32],
    time_ms: u64,
}

/// A [`CounterPosition`].
#[repr(C)]
#[derive(StableAbi)]
pub struct CounterPositionParts {
    credential: [u8; 16],
    epoch: u32,
    counter: u64,
}

/// A [`Verdict`].
#[repr(transparent)]
#[derive(StableAbi)]
pub struct VerdictCode(u32);

impl From<Record> for RecordParts {
    fn from(record: Record) -> Self {
        Self {
            key: record.key.into(),
            version: record.version,
            value: record.value.into(),
            terms: record.terms.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<RecordParts> for Record {
    fn from(parts: RecordParts) -> Self {
        Self {
            key: parts.key.into_string(),
            version: parts.version,
            value: parts.value.into_vec(),
            terms: parts.terms.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<IndexTerm> for PairParts {
    fn from(term: IndexTerm) -> Self {
        Self { first: term.name.into(), second: term.value.into() }
    }
}

impl From<PairParts> for IndexTerm {
    fn from(pair: PairParts) -> Self {
        Self { name: pair.first.into_string(), value: pair.second.into_string() }
    }
}

impl<'a> From<&'a IndexTerm> for PairRef<'a> {
    fn from(term: &'a IndexTerm) -> Self {
        Self { first: term.name.as_str().into(), second: term.value.as_str().into() }
    }
}

impl From<PairRef<'_>> for IndexTerm {
    fn from(pair: PairRef<'_>) -> Self {
        Self { name: pair.first.into(), value: pair.second.into() }
    }
}

impl From<Cursor> for PairParts {
    fn from(cursor: Cursor) -> Self {
        Self { first: cursor.value.into(), second: cursor.key.into() }
    }
}

impl From<PairParts> for Cursor {
    fn from(pair: PairParts) -> Self {
        Self { value: pair.first.into_string(), key: pair.second.into_string() }
    }
}

impl<'a> PutParts<'a> {
    /// `terms` are those of `put`, which lie somewhere as long as the call lasts.
    pub(super) fn new(put: &'a Put, terms: &'a [PairRef<'a>]) -> Self {
        Self {
            key: put.key.as_str().into(),
            expected: put.expected,
            value: put.value.as_slice().into(),
            terms: terms.into(),
        }
    }
}

impl From<PutParts<'_>> for Put {
    fn from(parts: PutParts<'_>) -> Self {
        Self {
            key: parts.key.into(),
            expected: parts.expected,
            value: parts.value.to_vec(),
            terms: parts.terms.iter().map(|&pair| pair.into()).collect(),
        }
    }
}

impl From<Written> for WrittenParts {
    fn from(written: Written) -> Self {
        match written {
            Written::Done(version) => Self { done: true, version },
            Written::Conflict(version) => Self { done: false, version },
        }
    }
}

impl From<WrittenParts> for Written {
    fn from(parts: WrittenParts) -> Self {
        if parts.done { Self::Done(parts.version) } else { Self::Conflict(parts.version) }
    }
}

impl<'a> From<&'a Scan> for ScanParts<'a> {
    fn from(scan: &'a Scan) -> Self {
        let after = scan.after.as_ref();
        Self {
            term: scan.term.as_str().into(),
            after: after.map(|c| PairRef { first: c.value.as_str().into(), second: c.key.as_str().into() }).into(),
            limit: scan.limit,
        }
    }
}

impl From<ScanParts<'_>> for Scan {
    fn from(parts: ScanParts<'_>) -> Self {
        let after = parts.after.into_option();
        Self {
            term: parts.term.into(),
            after: after.map(|pair| Cursor { value: pair.first.into(), key: pair.second.into() }),
            limit: parts.limit,
        }
    }
}

impl From<Page> for PageParts {
    fn from(page: Page) -> Self {
        Self { records: page.records.into_iter().map(Into::into).collect(), next: page.next.map(Into::into).into() }
    }
}

impl From<PageParts> for Page {
    fn from(parts: PageParts) -> Self {
        Self {
            records: parts.records.into_iter().map(Into::into).collect(),
            next: parts.next.into_option().map(Into::into),
        }
    }
}

impl From<&CounterUse> for CounterUseParts {
    fn from(counter_use: &CounterUse) -> Self {
        let CounterUse { credential, epoch, counter, nonce, time_ms } = *counter_use;
        Self { credential, epoch, counter, nonce, time_ms }
    }
}

impl From<&CounterUseParts> for CounterUse {
    fn from(parts: &CounterUseParts) -> Self {
        let CounterUseParts { credential, epoch, counter, nonce, time_ms } = *parts;
        Self { credential, epoch, counter, nonce, time_ms }
    }
}

impl From<CounterPosition> for CounterPositionParts {
    fn from(position: CounterPosition) -> Self {
        let CounterPosition { credential, epoch, counter } = position;
        Self { credential, epoch, counter }
    }
}

impl From<CounterPositionParts> for CounterPosition {
    fn from(parts: CounterPositionParts) -> Self {
        let CounterPositionParts { credential, epoch, counter } = parts;
        Self { credential, epoch, counter }
    }
}

impl From<Verdict> for VerdictCode {
    fn from(verdict: Verdict) -> Self {
        Self(match verdict {
            Verdict::Fresh => 1,
            Verdict::SameNonce => 2,
            Verdict::OtherNonce => 3,
            Verdict::TooOld => 4,
        })
    }
}

impl TryFrom<VerdictCode> for Verdict {
    type Error = PluginError;

    fn try_from(code: VerdictCode) -> Result<Self, PluginError> {
        Ok(match code.0 {
            1 => Self::Fresh,
            2 => Self::SameNonce,
            3 => Self::OtherNonce,
            4 => Self::TooOld,
            other => return Err(PluginError::Corrupt(format!("the plugin gave a verdict of number {other}"))),
        })
    }
}
