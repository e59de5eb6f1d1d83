//! Writing a stream: what the source sends goes in, cut pieces go out, and what the source may forget comes back.
//!
//! Invariant: one writer is one claim (or two, see [`Begun`]); it writes under its own name only, so an older one that
//! comes back to life can spoil nothing.

use std::sync::Arc;
use std::time::Duration;

use breakwater_core::{Clock, Entropy, Generation, LogPosition, RegionId, SourceUid, Timestamp, Watermark};
use bytes::Bytes;

use super::StreamError;
use super::claim::{Session, Surroundings};
use super::cut::{Cut, Cutter};
use super::history::BranchHistory;
use super::keys::StreamKeys;
use super::ledger::Ledger;
use super::options::StreamOptions;
use super::path::superseded;
use super::piece::{Draft, describe};
use super::resume::ResumePoint;
use super::spool::Spool;
use super::status::{Begun, RegionPoint, SpoolState, StreamStatus};
use super::upload::{Body, Entry, Job, Uploads, empty_spool};
use super::verify::Verifier;
use super::view::StreamView;
use crate::Repository;
use crate::format::log::{Continues, TransactionMark};
use crate::format::names::{IdleMark, LogRange};
use crate::format::{ObjectName, PackId};
use crate::regions::{RegionError, RegionSet, Role};

/// How long receiving may stand still for a new session; it is tried again later.
const ROLL_PATIENCE: Duration = Duration::from_secs(5);

/// Writes the stream of one source. Dropping it stops the uploads; what was not released is sent again by the source.
#[derive(Debug)]
pub struct StreamWriter {
    around: Surroundings,
    options: StreamOptions,
    spool: Option<Arc<Spool>>,
    resume: ResumePoint,
    live: Option<Live>,
}

/// A writer that has claimed.
#[derive(Debug)]
struct Live {
    generation: Generation,
    session: Session,
    session_began: Timestamp,
    next_pack: u32,
    cutter: Cutter,
    verifier: Verifier,
    uploads: Uploads,
    /// When the first byte came that no object holds.
    pending_since: Option<Timestamp>,
    /// When the last object with a watermark was cut.
    marked_at: Timestamp,
    /// Idle marks that the next mark or piece makes needless.
    idle: Vec<String>,
    roll_failed_at: Option<Timestamp>,
}

impl StreamWriter {
    /// Empties the spool, and finds out where the stream of `source` goes on. Claims nothing yet.
    pub async fn open(
        repository: &Repository,
        regions: &RegionSet,
        source: SourceUid,
        options: StreamOptions,
    ) -> Result<StreamWriter, StreamError> {
        let mut facts = match &options.facts {
            serde_json::Value::Object(map) => map.clone(),
            _ => serde_json::Map::new(),
        };
        facts.insert("segment_size".to_owned(), options.segment_size.into());
        let clock: Arc<dyn Clock> = Arc::clone(repository.clock());
        let entropy: Arc<dyn Entropy> = Arc::clone(repository.entropy());
        let around = Surroundings {
            regions: regions.clone(),
            keys: StreamKeys::of(repository, source),
            repository: repository.clone(),
            facts: serde_json::Value::Object(facts),
            clock,
            entropy,
            patience: options.patience,
        };
        let spool = match options.spool.clone() {
            None => None,
            Some(spool) => {
                let opened = tokio::task::spawn_blocking(move || Spool::open(spool));
                Some(Arc::new(opened.await.map_err(|_| StreamError::Stopped)??))
            }
        };
        if let Some(spool) = &spool {
            empty_spool(&around, spool, options.patience).await?;
        }
        let view = StreamView::load(regions, &around.keys).await?;
        around.owe_records().await?;
        for (segment, tails) in superseded(&view.pieces) {
            // A region that lacks the segment keeps its tails until it has it.
            for piece in view.pieces.iter().filter(|piece| piece.name == segment) {
                for handle in regions.handles().filter(|handle| !piece.regions.contains(&handle.id)) {
                    regions.owe(handle.id, &segment, piece.size);
                }
            }
            regions.supersede(&segment, &tails.into_iter().collect::<Vec<_>>());
        }
        let resume = ResumePoint::of(&view.before_idle_claims(&[]), options.segment_size).await?;
        Ok(StreamWriter { around, options, spool, resume, live: None })
    }

