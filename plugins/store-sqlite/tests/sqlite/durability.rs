//! What was answered is there after a restart and after `kill -9`.

use std::{
    env,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
};

use claviger_plugin_api::{UserStore, Verdict, Written};
use claviger_store_sqlite::{Configuration, SqliteStore, Synchronous};
use tempfile::tempdir;

use super::{counter_use, open, put};

#[tokio::test]
async fn a_restart_keeps_everything() {
    let directory = tempdir().unwrap();
    let file = directory.path().join("users.db");
    let store = open(&file);
    store.put(put("k", 0, b"1")).await.unwrap();
    store.put(put("k", 1, b"2")).await.unwrap();
    store.consume(&[counter_use(1, u64::MAX, 1)]).await.unwrap();
    drop(store);
    assert!(!file.with_extension("db-wal").exists(), "an orderly end leaves one file");
    let store = open(&file);
    let record = store.get(&["k".to_owned()]).await.unwrap().remove(0).unwrap();
    assert_eq!((record.version, &record.value[..]), (2, &b"2"[..]));
    let verdicts = store.consume(&[counter_use(1, u64::MAX, 1), counter_use(1, 3, 1)]).await.unwrap();
    assert_eq!(verdicts, [Verdict::SameNonce, Verdict::TooOld]);
}

/// Names the file to the child.
const FILE: &str = "STORE_SQLITE_TEST_FILE";
/// `full` or `normal`, to the child.
const SYNCHRONOUS: &str = "STORE_SQLITE_TEST_SYNCHRONOUS";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_loses_nothing_that_was_answered() {
    for synchronous in ["normal", "full"] {
        let directory = tempdir().unwrap();
        let file = directory.path().join("users.db");
        for answers in [1, 50, 400] {
            let answered = writes_until_killed(&file, synchronous, answers);
            assert!(answered.len() >= answers);
            check(&file, &answered).await;
        }
    }
}

/// Starts a child that writes without end, kills it after some answers, and
/// returns all that it had announced.
fn writes_until_killed(file: &Path, synchronous: &str, answers: usize) -> Vec<Answer> {
    let child = Command::new(env::current_exe().unwrap())
        .args(["durability::child_that_is_killed", "--exact", "--nocapture", "--test-threads=1"])
        .env(FILE, file)
        .env(SYNCHRONOUS, synchronous)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Also when an assertion fails in between.
    let mut child = Killed(child);
    let mut output = BufReader::new(child.0.stdout.take().unwrap());
    let (mut answered, mut line) = (Vec::new(), String::new());
    while output.read_line(&mut line).unwrap() > 0 {
        answered.extend(Answer::parse(&line));
        if answered.len() == answers {
            child.0.kill().unwrap();
        }
        line.clear();
    }
    answered
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the child had answered: version of a task's record, counter of its credential.
struct Answer {
    task: u8,
    version: u64,
}

impl Answer {
    /// From a whole line; half a line was not announced yet.
    fn parse(line: &str) -> Option<Self> {
        let (_, answer) = line.strip_suffix('\n')?.split_once("answered ")?;
        let (task, version) = answer.split_once(' ')?;
        Some(Self { task: task.parse().unwrap(), version: version.parse().unwrap() })
    }
}

async fn check(file: &Path, answered: &[Answer]) {
    let store = open(file);
    for Answer { task, version } in answered {
        let record = store.get(&[format!("task{task}")]).await.unwrap().remove(0).expect("the record is there");
        assert!(record.version >= *version, "task {task}: version {version} was answered");
        assert_eq!(record.value, record.version.to_be_bytes(), "a write is whole");
        let verdict = store.consume(&[counter_use(*task, *version, 1)]).await.unwrap()[0];
        assert_eq!(verdict, Verdict::SameNonce, "a replay of {version}");
    }
}

/// Not a test of its own: the process that is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn child_that_is_killed() {
    let Ok(path) = env::var(FILE) else { return };
    let synchronous = match env::var(SYNCHRONOUS).as_deref() {
        Ok("full") => Synchronous::Full,
        _ => Synchronous::Normal,
    };
    let store = SqliteStore::open(Configuration { synchronous, ..Configuration::new(path) }).unwrap();
    let store = Arc::new(store);
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..8 {
        let store = store.clone();
        tasks.spawn(async move { write_without_end(&store, task).await });
    }
    tasks.join_all().await;
}

async fn write_without_end(store: &SqliteStore, task: u8) {
    let key = format!("task{task}");
    let stored = store.get(std::slice::from_ref(&key)).await.unwrap().remove(0);
    let mut version = stored.map_or(0, |record| record.version);
    // The child before may have used counters beyond its last record.
    loop {
        let next = version + 1;
        let verdict = store.consume(&[counter_use(task, next, 1)]).await.unwrap()[0];
        assert!(matches!(verdict, Verdict::Fresh | Verdict::SameNonce), "{verdict:?}");
        let written = store.put(put(&key, version, &next.to_be_bytes())).await.unwrap();
        assert_eq!(written, Written::Done(next));
        println!("answered {task} {next}");
        version = next;
    }
}
