//! Two readings of a realm in lock-step. A copy must have every record and
//! every row; only rows that a store may have pruned by now may be missing.

use std::{cmp::Ordering, collections::VecDeque};

use claviger_plugin_api::{COUNTER_RETENTION, COUNTER_WINDOW, CounterUse, IndexTerm, Record};

use super::{
    Error, Listener, Progress,
    origin::{Source, position},
};
use crate::management::sealing::same_secret;

/// How the records of a copy stand to those of the original.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Records {
    /// Both have it, with the same value and terms.
    pub(super) same: u64,
    /// The original alone has it.
    pub(super) missing: u64,
    /// Both have it, and it differs.
    pub(super) differing: u64,
    /// Keys that the copy alone has.
    pub(super) surplus: Vec<String>,
    /// The first key that is differing or surplus.
    pub(super) first: Option<String>,
    /// The copy has a realm's secret, which is not that of the original.
    pub(super) other_realm: bool,
}

/// How the rows of a copy stand to those of the original.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counters {
    /// Both have it, with the same nonce, and the copy keeps it as long.
    pub(super) same: u64,
    /// The original alone has it, but it is one that may be pruned.
    pub(super) pruned: u64,
    /// The original alone has it.
    pub(super) missing: u64,
    /// Both have it, with other nonces, or the copy ends to keep it earlier.
    pub(super) differing: u64,
    /// The copy alone has it: the original has pruned it since. It refuses more, never less.
    pub(super) surplus: u64,
}

impl Records {
    /// What makes them unequal, in words.
    pub(super) fn fault(&self) -> Option<String> {
        let surplus = self.surplus.len();
        (self.missing > 0 || self.differing > 0 || surplus > 0)
            .then(|| format!("{} records are missing, {} differ, {surplus} are too many", self.missing, self.differing))
    }
}

impl Counters {
    /// What makes them unequal, in words.
    pub(super) fn fault(&self) -> Option<String> {
        (self.missing > 0 || self.differing > 0)
            .then(|| format!("{} rows of counters are missing, {} differ", self.missing, self.differing))
    }
}

/// Compares all records.
pub(super) async fn records(
    original: &mut dyn Source,
    copy: &mut dyn Source,
    step: &'static str,
    listener: Listener<'_>,
) -> Result<Records, Error> {
    let mut found = Records::default();
    let (mut left, mut right) = (VecDeque::new(), VecDeque::new());
    let mut seen = 0;
    loop {
        if left.is_empty() {
            left = original.records().await?.into();
            listener(Progress { step, records: seen, counters: 0 });
        }
        if right.is_empty() {
            right = copy.records().await?.into();
        }
        let order = match (left.front(), right.front()) {
            (None, None) => return Ok(found),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(left), Some(right)) => left.key.cmp(&right.key),
        };
        let left = if order.is_le() { left.pop_front() } else { None };
        let right = if order.is_ge() { right.pop_front() } else { None };
        seen += u64::from(left.is_some());
        found.judge(left, right);
    }
}

impl Records {
    fn judge(&mut self, left: Option<Record>, right: Option<Record>) {
        let secret = |key: &str| key == REALM_SECRET;
        match (left, right) {
            (Some(left), Some(right)) if same(&left, &right.value, &right.terms) => self.same += 1,
            (Some(left), Some(right)) => {
                self.differing += 1;
                // Sealed anew it is still the realm's.
                self.other_realm |= secret(&left.key) && !same_secret(&left.value, &right.value);
                self.first.get_or_insert(left.key);
            }
            (Some(_), None) => self.missing += 1,
            (None, Some(right)) => {
                self.other_realm |= secret(&right.key);
                self.first.get_or_insert_with(|| right.key.clone());
                self.surplus.push(right.key);
            }
            (None, None) => {}
        }
    }
}

/// Whether a record has this value and these terms, whatever their order.
pub(super) fn same(record: &Record, value: &[u8], terms: &[IndexTerm]) -> bool {
    let sorted = |terms: &[IndexTerm]| {
        let mut terms = terms.to_vec();
        terms.sort();
        terms.dedup();
        terms
    };
    record.value == value && (record.terms == terms || sorted(&record.terms) == sorted(terms))
}

