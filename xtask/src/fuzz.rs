//! `cargo xtask fuzz`: the targets of tests/fuzz with libFuzzer, on stable Rust.
//!
//! The coverage that guides libFuzzer comes from LLVM's own pass, which stable
//! rustc runs with plain code generation options, so neither a nightly
//! toolchain nor cargo-fuzz is needed. The library's own checks and Rust's take
//! the place of a sanitizer: the protocol has no unsafe code.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{self, BufRead, BufReader},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use claviger_testkit::Result;

use crate::{
    cargo::{cargo, root},
    packages::{self, BUILD},
};

/// What `cargo xtask fuzz` was asked for.
#[derive(Debug, clap::Args)]
pub(crate) struct Fuzz {
    /// Only this target [default: all of them]
    target: Option<String>,
    /// How long each target runs
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Processes at a time [default: one for each core]
    #[arg(long)]
    jobs: Option<NonZeroUsize>,
    /// Replace the committed corpus by the least that covers as much, with what was found since
    #[arg(long)]
    minimise: bool,
}

pub(crate) fn run(fuzz: &Fuzz) -> Result<()> {
    let names = targets()?;
    let chosen: Vec<&str> = match fuzz.target.as_deref() {
        None => names.iter().map(String::as_str).collect(),
        Some(target) if names.iter().any(|name| name == target) => vec![target],
        Some(other) => return Err(format!("there is no fuzz target `{other}`; expected one of {}", names.join(", "))),
    };
    println!("targets: {}", chosen.join(", "));
    packages::ensure(BUILD)?;
    packages::ensure(CPP)?;
    build()?;
    if fuzz.minimise {
        return chosen.into_iter().try_for_each(minimise);
    }
    let jobs = fuzz.jobs.or_else(|| thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
    // One target alone has all processes; they share what they find.
    let copies = if chosen.len() == 1 { jobs } else { 1 };
    let waiting: VecDeque<_> = chosen.iter().flat_map(|target| (0..copies).map(move |copy| (*target, copy))).collect();
    let runs = waiting.len();
    let failed = run_all(waiting, jobs, fuzz.seconds)?;
    println!("\n{} passed, {failed} failed", runs - failed);
    if failed > 0 { Err("fuzzing found a violated property".into()) } else { Ok(()) }
}

/// The C++ compiler that builds libFuzzer.
const CPP: packages::Packages = &[("g++", "/usr/bin/g++")];

/// Makes LLVM count the branches taken, and trace comparisons, for libFuzzer.
const COVERAGE: &str = "-Cpasses=sancov-module \
     -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
     -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares";

fn directory() -> PathBuf {
    root().join("tests/fuzz")
}

/// One target for each file of tests/fuzz/fuzz_targets.
fn targets() -> Result<Vec<String>> {
    let directory = directory().join("fuzz_targets");
    let mut names = Vec::new();
    for entry in fs::read_dir(&directory).map_err(|error| format!("{}: {error}", directory.display()))? {
        let path = entry.map_err(|error| error.to_string())?.path();
        names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}

/// Builds every target. With `--target`, the flags do not reach build scripts.
fn build() -> Result<()> {
    let mut command = cargo(&["build", "--release", "--locked", "--target", "host-tuple"]);
    command.current_dir(directory()).env("RUSTFLAGS", COVERAGE).env("CARGO_TARGET_DIR", directory().join("target"));
    let status = command.status().map_err(|error| format!("cargo: {error}"))?;
    if status.success() { Ok(()) } else { Err("the fuzz targets could not be built".into()) }
}

/// Where `--target host-tuple` puts a target's program.
fn program(target: &str) -> Result<PathBuf> {
    let builds = directory().join("target");
    let built = |path: PathBuf| Some(path.join("release").join(target)).filter(|program| program.is_file());
    let entries = fs::read_dir(&builds).map_err(|error| format!("{}: {error}", builds.display()))?;
    entries
        .filter_map(|entry| built(entry.ok()?.path()))
        .next()
        .ok_or_else(|| format!("{} has no program `{target}`", builds.display()))
}

/// Runs each, so many at a time. How many failed.
fn run_all(mut waiting: VecDeque<(&str, usize)>, jobs: usize, seconds: u32) -> Result<usize> {
    let mut running: Vec<Running<'_>> = Vec::new();
    let mut failed = 0;
    while !waiting.is_empty() || !running.is_empty() {
        while running.len() < jobs
            && let Some((target, copy)) = waiting.pop_front()
        {
            running.push(Running::start(target, copy, seconds)?);
        }
        thread::sleep(Duration::from_millis(100));
        let mut still = Vec::new();
        for mut run in running {
            if run.has_ended()? {
                failed += usize::from(!run.report()?);
            } else {
                still.push(run);
            }
        }
        running = still;
    }
    Ok(failed)
}

/// A target that runs. Ended with this program.
struct Running<'a> {
    target: &'a str,
    child: Child,
    log: PathBuf,
    deadline: Instant,
}

impl<'a> Running<'a> {
    fn start(target: &'a str, copy: usize, seconds: u32) -> Result<Self> {
        let (found, artifacts) = (found(target)?, made(directory().join("artifacts").join(target))?);
        let log = made(directory().join("target/logs"))?.join(format!("{target}-{copy}.log"));
        let failed = |error: io::Error| format!("{target}: {error}");
        let mut command = libfuzzer(target)?;
        command
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-artifact_prefix={}/", artifacts.display()))
            .arg(format!("-dict={}", directory().join("dictionary.txt").display()))
            .args([&found, &committed(target)])
            .stderr(File::create(&log).map_err(failed)?);
        let child = command.spawn().map_err(failed)?;
        println!("fuzzing {target} for {seconds} s");
        // libFuzzer ends by itself; this is for one that does not.
        let deadline = Instant::now() + Duration::from_secs(u64::from(seconds) + 60);
        Ok(Self { target, child, log, deadline })
    }

    fn has_ended(&mut self) -> Result<bool> {
        if Instant::now() > self.deadline {
            self.child.kill().map_err(|error| error.to_string())?;
        }
        Ok(self.child.try_wait().map_err(|error| error.to_string())?.is_some())
    }

    /// Says how it ended; whether well.
    fn report(&mut self) -> Result<bool> {
        let status = self.child.wait().map_err(|error| error.to_string())?;
        let log = File::open(&self.log).map_err(|error| format!("{}: {error}", self.log.display()))?;
        let lines: Vec<String> = BufReader::new(log).lines().map_while(std::result::Result::ok).collect();
        let last = |what: &str| lines.iter().rev().find(|line| line.contains(what)).map_or("", String::as_str);
        if status.success() {
            println!("{}: ok, {}; {}", self.target, last("Done "), last("cov:"));
            return Ok(true);
        }
        eprintln!("{}: FAILED, {status}", self.target);
        let from = lines.iter().position(|line| line.contains("panicked at")).unwrap_or(lines.len().saturating_sub(20));
        lines.iter().skip(from).take(20).for_each(|line| eprintln!("  {line}"));
        eprintln!("  the whole of it: {}", self.log.display());
        if let Some((_, artifact)) = last("Test unit written to ").split_once("written to ") {
            eprintln!("  again: {} {artifact}", program(self.target)?.display());
        }
        Ok(false)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A target's program, without output but for its log.
fn libfuzzer(target: &str) -> Result<Command> {
    let mut command = Command::new(program(target)?);
    command.args(["-timeout=10", "-rss_limit_mb=2048", "-len_control=10"]);
    command.current_dir(directory()).stdin(Stdio::null()).stdout(Stdio::null());
    Ok(command)
}

/// Merges what was found into the committed corpus: the fewest entries that
/// cover as much, where that is too large those that were committed before,
/// then the smallest.
fn minimise(target: &str) -> Result<()> {
    let (committed, found) = (committed(target), found(target)?);
    let least = directory().join("target/least").join(target);
    if least.exists() {
        fs::remove_dir_all(&least).map_err(|error| format!("{}: {error}", least.display()))?;
    }
    let least = made(least)?;
    let mut command = libfuzzer(target)?;
    command.arg("-set_cover_merge=1").args([&least, &committed, &found]).stderr(Stdio::null());
    let status = command.status().map_err(|error| format!("{target}: {error}"))?;
    let mut entries = entries(&least)?;
    if !status.success() || entries.is_empty() {
        return Err(format!("{target}: the corpus could not be merged; run the target to see what it fails at"));
    }
    // Entries are named for the hash of what they hold.
    entries.sort_by_key(|(file, size)| (!committed.join(file.file_name().unwrap_or_default()).exists(), *size));
    let mut total = 0;
    let kept = entries.iter().take_while(|(_, size)| {
        total += size;
        total <= MAX_CORPUS
    });
    let kept: Vec<_> = kept.map(|(file, _)| file).collect();
    let failed = |error: io::Error| format!("{}: {error}", committed.display());
    for (old, _) in self::entries(&committed)? {
        fs::remove_file(old).map_err(failed)?;
    }
    for entry in &kept {
        fs::copy(entry, committed.join(entry.file_name().unwrap_or_default())).map_err(failed)?;
    }
    println!("{target}: {} of {} entries", kept.len(), entries.len());
    Ok(())
}

/// The most that a target's committed corpus has, in bytes.
const MAX_CORPUS: u64 = 128 * 1024;

/// The corpus that belongs to the source.
fn committed(target: &str) -> PathBuf {
    directory().join("corpus").join(target)
}

/// Where what is found goes: it stays on this machine.
fn found(target: &str) -> Result<PathBuf> {
    made(directory().join("target/corpus").join(target))
}

fn made(directory: PathBuf) -> Result<PathBuf> {
    fs::create_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    Ok(directory)
}

/// The files of a folder, and their sizes in bytes.
fn entries(directory: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let failed = |error: io::Error| format!("{}: {error}", directory.display());
    fs::read_dir(directory)
        .map_err(failed)?
        .map(|entry| {
            let entry = entry.map_err(failed)?;
            Ok((entry.path(), entry.metadata().map_err(failed)?.len()))
        })
        .collect()
}