    /// Where to ask the source to start.
    pub fn resume(&self) -> &ResumePoint {
        &self.resume
    }

    /// Claims the stream; `start` is where the source's first byte will come from, a segment boundary.
    pub async fn begin(&mut self, start: LogPosition) -> Result<Begun, StreamError> {
        if !start.offset.is_multiple_of(self.options.segment_size) {
            return Err(StreamError::Unaligned(start));
        }
        let view = StreamView::load(&self.around.regions, &self.around.keys).await?;
        let next = view.newest_claim().map_or(1, |claim| claim.generation.0.saturating_add(1));
        let point = self.resume.clone();
        let resumes = point.start.is_some_and(|from| from.branch == start.branch && start <= from);
        if !resumes && point.held_until.is_some() && !point.silent.is_empty() && !self.options.begin_without_silent {
            let silent = point.silent.iter().map(|failure| failure.region.clone()).collect();
            return Err(StreamError::Unsure { start, silent });
        }
        let session = self.around.new_session().await?;
        let older = point.held_until.zip(point.continues);
        let continues = older.map(|(position, (generation, session))| Continues {
            generation,
            session,
            position,
            chain: point.chain,
        });
        let mut claim = self.around.claim(Generation(next), &session, continues).await?;
        let mut mine = vec![(claim.generation, session.id)];
        if !resumes {
            // Nothing to go on from: a second claim says where the log begins now.
            let here =
                Continues { generation: claim.generation, session: session.id, position: start, chain: point.chain };
            claim = self.around.claim(Generation(next.saturating_add(1)), &session, Some(here)).await?;
            mine.push((claim.generation, session.id));
        }
        let since = older.map(|(_, writer)| writer);
        self.around.take_over((claim.generation, session.id), since, &mine).await?;
        // The writer before may have stored more until it saw the claim.
        let view = StreamView::load(&self.around.regions, &self.around.keys).await?.before_idle_claims(&mine);
        let now = ResumePoint::of(&view, self.options.segment_size).await?;
        if (now.start, now.held_until) != (point.start, point.held_until) {
            return Err(StreamError::Moved);
        }

        let mut cutter = Cutter::new(self.options.segment_size, start, point.chain_at_start);
        let (origin, verifier) = match (point.start, point.held_until) {
            (Some(from), Some(held)) if resumes => {
                cutter = Cutter::new(self.options.segment_size, from, point.chain_at_start);
                cutter.resume(held.offset, point.chain, point.tails.clone());
                (point.unbroken_from.unwrap_or(held), Verifier::new(&point.expected))
            }
            _ => {
                if point.held_until.is_some() {
                    cutter = Cutter::new(self.options.segment_size, start, point.chain);
                }
                (start, Verifier::default())
            }
        };
        let ledger = self.ledger(origin, &point, resumes);
        let uploads = Uploads::new(
            self.around.clone(),
            ledger,
            self.spool.clone(),
            self.options.segments_in_flight,
            self.options.tails_in_flight,
            (claim.generation, session.id),
        );
        let now = self.around.clock.now();
        self.live = Some(Live {
            generation: claim.generation,
            session,
            session_began: now,
            next_pack: 0,
            cutter,
            verifier,
            uploads,
            pending_since: None,
            marked_at: now,
            idle: point.idle.clone(),
            roll_failed_at: None,
        });
        let gap = if resumes { None } else { point.held_until.map(|held| (held, start)) };
        Ok(Begun { generation: claim.generation, gap })
    }

    /// What is held already, by region.
    fn ledger(&self, origin: LogPosition, point: &ResumePoint, resumes: bool) -> Ledger {
        let regions = &self.around.regions;
        let ids = regions.handles().map(|handle| handle.id).collect::<Vec<_>>();
        let counted = regions.handles().map(|handle| (handle.id, handle.role == Role::Sync));
        let mut ledger = Ledger::new(origin, counted, regions.commit());
        if !resumes {
            return ledger;
        }
        for piece in &point.held {
            for id in ids.iter().filter(|id| !piece.holders.contains(id)) {
                self.around.regions.owe(*id, &piece.name, piece.size);
            }
            ledger.stored(&piece.name, piece.range, &piece.watermarks, &piece.holders);
        }
        ledger
    }

