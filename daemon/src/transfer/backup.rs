//! A store into an encrypted file, and back.
//!
//! Records are read one page after the other, and counters after them, while
//! a daemon may go on serving. So a backup has each record as it was at some
//! moment between its beginning and its end, and counters at least as new as
//! the records: a restore never knows a credential without the counters that
//! were used until its record was read. The realm's own keys, under which
//! records are sealed, must be the same at the beginning and at the end.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Read, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use claviger_plugin_api::{CounterPosition, CounterUse, Record};
use serde::Serialize;

use super::{
    Error, Listener, Progress,
    copy::{self, Options},
    file::{Entry, FileError, Reader, Writer},
    origin::{Origin, PAGE, Source, position},
    rotation,
    stores::Store,
};
use crate::management::{kek::Recipients, keyring, realm_keys};

/// What a backup holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Contents {
    /// The realm.
    pub realm: String,
    /// When it was begun, milliseconds since 1970.
    pub made_ms: u64,
    /// Records.
    pub records: u64,
    /// Rows of counters.
    pub counters: u64,
    /// Bytes of the file.
    pub bytes: u64,
}

/// Writes a store into a new file of mode 0600, which appears under its name
/// when it is whole and durable.
///
/// # Errors
/// When the store is away or empty, the file exists, or cannot be written.
pub async fn backup(
    store: &Store,
    realm: &str,
    keks: &Recipients,
    path: &Path,
    made_ms: u64,
    listener: Listener<'_>,
) -> Result<Contents, Error> {
    if path.symlink_metadata().is_ok() {
        return Err(Error::Exists(path.to_owned()));
    }
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    // Made with mode 0600, and gone when this fails.
    let mut file =
        tempfile::Builder::new().prefix(".new-backup-").tempfile_in(directory).map_err(|e| Error::io(path, e))?;
    let mut out = Writer::new(BufWriter::new(file.as_file_mut()), keks, realm, made_ms)
        .map_err(|error| Error::file(path, error))?;
    let (records, counters) = write(store, &mut out, path, listener).await?;
    out.finish().map_err(|error| Error::file(path, error))?;
    let failed = |error| Error::io(path, error);
    file.as_file().sync_all().map_err(failed)?;
    let bytes = file.as_file().metadata().map_err(failed)?.len();
    file.persist_noclobber(path).map_err(|error| match error.error.kind() {
        io::ErrorKind::AlreadyExists => Error::Exists(path.to_owned()),
        _ => failed(error.error),
    })?;
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)?;
    Ok(Contents { realm: realm.to_owned(), made_ms, records, counters, bytes })
}

async fn write(
    store: &Store,
    out: &mut Writer<impl Write>,
    path: &Path,
    listener: Listener<'_>,
) -> Result<(u64, u64), Error> {
    let keys = realm_records(store).await?;
    let mut source = store.read()?;
    let mut tell = Progress { step: "writing", records: 0, counters: 0 };
    let mut put = |entry| out.write(&entry).map_err(|error| Error::file(path, error));
    loop {
        let page = source.records().await?;
        if page.is_empty() {
            break;
        }
        tell.records += page.len() as u64;
        page.into_iter().try_for_each(|record| put(Entry::Record(record.into())))?;
        listener(tell);
    }
    if tell.records == 0 {
        return Err(Error::Empty(store.name().to_owned()));
    }
    loop {
        let page = source.counters().await?;
        if page.is_empty() {
            break;
        }
        tell.counters += page.len() as u64;
        put(Entry::Counters(page.into_iter().map(Into::into).collect()))?;
        listener(tell);
    }
    if realm_records(store).await? != keys {
        return Err(Error::KeysChanged);
    }
    put(Entry::End { records: tell.records, counters: tell.counters })?;
    Ok((tell.records, tell.counters))
}

/// The records that hold the realm's own keys, with their versions.
async fn realm_records(store: &Store) -> Result<Vec<Option<Record>>, Error> {
    let keys = [realm_keys::KEY, keyring::KEY].map(str::to_owned);
    store.call(async |store| store.get(&keys).await).await
}

/// A file that was read to its end once: all of it is authentic.
pub struct Backup<'a> {
    path: PathBuf,
    name: String,
    file: Arc<File>,
    keks: &'a Recipients,
    contents: Contents,
    keep_keys: bool,
}

