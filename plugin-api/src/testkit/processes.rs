//! The suite of user stores: several processes on one store.

use std::{
    collections::BTreeMap,
    env,
    future::Future,
    io::{BufRead, BufReader, Write, stdin},
    process::{Child, ChildStdout, Command, Stdio},
    sync::Arc,
};

use super::{
    counters::consume,
    races::{increment, number, shuffled},
    records::one,
};
use crate::{CounterUse, UserStore, Verdict};

/// What a child opens; set in children alone.
const PLACE: &str = "CLAVIGER_TESTKIT_PLACE";
/// A child's number.
const CHILD: &str = "CLAVIGER_TESTKIT_CHILD";
/// In front of what a child says, among what the test harness prints.
const MARK: &str = "testkit: ";

const CHILDREN: u32 = 4;
const ROUNDS: u64 = 25;
const KEYS: [&str; 2] = ["a", "b"];

/// Checks a user store that several daemons may share: races the same counter
/// batches and increments of the same records from several processes. Leave it
/// out for a store of one process.
///
/// It runs the test it is called from in processes of its own: `test` is the
/// name of that test as the harness has it, with its modules. `prepare` makes a
/// new store and gives what a process needs to open it, as a text for its
/// environment, and what must live until the end; it does not run in the
/// children. `open` opens that store. Nothing else should happen in the test.
///
/// ```no_run
/// # use std::sync::Arc;
/// # use claviger_plugin_api::{UserStore, testkit};
/// # fn open(path: &str) -> Arc<dyn UserStore> { unimplemented!() }
/// # async fn test() {
/// // #[tokio::test(flavor = "multi_thread")]
/// // async fn processes_share_a_store() {
/// testkit::processes(
///     "processes_share_a_store",
///     || ("/tmp/some.db".to_owned(), ()),
///     |place| async move { open(&place) },
/// )
/// .await;
/// # }
/// ```
///
/// # Panics
/// With what was expected, where the store does not keep the contract.
pub async fn processes<K, F>(test: &str, prepare: impl FnOnce() -> (String, K), open: impl Fn(String) -> F)
where
    F: Future<Output = Arc<dyn UserStore>>,
{
    if let (Ok(place), Ok(child)) = (env::var(PLACE), env::var(CHILD)) {
        race(open(place).await, child.parse().expect("a number")).await;
        return;
    }
    let (place, _kept) = prepare();
    // Before the race: it is about the store, not about making its tables.
    drop(open(place.clone()).await);
    let children: Vec<Process> = (0..CHILDREN).map(|child| Process::start(test, &place, child)).collect();
    let mut children: Vec<Process> = children.into_iter().map(Process::wait_ready).collect();
    children.iter_mut().for_each(Process::go);
    let mut fresh = BTreeMap::new();
    for (child, process) in children.into_iter().enumerate() {
        for counter in process.fresh() {
            let earlier = fresh.insert(counter, child);
            assert_eq!(earlier, None, "{counter:?} was fresh in process {child} and in another one");
        }
    }
    assert_eq!(fresh.len() as u64, 24 * ROUNDS, "each counter was fresh in one process");
    let store = open(place).await;
    for round in 0..ROUNDS {
        let uses = shuffled(round, 0);
        let winner = |one: &CounterUse| [fresh[&(one.credential[0], one.epoch, one.counter)] as u8; 32];
        let uses: Vec<_> = uses.into_iter().map(|one| CounterUse { nonce: winner(&one), ..one }).collect();
        let judged = consume(&store, &uses).await;
        assert!(judged.iter().all(|verdict| *verdict == Verdict::SameNonce), "the row is the winner's: {judged:?}");
    }
    for key in KEYS {
        let record = one(&store, key).await.expect("it is there");
        assert_eq!(number(&record.value), u64::from(CHILDREN) * ROUNDS, "no increment of {key} is lost");
    }
}

/// What a child does: waits for the others, races, and tells what was fresh.
async fn race(store: Arc<dyn UserStore>, child: u32) {
    println!("\n{MARK}ready");
    let mut line = String::new();
    stdin().read_line(&mut line).expect("the parent says when to go");
    for round in 0..ROUNDS {
        let uses = shuffled(round, child);
        for (one, verdict) in uses.iter().zip(consume(&store, &uses).await) {
            match verdict {
                Verdict::Fresh => println!("{MARK}fresh {} {} {}", one.credential[0], one.epoch, one.counter),
                Verdict::OtherNonce => {}
                other => panic!("{one:?} was judged {other:?}"),
            }
        }
        for key in KEYS {
            increment(&store, key).await;
        }
    }
    println!("{MARK}done");
}

/// A child, killed when it is dropped before its end.
struct Process {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Process {
    fn start(test: &str, place: &str, child: u32) -> Self {
        let mut child = Command::new(env::current_exe().expect("the test's own program"))
            .args([test, "--exact", "--nocapture", "--test-threads=1"])
            .env(PLACE, place)
            .env(CHILD, child.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the test's own program runs");
        let output = BufReader::new(child.stdout.take().expect("its output is piped"));
        Self { child, output }
    }

    /// Its next words; `None` at its end.
    fn says(&mut self) -> Option<String> {
        let mut line = String::new();
        while self.output.read_line(&mut line).expect("its output is text") > 0 {
            if let Some((_, words)) = line.trim_end().split_once(MARK) {
                return Some(words.to_owned());
            }
            line.clear();
        }
        None
    }

    fn wait_ready(mut self) -> Self {
        assert_eq!(self.says().as_deref(), Some("ready"), "no such test, or it cannot open the store");
        self
    }

    fn go(&mut self) {
        self.child.stdin.take().expect("its input is piped").write_all(b"go\n").expect("it listens");
    }

    /// What was fresh in it: credential, epoch, counter.
    fn fresh(mut self) -> Vec<(u8, u32, u64)> {
        let mut fresh = Vec::new();
        let mut last = None;
        while let Some(words) = self.says() {
            if let Some(counter) = words.strip_prefix("fresh ") {
                let mut numbers = counter.split(' ').map(|number| number.parse::<u64>().expect("a number"));
                let mut next = || numbers.next().expect("three numbers");
                fresh.push((next() as u8, next() as u32, next()));
            }
            last = Some(words);
        }
        let ended = self.child.wait().expect("it ends").success();
        assert!(ended && last.as_deref() == Some("done"), "a process failed; what it said is above");
        fresh
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
