//! `clavigerd hsm`, on a token of SoftHSM.

use std::{
    fs::{self, File},
    io::Write,
    process::Output,
};

use claviger_servers::{SOFTHSM_TOKEN, SoftHsm};
use claviger_testkit::{Deployment, Layout, Options};
use serde_json::Value;

use crate::support::binaries;

#[test]
fn a_token_is_initialised_and_shown() {
    let (hsm, directory) = (SoftHsm::new(), tempfile::tempdir().unwrap());
    let upstream = "127.0.0.1:9".parse().unwrap();
    let options = Options::default();
    let deployment =
        Deployment::prepare_with(binaries(), directory.path(), Layout::AllInOne, upstream, options).unwrap();
    let clavigerd =
        |args: &[&str]| deployment.clavigerd(args).env("SOFTHSM2_CONF", hsm.configuration()).output().unwrap();
    let none = clavigerd(&["hsm", "status"]);
    fails(&none, "no [[plugin]] of the configuration provides custody");

    let table = format!(
        "\n[[plugin]]\nname = \"vault\"\npath = \"{}\"\n[plugin.config]\nmodule = \"{}\"\ntoken = \"{SOFTHSM_TOKEN}\"\n\
         pin_file = \"{}\"\nmode = \"objects\"\n",
        deployment.binaries().plugin("store-pkcs11").display(),
        SoftHsm::module().display(),
        hsm.pin_file().display()
    );
    let mut file = File::options().append(true).open(deployment.configuration(0)).unwrap();
    file.write_all(table.as_bytes()).unwrap();
    fails(&clavigerd(&["hsm", "init", "--plugin", "cipher-aws-lc"]), "plugin cipher-aws-lc provides no custody");
    fails(&clavigerd(&["hsm", "init", "--plugin", "safe"]), "no [[plugin]] is named safe");

    let status = || {
        let output = clavigerd(&["hsm", "status", "--json"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let before = status();
    assert_eq!((&before["plugin"], &before["initialised"]), (&"vault".into(), &false.into()), "{before}");
    for said in ["master key and canary were made", "nothing was changed"] {
        let output = clavigerd(&["hsm", "init"]);
        assert!(output.status.success() && text(&output.stdout).contains(said), "{}", text(&output.stdout));
    }
    let after = status();
    assert_eq!((&after["initialised"], &after["token"]), (&true.into(), &SOFTHSM_TOKEN.into()), "{after}");
    let shown = text(&clavigerd(&["hsm", "status"]).stdout);
    assert!(shown.lines().any(|line| line.split_whitespace().eq(["initialised", "true"])), "{shown}");

    fs::write(hsm.pin_file(), "wrong").unwrap();
    fails(&clavigerd(&["hsm", "status"]), "the token refused the PIN");
    // And the next one does not even try.
    fails(&clavigerd(&["hsm", "status"]), "no PIN is tried");
}

/// One line on standard error, and exit code 1.
fn fails(output: &Output, expected: &str) {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.lines().count() == 1 && said.contains(expected), "{said}");
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
