//! Configurations, good and bad, and TLS.

use std::{fs, path::PathBuf, sync::Arc, time::SystemTime};

use claviger_plugin_api::{Context, InitError, StateStore, UserStore, Verdict, Written};
use claviger_servers::{Redis, TlsFiles};
use claviger_store_redis::{Configuration, RedisStore, init};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::{Value, json};

use super::{counter_use, on, patient, put};

const PASSWORD: &str = "a password of the test";

#[test]
fn the_configuration_is_checked() {
    let url = "redis://127.0.0.1:1";
    let tls = "rediss://127.0.0.1:1";
    let table: [(Value, &str); 27] = [
        (json!({}), "expected one of url, sentinel and cluster"),
        (json!({ "url": url, "cluster": [url] }), "expected one of url"),
        (json!({ "url": url, "host": "x" }), "unknown field `host`"),
        (json!({ "url": "http://x" }), "url: expected redis://"),
        (json!({ "url": "redis://claviger:secret@x" }), "url: a url holds no user"),
        (json!({ "url": "redis://x/1" }), "url: expected nothing behind"),
        (json!({ "url": "redis://:6379" }), "url: expected host:port"),
        (json!({ "url": "redis://x:port" }), "url: expected host:port"),
        (json!({ "url": "redis://x:0" }), "url: expected host:port"),
        (json!({ "url": "unix://x" }), "url: expected unix:///path"),
        (json!({ "sentinel": { "urls": [], "master": "m" } }), "sentinel.urls"),
        (json!({ "sentinel": { "urls": [url], "master": "" } }), "sentinel.master"),
        (json!({ "sentinel": { "urls": [url] } }), "missing field `master`"),
        (json!({ "sentinel": { "urls": ["unix:///x"], "master": "m" } }), "a Unix socket is for one server"),
        (json!({ "cluster": [url, tls] }), "mixed"),
        (json!({ "cluster": [url], "database": 1 }), "database: a Cluster"),
        (json!({ "url": url, "username": "x" }), "username: a user needs a password"),
        (json!({ "url": url, "ca": "/ca.pem" }), "ca, certificate: they are for TLS"),
        (json!({ "url": tls, "ca": "/nonexistent/ca.pem" }), "ca: /nonexistent/ca.pem"),
        (json!({ "url": tls, "ca": "/dev/null" }), "ca: /dev/null: no certificate"),
        (json!({ "url": tls, "certificate": "/c.pem" }), "certificate, key:"),
        (json!({ "url": tls, "certificate": "/dev/null", "key": "/dev/null" }), "certificate: /dev/null"),
        (json!({ "url": url, "prefix": "a{b}" }), "prefix:"),
        (json!({ "url": url, "shards": 0 }), "shards: 0"),
        (json!({ "url": url, "timeout_ms": 60001 }), "timeout_ms: 60001"),
        (json!({ "url": url, "connect_timeout_ms": 0 }), "connect_timeout_ms: 0"),
        (json!({ "url": url, "user_store": false, "wait_replicas": 1 }), "wait_replicas:"),
    ];
    for (table, expected) in table {
        let shown = table.to_string();
        match init(context(table)) {
            Err(InitError::Configuration(text)) => {
                assert!(text.contains(expected), "{shown}: {text}");
                assert!(!text.contains("secret") && text.lines().count() == 1, "{shown}: {text}");
            }
            other => panic!("{shown}: {:?}", other.err()),
        }
    }
}

fn context(configuration: Value) -> Context {
    Context { name: "store-redis".to_owned(), configuration, state: None, clock: Arc::new(SystemTime::now) }
}

fn refusal(configuration: Configuration) -> InitError {
    RedisStore::open(patient(configuration)).err().expect("the server or the store refuses")
}

#[test]
fn settings_that_lose_answers_are_refused() {
    let server = Redis::start("");
    let table = [("appendonly", "no", "yes"), ("maxmemory-policy", "allkeys-lru", "noeviction")];
    for (name, wrong, right) in table {
        server.cli(&["CONFIG", "SET", name, wrong]);
        let error = refusal(on(&server));
        let command = format!("CONFIG SET {name} {right}");
        assert!(matches!(&error, InitError::Configuration(text) if text.contains(&command)), "{error}");
        // The operator may know better, or keep no users there.
        for will_do in
            [Configuration { check_settings: false, ..on(&server) }, Configuration { user_store: false, ..on(&server) }]
        {
            RedisStore::open(patient(will_do)).unwrap();
        }
        server.cli(&["CONFIG", "SET", name, right]);
        RedisStore::open(patient(on(&server))).unwrap();
    }
}