impl<'a> Backup<'a> {
    /// Reads the whole file. With `keep_keys`, restoring it demands no rotation.
    ///
    /// # Errors
    /// When it is no backup, of another realm, made under another key, or not whole.
    pub fn open(
        path: &Path,
        realm: &str,
        keks: &'a Recipients,
        keep_keys: bool,
        listener: Listener<'_>,
    ) -> Result<Self, Error> {
        let file = File::open(path).map_err(|error| Error::io(path, error))?;
        let bytes = file.metadata().map_err(|error| Error::io(path, error))?.len();
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let contents = Contents { realm: realm.to_owned(), made_ms: 0, records: 0, counters: 0, bytes };
        let file = Arc::new(file);
        let mut backup = Self { path: path.to_owned(), name, file, keks, contents, keep_keys };
        let mut reading = backup.reading()?;
        let header = reading.reader.header();
        if header.realm != realm {
            return Err(Error::Realm {
                path: path.to_owned(),
                found: header.realm.clone(),
                expected: realm.to_owned(),
            });
        }
        backup.contents.made_ms = header.made_ms;
        while !reading.next_records()?.is_empty() {
            listener(reading.progress());
        }
        while !reading.next_counters()?.is_empty() {
            listener(reading.progress());
        }
        (backup.contents.records, backup.contents.counters) = (reading.records, reading.counters);
        Ok(backup)
    }

    /// What it holds.
    pub fn contents(&self) -> &Contents {
        &self.contents
    }

    /// Writes it into a store, which must be empty, or hold what an
    /// interrupted restore of the same file has left there.
    ///
    /// # Errors
    /// As [`copy::migrate`].
    pub async fn restore(&self, to: &Store, options: &Options<'_>) -> Result<copy::Report, Error> {
        copy::copy(self, to, options).await
    }

    fn reading(&self) -> Result<Reading, Error> {
        let input = BufReader::with_capacity(1 << 17, FromStart { file: self.file.clone(), at: 0 });
        let reader = Reader::new(input, self.keks).map_err(|error| Error::file(&self.path, error))?;
        let (path, keep_keys) = (self.path.clone(), self.keep_keys);
        Ok(Reading {
            reader,
            path,
            keep_keys,
            ahead: None,
            key: None,
            row: None,
            records: 0,
            counters: 0,
            ended: false,
        })
    }
}

impl Origin for Backup<'_> {
    fn name(&self) -> &str {
        &self.name
    }

    fn read(&self) -> Result<Box<dyn Source>, Error> {
        Ok(Box::new(self.reading()?))
    }
}

/// A file from its beginning, however often it is open.
struct FromStart {
    file: Arc<File>,
    at: u64,
}

impl Read for FromStart {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// One reading of a backup.
struct Reading {
    reader: Reader<BufReader<FromStart>>,
    path: PathBuf,
    keep_keys: bool,
    /// The first entry behind the records.
    ahead: Option<Entry>,
    key: Option<String>,
    row: Option<CounterPosition>,
    records: u64,
    counters: u64,
    ended: bool,
}

impl Reading {
    fn progress(&self) -> Progress {
        Progress { step: "checking", records: self.records, counters: self.counters }
    }

    fn next_records(&mut self) -> Result<Vec<Record>, Error> {
        let mut page = Vec::new();
        while page.len() < PAGE && self.ahead.is_none() {
            match self.entry().map_err(|error| Error::file(&self.path, error))? {
                Some(Entry::Record(record)) => {
                    let mut record = record.into();
                    if !self.keep_keys {
                        rotation::require(&mut record)?;
                    }
                    page.push(record);
                }
                Some(other) => self.ahead = Some(other),
                None => break,
            }
        }
        Ok(page)
    }

    fn next_counters(&mut self) -> Result<Vec<CounterUse>, Error> {
        let entry = match self.ahead.take() {
            Some(entry) => Some(entry),
            None => self.entry().map_err(|error| Error::file(&self.path, error))?,
        };
        match entry {
            Some(Entry::Counters(rows)) => Ok(rows.into_iter().map(Into::into).collect()),
            _ => Ok(Vec::new()),
        }
    }