    fn live(&mut self) -> Result<&mut Live, StreamError> {
        let live = self.live.as_mut().ok_or(StreamError::NotBegun)?;
        live.uploads.shared.check()?;
        Ok(live)
    }

    /// Takes bytes of the log and the index entries of records that end within them. Waits while too much is under way.
    pub async fn append(
        &mut self,
        start: LogPosition,
        mut bytes: Bytes,
        marks: Vec<TransactionMark>,
    ) -> Result<(), StreamError> {
        let live = self.live()?;
        let expected = live.cutter.position();
        let mut start = start;
        if start.branch == expected.branch && start.offset < expected.offset && live.cutter.boundary().0 == expected {
            // The source began before the segment that we need.
            let skip = usize::try_from(expected.offset - start.offset).unwrap_or(usize::MAX).min(bytes.len());
            bytes = bytes.slice(skip..);
            start.offset += skip as u64;
            if bytes.is_empty() {
                return Ok(());
            }
        }
        if start != expected {
            return Err(StreamError::Jump { expected, got: start });
        }
        live.verifier.feed(start.branch, start.offset, &bytes)?;
        let now = self.around.clock.now();
        let mut marks = marks.into_iter().filter(|mark| mark.end > start.offset).peekable();
        while !bytes.is_empty() {
            let live = self.live()?;
            let take = usize::try_from(live.cutter.room()).unwrap_or(usize::MAX).min(bytes.len());
            live.cutter.push(bytes.split_to(take));
            let end = live.cutter.position().offset;
            while let Some(mark) = marks.next_if(|mark| mark.end <= end) {
                live.cutter.mark(mark);
            }
            if live.cutter.pending_bytes() > 0 && live.pending_since.is_none() {
                live.pending_since = Some(now);
            }
            if self.live()?.cutter.room() == 0 {
                self.cut_segment().await?;
                self.roll().await?;
            }
        }
        Ok(())
    }

    /// Takes an index entry whose record ends within what was received last.
    pub fn index(&mut self, mark: TransactionMark) -> Result<(), StreamError> {
        self.live()?.cutter.mark(mark);
        Ok(())
    }

    /// Takes an observation of the source.
    pub fn watermark(&mut self, watermark: Watermark) -> Result<(), StreamError> {
        self.live()?.cutter.watermark(watermark);
        Ok(())
    }

    /// The branch ended at `at` and goes on as `next`: stores the history first, then the last, short segment.
    pub async fn end_of_branch(&mut self, at: LogPosition, next: u32, history: &[u8]) -> Result<(), StreamError> {
        let expected = self.live()?.cutter.position();
        if at != expected {
            return Err(StreamError::Jump { expected, got: at });
        }
        let record = BranchHistory { branch: next, parent: at.branch, offset: at.offset, text: history.to_vec() };
        self.store_history(&record).await?;
        self.cut_segment().await?;
        let live = self.live()?;
        live.verifier.branch_ended();
        let start = live.cutter.fork(next);
        live.uploads.shared.ledger().fork(at.offset, next, start.offset);
        Ok(())
    }

