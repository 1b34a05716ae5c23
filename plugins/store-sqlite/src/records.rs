//! The records and their index.

use std::collections::HashMap;

use claviger_plugin_api::{Cursor, IndexTerm, Page, Put, Record, Scan, Written};
use diesel::{insert_into, prelude::*};

use crate::{
    fault::Fault,
    schema::{records, terms},
};

type Row = (String, i64, Vec<u8>);

/// The records of `keys` in their order, seen at one moment.
pub(crate) fn get(connection: &mut SqliteConnection, keys: &[String]) -> Result<Vec<Option<Record>>, Fault> {
    match keys {
        [] => Ok(Vec::new()),
        // The commonest batch, by a statement that stays prepared.
        [key] => connection.transaction(|connection| {
            let row: Option<Row> = records::table.find(key).first(connection).optional()?;
            // Also where there is no record, so that the time does not tell.
            let terms = terms::table
                .filter(terms::key.eq(key))
                .order((terms::name, terms::value))
                .select((terms::name, terms::value))
                .load::<(String, String)>(connection)?;
            let terms = terms.into_iter().map(|(name, value)| IndexTerm { name, value }).collect();
            Ok(vec![row.map(|row| record(row, terms)).transpose()?])
        }),
        keys => connection.transaction(|connection| {
            let rows: Vec<Row> = records::table.filter(records::key.eq_any(keys)).load(connection)?;
            let mut terms = terms_of(connection, keys)?;
            let mut found = HashMap::with_capacity(rows.len());
            for row in rows {
                let terms = terms.remove(&row.0).unwrap_or_default();
                found.insert(row.0.clone(), record(row, terms)?);
            }
            Ok(keys.iter().map(|key| found.get(key).cloned()).collect())
        }),
    }
}

/// Writes a record if its version is the expected one. Runs inside the
/// writer's transaction.
pub(crate) fn put(connection: &mut SqliteConnection, put: &Put) -> Result<Written, Fault> {
    let stored = stored_version(connection, &put.key)?;
    if stored != put.expected {
        return Ok(Written::Conflict(stored));
    }
    // A stored version is at most i64::MAX, so this cannot overflow.
    let version = stored + 1;
    let signed = i64::try_from(version).map_err(|_| corrupt_version(&put.key))?;
    if stored == 0 {
        insert_into(records::table)
            .values((records::key.eq(&put.key), records::version.eq(signed), records::value.eq(&put.value)))
            .execute(connection)?;
    } else {
        diesel::update(records::table.find(&put.key))
            .set((records::version.eq(signed), records::value.eq(&put.value)))
            .execute(connection)?;
        diesel::delete(terms::table.filter(terms::key.eq(&put.key))).execute(connection)?;
    }
    for term in &put.terms {
        // The same term twice is one term.
        diesel::insert_or_ignore_into(terms::table)
            .values((terms::name.eq(&term.name), terms::value.eq(&term.value), terms::key.eq(&put.key)))
            .execute(connection)?;
    }
    Ok(Written::Done(version))
}

/// Deletes a record and its terms if its version is the expected one. Runs
/// inside the writer's transaction.
pub(crate) fn delete(connection: &mut SqliteConnection, key: &str, expected: u64) -> Result<Written, Fault> {
    let stored = stored_version(connection, key)?;
    if stored != expected {
        return Ok(Written::Conflict(stored));
    }
    if stored != 0 {
        // The foreign key takes the terms along.
        diesel::delete(records::table.find(key)).execute(connection)?;
    }
    Ok(Written::Done(0))
}

