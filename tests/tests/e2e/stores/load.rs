//! Real terminals that sign on again and again.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use claviger_testkit::{SERVICE, Terminal};

/// A thread for each terminal. What is neither granted nor *unavailable* fails the test.
pub(super) struct Load {
    seen: Arc<Seen>,
    threads: Vec<JoinHandle<()>>,
}

struct Seen {
    stop: AtomicBool,
    /// Sign-ons of each terminal.
    granted: Vec<AtomicU32>,
    unavailable: Vec<AtomicU32>,
    /// What was said to all others.
    wrong: Mutex<Vec<String>>,
}

impl Load {
    pub(super) fn start(terminals: &[Terminal]) -> Self {
        let counters = || terminals.iter().map(|_| AtomicU32::new(0)).collect();
        let stop = AtomicBool::new(false);
        let seen = Seen { stop, granted: counters(), unavailable: counters(), wrong: Mutex::default() };
        let seen = Arc::new(seen);
        let threads = terminals.iter().cloned().enumerate().map(|(at, terminal)| {
            let seen = seen.clone();
            thread::spawn(move || seen.sign_on(&terminal, at))
        });
        Self { threads: threads.collect(), seen: seen.clone() }
    }

    /// Waits until each terminal was granted another sign-on that began from now on.
    pub(super) fn wait_granted(&self) {
        self.wait(&self.seen.granted, "granted");
    }

    /// Waits until each terminal was told another time that somebody is away.
    pub(super) fn wait_unavailable(&self) {
        self.wait(&self.seen.unavailable, "unavailable");
    }

    /// Ends it: how many sign-ons were granted, and how many *unavailable*.
    pub(super) fn end(self) -> (u32, u32) {
        self.seen.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(*self.seen.wrong.lock().unwrap(), [""; 0], "an outage must never look like anything else");
        let sum = |counts: &[AtomicU32]| counts.iter().map(|count| count.load(Ordering::Relaxed)).sum();
        (sum(&self.seen.granted), sum(&self.seen.unavailable))
    }

    /// Two more of each: the first may have begun before.
    fn wait(&self, counts: &[AtomicU32], what: &str) {
        let goals: Vec<_> = counts.iter().map(|count| count.load(Ordering::Relaxed) + 2).collect();
        let deadline = Instant::now() + Duration::from_secs(60);
        while counts.iter().zip(&goals).any(|(count, goal)| count.load(Ordering::Relaxed) < *goal) {
            let wrong = self.seen.wrong.lock().unwrap().clone();
            assert!(wrong.is_empty() && Instant::now() < deadline, "not all are {what}: {counts:?}, {wrong:?}");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Seen {
    fn sign_on(&self, terminal: &Terminal, at: usize) {
        while !self.stop.load(Ordering::Relaxed) {
            let output = terminal.command(&["sign-on", SERVICE]).output().unwrap();
            match output.status.code() {
                Some(0) => _ = self.granted[at].fetch_add(1, Ordering::Relaxed),
                Some(4) => _ = self.unavailable[at].fetch_add(1, Ordering::Relaxed),
                code => {
                    let said = String::from_utf8_lossy(&output.stderr);
                    self.wrong.lock().unwrap().push(format!("{code:?}: {said}"));
                }
            }
        }
    }
}