/// Compares all rows of counters, which follow the records of both.
pub(super) async fn counters(
    original: &mut dyn Source,
    copy: &mut dyn Source,
    now_ms: u64,
    step: &'static str,
    listener: Listener<'_>,
) -> Result<Counters, Error> {
    let mut found = Counters::default();
    let mut line = Line::default();
    let (mut left, mut right) = (VecDeque::new(), VecDeque::new());
    let mut seen = 0;
    loop {
        if left.is_empty() {
            left = original.counters().await?.into();
            listener(Progress { step, records: 0, counters: seen });
        }
        if right.is_empty() {
            right = copy.counters().await?.into();
        }
        let order = match (left.front(), right.front()) {
            (None, None) => {
                found.settle(&line);
                return Ok(found);
            }
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(left), Some(right)) => position(left).cmp(&position(right)),
        };
        let left = if order.is_le() { left.pop_front() } else { None };
        let right = if order.is_ge() { right.pop_front() } else { None };
        seen += u64::from(left.is_some());
        if let Some(row) = left.or(right).filter(|row| !line.holds(row)) {
            found.settle(&line);
            line = Line { of: Some((row.credential, row.epoch)), ..Line::default() };
        }
        if let Some(right) = right {
            line.highest = Some(right.counter); // rows rise
        }
        match (left, right) {
            (Some(left), Some(right)) if left.nonce == right.nonce && left.time_ms / 1000 <= right.time_ms / 1000 => {
                found.same += 1;
            }
            (Some(_), Some(_)) => found.differing += 1,
            (Some(left), None) if is_over(&left, now_ms) => line.over.push(left.counter),
            (Some(_), None) => found.missing += 1,
            (None, _) => found.surplus += 1,
        }
    }
}

/// Whether a row was kept as long as a store must.
pub(super) fn is_over(row: &CounterUse, now_ms: u64) -> bool {
    let kept = u64::try_from(COUNTER_RETENTION.as_millis()).unwrap_or(u64::MAX);
    row.time_ms.saturating_add(kept) < now_ms
}

/// The rows of one credential and epoch.
#[derive(Default)]
struct Line {
    of: Option<([u8; 16], u32)>,
    /// The copy's highest counter.
    highest: Option<u64>,
    /// Counters that are over and that the copy has not.
    over: Vec<u64>,
}

impl Line {
    fn holds(&self, row: &CounterUse) -> bool {
        self.of == Some((row.credential, row.epoch))
    }
}

impl Counters {
    /// Rows that are over may be missing behind the window of the copy, where
    /// it takes no counter any more.
    fn settle(&mut self, line: &Line) {
        let window = line.highest.and_then(|highest| highest.checked_sub(COUNTER_WINDOW)).filter(|window| *window > 0);
        for counter in &line.over {
            match window {
                Some(window) if *counter <= window => self.pruned += 1,
                _ => self.missing += 1,
            }
        }
    }
}

