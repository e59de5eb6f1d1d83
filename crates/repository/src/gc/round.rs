//! One round over one source.

use std::collections::BTreeSet;
use std::path::Path;

use breakwater_core::{SessionId, SourceUid};
use breakwater_storage::Payload;
use tokio::sync::mpsc;

use super::census::{Census, RunState};
use super::everywhere::{Everywhere, Stop};
use super::listing::Unknown;
use super::live::LivePacks;
use super::marking::Marked;
use super::pace::Pace;
use super::sweep::{Fate, Swept, Verdict, sweep};
use super::verdicts::{VerdictWriter, Verdicts};
use super::{GcOptions, GcOutcome, GcReport};
use crate::error::RepositoryError;
use crate::format::ObjectName;
use crate::format::gc_plan::GcPlan;
use crate::format::record::RecordKind;
use crate::format::references::Union;
use crate::repository::Repository;

/// Packs that the listing may be ahead.
const AHEAD: usize = 1024;

/// Runs a round.
pub(super) async fn run(
    repository: &Repository,
    source: SourceUid,
    options: &GcOptions,
) -> Result<GcReport, RepositoryError> {
    if options.repack_below > 100 {
        return Err(RepositoryError::Invalid(format!(
            "packs are moved when less than so many percent of them are needed, so at most 100, not {}",
            options.repack_below
        )));
    }
    if !options.dry_run {
        repository.check_deletable()?;
    }
    let mut report = GcReport::new(source, options.dry_run);
    let all = Everywhere { repository, source, cancel: &options.cancel };
    report.outcome = match all.round(options, &mut report).await {
        Ok(()) => GcOutcome::Done,
        Err(Stop::Away(causes)) => GcOutcome::Away(causes),
        Err(Stop::Cancelled) => GcOutcome::Cancelled,
        Err(Stop::Overtaken) => GcOutcome::Overtaken,
        Err(Stop::Failed(error)) => return Err(error),
    };
    Ok(report)
}

impl Everywhere<'_> {
    async fn round(&self, options: &GcOptions, report: &mut GcReport) -> Result<(), Stop> {
        self.confirm().await?;
        let directory = options.scratch.clone().unwrap_or_else(std::env::temp_dir);
        if !options.dry_run {
            report.fenced = self.condemn(options).await?;
        }
        let census = self.census(options.dry_run).await?;
        let marked = self.mark(&census, &directory).await?;
        report.tombstones = census.tombs.len() as u64;
        report.snapshots = marked.snapshots;
        report.leaners.clone_from(&marked.leaners);
        report.pins.clone_from(&marked.pins.pins);
        self.go_on()?;
        let (swept, verdicts, unknown) = self.sweep(&census, &marked, options.repack_below, &directory).await?;
        (report.packs, report.strays) = (swept.packs, swept.strays);
        (report.unknown, report.unknown_names) = (unknown.figure, unknown.names);
        if options.dry_run {
            (report.deleted, report.repacked) = (swept.delete, swept.repack);
            report.moved.bytes = swept.moved_bytes;
            return Ok(());
        }
        let mut deletes = Pace::new(options.deletes_per_second);
        let mut kept: BTreeSet<SessionId> =
            swept.kept.iter().chain(&marked.unclear).chain(&marked.pins.sessions).copied().collect();
        let mut waits = BTreeSet::new();
        if swept.delete.objects > 0 {
            let plan = self.plan(self.repository.new_session(), &swept).await?;
            waits = self.delete_packs(verdicts.deletes, &mut deletes, report).await?;
            kept.extend(&waits);
            self.delete(&plan).await?;
        }
        let moving = super::repack::Moving::new(self, options, report);
        moving.all(verdicts.repacks, &swept, &mut kept, &mut deletes).await?;
        self.delete_records(&census, &marked, (&kept, &waits), &mut deletes, report).await
    }

    /// Writes down what the run is about to do; answers under which name.
    pub(super) async fn plan(&self, run: SessionId, swept: &Swept) -> Result<ObjectName, Stop> {
        let name = ObjectName::GcPlan(self.source, run);
        let bytes = self.repository.seal_record(self.source, RecordKind::GcPlan, &name, &self.plan_of(run, swept))?;
        self.create_own(&name, &Payload::from(bytes)).await?;
        Ok(name)
    }

    pub(super) fn plan_of(&self, run: SessionId, swept: &Swept) -> GcPlan {
        GcPlan {
            run,
            source: self.source,
            at: self.repository.now(),
            delete_packs: swept.delete.objects,
            delete_bytes: swept.delete.bytes,
            repack_packs: swept.repack.objects,
            repack_bytes: swept.repack.bytes,
        }
    }

    pub(super) async fn sweep(
        &self,
        census: &Census,
        marked: &Marked,
        repack_below: u8,
        directory: &Path,
    ) -> Result<(Swept, Verdicts, Unknown), Stop> {
        let (send, mut receive) = mpsc::channel(AHEAD);
        let fates = Fates::new(census, marked);
        let live = [LivePacks::of(&marked.live), LivePacks::of(&marked.moved)];
        let mut writer = VerdictWriter::new(directory)?;
        let work = tokio::task::spawn_blocking(move || {
            let packs = std::iter::from_fn(|| receive.blocking_recv().map(Ok));
            let fate = |session| fates.of(session);
            let swept = sweep::<std::io::Error>(packs, Union::new(live), fate, repack_below, |verdict: Verdict| {
                writer.push(&verdict)
            })?;
            Ok::<_, std::io::Error>((swept, writer.finish()?))
        });
        let listed = self.list_packs(send).await;
        let (swept, verdicts) = work.await.map_err(|error| Stop::from(std::io::Error::other(error)))??;
        Ok((swept, verdicts, listed?))
    }
}

/// What is known of sessions when their packs are looked at.
#[derive(Debug)]
struct Fates {
    judged: BTreeSet<SessionId>,
    doomed: BTreeSet<SessionId>,
    known: BTreeSet<SessionId>,
}

impl Fates {
    fn new(census: &Census, marked: &Marked) -> Fates {
        let stays = |session: &SessionId| marked.pins.sessions.contains(session) || marked.unclear.contains(session);
        let runs =
            |wanted: RunState| census.runs.iter().filter(move |(_, state)| **state == wanted).map(|(run, _)| *run);
        let judged = census.tombs.keys().copied().chain(runs(RunState::Counts)).filter(|one| !stays(one));
        let known = census.opens.iter().chain(census.registers.keys()).chain(census.runs.keys());
        let known = known.chain(census.tombs.keys()).chain(&marked.pins.sessions).copied();
        Fates { judged: judged.collect(), doomed: runs(RunState::Killed).collect(), known: known.collect() }
    }

    fn of(&self, session: SessionId) -> Fate {
        if self.judged.contains(&session) {
            Fate::Judged
        } else if self.doomed.contains(&session) {
            Fate::Doomed
        } else if self.known.contains(&session) {
            Fate::Stays
        } else {
            Fate::Stray
        }
    }
}
