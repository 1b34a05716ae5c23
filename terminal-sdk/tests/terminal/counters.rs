//! Counters of several processes that share a credential.

use std::{
    collections::HashSet,
    env,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use claviger_terminal::{CredentialFile, Terminal};

use crate::harness::World;

const PATH: &str = "CLAVIGER_TEST_COUNTERS_OF";

/// The child process of the test below: takes counters until it is killed.
#[test]
fn take_counters() {
    let Some(path) = env::var_os(PATH) else { return };
    let file = CredentialFile::new(path);
    loop {
        println!("counter {}", file.take_counter().unwrap().1);
    }
}

fn spawn(path: &Path) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "counters::take_counters"])
        .env(PATH, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The next `count` counters; then the process is killed, and what it had
/// printed until then is read too.
fn read_and_kill(mut child: Child, count: usize) -> Vec<u64> {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let parse = |line: String| line.rsplit_once("counter ").and_then(|(_, number)| number.parse().ok());
    let mut counters: Vec<u64> = lines.by_ref().filter_map(parse).take(count).collect();
    child.kill().unwrap(); // SIGKILL
    child.wait().unwrap();
    counters.extend(lines.filter_map(parse));
    counters
}

#[tokio::test]
async fn no_counter_is_used_twice_by_processes_that_are_killed() {
    let world = World::start(true).await;
    Terminal::enrol(world.options()).await.unwrap();
    let path = world.path();
    let mut seen = HashSet::new();
    let mut highest = 0;
    for _ in 0..3 {
        let children: Vec<Child> = (0..3).map(|_| spawn(&path)).collect();
        let readers: Vec<_> =
            children.into_iter().map(|child| std::thread::spawn(move || read_and_kill(child, 100))).collect();
        for reader in readers {
            let counters = reader.join().unwrap();
            assert!(counters.len() >= 100);
            assert!(counters.is_sorted_by(|a, b| a < b));
            for counter in counters {
                assert!(seen.insert(counter), "{counter} was used twice");
                highest = highest.max(counter);
            }
        }
        let next = CredentialFile::new(&path).take_counter().unwrap().1;
        assert!(next > highest && seen.insert(next), "{next} after {highest}");
        highest = next;
    }
    // No gaps but those of the killed: the management server takes a long
    // jump for a clone's.
    assert!(highest - seen.len() as u64 <= 3 * 3 * 2, "{highest}, {} used", seen.len());
    assert!(CredentialFile::new(&path).load().is_ok());
}
