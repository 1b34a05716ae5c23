//! The records and their index.
//!
//! A record is one string: 8 bytes of version, 4 of the length of the terms,
//! the terms (2 bytes of length, then name and value as parts), the value. The
//! terms of all records of a shard are the members of one sorted set: name,
//! value, key. A term without name and value, which no index has, lists all keys.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use claviger_plugin_api::{Cursor, IndexTerm, Page, PluginError, Put, Record, Scan, Written};
use redis::Value;

use crate::{
    fault::unexpected,
    merge::Merge,
    names::{Names, behind, bytes, push_part, take_part},
    script::{Lane, PUT, Request},
    server::Server,
};

/// The records of `keys` in their order.
pub(crate) async fn get(
    server: &Server,
    names: &Names,
    keys: &[impl AsRef<str>],
) -> Result<Vec<Option<Record>>, PluginError> {
    let mut shards: BTreeMap<u16, BTreeSet<&str>> = BTreeMap::new();
    for key in keys.iter().map(AsRef::as_ref) {
        shards.entry(names.shard_of(key.as_bytes())).or_default().insert(key);
    }
    let reads = shards.iter().filter_map(|(shard, keys)| {
        let mut stored = keys.iter().map(|key| names.record(*shard, key));
        let first = stored.next()?;
        let rest: Vec<_> = stored.collect();
        Some(Request::command("MGET", &first, rest.iter().map(|name| name.bytes.as_slice())))
    });
    let mut found: HashMap<&str, Record> = HashMap::with_capacity(keys.len());
    for (keys, answer) in shards.values().zip(server.call_all(reads.collect()).await?) {
        let stored = match answer {
            Value::Array(stored) if stored.len() == keys.len() => stored,
            _ => return Err(unexpected("MGET")),
        };
        for (key, value) in keys.iter().zip(stored) {
            if let Some(stored) = bytes(value) {
                found.insert(key, decode(key, &stored)?);
            }
        }
    }
    Ok(keys.iter().map(|key| found.get(key.as_ref()).cloned()).collect())
}

/// Writes a record if its version is the expected one.
pub(crate) async fn put(server: &Server, names: &Names, put: &Put) -> Result<Written, PluginError> {
    // No record has the highest version, so the one behind it is never written.
    let version = put.expected.wrapping_add(1);
    write(server, names, &put.key, put.expected, encode(version, put), version).await
}

/// Deletes a record if its version is the expected one.
pub(crate) async fn delete(server: &Server, names: &Names, key: &str, expected: u64) -> Result<Written, PluginError> {
    write(server, names, key, expected, Vec::new(), 0).await
}

async fn write(
    server: &Server,
    names: &Names,
    key: &str,
    expected: u64,
    record: Vec<u8>,
    version: u64,
) -> Result<Written, PluginError> {
    let shard = names.shard_of(key.as_bytes());
    let keys = vec![names.record(shard, key), names.index(shard)];
    let mut part = Vec::new();
    push_part(&mut part, key.as_bytes());
    let arguments = vec![expected.to_be_bytes().to_vec(), part, record];
    match server.call(Request::script(Lane::Durable, &PUT, keys, arguments)).await? {
        Value::Nil => Ok(Written::Done(version)),
        answer => {
            let stored = bytes(answer).and_then(|version| version.try_into().ok());
            stored.map(|version| Written::Conflict(u64::from_be_bytes(version))).ok_or_else(|| unexpected("a write"))
        }
    }
}

/// One page of an index.
pub(crate) async fn scan(server: &Server, names: &Names, scan: &Scan) -> Result<Page, PluginError> {
    let found = page(server, names, &scan.term, scan.after.as_ref(), scan.limit).await?;
    // At the limit there may be more, and the next page be empty but for that.
    let next =
        if found.len() > scan.limit { found.get(scan.limit - 1).map(|(cursor, _)| cursor.clone()) } else { None };
    Ok(Page { records: found.into_iter().take(scan.limit).map(|(_, record)| record).collect(), next })
}

