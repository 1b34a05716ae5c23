//! `bench stores`: sign-ons on each user store, with few and with many users.
//!
//! All daemons and servers run from the beginning to the end; load is on one
//! of them at a time. A round measures each once, so that whatever else the
//! machine does falls on all of them; ratios are made within a round, and
//! their median counts.

use std::{
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use bytes::Bytes;
use claviger_testkit::Binaries;
use claviger_tests::random::Random;
use serde::{Deserialize, Serialize};

use crate::{
    go_on,
    host::{Machine, cpu_seconds, load, own_cpu_seconds},
    load::Service,
    site::{Filled, Site, Store, runtime},
    write_json,
};

/// What was asked for; see `cargo xtask bench stores --help`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Options {
    users: Vec<u32>,
    stores: Vec<Store>,
    seconds: f64,
    rounds: usize,
    in_flight: usize,
    connections: usize,
    #[serde(skip_serializing)]
    json: Option<PathBuf>,
}

/// At least this much of SQLite's rate, on a server.
const RATE_TARGET: f64 = 0.5;
/// At most this much more processor time for a sign-on among the most users than among the fewest.
const COST_TARGET: f64 = 1.2;
/// Envelopes of the load before each measurement, which is not measured.
const WARM_UP: usize = 2000;

/// Everything that was measured.
#[derive(Debug, Serialize)]
struct Report<'a> {
    machine: Machine,
    options: &'a Options,
    settings: Vec<(Store, &'static str)>,
    filled: Vec<Filled>,
    measurements: Vec<Measurement>,
    medians: Vec<Measurement>,
    comparisons: Vec<Comparison>,
}

/// Load on one store for some seconds, or the medians of several of these.
#[derive(Debug, Clone, Serialize)]
struct Measurement {
    /// From 0; of medians: how many there were.
    round: usize,
    store: Store,
    users: u32,
    sign_ons: usize,
    sign_ons_per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    /// Processor seconds for 1,000 sign-ons: of the daemon with its plugins,
    daemon_cpu: f64,
    /// of the database server,
    server_cpu: f64,
    /// and of this program, which makes the load.
    generator_cpu: f64,
    /// Sign-ons that shared a store call, on average.
    read_batch: f64,
    counter_batch: f64,
    /// How many processes wanted to run within the minute before, these included.
    machine_load: f64,
}

/// A ratio with what it should be.
#[derive(Debug, Serialize)]
struct Comparison {
    what: String,
    /// The median of the rounds.
    ratio: f64,
    rounds: Vec<f64>,
    target: Option<String>,
    met: Option<bool>,
}

/// `directory` holds programs and plugins.
pub(crate) fn run(directory: &Path, options: &Options) -> Result<(), String> {
    let plugins = options.stores.iter().map(|store| store.plugin());
    let plugins: Vec<_> = plugins.chain([Store::Sqlite.plugin()]).collect();
    let binaries = Binaries::for_management(directory, &plugins)?;
    let machine = Machine::look(&std::env::temp_dir())?;
    machine.print();
    let settings: Vec<_> = options.stores.iter().map(|store| (*store, store.settings())).collect();
    for (store, settings) in &settings {
        println!("{}: {}", store.name(), settings.replace('\n', ", "));
    }
    let (mut sites, filled) = open(&binaries, options)?;
    let mut measurements = Vec::new();
    for round in 0..options.rounds {
        // There and back, so that none is always the one after the slowest.
        let mut order: Vec<_> = sites.iter_mut().collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for site in order {
            let measured = site.measure(round, options)?;
            eprintln!("  round {} of {}: {}", round + 1, options.rounds, measured.line());
            measurements.push(measured);
        }
    }
    let medians: Vec<_> = sites.iter().map(|load| load.median(&measurements)).collect();
    let comparisons = compare(options, &measurements);
    print(options, &medians, &comparisons);
    let report = Report { machine, options, settings, filled, measurements, medians, comparisons };
    options.json.as_ref().map_or(Ok(()), |file| write_json(file, &report))
}

/// All stores with all numbers of users, their daemons running.
fn open(binaries: &Binaries, options: &Options) -> Result<(Vec<Loaded>, Vec<Filled>), String> {
    let (mut sites, mut filled) = (Vec::new(), Vec::new());
    for users in &options.users {
        eprintln!("making {users} users");
        let (origin, made) = Site::new(binaries, *users)?;
        made.print();
        filled.push(made);
        let mut own = Vec::new();
        for store in options.stores.iter().filter(|store| **store != Store::Sqlite) {
            eprintln!("copying them to {}", store.name());
            go_on()?;
            let (site, copied) = origin.copy(*store)?;
            copied.print();
            filled.push(copied);
            own.push(site);
        }
        if options.stores.contains(&Store::Sqlite) {
            own.insert(0, origin);
        }
        for mut site in own {
            site.deployment.start()?;
            sites.push(Loaded::new(site, options)?);
        }
    }
    Ok((sites, filled))
}

