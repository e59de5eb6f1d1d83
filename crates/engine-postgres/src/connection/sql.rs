//! A session for SQL, set up so that nothing of the server's or the role's configuration changes what it does.
//!
//! Invariant: the session ends when its [`SqlClient`] is dropped, also in the middle of a statement.

use std::ops::Deref;

use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, NoTls};

use super::{ConnectionError, ConnectionSettings, dial};

/// Settings of every session, for those that the server's version knows: timeouts that a backup must not run into, names
/// that must not be shadowed, and no parallel workers taken from production.
const SESSION: &str = "SELECT pg_catalog.set_config(s.name, v.value, false) FROM pg_catalog.pg_settings s \
    JOIN (VALUES ('search_path', 'pg_catalog'), ('client_encoding', 'UTF8'), ('max_parallel_workers_per_gather', '0'), \
    ('statement_timeout', '0'), ('lock_timeout', '0'), ('idle_session_timeout', '0'), \
    ('idle_in_transaction_session_timeout', '0'), ('transaction_timeout', '0'), ('DateStyle', 'ISO'), ('TimeZone', 'UTC')) \
    AS v (name, value) ON v.name = s.name";

/// An open SQL session; use it as the `tokio_postgres::Client` that it holds.
#[derive(Debug)]
pub struct SqlClient {
    client: Client,
    connection: JoinHandle<()>,
}

impl Deref for SqlClient {
    type Target = Client;
    fn deref(&self) -> &Client {
        &self.client
    }
}

impl SqlClient {
    /// Mutable access, which transactions want.
    pub fn client_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

impl Drop for SqlClient {
    fn drop(&mut self) {
        // The connection's own task would outlive a statement that never ends; closing the socket does not.
        self.connection.abort();
    }
}

impl ConnectionSettings {
    /// Opens a session in [`database`](Self::database).
    ///
    /// # Errors
    /// When the server cannot be reached in time or refuses the session.
    pub async fn connect_sql(&self) -> Result<SqlClient, ConnectionError> {
        let (socket, target) = dial(self).await?;
        let mut config = Config::new();
        config.user(&self.user).dbname(&self.database).application_name(&self.application_name);
        if let Some(password) = self.password(&self.database).await? {
            config.password(password);
        }
        let opening = async {
            let (client, connection) = config.connect_raw(socket, NoTls).await?;
            let connection = tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "an SQL session ended with an error");
                }
            });
            let session = SqlClient { client, connection };
            session.simple_query(SESSION).await?;
            Ok(session)
        };
        match tokio::time::timeout(self.connect_timeout, opening).await {
            Ok(Ok(session)) => Ok(session),
            Ok(Err(source)) => Err(ConnectionError::Session { target, source }),
            Err(_) => Err(ConnectionError::Timeout { target, timeout: self.connect_timeout }),
        }
    }
}
