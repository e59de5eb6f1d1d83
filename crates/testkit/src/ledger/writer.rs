//! One connection that commits and remembers.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use breakwater_core::{Chain, Timestamp};
use tokio::sync::{RwLock, watch};
use tokio_postgres::{Client, NoTls, Statement};

use super::moment::now;

/// `ledger` gets a row by each transaction, `ledger_page` an update. What a row says follows from its key, and the updates are as
/// many as the rows: so foreign rows and halves of transactions show.
pub(super) const TABLES: &str = "
    create table ledger (writer int, seq bigint, note text not null, primary key (writer, seq));
    create table ledger_page (id int primary key, hits bigint not null, filler text not null);
    insert into ledger_page select n, 0, repeat('x', 300) from generate_series(0, 999) n;
";

const INSERT: &str = "insert into ledger values ($1, $2, md5($1::int::text || ':' || $2::bigint::text))";
const UPDATE: &str = "update ledger_page set hits = hits + 1 where id = $1";

/// One transaction; its place in the list is its sequence number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// Read just before `BEGIN` was sent.
    pub(super) begun: Timestamp,
    /// Read just after the answer to `COMMIT` came.
    pub(super) acked: Option<Timestamp>,
}

pub(super) struct Writer {
    pub(super) number: i32,
    pub(super) config: tokio_postgres::Config,
    pub(super) entries: Arc<Mutex<Vec<Entry>>>,
    pub(super) trouble: Arc<Mutex<Option<String>>>,
    pub(super) gate: Arc<RwLock<()>>,
    pub(super) stopped: watch::Receiver<bool>,
    pub(super) pace: Duration,
}

struct Session {
    client: Client,
    insert: Statement,
    update: Statement,
}

impl Writer {
    pub(super) async fn run(mut self) {
        let mut session = None;
        while !*self.stopped.borrow() {
            if session.is_none() {
                match self.connect().await {
                    Ok(open) => session = Some(open),
                    // A server that is down is what some tests want; the next look is a moment later.
                    Err(error) => {
                        self.note(&error);
                        if self.rest(Duration::from_millis(50)).await {
                            return;
                        }
                    }
                }
            } else if let Some(open) = &session {
                let gate = Arc::clone(&self.gate);
                let inside = gate.read().await;
                // Whether this one was committed nobody knows if its answer is lost; the next has another number.
                if let Err(error) = self.transact(open).await {
                    self.note(&error);
                    session = None;
                }
                drop(inside);
                if self.rest(self.pace).await {
                    return;
                }
            }
        }
    }

    /// Keeps the newest error for the report of a test that waits in vain.
    fn note(&self, error: &tokio_postgres::Error) {
        let text = Chain(error).to_string();
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
    }

    /// Waits; true when the writer was told to stop meanwhile.
    async fn rest(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, self.stopped.wait_for(|stop| *stop)).await.is_ok()
    }

    async fn connect(&self) -> Result<Session, tokio_postgres::Error> {
        let (client, connection) = self.config.connect(NoTls).await?;
        tokio::spawn(async move {
            // The client's own calls report a broken connection.
            connection.await.ok();
        });
        let insert = client.prepare(INSERT).await?;
        let update = client.prepare(UPDATE).await?;
        Ok(Session { client, insert, update })
    }

    async fn transact(&self, session: &Session) -> Result<(), tokio_postgres::Error> {
        let seq = {
            let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
            entries.push(Entry { begun: now(), acked: None });
            entries.len() - 1
        };
        let number = i64::try_from(seq).expect("a list in memory is shorter than 2^63");
        // Writers keep to their own pages, so that none waits for another.
        let page = (self.number * 100 + i32::try_from(seq % 100).expect("below 100")) % 1000;
        session.client.batch_execute("begin").await?;
        session.client.execute(&session.insert, &[&self.number, &number]).await?;
        session.client.execute(&session.update, &[&page]).await?;
        session.client.batch_execute("commit").await?;
        let acked = now();
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)[seq].acked = Some(acked);
        Ok(())
    }
}
