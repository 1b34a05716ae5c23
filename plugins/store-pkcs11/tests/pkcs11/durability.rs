//! What was answered is there after `kill -9`.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::ChildStdout,
    slice,
    sync::Arc,
};

use claviger_plugin_api::{KeyCustody, KeyId, MacRequest, SecretBytes, UserStore, Verdict, Written};
use claviger_servers::SoftHsm;
use claviger_store_pkcs11::{Custody, Store, Token};

use super::{Other, configuration, configuration_in, counter_use, on_a_token, open, put};

#[test]
fn kill_9_loses_nothing_that_was_answered() {
    on_a_token(async |hsm| {
        drop(open(&hsm).await);
        for answers in [1, 30, 150] {
            let (child, output) = Other::start("durability::child_that_is_killed", &hsm, "write");
            let answered = until_killed(child, output, answers);
            assert!(answered.len() >= answers);
            check(&hsm, &answered).await;
        }
    });
}

/// Kills the child after some answers, and returns all that it had announced.
fn until_killed(mut child: Other, mut output: BufReader<ChildStdout>, answers: usize) -> Vec<Answer> {
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

/// The id of the key that a task keeps with this version.
fn id(task: u8, version: u64) -> KeyId {
    let mut id = [task; 16];
    id[8..].copy_from_slice(&version.to_be_bytes());
    id
}

async fn check(hsm: &SoftHsm, answered: &[Answer]) {
    let token = Token::open(configuration(hsm)).unwrap();
    let (custody, store) = (token.custody(), token.user_store().unwrap());
    for Answer { task, version } in answered {
        let record = store.get(&[format!("task{task}")]).await.unwrap().remove(0).expect("the record is there");
        assert!(record.version >= *version, "task {task}: version {version} was answered");
        assert_eq!(record.value, record.version.to_be_bytes(), "a write is whole");
        let verdict = store.consume(&[counter_use(*task, *version, 1)]).await.unwrap()[0];
        assert_eq!(verdict, Verdict::SameNonce, "a replay of {version}");
        assert!(mac_is_right(&custody, *task, *version).await, "task {task}: key {version} was kept");
    }
    // Also those that were not answered are whole or not there.
    for id in custody.keys(None, 1000).await.unwrap() {
        let version = u64::from_be_bytes(id[8..].try_into().unwrap());
        assert!(mac_is_right(&custody, id[0], version).await, "a key is whole");
    }
}

async fn mac_is_right(custody: &Custody, task: u8, version: u64) -> bool {
    let request = MacRequest { key: id(task, version), token: Vec::new(), hash_len: 32, message: b"message".to_vec() };
    let macs = custody.mac(slice::from_ref(&request)).await.unwrap();
    macs[0].as_ref().is_some_and(|mac| mac.expose() == super::expected(task))
}

/// Not a test of its own: the process that is killed.
#[test]
fn child_that_is_killed() {
    if Other::what().is_none() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(write_without_end(&Other::directory()));
}

async fn write_without_end(directory: &Path) {
    let token = Token::open(configuration_in(directory)).unwrap();
    let (custody, store) = (Arc::new(token.custody()), Arc::new(token.user_store().unwrap()));
    println!("ready");
    let mut tasks = tokio::task::JoinSet::new();
    for task in 1..5 {
        tasks.spawn(write(custody.clone(), store.clone(), task));
    }
    tasks.join_all().await;
}

async fn write(custody: Arc<Custody>, store: Arc<Store>, task: u8) {
    let key = format!("task{task}");
    let stored = store.get(slice::from_ref(&key)).await.unwrap().remove(0);
    let mut version = stored.map_or(0, |record| record.version);
    // The child before may have used counters beyond its last record.
    loop {
        let next = version + 1;
        custody.keep(id(task, next), SecretBytes::copy_from(&[task; 32])).await.unwrap();
        let verdict = store.consume(&[counter_use(task, next, 1)]).await.unwrap()[0];
        assert!(matches!(verdict, Verdict::Fresh | Verdict::SameNonce), "{verdict:?}");
        let written = store.put(put(&key, version, &next.to_be_bytes())).await.unwrap();
        assert_eq!(written, Written::Done(next));
        println!("answered {task} {next}");
        version = next;
    }
}