/// One page of an index, seen at one moment.
pub(crate) fn scan(connection: &mut SqliteConnection, scan: &Scan) -> Result<Page, Fault> {
    connection.transaction(|connection| {
        // One more than asked for tells whether there is another page.
        let mut rows = index_rows(connection, scan, scan.limit + 1)?;
        let more = rows.len() > scan.limit;
        rows.truncate(scan.limit);
        let next = match (more, rows.last()) {
            (true, Some((value, (key, ..)))) => Some(Cursor { value: value.clone(), key: key.clone() }),
            _ => None,
        };
        let keys: Vec<String> = rows.iter().map(|(_, row)| row.0.clone()).collect();
        let terms = terms_of(connection, &keys)?;
        let records = rows
            .into_iter()
            .map(|(_, row)| {
                let terms = terms.get(&row.0).cloned().unwrap_or_default();
                record(row, terms)
            })
            .collect::<Result<_, _>>()?;
        Ok(Page { records, next })
    })
}

/// Up to `limit` records behind a key, whatever their terms, seen at one moment.
pub(crate) fn list(connection: &mut SqliteConnection, after: Option<&str>, limit: usize) -> Result<Vec<Record>, Fault> {
    connection.transaction(|connection| {
        // No key is empty.
        let rows: Vec<Row> = records::table
            .filter(records::key.gt(after.unwrap_or_default()))
            .order(records::key)
            .limit(rows(limit))
            .load(connection)?;
        let keys: Vec<String> = rows.iter().map(|row| row.0.clone()).collect();
        let mut terms = terms_of(connection, &keys)?;
        rows.into_iter()
            .map(|row| {
                let terms = terms.remove(&row.0).unwrap_or_default();
                record(row, terms)
            })
            .collect()
    })
}

/// Up to `limit` index entries behind the cursor, each with its record. Two
/// queries, so that each is one walk along the primary key, however many
/// records share a term value.
fn index_rows(
    connection: &mut SqliteConnection,
    scan: &Scan,
    limit: usize,
) -> Result<Vec<(String, Row)>, diesel::result::Error> {
    let entries =
        || terms::table.inner_join(records::table).filter(terms::name.eq(&scan.term)).order((terms::value, terms::key));
    let columns = (terms::value, (records::key, records::version, records::value));
    let Some(after) = &scan.after else {
        return entries().select(columns).limit(rows(limit)).load(connection);
    };
    let mut found: Vec<(String, Row)> = entries()
        .filter(terms::value.eq(&after.value).and(terms::key.gt(&after.key)))
        .select(columns)
        .limit(rows(limit))
        .load(connection)?;
    if found.len() < limit {
        let rest: Vec<(String, Row)> = entries()
            .filter(terms::value.gt(&after.value))
            .select(columns)
            .limit(rows(limit - found.len()))
            .load(connection)?;
        found.extend(rest);
    }
    Ok(found)
}

fn rows(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// The terms of many records, each list in order.
fn terms_of(
    connection: &mut SqliteConnection,
    keys: &[String],
) -> Result<HashMap<String, Vec<IndexTerm>>, diesel::result::Error> {
    let rows: Vec<(String, String, String)> = terms::table
        .filter(terms::key.eq_any(keys))
        .order((terms::name, terms::value))
        .select((terms::key, terms::name, terms::value))
        .load(connection)?;
    let mut found: HashMap<String, Vec<IndexTerm>> = HashMap::new();
    for (key, name, value) in rows {
        found.entry(key).or_default().push(IndexTerm { name, value });
    }
    Ok(found)
}

/// The version in the store, 0 when there is no record.
fn stored_version(connection: &mut SqliteConnection, key: &str) -> Result<u64, Fault> {
    let version: Option<i64> = records::table.find(key).select(records::version).first(connection).optional()?;
    u64::try_from(version.unwrap_or(0)).map_err(|_| corrupt_version(key))
}

fn record((key, version, value): Row, terms: Vec<IndexTerm>) -> Result<Record, Fault> {
    match u64::try_from(version) {
        Ok(version) => Ok(Record { key, version, value, terms }),
        Err(_) => Err(corrupt_version(&key)),
    }
}

fn corrupt_version(key: &str) -> Fault {
    Fault::Corrupt(format!("the version of record {key:?} is out of range"))
}