/// A site under load.
struct Loaded {
    site: Site,
    service: Service,
    runtime: tokio::runtime::Runtime,
    /// The counter each user has used last.
    counters: Vec<u32>,
    random: Random,
}

impl Loaded {
    fn new(site: Site, options: &Options) -> Result<Self, String> {
        let runtime = runtime()?;
        let service = runtime.block_on(async { Service::new(&site.deployment, options.connections) })?;
        let counters = vec![0; site.population.count() as usize];
        Ok(Self { site, service, runtime, counters, random: Random::new(1) })
    }

    fn measure(&mut self, round: usize, options: &Options) -> Result<Measurement, String> {
        let length = Duration::from_secs_f64(options.seconds);
        let envelopes = self.envelopes(WARM_UP)?;
        let warm = self.runtime.block_on(self.service.load(envelopes, options.in_flight, length / 2))?;
        let envelopes = self.envelopes((warm.rate() * options.seconds * SPARE) as usize)?;
        let before = self.used()?;
        let brought = self.runtime.block_on(self.service.load(envelopes, options.in_flight, length))?;
        let after = self.used()?;
        let sign_ons = brought.latencies.len();
        let each = |used: fn(&Used) -> f64| (used(&after) - used(&before)) * 1e3 / sign_ons as f64;
        let batch =
            |at: usize| (after.batches[at].0 - before.batches[at].0) / (after.batches[at].1 - before.batches[at].1);
        Ok(Measurement {
            round,
            store: self.site.store,
            users: self.site.population.count(),
            sign_ons,
            sign_ons_per_second: brought.rate(),
            p50_ms: brought.percentile(0.5),
            p99_ms: brought.percentile(0.99),
            daemon_cpu: each(|used| used.daemon),
            server_cpu: each(|used| used.server),
            generator_cpu: each(|used| used.generator),
            read_batch: batch(0),
            counter_batch: batch(1),
            machine_load: load(),
        })
    }

    /// Envelopes of random users, made now, ahead of their use.
    fn envelopes(&mut self, number: usize) -> Result<Vec<Bytes>, String> {
        let senders: Vec<(u32, u32)> = (0..number)
            .map(|_| {
                let user = self.random.below(self.counters.len());
                self.counters[user] += 1;
                (user as u32, self.counters[user])
            })
            .collect();
        let (population, threads) = (&self.site.population, thread::available_parallelism().map_or(1, Into::into));
        let make = |senders: &[(u32, u32)]| -> Result<Vec<Bytes>, String> {
            let make = |(user, counter): &(u32, u32)| population.envelope(*user, u64::from(*counter)).map(Bytes::from);
            senders.iter().map(make).collect()
        };
        thread::scope(|scope| {
            let parts = senders.chunks(number.div_ceil(threads).max(1));
            let parts: Vec<_> = parts.map(|part| scope.spawn(move || make(part))).collect();
            let mut all = Vec::with_capacity(number);
            for part in parts {
                all.extend(part.join().map_err(|_| "a thread that makes envelopes panicked")??);
            }
            Ok(all)
        })
    }

    fn used(&self) -> Result<Used, String> {
        let metrics = self.site.deployment.metrics()?;
        let batches = ["read", "counter"].map(|step| {
            let name = |part: &str| format!("claviger_reply_processor_batch_size_{part}{{step=\"{step}\"}}");
            (metric(&metrics, &name("sum")), metric(&metrics, &name("count")))
        });
        Ok(Used {
            daemon: cpu_seconds(self.site.deployment.management()?.id()),
            server: self.site.server().map_or(0.0, cpu_seconds),
            generator: own_cpu_seconds(),
            batches,
        })
    }

    /// The medians of its measurements.
    fn median(&self, all: &[Measurement]) -> Measurement {
        let own: Vec<_> = all.iter().filter(|one| one.is_of(self.site.store, self.site.population.count())).collect();
        let of = |value: fn(&Measurement) -> f64| median(own.iter().map(|one| value(one)).collect());
        Measurement {
            round: own.len(),
            store: self.site.store,
            users: self.site.population.count(),
            sign_ons: own.iter().map(|one| one.sign_ons).sum(),
            sign_ons_per_second: of(|one| one.sign_ons_per_second),
            p50_ms: of(|one| one.p50_ms),
            p99_ms: of(|one| one.p99_ms),
            daemon_cpu: of(|one| one.daemon_cpu),
            server_cpu: of(|one| one.server_cpu),
            generator_cpu: of(|one| one.generator_cpu),
            read_batch: of(|one| one.read_batch),
            counter_batch: of(|one| one.counter_batch),
            machine_load: of(|one| one.machine_load),
        }
    }
}

/// More envelopes than the rate before asks for: it may have been low by chance.
const SPARE: f64 = 1.5;

