//! Children: run to their end, or kept running until their owner goes.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::Result;

/// A child that runs in the background. It is killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it with standard error, and output, appended to `log`.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let failed = |error: std::io::Error| format!("{name}: {error}");
        let file = File::options().create(true).append(true).open(log).map_err(failed)?;
        let output = file.try_clone().map_err(failed)?;
        let child = command.stdin(Stdio::null()).stdout(output).stderr(file).spawn().map_err(failed)?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until `ready` says so; fails when the child ends before, or after 30 s.
    pub fn wait_until(&mut self, what: &str, ready: impl Fn() -> bool) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !ready() {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("{} ended ({status}) before {what}:\n{}", self.name, self.log()));
            }
            if Instant::now() > deadline {
                return Err(format!("{}: no {what} within 30 s:\n{}", self.name, self.log()));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Kills it as `kill -9` does.
    pub fn kill(mut self) {
        let _ = self.child.kill(); // it may have ended by itself
        let _ = self.child.wait();
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).ok_or("no process id")?;
        kill_process(pid, signal).map_err(|error| format!("{}: {error}", self.name))
    }

    /// Whether it has ended by itself, and whether well.
    pub fn ended(&mut self) -> Option<bool> {
        self.child.try_wait().ok().flatten().map(|status| status.success())
    }

    /// Asks it to end (SIGTERM) and waits up to `patience`; whether it ended well.
    pub fn terminate(mut self, patience: Duration) -> Result<bool> {
        self.signal(Signal::TERM)?;
        let deadline = Instant::now() + patience;
        loop {
            if let Some(well) = self.ended() {
                return Ok(well);
            }
            if Instant::now() > deadline {
                return Err(format!("{} did not end within {patience:?}:\n{}", self.name, self.log()));
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended by itself
        let _ = self.child.wait();
    }
}

/// Runs a command to its end; its standard output, or what it said on standard error.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output();
    judge(command, output)
}

/// As [`run`], with `input` on standard input: never on the command line, since it may be a secret.
pub fn run_with_input(command: &mut Command, input: &str) -> Result<String> {
    let output =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().and_then(|mut child| {
            if let Some(mut stdin) = child.stdin.take() {
                // A child that fails before it reads closes the pipe: its own message says why.
                let _ = stdin.write_all(input.as_bytes());
            }
            child.wait_with_output()
        });
    judge(command, output)
}

fn judge(command: &Command, output: std::io::Result<Output>) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let name = name.rsplit('/').next().unwrap_or(&name);
    let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let called = format!("{name} {}", args.join(" "));
    let output = output.map_err(|error| format!("{called}: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let said = String::from_utf8_lossy(&output.stderr);
        let code = output.status.code().map_or("a signal".into(), |code| format!("exit code {code}"));
        Err(format!("{called}: {code}: {}{}", String::from_utf8_lossy(&output.stdout), said.trim_end()))
    }
}
