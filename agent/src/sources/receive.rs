//! The log of one source on its way into the regions: resumed where the last writer ended, without a gap where the source
//! still has what is missing, with the gap said where it does not.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use breakwater_core::{ByteCount, DomainName, LogPosition, Timestamp};
use breakwater_engine::{EngineError, EngineErrorKind, LogEvent, LogSource, LogStart, LogStream, TransactionKind};
use breakwater_repository::format::log::{MarkKind, TransactionMark};
use breakwater_repository::format::open::SourceRecord;
use breakwater_repository::stream::{SpoolOptions, StreamKeys, StreamOptions, StreamView, StreamWriter};
use tokio_util::sync::CancellationToken;

use super::Source;
use super::memory::Memory;
use super::state::{RegionShare, Word};
use crate::error::AgentError;
use crate::patience::{SQL_PATIENCE, answered};
use crate::repositories::OpenRepository;
use crate::toolbox::Toolbox;
use crate::wiring::GivesWay;

/// How often the writer looks what is due.
const TICK: Duration = Duration::from_millis(100);

/// How often the state is measured.
const MEASURE: Duration = Duration::from_millis(250);

/// A stopping stream tries this long to store its last bytes; the source sends again what was not stored.
const LAST_BYTES: Duration = Duration::from_secs(3);

/// Bytes that were taken this long ago and found no place mean that regions and spool are full.
const STUCK: Duration = Duration::from_secs(3);

/// A spool that stays full this long makes one side give way.
const FULL_PATIENCE: Duration = Duration::from_secs(60);

/// Where a stream keeps files on this host: pieces that wait while regions are away, and what is known of the regions.
#[derive(Clone, Debug)]
pub struct SpoolPlace {
    /// A directory of this source's own.
    pub directory: PathBuf,
    /// Bytes at most.
    pub limit: ByteCount,
    /// What is remembered of its regions.
    pub memory: Memory,
}

/// Receives the log of one source.
#[derive(Debug)]
pub struct Receiver {
    /// The source.
    pub source: Arc<Source>,
    /// Its log.
    pub log: Arc<dyn LogSource>,
    /// Repositories and clock.
    pub tools: Arc<Toolbox>,
    /// Where pieces wait.
    pub spool: SpoolPlace,
    /// The regions were listed by this process: what they hold is not only remembered.
    pub listed: AtomicBool,
}

