//! Whether the time of an answer tells why a sign-on failed: an unknown user,
//! a wrong unique key and a wrong management authentication key must look
//! alike. `cargo xtask timing` builds and runs it.
//!
//! The role is the real one with the real plugins; envelopes are made
//! beforehand and handed in at random, one at a time.

#![forbid(unsafe_code)]

mod statistics;
mod world;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use claviger_daemon::{
    config::types::{LogConfig, LogFormat},
    management::Management,
    telemetry::{logs, metrics::Metrics},
};
use claviger_protocol::{Code, ServiceId};
use claviger_tests::random::Random;
use serde::Serialize;

use statistics::{Comparison, median};
use world::{Fault, World};

/// Arguments: the directory of the plugins, the number of samples, and a file for the results.
fn main() -> ExitCode {
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    let samples = arguments.get(1).and_then(|text| text.to_str()?.parse().ok());
    let (Some(plugins), Some(samples), true) = (arguments.first(), samples, arguments.len() <= 3) else {
        eprintln!("usage: timing DIRECTORY-OF-PLUGINS SAMPLES [FILE]");
        return ExitCode::from(2);
    };
    match run(Path::new(plugins), samples, arguments.get(2).map(PathBuf::from)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// One kind of call that is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Class {
    name: &'static str,
    fault: Fault,
    /// What the measured time is made longer by.
    delay: Duration,
}

/// The first three must look alike. The others must not: they show that the test can fail.
const CLASSES: [Class; 5] = [
    Class { name: "unknown user", fault: Fault::UnknownUser, delay: Duration::ZERO },
    Class { name: "wrong unique key", fault: Fault::UniqueKey, delay: Duration::ZERO },
    Class { name: "wrong management key", fault: Fault::ManagementKey, delay: Duration::ZERO },
    Class { name: "malformed", fault: Fault::Malformed, delay: Duration::ZERO },
    Class { name: "wrong unique key, 5 µs later", fault: Fault::UniqueKey, delay: Duration::from_micros(5) },
];
const ALIKE: [(usize, usize); 3] = [(0, 1), (0, 2), (1, 2)];
const CONTROLS: [(usize, usize); 2] = [(1, 3), (1, 4)];

/// |t| from which two classes count as told apart. dudect calls 4.5 suspicious
/// and 10 certain.
const T_LIMIT: f64 = 10.0;
/// The largest difference of medians, in nanoseconds: far below what a network
/// adds by chance. Without optimisation the work is ten times as long.
const MEDIAN_LIMIT: f64 = if cfg!(debug_assertions) { 10_000.0 } else { 1000.0 };
const ATTEMPTS: usize = 3;
/// Envelopes of each class, used again and again.
const ENVELOPES: usize = 512;
/// Calls of each lane before it measures.
const WARM_UP: usize = 100;
/// Lanes that measure at once.
const LANES: usize = 16;

/// Everything that was measured.
#[derive(Debug, Serialize)]
struct Report {
    samples_per_class: usize,
    t_limit: f64,
    median_limit_ns: f64,
    attempts: Vec<Attempt>,
    passed: bool,
}

/// One measurement of all classes.
#[derive(Debug, Serialize)]
struct Attempt {
    seconds: f64,
    medians_ns: Vec<(&'static str, f64)>,
    alike: Vec<Pair>,
    controls: Vec<Pair>,
    passed: bool,
}

/// Two classes.
#[derive(Debug, Serialize)]
struct Pair {
    first: &'static str,
    second: &'static str,
    #[serde(flatten)]
    compared: Comparison,
}

fn run(plugins: &Path, samples: usize, json: Option<PathBuf>) -> Result<bool, String> {
    // As in the daemon: what is logged and counted takes its time.
    let log = LogConfig { level: "warn".into(), format: LogFormat::Json };
    logs::init(&log).map_err(|error| error.to_string())?;
    let metrics = Metrics::install().map_err(|error| error.to_string())?;
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let world = runtime()?.block_on(World::new(directory.path(), plugins))?;
    let report = measure_all(&world, &metrics, samples.div_ceil(ALIKE.len() * LANES) * LANES)?;
    if let Some(file) = json {
        let text = serde_json::to_string_pretty(&report).map_err(|error| error.to_string())?;
        fs::write(&file, text + "\n").map_err(|error| format!("{}: {error}", file.display()))?;
    }
    println!("{}", if report.passed { "passed: the failures cannot be told apart by time" } else { "FAILED" });
    Ok(report.passed)
}

/// Measures until an attempt passes. Noise does not come back each time; a leak does.
fn measure_all(world: &World, metrics: &Metrics, samples: usize) -> Result<Report, String> {
    let envelopes = CLASSES
        .iter()
        .map(|class| (0..ENVELOPES).map(|number| world.envelope(class.fault, number)).collect())
        .collect::<Result<Vec<Vec<Vec<u8>>>, _>>()?;
    let mut attempts: Vec<Attempt> = Vec::new();
    while attempts.len() < ATTEMPTS && !attempts.last().is_some_and(|last| last.passed) {
        println!("attempt {} of at most {ATTEMPTS}: {samples} samples of each class", attempts.len() + 1);
        let (started, seed) = (Instant::now(), (attempts.len() * LANES) as u64);
        let times = measure(world, metrics, &envelopes, samples, seed)?;
        let attempt = judge(&times, started.elapsed());
        attempt.print();
        attempts.push(attempt);
    }
    let passed = attempts.last().is_some_and(|last| last.passed);
    Ok(Report { samples_per_class: samples, t_limit: T_LIMIT, median_limit_ns: MEDIAN_LIMIT, attempts, passed })
}

/// Times of each class in nanoseconds, from all lanes.
fn measure(
    world: &World,
    metrics: &Metrics,
    envelopes: &[Vec<Vec<u8>>],
    samples: usize,
    seed: u64,
) -> Result<Vec<Vec<u32>>, String> {
    let lanes = thread::scope(|scope| {
        let start = |number: usize| {
            let lane = Lane { world, envelopes, samples: samples / LANES };
            scope.spawn(move || runtime()?.block_on(lane.run(Random::new(seed + number as u64))))
        };
        let lanes: Vec<_> = (0..LANES).map(start).collect();
        while !lanes.iter().all(thread::ScopedJoinHandle::is_finished) {
            thread::sleep(Duration::from_millis(250));
            metrics.render(); // as if somebody scraped; otherwise memory grows
        }
        lanes.into_iter().map(|lane| lane.join().unwrap_or_else(|_| Err("a lane panicked".into()))).collect::<Vec<_>>()
    });
    let mut times = vec![Vec::with_capacity(samples); CLASSES.len()];
    for lane in lanes {
        for (all, own) in times.iter_mut().zip(lane?) {
            all.extend(own);
        }
    }
    Ok(times)
}

/// One thread, so that nothing has to be woken up across threads: less noise than in the daemon.
fn runtime() -> Result<tokio::runtime::Runtime, String> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())
}

