//! The daemon on every store: what it does must not depend on where it keeps it.

mod database;
mod life;
mod load;
mod outage;
mod several;

use std::{fs, os::unix::fs::PermissionsExt, sync::Arc};

use claviger_servers::{POSTGRES_PASSWORD, Postgres};
use claviger_testkit::Storage;

/// A new, empty database on a server: its name, and how a daemon uses it.
fn postgres(server: &Arc<Postgres>) -> (String, Storage) {
    let database = server.database();
    let password = server.directory().join(format!("{database}.password"));
    fs::write(&password, POSTGRES_PASSWORD).unwrap();
    fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).unwrap();
    let config = format!(
        "url = \"postgres://claviger@127.0.0.1:{}/{database}\"\npassword_file = \"{}\"\ntls = \"disable\"",
        server.port(),
        password.display()
    );
    let plugins = vec![("store-postgres".to_owned(), config)];
    let storage = Storage { plugins, store: "store-postgres".into(), custody: None, server: server.clone() };
    (database, storage)
}
