//! What an author of a plugin does, as the guide says it.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{binaries, build_directory};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// A directory in which cargo needs no network and compiles no dependency that
/// this build has compiled: with its profiles, target directory and versions.
struct Desk {
    directory: TempDir,
}

impl Desk {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join(".cargo")).unwrap();
        let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
        let profiles = manifest.split_once("[profile.dev]").unwrap().1.split_once("[profile.release]").unwrap().0;
        let text = format!("[net]\noffline = true\n\n[profile.dev]{profiles}");
        fs::write(directory.path().join(".cargo/config.toml"), text).unwrap();
        Self { directory }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Runs a script that begins with `clavigerd plugin new NAME` and `cd NAME`.
    fn run(&self, name: &str, script: &str) -> String {
        let [first, second, rest @ ..] = &script.lines().collect::<Vec<_>>()[..] else { panic!("{script}") };
        assert!(first.starts_with(&format!("clavigerd plugin new {name} ")), "{first}");
        assert_eq!(*second, format!("cd {name}"));
        self.shell(self.path(), first);
        let krate = self.path().join(name);
        // The tests' own build, so that dependencies are there.
        symlink(build_directory().parent().unwrap(), krate.join("target")).unwrap();
        fs::copy(root().join("Cargo.lock"), krate.join("Cargo.lock")).unwrap();
        self.shell(&krate, &rest.join("\n"))
    }

    fn shell(&self, directory: &Path, script: &str) -> String {
        let clavigerd = binaries().clavigerd();
        let cargo = PathBuf::from(env!("CARGO"));
        let mut path = std::env::join_paths([clavigerd.parent().unwrap(), cargo.parent().unwrap()]).unwrap();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let mut shell = Command::new("/bin/sh");
        shell.args(["-euc", script]).current_dir(directory).env("PATH", path);
        // Those of this test's own crate.
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") || name == "CLAVIGER_CONFIG" {
                shell.env_remove(name);
            }
        }
        let output = shell.output().unwrap();
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (said(&output.stdout), said(&output.stderr));
        assert!(output.status.success(), "{script}\n{out}\n{err}");
        out
    }
}

/// The first block of shell commands behind a heading.
fn commands(document: &str, heading: &str) -> String {
    let text = fs::read_to_string(root().join(document)).unwrap();
    let behind = text.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("{document}: {heading}")).1;
    behind.split_once("```sh\n").unwrap().1.split_once("```").unwrap().0.to_owned()
}

#[test]
fn five_commands_lead_from_nothing_to_a_tested_cipher_plugin() {
    let script = commands("docs/plugin-guide.md", "## Five commands");
    assert_eq!(script.lines().count(), 5, "{script}");
    assert_eq!(script.lines().next(), Some("clavigerd plugin new my-cipher --kind cipher"));
    let said = Desk::new().run("my-cipher", &script);
    assert!(said.contains("it_keeps_the_contract ... ok"), "{said}");
    assert!(said.contains("my-cipher 0.1.0: 15 checks passed, 0 failed"), "{said}");
}

#[test]
fn a_new_store_and_a_new_issuer_build_and_pass() {
    let desk = Desk::new();
    for (kind, name, least) in [("store", "my-store", 33), ("issuer", "my-issuer", 17)] {
        // The commands are those of the crate's own README.
        let readme = format!("plugin-api/templates/{kind}/README.md");
        let script = commands(&readme, &format!("`clavigerd plugin new {{{{project-name}}}} --kind {kind}`."));
        let script = script.replace("{{project-name}}", name).replace("{{crate_name}}", &name.replace('-', "_"));
        assert_eq!(script.lines().count(), 5, "{script}");
        // The last command's report as JSON.
        let said = desk.run(name, &format!("{} --json", script.trim_end()));
        let report: Value = serde_json::from_str(&said[said.find("\n{").unwrap()..]).unwrap();
        assert!(report["passed"].as_u64().unwrap() >= least && report["failed"] == 0, "{report:#}");
    }
}

#[test]
fn a_directory_that_holds_something_is_left_alone() {
    let desk = Desk::new();
    let taken = desk.path().join("taken");
    fs::create_dir(&taken).unwrap();
    fs::write(taken.join("notes"), "mine").unwrap();
    let mut command = Command::new(binaries().clavigerd());
    command.args(["plugin", "new", "taken", "--kind", "cipher"]).current_dir(desk.path());
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("is not empty"), "{output:?}");
    assert_eq!(fs::read_dir(&taken).unwrap().count(), 1);
}