impl Receiver {
    /// Receives until `stop`, or until something goes wrong. `given_up` remembers that the source's promise was dropped
    /// because nothing could take its log; `streamed` tells that bytes flowed.
    pub(super) async fn receive(
        &self,
        stop: &CancellationToken,
        given_up: &mut bool,
        streamed: &mut bool,
    ) -> Result<(), AgentError> {
        let ready = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            ready = self.prepare(given_up) => ready?,
        };
        let (open, mut writer, mut stream) = ready;
        *streamed = true;
        let ended = self.pump(&open, &mut writer, stream.as_mut(), stop).await;
        if let Err(Ended::Full) = ended {
            drop(stream);
            return Err(self.give_way(given_up).await);
        }
        if stop.is_cancelled() {
            // What does not get through in time is sent again by the source: nothing is lost.
            drop(tokio::time::timeout(LAST_BYTES, writer.flush(LAST_BYTES)).await);
            return Ok(());
        }
        match ended {
            Ok(()) => Ok(()),
            Err(Ended::Full) => Err(AgentError::Defect("a full spool was seen twice".to_owned())),
            Err(Ended::Failed(error)) => Err(error),
        }
    }

    async fn prepare(
        &self,
        given_up: &mut bool,
    ) -> Result<(Arc<OpenRepository>, StreamWriter, Box<dyn LogStream>), AgentError> {
        let assigned = &self.source.assigned;
        let name = &assigned.name;
        let spec = assigned
            .repository
            .as_ref()
            .ok_or_else(|| AgentError::Refused(format!("no plan gives source `{name}` a repository")))?;
        let open = self.tools.repositories.open(spec).await?;
        self.source.note_repository(Arc::clone(&open));
        self.show_stored(&open).await?;
        if *given_up {
            wait_for_regions(&open)?;
        }
        // Before the promise: a server that turns out to be another one must not keep its log for us.
        let identity = answered(SQL_PATIENCE, self.log.identity()).await;
        let identity = identity.map_err(AgentError::engine(format!("asking source `{name}` who it is")))?;
        ensure_source(&open, &self.source, &identity).await?;
        let facts = match answered(SQL_PATIENCE, self.log.facts()).await {
            Err(error) if is_lost_promise(&error) && self.source.wired.gives_way == GivesWay::Archive => {
                tracing::error!(source.name = name, error = %breakwater_core::Chain(&error), "the log has a gap; a new stretch begins");
                let forgotten = answered(SQL_PATIENCE, self.log.forget()).await;
                forgotten.map_err(AgentError::engine("giving up the lost part of the log"))?;
                answered(SQL_PATIENCE, self.log.facts()).await
            }
            facts => facts,
        };
        let facts = facts.map_err(AgentError::engine(format!("asking source `{name}` for its log")))?;
        if facts.identity != identity {
            return Err(AgentError::Conflict(format!(
                "source `{name}` became another one while it was asked for its log"
            )));
        }
        *given_up = false;

        let mut options = StreamOptions::new(facts.segment_size);
        options.facts = facts.facts;
        if assigned.stream_interval_ms > 0 {
            options.interval = Duration::from_millis(u64::from(assigned.stream_interval_ms));
        }
        options.spool = Some(SpoolOptions { directory: self.spool.directory.clone(), limit: self.spool.limit });
        let doing = || format!("opening the stored log of source `{name}`");
        let mut writer = StreamWriter::open(&open.repository, &open.set, self.source.uid, options)
            .await
            .map_err(AgentError::stream(doing()))?;
        let stream = self.open_log(&writer).await?;
        let begun = writer.begin(stream.start()).await.map_err(AgentError::stream(doing()))?;
        if let Some((from, to)) = begun.gap {
            tracing::error!(source.name = name, %from, %to, "the source no longer has a part of its log: a gap");
        }
        tracing::info!(source.name = name, start = %stream.start(), generation = %begun.generation, "streaming");
        let gap = self.gap_without_base(&open, begun.gap.map(|(_, to)| to)).await?;
        self.source.change(|state| {
            state.failure = None;
            state.gap_until = gap;
        });
        Ok((open, writer, stream))
    }

    /// Where the stored log ends is where the source is asked to go on; what it no longer has is a gap.
    async fn open_log(&self, writer: &StreamWriter) -> Result<Box<dyn LogStream>, AgentError> {
        let doing = || format!("opening the log of source `{}`", self.source.assigned.name);
        let start = writer.resume().start.map_or(LogStart::Oldest, LogStart::At);
        match answered(SQL_PATIENCE, self.log.open(start)).await {
            Err(error) if error.kind == EngineErrorKind::NotFound && start != LogStart::Oldest => {
                tracing::warn!(source.name = self.source.assigned.name, error = %breakwater_core::Chain(&error), "the log cannot go on where it ended");
                let opened = answered(SQL_PATIENCE, self.log.open(LogStart::Oldest)).await;
                opened.map_err(AgentError::engine(doing()))
            }
            opened => opened.map_err(AgentError::engine(doing())),
        }
    }

    async fn pump(
        &self,
        open: &OpenRepository,
        writer: &mut StreamWriter,
        stream: &mut dyn LogStream,
        stop: &CancellationToken,
    ) -> Result<(), Ended> {
        let name = &self.source.assigned.name;
        let stored = || AgentError::stream(format!("storing the log of source `{name}`"));
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut measured = Instant::now();
        let mut full_since: Option<Instant> = None;
        self.measure(writer);
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = open.stale.cancelled() => {
                    let text = "the repository is opened anew".to_owned();
                    return Err(Ended::Failed(AgentError::Unavailable(text)));
                }
                event = stream.next() => {
                    let event = event.map_err(AgentError::engine(format!("receiving the log of source `{name}`")))?;
                    self.take(writer, event, stop, &mut full_since).await?;
                }
                _ = tick.tick() => {
                    writer.tick(self.tools.clock.now()).await.map_err(stored())?;
                    if measured.elapsed() >= MEASURE {
                        measured = Instant::now();
                        let full = self.measure(writer);
                        full_since = full.then(|| full_since.unwrap_or_else(Instant::now));
                        self.lose_patience(full_since)?;
                    }
                }
            }
            if let Some(released) = writer.released() {
                stream.released(released);
            }
        }
    }

    async fn take(
        &self,
        writer: &mut StreamWriter,
        event: LogEvent,
        stop: &CancellationToken,
        full_since: &mut Option<Instant>,
    ) -> Result<(), Ended> {
        let stored = || AgentError::stream(format!("storing the log of source `{}`", self.source.assigned.name));
        match event {
            LogEvent::Watermark(watermark) => {
                writer.watermark(watermark).map_err(stored())?;
                self.source.change(|state| state.watermark = Some(watermark));
                Ok(())
            }
            LogEvent::EndOfBranch { at, next, history } => {
                tracing::info!(source.name = self.source.assigned.name, %at, next, "the log goes on on a new branch");
                Ok(writer.end_of_branch(at, next, &history).await.map_err(stored())?)
            }
            LogEvent::Data { start, bytes, transactions } => {
                let marks = transactions.into_iter().map(mark).collect();
                let appending = writer.append(start, bytes, marks);
                tokio::pin!(appending);
                let begun = Instant::now();
                loop {
                    tokio::select! {
                        () = stop.cancelled() => return Ok(()),
                        appended = &mut appending => return Ok(appended.map_err(stored())?),
                        () = tokio::time::sleep(Duration::from_secs(1)) => {}
                    }
                    if begun.elapsed() >= STUCK {
                        let now = self.tools.clock.now();
                        self.source.change(|state| {
                            state.word = Word::SpoolFull;
                            state.observed = now;
                        });
                        full_since.get_or_insert(begun);
                        self.lose_patience(*full_since)?;
                    }
                }
            }
        }
    }

    /// Measures the stream; true when its spool is full.
    fn measure(&self, writer: &StreamWriter) -> bool {
        let status = writer.status();
        let (views, now) = (self.source.region_views(), self.tools.clock.now());
        self.source.change(|state| state.measure(&status, &views, now));
        status.spool.is_some_and(|spool| spool.full)
    }

    fn lose_patience(&self, full_since: Option<Instant>) -> Result<(), Ended> {
        let gives_way = self.source.wired.gives_way == GivesWay::Archive;
        let over = full_since.is_some_and(|since| since.elapsed() >= FULL_PATIENCE);
        if gives_way && over { Err(Ended::Full) } else { Ok(()) }
    }

    /// The database goes on and the archive has a gap.
    async fn give_way(&self, given_up: &mut bool) -> AgentError {
        let name = &self.source.assigned.name;
        if let Err(error) = answered(SQL_PATIENCE, self.log.forget()).await {
            return AgentError::engine(format!("giving up the log of source `{name}`"))(error);
        }
        *given_up = true;
        tracing::error!(
            source.name = name,
            "regions and spool are full: the log was given up so that the database goes on"
        );
        AgentError::Unavailable(format!(
            "regions and spool could take no more of the log of `{name}`, so it was given up for the database's sake: the \
             log has a gap from here (hint: a new backup is needed once the regions answer)"
        ))
    }

    /// What the regions hold already, so that figures are known before the first byte and while the source is away.
    async fn show_stored(&self, open: &OpenRepository) -> Result<(), AgentError> {
        let known = self.source.state().regions;
        let regions = open.repository.regions();
        let same = regions.iter().map(|region| (region.name(), region.id()));
        let listed = self.listed.swap(true, Ordering::Relaxed);
        if listed && known.iter().map(|share| (share.region.as_str(), share.id)).eq(same) {
            // Listing what is stored is not for every try at a source that is away.
            return Ok(());
        }
        let keys = StreamKeys::of(&open.repository, self.source.uid);
        let mut shares = Vec::new();
        for region in regions {
            let mut share = RegionShare { region: region.name().to_owned(), id: region.id(), ..RegionShare::default() };
            let before = known.iter().find(|known| known.region == share.region);
            if let Some(id) = region.id() {
                match StreamView::load_region(&open.set, &keys, id).await {
                    Ok(view) => {
                        let intervals = view.coverage().await.unwrap_or_default();
                        if let Some(last) = intervals.last() {
                            let end = LogPosition::new(last.branch, last.end);
                            share.held_to = Some(end);
                            share.recoverable =
                                last.clocks.map(|(_, clock)| breakwater_core::Watermark { clock, position: end });
                        }
                    }
                    Err(error) => tracing::debug!(region = region.name(), %error, "stored log not read"),
                }
            }
            if let Some(before) = before.filter(|_| share.recoverable.is_none()) {
                share.recoverable = before.recoverable;
            }
            shares.push(share);
        }
        let now = self.tools.clock.now();
        self.source.change(|state| {
            state.regions = shares;
            if state.observed == Timestamp::default() {
                state.observed = now;
            }
        });
        Ok(())
    }

    /// The position behind the last gap, unless a snapshot begins after it or there was none to lose.
    async fn gap_without_base(
        &self,
        open: &OpenRepository,
        fresh: Option<LogPosition>,
    ) -> Result<Option<LogPosition>, AgentError> {
        let doing = || "looking for the newest snapshot".to_owned();
        let order = open.repository.read_order();
        let list =
            open.repository.snapshots(&order, Some(self.source.uid)).await.map_err(AgentError::repository(doing()))?;
        let newest =
            list.snapshots.iter().filter_map(|snapshot| snapshot.start).max_by_key(|at| (at.branch, at.offset));
        let Some(newest) = newest else { return Ok(None) };
        let after_gap = match fresh {
            Some(to) => Some(to),
            None => {
                let keys = StreamKeys::of(&open.repository, self.source.uid);
                let view = StreamView::load(&open.set, &keys).await.map_err(AgentError::stream(doing()))?;
                view.gaps()
                    .into_iter()
                    .map(|gap| LogPosition::new(gap.branch, gap.end))
                    .max_by_key(|at| (at.branch, at.offset))
            }
        };
        Ok(after_gap.filter(|to| (newest.branch, newest.offset) < (to.branch, to.offset)))
    }
}

