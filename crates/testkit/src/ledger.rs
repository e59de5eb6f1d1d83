//! A load that remembers what was promised to it, to prove that a restore keeps the promise.
//!
//! Writers commit small transactions as fast as their pace allows and remember, for each, when it was begun and when its commit was
//! acknowledged. Of a database restored to a moment, [`Ledger::check`] then demands: every commit acknowledged before the moment
//! is there, none begun after it is, no transaction is there by half, and no row says what nobody wrote. A transaction whose
//! acknowledgement never came may be there or not.
//!
//! Times are those of this machine's clock, which is the server's clock too, since the kit's servers run here.

mod moment;
mod verdict;
mod writer;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use breakwater_core::Timestamp;
use tokio::sync::{OwnedRwLockWriteGuard, RwLock, watch};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use crate::postgres::Cluster;
use writer::{Entry, Writer};

pub use moment::{Moment, now};
pub use verdict::{Verdict, contents_hash};

/// How long a writer may take to end its transaction when it is told to stop.
const PATIENCE: Duration = Duration::from_secs(30);

/// Writers at work on one cluster, and all that they remember.
#[derive(Debug)]
pub struct Ledger {
    entries: Vec<Arc<Mutex<Vec<Entry>>>>,
    // The newest error of any writer.
    trouble: Arc<Mutex<Option<String>>>,
    // Writers hold it shared while they are in a transaction.
    gate: Arc<RwLock<()>>,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

/// While it lives no writer is in a transaction; dropping it lets them go on.
#[derive(Debug)]
pub struct Paused {
    _gate: OwnedRwLockWriteGuard<()>,
}

impl Ledger {
    /// Makes the ledger's tables in the database `postgres` of `cluster` and starts `writers` connections that commit with `pace`
    /// between their transactions. They connect again whenever the server comes back.
    pub async fn start(cluster: &Cluster, writers: u32, pace: Duration) -> Result<Ledger> {
        let client = cluster.connect().await?;
        client.batch_execute(writer::TABLES).await.context("make the ledger's tables")?;

        let gate = Arc::new(RwLock::new(()));
        let (stop, stopped) = watch::channel(false);
        let mut ledger = Ledger { entries: Vec::new(), trouble: Arc::default(), gate, stop, tasks: Vec::new() };
        for number in 0..i32::try_from(writers).context("count of writers")? {
            let entries = Arc::new(Mutex::new(Vec::new()));
            let writer = Writer {
                number,
                config: cluster.client_config("postgres"),
                entries: Arc::clone(&entries),
                trouble: Arc::clone(&ledger.trouble),
                gate: Arc::clone(&ledger.gate),
                stopped: stopped.clone(),
                pace,
            };
            ledger.entries.push(entries);
            ledger.tasks.push(tokio::spawn(writer.run()));
        }
        Ok(ledger)
    }

    /// How many commits were acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.entries.iter().map(|entries| locked(entries).iter().filter(|entry| entry.acked.is_some()).count()).sum()
    }

    /// Waits until `count` more commits have been acknowledged. Panics when that takes longer than two minutes, with the newest
    /// error that a writer met.
    pub async fn wait_for_more(&self, count: usize) {
        let goal = self.acknowledged() + count;
        let start = Instant::now();
        while self.acknowledged() < goal {
            if start.elapsed() > Duration::from_secs(120) {
                let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
                panic!("waited in vain for {count} more commits; the newest error: {}", trouble.unwrap_or_default());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits for the transactions under way and holds the writers back until the answer is dropped.
    pub async fn pause(&self) -> Paused {
        Paused { _gate: Arc::clone(&self.gate).write_owned().await }
    }

    /// Ends the writers after their transactions. The memory stays, for checks. An error when a writer hangs or broke down.
    pub async fn stop(&mut self) -> Result<()> {
        self.stop.send_replace(true);
        for mut task in self.tasks.drain(..) {
            match tokio::time::timeout(PATIENCE, &mut task).await {
                Ok(ended) => ended.context("a writer of the ledger broke down")?,
                Err(_) => {
                    task.abort();
                    bail!("a writer of the ledger was still in its transaction after {PATIENCE:?}");
                }
            }
        }
        Ok(())
    }

    /// Compares a database restored to `moment` with what was promised. An error names the broken promises.
    pub async fn check(&self, restored: &Client, moment: Moment) -> Result<Verdict> {
        let all: Vec<Vec<Entry>> = self.entries.iter().map(|entries| locked(entries).clone()).collect();
        verdict::check(&all, restored, moment).await
    }

    /// When the newest acknowledged commit was acknowledged.
    pub fn last_acknowledged(&self) -> Option<Timestamp> {
        self.entries.iter().filter_map(|entries| locked(entries).iter().rev().find_map(|entry| entry.acked)).max()
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

fn locked(entries: &Mutex<Vec<Entry>>) -> std::sync::MutexGuard<'_, Vec<Entry>> {
    entries.lock().unwrap_or_else(PoisonError::into_inner)
}
