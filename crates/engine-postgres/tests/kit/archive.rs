//! What the pipeline does with a log, in small: keep it in memory, and deliver it to a recovering server.

#![allow(dead_code, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, reason = "a failed test may panic anywhere")]

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use breakwater_core::LogPosition;
use breakwater_engine::{
    EngineError, EngineErrorKind, LogEvent, LogFetch, LogFetcher, LogSource, LogStart, Transaction,
};
use breakwater_engine_postgres::fetch_client;
use breakwater_engine_postgres::wal::{SegmentSize, WalFileName};
use breakwater_testkit::wait;
use tokio::task::JoinHandle;

#[derive(Clone, Debug, Default)]
struct Stored {
    segments: BTreeMap<(u32, u64), Vec<u8>>,
    histories: BTreeMap<u32, Vec<u8>>,
    transactions: Vec<Transaction>,
    reached: Option<LogPosition>,
}

/// A log that is received in the background.
#[derive(Debug)]
pub(crate) struct Archive {
    size: SegmentSize,
    stored: Arc<Mutex<Stored>>,
    task: JoinHandle<()>,
}

impl Drop for Archive {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Archive {
    pub(crate) async fn start(source: Arc<dyn LogSource>, start: LogStart) -> Archive {
        Archive::receive(source, start, Stored::default()).await
    }

    /// Another archive that holds what this one holds now, and goes on from `start` with another server's log.
    pub(crate) async fn branch_off(&self, source: Arc<dyn LogSource>, start: LogPosition) -> Archive {
        let stored = self.stored.lock().unwrap().clone();
        Archive::receive(source, LogStart::At(start), stored).await
    }

    async fn receive(source: Arc<dyn LogSource>, start: LogStart, stored: Stored) -> Archive {
        let size = SegmentSize::new(source.facts().await.unwrap().segment_size).unwrap();
        let stored = Arc::new(Mutex::new(stored));
        let mut stream = source.open(start).await.unwrap();
        let task = {
            let stored = Arc::clone(&stored);
            tokio::spawn(async move {
                while let Ok(event) = stream.next().await {
                    let mut stored = stored.lock().unwrap();
                    match event {
                        LogEvent::Data { start, bytes, transactions } => {
                            stored.append(size, start, &bytes);
                            stored.transactions.extend(transactions);
                        }
                        LogEvent::Watermark(_) => {}
                        LogEvent::EndOfBranch { next, history, .. } => {
                            stored.histories.insert(next, history.to_vec());
                        }
                    }
                }
            })
        };
        Archive { size, stored, task }
    }

    /// Waits until everything up to `position` is here.
    pub(crate) async fn reach(&self, position: LogPosition) {
        let reached = async || {
            let reached = self.stored.lock().unwrap().reached;
            reached.is_some_and(|reached| reached.branch == position.branch && reached.offset >= position.offset)
        };
        wait::until_true("the log to arrive", Duration::from_secs(60), reached).await;
    }

    pub(crate) fn transactions(&self) -> Vec<Transaction> {
        self.stored.lock().unwrap().transactions.clone()
    }

    /// A fetcher of a plan that ends at `end`. It fails on `broken`.
    pub(crate) fn fetcher(&self, end: LogPosition, broken: Option<&str>) -> Arc<dyn LogFetcher> {
        Arc::new(Plan { size: self.size, stored: Arc::clone(&self.stored), end, broken: broken.map(str::to_owned) })
    }
}

impl Stored {
    fn append(&mut self, size: SegmentSize, start: LogPosition, bytes: &[u8]) {
        let mut at = start.offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let within = usize::try_from(at % size.bytes()).unwrap();
            let take = rest.len().min(usize::try_from(size.bytes()).unwrap() - within);
            let segment = self.segments.entry((start.branch, at / size.bytes())).or_default();
            segment.truncate(within);
            assert_eq!(segment.len(), within, "no hole");
            segment.extend_from_slice(&rest[..take]);
            at += take as u64;
            rest = &rest[take..];
        }
        self.reached = Some(LogPosition::new(start.branch, at));
    }
}

#[derive(Debug)]
struct Plan {
    size: SegmentSize,
    stored: Arc<Mutex<Stored>>,
    end: LogPosition,
    broken: Option<String>,
}

#[async_trait::async_trait]
impl LogFetcher for Plan {
    async fn fetch(&self, name: &str, destination: &Path) -> Result<LogFetch, EngineError> {
        if self.broken.as_deref() == Some(name) {
            return Err(EngineError::new(EngineErrorKind::Unreachable, "region `east` does not answer"));
        }
        let stored = self.stored.lock().unwrap();
        let bytes = match WalFileName::parse(name, self.size).unwrap() {
            WalFileName::Segment { tli, segno } => {
                let start = self.size.start_of(segno).0;
                let mut bytes = match stored.segments.get(&(tli.0, segno)) {
                    Some(bytes) if start < self.end.offset => bytes.clone(),
                    _ => return Ok(LogFetch::BeyondPlan),
                };
                // What lies past the plan's end does not belong to the restore.
                if tli.0 == self.end.branch {
                    bytes.truncate(usize::try_from(self.end.offset - start).unwrap());
                }
                bytes.resize(usize::try_from(self.size.bytes()).unwrap(), 0);
                bytes
            }
            WalFileName::History { tli } => match stored.histories.get(&tli.0) {
                Some(bytes) => bytes.clone(),
                None => return Ok(LogFetch::BeyondPlan),
            },
            _ => return Ok(LogFetch::BeyondPlan),
        };
        std::fs::write(destination, bytes).unwrap();
        Ok(LogFetch::Delivered)
    }
}

/// A program that works as `breakwater-agent wal-fetch`: this test's own binary, asked to run the test `name`, which calls
/// [`act_as_client`]. Everybody may run it.
pub(crate) fn fetch_program(directory: &Path, name: &str) -> PathBuf {
    let binary = directory.join("client");
    std::fs::copy(std::env::current_exe().unwrap(), &binary).unwrap();
    let script = directory.join("breakwater-agent");
    let text = format!(
        "#!/bin/sh\n[ \"$1\" = wal-fetch ] && [ \"$2\" = --socket ] || exit 2\n\
         BW_SOCKET=\"$3\" BW_NAME=\"$4\" BW_PATH=\"$5\" exec '{}' --exact {name} --ignored --nocapture -q >/dev/null\n",
        binary.display()
    );
    std::fs::write(&script, text).unwrap();
    for path in [&binary, &script] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    script
}

/// Fetches what the environment names and ends the process.
pub(crate) fn act_as_client() {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let (Some(socket), Some(name), Some(path)) = (variable("BW_SOCKET"), variable("BW_NAME"), variable("BW_PATH"))
    else {
        return;
    };
    std::process::exit(i32::from(fetch_client(&socket, name.to_str().unwrap(), &path)));
}
