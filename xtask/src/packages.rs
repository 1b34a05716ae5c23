//! What must be installed beside Rust and a C compiler.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use claviger_testkit::Result;

/// Debian packages, each with a file by which it is recognised.
pub(crate) type Packages = &'static [(&'static str, &'static str)];

/// What the build needs.
pub(crate) const BUILD: Packages = &[
    ("make", "/usr/bin/make"),
    // What cipher-openssl is linked against.
    ("libssl-dev", "/usr/include/openssl/ssl.h"),
    ("pkg-config", "/usr/bin/pkg-config"),
];

/// What the tests need.
pub(crate) const TESTS: Packages = &[
    ("curl", "/usr/bin/curl"),
    // What signs plugins.
    ("minisign", "/usr/bin/minisign"),
    // What starts a server of any version; the servers lie in folders of theirs.
    ("postgresql", "/usr/bin/pg_ctlcluster"),
    ("python3", "/usr/bin/python3"),
    ("python3-cryptography", "/usr/lib/python3/dist-packages/cryptography/__init__.py"),
    ("redis-sentinel", "/usr/bin/redis-sentinel"),
    ("redis-server", "/usr/bin/redis-server"),
    ("softhsm2", "/usr/bin/softhsm2-util"),
];

/// The servers that benchmarks measure.
pub(crate) const SERVERS: Packages =
    &[("postgresql", "/usr/bin/pg_ctlcluster"), ("redis-server", "/usr/bin/redis-server")];

/// What formal models need, whatever checks them.
pub(crate) const MODELS: Packages = &[("gcc", "/usr/bin/gcc")];

/// What SPIN's models need beside that.
pub(crate) const SPIN: Packages = &[("spin", "/usr/bin/spin"), ("libc6-dev", "/usr/include/stdio.h")];

/// Installs what is missing when this is root, and otherwise names it.
pub(crate) fn ensure(packages: Packages) -> Result<()> {
    let missing: Vec<_> =
        packages.iter().filter(|(_, file)| !Path::new(file).exists()).map(|(package, _)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    if !rustix::process::geteuid().is_root() {
        return Err(format!("these Debian packages are missing: run `sudo apt-get install {names}`"));
    }
    println!("==> installing {names}");
    apt(&["update"])?;
    apt(&[&["install", "--yes", "--no-install-recommends"][..], &missing].concat())
}

fn apt(args: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").arg("--quiet").args(args);
    let status = command.stdin(Stdio::null()).status().map_err(|error| format!("apt-get: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("`apt-get {}` failed", args.join(" "))) }
}
