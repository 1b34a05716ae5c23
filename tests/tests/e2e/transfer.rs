//! A realm goes from one store into another, and into a backup and back, and
//! its users notice nothing but what they should.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use claviger_daemon::{
    management::record::{Stored, UserRecord, user_key},
    plugin_host::{HostServices, PluginConfig, PluginHost},
};
use claviger_plugin_api::{CounterUse, Put, UserStore};
use claviger_servers::{POSTGRES_PASSWORD, Postgres};
use claviger_testkit::{Deployment, KEKS, Layout, SERVICE};
use serde_json::{Value, json};

use crate::{
    independent_terminal::PythonTerminal,
    support::{Running, start},
};

fn command(deployment: &Deployment, args: &[&str]) -> Value {
    let answer = deployment.admin(&[args, &["--json"]].concat()).unwrap();
    serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer}"))
}

/// The word with which a command is refused, and what it says.
fn refused(deployment: &Deployment, args: &[&str]) -> (String, String) {
    let output = deployment.clavigerd(&[args, &["--json"]].concat()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{args:?}: {output:?}");
    let said: Value = serde_json::from_slice(&output.stderr).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (said["error"].as_str().unwrap().to_owned(), said["detail"].as_str().unwrap().to_owned())
}

fn migrate<'a>(from: &'a str, to: &'a str, options: &[&'a str]) -> Vec<&'a str> {
    [&["store", "migrate", "--from", from, "--to", to], options].concat()
}

/// Adds a plugin with a store to the configuration.
fn add_store(deployment: &Deployment, name: &str, library: &str, config: &str) {
    let file = deployment.configuration(0);
    let path = deployment.binaries().plugin(library);
    let text = fs::read_to_string(&file).unwrap();
    let plugin = format!("\n[[plugin]]\nname = \"{name}\"\npath = \"{}\"\nconfig = {{ {config} }}\n", path.display());
    fs::write(&file, text + &plugin).unwrap();
}

fn add_postgres(deployment: &Deployment, server: &Postgres) -> String {
    let database = server.database();
    let url = server.url(&database, POSTGRES_PASSWORD);
    // Patient: the machine may be busy.
    let config =
        format!("url = \"{url}\", tls = \"disable\", connect_timeout_ms = 20000, statement_timeout_ms = 20000");
    add_store(deployment, "store-postgres", "store-postgres", &config);
    database
}

/// Has the daemon use another store from its next start on.
fn use_store(deployment: &Deployment, former: &str, next: &str) {
    let file = deployment.configuration(0);
    let text = fs::read_to_string(&file).unwrap();
    let changed = text.replace(&format!("store = \"{former}\""), &format!("store = \"{next}\""));
    assert_ne!(text, changed);
    fs::write(&file, changed).unwrap();
}

/// The protocol's status of an envelope that is sent again.
fn replay(terminal: &PythonTerminal, envelope: &Path) -> u64 {
    let answer = terminal.sign_on(&["--send-envelope", envelope.to_str().unwrap()]).unwrap();
    answer["status"].as_u64().unwrap_or_else(|| panic!("{answer}"))
}

const REPLAY: u64 = 6;
const SKEW: u64 = 5;

