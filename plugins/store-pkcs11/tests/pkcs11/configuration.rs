//! Configurations, good and bad.

use std::{fs, os::unix::fs::PermissionsExt, sync::Arc, time::SystemTime};

use claviger_plugin_api::{Context, InitError, KeyCustody, Plugin, PluginError};
use claviger_servers::{SOFTHSM_TOKEN, SoftHsm};
use claviger_store_pkcs11::init;
use serde_json::{Value, json};

use super::on_a_token;

fn start(configuration: Value) -> Result<Plugin, InitError> {
    let clock = Arc::new(SystemTime::now);
    init(Context { name: "hsm".to_owned(), configuration, state: None, clock })
}

/// `base` with these members; null takes one away.
fn with(base: &Value, changes: Value) -> Value {
    let mut changed = base.clone();
    for (key, value) in changes.as_object().unwrap() {
        if value.is_null() {
            changed.as_object_mut().unwrap().remove(key);
        } else {
            changed[key] = value.clone();
        }
    }
    changed
}

#[test]
fn the_configuration_is_checked() {
    on_a_token(async |hsm| {
        let (open, two_lines) = (hsm.directory().join("open"), hsm.directory().join("two"));
        for file in [&open, &two_lines] {
            fs::write(file, "1\n2\n").unwrap();
        }
        fs::set_permissions(&open, fs::Permissions::from_mode(0o640)).unwrap();
        fs::set_permissions(&two_lines, fs::Permissions::from_mode(0o600)).unwrap();
        let base = json!({
            "module": SoftHsm::module(), "token": SOFTHSM_TOKEN, "pin_file": hsm.pin_file(), "mode": "objects",
        });
        let table = [
            (json!({ "module": null }), "missing field `module`"),
            (json!({ "mode": null }), "missing field `mode`"),
            (json!({ "mode": "wrapped" }), "unknown variant `wrapped`"),
            (json!({ "slot": 1 }), "unknown field `slot`"),
            (json!({ "module": "libsofthsm2.so" }), "module: libsofthsm2.so is not absolute"),
            (json!({ "token": "" }), "1 to 32 bytes"),
            (json!({ "prefix": "A" }), "prefix: \"A\""),
            (json!({ "max_keys": 0 }), "max_keys: 0"),
            (json!({ "threads": 65 }), "threads: 65"),
            (json!({ "queue": 0 }), "queue: 0"),
            (json!({ "deadline_ms": 9 }), "deadline_ms: 9"),
            (json!({ "lock_file": "lock" }), "lock_file: lock is not absolute"),
            (json!({ "mode": "derived", "lock_file": "/x" }), "mode = \"objects\" only"),
            (json!({ "pin_file": null }), "pin_file: the file of the PIN is needed"),
            (json!({ "pin_credential": "pin" }), "give one of them"),
            (json!({ "pin_file": null, "pin_credential": "pin" }), "LoadCredential=pin:FILE"),
            (json!({ "pin_file": null, "pin_credential": "../pin" }), "not a credential's name"),
            (json!({ "pin_file": "pin" }), "pin_file: pin is not absolute"),
            (json!({ "pin_file": open }), "chmod it to 600"),
            (json!({ "pin_file": two_lines }), "on one line"),
        ];
        for (changes, expected) in table {
            match start(with(&base, changes.clone())) {
                Err(InitError::Configuration(text)) => assert!(text.contains(expected), "{changes}: {text}"),
                other => panic!("{changes}: {:?}", other.err()),
            }
        }
        let absent = start(with(&base, json!({ "pin_file": "/nowhere/pin" }))).err().unwrap();
        assert!(matches!(&absent, InitError::Unavailable(text) if text.contains("/nowhere/pin")), "{absent}");

        let plugin = start(base.clone()).unwrap();
        assert!(plugin.custody.is_some() && plugin.user_store.is_none(), "records need a lock file");
        drop(plugin);
        let plugin = start(with(&base, json!({ "lock_file": hsm.directory().join("lock") }))).unwrap();
        assert!(plugin.custody.is_some() && plugin.user_store.is_some());
    });
}

/// The plugin starts without a module or token, and says what is missing.
#[test]
fn what_is_away_at_start_is_unavailable() {
    on_a_token(async |hsm| {
        let base = json!({
            "module": SoftHsm::module(), "token": SOFTHSM_TOKEN, "pin_file": hsm.pin_file(), "mode": "objects",
        });
        for (changes, expected) in [
            (json!({ "module": "/nowhere/libpkcs11.so" }), "/nowhere/libpkcs11.so cannot be loaded"),
            (json!({ "module": "/etc/hostname" }), "/etc/hostname cannot be loaded"),
            (json!({ "token": "another" }), "no token is labelled \"another\"; there are \"claviger test\""),
        ] {
            let plugin = start(with(&base, changes.clone())).unwrap();
            let answer = tokio::spawn(async move { plugin.custody.unwrap().derive(b"").await }).await.unwrap();
            assert!(matches!(&answer, Err(PluginError::Unavailable(text)) if text.contains(expected)), "{answer:?}");
        }
        hsm.add_token(SOFTHSM_TOKEN);
        let plugin = start(base).unwrap();
        let custody: Box<dyn KeyCustody> = plugin.custody.unwrap();
        let answer = custody.derive(b"").await;
        let expected = "2 tokens are labelled";
        assert!(matches!(&answer, Err(PluginError::Unavailable(text)) if text.contains(expected)), "{answer:?}");
    });
}
