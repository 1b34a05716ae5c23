//! Whoever reads the database learns no key, and whoever writes to it exchanges
//! none. What such a person can do is here too.

use std::{fs, path::Path, process::Command, sync::Arc};

use claviger_servers::{Postgres, Redis};
use claviger_testkit::{Deployment, Layout, Terminal, run};
use data_encoding::HEXLOWER;

use super::{
    life::{sign_on, user},
    postgres, redis,
};
use crate::{
    independent_terminal::PythonTerminal,
    secrecy::{find_any, secrets},
    support::start_on,
};

/// A database as somebody sees it who has all rights in it, and no key.
trait Database {
    /// The bytes of a user's record, in hex.
    fn record(&self, id: &str) -> String;
    /// Puts other bytes in the place of a user's record.
    fn replace(&self, id: &str, record: &str);
    /// Removes all counters.
    fn forget_counters(&self);
    /// Each place in which a secret could lie, named, with all of its bytes: a dump first, in hex where
    /// that is how it shows them, and then the files.
    fn places(&self) -> Vec<(String, Vec<u8>)>;
}

struct OnPostgres<'a>(&'a Postgres, String);

impl OnPostgres<'_> {
    fn sql(&self, sql: &str) -> String {
        self.0.sql(&self.1, sql)
    }
}

impl Database for OnPostgres<'_> {
    fn record(&self, id: &str) -> String {
        self.sql(&format!("SELECT encode(value, 'hex') FROM claviger_records WHERE key = 'user/{id}'::bytea"))
    }

    fn replace(&self, id: &str, record: &str) {
        let value = format!("value = '\\x{record}'::bytea, version = version + 1");
        self.sql(&format!("UPDATE claviger_records SET {value} WHERE key = 'user/{id}'::bytea"));
    }

    fn forget_counters(&self) {
        self.sql("DELETE FROM claviger_counters");
    }

    /// The dump, and the files with what was overwritten, and the write-ahead log.
    fn places(&self) -> Vec<(String, Vec<u8>)> {
        self.sql("CHECKPOINT");
        let mut places = vec![("dump".to_owned(), self.0.dump(&self.1).into_bytes())];
        let oid = self.sql("SELECT oid FROM pg_database WHERE datname = current_database()");
        for directory in [format!("base/{oid}"), "pg_wal".to_owned()] {
            places.extend(files(&self.0.directory().join("data").join(directory)));
        }
        places
    }
}

struct OnSqlite<'a>(&'a Path);

impl OnSqlite<'_> {
    fn sql(&self, sql: &str) -> String {
        let script = "import sqlite3, sys\n\
            db = sqlite3.connect(sys.argv[1], timeout=10)\n\
            for row in db.execute(sys.argv[2]): print(*row)\n\
            db.commit()\n";
        let said = run(Command::new("/usr/bin/python3").args(["-c", script]).arg(self.0).arg(sql)).unwrap();
        said.trim().to_lowercase()
    }
}

impl Database for OnSqlite<'_> {
    fn record(&self, id: &str) -> String {
        self.sql(&format!("SELECT hex(value) FROM records WHERE key = 'user/{id}'"))
    }

    fn replace(&self, id: &str, record: &str) {
        let value = format!("value = x'{record}', version = version + 1");
        self.sql(&format!("UPDATE records SET {value} WHERE key = 'user/{id}'"));
    }

    fn forget_counters(&self) {
        self.sql("DELETE FROM counters");
    }

    fn places(&self) -> Vec<(String, Vec<u8>)> {
        let mut places = vec![("dump".to_owned(), self.sql("SELECT hex(value) FROM records").into_bytes())];
        let database = self.0.display().to_string();
        places.extend(files(self.0.parent().unwrap()).into_iter().filter(|(name, _)| name.starts_with(&database)));
        places
    }
}

struct OnRedis<'a>(&'a Redis);

impl OnRedis<'_> {
    /// Names with that in them.
    fn names(&self, part: &str) -> Vec<String> {
        let all = self.0.cli(&["KEYS", "*"]);
        all.lines().filter(|name| name.contains(part)).map(str::to_owned).collect()
    }

    fn name(&self, id: &str) -> String {
        let mut names = self.names(&format!("record:user/{id}"));
        assert_eq!(names.len(), 1, "{names:?}");
        names.remove(0)
    }
}

impl Database for OnRedis<'_> {
    fn record(&self, id: &str) -> String {
        self.0.cli(&["EVAL", &format!("return ({HEX})(redis.call('GET', KEYS[1]))"), "1", &self.name(id)])
    }

    fn replace(&self, id: &str, record: &str) {
        let bytes = "ARGV[1]:gsub('..', function(digits) return string.char(tonumber(digits, 16)) end)";
        let set = format!("local bytes = {bytes}; return redis.call('SET', KEYS[1], bytes)");
        self.0.cli(&["EVAL", &set, "1", &self.name(id), record]);
    }

    fn forget_counters(&self) {
        for name in self.names("counters:") {
            self.0.cli(&["DEL", &name]);
        }
    }

    fn places(&self) -> Vec<(String, Vec<u8>)> {
        let dump = format!(
            "local hex, all = {HEX}, {{}}\n\
             for _, name in ipairs(redis.call('KEYS', '*')) do\n\
               local kind = redis.call('TYPE', name).ok\n\
               local values = kind == 'zset' and redis.call('ZRANGE', name, 0, -1) or {{redis.call('GET', name)}}\n\
               for _, value in ipairs(values) do all[#all + 1] = hex(value) end\n\
             end\n\
             return table.concat(all, ' ')"
        );
        let mut places = vec![("dump".to_owned(), self.0.cli(&["EVAL", &dump, "0"]).into_bytes())];
        places.extend(files(&self.0.directory().join("appendonlydir")));
        places
    }
}

/// Lua: bytes as hex digits.
const HEX: &str =
    "function(bytes) return (bytes:gsub('.', function(byte) return string.format('%02x', byte:byte()) end)) end";

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
    gives_nothing_away(&running.deployment, &OnPostgres(&server, database));
}

#[test]
fn of_redis_gives_nothing_away() {
    let server = Arc::new(Redis::start(""));
    let running = start_on(Layout::AllInOne, Some(redis(&server)));
    gives_nothing_away(&running.deployment, &OnRedis(&server));
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
    database.forget_counters();
    assert_eq!(replay(), 200);
}

/// The files in a directory.
fn files(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.is_file()).map(|path| (path.display().to_string(), fs::read(path).unwrap())).collect()
}
