//! A realm into a user store, whole and proven to be so.
//!
//! Nothing remembers how far a copy came: what is there already, with the same
//! value, is left alone. So it can be interrupted at any moment, and run again.

use claviger_plugin_api::{CounterUse, Put, Record, Verdict, Written};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Serialize;

use super::{
    Error, Listener, Progress,
    compare::{self, is_over, same},
    origin::{Origin, Source},
    stores::Store,
};
use crate::clock::{self, Clock};

/// How a realm is to be copied.
pub struct Options<'a> {
    /// Say what would be done, and write nothing.
    pub dry_run: bool,
    /// Make a target that holds the same realm equal, whatever it has now.
    pub overwrite: bool,
    /// Compare both at the end. Not where the origin goes on changing.
    pub verify: bool,
    /// What to do about a target that holds something else.
    pub advice: &'static str,
    /// The time.
    pub clock: Clock,
    /// Hears of the progress.
    pub listener: Listener<'a>,
}

/// What was done; with `dry_run`, what would be done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Records of the realm.
    pub records: u64,
    /// Rows of counters of the realm.
    pub counters: u64,
    /// Bytes of the records' keys, values and terms.
    pub bytes: u64,
    /// Records that were written.
    pub records_written: u64,
    /// Records that the target alone had, and that were deleted.
    pub records_deleted: u64,
    /// Rows that were written.
    pub counters_written: u64,
    /// The copy was compared with its origin, and is equal.
    pub verified: bool,
}

/// Copies the realm from one store into another.
///
/// # Errors
/// When a store is away, the target holds something else, or the copy is not
/// equal to its origin. Before the target was found to be fit, nothing is written.
pub async fn migrate(from: &Store, to: &Store, options: &Options<'_>) -> Result<Report, Error> {
    copy(from, to, options).await
}

pub(super) async fn copy(from: &dyn Origin, to: &Store, options: &Options<'_>) -> Result<Report, Error> {
    if from.read()?.records().await?.is_empty() {
        return Err(Error::Empty(from.name().to_owned()));
    }
    let target = Target { from, to, options, fresh: is_empty(to).await? };
    let surplus = if target.fresh { Vec::new() } else { target.fitness().await? };
    let mut report = Report::default();
    let mut source = from.read()?;
    target.records(&mut *source, &mut report).await?;
    target.delete(surplus, &mut report).await?;
    target.counters(&mut *source, &mut report).await?;
    if options.verify && !options.dry_run {
        target.verify().await?;
        report.verified = true;
    }
    Ok(report)
}

/// Whether a store holds nothing at all.
async fn is_empty(store: &Store) -> Result<bool, Error> {
    let mut source = store.read()?;
    Ok(source.records().await?.is_empty() && source.counters().await?.is_empty())
}

struct Target<'a> {
    from: &'a dyn Origin,
    to: &'a Store,
    options: &'a Options<'a>,
    /// It was empty at the beginning.
    fresh: bool,
}