#[test]
fn the_number_of_shards_stays() {
    let server = Redis::shared();
    let configuration = Configuration { shards: 16, ..on(&server) };
    let prefix = configuration.prefix.clone();
    for _ in 0..2 {
        RedisStore::open(patient(configuration.clone())).unwrap();
    }
    for shards in [8, 32] {
        let error = refusal(Configuration { shards, ..configuration.clone() });
        assert!(matches!(&error, InitError::Configuration(text) if text.contains("shards = 16")), "{error}");
    }
    server.cli(&["SET", &format!("{prefix}:{{0}}:shard"), "2 16"]);
    let error = refusal(configuration);
    assert!(matches!(&error, InitError::Failed(text) if text.contains("newer version")), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_passwords_and_rights() {
    let server = Redis::start("");
    let user = ["ACL", "SETUSER", "claviger", "on", &format!(">{PASSWORD}"), "~*", "&*", "+@all"].map(str::to_owned);
    server.cli(&user.each_ref().map(String::as_str));
    server.cli(&["ACL", "SETUSER", "default", "resetpass", ">another"]);
    let file = |name: &str, text: &str| {
        let path = server.directory().join(name);
        fs::write(&path, text).unwrap();
        Some(path)
    };
    let good = Configuration {
        username: Some("claviger".to_owned()),
        password_file: file("password", &format!("{PASSWORD}\n")),
        ..on(&server)
    };
    let store = RedisStore::open(patient(good.clone())).unwrap();
    UserStore::health(&store).await.unwrap();
    let table = [
        (Configuration { password_file: file("wrong", "wrong"), ..good.clone() }, "Password authentication failed"),
        (Configuration { username: None, password_file: None, ..good.clone() }, "NOAUTH"),
        (Configuration { password_file: file("empty", "\n"), ..good.clone() }, "it is empty"),
        (Configuration { password_file: Some(PathBuf::from("/nonexistent")), ..good.clone() }, "/nonexistent"),
        (Configuration { url: Some("redis://127.0.0.1:1".to_owned()), ..good.clone() }, "onnection refused"),
        (
            Configuration { url: Some("redis://no-such-host.invalid".to_owned()), ..good.clone() },
            "no-such-host.invalid",
        ),
        (Configuration { database: 9999, ..good.clone() }, "out of range"),
        // The server speaks no TLS.
        (Configuration { url: Some(server.url().replace("redis:", "rediss:")), ..good.clone() }, "127.0.0.1"),
    ];
    for (configuration, expected) in table {
        // A name that is not there may be looked for at length.
        let hasty = Configuration { connect_timeout_ms: 3000, ..patient(configuration) };
        let error = RedisStore::open(hasty).err().unwrap();
        let text = error.to_string();
        assert!(matches!(error, InitError::Unavailable(_)), "{expected}: {text}");
        assert!(text.contains(expected) && text.lines().count() == 1, "{expected}: {text}");
        assert!(!text.contains(PASSWORD) && !text.contains("wrong\""), "{text}");
    }
    // With the rights that are documented, and without the one for CONFIG,
    // which managed servers refuse.
    let login = ["--user", "claviger", "--pass", PASSWORD];
    let keys = format!("~{}:*", good.prefix);
    let categories = ["+@read", "+@write", "+@scripting", "+@connection", "+wait", "+role", "+config|get"];
    let rights = [&["ACL", "SETUSER", "claviger", "-@all", "resetkeys", &keys], &categories[..]].concat();
    server.cli(&[&login[..], &rights].concat());
    RedisStore::open(patient(good.clone())).unwrap();
    server.cli(&["-a", "another", "ACL", "SETUSER", "claviger", "-config|get", "-role"]);
    let error = refusal(good.clone());
    assert!(matches!(&error, InitError::Configuration(text) if text.contains("check_settings")), "{error}");
    let store = RedisStore::open(patient(Configuration { check_settings: false, ..good })).unwrap();
    UserStore::health(&store).await.unwrap();
    assert!(StateStore::get(&store, "k").await.unwrap().is_none());
    assert!(store.list(None, 10).await.unwrap().is_empty());
    assert_eq!(store.put(put("k", 0, b"1")).await.unwrap(), Written::Done(1));
    assert_eq!(store.consume(&[counter_use(1, 1, 1)]).await.unwrap(), [Verdict::Fresh]);
    store.forget_counters([1; 16]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_will_do() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("redis.sock");
    let _server = Redis::start(&format!("unixsocket {}\n", socket.display()));
    let configuration = Configuration { url: Some(format!("unix://{}", socket.display())), ..Configuration::new() };
    UserStore::health(&RedisStore::open(patient(configuration)).unwrap()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_is_verified_on_both_sides() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: String| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let authority = || {
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap()
    };
    let (own, other) = (authority(), authority());
    let key = KeyPair::generate().unwrap();
    let mut certificate = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    // With the authority's own name, OpenSSL would take it for that.
    certificate.distinguished_name.push(DnType::CommonName, "a Redis server");
    let certificate = certificate.signed_by(&key, &own).unwrap();
    let files = TlsFiles {
        ca: file("ca.pem", own.pem()),
        certificate: file("cert.pem", certificate.pem()),
        key: file("key.pem", key.serialize_pem()),
    };
    let server = Redis::start_with_tls(files.clone());
    let good =
        Configuration { ca: Some(files.ca), certificate: Some(files.certificate), key: Some(files.key), ..on(&server) };
    UserStore::health(&RedisStore::open(patient(good.clone())).unwrap()).await.unwrap();
    let table = [
        (Configuration { ca: Some(file("other.pem", other.pem())), ..good.clone() }, "certificate"),
        (Configuration { url: Some(server.url().replace("127.0.0.1", "localhost")), ..good.clone() }, "certificate"),
        // The server wants one.
        (Configuration { certificate: None, key: None, ..good.clone() }, "ertificate"),
    ];
    for (configuration, expected) in table {
        let error = refusal(configuration).to_string();
        assert!(error.contains(expected) && error.lines().count() == 1, "{expected}: {error}");
    }
}