/// What was used so far: seconds of processors, and sum and number of batches of reads and counters.
struct Used {
    daemon: f64,
    server: f64,
    generator: f64,
    batches: [(f64, f64); 2],
}

fn metric(metrics: &str, name: &str) -> f64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|value| value.trim().parse().ok()).unwrap_or_default()
}

impl Measurement {
    fn is_of(&self, store: Store, users: u32) -> bool {
        (self.store, self.users) == (store, users)
    }

    /// Processor seconds for 1,000 sign-ons, of all that is deployed.
    fn cost(&self) -> f64 {
        self.daemon_cpu + self.server_cpu
    }

    fn line(&self) -> String {
        format!(
            "{:<15}{:>9} {:>11.0} {:>8.1} {:>8.1} {:>9.3} {:>9.3} {:>9.3} {:>10.3} {:>6.0} {:>8.0}",
            self.store.name(),
            self.users,
            self.sign_ons_per_second,
            self.p50_ms,
            self.p99_ms,
            self.daemon_cpu,
            self.server_cpu,
            self.cost(),
            self.generator_cpu,
            self.read_batch,
            self.counter_batch,
        )
    }
}

/// What a ratio should be.
#[derive(Clone, Copy)]
enum Target {
    AtLeast(f64),
    AtMost(f64),
}

impl Target {
    fn is_met(self, ratio: f64) -> bool {
        match self {
            Self::AtLeast(target) => ratio >= target,
            Self::AtMost(target) => ratio <= target,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtLeast(target) => format!("at least {target}"),
            Self::AtMost(target) => format!("at most {target}"),
        }
    }
}

/// What the targets are about, and what else is worth a ratio.
fn compare(options: &Options, all: &[Measurement]) -> Vec<Comparison> {
    // One value for each round of a store, in the order of the rounds.
    let of = |store: Store, users: u32, value: fn(&Measurement) -> f64| -> Vec<f64> {
        all.iter().filter(|one| one.is_of(store, users)).map(value).collect()
    };
    let ratio = |what: String, above: Vec<f64>, below: Vec<f64>, good: Option<Target>| {
        let rounds: Vec<_> = above.iter().zip(below).map(|(above, below)| above / below).collect();
        let ratio = median(rounds.clone());
        Comparison { what, ratio, rounds, target: good.map(Target::text), met: good.map(|target| target.is_met(ratio)) }
    };
    let mut comparisons = Vec::new();
    if options.stores.contains(&Store::Sqlite) {
        for store in options.stores.iter().filter(|store| **store != Store::Sqlite) {
            for users in &options.users {
                let rate = |store| of(store, *users, |one| one.sign_ons_per_second);
                let target = (*store == Store::Postgres).then_some(Target::AtLeast(RATE_TARGET));
                let what = format!("rate: {} / sqlite, {users} users", store.name());
                comparisons.push(ratio(what, rate(*store), rate(Store::Sqlite), target));
            }
        }
    }
    if let (Some(fewest), Some(most)) = (options.users.iter().min(), options.users.iter().max())
        && fewest != most
    {
        for store in &options.stores {
            let cost = |users| of(*store, users, Measurement::cost);
            let what = format!("cost: {}, {most} / {fewest} users", store.name());
            comparisons.push(ratio(what, cost(*most), cost(*fewest), Some(Target::AtMost(COST_TARGET))));
        }
    }
    comparisons
}

fn print(options: &Options, medians: &[Measurement], comparisons: &[Comparison]) {
    println!(
        "\nMedians of {} rounds of {} s, in each all stores in turn; {} requests in flight on {} connections.",
        options.rounds, options.seconds, options.in_flight, options.connections
    );
    println!("CPU: seconds of processor time for 1,000 sign-ons. Batch: sign-ons in one store call.\n");
    println!(
        "{:<15}{:>9} {:>11} {:>8} {:>8} {:>9} {:>9} {:>9} {:>10} {:>6} {:>8}",
        "store", "users", "sign-ons/s", "p50 ms", "p99 ms", "CPU", "CPU", "CPU", "CPU", "batch", "batch"
    );
    println!(
        "{:<15}{:>9} {:>11} {:>8} {:>8} {:>9} {:>9} {:>9} {:>10} {:>6} {:>8}",
        "", "", "", "", "", "daemon", "server", "both", "generator", "reads", "counters"
    );
    medians.iter().for_each(|one| println!("{}", one.line()));
    println!();
    for one in comparisons {
        let rounds: Vec<_> = one.rounds.iter().map(|ratio| format!("{ratio:.2}")).collect();
        let judged = match (&one.target, one.met) {
            (Some(target), Some(met)) => format!("  target: {target}: {}", if met { "met" } else { "NOT MET" }),
            _ => String::new(),
        };
        println!("{:<45} {:>5.2}  (rounds: {}){judged}", one.what, one.ratio, rounds.join(", "));
    }
    println!("\nTimings are noisy where a machine does other things too: trust the ratios, and CPU more than rates.");
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}