#[test]
fn a_realm_moves_to_another_store_and_back_and_nobody_notices() {
    let mut running = start(Layout::AllInOne);
    let server = Postgres::shared();
    add_postgres(&running.deployment, &server);
    let second = running.deployment.directory().join("second.db");
    add_store(&running.deployment, "sqlite-2", "store-sqlite", &format!("path = \"{}\"", second.display()));
    let envelope = running.deployment.directory().join("envelope");
    let alice = PythonTerminal::enrol(&running.deployment, "alice", "0x0001", "1");
    alice.sign_on(&["--save-envelope", envelope.to_str().unwrap()]).unwrap();
    let bob = running.deployment.enrolled("bob").unwrap();
    bob.run(&["sign-on", SERVICE]).unwrap();

    let there = migrate("store-sqlite", "store-postgres", &[]);
    assert_eq!(refused(&running.deployment, &there).0, "running");
    running.deployment.stop().unwrap();
    let planned = command(&running.deployment, &[&there[..], &["--dry-run"]].concat());
    let copied = command(&running.deployment, &there);
    for name in ["records", "counters", "records_written", "counters_written"] {
        assert_eq!(planned[name], copied[name], "{name}: {planned} {copied}");
        assert!(copied[name].as_u64().unwrap() > 1, "{copied}");
    }
    assert_eq!((&copied["verified"], &planned["verified"]), (&json!(true), &json!(false)));
    // Again: there is nothing to do.
    let again = command(&running.deployment, &there);
    assert_eq!((&again["records_written"], &again["counters_written"]), (&json!(0), &json!(0)));
    assert_eq!((&again["records"], &again["verified"]), (&copied["records"], &json!(true)));

    use_store(&running.deployment, "store-sqlite", "store-postgres");
    running.deployment.start().unwrap();
    assert_eq!(replay(&alice, &envelope), REPLAY);
    alice.sign_on(&[]).unwrap();
    bob.run(&["sign-on", SERVICE]).unwrap();
    bob.run(&["rotate"]).unwrap();
    bob.run(&["sign-on", SERVICE]).unwrap();
    running.deployment.stop().unwrap();

    // The former store is out of date: it is not copied over the one in use by mistake.
    let (word, detail) = refused(&running.deployment, &there);
    assert_eq!(word, "not-empty");
    assert!(detail.contains("user/bob") && detail.contains("--overwrite"), "{detail}");

    let back = migrate("store-postgres", "sqlite-2", &[]);
    assert_eq!(command(&running.deployment, &back)["verified"], true);
    use_store(&running.deployment, "store-postgres", "sqlite-2");
    running.deployment.start().unwrap();
    assert_eq!(replay(&alice, &envelope), REPLAY);
    alice.sign_on(&[]).unwrap();
    bob.run(&["sign-on", SERVICE]).unwrap();
    assert_eq!(command(&running.deployment, &["user", "show", "bob"])["epoch"], 2);
}

#[test]
fn a_first_pass_while_the_daemon_serves_is_brought_up_to_date() {
    let mut running = start(Layout::AllInOne);
    let server = Postgres::shared();
    add_postgres(&running.deployment, &server);
    let alice = PythonTerminal::enrol(&running.deployment, "alice", "0x0001", "1");
    running.deployment.admin(&["user", "add", "carol"]).unwrap();
    let first = command(&running.deployment, &migrate("store-sqlite", "store-postgres", &["--online"]));
    assert_eq!(first["verified"], false);
    // The realm goes on: a user comes, one goes, one changes, one signs on.
    let envelope = running.deployment.directory().join("envelope");
    alice.sign_on(&["--save-envelope", envelope.to_str().unwrap()]).unwrap();
    let bob = running.deployment.enrolled("bob").unwrap();
    running.deployment.admin(&["user", "delete", "carol", "--yes"]).unwrap();
    running.deployment.admin(&["user", "suspend", "bob"]).unwrap();
    running.deployment.stop().unwrap();

    let last = migrate("store-sqlite", "store-postgres", &[]);
    let (word, detail) = refused(&running.deployment, &last);
    assert_eq!(word, "not-empty", "{detail}");
    let brought = command(&running.deployment, &[&last[..], &["--overwrite"]].concat());
    assert_eq!((&brought["verified"], &brought["records_deleted"]), (&json!(true), &json!(1)), "{brought}");
    use_store(&running.deployment, "store-sqlite", "store-postgres");
    running.deployment.start().unwrap();
    assert_eq!(replay(&alice, &envelope), REPLAY);
    alice.sign_on(&[]).unwrap();
    bob.run(&["sign-on", SERVICE]).unwrap_err();
    running.deployment.admin(&["user", "resume", "bob"]).unwrap();
    bob.run(&["sign-on", SERVICE]).unwrap();
    running.deployment.admin(&["user", "show", "carol"]).unwrap_err();
}

