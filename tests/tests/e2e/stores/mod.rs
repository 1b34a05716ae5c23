//! The daemon on every store: what it does must not depend on where it keeps it.

mod database;
mod life;
mod load;
mod memory;
mod outage;
mod several;

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, sync::Arc};

use claviger_servers::{POSTGRES_PASSWORD, Postgres, Redis, RedisCluster, SOFTHSM_TOKEN, SoftHsm};
use claviger_testkit::Storage;

/// A new, empty database on a server: its name, and how a daemon uses it.
fn postgres(server: &Arc<Postgres>) -> (String, Storage) {
    let database = server.database();
    let password = server.directory().join(format!("{database}.password"));
    fs::write(&password, POSTGRES_PASSWORD).unwrap();
    fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).unwrap();
    let config = format!(
        "url = \"postgres://claviger@127.0.0.1:{}/{database}\"\npassword_file = \"{}\"\ntls = \"disable\"\n\
         connect_timeout_ms = 20000",
        server.port(),
        password.display()
    );
    (database, storage("store-postgres", config, server))
}

/// A new, empty part of a server.
fn redis(server: &Arc<Redis>) -> Storage {
    storage(
        "store-redis",
        format!("url = \"{}\"\nprefix = \"{}\"\nconnect_timeout_ms = 20000", server.url(), server.prefix()),
        server,
    )
}

/// A new, empty part of a Cluster.
fn redis_cluster(cluster: &Arc<RedisCluster>) -> Storage {
    let urls: Vec<_> = cluster.urls().iter().map(|url| format!("\"{url}\"")).collect();
    let config = format!(
        "cluster = [{}]\nprefix = \"{}\"\nconnect_timeout_ms = 20000",
        urls.join(", "),
        cluster.nodes[0].prefix()
    );
    storage("store-redis", config, cluster)
}

/// A token that keeps everything, also the unique keys.
fn pkcs11_objects(hsm: &Arc<SoftHsm>) -> Storage {
    let lock = hsm.directory().join("lock");
    let config = format!("{}\nlock_file = \"{}\"", pkcs11(hsm, "objects"), lock.display());
    let storage = storage(PKCS11, config, hsm);
    Storage { custody: Some(PKCS11.into()), environment: environment(hsm), ..storage }
}

/// A token that keeps the unique keys, and a database for the rest.
fn custody_over_postgres(hsm: &Arc<SoftHsm>, server: &Arc<Postgres>) -> Storage {
    let mut storage = postgres(server).1;
    storage.plugins.push((PKCS11.into(), pkcs11(hsm, "objects")));
    let server = Arc::new((storage.server, hsm.clone()));
    Storage { custody: Some(PKCS11.into()), environment: environment(hsm), server, ..storage }
}

fn pkcs11(hsm: &SoftHsm, mode: &str) -> String {
    let (module, pin) = (SoftHsm::module(), hsm.pin_file());
    format!(
        "module = \"{}\"\ntoken = \"{SOFTHSM_TOKEN}\"\npin_file = \"{}\"\nmode = \"{mode}\"",
        module.display(),
        pin.display()
    )
}

fn environment(hsm: &SoftHsm) -> Vec<(String, PathBuf)> {
    vec![("SOFTHSM2_CONF".into(), hsm.configuration())]
}

const PKCS11: &str = "store-pkcs11";

/// One plugin keeps all.
fn storage(plugin: &str, config: String, server: &Arc<impl Send + Sync + 'static>) -> Storage {
    let plugins = vec![(plugin.to_owned(), config)];
    Storage { plugins, store: plugin.into(), custody: None, environment: Vec::new(), server: server.clone() }
}
