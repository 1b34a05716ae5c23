//! The invariants of ARCHITECTURE.md, read off the source.

use std::{
    fs,
    path::{Path, PathBuf},
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    assert!(!found.is_empty(), "{folder}");
    found
}

fn nowhere(folder: &str, words: &[&str], except: &[&str]) {
    for (path, text) in sources(folder) {
        if except.iter().any(|except| path.starts_with(root().join(except))) {
            continue;
        }
        for word in words {
            let line = text.lines().position(|line| line.contains(word) && !line.trim_start().starts_with("//"));
            assert_eq!(line, None, "{}: {word}", path.display());
        }
    }
}

fn manifest(folder: &str) -> String {
    fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap()
}

#[test]
fn the_daemon_names_no_plugin() {
    let names = [
        "cipher_aws_lc",
        "cipher_openssl",
        "store_sqlite",
        "issuer_opaque",
        "cipher-aws-lc",
        "cipher-openssl",
        "store-sqlite",
        "issuer-opaque",
    ];
    for name in names {
        assert!(!manifest("daemon").contains(name), "{name}");
    }
    nowhere("daemon/src/management", &names, &[]);
    nowhere("daemon/src/service", &names, &[]);
}

#[test]
fn the_roles_do_not_know_each_other() {
    nowhere("daemon/src/management", &["crate::service", "super::service::"], &[]);
    nowhere("daemon/src/service", &["crate::management"], &[]);
}

#[test]
fn protocol_and_terminal_know_nothing_of_plugins_and_input_or_output() {
    for folder in ["protocol", "terminal-sdk"] {
        for name in ["claviger-plugin-api", "abi_stable", "async-ffi", "libloading", "claviger-daemon"] {
            assert!(!manifest(folder).contains(name), "{folder}: {name}");
        }
    }
    nowhere("protocol/src", &["tokio", "std::net", "std::fs", "SystemTime::now", "Instant::now", "rand::"], &[]);
}

#[test]
fn only_the_abi_modules_name_abi_stable() {
    nowhere("plugin-api/src", &["abi_stable"], &["plugin-api/src/abi"]);
    nowhere("daemon/src", &["abi_stable"], &["daemon/src/plugin_host/abi.rs"]);
    for folder in ["plugins", "terminal-sdk/src", "protocol/src"] {
        nowhere(folder, &["abi_stable"], &[]);
    }
}

#[test]
fn unsafe_code_is_only_at_the_abi_and_where_openssl_is_called() {
    let keyword = ["unsafe", " "].concat();
    nowhere("plugin-api/src", &[&keyword], &["plugin-api/src/abi"]);
    nowhere("daemon/src", &[&keyword], &["daemon/src/plugin_host/abi.rs"]);
    // A test sets the environment of its own process before anything else runs in it.
    nowhere("plugins", &[&keyword], &["plugins/cipher-openssl/src/sys.rs", "plugins/store-pkcs11/tests"]);
    for folder in ["terminal-sdk/src", "protocol/src"] {
        nowhere(folder, &[&keyword], &[]);
    }
}