    async fn store_history(&mut self, record: &BranchHistory) -> Result<(), StreamError> {
        let (keys, regions) = (self.around.keys.clone(), self.around.regions.clone());
        let name = record.name(&keys).to_string();
        let payload = record.seal(&keys, &*self.around.entropy)?;
        let stored = regions.create(&name, payload.clone(), self.options.patience).await;
        match stored {
            Ok(_) => Ok(()),
            Err(RegionError::Conflict { .. }) => {
                // Another writer saw the same fork; its record is sealed with another salt.
                let bytes = regions.get(&name).await?;
                let known = BranchHistory::open(&keys, record.branch, &bytes)?;
                if known == *record { Ok(()) } else { Err(StreamError::HistoryDiverged { branch: record.branch }) }
            }
            Err(error) if self.spool.is_some() => {
                tracing::warn!(object = %name, error = %error, "history waits in the spool");
                let entry = Entry { name, range: None, watermarks: Vec::new(), supersedes: Vec::new(), segment: false };
                self.live()?.uploads.submit(Job { body: Body::Sealed(payload), entry }).await
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Cuts what is due at `now`: a tail, or the watermark of an idle source. To be called several times a second.
    pub async fn tick(&mut self, now: Timestamp) -> Result<(), StreamError> {
        let (interval, idle_interval) = (micros(self.options.interval), micros(self.options.idle_interval));
        let live = self.live()?;
        live.uploads.shared.poll_regions();
        let due = live.pending_since.is_some_and(|since| now.micros_since(since) >= interval);
        let idle = live.cutter.pending_bytes() == 0 && now.micros_since(live.marked_at) >= idle_interval;
        if due && live.uploads.takes_tails() {
            self.cut_tail().await?;
        } else if idle && live.uploads.takes_tails() {
            self.cut_idle(now).await?;
        }
        Ok(())
    }

    async fn cut_segment(&mut self) -> Result<(), StreamError> {
        let (source, now) = (self.around.keys.source, self.around.clock.now());
        let live = self.live()?;
        live.pending_since = None;
        let Some(mut cut) = live.cutter.cut_segment() else { return Ok(()) };
        if !cut.watermarks.is_empty() {
            cut.covers.append(&mut live.idle);
            live.marked_at = now;
        }
        let live = self.live()?;
        let name = ObjectName::Segment(source, live.generation, live.session.id, cut.footer.range());
        live.submit(name, cut, true).await
    }

    async fn cut_tail(&mut self) -> Result<(), StreamError> {
        let (source, now) = (self.around.keys.source, self.around.clock.now());
        let live = self.live()?;
        live.pending_since = None;
        let (generation, session) = (live.generation, live.session.id);
        let name = |range| ObjectName::Tail(source, generation, session, range);
        let Some(mut cut) = live.cutter.cut_tail(|range| name(range).to_string()) else { return Ok(()) };
        if !cut.watermarks.is_empty() {
            cut.covers.append(&mut live.idle);
            live.marked_at = now;
        }
        let name = name(cut.footer.range());
        self.live()?.submit(name, cut, false).await
    }

    async fn cut_idle(&mut self, now: Timestamp) -> Result<(), StreamError> {
        let source = self.around.keys.source;
        let live = self.live()?;
        let Some(watermark) = live.cutter.newest_watermark() else { return Ok(()) };
        live.marked_at = now;
        live.cutter.carried(watermark.clock);
        let (branch, offset) = (watermark.position.branch, watermark.position.offset);
        let clock = u64::try_from(watermark.clock.as_micros()).unwrap_or(0);
        let mark = IdleMark { branch, offset, clock };
        let name = ObjectName::IdleTail(source, live.generation, live.session.id, mark);
        let range = LogRange { branch, start: offset, end: offset };
        let digest = breakwater_crypto::sha256(&[]);
        let footer = describe(range, digest, [0; 32], &[(watermark.clock, offset)], &[]);
        let covers = std::mem::replace(&mut live.idle, vec![name.to_string()]);
        let cut = Cut { bytes: Vec::new(), marks: Vec::new(), footer, watermarks: vec![watermark], covers };
        live.submit(name, cut, false).await
    }

    /// Takes a new session, under a new generation, when the present one is old. At a segment boundary only.
    async fn roll(&mut self) -> Result<(), StreamError> {
        let now = self.around.clock.now();
        let age = micros(self.options.session_age);
        let around = self.around.clone();
        let live = self.live()?;
        let tried = live.roll_failed_at.is_some_and(|at| now.micros_since(at) < 60_000_000);
        if now.micros_since(live.session_began) < age || tried {
            return Ok(());
        }
        let (position, chain) = live.cutter.boundary();
        // The claim says that everything before is stored, so it must be.
        if !live.uploads.released_to(position, ROLL_PATIENCE).await {
            live.uploads.shared.check()?;
            live.roll_failed_at = Some(now);
            return Ok(());
        }
        let (generation, session) = (live.generation, live.session.id);
        around.check_fence((generation, session)).await?;
        let fresh = match around.new_session().await {
            Ok(fresh) => fresh,
            Err(error) => {
                // The old session goes on; an outage is no time to stop receiving.
                tracing::warn!(error = %breakwater_core::Chain(&error), "no new session for the stream yet");
                live.roll_failed_at = Some(now);
                return Ok(());
            }
        };
        let next = Generation(generation.0.saturating_add(1));
        let shared = Arc::clone(&live.uploads.shared);
        // Known before it is visible, so that no task takes it for a stranger's.
        shared.set_writer(next, fresh.id);
        let continues = Continues { generation, session, position, chain };
        let claimed = around.claim(next, &fresh, Some(continues)).await;
        let checked = match claimed {
            Ok(_) => around.take_over((next, fresh.id), Some((generation, session)), &[(generation, session)]).await,
            Err(error) => Err(error),
        };
        if let Err(error) = checked {
            // The claim may lie in some region all the same, and would cut off what this session writes from here on.
            shared.stop();
            return Err(error);
        }
        live.generation = next;
        live.session = fresh;
        live.session_began = now;
        live.next_pack = 0;
        live.roll_failed_at = None;
        Ok(())
    }

    /// What the source may forget: durable in enough regions or fsynced in the spool, without a gap.
    pub fn released(&self) -> Option<LogPosition> {
        self.live.as_ref()?.uploads.shared.ledger().released_to()
    }

    /// What enough regions hold, without a gap.
    pub fn durable(&self) -> Option<LogPosition> {
        self.live.as_ref()?.uploads.shared.ledger().durable_to()
    }

    /// The newest moment that one region can be restored to by itself.
    pub fn recoverable(&self, region: RegionId) -> Option<Watermark> {
        self.live.as_ref()?.uploads.shared.ledger().recoverable(region)
    }

    /// The stream at this moment.
    pub fn status(&self) -> StreamStatus {
        let ids = self.around.regions.handles().map(|handle| handle.id);
        let Some(live) = &self.live else {
            let unknown = |region| RegionPoint { region, recoverable: None, held_to: None, pending_bytes: 0 };
            let regions = ids.map(unknown).collect();
            let proven = Vec::new();
            return StreamStatus { received: None, released: None, durable: None, proven, regions, spool: None };
        };
        let shared = &live.uploads.shared;
        shared.poll_regions();
        let received = live.cutter.position();
        let ledger = shared.ledger();
        let point = |region| {
            let held_to = ledger.held_to(region);
            let pending = held_to.map_or(0, |held| received.offset.saturating_sub(held.offset));
            RegionPoint { region, recoverable: ledger.recoverable(region), held_to, pending_bytes: pending }
        };
        let spool = shared.spool().map(|spool| {
            let (objects, bytes) = spool.usage();
            SpoolState { objects, bytes, full: shared.is_spool_full() }
        });
        StreamStatus {
            received: Some(received),
            released: ledger.released_to(),
            durable: ledger.durable_to(),
            proven: ledger.proven(),
            regions: ids.map(point).collect(),
            spool,
        }
    }

    /// Cuts what is pending and waits until everything is durable; false when `within` has passed before.
    pub async fn flush(&mut self, within: Duration) -> Result<bool, StreamError> {
        self.cut_tail().await?;
        let live = self.live()?;
        let received = live.cutter.position();
        let limit = tokio::time::Instant::now() + within;
        let settled = live.uploads.settled(within).await;
        let shared = &live.uploads.shared;
        shared.check()?;
        loop {
            shared.poll_regions();
            // What an earlier writer stored in too few regions is still being copied.
            if !settled || shared.ledger().durable_to().is_some_and(|durable| durable >= received) {
                return Ok(settled);
            }
            if tokio::time::Instant::now() >= limit {
                return Ok(false);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Live {
    async fn submit(&mut self, name: ObjectName, cut: Cut, segment: bool) -> Result<(), StreamError> {
        let pack = PackId { session: self.session.id, number: self.next_pack };
        self.next_pack += 1;
        let range = cut.footer.range();
        let entry = Entry {
            name: name.to_string(),
            range: (range.start < range.end).then_some(range),
            watermarks: cut.watermarks,
            supersedes: cut.covers,
            segment,
        };
        let draft = Draft { name, pack, bytes: cut.bytes, marks: cut.marks, footer: cut.footer };
        let body = Body::Draft(Box::new(draft), self.session.clone());
        self.uploads.submit(Job { body, entry }).await
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