/// Measures one call after the other, on a management role of its own. Calls
/// spend most of their time waiting, so some lanes run beside each other.
#[derive(Clone, Copy)]
struct Lane<'a> {
    world: &'a World,
    envelopes: &'a [Vec<Vec<u8>>],
    /// Of each class.
    samples: usize,
}

impl Lane<'_> {
    async fn run(self, mut random: Random) -> Result<Vec<Vec<u32>>, String> {
        let management = self.world.management().await?;
        let mut order: Vec<usize> = (0..self.samples * CLASSES.len()).map(|i| i % CLASSES.len()).collect();
        random.shuffle(&mut order);
        let warm_up: Vec<usize> = (0..WARM_UP).map(|i| order[i % order.len()]).collect();
        let mut times = vec![Vec::with_capacity(self.samples); CLASSES.len()];
        // All envelopes are read from one place, so that none is nearer to the processor.
        let mut buffer = Vec::with_capacity(2048);
        for (number, class) in warm_up.into_iter().chain(order).enumerate() {
            let chosen = &self.envelopes[class];
            buffer.clear();
            buffer.extend_from_slice(&chosen[random.below(chosen.len())]);
            let time = time_one(&management, &self.world.service, CLASSES[class], &buffer).await?;
            if number >= WARM_UP {
                times[class].push(u32::try_from(time.as_nanos()).unwrap_or(u32::MAX));
            }
        }
        Ok(times)
    }
}

async fn time_one(
    management: &Management,
    service: &ServiceId,
    class: Class,
    envelope: &[u8],
) -> Result<Duration, String> {
    let started = Instant::now();
    let answered = management.reply_processor().decrypt(service, envelope).await;
    let mut elapsed = started.elapsed();
    let until = elapsed + class.delay;
    while elapsed < until {
        elapsed = started.elapsed();
    }
    let code = answered.map_err(|error| error.to_string())?.code;
    let expected = if class.fault == Fault::Malformed { Code::Malformed } else { Code::AuthFailed };
    if code == expected { Ok(elapsed) } else { Err(format!("{}: answered {code} instead of {expected}", class.name)) }
}

fn judge(times: &[Vec<u32>], took: Duration) -> Attempt {
    let pairs = |indices: &[(usize, usize)]| {
        let pair = |&(first, second): &(usize, usize)| Pair {
            first: CLASSES[first].name,
            second: CLASSES[second].name,
            compared: Comparison::of(&times[first], &times[second]),
        };
        indices.iter().map(pair).collect::<Vec<_>>()
    };
    let (alike, controls) = (pairs(&ALIKE), pairs(&CONTROLS));
    let passed = !alike.iter().any(Pair::differs) && controls.iter().all(|pair| pair.compared.max_t >= T_LIMIT);
    let medians_ns = CLASSES.iter().zip(times).map(|(class, times)| (class.name, median(times))).collect();
    Attempt { seconds: took.as_secs_f64(), medians_ns, alike, controls, passed }
}

impl Attempt {
    fn print(&self) {
        println!("  took {:.0} s; medians:", self.seconds);
        for (name, median) in &self.medians_ns {
            println!("    {name:<30} {:>8.2} µs", median / 1000.0);
        }
        println!("  must look alike (|t| below {T_LIMIT}, medians closer than {MEDIAN_LIMIT} ns):");
        self.alike.iter().for_each(|pair| pair.print(pair.differs()));
        println!("  must be told apart (|t| of {T_LIMIT} or more):");
        self.controls.iter().for_each(|pair| pair.print(pair.compared.max_t < T_LIMIT));
    }
}

impl Pair {
    fn differs(&self) -> bool {
        self.compared.max_t >= T_LIMIT || self.compared.median_difference_ns.abs() >= MEDIAN_LIMIT
    }

    fn print(&self, bad: bool) {
        let Comparison { max_t, kept, median_difference_ns } = self.compared;
        println!(
            "    {:<16} / {:<30} |t| {max_t:>8.2} (fastest {:>5.1} %), medians {median_difference_ns:>+9.0} ns{}",
            self.first,
            self.second,
            kept * 100.0,
            if bad { "  <-- NO" } else { "" }
        );
    }
}
