//! Where a realm is read from.

use async_trait::async_trait;
use claviger_plugin_api::{CounterPosition, CounterUse, Record};

use super::{Error, stores::Store};

/// A realm that can be read as often as needed.
pub(super) trait Origin {
    /// For messages.
    fn name(&self) -> &str;

    /// Reads it from its beginning.
    fn read(&self) -> Result<Box<dyn Source>, Error>;
}

/// One reading of a realm: all records in bytewise order of their keys, then
/// all rows of counters in the order of their positions.
#[async_trait(?Send)]
pub(super) trait Source {
    /// The next records, at most [`PAGE`]; none at the end.
    async fn records(&mut self) -> Result<Vec<Record>, Error>;

    /// The next rows, at most [`PAGE`]; none at the end. To be called when the
    /// records are at their end.
    async fn counters(&mut self) -> Result<Vec<CounterUse>, Error>;
}

/// Entries of a page: few enough for their bytes to fit into memory at once,
/// enough for few round trips.
pub(super) const PAGE: usize = 500;

/// A row's place in the order of rows.
pub(super) fn position(row: &CounterUse) -> CounterPosition {
    CounterPosition { credential: row.credential, epoch: row.epoch, counter: row.counter }
}

impl Origin for Store {
    fn name(&self) -> &str {
        Self::name(self)
    }

    fn read(&self) -> Result<Box<dyn Source>, Error> {
        Ok(Box::new(Reading { store: self.clone(), key: None, position: None }))
    }
}

/// One reading of a store.
struct Reading {
    store: Store,
    key: Option<String>,
    position: Option<CounterPosition>,
}

#[async_trait(?Send)]
impl Source for Reading {
    async fn records(&mut self) -> Result<Vec<Record>, Error> {
        let page = self.store.call(async |store| store.list(self.key.as_deref(), PAGE).await).await?;
        if let Some(last) = page.last() {
            self.key = Some(last.key.clone());
        }
        Ok(page)
    }

    async fn counters(&mut self) -> Result<Vec<CounterUse>, Error> {
        let page = self.store.call(async |store| store.counters(self.position, PAGE).await).await?;
        self.position = page.last().map(position).or(self.position);
        Ok(page)
    }
}
