//! The plugin's table of the configuration.

use std::{
    env, fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use claviger_plugin_api::InitError;
use cryptoki::types::AuthPin;
use serde::Deserialize;
use zeroize::Zeroizing;

/// The plugin's table of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Configuration {
    /// The PKCS#11 module, absolute: a shared library of the maker of the HSM.
    pub module: PathBuf,
    /// The label of the token, 1 to 32 bytes. Slots are numbered anew at will,
    /// so a number names nothing.
    pub token: String,
    /// A file that holds the user's PIN, for the daemon's user alone. A line
    /// break at its end does not count. Read at start.
    #[serde(default)]
    pub pin_file: Option<PathBuf>,
    /// The name of a systemd credential that holds it, instead of `pin_file`.
    #[serde(default)]
    pub pin_credential: Option<String>,
    /// Where unique keys lie.
    pub mode: Mode,
    /// What the labels of this daemon's objects begin with: 1 to 32 of `a` to
    /// `z`, `0` to `9`, `-`, `_` and `.`. Another one for each realm of a token.
    #[serde(default = "default_prefix")]
    pub prefix: String,
    /// How many unique keys the module may hold, 1 to 100,000.
    #[serde(default = "default_max_keys")]
    pub max_keys: usize,
    /// Threads with a session each, 1 to 64.
    #[serde(default = "default_threads")]
    pub threads: usize,
    /// Calls that may wait for a thread, 1 to 65,536; more are answered *busy*.
    #[serde(default = "default_queue")]
    pub queue: usize,
    /// Milliseconds for a call, its wait included, 10 to 60,000.
    #[serde(default = "default_deadline")]
    pub deadline_ms: u32,
    /// Keeps records and counters in the module too, with `mode = "objects"`:
    /// the file by whose lock one process alone writes them. Absolute; created
    /// with mode 0600.
    #[serde(default)]
    pub lock_file: Option<PathBuf>,
}

/// Where unique keys lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Each is an object of the module and never leaves it.
    Objects,
    /// Each lies in the host's store, sealed under a key that the module
    /// derives; it is opened in the daemon's memory for each use.
    Derived,
}

impl Mode {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Objects => "objects",
            Self::Derived => "derived",
        }
    }
}

impl Configuration {
    /// A configuration with the defaults for everything that has one.
    pub fn new(module: impl Into<PathBuf>, token: impl Into<String>, pin_file: impl Into<PathBuf>, mode: Mode) -> Self {
        Self {
            module: module.into(),
            token: token.into(),
            pin_file: Some(pin_file.into()),
            pin_credential: None,
            mode,
            prefix: default_prefix(),
            max_keys: default_max_keys(),
            threads: default_threads(),
            queue: default_queue(),
            deadline_ms: default_deadline(),
            lock_file: None,
        }
    }

    pub(crate) fn deadline(&self) -> Duration {
        Duration::from_millis(self.deadline_ms.into())
    }

    /// Checks everything that needs no module.
    pub(crate) fn check(&self) -> Result<(), InitError> {
        absolute("module", &self.module)?;
        require((1..=32).contains(&self.token.len()), || "token: a label has 1 to 32 bytes".to_owned())?;
        require(is_prefix(&self.prefix), || {
            format!("prefix: {:?} is not 1 to 32 of a to z, 0 to 9, -, _ and .", self.prefix)
        })?;
        for (name, value, range) in [
            ("max_keys", self.max_keys, 1..=100_000),
            ("threads", self.threads, 1..=64),
            ("queue", self.queue, 1..=65_536),
        ] {
            let (low, high) = (*range.start(), *range.end());
            require(range.contains(&value), || format!("{name}: {value} is not within {low} to {high}"))?;
        }
        require((10..=60_000).contains(&self.deadline_ms), || {
            format!("deadline_ms: {} is not within 10 to 60000", self.deadline_ms)
        })?;
        if let Some(file) = &self.lock_file {
            absolute("lock_file", file)?;
            require(self.mode == Mode::Objects, || {
                "lock_file: records and counters lie in the module with mode = \"objects\" only".to_owned()
            })?;
        }
        Ok(())
    }

    /// Reads the PIN. Done once: a PIN that changes needs a restart.
    pub(crate) fn pin(&self) -> Result<AuthPin, InitError> {
        match (&self.pin_file, &self.pin_credential) {
            (Some(file), None) => {
                absolute("pin_file", file)?;
                read_pin("pin_file", file, true)
            }
            (None, Some(name)) => {
                require(!name.is_empty() && !name.contains('/') && !name.starts_with('.'), || {
                    format!("pin_credential: {name:?} is not a credential's name")
                })?;
                let directory = env::var_os("CREDENTIALS_DIRECTORY").ok_or_else(|| {
                    InitError::Configuration(format!(
                        "pin_credential: systemd gave no credentials; put LoadCredential={name}:FILE into the unit"
                    ))
                })?;
                // systemd has seen to who may read it.
                read_pin("pin_credential", &Path::new(&directory).join(name), false)
            }
            (Some(_), Some(_)) => {
                Err(InitError::Configuration("pin_file and pin_credential: give one of them".to_owned()))
            }
            (None, None) => Err(InitError::Configuration(
                "pin_file: the file of the PIN is needed (or pin_credential, a systemd credential)".to_owned(),
            )),
        }
    }
}

fn read_pin(option: &str, file: &Path, check_mode: bool) -> Result<AuthPin, InitError> {
    let shown = file.display();
    let unreadable = |e: std::io::Error| InitError::Unavailable(format!("{option}: {shown} cannot be read: {e}"));
    let mode = fs::metadata(file).map_err(unreadable)?.mode() & 0o777;
    require(!check_mode || mode & 0o077 == 0, || {
        format!("{option}: {shown} is open to other users ({mode:03o}); chmod it to 600")
    })?;
    let text = Zeroizing::new(fs::read_to_string(file).map_err(unreadable)?);
    let pin = text.strip_suffix('\n').unwrap_or(&text);
    let pin = pin.strip_suffix('\r').unwrap_or(pin);
    require((1..=255).contains(&pin.len()) && !pin.contains(['\n', '\0']), || {
        format!("{option}: {shown} does not hold a PIN of 1 to 255 bytes on one line")
    })?;
    Ok(AuthPin::new(pin.into()))
}

fn absolute(option: &str, path: &Path) -> Result<(), InitError> {
    require(path.is_absolute(), || format!("{option}: {} is not absolute", path.display()))
}

fn is_prefix(prefix: &str) -> bool {
    let plain =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_' || byte == b'.';
    (1..=32).contains(&prefix.len()) && prefix.bytes().all(plain)
}

fn require(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), InitError> {
    if holds { Ok(()) } else { Err(InitError::Configuration(otherwise())) }
}

fn default_prefix() -> String {
    "claviger".to_owned()
}

fn default_max_keys() -> usize {
    2000
}

fn default_threads() -> usize {
    2
}

fn default_queue() -> usize {
    1024
}

fn default_deadline() -> u32 {
    1500
}
