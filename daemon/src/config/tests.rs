//! A table of wrong configurations, each with where and how it is reported.

use std::{fs, path::PathBuf, time::Duration};

use super::{types::PluginConfig, *};

#[test]
fn every_wrong_configuration_is_reported_at_its_place() {
    // (what to replace in RIGHT, by what, line:column, message, expectation or advice)
    let cases = [
        ("realm = \"r\"", "realm = r", "2:9", "not TOML: string values must be quoted, expected literal string", ""),
        ("realm = \"r\"", "realm = \"r\" 1", "2:13", "not TOML: unexpected key or value, expected newline, `#`", ""),
        ("realm = \"r\"", "realm = \"r\"\nrealm = \"s\"", "3:1", "not TOML: duplicate key", ""),
        (
            "realm = \"r\"",
            "realm = \"Upper\"",
            "2:9",
            "`realm` holds a character that is not allowed: \"Upper\"",
            "1 to 64 of a-z 0-9 . -",
        ),
        ("realm = \"r\"", "realm = 1", "2:9", "`realm` is a whole number", "expected a string"),
        ("realm = \"r\"", "rea1m = \"r\"", "2:1", "unknown key `rea1m`", "did you mean `realm`?"),
        ("realm = \"r\"", "realm = \"r\"\nbanana = 1", "3:1", "unknown key `banana`", "known here: admin, drain, log"),
        ("[\"management\", \"service\"]", "[]", "1:9", "`roles` is empty", "at least one"),
        (
            "[\"management\", \"service\"]",
            "[\"manager\"]",
            "1:10",
            "`roles[0]` is \"manager\"",
            "one of \"management\", \"service\"",
        ),
        (
            "[\"management\", \"service\"]",
            "[\"service\", \"service\"]",
            "1:9",
            "`roles` names something twice",
            "each element once",
        ),
        (
            "[\"management\", \"service\"]",
            "[\"service\"]",
            "34:1",
            "`manager` is missing in [service]",
            "[service.manager]",
        ),
        ("level = \"debug\"", "level = \"inof\"", "5:9", "`log.level` is \"inof\"", "error, warn, info"),
        ("level = \"debug\"", "levle = \"debug\"", "5:1", "unknown key `levle` in [log]", "did you mean `level`?"),
        ("level = \"debug\"", "format = \"xml\"", "5:10", "`log.format` is \"xml\"", "\"auto\", \"text\", \"json\""),
        ("[log]\nlevel = \"debug\"", "log = true", "4:7", "`log` is not a table", "`[log]`"),
        (
            "[log]\nlevel = \"debug\"",
            "[admin]\nallow_uids = [1, -1]",
            "5:18",
            "`admin.allow_uids[1]` is out of range: -1",
            "from 0 to",
        ),
        (
            "[log]\nlevel = \"debug\"",
            "[drain]\ngrace = \"20\"",
            "5:9",
            "`drain.grace` is not a duration: \"20\"",
            "from 0s to 1h",
        ),
        (
            "[log]\nlevel = \"debug\"",
            "[drain]\ngrace = \"2h\"",
            "5:9",
            "`drain.grace` is out of range: \"2h\"",
            "from 0s to 1h",
        ),
        (
            "[log]\nlevel = \"debug\"",
            "[drain]\ngrace = 20",
            "5:9",
            "`drain.grace` is a whole number",
            "such as \"20s\"",
        ),
        (
            "[log]\nlevel = \"debug\"",
            "[telemetry]\nlisten = \"localhost\"",
            "5:10",
            "`telemetry.listen` is not an address",
            "127.0.0.1:8443",
        ),
        (
            "[log]\nlevel = \"debug\"",
            "[telemetry]\nlisten = \"0.0.0.0:443\"",
            "36:10",
            "`service.listen` and `telemetry.listen` are the same address 0.0.0.0:443",
            "",
        ),
        ("path = \"c.so\"", "pat = \"c.so\"", "7:1", "`path` is missing in [[plugin]]", "shared library"),
        (
            "path = \"c.so\"",
            "path = \"c.so\"\nsha256 = \"ab\"",
            "10:10",
            "`plugin[0].sha256` is not a SHA-256",
            "64 hex digits",
        ),
        (
            "path = \"c.so\"",
            "path = \"c.so\"\nrequired = \"yes\"",
            "10:12",
            "`plugin[0].required` is a string",
            "true or false",
        ),
        (
            "path = \"c.so\"",
            "path = \"c.so\"\ndeadline = \"61s\"",
            "10:12",
            "`plugin[0].deadline` is out of range",
            "from 1ms to 1m",
        ),
        (
            "path = \"c.so\"",
            "path = \"c.so\"\nmax_in_flight = 0",
            "10:17",
            "`plugin[0].max_in_flight` is out of range",
            "from 1 to 65536",
        ),
        (
            "path = \"c.so\"",
            "path = \"c.so\"\nretries = 6",
            "10:11",
            "`plugin[0].retries` is out of range",
            "from 0 to 5",
        ),
        ("path = \"c.so\"", "path = \"c.so\"\nconfig = 3", "10:10", "`plugin[0].config` is a whole number", "a table"),
        (
            "[log]\nlevel = \"debug\"",
            "[plugins]\nrequire_signature = true",
            "5:21",
            "`plugins.require_signature` without a key",
            "trusted_keys",
        ),
        (
            "[log]\nlevel = \"debug\"",
            "[plugins]\ntrusted_keys = [\"p.pub\", \"RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO\"]",
            "5:26",
            "`plugins.trusted_keys[1]` is not a minisign public key",
            "56 characters",
        ),
        ("name = \"store\"", "name = \"cipher\"", "12:8", "two plugins are named `cipher`", ""),
        ("store = \"store\"", "store = \"stoer\"", "19:9", "there is no plugin `stoer`", "did you mean `store`?"),
        ("store = \"store\"", "", "18:1", "`store` is missing in [management]", "the name of a plugin"),
        (
            "#more",
            "suites = [\"0x0001\", \"0x0004\"]",
            "20:21",
            "`management.suites[1]` is not a known suite",
            "0x0102",
        ),
        ("#more", "kems = [3]", "20:9", "`management.kems[0]` is out of range: 3", "from 0 to 2"),
        ("#more", "kems = [0]\nenrolment_kem_floor = 1", "21:23", "no enabled key exchange reaches", "enable another"),
        ("#more", "max_session = \"90500ms\"", "20:15", "`management.max_session` is not of whole seconds", ""),
        ("#more", "clock_window = \"0s\"", "20:16", "`management.clock_window` is out of range", "from 1s to 1h"),
        (
            "\"kek.key\"",
            "\"kek.key\", \"credential:a/b\"",
            "21:35",
            "`management.key_encryption_keys[1]` is \"credential:a/b\"",
            "the name of a credential",
        ),
        ("\"kek.key\"", "\"custody:stoer\"", "21:23", "there is no plugin `stoer`", "did you mean `store`?"),
        ("[\"kek.key\"]", "[]", "21:23", "`management.key_encryption_keys` is empty", "at least one"),
        (
            "key_encryption_keys = [",
            "key_encryption_key = [",
            "21:1",
            "unknown key `key_encryption_key`",
            "did you mean",
        ),
        ("#more", "kek = 1", "20:1", "unknown key `kek` in [management]", "known here"),
        (
            "[management.limits]\n",
            "[management.limit]\n",
            "32:13",
            "unknown key `limit` in [management]",
            "did you mean `limits`?",
        ),
        ("per_service_per_second = 5", "per_service_per_second = 0", "33:26", "is out of range: 0", "from 1 to"),
        ("id = \"shop\"", "id = \"a/b\"", "35:6", "`service.id` holds a character", "1 to 128"),
        (
            "issuer = \"issuer\"",
            "issuer = \"issuer\"\nstate = \"redis\"",
            "40:9",
            "there is no plugin `redis`",
            "\"memory\" or the `name`",
        ),
        (
            "issuer = \"issuer\"",
            "issuer = \"issuer\"\nbinding = \"exporter\"",
            "40:11",
            "`service.binding` is \"exporter\"",
            "\"none\", \"challenge\", \"tls-exporter\"",
        ),
        (
            "http://127.0.0.1:3000",
            "https://127.0.0.1:3000",
            "40:12",
            "`service.upstream` is not a URL of http",
            "http://HOST[:PORT]",
        ),
        (
            "http://127.0.0.1:3000",
            "http://127.0.0.1:3000/app",
            "40:12",
            "`service.upstream` holds more than a host",
            "http://HOST[:PORT]",
        ),
        (
            "#manager",
            "[service.manager]\nurl = \"https://m\"\nca = \"ca\"\ncertificate = \"c\"\nprivate_key = \"k\"",
            "41:1",
            "[service.manager] together with the role `management`",
            "talk in memory",
        ),
        ("[management.terminals]", "[management.nothing]", "18:1", "`terminals` is missing in [management]", "a table"),
    ];
    let mut failures = Vec::new();
    for (from, to, position, message, more) in cases {
        assert!(RIGHT.contains(from), "{from}");
        let text = RIGHT.replacen(from, to, 1);
        let (_directory, file) = written(&text);
        let error = load_with(&file, []).expect_err(to);
        let found = error.problems().iter().find(|p| {
            p.position().map(|(line, column)| format!("{line}:{column}")).as_deref() == Some(position)
                && p.message().contains(message)
                && format!("{} {}", p.expectation().unwrap_or(""), p.advice().unwrap_or("")).contains(more)
        });
        let drawn = error.render(false);
        if found.is_none() || !drawn.contains(&format!("{}:{position}", file.display())) {
            failures.push(format!("{to}\n  no {position} {message} {more} in\n{drawn}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[test]
fn all_problems_are_reported_at_once_in_order() {
    let text = RIGHT.replace("level", "levle").replace("\"0.0.0.0:443\"", "443").replace("c.so", "");
    let (_directory, file) = written(&text);
    let error = load_with(&file, []).expect_err("three mistakes");
    let messages: Vec<_> = error.problems().iter().map(Problem::message).collect();
    assert_eq!(
        messages,
        ["unknown key `levle` in [log]", "`plugin[0].path` is empty", "`service.listen` is a whole number"]
    );
    assert!(error.to_string().ends_with("3 problems in the configuration"));
}

#[test]
fn an_excerpt_shows_the_line_and_what_was_expected() {
    let (_directory, file) = written(&RIGHT.replace("level", "levle"));
    let drawn = load_with(&file, []).expect_err("a slip").to_string();
    let expected = format!(
        "error: unknown key `levle` in [log]\n \
         --> {}:5:1\n  |\n5 | levle = \"debug\"\n  | ^^^^^\n  |\n  = help: did you mean `level`?",
        file.display()
    );
    assert_eq!(drawn, expected);
}

#[test]
fn what_is_right_has_its_values_and_defaults() {
    let (directory, file) = written(RIGHT);
    let config = load_with(&file, []).expect("right");
    assert_eq!(config.realm, "r");
    assert_eq!(config.log, LogConfig { level: "debug".into(), format: LogFormat::Auto });
    assert_eq!(config.admin.socket, PathBuf::from("/run/claviger/admin.sock"));
    assert_eq!(config.drain.grace, Duration::from_secs(20));
    assert_eq!(config.plugins[0].path, directory.path().join("c.so"));
    let cipher = &config.plugins[0];
    assert_eq!(cipher, &PluginConfig::new("cipher", directory.path().join("c.so")), "all defaults");
    assert_eq!((cipher.deadline, cipher.max_in_flight), (Duration::from_secs(2), 256));
    assert_eq!((cipher.retries, cipher.breaker_failures), (2, 5));
    assert_eq!(config.plugins[1].configuration, serde_json::json!({ "path": "/users.db", "n": [1, 2.5, true] }));
    let management = config.management.expect("management");
    assert_eq!((&management.suites[..], &management.kems[..]), (&[1, 2, 3][..], &[0, 1, 2][..]));
    assert_eq!(management.limits.per_service_per_second, 5);
    assert_eq!(management.max_session, Duration::from_secs(12 * 3600));
    let service = config.service.expect("service");
    assert_eq!((&service.suites[..], &service.kems[..]), (&[1, 2, 3][..], &[0, 1, 2][..]));
    assert_eq!((service.limits.per_user_per_second, service.limits.per_user_burst), (100, 200));
    assert_eq!((service.state, service.binding), (StateChoice::Memory, Binding::None));
    assert_eq!(service.upstream.authority().map(http::uri::Authority::as_str), Some("127.0.0.1:3000"));
}

#[test]
fn the_files_of_a_directory_are_merged_and_the_environment_wins() {
    let directory = tempfile::tempdir().expect("directory");
    let text = RIGHT;
    let cut = text.find("[[plugin]]\nname = \"issuer\"").expect("there");
    fs::write(directory.path().join("10.toml"), &text[..cut]).expect("written");
    fs::write(directory.path().join("20.toml"), &text[cut..]).expect("written");
    fs::write(directory.path().join("30.toml"), "[service]\nid = \"other\"\npending = \"5s\"\n").expect("written");
    fs::write(directory.path().join("notes.txt"), "not TOML").expect("written");
    let variables = [
        ("CLAVIGER__SERVICE__PENDING", "7s"),
        ("CLAVIGER__SERVICE__UPSTREAM_HTTP2", "true"),
        ("CLAVIGER__MANAGEMENT__KEMS", "1, 2"),
        ("CLAVIGER__PLUGIN__2__DEADLINE", "1s"),
        ("CLAVIGER__PLUGIN__2__BREAKER_FAILURES", "0"),
        ("CLAVIGER_ADMIN_SOCKET", "/not/ours"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config = load_with(directory.path(), variables).expect("right");
    let names: Vec<_> = config.plugins.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["cipher", "store", "issuer"]);
    assert_eq!((config.plugins[2].deadline, config.plugins[2].breaker_failures), (Duration::from_secs(1), 0));
    let service = config.service.expect("service");
    assert_eq!((service.id.as_str(), service.pending, service.upstream_http2), ("other", Duration::from_secs(7), true));
    assert_eq!(config.management.expect("management").kems, [1, 2]);
}

#[test]
fn a_wrong_variable_is_drawn_too() {
    let (_directory, file) = written(RIGHT);
    let cases = [
        ("CLAVIGER__LOG__LEVEL", "loud", "environment:1:22: `log.level` is \"loud\""),
        ("CLAVIGER__LOG__LEVLE", "info", "environment:1:1: unknown key `levle` in [log]"),
        (
            "CLAVIGER__SERVICE__LIMITS__PER_SOURCE_BURST",
            "many",
            "environment:1:45: `service.limits.per_source_burst` is \"many\"",
        ),
        ("CLAVIGER__PLUGIN__7__NAME", "x", "environment:1:1: there are 3 plugins, counted from 0"),
    ];
    for (name, value, expected) in cases {
        let error = load_with(&file, [(name.to_owned(), value.to_owned())]).expect_err(name);
        let line = error.problems()[0].to_string();
        assert!(line.starts_with(expected), "{line}");
    }
}

#[test]
fn a_role_is_chosen_by_the_environment_from_a_common_file() {
    let text = RIGHT.replace("[management.limits]", "[management.services]\nlisten = \"0.0.0.0:8444\"\ncertificate = \"c\"\nprivate_key = \"k\"\nclient_ca = \"ca\"\n[management.limits]");
    let (_directory, file) = written(&text);
    let roles = |roles: &str| [("CLAVIGER__ROLES".to_owned(), roles.to_owned())];
    let config = load_with(&file, roles("management")).expect("right");
    assert!(config.service.is_none() && config.management.is_some());
    let error = load_with(&file, roles("service")).expect_err("no manager");
    assert_eq!(error.problems()[0].message(), "`manager` is missing in [service]");
}

#[test]
fn the_management_server_may_be_several_daemons() {
    let (_directory, file) = written(RIGHT);
    let load = |urls: &str| {
        let manager = |key: &str, value: &str| (format!("CLAVIGER__SERVICE__MANAGER__{key}"), value.to_owned());
        let mut variables = vec![manager("URL", urls), ("CLAVIGER__ROLES".to_owned(), "service".to_owned())];
        variables.extend(["CA", "CERTIFICATE", "PRIVATE_KEY"].map(|key| manager(key, "file")));
        load_with(&file, variables).map(|config| config.service.expect("service").manager.expect("manager").urls)
    };
    assert_eq!(load("https://a").expect("one"), ["https://a"]);
    assert_eq!(load("https://a, https://b:8444").expect("two"), ["https://a", "https://b:8444"]);
    let error = load("https://a,https://a").expect_err("twice");
    assert!(error.problems()[0].to_string().contains("names something twice"), "{error}");

    let tables = |url: &str| {
        let manager =
            format!("[service.manager]\nurl = {url}\nca = \"ca\"\ncertificate = \"c\"\nprivate_key = \"k\"\n");
        let (_directory, file) = written(&format!("{RIGHT}\n{manager}"));
        load_with(&file, [("CLAVIGER__ROLES".to_owned(), "service".to_owned())])
    };
    let urls = tables(r#"["https://a", "https://b"]"#).expect("right").service.expect("service").manager;
    assert_eq!(urls.expect("manager").urls, ["https://a", "https://b"]);
    assert!(tables("[]").expect_err("empty").problems()[0].to_string().contains("is empty"));
}

#[test]
fn a_role_needs_its_table() {
    let (_directory, file) = written("roles = [\"service\"]\nrealm = \"r\"\n");
    let error = load_with(&file, []).expect_err("no [service]");
    assert_eq!(
        error.problems()[0].to_string(),
        format!("{}:1:9: the role `service` has no table [service]; needs [service]", file.display())
    );
}

#[test]
fn what_cannot_be_read_is_said() {
    let directory = tempfile::tempdir().expect("directory");
    let missing = load_with(&directory.path().join("none.toml"), []).expect_err("missing").to_string();
    assert!(missing.contains("cannot read") && missing.contains("--config"), "{missing}");
    let empty = load_with(directory.path(), []).expect_err("empty").to_string();
    assert!(empty.contains("there is no *.toml file in"), "{empty}");
    fs::write(directory.path().join("empty.toml"), "").expect("written");
    let error = load_with(directory.path(), []).expect_err("empty file");
    let messages: Vec<_> = error.problems().iter().map(Problem::message).collect();
    assert_eq!(messages, ["`roles` is missing", "`realm` is missing"]);
}

#[test]
fn durations_are_read_as_people_write_them() {
    let cases = [
        ("500ms", Some(Duration::from_millis(500))),
        ("20s", Some(Duration::from_secs(20))),
        ("5m", Some(Duration::from_secs(300))),
        ("24h", Some(Duration::from_secs(86_400))),
        ("7d", Some(Duration::from_secs(604_800))),
        ("1h30m", Some(Duration::from_secs(5_400))),
        ("0s", Some(Duration::ZERO)),
        ("", None),
        ("5", None),
        ("s", None),
        ("5 s", None),
        ("-5s", None),
        ("5y", None),
        ("1.5s", None),
        ("99999999999999999999s", None),
        ("18446744073709551615d", None),
    ];
    for (text, expected) in cases {
        assert_eq!(parse_duration(text), expected, "{text:?}");
    }
}

#[test]
fn every_example_loads() {
    let etc = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../etc");
    for (file, management, service) in [
        ("clavigerd.toml", true, true),
        ("clavigerd.management.toml", true, false),
        ("clavigerd.service.toml", false, true),
    ] {
        let config = load_with(&etc.join(file), []).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((config.management.is_some(), config.service.is_some()), (management, service), "{file}");
    }
}

/// In the full example each default stands as a comment: uncommenting one must change nothing.
#[test]
fn the_defaults_of_the_full_example_are_the_defaults() {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../etc/clavigerd.toml");
    let text = fs::read_to_string(file).expect("readable");
    let default = |line: &str| {
        let commented = line.strip_prefix('#').filter(|l| l.contains(" = ") && !l.starts_with(' '));
        let example = ["sha256", "url", "ca ", "certificate", "private_key"];
        commented.filter(|l| !example.iter().any(|e| l.starts_with(e))).map(str::to_owned)
    };
    let uncommented: String = text.lines().map(|l| default(l).unwrap_or_else(|| l.to_owned()) + "\n").collect();
    assert!(
        uncommented.lines().filter(|l| !l.starts_with('#')).count()
            > text.lines().filter(|l| !l.starts_with('#')).count() + 20
    );
    let (directory, file) = written(&text);
    let by_default = load_with(&file, []).unwrap_or_else(|e| panic!("{e}"));
    fs::write(directory.path().join("test.toml"), uncommented).expect("written");
    assert_eq!(load_with(&file, []).unwrap_or_else(|e| panic!("{e}")), by_default);
}

fn written(text: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("directory");
    let file = directory.path().join("test.toml");
    fs::write(&file, text).expect("written");
    (directory, file)
}

/// A right configuration; the comments are where some cases add a line.
const RIGHT: &str = r#"roles = ["management", "service"]
realm = "r"

[log]
level = "debug"

[[plugin]]
name = "cipher"
path = "c.so"

[[plugin]]
name = "store"
path = "s.so"
[plugin.config]
path = "/users.db"
n = [1, 2.5, true]

[management]
store = "store"
#more
key_encryption_keys = ["kek.key"]

[management.terminals]
listen = "0.0.0.0:8443"
certificate = "t.pem"
private_key = "t.key"

[[plugin]]
name = "issuer"
path = "i.so"

[management.limits]
per_service_per_second = 5
[service]
id = "shop"
listen = "0.0.0.0:443"
certificate = "s.pem"
private_key = "s.key"
issuer = "issuer"
upstream = "http://127.0.0.1:3000"
#manager
"#;