/// Up to `limit` of all records behind a key.
pub(crate) async fn list(
    server: &Server,
    names: &Names,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<Record>, PluginError> {
    let after = after.map(|key| Cursor { value: String::new(), key: key.to_owned() });
    let found = page(server, names, ALL, after.as_ref(), limit).await?;
    Ok(found.into_iter().take(limit).map(|(_, record)| record).collect())
}

/// The index that lists all keys.
const ALL: &str = "";

/// One more record than `limit` where there is one. The index is read first
/// and the records then: those that have left it in between are left out.
async fn page(
    server: &Server,
    names: &Names,
    term: &str,
    after: Option<&Cursor>,
    limit: usize,
) -> Result<Vec<(Cursor, Record)>, PluginError> {
    let mut name = Vec::new();
    push_part(&mut name, term.as_bytes());
    let mut from = [&b"["[..], &name].concat();
    if let Some(after) = after {
        from[0] = b'(';
        push_part(&mut from, after.value.as_bytes());
        push_part(&mut from, after.key.as_bytes());
    }
    let to = [&b"("[..], &behind(name)].concat();
    let sets: Vec<_> = (0..names.shards()).map(|shard| names.index(shard)).collect();
    let mut merge = Merge::new(server, sets.into_iter(), &from, to, limit + 1);
    let mut page = Vec::with_capacity(limit + 1);
    while page.len() <= limit {
        let wanted = limit + 1 - page.len();
        let entries = merge.take(wanted).await?;
        let read = entries.len();
        let cursors = entries.iter().map(|entry| cursor(entry)).collect::<Result<Vec<_>, _>>()?;
        let keys: Vec<&str> = cursors.iter().map(|cursor| cursor.key.as_str()).collect();
        let records = get(server, names, &keys).await?;
        for (cursor, record) in cursors.into_iter().zip(records) {
            let is_in_it = |record: &Record| {
                term == ALL || record.terms.iter().any(|one| one.name == term && one.value == cursor.value)
            };
            if let Some(record) = record.filter(is_in_it) {
                page.push((cursor, record));
            }
        }
        if read < wanted {
            break;
        }
    }
    Ok(page)
}

fn cursor(mut entry: &[u8]) -> Result<Cursor, PluginError> {
    let mut read = || {
        take_part(&mut entry)?;
        let mut text = || String::from_utf8(take_part(&mut entry)?).ok();
        Some(Cursor { value: text()?, key: text()? })
    };
    read().ok_or_else(|| PluginError::Corrupt("an index entry cannot be read".to_owned()))
}

fn encode(version: u64, put: &Put) -> Vec<u8> {
    let mut terms = Vec::new();
    for IndexTerm { name, value } in &put.terms {
        let mut term = Vec::new();
        push_part(&mut term, name.as_bytes());
        push_part(&mut term, value.as_bytes());
        // At most twice 32 and 255 bytes and four.
        terms.extend_from_slice(&(term.len() as u16).to_be_bytes());
        terms.extend_from_slice(&term);
    }
    let mut record = Vec::with_capacity(12 + terms.len() + put.value.len());
    record.extend_from_slice(&version.to_be_bytes());
    record.extend_from_slice(&(terms.len() as u32).to_be_bytes());
    record.extend_from_slice(&terms);
    record.extend_from_slice(&put.value);
    record
}

fn decode(key: &str, stored: &[u8]) -> Result<Record, PluginError> {
    let read = || {
        let (version, rest) = stored.split_first_chunk::<8>()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (mut left, value) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        let mut terms = Vec::new();
        while !left.is_empty() {
            let (length, rest) = left.split_first_chunk::<2>()?;
            let (mut term, rest) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
            let mut text = || String::from_utf8(take_part(&mut term)?).ok();
            terms.push(IndexTerm { name: text()?, value: text()? });
            left = rest;
        }
        Some(Record { key: key.to_owned(), version: u64::from_be_bytes(*version), value: value.to_vec(), terms })
    };
    read().ok_or_else(|| {
        PluginError::Corrupt(format!("the record of {} bytes under {key:?} cannot be read", stored.len()))
    })
}