impl Target<'_> {
    /// Whether the target may be written to: it holds nothing but what the
    /// origin has, or is to be overwritten. The keys that it has too many.
    async fn fitness(&self) -> Result<Vec<String>, Error> {
        let (mut original, mut copy) = (self.from.read()?, self.to.read()?);
        let found = compare::records(&mut *original, &mut *copy, "comparing", self.options.listener).await?;
        let (from, to) = (self.from.name().to_owned(), self.to.name().to_owned());
        if found.other_realm {
            return Err(Error::OtherRealm { from, to });
        }
        match found.first {
            Some(key) if !self.options.overwrite => Err(Error::NotEmpty {
                from,
                to,
                differing: found.differing,
                surplus: found.surplus.len() as u64,
                key,
                advice: self.options.advice,
            }),
            _ => Ok(found.surplus),
        }
    }

    async fn records(&self, source: &mut dyn Source, report: &mut Report) -> Result<(), Error> {
        loop {
            let page = source.records().await?;
            if page.is_empty() {
                return Ok(());
            }
            report.records += page.len() as u64;
            report.bytes += page.iter().map(size).sum::<u64>();
            let puts = self.puts(page).await?;
            report.records_written += puts.len() as u64;
            if !self.options.dry_run {
                let written = stream::iter(puts).map(|put| self.put(put)).buffer_unordered(IN_FLIGHT);
                written.try_collect::<()>().await?;
            }
            self.tell("copying", report);
        }
    }

    /// The writes that are still to be made for these records.
    async fn puts(&self, page: Vec<Record>) -> Result<Vec<Put>, Error> {
        let put =
            |record: Record, expected| Put { key: record.key, expected, value: record.value, terms: record.terms };
        if self.fresh {
            return Ok(page.into_iter().map(|record| put(record, 0)).collect());
        }
        let keys: Vec<String> = page.iter().map(|record| record.key.clone()).collect();
        let there = self.to.call(async |store| store.get(&keys).await).await?;
        let both = page.into_iter().zip(there);
        Ok(both
            .filter_map(|(record, there)| match there {
                Some(there) if same(&record, &there.value, &there.terms) => None,
                there => Some(put(record, there.map_or(0, |there| there.version))),
            })
            .collect())
    }

    async fn put(&self, put: Put) -> Result<(), Error> {
        let Written::Conflict(_) = self.to.call(async |store| store.put(put.clone()).await).await? else {
            return Ok(());
        };
        // Written by a call that was told to have failed?
        match self.there(&put.key).await? {
            Some(there) if same(&there, &put.value, &put.terms) => Ok(()),
            _ => Err(self.conflict(put.key)),
        }
    }

    /// Deletes what the target alone has.
    async fn delete(&self, keys: Vec<String>, report: &mut Report) -> Result<(), Error> {
        report.records_deleted = keys.len() as u64;
        if self.options.dry_run {
            return Ok(());
        }
        for key in keys {
            let Some(there) = self.there(&key).await? else { continue };
            let deleted = self.to.call(async |store| store.delete(&key, there.version).await).await?;
            match deleted {
                // The latter: by a call that was told to have failed.
                Written::Done(_) | Written::Conflict(0) => {}
                Written::Conflict(_) => return Err(self.conflict(key)),
            }
        }
        Ok(())
    }

    async fn there(&self, key: &str) -> Result<Option<Record>, Error> {
        let keys = [key.to_owned()];
        Ok(self.to.call(async |store| store.get(&keys).await).await?.into_iter().next().flatten())
    }

    fn conflict(&self, key: String) -> Error {
        Error::Conflict { to: self.to.name().to_owned(), key }
    }

    async fn counters(&self, source: &mut dyn Source, report: &mut Report) -> Result<(), Error> {
        if self.options.dry_run {
            return self.count(source, report).await;
        }
        loop {
            let page = source.counters().await?;
            if page.is_empty() {
                return Ok(());
            }
            // One batch after the other: a row behind the window of later ones would be too old.
            let verdicts = self.to.call(async |store| store.consume(&page).await).await?;
            let now_ms = clock::millis((self.options.clock)());
            for (row, verdict) in page.iter().zip(verdicts) {
                match verdict {
                    Verdict::Fresh => report.counters_written += 1,
                    Verdict::SameNonce => {}
                    // Copied by an earlier run, and pruned since.
                    Verdict::TooOld if is_over(row, now_ms) => {}
                    Verdict::TooOld | Verdict::OtherNonce => return Err(self.foreign(row)),
                }
            }
            report.counters += page.len() as u64;
            self.tell("copying", report);
        }
    }

    /// Which rows would be written.
    async fn count(&self, source: &mut dyn Source, report: &mut Report) -> Result<(), Error> {
        let mut there = self.to.read()?;
        while !there.records().await?.is_empty() {}
        let now_ms = clock::millis((self.options.clock)());
        let found = compare::counters(source, &mut *there, now_ms, "comparing", self.options.listener).await?;
        report.counters = found.same + found.differing + found.missing + found.pruned;
        report.counters_written = found.missing;
        Ok(())
    }

    /// Compares the copy with its origin.
    async fn verify(&self) -> Result<(), Error> {
        let (mut original, mut copy) = (self.from.read()?, self.to.read()?);
        let listener = self.options.listener;
        let records = compare::records(&mut *original, &mut *copy, "verifying", listener).await?;
        let now_ms = clock::millis((self.options.clock)());
        let counters = compare::counters(&mut *original, &mut *copy, now_ms, "verifying", listener).await?;
        match records.fault().or_else(|| counters.fault()) {
            None => Ok(()),
            Some(what) => {
                Err(Error::Unequal { from: self.from.name().to_owned(), to: self.to.name().to_owned(), what })
            }
        }
    }

    fn foreign(&self, row: &CounterUse) -> Error {
        Error::Counter {
            from: self.from.name().to_owned(),
            to: self.to.name().to_owned(),
            credential: data_encoding::HEXLOWER.encode(&row.credential),
            counter: row.counter,
        }
    }

    fn tell(&self, step: &'static str, report: &Report) {
        (self.options.listener)(Progress { step, records: report.records, counters: report.counters });
    }
}

/// Bytes of a record in a store, without what the store itself adds.
fn size(record: &Record) -> u64 {
    let terms: usize = record.terms.iter().map(|term| term.name.len() + term.value.len()).sum();
    (record.key.len() + record.value.len() + terms) as u64
}

/// Writes under way at once: they share commits.
const IN_FLIGHT: usize = 256;
