//! The records and their index. Each call is one statement where it can be:
//! one round trip, seen at one moment, and all or nothing.

use std::collections::HashMap;

use claviger_plugin_api::{Cursor, IndexTerm, Page, Put, Record, Scan, Written};
use diesel::{
    OptionalExtension,
    sql_types::{Array, BigInt, Binary},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use crate::{fault::Fault, statement::Statement};

/// Key, version, value, names and values of the terms.
type Row = (Vec<u8>, i64, Vec<u8>, Vec<Vec<u8>>, Vec<Vec<u8>>);
type RowTypes = (Binary, BigInt, Binary, Array<Binary>, Array<Binary>);

/// The records of `keys` in their order, seen at one moment.
pub(crate) async fn get(connection: &mut AsyncPgConnection, keys: &[String]) -> Result<Vec<Option<Record>>, Fault> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let statement = Statement::<RowTypes>::new(GET).many_bytes(keys.iter().map(String::as_str));
    let rows: Vec<Row> = statement.load(connection).await?;
    let mut found = HashMap::with_capacity(rows.len());
    for row in rows {
        let record = record(row)?;
        found.insert(record.key.clone(), record);
    }
    Ok(keys.iter().map(|key| found.get(key).cloned()).collect())
}

const GET: &str = "
    SELECT r.key, r.version, r.value,
           ARRAY(SELECT t.name FROM claviger_terms t WHERE t.key = r.key ORDER BY t.name, t.value),
           ARRAY(SELECT t.value FROM claviger_terms t WHERE t.key = r.key ORDER BY t.name, t.value)
    FROM claviger_records r WHERE r.key = ANY (?)";

/// Writes a record if its version is the expected one.
pub(crate) async fn put(connection: &mut AsyncPgConnection, put: &Put) -> Result<Written, Fault> {
    for _ in 0..ATTEMPTS {
        let version: Option<i64> = match i64::try_from(put.expected) {
            Ok(expected) => write(put, expected).get_result(connection).await.optional()?,
            // More than a stored version can be.
            Err(_) => None,
        };
        if let Some(version) = version {
            return Ok(Written::Done(u64::try_from(version).map_err(|_| corrupt_version(&put.key))?));
        }
        if let Some(conflict) = conflict(connection, &put.key, put.expected).await? {
            return Ok(conflict);
        }
    }
    Err(Fault::Contended)
}

/// How often a write is tried when others, each time, change the record
/// between it and the look at the version that refused it.
const ATTEMPTS: usize = 16;

fn write(put: &Put, expected: i64) -> Statement<BigInt> {
    let statement = match expected {
        0 => Statement::new(INSERT).bytes(put.key.as_str()).bytes(put.value.as_slice()),
        _ => Statement::new(UPDATE)
            .bytes(put.value.as_slice())
            .bytes(put.key.as_str())
            .number(expected)
            .many_bytes(put.terms.iter().map(|term| term.name.as_str()))
            .many_bytes(put.terms.iter().map(|term| term.value.as_str())),
    };
    statement
        .many_bytes(put.terms.iter().map(|term| term.name.as_str()))
        .many_bytes(put.terms.iter().map(|term| term.value.as_str()))
}

// The same term twice is one term.
const INSERT: &str = "
    WITH written AS (
        INSERT INTO claviger_records (key, version, value) VALUES (?, 1, ?)
        ON CONFLICT DO NOTHING RETURNING key, version
    ), added AS (
        INSERT INTO claviger_terms (name, value, key)
        SELECT n.name, n.value, w.key FROM written w, unnest(?, ?) AS n (name, value)
        ON CONFLICT DO NOTHING
    )
    SELECT version FROM written";

const UPDATE: &str = "
    WITH written AS (
        UPDATE claviger_records SET version = version + 1, value = ?
        WHERE key = ? AND version = ? RETURNING key, version
    ), gone AS (
        DELETE FROM claviger_terms t USING written w
        WHERE t.key = w.key AND NOT EXISTS (
            SELECT FROM unnest(?, ?) AS n (name, value) WHERE n.name = t.name AND n.value = t.value
        )
    ), added AS (
        INSERT INTO claviger_terms (name, value, key)
        SELECT n.name, n.value, w.key FROM written w, unnest(?, ?) AS n (name, value)
        ON CONFLICT DO NOTHING
    )
    SELECT version FROM written";