#[test]
fn a_store_of_another_realm_is_not_touched() {
    let mut running = start(Layout::AllInOne);
    let server = Postgres::shared();
    let database = add_postgres(&running.deployment, &server);
    running.deployment.stop().unwrap();
    // A daemon that starts on an empty store makes a realm of its own there.
    use_store(&running.deployment, "store-sqlite", "store-postgres");
    running.deployment.start().unwrap();
    running.deployment.stop().unwrap();
    let contents = || {
        server
            .sql(&database, "SELECT convert_from(key, 'UTF8'), version, md5(value) FROM claviger_records ORDER BY key")
    };
    let before = contents();
    assert!(before.contains("realm/secret"), "{before}");
    for options in [&[][..], &["--overwrite"]] {
        let (word, _) = refused(&running.deployment, &migrate("store-sqlite", "store-postgres", options));
        assert_eq!(word, "other-realm");
    }
    assert_eq!(contents(), before);
    // And an empty one is no origin.
    let empty = running.deployment.directory().join("empty.db");
    add_store(&running.deployment, "empty", "store-sqlite", &format!("path = \"{}\"", empty.display()));
    assert_eq!(refused(&running.deployment, &migrate("empty", "store-postgres", &[])).0, "empty");
    assert_eq!(refused(&running.deployment, &migrate("nothing", "store-postgres", &[])).0, "not-found");
    assert_eq!(refused(&running.deployment, &migrate("issuer-opaque", "empty", &[])).0, "plugin");
}

/// Runs calls on the store of a deployment that does not run, through its plugin.
fn on_store<T>(deployment: &Deployment, calls: impl AsyncFnOnce(Arc<dyn UserStore>) -> T) -> T {
    let config = PluginConfig {
        deadline: Duration::from_secs(60),
        configuration: json!({ "path": deployment.directory().join("users.db"), "synchronous": "normal" }),
        ..PluginConfig::new("store-sqlite", deployment.binaries().plugin("store-sqlite"))
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let host = PluginHost::load(&[config], HostServices::default()).await.unwrap();
        calls(host.user_store("store-sqlite").unwrap()).await
    })
}

/// Adds users who never enrolled, and counters of credentials that nobody has.
fn fill(deployment: &Deployment, users: usize, counters: u64) {
    on_store(deployment, async |store: Arc<dyn UserStore>| {
        let numbers: Vec<usize> = (0..users).collect();
        for some in numbers.chunks(2000) {
            let mut puts = tokio::task::JoinSet::new();
            for number in some {
                let id = format!("crowd{number:06}");
                let user = UserRecord {
                    id: id.clone(),
                    suspended: None,
                    name: Some(format!("Somebody Number {number}")),
                    email: Some(format!("{id}@example.org")),
                    groups: vec!["staff".into()],
                    created_ms: 1,
                    credential: None,
                    enrolment: None,
                };
                let put = Put { key: user_key(&id), expected: 0, value: user.to_bytes(), terms: user.terms() };
                let store = store.clone();
                puts.spawn(async move { store.put(put).await.unwrap() });
            }
            puts.join_all().await;
        }
        for first in (0..counters).step_by(1000) {
            let uses: Vec<CounterUse> = (first..first + 1000)
                .map(|number| CounterUse {
                    credential: [(number / 5000) as u8; 16],
                    epoch: 1,
                    counter: number,
                    nonce: [number as u8; 32],
                    time_ms: 0,
                })
                .collect();
            store.consume(&uses).await.unwrap();
        }
    });
}

