//! Whoever reads the database learns no key, and whoever writes to it exchanges
//! none. What such a person can do is here too.

use std::{fs, path::Path, process::Command, sync::Arc};

use claviger_servers::Postgres;
use claviger_testkit::{Deployment, Layout, Terminal, run};
use data_encoding::HEXLOWER;

use super::{
    life::{sign_on, user},
    postgres,
};
use crate::{
    independent_terminal::PythonTerminal,
    secrecy::{find_any, secrets},
    support::start_on,
};

/// SQL on a deployment's database, for the statements that all of them understand.
trait Database {
    /// The tables' names begin with this.
    fn prefix(&self) -> &'static str;
    /// A text as a key of the database.
    fn key(&self, text: &str) -> String;
    /// Runs statements; what the last one gave.
    fn sql(&self, sql: &str) -> String;
    /// Each place in which a secret could lie, named, with all of its bytes.
    fn places(&self) -> Vec<(String, Vec<u8>)>;

    /// The bytes of a user's record, in hex.
    fn record(&self, id: &str) -> String {
        let (prefix, key) = (self.prefix(), self.key(&format!("user/{id}")));
        self.sql(&format!("SELECT {} FROM {prefix}records WHERE key = {key}", self.hex("value"))).to_lowercase()
    }

    /// Puts other bytes in the place of a user's record.
    fn replace(&self, id: &str, record: &str) {
        let (prefix, key, value) = (self.prefix(), self.key(&format!("user/{id}")), self.bytes(record));
        self.sql(&format!("UPDATE {prefix}records SET value = {value}, version = version + 1 WHERE key = {key}"));
        assert_eq!(self.record(id), record);
    }

    fn hex(&self, column: &str) -> String;
    fn bytes(&self, hex: &str) -> String;
}

struct OnPostgres<'a> {
    server: &'a Postgres,
    database: String,
}

impl Database for OnPostgres<'_> {
    fn prefix(&self) -> &'static str {
        "claviger_"
    }

    fn key(&self, text: &str) -> String {
        self.bytes(&HEXLOWER.encode(text.as_bytes()))
    }

    fn sql(&self, sql: &str) -> String {
        self.server.sql(&self.database, sql)
    }

    /// The dump, and the files with what was overwritten, and the write-ahead log.
    fn places(&self) -> Vec<(String, Vec<u8>)> {
        self.sql("CHECKPOINT");
        let mut places = vec![("dump".to_owned(), self.server.dump(&self.database).into_bytes())];
        let oid = self.sql("SELECT oid FROM pg_database WHERE datname = current_database()");
        for directory in [format!("base/{oid}"), "pg_wal".to_owned()] {
            let entries = fs::read_dir(self.server.directory().join("data").join(directory)).unwrap();
            for path in entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
                places.push((path.display().to_string(), fs::read(&path).unwrap()));
            }
        }
        places
    }

    fn hex(&self, column: &str) -> String {
        format!("encode({column}, 'hex')")
    }

    fn bytes(&self, hex: &str) -> String {
        format!("'\\x{hex}'::bytea")
    }
}

struct OnSqlite<'a>(&'a Path);

impl Database for OnSqlite<'_> {
    fn prefix(&self) -> &'static str {
        ""
    }

    fn key(&self, text: &str) -> String {
        format!("'{text}'")
    }

    fn sql(&self, sql: &str) -> String {
        let script = "import sqlite3, sys\n\
            db = sqlite3.connect(sys.argv[1], timeout=10)\n\
            for row in db.execute(sys.argv[2]): print(*row)\n\
            db.commit()\n";
        let said = run(Command::new("/usr/bin/python3").args(["-c", script]).arg(self.0).arg(sql)).unwrap();
        said.trim().to_owned()
    }

    fn places(&self) -> Vec<(String, Vec<u8>)> {
        let mut places = vec![("dump".to_owned(), self.sql("SELECT hex(value) FROM records").into_bytes())];
        for suffix in ["", "-wal", "-shm"] {
            let file = format!("{}{suffix}", self.0.display());
            places.push((file.clone(), fs::read(&file).unwrap()));
        }
        places
    }

    fn hex(&self, column: &str) -> String {
        format!("hex({column})")
    }

    fn bytes(&self, hex: &str) -> String {
        format!("x'{hex}'")
    }
}

#[test]
fn of_sqlite_gives_nothing_away() {
    let running = start_on(Layout::AllInOne, None);
    let file = running.deployment.directory().join("users.db");
    gives_nothing_away(&running.deployment, &OnSqlite(&file));
}