/// The record by which realms differ.
const REALM_SECRET: &str = crate::management::realm_keys::KEY;

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;

    /// A realm in pages of one size.
    struct Pages {
        records: Vec<Record>,
        rows: Vec<CounterUse>,
        size: usize,
    }

    #[async_trait(?Send)]
    impl Source for Pages {
        async fn records(&mut self) -> Result<Vec<Record>, Error> {
            let size = self.size.min(self.records.len());
            Ok(self.records.drain(..size).collect())
        }

        async fn counters(&mut self) -> Result<Vec<CounterUse>, Error> {
            let size = self.size.min(self.rows.len());
            Ok(self.rows.drain(..size).collect())
        }
    }

    fn record(key: &str, value: &str, terms: &[&str]) -> Record {
        let terms = terms.iter().map(|value| IndexTerm { name: "user".into(), value: (*value).into() }).collect();
        Record { key: key.into(), version: 1, value: value.into(), terms }
    }

    async fn of_records(left: &[Record], right: &[Record]) -> Records {
        let mut found = Vec::new();
        for (one, two) in [(1, 1), (1, 3), (3, 1), (100, 100)] {
            let pages = |records: &[Record], size| Pages { records: records.to_vec(), rows: Vec::new(), size };
            found.push(records(&mut pages(left, one), &mut pages(right, two), "", &|_| {}).await.unwrap());
        }
        assert!(found.windows(2).all(|pair| pair[0] == pair[1]), "the pages make no difference: {found:?}");
        found.remove(0)
    }

    #[tokio::test]
    async fn records_are_told_apart_by_value_and_terms() {
        let left =
            [record("a", "1", &[]), record("b", "2", &["x", "y"]), record("c", "3", &["z"]), record("e", "5", &[])];
        let equal = of_records(&left, &left).await;
        assert_eq!((equal.same, equal.fault()), (4, None));
        // Terms have no order, and versions begin anew.
        let mut right = left.clone();
        right[1].terms.reverse();
        right[0].version = 9;
        assert_eq!(of_records(&left, &right).await.fault(), None);

        let right = [record("a", "1", &[]), record("b", "2", &["x"]), record("d", "4", &[]), record("e", "6", &[])];
        let found = of_records(&left, &right).await;
        assert_eq!((found.same, found.missing, found.differing), (1, 1, 2));
        assert_eq!((found.surplus.as_slice(), found.first.as_deref()), (&["d".to_owned()][..], Some("b")));
        assert!(found.fault().is_some() && !found.other_realm);
        assert!(of_records(&left, &[]).await.fault().is_some());
        assert!(of_records(&[], &left).await.fault().is_some());
    }

    #[tokio::test]
    async fn another_realm_is_known_by_its_secret() {
        let secret = |value: &str| record(REALM_SECRET, value, &[]);
        assert!(!of_records(&[secret("1")], &[secret("1")]).await.other_realm);
        assert!(!of_records(&[secret("1")], &[]).await.other_realm);
        assert!(of_records(&[secret("1")], &[secret("2")]).await.other_realm);
        assert!(of_records(&[record("user/a", "", &[])], &[secret("2")]).await.other_realm);
    }

    const NOW: u64 = 100_000_000;

    fn row(credential: u8, counter: u64, time_ms: u64) -> CounterUse {
        CounterUse { credential: [credential; 16], epoch: 1, counter, nonce: [counter as u8; 32], time_ms }
    }

    async fn of_rows(left: &[CounterUse], right: &[CounterUse]) -> Counters {
        let mut found = Vec::new();
        for (one, two) in [(1, 1), (1, 3), (3, 1), (100, 100)] {
            let pages = |rows: &[CounterUse], size| Pages { records: Vec::new(), rows: rows.to_vec(), size };
            found.push(counters(&mut pages(left, one), &mut pages(right, two), NOW, "", &|_| {}).await.unwrap());
        }
        assert!(found.windows(2).all(|pair| pair[0] == pair[1]), "the pages make no difference: {found:?}");
        found.remove(0)
    }

    #[tokio::test]
    async fn rows_must_be_there_with_their_nonce_and_as_long() {
        let left = [row(1, 1, NOW), row(1, 2, NOW), row(2, 1, NOW)];
        assert_eq!(of_rows(&left, &left).await, Counters { same: 3, ..Counters::default() });
        let mut right = left;
        right[0].time_ms += 1000; // kept for longer
        assert_eq!(of_rows(&left, &right).await.fault(), None);
        right[1].nonce = [99; 32];
        right[2].time_ms -= 1000;
        assert_eq!(of_rows(&left, &right).await, Counters { same: 1, differing: 2, ..Counters::default() });
        assert_eq!(of_rows(&left, &left[..1]).await, Counters { same: 1, missing: 2, ..Counters::default() });
        // What only the copy knows refuses more.
        let surplus = of_rows(&left[..1], &left).await;
        assert_eq!((surplus, surplus.fault()), (Counters { same: 1, surplus: 2, ..Counters::default() }, None));
    }

    #[tokio::test]
    async fn only_rows_that_are_over_and_behind_the_window_may_be_missing() {
        // 1 and 2 are over; 3 is behind the window and young; 100 is the highest.
        let left = [row(1, 1, 0), row(1, 2, 0), row(1, 3, NOW), row(1, 100, NOW), row(2, 1, NOW)];
        let found = of_rows(&left, &left[2..]).await;
        assert_eq!((found.pruned, found.fault()), (2, None));
        assert_eq!(of_rows(&left, &left[3..]).await.missing, 1, "a young row");
        // Without the highest in the copy, it would take 1 and 2 again.
        let found = of_rows(&left, &[left[2], left[4]]).await;
        assert_eq!((found.pruned, found.missing), (0, 3));
        let found = of_rows(&left, &left[4..]).await;
        assert_eq!((found.pruned, found.missing), (0, 4));
        // The window's edge: 65 - 64.
        let edge = [row(1, 1, 0), row(1, 2, 0), row(1, 65, NOW)];
        let found = of_rows(&edge, &edge[2..]).await;
        assert_eq!((found.pruned, found.missing), (1, 1));
        // While the window reaches to the beginning nothing is behind it.
        let start = [row(1, 0, 0), row(1, 64, NOW)];
        assert_eq!(of_rows(&start, &start[1..]).await.missing, 1);
    }
}
