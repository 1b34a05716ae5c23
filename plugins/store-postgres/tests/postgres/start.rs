//! Configurations, good and bad, and TLS.

use std::{fs, process::Command, sync::Arc, time::SystemTime};

use claviger_plugin_api::{Context, InitError, UserStore};
use claviger_store_postgres::{Configuration, PostgresStore, Tls, init};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::{Value, json};

use super::{
    Server, patient,
    server::{PASSWORD, give},
};

#[test]
fn the_configuration_is_checked() {
    let url = "postgres://claviger@127.0.0.1:1/x";
    let table: [(Value, &str); 16] = [
        (json!({}), "missing field `url`"),
        (json!({ "url": url, "host": "x" }), "unknown field `host`"),
        (json!({ "url": "mysql://x" }), "url: expected postgres://"),
        (json!({ "url": "postgres://claviger:secret@[::1" }), "url:"),
        (json!({ "url": "postgres:///x" }), "url: no host"),
        (json!({ "url": "postgres://127.0.0.1/x" }), "url: no user"),
        (json!({ "url": format!("{url}?sslmode=disable") }), "sslmode is not for the url"),
        (json!({ "url": "postgres://a:secret@b/c", "password_file": "/p" }), "password_file"),
        (json!({ "url": url, "tls": "prefer" }), "unknown variant `prefer`"),
        (json!({ "url": url, "tls": "disable", "ca": "/ca.pem" }), "ca: only"),
        (json!({ "url": url, "ca": "/nonexistent/ca.pem" }), "ca: /nonexistent/ca.pem"),
        (json!({ "url": "postgres://claviger@%2Frun%2Fpostgresql/x" }), "a Unix socket carries no TLS"),
        (json!({ "url": url, "pool": 0 }), "pool: 0"),
        (json!({ "url": url, "connect_timeout_ms": 0 }), "connect_timeout_ms: 0"),
        (json!({ "url": url, "statement_timeout_ms": 60001 }), "statement_timeout_ms: 60001"),
        (json!({ "url": url, "schema": "a b\"" }), "schema:"),
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
    let shown = format!("{:?}", Configuration::new("postgres://a:secret@b/c"));
    assert!(!shown.contains("secret"), "{shown}");
}

fn context(configuration: Value) -> Context {
    Context { name: "store-postgres".to_owned(), configuration, state: None, clock: Arc::new(SystemTime::now) }
}

fn refusal(configuration: Configuration) -> InitError {
    PostgresStore::open(patient(configuration)).err().expect("the server or the store refuses")
}

#[test]
fn what_the_server_refuses_is_said_in_one_line() {
    let server = Server::shared();
    let good = server.database();
    let database = good.url.rsplit('/').next().unwrap();
    let with = |url: String| Configuration { url, ..good.clone() };
    let table = [
        (with(server.url(database, "wrong")), "password authentication failed"),
        (with(server.url("absent", PASSWORD)), "database \"absent\" does not exist"),
        (with("postgres://claviger:x@127.0.0.1:1/x".to_owned()), "onnection refused"),
        (Configuration { schema: "absent".to_owned(), ..good.clone() }, "there is no absent"),
        // The server has no certificate.
        (Configuration { tls: Tls::Require, ..good.clone() }, "TLS"),
    ];
    for (configuration, expected) in table {
        let error = refusal(configuration).to_string();
        assert!(error.contains(expected) && error.lines().count() == 1, "{expected}: {error}");
        assert!(!error.contains(PASSWORD) && !error.contains("wrong"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_password_comes_from_a_file_and_a_socket_will_do() {
    let server = Server::shared();
    let configuration = server.database();
    let database = configuration.url.rsplit('/').next().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    fs::write(&file, format!("{PASSWORD}\n")).unwrap();
    let socket = server.directory().to_str().unwrap().replace('/', "%2F");
    let port = server.port();
    for host in [format!("127.0.0.1:{port}"), format!("{socket}:{port}")] {
        let url = format!("postgres://claviger@{host}/{database}");
        let configuration = Configuration { url, password_file: Some(file.clone()), ..configuration.clone() };
        PostgresStore::open(patient(configuration)).unwrap().health().await.unwrap();
    }
}

#[test]
fn tables_of_a_newer_version_are_left_alone() {
    let server = Server::shared();
    let configuration = server.database();
    let database = configuration.url.rsplit('/').next().unwrap();
    drop(super::open(configuration.clone()));
    server.sql(database, "INSERT INTO __diesel_schema_migrations (version) VALUES ('9999')");
    let error = refusal(configuration.clone());
    assert!(matches!(&error, InitError::Failed(text) if text.contains("newer version")), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_is_verified() {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
    let server = Server::start("");
    let file = |name: &str, text: String| {
        let path = server.directory().join(name);
        fs::write(&path, text).unwrap();
        give(&path);
        path
    };
    let ca = file("ca.pem", authority.pem());
    let other = CertifiedIssuer::self_signed(CertificateParams::default(), KeyPair::generate().unwrap()).unwrap();
    let other = file("other.pem", other.pem());
    let (certificate, key) = (file("cert.pem", certificate.pem()), file("key.pem", key.serialize_pem()));
    for (name, value) in [("ssl_cert_file", &certificate), ("ssl_key_file", &key)] {
        server.sql("postgres", &format!("ALTER SYSTEM SET {name} = '{}'", value.display()));
    }
    server.sql("postgres", "ALTER SYSTEM SET ssl = on");
    let mut reload = Command::new("kill");
    assert!(reload.args(["-HUP", &server.process_id().to_string()]).status().unwrap().success());
    std::thread::sleep(std::time::Duration::from_millis(500));

    let plain = server.database();
    let verified = Configuration { tls: Tls::Verify, ca: Some(ca), ..plain.clone() };
    for good in [verified.clone(), Configuration { tls: Tls::Require, ca: None, ..verified.clone() }] {
        let store = PostgresStore::open(patient(good)).unwrap();
        store.health().await.unwrap();
        let encrypted = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                         WHERE application_name = 'claviger'";
        assert_eq!(server.sql("postgres", encrypted), "t");
    }
    let error = refusal(Configuration { ca: Some(other), ..verified.clone() }).to_string();
    assert!(error.contains("certificate"), "{error}");
    let url = verified.url.replace("127.0.0.1", "localhost");
    let error = refusal(Configuration { url, ..verified }).to_string();
    assert!(error.contains("certificate"), "the name is another: {error}");
}
