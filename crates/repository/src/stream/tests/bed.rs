//! A repository in switchable places, and a source that is a byte vector.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use breakwater_core::{Clock, LogPosition, SourceUid, Timestamp, Watermark};
use breakwater_runtime::SystemEntropy;
use bytes::Bytes;

use crate::format::log::{MarkKind, TransactionMark};
use crate::format::names::LogRange;
use crate::regions::tests::lab::{Place, patient};
use crate::regions::{RegionSet, Role};
use crate::stream::{
    LogPlan, LogReader, LogTarget, PlanBase, PlanError, StreamError, StreamKeys, StreamOptions, StreamView,
    StreamWriter,
};
use crate::{CreateOptions, Repository};

pub(super) const SOURCE: SourceUid = SourceUid::from_bytes([0x5A; 16]);
pub(super) const SEGMENT: u64 = 64;
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// A clock that moves when it is told to.
#[derive(Debug, Default)]
pub(super) struct HandClock(AtomicI64);

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

#[derive(Debug)]
pub(super) struct Bed {
    pub(super) places: Vec<Arc<Place>>,
    pub(super) repository: Repository,
    pub(super) set: RegionSet,
    pub(super) clock: Arc<HandClock>,
    commit: usize,
}

impl Bed {
    pub(super) async fn new(regions: usize, commit: usize) -> Bed {
        let places = (0..regions).map(|_| Place::new()).collect::<Vec<_>>();
        let spots = places
            .iter()
            .enumerate()
            .map(|(number, place)| crate::Place::new(&format!("r{number}"), Role::Sync, patient(place)));
        let clock = Arc::new(HandClock(AtomicI64::new(1_000_000_000)));
        let options = CreateOptions::default();
        let created =
            Repository::create(spots.collect(), options, Arc::clone(&clock) as Arc<dyn Clock>, Arc::new(SystemEntropy));
        let repository = created.await.unwrap().repository;
        let set = RegionSet::new(repository.handles(), commit).unwrap();
        Bed { places, repository, set, clock, commit }
    }

    /// Another process: all that was in memory is gone.
    pub(super) fn restart(&mut self) {
        self.set = RegionSet::new(self.repository.handles(), self.commit).unwrap();
    }

    /// The same with another number of copies asked for.
    pub(super) fn restart_with(&mut self, commit: usize) {
        self.commit = commit;
        self.restart();
    }

    pub(super) fn advance(&self, millis: i64) {
        self.clock.0.fetch_add(millis * 1000, Ordering::SeqCst);
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(super) fn keys(&self) -> StreamKeys {
        StreamKeys::of(&self.repository, SOURCE)
    }

    pub(super) fn options() -> StreamOptions {
        StreamOptions::new(SEGMENT)
    }

    pub(super) async fn open(&self, options: StreamOptions) -> StreamWriter {
        StreamWriter::open(&self.repository, &self.set, SOURCE, options).await.unwrap()
    }

    /// Opens and begins where it must, at 0 when nothing is stored.
    pub(super) async fn begin(&self, options: StreamOptions) -> StreamWriter {
        let mut writer = self.open(options).await;
        let start = writer.resume().start.unwrap_or(LogPosition::new(1, 0));
        writer.begin(start).await.unwrap();
        writer
    }

    pub(super) async fn tick(&self, writer: &mut StreamWriter, millis: i64) -> Result<(), StreamError> {
        self.advance(millis);
        writer.tick(self.now()).await
    }

    pub(super) async fn view(&self) -> StreamView {
        StreamView::load(&self.set, &self.keys()).await.unwrap()
    }

    pub(super) async fn plan(&self, start: u64, target: LogTarget) -> Result<LogPlan, PlanError> {
        let at = LogPosition::new(1, start);
        self.plan_from(PlanBase { start: at, end: at, consistent_at: Timestamp(0) }, target).await
    }

    pub(super) async fn plan_from(&self, base: PlanBase, target: LogTarget) -> Result<LogPlan, PlanError> {
        let keys = self.keys();
        let secrets = keys.secrets(&self.repository, &self.set).unwrap();
        StreamView::plan_now(&self.set, &keys, &base, &target, Some(&*secrets)).await
    }

    pub(super) fn reader(&self, plan: LogPlan) -> LogReader {
        let keys = self.keys();
        let secrets = keys.secrets(&self.repository, &self.set).unwrap();
        LogReader::new(&self.set, &keys, secrets, plan)
    }

    /// Everything stored of branch 1 from 0 on.
    pub(super) async fn read_all(&self) -> Vec<u8> {
        let plan = self.plan(0, LogTarget::Latest).await.unwrap();
        let (end, leg) = (plan.end, plan.ranges[0].range);
        assert_eq!((leg.start, end.branch), (0, 1));
        self.reader(plan).read(LogRange { branch: 1, start: 0, end: end.offset }).await.unwrap()
    }

    pub(super) async fn drained(&self) {
        assert!(self.set.drained(Duration::from_secs(900)).await, "{:#?}", self.set.statuses());
    }

    /// Polls until `condition` holds.
    pub(super) async fn wait(&self, what: &str, mut condition: impl FnMut() -> bool) {
        for _ in 0..60_000 {
            if condition() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("in vain: {what}: {:#?}", self.set.statuses());
    }
}

/// The log of the source: the byte at an offset.
pub(super) fn log_bytes(start: u64, end: u64) -> Bytes {
    (start..end).map(|offset| u8::try_from((offset * 31 + offset / 256) % 251).unwrap()).collect::<Vec<_>>().into()
}

pub(super) async fn feed(writer: &mut StreamWriter, start: u64, end: u64) -> Result<(), StreamError> {
    writer.append(LogPosition::new(1, start), log_bytes(start, end), Vec::new()).await
}

pub(super) fn watermark(clock: Timestamp, offset: u64) -> Watermark {
    Watermark { clock, position: LogPosition::new(1, offset) }
}

pub(super) fn commit(xid: u64, clock: i64, start: u64, end: u64) -> TransactionMark {
    TransactionMark { kind: MarkKind::Commit, time: Timestamp(clock), xid, start, end, name: None }
}