/// Why the pump ended.
enum Ended {
    /// Regions and spool stayed full, and the archive is to give way.
    Full,
    Failed(AgentError),
}

impl From<AgentError> for Ended {
    fn from(error: AgentError) -> Self {
        Ended::Failed(error)
    }
}

/// The server has dropped log that it had promised to keep for us.
fn is_lost_promise(error: &EngineError) -> bool {
    error.kind == EngineErrorKind::Conflict && error.what.contains("the log has a gap")
}

/// After a source's promise was given up, a new one is asked for only when its log can be stored.
fn wait_for_regions(open: &OpenRepository) -> Result<(), AgentError> {
    let answering = open.set.statuses().iter().filter(|status| status.reachable == Some(true)).count();
    if answering < open.set.commit() {
        return Err(AgentError::Unavailable(format!(
            "the log was given up, and is asked for again once {} regions answer",
            open.set.commit()
        )));
    }
    Ok(())
}

/// Makes sure that the repository knows the source as this one.
pub(crate) async fn ensure_source(open: &OpenRepository, source: &Source, identity: &str) -> Result<(), AgentError> {
    let assigned = &source.assigned;
    let domain = DomainName::new(&assigned.domain)
        .map_err(|error| AgentError::Invalid(format!("the domain of source `{}`: {error}", assigned.name)))?;
    if domain != *open.repository.domain() {
        return Err(AgentError::Denied(format!(
            "source `{}` is in domain `{domain}`, but the key on this host writes into domain `{}`",
            assigned.name,
            open.repository.domain()
        )));
    }
    let record = SourceRecord {
        uid: source.uid,
        name: assigned.name.clone(),
        engine: assigned.engine.clone(),
        identity: identity.to_owned(),
        domain,
        created: open.repository.now(),
    };
    let writer = open.writer();
    let recording = open.repository.ensure_source(&writer, &record);
    recording.await.map_err(AgentError::repository(format!("recording source `{}`", assigned.name)))
}

fn mark(transaction: breakwater_engine::Transaction) -> TransactionMark {
    TransactionMark {
        kind: match transaction.kind {
            TransactionKind::Commit => MarkKind::Commit,
            TransactionKind::Abort => MarkKind::Abort,
            TransactionKind::RestorePoint => MarkKind::RestorePoint,
        },
        time: transaction.time,
        xid: transaction.xid,
        start: transaction.start,
        end: transaction.end,
        name: transaction.name,
    }
}