#[test]
fn of_postgres_gives_nothing_away() {
    let server = Arc::new(Postgres::start(""));
    let (database, storage) = postgres(&server);
    let running = start_on(Layout::AllInOne, Some(storage));
    gives_nothing_away(&running.deployment, &OnPostgres { server: &server, database });
}

fn gives_nothing_away(deployment: &Deployment, database: &dyn Database) {
    let [alice, carol] = ["alice", "carol"].map(|id| deployment.enrolled(id).unwrap());
    let before_rotation = database.record("alice");
    let mut needles = [secrets(&alice), secrets(&carol)].concat();
    rows_cannot_be_exchanged(deployment, database, &alice, &carol);
    alice.run(&["rotate"]).unwrap();
    needles.extend(secrets(&alice)); // both epochs are there now
    assert_eq!((sign_on(&alice), sign_on(&carol)), (Some(0), Some(0)));
    needles.extend(secrets(&alice));
    holds_no_key(database, needles);
    older_rows_count(deployment, database, &alice, &before_rotation);
}

/// Reads everything, and finds no key in any form.
fn holds_no_key(database: &dyn Database, mut needles: Vec<Vec<u8>>) {
    // A dump shows bytes in hex: what lies there as text is hex of that text.
    needles.extend(needles.clone().iter().map(|needle| HEXLOWER.encode(needle).into_bytes()));
    needles.extend(needles.clone().iter().map(|needle| needle.to_ascii_uppercase()));
    let places = database.places();
    // What is there is found: else the search would prove nothing.
    let user = b"user/alice".to_vec();
    let known = [HEXLOWER.encode(&user).into_bytes(), user];
    assert!(places.iter().skip(1).any(|(_, bytes)| !find_any(bytes, &known).is_empty()));
    let record = database.record("alice");
    let dump = places[0].1.to_ascii_lowercase();
    assert!(!find_any(&dump, &[record]).is_empty(), "the dump has the records");
    for (place, bytes) in &places {
        let found = find_any(bytes, &needles);
        assert!(found.is_empty(), "keys in {place}, in the forms {found:?}");
    }
}

/// Whoever gives one user's keys to the other, name and all, gets into neither.
fn rows_cannot_be_exchanged(deployment: &Deployment, database: &dyn Database, alice: &Terminal, carol: &Terminal) {
    let (of_alice, of_carol) = (database.record("alice"), database.record("carol"));
    let [alice_hex, carol_hex] = ["alice", "carol"].map(|id| HEXLOWER.encode(id.as_bytes()));
    // The records as they are, and with the other's name in them.
    for names in [false, true] {
        let disguised = |record: &str, from: &str, to: &str| {
            if names { record.replace(from, to) } else { record.to_owned() }
        };
        database.replace("carol", &disguised(&of_alice, &alice_hex, &carol_hex));
        database.replace("alice", &disguised(&of_carol, &carol_hex, &alice_hex));
        for terminal in [alice, carol] {
            assert_eq!(sign_on(terminal), Some(4), "{names}: unavailable, and never a sign-on");
        }
    }
    assert!(deployment.logs().contains("record_tampered"));
    database.replace("alice", &of_alice);
    database.replace("carol", &of_carol);
    assert_eq!((sign_on(alice), sign_on(carol)), (Some(0), Some(0)));
}

/// Who may write to the database can turn back the clock of a row: that is
/// not noticed. It gives nobody another user's identity.
fn older_rows_count(deployment: &Deployment, database: &dyn Database, alice: &Terminal, before_rotation: &str) {
    // A suspension is undone.
    let active = database.record("alice");
    deployment.admin(&["user", "suspend", "alice"]).unwrap();
    assert_eq!(sign_on(alice), Some(3));
    database.replace("alice", &active);
    assert_eq!(sign_on(alice), Some(0));
    // Keys of before a rotation are good again: the terminal, which gave them up, is out.
    database.replace("alice", before_rotation);
    assert_eq!(sign_on(alice), Some(3));
    database.replace("alice", &active);
    assert_eq!(sign_on(alice), Some(0));
    assert_eq!(user(deployment, "alice")["state"], "active");
    // A counter that is forgotten can be used again, while its envelope is in time.
    let raw = PythonTerminal::enrol(deployment, "raw", "0x0001", "0");
    let envelope = deployment.directory().join("envelope").display().to_string();
    raw.sign_on(&["--save-envelope", &envelope]).unwrap();
    let replay = || raw.sign_on(&["--send-envelope", &envelope]).unwrap()["http"].clone();
    assert_eq!(replay(), 401);
    database.sql(&format!("DELETE FROM {}counters", database.prefix()));
    assert_eq!(replay(), 200);
}