    /// The next entry, if it may stand here; `None` at the end, which is there
    /// and right.
    fn entry(&mut self) -> Result<Option<Entry>, FileError> {
        let wrong = |what: &str| Err(FileError::Contents(what.to_owned()));
        if self.ended {
            return Ok(None);
        }
        let Some(entry) = self.reader.next()? else { return wrong("it has no end") };
        match &entry {
            Entry::Record(record) => {
                if self.counters > 0 || self.key.as_ref().is_some_and(|key| *key >= record.key) {
                    return wrong("records out of order");
                }
                self.key = Some(record.key.clone());
                self.records += 1;
            }
            Entry::Counters(rows) => {
                if rows.is_empty() || rows.len() > MAX_ROWS {
                    return wrong("rows of counters of an impossible number");
                }
                for row in rows {
                    let at = Some(position(&(*row).into()));
                    if self.row >= at {
                        return wrong("rows of counters out of order");
                    }
                    self.row = at;
                }
                self.counters += rows.len() as u64;
            }
            Entry::End { records, counters } => {
                if (*records, *counters) != (self.records, self.counters) {
                    return wrong("another number of entries than its end says");
                }
                if self.reader.next()?.is_some() {
                    return wrong("something behind its end");
                }
                self.ended = true;
                return Ok(None);
            }
        }
        Ok(Some(entry))
    }
}

#[async_trait(?Send)]
impl Source for Reading {
    async fn records(&mut self) -> Result<Vec<Record>, Error> {
        self.next_records()
    }

    async fn counters(&mut self) -> Result<Vec<CounterUse>, Error> {
        self.next_counters()
    }
}

/// Rows of one entry, at most: what a store takes at once.
const MAX_ROWS: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        management::kek::Kek,
        transfer::file::{CounterEntry, RecordEntry},
    };

    fn record(key: &str) -> Entry {
        Entry::Record(RecordEntry { key: key.into(), value: vec![1], terms: Vec::new() })
    }

    fn rows(counters: &[u64]) -> Entry {
        let row = |counter: &u64| CounterEntry {
            credential: [1; 16],
            epoch: 1,
            counter: *counter,
            nonce: [2; 32],
            time_ms: 3,
        };
        Entry::Counters(counters.iter().map(row).collect())
    }

    fn end(records: u64, counters: u64) -> Entry {
        Entry::End { records, counters }
    }

    fn open(entries: &[Entry], realm: &str) -> Result<Contents, Error> {
        let file = tempfile::NamedTempFile::new().unwrap();
        let kek = Recipients::of([Kek::new(&[7; 32])]);
        let mut writer = Writer::new(file.as_file(), &kek, "example", 5).unwrap();
        entries.iter().for_each(|entry| writer.write(entry).unwrap());
        writer.finish().unwrap();
        Backup::open(file.path(), realm, &kek, false, &|_| {}).map(|backup| backup.contents().clone())
    }

    #[test]
    fn a_file_is_read_to_an_end_that_agrees() {
        let good = [record("a"), record("b"), rows(&[1, 2]), rows(&[3]), end(2, 3)];
        let contents = open(&good, "example").unwrap();
        assert_eq!((contents.records, contents.counters, contents.made_ms), (2, 3, 5));
        assert!(matches!(open(&good, "other"), Err(Error::Realm { found, .. }) if found == "example"));
        // Sealed by the right key, and all the same wrong.
        for bad in [
            &good[..4],
            &[],
            &[record("a"), end(2, 0)],
            &[record("a"), rows(&[1]), end(1, 2)],
            &[record("b"), record("a"), end(2, 0)],
            &[record("a"), record("a"), end(2, 0)],
            &[rows(&[1]), record("a"), end(1, 1)],
            &[record("a"), rows(&[2]), rows(&[1]), end(1, 2)],
            &[record("a"), rows(&[1, 1]), end(1, 2)],
            &[record("a"), rows(&[]), end(1, 0)],
            &[record("a"), end(1, 0), record("b")],
            &[record("a"), end(1, 0), end(1, 0)],
        ] {
            let opened = open(bad, "example");
            assert!(matches!(opened, Err(Error::File { source: FileError::Contents(_), .. })), "{bad:?}: {opened:?}");
        }
    }

    #[test]
    fn a_record_that_cannot_be_read_is_named_before_anything_is_written() {
        let opened = open(&[record("user/alice"), end(1, 0)], "example");
        assert!(matches!(opened, Err(Error::Record(key)) if key == "user/alice"));
    }
}
