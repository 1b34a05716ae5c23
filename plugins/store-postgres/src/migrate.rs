//! Bringing the tables up to date when the plugin starts.

use std::{collections::HashSet, time::Duration};

use claviger_plugin_api::InitError;
use diesel::{
    migration::{Migration, MigrationSource},
    pg::Pg,
    sql_types::{Bool, Nullable, Text},
};
use diesel_async::{AsyncMigrationHarness, AsyncPgConnection, RunQueryDsl};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use crate::{connection::Connector, fault::one_line, statement::Statement};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations");
/// How long a daemon waits for another one's migrations.
const PATIENCE: Duration = Duration::from_secs(60);

/// Makes the schema ready. Of daemons that start at once, one does the work
/// and the others wait.
pub(crate) async fn prepare(connector: &Connector, schema: &str) -> Result<(), InitError> {
    let mut connection = connector.open(PATIENCE).await.map_err(InitError::Unavailable)?;
    check_schema(&mut connection, schema).await?;
    // Of the session: it ends with the connection, however this function ends.
    Statement::<()>::new("SELECT pg_advisory_lock(1129076295, hashtext(convert_from(?, 'UTF8')))")
        .bytes(schema)
        .execute(&mut connection)
        .await
        .map_err(|e| {
            InitError::Unavailable(format!("another daemon holds the migrations: {}", one_line(&e.to_string())))
        })?;
    let done = tokio::task::spawn_blocking(move || migrate(connection)).await;
    done.map_err(|e| InitError::Failed(format!("the migrations stopped: {e}")))?
        .map_err(|text| InitError::Failed(format!("schema {schema}: {text}")))
}

#[derive(diesel::QueryableByName)]
struct Rights {
    #[diesel(sql_type = Nullable<Bool>)]
    usable: Option<bool>,
    #[diesel(sql_type = Text)]
    role: String,
}

async fn check_schema(connection: &mut AsyncPgConnection, schema: &str) -> Result<(), InitError> {
    let rights: Rights = diesel::sql_query(
        "SELECT has_schema_privilege(to_regnamespace($1)::oid, 'USAGE') AS usable, current_user::text AS role",
    )
    .bind::<Text, _>(schema)
    .get_result(connection)
    .await
    .map_err(|e| InitError::Unavailable(one_line(&e.to_string())))?;
    match rights {
        Rights { usable: Some(true), .. } => Ok(()),
        Rights { usable: Some(false), role } => Err(InitError::Configuration(format!(
            "schema: {role} may not use {schema}; GRANT USAGE, CREATE ON SCHEMA {schema} TO {role}"
        ))),
        Rights { usable: None, role } => Err(InitError::Configuration(format!(
            "schema: there is no {schema} in this database; CREATE SCHEMA {schema} AUTHORIZATION {role}"
        ))),
    }
}

fn migrate(connection: AsyncPgConnection) -> Result<(), String> {
    let mut harness = AsyncMigrationHarness::new(connection);
    let own = MigrationSource::<Pg>::migrations(&MIGRATIONS).map_err(|e| e.to_string())?;
    let own: HashSet<String> = own.iter().map(|migration| migration.name().version().to_string()).collect();
    let applied =
        harness.applied_migrations().map_err(|e| format!("its state cannot be read: {}", one_line(&e.to_string())))?;
    if let Some(unknown) = applied.iter().find(|version| !own.contains(&version.to_string())) {
        return Err(format!(
            "it was written by a newer version of this store or by another program (migration {unknown} is not known); \
             install that version, or name a schema of its own"
        ));
    }
    let done = harness.run_pending_migrations(MIGRATIONS);
    done.map(|_| ()).map_err(|e| format!("the tables could not be brought up to date: {}", one_line(&e.to_string())))
}
