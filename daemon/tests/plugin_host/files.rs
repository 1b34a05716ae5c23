//! Files that are no plugins, and files that are: one clear line each, and
//! the host lives.

use std::{collections::HashSet, fs, path::Path};

use claviger_daemon::plugin_host::{
    HostServices, PluginHost, PluginHostError, PluginState, StateSource, inspect::inspect,
};
use claviger_plugin_api::description::Component;

use crate::support::{CIPHER, MISBEHAVING, OTHER_MAJOR, config, library, load, log, misbehaving, reason};

#[tokio::test]
async fn a_plugin_loads_and_says_what_it_is() {
    let host = load(config("cipher", &library(CIPHER))).await;
    assert_eq!(host.suites(), [0x0001, 0x0002, 0x0003, 0x0101, 0x0102]);
    assert!(host.suite(1).is_some() && host.suite(4).is_none());
    assert!(host.suite_from("cipher", 3).is_some() && host.suite_from("other", 3).is_none());
    assert!(host.user_store("cipher").is_none() && host.issuer("cipher").is_none());

    let status = serde_json::to_value(host.list()).unwrap();
    assert_eq!(status[0]["name"], "cipher");
    assert_eq!(status[0]["state"], "loaded");
    assert_eq!(status[0]["api"], claviger_plugin_api::description::API_VERSION);
    assert_eq!(status[0]["provides"][0], "cipher");
    assert_eq!(status[0]["suites"][0]["id"], "0x0001");
    assert_eq!(status[0]["suites"][0]["name"], "AES-256-GCM/SHA-256");
    assert_eq!(status[0]["sha256"].as_str().unwrap().len(), 64);
}

#[tokio::test]
async fn a_truncated_library_is_refused_at_every_length() {
    let whole = fs::read(library(CIPHER)).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cut.so");
    let early = [0, 1, 4, 15, 16, 63, 64, 65, 120, 511, 512, 4095, 4096, 4097];
    let steps = (1..64).map(|i| whole.len() / 64 * i);
    let late = [1, 63, 64, 65, 100, 1000].map(|short| whole.len() - short);
    for len in early.into_iter().chain(steps).chain(late) {
        fs::write(&path, &whole[..len]).unwrap();
        let reason = reason(config("cut", &path)).await;
        assert!(reason.contains("not a shared library") || reason.contains("cut short"), "{len} bytes: {reason}");
    }
}

#[tokio::test]
async fn what_is_no_plugin_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let text = directory.path().join("text.so");
    fs::write(&text, "a text that is long enough to be mistaken for a header, and longer than sixty-four bytes")
        .unwrap();
    let program = std::env::current_exe().unwrap();
    for (path, expected) in [
        (Path::new("/nonexistent/plugin.so"), "No such file"),
        (directory.path(), "not a regular file"),
        (text.as_path(), "not a shared library"),
        (program.as_path(), "a program, not a shared library"),
        (&system_library(), "not a Claviger plugin"),
    ] {
        let reason = reason(config("x", path)).await;
        assert!(reason.contains(expected), "{}: {reason}", path.display());
    }
}

#[tokio::test]
async fn a_required_plugin_stops_the_start_and_another_does_not() {
    let mut bad = config("bad", Path::new("/nonexistent/plugin.so"));
    let good = config("good", &library(CIPHER));
    let host = PluginHost::load(&[bad.clone(), good.clone()], HostServices::default()).await.unwrap();
    assert!(host.suite(1).is_some());
    assert!(matches!(host.list()[0].state, PluginState::Failed { .. }));

    bad.required = true;
    let error = PluginHost::load(&[good.clone(), bad], HostServices::default()).await.err().unwrap();
    assert!(error.to_string().contains("bad (/nonexistent/plugin.so): the file cannot be read"), "{error}");
    let twice = PluginHost::load(&[good.clone(), good], HostServices::default()).await.err().unwrap();
    assert!(matches!(twice, PluginHostError::DuplicateName(name) if name == "good"));
}

