//! `cargo xtask bench` measures what it says: with few users and for a moment.

use std::{fs, process::Command};

use serde_json::{Value, json};

use crate::support::{binaries, build_directory};

#[test]
fn stores() {
    binaries();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("report.json");
    let options = json!({
        "users": [100, 300],
        "stores": ["sqlite", "redis"],
        "seconds": 0.5,
        "rounds": 1,
        "in_flight": 16,
        "connections": 2,
        "json": file,
    });
    let mut bench = Command::new(env!("CARGO_BIN_EXE_bench"));
    let output = bench.arg("stores").arg(build_directory()).arg(options.to_string()).output().unwrap();
    let (shown, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{shown}{said}");

    let report: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    let measured = report["measurements"].as_array().unwrap();
    assert_eq!(measured.len(), 4, "two stores, two numbers of users: {report}");
    for one in measured {
        let positive = |name: &str| one[name].as_f64().unwrap() > 0.0;
        assert!(["sign_ons_per_second", "p99_ms", "read_batch", "counter_batch"].into_iter().all(positive), "{one}");
    }
    for copied in report["filled"].as_array().unwrap().iter().filter(|filled| filled["migrated"] == true) {
        // The users with their credentials' numbers, the service, the realm's own records.
        assert!(copied["records"].as_u64() > copied["users"].as_u64().map(|users| 2 * users), "{copied}");
    }
    for comparison in report["comparisons"].as_array().unwrap() {
        let rated = comparison["target"].is_string() == comparison["met"].is_boolean();
        assert!(rated && comparison["ratio"].as_f64().unwrap() > 0.0, "{comparison}");
    }
    assert!(shown.contains("sign-ons/s") && shown.contains("target: at most 1.2"), "{shown}");
}
