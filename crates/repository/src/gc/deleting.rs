//! Deleting what a round has found: packs of content, packs of structure, then the small objects of sessions that are gone.
//!
//! Invariant: of a session with a tombstone the manifest goes after its packs, and its keys only when no snapshot needs a
//! frame that it sealed and no pack that stays holds one. The tombstone stays, and so does a fence.

use std::collections::BTreeSet;

use breakwater_core::SessionId;

use super::GcReport;
use super::census::{Census, RunState};
use super::everywhere::{Everywhere, Stop};
use super::marking::Marked;
use super::pace::Pace;
use super::sweep::Verdict;
use super::verdicts::VerdictReader;
use crate::format::ObjectName;

/// Packs that are deleted at once.
const AT_ONCE: usize = 32;

impl Everywhere<'_> {
    /// Deletes the packs of which nothing is needed. Content comes first in the list. Answers the sessions of packs that
    /// locks and holds keep.
    pub(super) async fn delete_packs(
        &self,
        verdicts: VerdictReader,
        pace: &mut Pace,
        report: &mut GcReport,
    ) -> Result<BTreeSet<SessionId>, Stop> {
        let mut verdicts = verdicts;
        let mut waits = BTreeSet::new();
        loop {
            let mut some = Vec::new();
            for verdict in verdicts.by_ref().take(AT_ONCE) {
                if let Verdict::Delete(pack) = verdict? {
                    pace.take(1).await;
                    some.push(pack);
                }
            }
            if some.is_empty() {
                return Ok(waits);
            }
            self.go_on()?;
            let releases = some.iter().map(|pack| async move {
                let name = ObjectName::of_pack(self.source, pack.kind, pack.pack);
                Ok::<_, Stop>((pack, self.release(&name).await?))
            });
            for released in futures::future::join_all(releases).await {
                match released? {
                    (pack, None) => report.deleted.add(pack.size),
                    (pack, Some(kept)) => {
                        report.waiting.add(pack.size, kept);
                        waits.insert(pack.pack.session);
                    }
                }
            }
        }
    }

    /// Deletes what else is left of sessions and runs. `kept` are the sessions of which some pack stays, `waits` those of
    /// which one only waits for its lock to end.
    pub(super) async fn delete_records(
        &self,
        census: &Census,
        marked: &Marked,
        (kept, waits): (&BTreeSet<SessionId>, &BTreeSet<SessionId>),
        pace: &mut Pace,
        report: &mut GcReport,
    ) -> Result<(), Stop> {
        self.moved_records(census, kept, pace, report).await?;
        let pinned: BTreeSet<SessionId> = marked.pins.bases.iter().map(|base| base.session).collect();
        for session in census.tombs.keys().filter(|session| !pinned.contains(session) && !waits.contains(session)) {
            let Some(register) = census.registers.get(session) else { continue };
            // A fence is short, stays, and goes on telling the session what became of it.
            let manifests = matches!(self.standing(*session, register).await?, super::census::Standing::Committed(..));
            if manifests {
                let sizes = register.first.iter().chain(&register.second).map(|(_, size)| *size).max().unwrap_or(0);
                for name in [
                    ObjectName::Register(self.source, register.snapshot, *session),
                    ObjectName::Committed(self.source, register.snapshot, *session),
                ] {
                    let held =
                        if matches!(name, ObjectName::Register(..)) { &register.first } else { &register.second };
                    if !held.is_empty() {
                        self.remove(&name, sizes, pace, report).await?;
                    }
                }
            }
        }
        if self.repository.descriptor().voucher.is_some() {
            // Retired by the tombstones, which whoever would lean on them looks for.
            let domain = self.repository.domain_of(self.source).clone();
            for (key, holders) in self.names(&ObjectName::verified_prefix(&domain)).await?.objects {
                let size = holders.regions.first().map_or(0, |(_, size)| *size);
                match ObjectName::parse(&key) {
                    Some(name @ ObjectName::Verified { source, session, .. })
                        if source == self.source
                            && census.tombs.contains_key(&session)
                            && !pinned.contains(&session) =>
                    {
                        self.remove(&name, size, pace, report).await?;
                    }
                    _ => {}
                }
            }
        }
        // In a pack that was moved a frame that nobody needs may lie beside others; who checks the pack opens it too.
        let sealed = marked.origins.iter().filter(|(run, _)| kept.contains(run)).flat_map(|(_, origins)| origins);
        let sealed: BTreeSet<&SessionId> = sealed.collect();
        let stays = |session: &SessionId| {
            !census.tombs.contains_key(session)
                || sealed.contains(session)
                // What lies in the packs of such a run is not known.
                || !marked.unclear.is_empty()
                || kept.contains(session)
                || marked.sessions.contains(session)
                || pinned.contains(session)
        };
        let streams = self.stream_sessions().await?;
        for (key, holders) in self.names(&ObjectName::meta_prefix(self.source, "keys")).await?.objects {
            let size = holders.regions.first().map_or(0, |(_, size)| *size);
            match ObjectName::parse(&key) {
                Some(name @ (ObjectName::SessionKeys(_, session) | ObjectName::ResealedKeys(_, session, _)))
                    if !stays(&session) && !streams.contains(&session) =>
                {
                    self.remove(&name, size, pace, report).await?;
                }
                _ => {}
            }
        }
        let settled: BTreeSet<SessionId> = marked.settled.iter().copied().collect();
        for (key, holders) in self.names(&ObjectName::meta_prefix(self.source, "open")).await?.objects {
            let size = holders.regions.first().map_or(0, |(_, size)| *size);
            match ObjectName::parse(&key) {
                // Only what was there when this round began: a record that is newer says something.
                Some(name @ ObjectName::Open(_, session))
                    if census.opens.contains(&session) && (settled.contains(&session) || !stays(&session)) =>
                {
                    self.remove(&name, size, pace, report).await?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Records that lead to nothing any more, and the plans of runs that are decided.
    async fn moved_records(
        &self,
        census: &Census,
        kept: &BTreeSet<SessionId>,
        pace: &mut Pace,
        report: &mut GcReport,
    ) -> Result<(), Stop> {
        for (key, holders) in self.names(&ObjectName::meta_prefix(self.source, "moved")).await?.objects {
            let size = holders.regions.first().map_or(0, |(_, size)| *size);
            let Some(name @ ObjectName::Moved { mover, .. }) = ObjectName::parse(&key) else { continue };
            let gone = match census.runs.get(&mover) {
                Some(RunState::Killed) => true,
                Some(RunState::Counts) => !kept.contains(&mover),
                Some(RunState::Open) | None => false,
            };
            if gone {
                self.remove(&name, size, pace, report).await?;
            }
        }
        for (key, holders) in self.names(&ObjectName::meta_prefix(self.source, "gc")).await?.objects {
            let size = holders.regions.first().map_or(0, |(_, size)| *size);
            match ObjectName::parse(&key) {
                Some(name @ ObjectName::GcPlan(_, run)) if census.runs.contains_key(&run) => {
                    self.remove(&name, size, pace, report).await?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Sessions that write or wrote the source's log.
    async fn stream_sessions(&self) -> Result<BTreeSet<SessionId>, Stop> {
        let names = self.names(&ObjectName::meta_prefix(self.source, "stream")).await?;
        let session = |key: &String| match ObjectName::parse(key) {
            Some(ObjectName::StreamClaim(_, _, session)) => Some(session),
            _ => None,
        };
        Ok(names.objects.keys().filter_map(session).collect())
    }

    async fn remove(&self, name: &ObjectName, size: u64, pace: &mut Pace, report: &mut GcReport) -> Result<(), Stop> {
        self.go_on()?;
        pace.take(1).await;
        match self.release(name).await? {
            None => report.records.add(size),
            Some(kept) => report.waiting.add(size, kept),
        }
        Ok(())
    }
}