#[tokio::test]
async fn a_state_store_that_is_none_stops_the_start() {
    for (name, expected) in [("other", "no [[plugin]] has that name"), ("cipher", "delivers no state store")] {
        let services = HostServices { state: StateSource::Plugin(name.into()), ..HostServices::default() };
        let error = PluginHost::load(&[config("cipher", &library(CIPHER))], services).await.err().unwrap();
        assert_eq!(error.to_string(), format!("plugin {name} is named as the state store, and {expected}"));
    }
}

#[tokio::test]
async fn the_pin_decides() {
    let path = library(CIPHER);
    let hash = inspect(&path).unwrap().sha256;
    let mut pinned = config("pinned", &path);
    let mut pin = [0; 32];
    data_encoding::HEXLOWER.decode_mut(hash.as_bytes(), &mut pin).unwrap();
    pinned.sha256 = Some(pin);
    load(pinned.clone()).await;

    pin[31] ^= 1;
    pinned.sha256 = Some(pin);
    let reason = reason(pinned).await;
    assert!(reason.contains(&format!("the file's sha256 is {hash}, and the configuration demands")), "{reason}");
}

#[tokio::test]
async fn inspecting_runs_nothing_and_another_major_version_is_never_opened() {
    let other = library(OTHER_MAJOR);
    let description = inspect(&other).unwrap();
    assert_eq!(description.description.api, "2.0.0");
    assert!(description.problem.unwrap().contains("built against plugin API 2.0.0"));
    let reason = reason(config("other", &other)).await;
    assert!(reason.starts_with("built against plugin API 2.0.0, and this daemon has 1."), "{reason}");
    assert!(!mark("other-major").exists(), "something of the plugin ran");
    assert!(inspect(&system_library()).is_err());

    // Proof that the mark works: that of a plugin which is loaded appears.
    let description = inspect(&library(MISBEHAVING)).unwrap();
    let all = [Component::Cipher, Component::UserStore, Component::StateStore, Component::Issuer];
    assert_eq!(description.description.provides, all);
    assert_eq!(description.problem, None);
    load(misbehaving("marked", "", "panic")).await;
    assert!(mark("misbehaving").exists(), "the mark does not work");
    fs::remove_file(mark("misbehaving")).unwrap();
}

#[tokio::test]
async fn copies_of_one_library_are_separate_plugins() {
    log();
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("copy.so");
    fs::copy(library(MISBEHAVING), &copy).unwrap();
    let one = misbehaving("copy-one", "user_store.health", "fail");
    let mut two = misbehaving("copy-two", "user_store.put", "panic");
    two.path = copy;
    // The same file twice is two plugins as well.
    let three = misbehaving("copy-three", "", "panic");
    let host = PluginHost::load(&[one, two, three], HostServices::default()).await.unwrap();
    assert!(host.list().iter().all(|plugin| plugin.state == PluginState::Loaded), "{:?}", host.list());

    let mut failing = Vec::new();
    for name in ["copy-one", "copy-two", "copy-three"] {
        if host.user_store(name).unwrap().health().await.is_err() {
            failing.push(name);
        }
    }
    assert_eq!(failing, ["copy-one"]);

    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    for name in ["copy-one", "copy-two", "copy-three"] {
        assert!(maps.contains(&format!("/memfd:{name} ")), "{name} is not mapped");
    }
    let suites: HashSet<_> = host.suites().into_iter().collect();
    assert_eq!(suites, HashSet::from([0xff01]));
    assert!(["copy-one", "copy-two", "copy-three"].iter().all(|name| host.suite_from(name, 0xff01).is_some()));
    assert!(log().contains("suite 0xff01 is served by plugin copy-one, which is configured first"));
}

fn mark(plugin: &str) -> std::path::PathBuf {
    std::env::temp_dir().join(format!("claviger-{plugin}-ran-{}", std::process::id()))
}

/// A library of the system that this process itself uses.
fn system_library() -> std::path::PathBuf {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let path = maps.lines().filter_map(|line| line.split_whitespace().nth(5)).find(|path| path.contains("libm.so"));
    path.or_else(|| maps.lines().filter_map(|line| line.split_whitespace().nth(5)).find(|p| p.contains("libgcc_s")))
        .map_or_else(|| panic!("no system library is mapped"), Into::into)
}
