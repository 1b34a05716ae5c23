//! Cipher plugins in a daemon: two at once, one after the other, and each alone.

use claviger_testkit::{Deployment, Layout, Options, SERVICE, Terminal, run_with_input};
use serde_json::Value;

use crate::support::{Running, start, start_with};

const AWS_LC: &str = "cipher-aws-lc";
const OPENSSL: &str = "cipher-openssl";

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// A terminal that is enrolled with this suite.
fn enrolled(running: &Running, suite: &str) -> Terminal {
    let deployment = &running.deployment;
    let id = format!("u{suite}");
    deployment.admin(&["user", "add", &id]).unwrap();
    let terminal = deployment.terminal(&id);
    let mut args = Terminal::enrol_args(deployment);
    args.extend(["--suite".to_owned(), suite.to_owned()]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let code = deployment.enrolment_code(&id).unwrap();
    run_with_input(&mut terminal.command(&args), &format!("{code}\n")).unwrap();
    terminal
}

/// A sign-on, a rotation and a sign-on with the new keys, which are then those of this epoch at both ends.
fn use_until_epoch(running: &Running, suite: &str, terminal: &Terminal, epoch: u64) {
    terminal.run(&["sign-on", &running.deployment.origin()]).unwrap();
    terminal.run(&["rotate"]).unwrap();
    terminal.run(&["sign-on", SERVICE]).unwrap();
    let own = json(&terminal.run(&["status", "--json"]).unwrap());
    let user = json(&running.deployment.admin(&["user", "show", &format!("u{suite}"), "--json"]).unwrap());
    assert_eq!((&own["epoch"], &user["epoch"]), (&epoch.into(), &epoch.into()), "{suite}");
}

/// Ends the daemons, and starts them with these cipher plugins.
fn restart_with(running: &mut Running, plugins: &[&'static str]) {
    assert!(running.deployment.stop().unwrap());
    running.deployment.use_ciphers(plugins).unwrap();
    running.deployment.start().unwrap();
}

/// The implementation that `clavigerd plugin list` gives for a suite of a plugin.
fn implementation(deployment: &Deployment, plugin: &str, suite: &str) -> Option<String> {
    let list = json(&deployment.admin(&["plugin", "list", "--json"]).unwrap());
    let list = list.as_array().or_else(|| list["plugins"].as_array()).unwrap();
    let suites = list.iter().find(|entry| entry["name"] == plugin)?["suites"].as_array()?;
    Some(suites.iter().find(|entry| entry["id"] == suite)?["implementation"].as_str()?.to_owned())
}

/// Whether the log says that `suite` of `plugin` is left to the plugin that is configured first.
fn is_left_to_another(deployment: &Deployment, plugin: &str, suite: &str) -> bool {
    let logs = deployment.logs();
    logs.lines()
        .any(|line| line.contains(&format!("suite {suite} is served by")) && line.contains(&format!("\"{plugin}\"")))
}

#[test]
fn a_realm_moves_from_one_library_to_another_and_terminals_do_not_notice() {
    let mut running = start(Layout::Split);
    let terminals = ["0x0001", "0x0003"].map(|suite| (suite, enrolled(&running, suite)));
    for (suite, terminal) in &terminals {
        use_until_epoch(&running, suite, terminal, 2);
    }
    // Both plugins at once: the first one serves what both have, the other one what is left.
    restart_with(&mut running, &[OPENSSL, AWS_LC]);
    assert!(implementation(&running.deployment, OPENSSL, "0x0001").unwrap().starts_with("OpenSSL 3."));
    assert!(implementation(&running.deployment, AWS_LC, "0x0001").unwrap().starts_with("aws-lc"));
    for suite in ["0x0001", "0x0003"] {
        assert!(is_left_to_another(&running.deployment, AWS_LC, suite), "{suite}");
    }
    assert!(running.deployment.logs().contains("cipher suites on OpenSSL"), "{}", running.deployment.logs());
    for (suite, terminal) in &terminals {
        use_until_epoch(&running, suite, terminal, 3);
    }
    let siv = enrolled(&running, "0x0002");
    use_until_epoch(&running, "0x0002", &siv, 2);
    // And back.
    restart_with(&mut running, &[AWS_LC]);
    for (suite, terminal) in &terminals {
        use_until_epoch(&running, suite, terminal, 4);
    }
    use_until_epoch(&running, "0x0002", &siv, 3);
}

#[test]
fn a_suite_that_openssl_lacks_comes_from_the_other_plugin() {
    let mut running = start(Layout::AllInOne);
    restart_with(&mut running, &[OPENSSL, AWS_LC]);
    // OpenSSL has AES-256-GCM-SIV from 3.2 on.
    let lacks = implementation(&running.deployment, OPENSSL, "0x0002").is_none();
    assert_eq!(is_left_to_another(&running.deployment, AWS_LC, "0x0002"), !lacks);
    let logs = running.deployment.logs();
    let said = logs.lines().find(|line| line.contains("cipher suites on OpenSSL")).unwrap();
    assert_eq!(said.contains("AES-256-GCM-SIV/SHA-256"), lacks, "{said}");
    for suite in ["0x0001", "0x0002"] {
        let terminal = enrolled(&running, suite);
        use_until_epoch(&running, suite, &terminal, 2);
    }
}

#[test]
fn openssl_alone_serves_a_realm() {
    let suites = ["0x0001", "0x0003", "0x0101"];
    let lines = format!("suites = {suites:?}");
    let options = Options { management: lines.clone(), service: lines, ..Options::default() };
    let mut running = start_with(Layout::Split, options);
    restart_with(&mut running, &[OPENSSL]);
    for suite in suites {
        let terminal = enrolled(&running, suite);
        use_until_epoch(&running, suite, &terminal, 2);
    }
}
