//! Configurations and files, good and bad.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
    sync::Arc,
    time::SystemTime,
};

use claviger_plugin_api::{Context, InitError, PluginError, UserStore};
use claviger_store_sqlite::{SqliteStore, init};
use diesel::{Connection, SqliteConnection, connection::SimpleConnection};
use serde_json::{Value, json};
use tempfile::tempdir;

use super::{configuration, open, put};

#[tokio::test]
async fn the_configuration_is_checked() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("users.db");
    let path = path.to_str().unwrap();
    let table: [(Value, &str); 9] = [
        (json!({}), "missing field `path`"),
        (json!({ "path": path, "file": 1 }), "unknown field `file`"),
        (json!({ "path": path, "synchronous": "off" }), "unknown variant `off`"),
        (json!({ "path": path, "readers": 0 }), "readers: 0"),
        (json!({ "path": path, "readers": 65 }), "readers: 65"),
        (json!({ "path": path, "busy_timeout_ms": 60001 }), "busy_timeout_ms"),
        (json!({ "path": "users.db" }), "not absolute"),
        (json!({ "path": format!("{path}/users.db") }), "does not exist; create it"),
        (json!({ "path": directory.path() }), "is not a file"),
    ];
    for (table, expected) in table {
        let shown = table.to_string();
        match init(context(table)) {
            Err(InitError::Configuration(text)) => assert!(text.contains(expected), "{shown}: {text}"),
            other => panic!("{shown}: {:?}", other.err()),
        }
    }
    let all = json!({ "path": path, "synchronous": "full", "readers": 1, "busy_timeout_ms": 10 });
    let plugin = init(context(all)).unwrap();
    plugin.user_store.unwrap().health().await.unwrap();
}

fn context(configuration: Value) -> Context {
    Context { name: "store-sqlite".to_owned(), configuration, state: None, clock: Arc::new(SystemTime::now) }
}

#[tokio::test]
async fn the_files_are_for_the_daemon_alone() {
    let directory = tempdir().unwrap();
    let file = directory.path().join("users.db");
    let store = open(&file);
    store.put(put("k", 0, b"v")).await.unwrap();
    for suffix in ["", "-wal", "-shm"] {
        let metadata = fs::metadata(format!("{}{suffix}", file.display())).unwrap();
        assert_eq!(metadata.mode() & 0o777, 0o600, "users.db{suffix}");
    }
}

#[tokio::test]
async fn a_link_and_an_empty_file_are_files() {
    let directory = tempdir().unwrap();
    let (file, link) = (directory.path().join("empty"), directory.path().join("link"));
    fs::write(&file, "").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    symlink(&file, &link).unwrap();
    open(&link).put(put("k", 0, b"v")).await.unwrap();
    assert!(open(&file).get(&["k".to_owned()]).await.unwrap()[0].is_some());
}

#[test]
fn files_of_others_are_refused_and_left_alone() {
    type Case = (&'static str, fn(&Path), &'static str);
    let directory = tempdir().unwrap();
    let table: [Case; 5] = [
        ("text", |file| fs::write(file, "users = []\n".repeat(500)).unwrap(), "is not an SQLite database"),
        ("random", |file| fs::write(file, [0xa5; 8192]).unwrap(), "is not an SQLite database"),
        ("tables", |file| sql(file, "CREATE TABLE users (name TEXT)"), "the database of another program"),
        ("marked", |file| sql(file, "PRAGMA application_id = 7; VACUUM"), "the database of another program"),
        ("newer", |file| sql(file, "PRAGMA application_id = 1129076295; PRAGMA user_version = 999"), "newer version"),
    ];
    for (name, make, expected) in table {
        let file = directory.path().join(name);
        make(&file);
        let before = fs::read(&file).unwrap();
        let error = SqliteStore::open(configuration(&file)).err().unwrap_or_else(|| panic!("{name} is refused"));
        assert!(error.to_string().contains(expected), "{name}: {error}");
        assert_eq!(error.to_string().lines().count(), 1, "{error}");
        assert!(fs::read(&file).unwrap() == before, "{name} is left as it was");
    }
}

fn sql(file: &Path, statements: &str) {
    SqliteConnection::establish(file.to_str().unwrap()).unwrap().batch_execute(statements).unwrap();
}

#[tokio::test]
async fn damage_is_corrupt_and_never_an_absent_record() {
    let directory = tempdir().unwrap();
    let file = directory.path().join("users.db");
    let store = open(&file);
    let keys: Vec<String> = (0..200).map(|number| format!("k{number}")).collect();
    for key in &keys {
        store.put(put(key, 0, &[0x11; 2000])).await.unwrap();
    }
    drop(store);
    // Everything behind the pages of the tables' roots.
    let mut bytes = fs::read(&file).unwrap();
    bytes[12 * 4096..].fill(0xff);
    fs::write(&file, bytes).unwrap();

    let store = open(&file);
    let mut corrupt = 0;
    for key in keys {
        match store.get(&[key]).await {
            Ok(found) => assert!(found[0].is_some()),
            Err(PluginError::Corrupt(_)) => corrupt += 1,
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(corrupt > 100, "{corrupt} records are on damaged pages");
}

#[tokio::test]
async fn a_file_that_is_moved_or_replaced_is_not_healthy() {
    let directory = tempdir().unwrap();
    let (file, aside) = (directory.path().join("users.db"), directory.path().join("aside.db"));
    let store = open(&file);
    store.put(put("k", 0, b"v")).await.unwrap();
    store.health().await.unwrap();
    let problem = async || match store.health().await {
        Err(PluginError::Unavailable(text)) => text,
        other => panic!("{other:?}"),
    };
    fs::rename(&file, &aside).unwrap();
    assert!(problem().await.contains("not there any more"));
    fs::copy(&aside, &file).unwrap();
    assert!(problem().await.contains("replaced"));
    fs::rename(&aside, &file).unwrap();
    store.health().await.unwrap();
    assert!(store.get(&["k".to_owned()]).await.unwrap()[0].is_some());
}

#[tokio::test]
async fn after_a_write_that_failed_health_writes() {
    let directory = tempdir().unwrap();
    let file = directory.path().join("users.db");
    let store = open(&file);
    let mut stranger = SqliteConnection::establish(file.to_str().unwrap()).unwrap();
    let refuse = "CREATE TRIGGER refuse BEFORE INSERT ON records BEGIN SELECT RAISE(ABORT, 'refused'); END";
    stranger.batch_execute(refuse).unwrap();
    let wal = || fs::metadata(directory.path().join("users.db-wal")).unwrap().len();
    let before = wal();
    store.health().await.unwrap();
    assert_eq!(wal(), before, "a store that works is not written to");
    assert!(matches!(store.put(put("k", 0, b"v")).await, Err(PluginError::Unavailable(_))));
    store.health().await.unwrap();
    let written = wal();
    assert!(written > before, "a proof that it can write");
    store.health().await.unwrap();
    assert_eq!(wal(), written, "once is enough");
}
