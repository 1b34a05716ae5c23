//! What the chunks of a backup hold.

use claviger_plugin_api::{CounterUse, IndexTerm, Record};
use minicbor::{Decode, Encode};

/// One entry. Records come first, in bytewise order of their keys; then rows of
/// counters in the order of their positions; then the end, once.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(in super::super) enum Entry {
    /// A record.
    #[n(0)]
    Record(#[n(0)] RecordEntry),
    /// Some rows of counters.
    #[n(1)]
    Counters(#[n(0)] Vec<CounterEntry>),
    /// The end.
    #[n(2)]
    End {
        /// Number of records.
        #[n(0)]
        records: u64,
        /// Number of rows.
        #[n(1)]
        counters: u64,
    },
}

/// A record, without its version: it gets a new one where it is restored.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(in super::super) struct RecordEntry {
    #[n(0)]
    pub(in super::super) key: String,
    #[cbor(n(1), with = "minicbor::bytes")]
    pub(in super::super) value: Vec<u8>,
    #[n(2)]
    pub(in super::super) terms: Vec<TermEntry>,
}

/// An index term.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(in super::super) struct TermEntry {
    #[n(0)]
    pub(in super::super) name: String,
    #[n(1)]
    pub(in super::super) value: String,
}

/// A row of a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(in super::super) struct CounterEntry {
    #[cbor(n(0), with = "minicbor::bytes")]
    pub(in super::super) credential: [u8; 16],
    #[n(1)]
    pub(in super::super) epoch: u32,
    #[n(2)]
    pub(in super::super) counter: u64,
    #[cbor(n(3), with = "minicbor::bytes")]
    pub(in super::super) nonce: [u8; 32],
    #[n(4)]
    pub(in super::super) time_ms: u64,
}

impl From<Record> for RecordEntry {
    fn from(Record { key, version: _, value, terms }: Record) -> Self {
        let terms = terms.into_iter().map(|IndexTerm { name, value }| TermEntry { name, value }).collect();
        Self { key, value, terms }
    }
}

impl From<RecordEntry> for Record {
    fn from(RecordEntry { key, value, terms }: RecordEntry) -> Self {
        let terms = terms.into_iter().map(|TermEntry { name, value }| IndexTerm { name, value }).collect();
        Self { key, version: 1, value, terms }
    }
}

impl From<CounterUse> for CounterEntry {
    fn from(CounterUse { credential, epoch, counter, nonce, time_ms }: CounterUse) -> Self {
        Self { credential, epoch, counter, nonce, time_ms }
    }
}

impl From<CounterEntry> for CounterUse {
    fn from(CounterEntry { credential, epoch, counter, nonce, time_ms }: CounterEntry) -> Self {
        Self { credential, epoch, counter, nonce, time_ms }
    }
}