#[test]
fn an_interrupted_migration_goes_on_where_it_was() {
    let mut running = start(Layout::AllInOne);
    let server = Postgres::shared();
    let database = add_postgres(&running.deployment, &server);
    let envelope = running.deployment.directory().join("envelope");
    let alice = PythonTerminal::enrol(&running.deployment, "alice", "0x0001", "1");
    alice.sign_on(&["--save-envelope", envelope.to_str().unwrap()]).unwrap();
    running.deployment.stop().unwrap();
    const USERS: usize = 5000;
    const COUNTERS: u64 = 30_000;
    fill(&running.deployment, USERS, COUNTERS);

    let args = migrate("store-sqlite", "store-postgres", &[]);
    let rows = |table: &str| -> u64 {
        let exists = server.sql(&database, &format!("SELECT to_regclass('claviger_{table}') IS NOT NULL"));
        if exists == "f" {
            return 0;
        }
        server.sql(&database, &format!("SELECT count(*) FROM claviger_{table}")).parse().unwrap()
    };
    // Among the records, and then among the counters.
    for (table, all) in [("records", USERS as u64), ("counters", COUNTERS)] {
        let before = rows(table);
        let mut child = running.deployment.clavigerd(&args);
        let mut child = child.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let patience = Instant::now() + Duration::from_secs(120);
        while rows(table) <= before + 500 {
            assert!(child.try_wait().unwrap().is_none(), "it ended before it could be interrupted");
            assert!(Instant::now() < patience, "nothing is copied");
        }
        child.kill().unwrap(); // -9
        child.wait().unwrap();
        let after = rows(table);
        assert!(before < after && after < all, "{table}: {before} {after}");
    }
    let records = rows("records");
    let rest = command(&running.deployment, &args);
    assert_eq!(rest["verified"], true);
    assert!(rest["counters"].as_u64().unwrap() > COUNTERS, "{rest}");
    assert!(rest["counters_written"].as_u64() < rest["counters"].as_u64(), "{rest}");
    assert_eq!(rest["records"].as_u64().unwrap(), records + rest["records_written"].as_u64().unwrap());

    use_store(&running.deployment, "store-sqlite", "store-postgres");
    running.deployment.start().unwrap();
    assert_eq!(replay(&alice, &envelope), REPLAY);
    alice.sign_on(&[]).unwrap();
    assert_eq!(command(&running.deployment, &["user", "show", "crowd004999"])["email"], "crowd004999@example.org");
}

/// The files of the deployment's own store.
fn database_files(deployment: &Deployment) -> Vec<PathBuf> {
    let entries = fs::read_dir(deployment.directory()).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("users.db")).collect()
}

fn destroy(deployment: &Deployment) {
    let files = database_files(deployment);
    assert!(!files.is_empty());
    files.iter().for_each(|file| fs::remove_file(file).unwrap());
}

/// A running deployment with alice and bob, and its backup.
fn backed_up(name: &str) -> (Running, PythonTerminal, claviger_testkit::Terminal, PathBuf) {
    let running = start(Layout::AllInOne);
    let alice = PythonTerminal::enrol(&running.deployment, "alice", "0x0001", "1");
    let envelope = running.deployment.directory().join("before");
    alice.sign_on(&["--save-envelope", envelope.to_str().unwrap()]).unwrap();
    let bob = running.deployment.enrolled("bob").unwrap();
    bob.run(&["sign-on", SERVICE]).unwrap();
    let file = running.deployment.directory().join(name);
    // The daemon goes on serving.
    let made = command(&running.deployment, &["backup", file.to_str().unwrap()]);
    assert_eq!((&made["state"], &made["realm"]), (&json!("written"), &json!("example")));
    (running, alice, bob, file)
}

#[test]
fn a_realm_comes_back_from_its_backup_and_its_keys_are_replaced() {
    let (mut running, alice, bob, file) = backed_up("realm.backup");
    let backup = file.to_str().unwrap();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let bytes = fs::read(&file).unwrap();
    for clear in ["alice", "staff", "user/"] {
        assert!(!bytes.windows(clear.len()).any(|window| window == clear.as_bytes()), "{clear}");
    }
    assert_eq!(refused(&running.deployment, &["backup", backup]).0, "exists");
    let whole = command(&running.deployment, &["backup", "--verify", backup]);
    assert!(whole["records"].as_u64().unwrap() >= 6 && whole["counters"].as_u64().unwrap() >= 2, "{whole}");
    assert_eq!(whole["bytes"].as_u64().unwrap(), bytes.len() as u64);
    assert_eq!(refused(&running.deployment, &["restore", backup]).0, "running");

    // What the backup does not know.
    let [before, since] = ["before", "since"].map(|name| running.deployment.directory().join(name));
    alice.sign_on(&["--save-envelope", since.to_str().unwrap()]).unwrap();
    running.deployment.stop().unwrap();
    // A store with something else in it is no place for it: this one has gone on.
    destroy(&running.deployment);
    let planned = command(&running.deployment, &["restore", backup, "--dry-run"]);
    assert_eq!((&planned["records_written"], &planned["dry_run"]), (&whole["records"], &json!(true)));
    let restored = command(&running.deployment, &["restore", backup]);
    assert_eq!((&restored["records_written"], &restored["verified"]), (&whole["records"], &json!(true)));
    assert_eq!(restored["counters_written"], whole["counters"]);
    // As after an interruption: again, and there is nothing left to do.
    let again = command(&running.deployment, &["restore", backup]);
    assert_eq!((&again["records_written"], &again["verified"]), (&json!(0), &json!(true)));

    running.deployment.start().unwrap();
    for user in ["alice", "bob"] {
        assert_eq!(command(&running.deployment, &["user", "show", user])["rotation_required"], true, "{user}");
    }
    assert_eq!(replay(&alice, &before), REPLAY, "the backup knows the counter");
    assert_eq!(replay(&alice, &since), SKEW, "made before the daemon's start");
    alice.sign_on(&[]).unwrap();
    // The terminal rotates by itself, and uses the new keys.
    bob.run(&["sign-on", SERVICE]).unwrap();
    bob.run(&["sign-on", SERVICE]).unwrap();
    let bob = command(&running.deployment, &["user", "show", "bob"]);
    assert_eq!((&bob["rotation_required"], &bob["epoch"]), (&json!(false), &json!(2)));
    // Used since: not a place for a backup any more.
    running.deployment.stop().unwrap();
    let (word, detail) = refused(&running.deployment, &["restore", backup]);
    assert_eq!(word, "not-empty");
    assert!(detail.contains("user/bob"), "{detail}");
}

