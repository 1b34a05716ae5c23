//! Connections to the server: how one is opened, and the pool of them.

use std::{path::Path, sync::Arc, time::Duration};

use claviger_plugin_api::{InitError, PluginError};
use diesel::ConnectionError;
use diesel_async::{
    AsyncPgConnection, SimpleAsyncConnection,
    pooled_connection::{
        AsyncDieselConnectionManager, ManagerConfig, PoolError as OpenError, RecyclingMethod,
        deadpool::{Object, Pool as Deadpool, PoolError},
    },
};
use rustls_tokio_postgres::MakeRustlsConnect;
use tokio::runtime::Handle;
use tokio_postgres::NoTls;
use zeroize::Zeroizing;

use crate::{
    Configuration,
    configuration::describe,
    fault::{Fault, one_line},
    tls,
};

/// Calls that may wait for a connection; more are answered *busy*.
const WAITING: usize = 4096;

/// Opens connections.
pub(crate) struct Connector {
    configuration: Arc<Configuration>,
    client: tokio_postgres::Config,
    tls: Option<MakeRustlsConnect>,
}

impl Connector {
    /// Checks the configuration; asks no server.
    pub(crate) fn new(configuration: Arc<Configuration>) -> Result<Self, InitError> {
        let (client, tls) = (configuration.check()?, tls::connector(&configuration)?);
        Ok(Self { configuration, client, tls })
    }

    /// Opens a connection whose statements end after `patience`. What drives
    /// it runs on the current runtime. The error is one line for people.
    pub(crate) async fn open(&self, patience: Duration) -> Result<AsyncPgConnection, String> {
        let limit = self.configuration.connect_timeout();
        match tokio::time::timeout(limit, self.open_in_time(patience)).await {
            Ok(opened) => opened,
            Err(_) => Err(format!("no connection to the server within {} ms", limit.as_millis())),
        }
    }

    async fn open_in_time(&self, patience: Duration) -> Result<AsyncPgConnection, String> {
        let mut client = self.client.clone();
        if let Some(path) = &self.configuration.password_file {
            client.password(password(path).await?.as_slice());
        }
        let opened = match &self.tls {
            Some(tls) => {
                let (client, connection) = client.connect(tls.clone()).await.map_err(|e| describe(&e))?;
                AsyncPgConnection::try_from_client_and_connection(client, connection).await
            }
            None => {
                let (client, connection) = client.connect(NoTls).await.map_err(|e| describe(&e))?;
                AsyncPgConnection::try_from_client_and_connection(client, connection).await
            }
        };
        let mut connection = opened.map_err(|e| one_line(&e.to_string()))?;
        let settings = self.settings(patience);
        connection.batch_execute(&settings).await.map_err(|e| one_line(&e.to_string()))?;
        Ok(connection)
    }

    /// What a session must not inherit from the server's own settings.
    fn settings(&self, patience: Duration) -> String {
        format!(
            // An answer must survive the server's death, whatever its default.
            "SELECT set_config('synchronous_commit', 'on', false)
                 WHERE current_setting('synchronous_commit') = 'off';
             SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED;
             SET search_path TO \"{schema}\";
             SET statement_timeout = {patience};
             SET idle_in_transaction_session_timeout = {patience};
             -- Every statement here is one of few rows by an index; a plan made
             -- while a table was small must not scan it when it is large.
             SET enable_seqscan = off;",
            schema = self.configuration.schema,
            patience = patience.as_millis(),
        )
    }
}

async fn password(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let read = tokio::fs::read(path).await;
    let mut password = Zeroizing::new(read.map_err(|e| format!("password_file {}: {e}", path.display()))?);
    while password.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
        password.pop();
    }
    if password.is_empty() { Err(format!("password_file {}: it is empty", path.display())) } else { Ok(password) }
}

/// The connections that calls share.
#[derive(Clone)]
pub(crate) struct Pool {
    connections: Deadpool<AsyncPgConnection>,
    /// For a whole call: the server's own limit is for each statement, and
    /// does not help where the server has gone without a word.
    patience: Duration,
}

impl Pool {
    /// A pool without connections yet. They are driven by `runtime`.
    pub(crate) fn new(connector: Arc<Connector>, runtime: Handle) -> Result<Self, InitError> {
        let (size, limit) = (connector.configuration.pool, connector.configuration.connect_timeout());
        let patience = connector.configuration.statement_timeout();
        let mut config = ManagerConfig::default();
        // A broken connection shows at its next use, and costs that call only.
        config.recycling_method = RecyclingMethod::Fast;
        config.custom_setup = Box::new(move |_| {
            let connector = connector.clone();
            let opening = runtime.spawn(async move { connector.open(patience).await });
            Box::pin(async move {
                let opened = opening.await.unwrap_or_else(|_| Err("the connection was given up".to_owned()));
                opened.map_err(ConnectionError::BadConnection)
            })
        });
        let manager = AsyncDieselConnectionManager::new_with_config("", config);
        let connections = Deadpool::builder(manager)
            .max_size(size)
            .wait_timeout(Some(limit))
            .create_timeout(Some(limit))
            .runtime(deadpool::Runtime::Tokio1)
            .build()
            .map_err(|e| InitError::Failed(format!("the pool cannot be made: {e}")))?;
        Ok(Self { connections, patience: patience * 2 })
    }

    /// A connection for one call.
    pub(crate) async fn lease(&self) -> Result<Lease, PluginError> {
        if self.connections.status().waiting >= WAITING {
            return Err(PluginError::Busy);
        }
        let connection = self.connections.get().await.map_err(|e| match e {
            PoolError::Timeout(deadpool::managed::TimeoutType::Wait) => PluginError::Busy,
            PoolError::Backend(OpenError::ConnectionError(ConnectionError::BadConnection(text))) => {
                PluginError::Unavailable(text)
            }
            other => PluginError::Unavailable(one_line(&other.to_string())),
        })?;
        Ok(Lease { connection: Some(connection), patience: self.patience })
    }
}

/// A connection that goes back to the pool only after a call that went well. A
/// call that failed, took too long or was dropped half-way closes it, and the
/// server rolls back what it had begun.
pub(crate) struct Lease {
    /// `None` only while it is dropped.
    connection: Option<Object<AsyncPgConnection>>,
    patience: Duration,
}

impl Lease {
    /// Runs one call on the connection.
    pub(crate) async fn call<T>(
        mut self,
        work: impl AsyncFnOnce(&mut AsyncPgConnection) -> Result<T, Fault>,
    ) -> Result<T, PluginError> {
        let Some(connection) = self.connection.as_mut() else {
            return Err(PluginError::Unavailable("the connection is gone".to_owned()));
        };
        let answer = tokio::time::timeout(self.patience, work(connection)).await;
        let answer = answer.map_err(|_| PluginError::Unavailable("the server did not answer in time".to_owned()))?;
        if answer.is_ok() {
            // Back to the pool.
            drop(self.connection.take());
        }
        Ok(answer?)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            drop(Object::take(connection));
        }
    }
}