/// Deletes a record and its terms if its version is the expected one.
pub(crate) async fn delete(connection: &mut AsyncPgConnection, key: &str, expected: u64) -> Result<Written, Fault> {
    for _ in 0..ATTEMPTS {
        if let (Ok(expected), false) = (i64::try_from(expected), expected == 0) {
            // The foreign key takes the terms along.
            let statement = Statement::<BigInt>::new(DELETE).bytes(key).number(expected);
            let deleted: Option<i64> = statement.get_result(connection).await.optional()?;
            if deleted.is_some() {
                return Ok(Written::Done(0));
            }
        }
        match conflict(connection, key, expected).await? {
            Some(conflict) => return Ok(conflict),
            None if expected == 0 => return Ok(Written::Done(0)),
            None => {}
        }
    }
    Err(Fault::Contended)
}

const DELETE: &str = "DELETE FROM claviger_records WHERE key = ? AND version = ? RETURNING version";

/// The conflict with the version in the store, unless that is the expected one.
async fn conflict(connection: &mut AsyncPgConnection, key: &str, expected: u64) -> Result<Option<Written>, Fault> {
    let statement = Statement::<BigInt>::new("SELECT version FROM claviger_records WHERE key = ?").bytes(key);
    let version: Option<i64> = statement.get_result(connection).await.optional()?;
    let version = u64::try_from(version.unwrap_or(0)).map_err(|_| corrupt_version(key))?;
    Ok((version != expected).then_some(Written::Conflict(version)))
}

/// One page of an index, seen at one moment.
pub(crate) async fn scan(connection: &mut AsyncPgConnection, scan: &Scan) -> Result<Page, Fault> {
    // No key is empty, so all entries lie behind this position.
    let (value, key) = scan.after.as_ref().map_or(("", ""), |after| (&after.value, &after.key));
    // One more than asked for tells whether there is another page.
    let limit = i64::try_from(scan.limit).unwrap_or(i64::MAX).saturating_add(1);
    let statement =
        Statement::<(Binary, RowTypes)>::new(SCAN).bytes(scan.term.as_str()).bytes(value).bytes(key).number(limit);
    let mut rows: Vec<(Vec<u8>, Row)> = statement.load(connection).await?;
    let more = rows.len() > scan.limit;
    rows.truncate(scan.limit);
    let mut next = None;
    let mut records = Vec::with_capacity(rows.len());
    for (value, row) in rows {
        let record = record(row)?;
        next = more.then_some((value, record.key.clone()));
        records.push(record);
    }
    let next = next.map(|(value, key)| Ok::<_, Fault>(Cursor { value: text(value)?, key })).transpose()?;
    Ok(Page { records, next })
}

const SCAN: &str = "
    WITH page AS (
        SELECT value, key FROM claviger_terms
        WHERE name = ? AND (value, key) > (?, ?)
        ORDER BY value, key LIMIT ?
    )
    SELECT p.value, r.key, r.version, r.value,
           ARRAY(SELECT t.name FROM claviger_terms t WHERE t.key = r.key ORDER BY t.name, t.value),
           ARRAY(SELECT t.value FROM claviger_terms t WHERE t.key = r.key ORDER BY t.name, t.value)
    FROM page p JOIN claviger_records r ON r.key = p.key
    ORDER BY p.value, p.key";

/// Up to `limit` records behind a key, whatever their terms, seen at one moment.
pub(crate) async fn list(
    connection: &mut AsyncPgConnection,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<Record>, Fault> {
    // No key is empty.
    let statement = Statement::<RowTypes>::new(LIST).bytes(after.unwrap_or_default());
    let rows: Vec<Row> = statement.number(i64::try_from(limit).unwrap_or(i64::MAX)).load(connection).await?;
    rows.into_iter().map(record).collect()
}

const LIST: &str = "
    WITH page AS MATERIALIZED (
        SELECT key, version, value FROM claviger_records WHERE key > ? ORDER BY key LIMIT ?
    )
    SELECT r.key, r.version, r.value,
           ARRAY(SELECT t.name FROM claviger_terms t WHERE t.key = r.key ORDER BY t.name, t.value),
           ARRAY(SELECT t.value FROM claviger_terms t WHERE t.key = r.key ORDER BY t.name, t.value)
    FROM page r ORDER BY r.key";

fn record((key, version, value, names, values): Row) -> Result<Record, Fault> {
    let key = text(key)?;
    let version = u64::try_from(version).map_err(|_| corrupt_version(&key))?;
    let terms = names.into_iter().zip(values);
    let terms = terms.map(|(name, value)| Ok(IndexTerm { name: text(name)?, value: text(value)? }));
    Ok(Record { key, version, value, terms: terms.collect::<Result<_, Fault>>()? })
}

fn text(bytes: Vec<u8>) -> Result<String, Fault> {
    String::from_utf8(bytes).map_err(|_| Fault::Corrupt("a key or an index term is not UTF-8".to_owned()))
}

fn corrupt_version(key: &str) -> Fault {
    Fault::Corrupt(format!("the version of record {key:?} is out of range"))
}
