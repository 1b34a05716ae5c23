//! Benchmarks of the real programs. `cargo xtask bench` builds them and this,
//! and says with `--help` what each measures.

#![forbid(unsafe_code)]

mod host;
mod load;
mod population;
mod site;
mod stores;

use std::{
    env,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
};

use serde::de::DeserializeOwned;

/// Arguments: which benchmark, the directory of the programs and plugins, and its options as JSON.
fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [which, directory, options] = arguments.as_slice() else {
        eprintln!("usage: bench WHICH DIRECTORY-OF-PROGRAMS OPTIONS (`cargo xtask bench --help`)");
        return ExitCode::from(2);
    };
    match catch_signals().and_then(|()| run(which, Path::new(directory), options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Somebody wants it to end: as an error, so that servers end and directories go.
fn catch_signals() -> Result<(), String> {
    ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::Relaxed)).map_err(|error| error.to_string())
}

/// To be asked within each longer piece of work.
fn go_on() -> Result<(), String> {
    if INTERRUPTED.load(Ordering::Relaxed) { Err("interrupted".into()) } else { Ok(()) }
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

fn run(which: &str, directory: &Path, options: &str) -> Result<(), String> {
    let directory = &directory.canonicalize().map_err(|error| format!("{}: {error}", directory.display()))?;
    match which {
        "stores" => stores::run(directory, &parse(options)?),
        other => Err(format!("there is no benchmark {other}")),
    }
}

fn parse<T: DeserializeOwned>(options: &str) -> Result<T, String> {
    serde_json::from_str(options).map_err(|error| format!("the options: {error}"))
}

/// Writes what was measured.
fn write_json(file: &PathBuf, report: &impl serde::Serialize) -> Result<(), String> {
    let text = serde_json::to_string_pretty(report).map_err(|error| error.to_string())?;
    std::fs::write(file, text + "\n").map_err(|error| format!("{}: {error}", file.display()))
}
