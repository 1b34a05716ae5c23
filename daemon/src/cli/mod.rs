//! The command line of `clavigerd`.
//!
//! - [`args`]: what can be typed.
//! - `failure`: what goes wrong, and the exit code of each.
//! - `output`: tables and JSON.
//! - `daemon`: `run`, `check`, `status`.
//! - `users`, `services`, `plugins`, `keys`: through the administration socket.
//! - `plugin_pin`: hashes of plugins into the configuration; needs no daemon.
//! - `plugin_new`, `plugin_test`: for authors of plugins; need no daemon.
//! - `pki`: certificates; needs no daemon.
//! - `hsm`: the module of key custody; works on the module itself.
//! - `transfer`: a realm as a whole: copy, backup, restore; works on the stores itself.

pub mod args;
mod daemon;
mod failure;
mod hsm;
mod keys;
mod output;
mod pki;
mod plugin_new;
mod plugin_pin;
mod plugin_test;
mod plugins;
mod services;
mod transfer;
mod users;

use std::{ffi::OsString, process::ExitCode};

use clap::Parser;

use args::{Cli, Command};
use failure::Failure;
use output::Output;

/// Does what the arguments of this process say. For `run` it returns when the daemon has ended.
pub fn main() -> ExitCode {
    main_with(std::env::args_os())
}

/// [`main`] with the arguments as an argument; the first one is the program's name.
pub fn main_with(arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(e) => {
            // Help and version are errors to clap, and no failures; 2 is its code for wrong usage.
            let code = u8::try_from(e.exit_code()).unwrap_or(failure::USAGE);
            let _ = e.print();
            return ExitCode::from(code);
        }
    };
    let output = Output::new(cli.common.json);
    match dispatch(&cli, &output) {
        Ok(code) => code,
        Err(failure) => {
            output.failure(&failure);
            ExitCode::from(failure.exit_code())
        }
    }
}

fn dispatch(cli: &Cli, output: &Output) -> Result<ExitCode, Failure> {
    let common = &cli.common;
    match &cli.command {
        Command::Run => daemon::run(common)?,
        Command::Check => daemon::check(common, output)?,
        Command::Status => return daemon::status(common, output),
        Command::User { command } => users::user(command, common, output)?,
        Command::Service { command } => services::service(command, common, output)?,
        Command::Store { command } => transfer::store(command, common, output)?,
        Command::Backup { file, verify: true, .. } => transfer::verify(file, common, output)?,
        Command::Backup { file, store, verify: false, missing_keys_ok } => {
            transfer::backup(file, store.as_deref(), *missing_keys_ok, common, output)?;
        }
        Command::Restore { file, store, dry_run, keep_keys } => {
            let how = transfer::Restore { dry_run: *dry_run, keep_keys: *keep_keys };
            transfer::restore(file, store.as_deref(), how, common, output)?;
        }
        Command::Plugin { command } => plugins::plugin(command, common, output)?,
        Command::Pki { command } => pki::pki(command, output)?,
        Command::Keys { command } => keys::keys(command, common, output)?,
        Command::Hsm { command } => hsm::hsm(command, common, output)?,
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_every_argument_is_explained() {
        Cli::command().debug_assert();
        let mut open = vec![Cli::command()];
        while let Some(command) = open.pop() {
            assert!(command.get_about().is_some(), "{} has no help", command.get_name());
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{} {} has no help", command.get_name(), argument.get_id());
            }
            open.extend(command.get_subcommands().cloned());
        }
    }

    #[test]
    fn wrong_usage_has_its_own_exit_code() {
        for arguments in [
            &["clavigerd", "banana"][..],
            &["clavigerd", "user", "add"],
            &["clavigerd", "user", "enrol-code", "alice", "--valid", "24"],
            &["clavigerd", "service", "add", "shop", "--key-pin", "xyz"],
            &["clavigerd", "pki", "issue", "dir"],
            &["clavigerd", "store", "migrate", "--from", "a"],
            &["clavigerd", "store", "migrate", "--from", "a", "--to", "a"],
            &["clavigerd", "backup", "--verify", "--store", "a", "file"],
            &["clavigerd", "keys", "rotate", "--drop", "kek"],
            &["clavigerd", "keys", "rewrap", "--page", "0"],
        ] {
            assert_eq!(main_with(arguments), ExitCode::from(failure::USAGE), "{arguments:?}");
        }
    }

    #[test]
    fn what_needs_no_daemon_works_and_its_absence_has_an_exit_code() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).into_os_string().into_string().unwrap();
        let (pki, key, socket, config) = (path("pki"), path("kek.key"), path("admin.sock"), path("c.toml"));
        std::fs::write(&config, "realm = 1").unwrap();
        for (arguments, code) in [
            (&["keys", "init", &key][..], 0),
            (&["keys", "init", &key], 1),
            (&["pki", "issue", &pki, "manager", "--dns", "localhost"], 1),
            (&["pki", "init", &pki, "--realm", "Upper"], 1),
            (&["pki", "init", &pki, "--realm", "example"], 0),
            (&["pki", "issue", &pki, "manager", "--dns", "localhost", "--ip", "::1", "--json"], 0),
            (&["check", "--config", &config], 3),
            (&["run", "--config", &config], 3),
            (&["user", "list", "--config", &config], 3),
            (&["user", "list", "--socket", &socket], 4),
            (&["keys", "status", "--socket", &socket], 4),
            (&["status", "--socket", &socket, "--json"], 4),
            (&["plugin", "inspect", &config], 1),
            (&["hsm", "status", "--config", &config], 3),
            (&["store", "migrate", "--from", "a", "--to", "b", "--config", &config], 3),
            (&["backup", &path("backup"), "--config", &config], 3),
            (&["restore", &path("backup"), "--config", &config], 3),
        ] {
            let all = std::iter::once("clavigerd").chain(arguments.iter().copied());
            assert_eq!(main_with(all), ExitCode::from(code), "{arguments:?}");
        }
    }
}
