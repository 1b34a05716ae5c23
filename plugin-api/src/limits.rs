//! The sizes of the store contract ([`UserStore`](crate::UserStore)), for a
//! store to check before it queues anything. A breach is a fault of the host:
//! [`PluginError::InvalidCall`].

use crate::{IndexTerm, MAX_VALUE, PluginError, Put, Scan};

/// Keys of a `get` and uses of a `consume`, at most.
const MAX_BATCH: usize = 1000;
/// Records of a page, at most.
const MAX_PAGE: usize = 1000;
/// Terms of a record, at most.
const MAX_TERMS: usize = 8;

/// Refuses a batch that is too large.
pub fn batch(len: usize) -> Result<(), PluginError> {
    require(len <= MAX_BATCH, || format!("a batch of {len}; at most {MAX_BATCH}"))
}

/// Refuses a record key of the wrong length.
pub fn key(key: &str) -> Result<(), PluginError> {
    let len = key.len();
    require((1..=255).contains(&len), || format!("a record key of {len} bytes; 1 to 255"))
}

/// Refuses a write whose sizes are wrong.
pub fn put(put: &Put) -> Result<(), PluginError> {
    key(&put.key)?;
    let (value, terms) = (put.value.len(), put.terms.len());
    require(value <= MAX_VALUE, || format!("a value of {value} bytes; at most {MAX_VALUE}"))?;
    require(terms <= MAX_TERMS, || format!("{terms} index terms; at most {MAX_TERMS}"))?;
    put.terms.iter().try_for_each(term)
}

/// Refuses a scan of an impossible index or page size.
pub fn scan(scan: &Scan) -> Result<(), PluginError> {
    page(scan.limit)?;
    term_name(&scan.term)
}

/// Refuses a page of an impossible size.
pub fn page(limit: usize) -> Result<(), PluginError> {
    require((1..=MAX_PAGE).contains(&limit), || format!("a page of {limit} entries; 1 to {MAX_PAGE}"))
}

fn term(term: &IndexTerm) -> Result<(), PluginError> {
    term_name(&term.name)?;
    let len = term.value.len();
    require(len <= 255, || format!("an index value of {len} bytes; at most 255"))
}

fn term_name(name: &str) -> Result<(), PluginError> {
    let len = name.len();
    require((1..=32).contains(&len), || format!("an index name of {len} bytes; 1 to 32"))
}

fn require(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), PluginError> {
    if holds { Ok(()) } else { Err(PluginError::InvalidCall(otherwise())) }
}