#[test]
fn keys_are_kept_where_the_operator_says_so() {
    let (mut running, alice, bob, file) = backed_up("realm.backup");
    running.deployment.stop().unwrap();
    let second = running.deployment.directory().join("second.db");
    add_store(&running.deployment, "sqlite-2", "store-sqlite", &format!("path = \"{}\"", second.display()));
    let args = ["restore", file.to_str().unwrap(), "--keep-keys", "--store", "sqlite-2"];
    assert_eq!(command(&running.deployment, &args)["verified"], true);
    use_store(&running.deployment, "store-sqlite", "sqlite-2");
    running.deployment.start().unwrap();
    alice.sign_on(&[]).unwrap();
    bob.run(&["sign-on", SERVICE]).unwrap();
    let bob = command(&running.deployment, &["user", "show", "bob"]);
    assert_eq!((&bob["rotation_required"], &bob["epoch"]), (&json!(false), &json!(1)));
}

#[test]
fn a_damaged_file_and_a_wrong_key_restore_nothing() {
    let (mut running, _, bob, file) = backed_up("realm.backup");
    running.deployment.stop().unwrap();
    destroy(&running.deployment);
    let bytes = fs::read(&file).unwrap();
    let bad = running.deployment.directory().join("bad.backup");
    let name = bad.to_str().unwrap();
    let end = bytes.len();
    let mut flipped = bytes.clone();
    flipped[end - 1] ^= 1;
    for (what, contents) in [("its last byte changed", &flipped[..]), ("cut", &bytes[..end - 1]), ("empty", b"")] {
        fs::write(&bad, contents).unwrap();
        for args in [&["restore", name][..], &["restore", name, "--dry-run"], &["backup", "--verify", name]] {
            assert_eq!(refused(&running.deployment, args).0, "damaged", "{what}");
        }
        assert_eq!(database_files(&running.deployment), [""; 0].map(PathBuf::from), "{what}: something was written");
    }
    // Other key-encryption keys.
    let directory = running.deployment.directory().to_owned();
    let former = |kek: &str| directory.join(format!("former-{kek}"));
    for kek in KEKS {
        fs::rename(directory.join(kek), former(kek)).unwrap();
        running.deployment.admin(&["keys", "init", directory.join(kek).to_str().unwrap()]).unwrap();
    }
    let good = file.to_str().unwrap();
    assert_eq!(refused(&running.deployment, &["restore", good]).0, "wrong-key");
    assert_eq!(refused(&running.deployment, &["backup", "--verify", good]).0, "wrong-key");
    assert!(database_files(&running.deployment).is_empty());
    // With one of its own it does.
    fs::rename(former(KEKS[1]), directory.join(KEKS[1])).unwrap();
    running.deployment.admin(&["restore", good]).unwrap();
    fs::rename(former(KEKS[0]), directory.join(KEKS[0])).unwrap();
    running.deployment.start().unwrap();
    bob.run(&["sign-on", SERVICE]).unwrap();
}
