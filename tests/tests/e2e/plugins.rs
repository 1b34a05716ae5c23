//! Plugins as operators meet them: a daemon with good and broken ones.

use std::{
    fs::{self, File},
    io::Write,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

use claviger_testkit::{Layout, SERVICE};
use serde_json::Value;

use crate::support::{build_directory, counter, start};

/// Appends `[[plugin]]` tables to a configuration: TOML wants them before the
/// next table ends, so each one is a file of its own merged by the daemon.
fn add_plugins(running: &crate::support::Running, tables: &str) {
    let path = running.deployment.configuration(0);
    let mut file = File::options().append(true).open(path).unwrap();
    file.write_all(tables.as_bytes()).unwrap();
}

#[test]
fn broken_plugins_are_reported_in_one_line_each_and_kept_out() {
    let mut running = start(Layout::AllInOne);
    let terminal = running.deployment.enrolled("alice").unwrap();
    running.deployment.stop().unwrap();
    let directory = running.deployment.directory().to_owned();
    let cipher = fs::read(running.deployment.binaries().plugin("cipher-aws-lc")).unwrap();
    fs::write(directory.join("truncated.so"), &cipher[..cipher.len() / 2]).unwrap();
    fs::write(directory.join("text.so"), "this is not a library\n").unwrap();
    fs::write(directory.join("second.so"), &cipher).unwrap();
    let build = build_directory();
    let plugins = [
        ("truncated", directory.join("truncated.so"), ""),
        ("text", directory.join("text.so"), ""),
        ("missing", directory.join("missing.so"), ""),
        ("other-major", build.join("libclaviger_test_other_major.so"), ""),
        ("program", build.join("claviger"), ""),
        (
            "pinned",
            directory.join("second.so"),
            "sha256 = \"0000000000000000000000000000000000000000000000000000000000000000\"\n",
        ),
        ("second", directory.join("second.so"), ""),
    ];
    let mut tables = String::new();
    for (name, path, more) in &plugins {
        tables += &format!("\n[[plugin]]\nname = \"{name}\"\nrequired = false\npath = \"{}\"\n{more}", path.display());
    }
    add_plugins(&running, &tables);
    running.deployment.start().unwrap();
    let list = running.deployment.admin(&["plugin", "list", "--json"]).unwrap();
    let list: Value = serde_json::from_str(&list).unwrap();
    let list = list.as_array().or_else(|| list["plugins"].as_array()).unwrap();
    let logs = running.deployment.logs();
    for (name, ..) in &plugins {
        let status = list.iter().find(|plugin| plugin["name"] == *name).unwrap();
        if *name == "second" {
            // A second copy of a plugin under another name answers for itself.
            assert_eq!(status["state"], "loaded", "{status}");
            assert_eq!(status["suites"].as_array().unwrap().len(), 5);
            continue;
        }
        assert_eq!(status["state"], "failed", "{status}");
        let reason = status["reason"].as_str().unwrap();
        assert!(!reason.is_empty() && !reason.contains('\n') && reason.len() < 400, "{name}: {reason}");
        let lines = logs.lines().filter(|l| l.contains("not loaded") && l.contains(&format!("\"{name}\""))).count();
        assert_eq!(lines, 1, "{name}: {logs}");
    }
    terminal.run(&["sign-on", SERVICE]).unwrap();
}

#[test]
fn a_required_plugin_that_is_broken_stops_the_start() {
    let mut running = start(Layout::AllInOne);
    running.deployment.stop().unwrap();
    let text = running.deployment.directory().join("text.so");
    fs::write(&text, "this is not a library\n").unwrap();
    add_plugins(&running, &format!("\n[[plugin]]\nname = \"text\"\npath = \"{}\"\n", text.display()));
    let failed = running.deployment.start().unwrap_err();
    assert!(failed.contains("text"), "{failed}");
}

#[test]
fn a_store_whose_file_is_moved_away_is_not_ready_until_it_is_back() {
    let running = start(Layout::AllInOne);
    let ready = |expected: f64| {
        let start = Instant::now();
        while counter(&running.deployment.metrics().unwrap(), "claviger_ready{component=\"management\"}") != expected {
            assert!(start.elapsed() < Duration::from_secs(60), "{}", running.deployment.logs());
            sleep(Duration::from_millis(50));
        }
    };
    ready(1.0);
    let file = running.deployment.directory().join("users.db");
    let aside = file.with_extension("aside");
    fs::rename(&file, &aside).unwrap();
    ready(0.0);
    let logs = running.deployment.logs();
    let line = logs.lines().find(|line| line.contains("not ready")).unwrap();
    assert!(line.contains("plugin store-sqlite: ") && line.contains("not there any more"), "{line}");
    fs::rename(&aside, &file).unwrap();
    ready(1.0);
}

#[test]
fn inspect_says_what_a_file_is() {
    let running = start(Layout::AllInOne);
    let path = running.deployment.binaries().plugin("store-sqlite").display().to_string();
    let said = running.deployment.admin(&["plugin", "inspect", &path, "--json"]).unwrap();
    let said: Value = serde_json::from_str(&said).unwrap();
    assert!(said.to_string().contains("user_store"), "{said}");
    let kek = running.deployment.directory().join("kek.key").display().to_string();
    let output = running.deployment.clavigerd(&["plugin", "inspect", &kek]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
}

/// Copies the plugins of a configuration beside it, so that they can be replaced.
fn own_plugins(running: &crate::support::Running, names: &[&str]) {
    let file = running.deployment.configuration(0);
    let mut text = fs::read_to_string(&file).unwrap();
    for name in names {
        let built = running.deployment.binaries().plugin(name);
        fs::copy(&built, running.deployment.directory().join(format!("{name}.so"))).unwrap();
        text = text.replace(&built.display().to_string(), &format!("{name}.so"));
    }
    fs::write(file, text).unwrap();
}

#[test]
fn plugins_are_replaced_while_users_sign_on() {
    const PLUGINS: [&str; 3] = ["cipher-aws-lc", "store-sqlite", "issuer-opaque"];
    let mut running = start(Layout::AllInOne);
    running.deployment.stop().unwrap();
    own_plugins(&running, &PLUGINS);
    running.deployment.start().unwrap();
    let terminals: Vec<_> = ["ann", "bob"].map(|user| running.deployment.enrolled(user).unwrap()).into();
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let deployment = &running.deployment;
    let plugin = |name: &str| deployment.directory().join(format!("{name}.so"));
    let reload = |name: &str| deployment.clavigerd(&["plugin", "reload", name, "--json"]).output().unwrap();
    let list = |name: &str| {
        let list: Value = serde_json::from_str(&deployment.admin(&["plugin", "list", "--json"]).unwrap()).unwrap();
        list["plugins"].as_array().unwrap().iter().find(|plugin| plugin["name"] == name).unwrap().clone()
    };
    std::thread::scope(|scope| {
        let users: Vec<_> = terminals
            .iter()
            .map(|terminal| {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        terminal.run(&["sign-on", SERVICE]).unwrap();
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        for name in PLUGINS {
            let whole = fs::read(plugin(name)).unwrap();
            let put = |bytes: &[u8]| {
                let new = plugin(name).with_extension("new");
                fs::write(&new, bytes).unwrap();
                fs::rename(new, plugin(name)).unwrap();
            };
            put(&whole[..whole.len() / 2]);
            let refused = reload(name);
            assert_eq!(refused.status.code(), Some(1));
            assert!(String::from_utf8_lossy(&refused.stderr).contains("cut short"), "{refused:?}");
            put(&[&whole[..], b"2"].concat());
            assert_eq!(list(name)["file"]["differs"], true);
            let replaced = reload(name);
            let text = String::from_utf8_lossy(&replaced.stderr);
            assert!(replaced.status.success(), "{text}{}", deployment.logs());
            let said: Value = serde_json::from_slice(&replaced.stdout).unwrap();
            let status = list(name);
            assert_eq!((&status["file"]["differs"], &status["sha256"]), (&Value::Bool(false), &said["now"]["sha256"]));
            assert_ne!(said["before"]["sha256"], said["now"]["sha256"]);
            let (seen, start) = (done.load(Ordering::Relaxed), Instant::now());
            while done.load(Ordering::Relaxed) < seen + 3 {
                let dead = users.iter().any(std::thread::ScopedJoinHandle::is_finished);
                assert!(!dead && start.elapsed() < Duration::from_secs(120), "{}", deployment.logs());
                sleep(Duration::from_millis(20));
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    let logs = running.deployment.logs();
    let audited = |result: &str| logs.lines().filter(|l| l.contains("plugin.reload") && l.contains(result)).count();
    assert_eq!((audited("\"done\""), audited("\"refused\"")), (PLUGINS.len(), PLUGINS.len()), "{logs}");
}

#[test]
fn pinning_changes_the_hashes_and_what_is_pinned_starts() {
    let mut running = start(Layout::AllInOne);
    running.deployment.stop().unwrap();
    own_plugins(&running, &["cipher-aws-lc"]);
    let file = running.deployment.configuration(0);
    let before = format!("# by hand\n{}", fs::read_to_string(&file).unwrap());
    fs::write(&file, &before).unwrap();
    let shown = running.deployment.admin(&["plugin", "pin", "--dry-run"]).unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), before);
    assert_eq!(shown.lines().filter(|line| line.starts_with("+ ")).count(), 3, "{shown}");
    assert_eq!(running.deployment.admin(&["plugin", "pin"]).unwrap(), shown);
    let after = fs::read_to_string(&file).unwrap();
    let kept: String = after.lines().filter(|l| !l.starts_with("sha256 = ")).map(|l| format!("{l}\n")).collect();
    assert_eq!(kept, before);
    running.deployment.start().unwrap();
    running.deployment.stop().unwrap();

    let cipher = running.deployment.directory().join("cipher-aws-lc.so");
    let mut bytes = fs::read(&cipher).unwrap();
    bytes.push(1);
    fs::write(&cipher, &bytes).unwrap();
    assert!(running.deployment.start().unwrap_err().contains("the configuration demands"));
    running.deployment.admin(&["plugin", "pin", "cipher-aws-lc"]).unwrap();
    running.deployment.start().unwrap();
    fs::write(&cipher, "no library").unwrap();
    let refused = running.deployment.clavigerd(&["plugin", "pin"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("not a shared library"), "{refused:?}");
}
