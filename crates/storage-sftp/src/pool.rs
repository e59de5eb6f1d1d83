//! The connections with one place: few, made when they are needed, shared, and made anew when they broke.
//!
//! Each call uses the connection with the fewest users, so that calls spread over all and an idle place keeps what it has.
//! Whoever waits for a turn waits in bounded time, also while the server is dead.

use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use breakwater_storage::StorageErrorKind;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::connection::Connection;
use crate::failure::Failure;
use crate::settings::Settings;

/// Calls that share a connection. Beyond, they would only wait for each other at the server.
const CALLS_PER_CONNECTION: usize = 8;

/// The connections with one place.
#[derive(Debug)]
pub(crate) struct Pool {
    settings: Settings,
    turns: Arc<Semaphore>,
    /// How many calls use each connection.
    users: Mutex<Vec<usize>>,
    connections: Vec<tokio::sync::Mutex<Option<Arc<Connection>>>>,
}

/// The right of one call to use a connection.
#[derive(Debug)]
pub(crate) struct Lease {
    connection: Arc<Connection>,
    _seat: Seat,
}

impl Deref for Lease {
    type Target = Arc<Connection>;

    fn deref(&self) -> &Arc<Connection> {
        &self.connection
    }
}

/// A place among the users of one connection.
#[derive(Debug)]
struct Seat {
    pool: Arc<Pool>,
    index: usize,
    _turn: OwnedSemaphorePermit,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.pool.users.lock().unwrap_or_else(PoisonError::into_inner)[self.index] -= 1;
    }
}

impl Pool {
    /// A pool without connections yet.
    pub(crate) fn new(settings: Settings) -> Arc<Pool> {
        let count = settings.connections;
        Arc::new(Pool {
            turns: Arc::new(Semaphore::new(count * CALLS_PER_CONNECTION)),
            users: Mutex::new(vec![0; count]),
            connections: (0..count).map(|_| tokio::sync::Mutex::new(None)).collect(),
            settings,
        })
    }

    /// A connection that works as far as is known.
    pub(crate) async fn lease(self: &Arc<Self>) -> Result<Lease, Failure> {
        let lease = async {
            let seat = self.seat().await?;
            let connection = self.connection(seat.index).await?;
            Ok(Lease { connection, _seat: seat })
        };
        let patience = self.settings.patience.turn;
        tokio::time::timeout(patience, lease).await.unwrap_or_else(|_| {
            let what = format!("no connection was free for {} s", patience.as_secs());
            Err(Failure::because(StorageErrorKind::Unreachable, what))
        })
    }

    /// All connections, made as far as they are missing.
    pub(crate) async fn all(&self) -> Result<Vec<Arc<Connection>>, Failure> {
        futures::future::try_join_all((0..self.connections.len()).map(|index| self.connection(index))).await
    }

    async fn seat(self: &Arc<Self>) -> Result<Seat, Failure> {
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        let turn = turn.map_err(|closed| Failure::because(StorageErrorKind::Other, closed))?;
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        let index = (0..users.len()).min_by_key(|index| users[*index]).unwrap_or(0);
        users[index] += 1;
        drop(users);
        Ok(Seat { pool: Arc::clone(self), index, _turn: turn })
    }

    async fn connection(&self, index: usize) -> Result<Arc<Connection>, Failure> {
        let mut connection = self.connections[index].lock().await;
        if let Some(connection) = connection.as_ref().filter(|connection| connection.is_alive()) {
            return Ok(Arc::clone(connection));
        }
        // The broken one ends for its last users too, before there is another.
        if let Some(broken) = connection.take() {
            broken.close();
        }
        let made = Arc::new(Connection::open(&self.settings).await?);
        *connection = Some(Arc::clone(&made));
        Ok(made)
    }
}
