//! A terminal: the `claviger` command with a home of its own.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    Deployment, REALM, Result,
    process::{run, run_with_input},
};

/// A terminal with its own credential.
#[derive(Debug, Clone)]
pub struct Terminal {
    program: PathBuf,
    home: PathBuf,
}

impl Terminal {
    /// A terminal that keeps everything in `home`.
    pub fn new(program: PathBuf, home: &Path) -> Self {
        Self { program, home: home.to_owned() }
    }

    /// Where its credential lies.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// A `claviger` command.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.env("CLAVIGER_HOME", &self.home).args(args);
        command
    }

    /// Runs a `claviger` command; its standard output.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        run(&mut self.command(args))
    }

    /// The command line that enrols at a deployment, with the code on standard input.
    pub fn enrol_args(deployment: &Deployment) -> Vec<String> {
        let ca = deployment.ca().display().to_string();
        ["enrol", "--server", &deployment.terminals_url(), "--ca", &ca, "--realm", REALM].map(str::to_owned).into()
    }

    /// Enrols with a code.
    pub fn enrol(&self, deployment: &Deployment, code: &str) -> Result<String> {
        let args = Self::enrol_args(deployment);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        run_with_input(&mut self.command(&args), &format!("{code}\n"))
    }
}
