//! The conformance suite, straight on the trait. `clavigerd plugin test` makes
//! the same checks on the built library.

use std::{sync::Arc, time::SystemTime};

use claviger_plugin_api::testkit;

use super::*;

#[test]
fn it_keeps_the_contract() {
    testkit::cipher(&Suite);
}

#[test]
fn unknown_settings_are_refused() {
    let start = |settings: &str| {
        let configuration = settings.parse().expect("JSON");
        init(Context { name: "test".to_owned(), configuration, state: None, clock: Arc::new(SystemTime::now) })
    };
    assert!(matches!(start(r#"{"speed": "high"}"#), Err(InitError::Configuration(_))));
    assert_eq!(start("{}").expect("it starts").suites.len(), 1);
}
