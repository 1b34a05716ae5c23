//! User stores: where the management role keeps its records and counters.

use std::time::Duration;

use async_trait::async_trait;

use crate::error::PluginError;

/// A record as it is stored: bytes of the host, in which every key is sealed.
/// The store must not look into `value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Unique key, 1 to 255 bytes of UTF-8, compared bytewise.
    pub key: String,
    /// 1 for a new record, one more at each `put`. Set by the store.
    pub version: u64,
    /// At most [`MAX_VALUE`] bytes.
    pub value: Vec<u8>,
    /// At most 8 terms under which `scan` finds the record.
    pub terms: Vec<IndexTerm>,
}

/// The largest `value` of a [`Record`] in bytes.
pub const MAX_VALUE: usize = 64 * 1024;

/// An index entry of a record: `scan` lists the records of one `name` in
/// bytewise order of (`value`, record key).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct IndexTerm {
    /// Which index, such as `user`. 1 to 32 bytes.
    pub name: String,
    /// The sort key, 0 to 255 bytes.
    pub value: String,
}

/// A write of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    /// See [`Record::key`].
    pub key: String,
    /// The version that must be in the store now; 0 when there must be none.
    pub expected: u64,
    /// See [`Record::value`].
    pub value: Vec<u8>,
    /// Replaces all terms of the record.
    pub terms: Vec<IndexTerm>,
}

/// What became of a conditional write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// Durable before this answer; the record now has this version (0 after a delete).
    Done(u64),
    /// Nothing was changed: the store holds this version (0 when there is no record).
    Conflict(u64),
}

/// What to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// The index to follow.
    pub term: String,
    /// Where the last page ended ([`Page::next`]); `None` starts at the beginning.
    pub after: Option<Cursor>,
    /// At most this many records, 1 to 1000.
    pub limit: usize,
}

/// A position in an index: the term value and record key of the last record seen.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    /// Term value of the last record seen.
    pub value: String,
    /// Key of the last record seen.
    pub key: String,
}

/// One page of a scan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// The records in order.
    pub records: Vec<Record>,
    /// Where to go on; `None` at the end.
    pub next: Option<Cursor>,
}

/// One use of a counter: the replay defence of the protocol, section 6. The
/// store keeps it as a row for [`COUNTER_RETENTION`] at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CounterUse {
    /// The credential, chosen by the host at random when it is made.
    pub credential: [u8; 16],
    /// The credential's key epoch.
    pub epoch: u32,
    /// The counter inside the envelope.
    pub counter: u64,
    /// The envelope's nonce.
    pub nonce: [u8; 32],
    /// When the envelope says it was made, in milliseconds since 1970. Where
    /// that lies ahead, [`COUNTER_RETENTION`] counts from there.
    pub time_ms: u64,
}

/// How far behind the highest counter of its credential and epoch a use without
/// a row may lie: at or below `max - COUNTER_WINDOW` it is [`Verdict::TooOld`].
/// While `max` is at most this, the window reaches to the beginning.
pub const COUNTER_WINDOW: u64 = 64;

/// How long a row must be kept after it was recorded, or after
/// [`CounterUse::time_ms`] where that is later, by the host's clock and across
/// restarts. Only a row that is both older than this and at or below the
/// window may be pruned.
///
/// The clock window is at most an hour either way, so an envelope that is
/// post-dated by an hour is in time for two hours; the rest is a margin. Were
/// its row gone by then, an envelope that was answered and is sent again would
/// look like that of a clone.
pub const COUNTER_RETENTION: Duration = Duration::from_secs(130 * 60);

/// The answer for one [`CounterUse`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Not seen before; now recorded durably.
    Fresh,
    /// Its row is there, with the same nonce: a replay, however far behind.
    SameNonce,
    /// Its row is there, with another nonce: two live copies of the
    /// credential. The row stays as it is.
    OtherNonce,
    /// It has no row and lies at or below the window: never used, or pruned.
    /// It is not recorded.
    TooOld,
}

/// A row of a counter in the order of [`UserStore::counters`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CounterPosition {
    /// See [`CounterUse::credential`].
    pub credential: [u8; 16],
    /// See [`CounterUse::epoch`].
    pub epoch: u32,
    /// See [`CounterUse::counter`].
    pub counter: u64,
}

/// A user store. All calls are batched where the hot path uses them.
///
/// Every answer that says *done* or *fresh* must be durable against the death
/// of the daemon's process (`kill -9`) before it is given. Calls come from
/// many tasks at once, and a call may be dropped at any await: what it then
/// did must be all or nothing.
#[async_trait]
pub trait UserStore: Send + Sync + 'static {
    /// The records of `keys` (at most 1000), in the same order; `None` where there is none.
    async fn get(&self, keys: &[String]) -> Result<Vec<Option<Record>>, PluginError>;

    /// Writes a record if the stored version is the expected one.
    async fn put(&self, put: Put) -> Result<Written, PluginError>;

    /// Deletes a record if the stored version is the expected one.
    async fn delete(&self, key: &str, expected: u64) -> Result<Written, PluginError>;

    /// Lists records in the order of an index term.
    async fn scan(&self, scan: Scan) -> Result<Page, PluginError>;

    /// All records, whatever their terms, in bytewise order of their keys, from
    /// behind `after`: `limit` of them (1 to 1000), fewer only at the end. For
    /// copies and backups, never on the way of a request.
    async fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<Record>, PluginError>;

    /// Records counter uses (at most 1000), answering each in order; two uses
    /// of one counter in the same batch are judged in that order. All fresh
    /// uses of a batch share one commit.
    ///
    /// A use whose row is there is judged by the row, whatever the window; only
    /// one without a row can be too old. A store should prune a little at a
    /// time: a busy credential has many thousands of rows within
    /// [`COUNTER_RETENTION`].
    async fn consume(&self, uses: &[CounterUse]) -> Result<Vec<Verdict>, PluginError>;

    /// Forgets all counters of a credential that was deleted or enrolled anew.
    async fn forget_counters(&self, credential: [u8; 16]) -> Result<(), PluginError>;

    /// All rows of counters in the order of their positions, from behind
    /// `after`: `limit` of them (1 to 1000), fewer only at the end. For copies
    /// and backups. The `time_ms` of a row is the moment from which its
    /// [`COUNTER_RETENTION`] counts, to the second, so that a store that
    /// `consume`s the rows in this order keeps each as long as this one.
    async fn counters(&self, after: Option<CounterPosition>, limit: usize) -> Result<Vec<CounterUse>, PluginError>;

    /// A cheap proof that the store can work: that it answers (a read of its
    /// own schema, say) and that it takes writes. The host lets calls through
    /// again on the word of it.
    async fn health(&self) -> Result<(), PluginError>;
}
