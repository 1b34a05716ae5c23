//! Checks files of test vectors against the protocol crate, with each cipher
//! plugin in turn, or makes such a file. `cargo xtask vectors` builds and runs it.

#![forbid(unsafe_code)]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use claviger_daemon::{
    plugin_host::{HostServices, PluginConfig, PluginHost},
    suites::PluginSuite,
};
use claviger_protocol::{
    Suite,
    aws_lc::AwsLc,
    vectors::{self, Outcome, VectorFile},
};

/// Arguments: the directory of the plugins, then the files; or `--generate` and a file.
#[tokio::main]
async fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1).map(PathBuf::from);
    let Some(first) = arguments.next() else {
        eprintln!("usage: check-vectors DIRECTORY-OF-PLUGINS FILE... | check-vectors --generate FILE");
        return ExitCode::from(2);
    };
    let files: Vec<_> = arguments.collect();
    let outcome = if first == Path::new("--generate") { generate(&files) } else { check(&first, &files).await };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Writes vectors of every suite, KEM and kind.
fn generate(files: &[PathBuf]) -> Result<bool, String> {
    let [file] = files else { return Err("--generate takes one file".into()) };
    let made = vectors::generate(|id| AwsLc::suite(id).map(|suite| suite as &dyn Suite))?;
    let mut text = serde_json::to_string_pretty(&made).map_err(|error| error.to_string())?;
    text.push('\n');
    fs::write(file, text).map_err(|error| format!("{}: {error}", file.display()))?;
    println!("{} vectors in {}", made.vectors.len(), file.display());
    Ok(true)
}

/// Whether every vector that could be tried was reproduced, and each plugin tried some.
async fn check(directory: &Path, files: &[PathBuf]) -> Result<bool, String> {
    let plugins = cipher_plugins(directory)?;
    if plugins.is_empty() {
        return Err(format!("no cipher plugin in {}; run `cargo build` first", directory.display()));
    }
    let mut well = true;
    for path in plugins {
        let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().replace("libclaviger_", "");
        let host = load(&name, &path).await?;
        let suites: Vec<(u16, PluginSuite)> =
            host.suites().into_iter().filter_map(|id| Some((id, PluginSuite::new(host.suite(id)?)))).collect();
        for file in files {
            println!("{name}: {}", file.display());
            well &= check_file(&read(file)?, &suites);
        }
    }
    Ok(well)
}

fn check_file(file: &VectorFile, suites: &[(u16, PluginSuite)]) -> bool {
    let (mut reproduced, mut skipped, mut failed) = (0, 0, 0);
    for vector in &file.vectors {
        let find = |id: claviger_protocol::SuiteId| {
            suites.iter().find(|(known, _)| *known == id.0).map(|(_, suite)| suite as &dyn Suite)
        };
        let outcome = vectors::check(vector, find);
        match &outcome {
            Outcome::Reproduced(_) => reproduced += 1,
            Outcome::Skipped(_) => skipped += 1,
            Outcome::Failed(_) => failed += 1,
        }
        println!("  {} ({}, suite {}, kem {}): {outcome}", vector.name, vector.kind, vector.suite, vector.kem);
    }
    println!("  {reproduced} reproduced, {skipped} skipped, {failed} failed");
    failed == 0 && reproduced > 0
}

/// The libraries of a build that are cipher plugins by their name.
fn cipher_plugins(directory: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let mut found: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    found.retain(|path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("libclaviger_cipher_") && name.ends_with(".so")
    });
    found.sort();
    Ok(found)
}

async fn load(name: &str, path: &Path) -> Result<PluginHost, String> {
    PluginHost::load(&[PluginConfig::new(name, path)], HostServices::default()).await.map_err(|error| error.to_string())
}

fn read(file: &Path) -> Result<VectorFile, String> {
    let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    vectors::parse(&text).map_err(|error| format!("{}: {error}", file.display()))
}
